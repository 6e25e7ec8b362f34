"""A Linux host as the installers meet it: files are real below a folder, programs are recorded and answered.

Owners stand in a table, because the tests may not change accounts.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from training.fleet.install import linux, release, unit
from training.fleet.install.linux import InstallPart, LinuxFolders
from training.fleet.install.programs import Programs
from training.fleet.install.torch_build import TORCH_VERSION_PROBE

CODE = "C0DE"


class LinuxHost(Programs):
    """The programs of a host, and what they have done to it.

    Attributes:
        ran: Every program with its arguments, without who it was run as.
        environs: The environment of each, None for the caller's own.
        accounts: Whom each was run as, empty for who installs.
        given: What each read.
        fail: Words of programs that end with status 1.
        service: State of the service.
        torch: Version that the release in use has beside what the installer put there, empty for none.
        finds_torch: Whether pip finds a build of torch for the CPU.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = folder / "root"
        self.home = folder / "home"
        self.ran: list[list[str]] = []
        self.environs: list[dict[str, str] | None] = []
        self.accounts: list[str] = []
        self.given: list[str] = []
        self.fail: set[str] = set()
        self.known: set[str] = set()
        self.owners: dict[int, str] = {}
        self.service: dict[str, Any] = {"ActiveState": "inactive", "StatusText": "", "enabled": False}
        self.status_text = "listed at https://pi.lab:8445"
        self.init = ""
        self.cards: tuple[str, ...] = ()
        self.torch, self.finds_torch = "", False
        booted = folder / "booted"
        booted.mkdir()
        patch.setattr(linux, "BOOTED", booted)
        patch.setattr(linux.shutil, "which", lambda name, path=None: None if name == "no-such" else f"/usr/bin/{name}")
        patch.setattr(linux.shutil, "chown", self._chown)
        patch.setattr(linux, "_owner", lambda path: self.owners.get(path.stat().st_ino, "root:root"))
        patch.setattr(linux, "places_of_machine", self._places)
        patch.setattr(release.os, "umask", lambda _mask: 0)
        patch.setattr(release.cards, "find", lambda _problems: self.cards)
        patch.setattr(unit.time, "sleep", lambda _s: None)

    def _places(self, part: InstallPart) -> LinuxFolders:
        return LinuxFolders(
            self.root / "opt/cis490" / part.name, self.root / "usr/local/bin", self.root / "etc/cis490",
            self.root / "var/lib" / part.account, self.root / "etc/systemd/system",
        )  # fmt: skip

    def _chown(self, path: Path, user: str, group: str) -> None:
        self.owners[path.stat().st_ino] = f"{user}:{group}"

    def owner(self, name: str) -> str:
        return self.owners.get((self.root / name).stat().st_ino, "root:root")

    def files(self) -> list[str]:
        found = [(top, path) for top in (self.root, self.home) for path in top.rglob("*")]
        return sorted(
            f"{path.relative_to(top)} {os.lstat(path).st_mode:o} {os.lstat(path).st_mtime_ns}" for top, path in found
        )

    def run(
        self, words: Sequence[str], environ: Mapping[str, str] | None, folder: Path | None, given: str,
        out: int | None, errors: int | None,
    ) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
        own = list(words)
        self.accounts.append("")
        if own[:2] == ["runuser", "-u"]:
            self.accounts[-1], own = own[2], own[4:]
            assert folder == Path("/")
        self.ran.append(own)
        self.environs.append(None if environ is None else dict(environ))
        self.given.append(given)
        status, said = (1, "") if self.fail & set(own) else self._answer(own)
        return subprocess.CompletedProcess(own, status, said.encode(), b"")

    def _answer(self, words: list[str]) -> tuple[int, str]:
        if words[0] in ("systemctl", "loginctl"):
            return self._managed([word for word in words[1:] if word != "--user"])
        if words[0] == "getent":
            return (0 if words[-1] in self.known else 2), ""
        if words[0] == "useradd":
            self.known.add(words[-1])
        if words[0] == "userdel":
            self.known.remove(words[-1])
        if "--dry-run" in words:
            return (0 if self.finds_torch else 1), ""
        if TORCH_VERSION_PROBE in words:
            return (0, self.torch) if self.torch else (1, "")
        if "-c" in words:
            return 0, str(Path(words[0]).parents[1] / "site") if "sysconfig" in words[-1] else "3.12.0"
        if "venv" in words:
            (Path(words[-1]) / "bin").mkdir(parents=True)
            (Path(words[-1]) / "bin" / "python").touch()
            (Path(words[-1]) / "site").mkdir()
        return (0, self.init) if "init" in words else self._enrolled(words) if "enrol" in words else (0, "")

    def _enrolled(self, words: list[str]) -> tuple[int, str]:
        state = Path((self.environs[-1] or {})["STATE_DIRECTORY"])
        if (state / "worker.secret").exists():
            return 0, "already enrolled as gpu-tower: good"
        if self.given[-1] != f"{CODE}\n":
            return 77, ""
        (state / "worker.toml").write_text(f'name = "gpu-tower"\nworker_secret_file = "{state}/worker.secret"\n')
        (state / "worker.secret").touch()
        return 0, "enrolled as gpu-tower at https://pi.lab:8445\nsecret: somewhere"

    def _managed(self, words: list[str]) -> tuple[int, str]:
        verb = words[0]
        if verb == "is-active":
            return (0 if self.service["ActiveState"] == "active" else 3), ""
        if verb == "is-enabled":
            return (0 if self.service["enabled"] else 1), ""
        if verb in ("enable", "disable"):
            self.service["enabled"] = verb == "enable"
        if verb == "restart":
            self.service.update(ActiveState="active", StatusText=self.status_text)
        if verb == "stop":
            self.service.update(ActiveState="inactive", StatusText="")
        if verb == "show":
            return 0, self.service[words[3]]
        return 0, ""

    def changes(self, since: int = 0) -> list[list[str]]:
        """Return the programs that change something."""
        asking = {"--dry-run", "is-active", "is-enabled", "show", "show-user", "reset-failed", "-c", "getent"}
        return [words for words in self.ran[since:] if not asking & set(words)]


def make_checkout(folder: Path, root: Path) -> Path:
    """Return a folder with the parts of a checkout that installing needs, and one file of code."""
    for name in ("training/fleet", "requirements", "etc/systemd"):
        (folder / name).mkdir(parents=True)
    (folder / "training" / "fleet" / "one.py").write_text("1\n")
    (folder / "requirements" / "torch-index.in").write_text("# pinned\ntorch==2.13.0\n")
    for name in ("core", "trainer", "torch", "torch-index"):
        (folder / "requirements" / f"{name}.txt").write_text(f"{name}\n")
    (folder / "LICENSE").write_text("free\n")
    for path in (*(root / "etc/systemd").glob("*.service"), root / "etc/training_manifest.toml.example"):
        (folder / path.relative_to(root)).write_bytes(path.read_bytes())
    return folder
