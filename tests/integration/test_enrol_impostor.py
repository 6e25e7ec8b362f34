"""A man in the middle of an enrolment, who shows the genuine authority with his own beside it, gets no host.

The installers run with recorded programs, but for the enrolment, which is the real one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from impostor import Impostor
from linux_host import LinuxHost, make_checkout
from tls_site import Site

from training.fleet.install import linux, worker, worker_windows
from training.fleet.install.programs import Programs

CODE = "the-one-time-code-of-this-test-ab"
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


def really(
    root: Path, words: Sequence[str], environ: Mapping[str, str] | None, given: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the enrolment with this checkout, as the installer told it."""
    own = [sys.executable, *words[words.index("-m") :]]
    whole = {**(environ or {}), "PATH": os.environ["PATH"], "PYTHONPATH": str(root)}
    return subprocess.run(own, env=whole, input=given.encode(), stdout=subprocess.PIPE, timeout=60, check=False)


class EnrollingHost(LinuxHost):
    """A host with recorded programs, but for the enrolment, which is the real one."""

    checkout: Path

    def run(
        self, words: Sequence[str], environ: Mapping[str, str] | None, folder: Path | None, given: str,
        out: int | None, errors: int | None,
    ) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
        if "enrol" in words:
            return really(self.checkout, words, environ, given)
        return super().run(words, environ, folder, given, out, errors)


class EnrollingPc(Programs):
    """Programs of a PC that end well and do nothing, but for the enrolment, which is the real one."""

    def __init__(self, checkout: Path) -> None:
        self.checkout, self.ran = checkout, [""]

    def run(
        self, words: Sequence[str], environ: Mapping[str, str] | None, folder: Path | None, given: str,
        out: int | None, errors: int | None,
    ) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
        self.ran.append(words[1])
        if "enrol" in words:
            return really(self.checkout, words, environ, given)
        return subprocess.CompletedProcess(words, int("/query" in words), b"", b"")


def installed_on_linux(root: Path, folder: Path, patch: pytest.MonkeyPatch, url: str, digest: str) -> tuple[int, Path]:
    """Run the installer as it runs for a machine, and return its status and the state folder."""
    patch.setattr(linux.system, "is_administrator", lambda: True)
    patch.setattr(worker, "CHECKOUT", make_checkout(folder / "checkout", root))
    host = EnrollingHost(folder, patch)
    host.checkout, host.status_text = root, f"listed at {url}"
    invite = ["--receiver", url, "--host", "box", "--code", CODE, "--ca-sha256", digest]
    return worker.run_installer(["install", *invite], {"HOME": str(folder)}, host), host.root / "var/lib/cis490-worker"


def test_the_installer_for_linux_ends_before_the_code_is_given_away(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    genuine: Site, own: Site, shown: bytes,
) -> None:  # fmt: skip
    with Impostor(own, shown, enrols=True) as middle:
        status, state = installed_on_linux(root, tmp_path, monkeypatch, middle.url, genuine.fingerprint)
    assert status == 77
    assert "do not go on if it differs again" in capfd.readouterr().err
    assert (middle.asked, middle.codes) == (["GET /v1/ca"], [])
    assert list(state.iterdir()) == []


def test_the_installer_for_linux_enrols_with_the_receiver_of_the_invite(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], genuine: Site
) -> None:
    with Impostor(genuine, genuine.ca.read_bytes(), enrols=True) as receiver:
        status, state = installed_on_linux(root, tmp_path, monkeypatch, receiver.url, genuine.fingerprint)
    assert status == 0
    assert f"enrolled as box at {receiver.url}\n" in capfd.readouterr().out
    assert receiver.codes == [CODE]
    assert (state / "ca.pem").read_bytes() == genuine.ca.read_bytes()


def test_the_installer_for_windows_ends_before_the_code_is_given_away(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    genuine: Site, own: Site, shown: bytes,
) -> None:  # fmt: skip
    monkeypatch.setattr(worker, "WINDOWS", True)
    monkeypatch.setattr(worker, "CHECKOUT", make_checkout(tmp_path / "checkout", root))
    monkeypatch.setattr(worker_windows.system, "is_administrator", lambda: True)
    places = {"ProgramFiles": "p", "ProgramData": "d", "PUBLIC": "u/P", "SystemRoot": "w"}
    environ = {name: str(tmp_path / folder) for name, folder in places.items()}
    programs = EnrollingPc(root)
    with Impostor(own, shown, enrols=True) as middle:
        invite = ["--receiver", middle.url, "--host", "box", "--code", CODE, "--ca-sha256", genuine.fingerprint]
        status = worker.run_installer(["install", *invite, "--without-trainer"], environ, programs)
    assert status == 78
    assert "do not go on if it differs again" in capfd.readouterr().err
    assert (middle.asked, middle.codes) == (["GET /v1/ca"], [])
    assert "/create" not in programs.ran
    assert [path.name for path in (tmp_path / "d" / "cis490").iterdir()] == ["worker"]
