"""A man in the middle of an enrolment, who shows the genuine authority with his own beside it, gets no host.

The installers are walked as far as no service manager is needed: that of Linux by its own functions, that of Windows by
its syntax tree, both with the real enrolment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from impostor import Impostor
from powershell import Walk
from tls_site import Site
from windows_pc import Pc

CODE = "the-one-time-code"
SHOWN: dict[str, Callable[[str, str], str]] = {
    "his own behind it": lambda genuine, own: genuine + own,
    "his own before it": lambda genuine, own: own + genuine,
    "his own behind it as a TRUSTED CERTIFICATE": lambda genuine, own: (
        genuine + own.replace("CERTIFICATE", "TRUSTED CERTIFICATE")
    ),
    "his own before it as an X509 CERTIFICATE": lambda genuine, own: (
        own.replace("CERTIFICATE", "X509 CERTIFICATE") + genuine
    ),
}


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("genuine"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("own"))


@pytest.fixture(params=SHOWN)
def shown(request: pytest.FixtureRequest, genuine: Site, own: Site) -> bytes:
    return SHOWN[request.param](genuine.ca.read_text(), own.ca.read_text()).encode()


def installed_on_linux(root: Path, folder: Path, url: str, digest: str) -> subprocess.CompletedProcess[str]:
    """Run the installer's own enrolment, for an account of a person, with a release that is this checkout."""
    python = folder / "release" / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    state = folder / "state"
    state.mkdir()
    scripts = root / "scripts"
    script = (
        f". <(sed '$d' {scripts}/install-training-worker.sh); "  # the last line would run it all
        f". {scripts}/environment.sh; . {scripts}/installing.sh; "
        f"choose --user --receiver {url} --host box --code {CODE} --ca-sha256 {digest}; "
        f"STATE={state} SETTINGS={state}/worker.toml RELEASE={folder}/release; want_enrolled"
    )
    return subprocess.run(
        ["bash", "-Eeuc", script],
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_installer_for_linux_ends_before_the_code_is_given_away(
    root: Path, tmp_path: Path, genuine: Site, own: Site, shown: bytes
) -> None:
    with Impostor(own, shown, enrols=True) as middle:
        done = installed_on_linux(root, tmp_path, middle.url, genuine.fingerprint)
    assert done.returncode == 77
    assert "do not go on if it differs again" in done.stderr
    assert (middle.asked, middle.codes) == (["GET /v1/ca"], [])
    assert list((tmp_path / "state").iterdir()) == []


def test_the_installer_for_linux_enrols_with_the_receiver_of_the_invite(
    root: Path, tmp_path: Path, genuine: Site
) -> None:
    with Impostor(genuine, genuine.ca.read_bytes(), enrols=True) as receiver:
        done = installed_on_linux(root, tmp_path, receiver.url, genuine.fingerprint)
    assert (done.returncode, done.stdout) == (0, f"enrolled as box at {receiver.url}\n"), done.stderr
    assert receiver.codes == [CODE]
    assert (tmp_path / "state" / "ca.pem").read_bytes() == genuine.ca.read_bytes()


class Enrolling:
    """Programs of a PC that end well and do nothing, but for the enrolment, which is the real one."""

    def __init__(self, pc: Pc, root: Path) -> None:
        self.pc, self.root, self.ran = pc, root, False

    def run(self, words: list[str], _folder: Path, environ: Mapping[str, str]) -> tuple[int, list[str]]:
        if words[1] == "-c":
            return 0, ["True", words[0], "C:\\Program Files\\Python312"]
        if "enrol" not in words:
            return 0, []
        self.ran = True
        given = [str(self.pc.host(word)) if word.startswith("C:\\") else word for word in words[1:]]
        done = subprocess.run(
            [sys.executable, *given],
            cwd=self.root,
            env={"PATH": os.environ["PATH"], **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, (done.stdout + done.stderr).splitlines()

    def start(self, words: list[str], folder: Path) -> Any:
        raise AssertionError(f"the worker was started: {words} in {folder}")

    def shut(self, _path: str) -> bool:
        return False


def test_the_installer_for_windows_ends_before_the_code_is_given_away(
    root: Path, tmp_path: Path, genuine: Site, own: Site, shown: bytes
) -> None:
    drive = tmp_path / "c"
    for name in ("training/fleet/worker", "requirements", "scripts"):
        (drive / "checkout" / name).mkdir(parents=True)
    (drive / "checkout" / "training" / "fleet" / "worker" / "one.py").write_text("1\n")
    pc = Pc(drive, None, "C:\\Program Files\\Python312\\python.exe", patience_s=0)  # type: ignore[arg-type]
    programs = pc.programs = Enrolling(pc, root)  # type: ignore[assignment]
    source = (root / "scripts" / "install-training-worker-windows.ps1").read_bytes()
    with Impostor(own, shown, enrols=True) as middle:
        given = {"Receiver": middle.url, "HostName": "box", "Code": CODE, "CaSha256": genuine.fingerprint}
        status = Walk(source, pc, "C:\\checkout\\scripts").run({**given, "WithoutTrainer": True})
    assert (programs.ran, status) == (True, 78), pc.said
    assert any("do not go on if it differs again" in line for line in pc.said)
    assert (middle.asked, middle.codes) == (["GET /v1/ca"], [])
    assert pc.task is None
    state = drive / "ProgramData" / "cis490"
    assert [path.name for path in state.iterdir()] == ["worker"]
