"""A Debian that systemd has booted, in a container without a network, for tests of what is installed.

The root is made once by debootstrap and kept in the user's cache folder, named by what it holds; each test gets a copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGES = "systemd,systemd-sysv,dbus,libpam-systemd,procps,python3,python3-venv,ca-certificates"
SUITE = "bookworm"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "nsenter": "util-linux"}
_MIRROR = """apt-get indextargets --format '$(REPO_URI) $(RELEASE)' | awk '$2=="bookworm" {print $1; exit}'"""


@contextlib.contextmanager
def container(folder: Path, *more: str) -> Iterator[Container]:
    """Give a container that is not booted yet, and take it away at the end; skip the test where there can be none."""
    if lacking := [package for program, package in PROGRAMS.items() if shutil.which(program) is None]:
        pytest.skip(f"a container needs {', '.join(lacking)}; apt-get install -y --no-install-recommends them")
    if os.geteuid() != 0:
        pytest.skip("only root may boot a container")
    made = Container(folder, *more)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(made.root)


def copy_project(root: Path, folder: Path, *parts: str) -> None:
    """Copy the tracked files that installing needs, and those of further parts, as they are now."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if name.split("/")[0] in ("training", "scripts", "etc", "requirements", "LICENSE", *parts):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, folder / name)


def cached(name: str, content: str, make: Callable[[Path], object]) -> Path:
    """Return a folder of the cache, named by its content; it is made when it is not there, and appears whole."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cis490-tests"
    folder = cache / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        part.mkdir(parents=True)
        make(part)
        part.rename(folder)
    return folder


def debian(*more: str) -> Path:
    """Return the root of a small Debian, with more packages than the service manager needs."""
    packages = ",".join([PACKAGES, *more])

    def make(folder: Path) -> None:
        mirror = subprocess.run(["sh", "-c", _MIRROR], check=True, capture_output=True, text=True).stdout.strip()
        command = ["debootstrap", "--variant=minbase", f"--include={packages}", SUITE, str(folder), mirror]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder / "var/cache/apt")

    return cached("debian", f"{SUITE} {packages}", make)


def wheels(requirements: Path) -> Path:
    """Return a folder with the packages of a requirements file."""

    def make(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        pip += ["--require-hashes", "--only-binary", ":all:", "-d", str(folder), "-r", str(requirements)]
        subprocess.run(pip, check=True)

    return cached("wheels", f"{sys.version} {requirements.read_text()}", make)


def packages(name: str) -> Path:
    """Return a folder that apt takes as a source, with one package of Debian."""

    def make(folder: Path) -> None:
        subprocess.run(["apt-get", "download", "-q", f"{name}/{SUITE}"], cwd=folder, check=True)
        (file,) = folder.glob("*.deb")
        about = subprocess.run(["dpkg-deb", "-f", str(file)], check=True, capture_output=True, text=True).stdout
        data = file.read_bytes()
        place = f"Filename: ./{file.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        (folder / "Packages").write_text(about + place)

    return cached("packages", f"{SUITE} {name}", make)


class Container:
    """One booted Debian.

    Args:
        folder: Where its root is made.
        more: Packages that it has besides.
    """

    def __init__(self, folder: Path, *more: str) -> None:
        self.root = folder / "root"
        subprocess.run(["cp", "-a", "--reflink=auto", str(debian(*more)), str(self.root)], check=True)
        self._log = folder / "boot.log"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = ""

    def boot(self) -> None:
        """Start it and wait until it is up."""
        command = ["systemd-nspawn", "-q", "-D", str(self.root), "--register=no", "--keep-unit", "--private-network"]
        with self._log.open("ab") as log:
            self._nspawn = subprocess.Popen([*command, "-b"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.until("init is there", self._has_init)
        self.until("it is up", lambda: self.run("systemctl is-system-running", check=False) in ("running", "degraded"))

    def power_off(self) -> None:
        """End it in order."""
        assert self._nspawn is not None
        self.run("systemctl poweroff", check=False)
        self._nspawn.wait(timeout=150)
        self._nspawn = None

    def end(self) -> None:
        """End it, whatever state it is in."""
        if self._nspawn is not None:
            self._nspawn.terminate()
            try:
                self._nspawn.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait()

    def run(self, command: str, *, check: bool = True, **environ: str) -> str:
        """Return what a shell's command in it prints, both streams."""
        clean = ["env", "-i", f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8", *(f"{k}={v}" for k, v in environ.items())]
        inside = ["nsenter", "-t", self._init, "-a", *clean, "bash", "-c", f"cd /; {command}"]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(inside, check=False, **streams, text=True, errors="replace")
        assert done.returncode == 0 or not check, f"{command}: status {done.returncode}\n{done.stdout}"
        return done.stdout.strip()

    def until(self, what: str, met: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        """Wait until something holds, and return it."""
        end = time.monotonic() + timeout_s
        while not (found := met()):
            assert time.monotonic() < end, f"it did not happen in time that {what}\n{self._said()}"
            time.sleep(0.2)
        return found

    def _has_init(self) -> bool:
        assert self._nspawn is not None
        found = subprocess.run(["pgrep", "-P", str(self._nspawn.pid)], check=False, capture_output=True, text=True)
        self._init = found.stdout.partition("\n")[0]
        # Until it is systemd it is a part of the container's making, in namespaces of its own.
        return bool(self._init) and Path("/proc", self._init, "comm").read_text().strip() == "systemd"

    def _said(self) -> str:
        if not self._init:
            return self._log.read_text(errors="replace")[-2000:]
        return self.run("journalctl -n 60 --no-pager", check=False)
