"""The code of a part as it is in use: a copy with an environment of its own, made beside the one it replaces.

Guarantees that a service runs either the old code or the new and never half of each: a release is made whole, and one
rename takes it into use.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from training.fleet.capability import cards
from training.fleet.install.code import copy_code, demand_checkout, digest, pip_install, requirements_file
from training.fleet.install.linux import HOMES, PLAIN_PATH, Linux
from training.fleet.install.steps import StopError, say
from training.fleet.install.torch_build import TORCH_VERSION_PROBE, TorchBuild, TorchChoice, of_version, remembered
from training.fleet.model.errors import EX_CONFIG, EX_UNAVAILABLE
from training.fleet.single_file import INSTALLED

_NAMES: Final = ("python3", "python3.14", "python3.13", "python3.12", "python3.11")
_PROBE: Final = "import sys; print(sys.version, sys.base_prefix)"
_VERSION: Final = "import sys; print(sys.version.split()[0]); sys.exit(sys.version_info < (3, 11))"
_ENSUREPIP: Final = "import ensurepip, venv"
_OPENMP: Final = "import ctypes; ctypes.CDLL('libgomp.so.1')"
_PACKAGES: Final = "import sysconfig; print(sysconfig.get_path('purelib'))"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a release is made from.

    Attributes:
        checkout: Where the code lies.
        python: The Python that makes its environment.
        requirements: Name of the list of packages, empty for none.
        wheels: Folder to take the packages from; None for a package index.
        torch: The build of torch; None for a part that has none.
    """

    checkout: Path
    python: str
    requirements: str
    wheels: Path | None
    torch: TorchBuild | None = None


class Release:
    """One release on a host.

    Args:
        host: The host.
        wanted: What it is made from.
    """

    def __init__(self, host: Linux, wanted: Wanted) -> None:
        self._host = host
        self.wanted = wanted
        _, probed = host.programs.ask([wanted.python, "-c", _PROBE])
        more = [wanted.torch.mark()] if wanted.torch is not None and wanted.torch.mark() else []
        name = digest(wanted.checkout, wanted.requirements, probed, *more)[:16]
        self.folder = host.at.prefix / "releases" / name
        self.python = self.folder / "venv" / "bin" / "python"

    def want(self) -> None:
        """Have it made."""
        if not (self.folder / "complete").exists():
            self._host.steps.change(f"install the code and its packages into {self.folder}", self._make)

    def want_current(self, stop: Callable[[], None]) -> None:
        """Take it into use.

        Args:
            stop: Called before, so that a service that runs never sees half of each.
        """
        link = self._host.at.current
        if link.is_symlink() and link.readlink() == self.folder:
            return
        stop()
        self._host.steps.change(f"take {self.folder} into use", self._use)

    def drop_others(self) -> None:
        """Delete the releases that are no longer in use."""
        releases = self._host.at.prefix / "releases"
        others = (path for path in releases.iterdir() if path != self.folder) if releases.is_dir() else ()
        self._host.drop(*sorted(others))

    def _use(self) -> None:
        new = self._host.at.current.with_name("current.new")
        new.unlink(missing_ok=True)
        new.symlink_to(self.folder)
        new.replace(self._host.at.current)

    def _make(self) -> None:
        os.umask(0o022)  # everybody may read the code, nobody else may write it, whatever the caller's mask
        if self.folder.exists():
            shutil.rmtree(self.folder)  # one that was cut off
        app = self.folder / "app"
        copy_code(self.wanted.checkout, app)
        for name in INSTALLED:  # so that a receiver can hand out the installer of a worker
            if (self.wanted.checkout / name).is_file():
                (app / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.wanted.checkout / name, app / name)
        self._make_environment()
        _, site = self._host.programs.ask([str(self.python), "-c", _PACKAGES])
        Path(site, "cis490.pth").write_text(f"{app}\n", encoding="utf-8")
        self._host.programs.demand([str(self.python), "-m", "compileall", "-q", str(app)])
        (self.folder / "packages").write_text(f"{self.wanted.requirements}\n", encoding="utf-8")
        if self.wanted.torch is not None:
            (self.folder / "torch").write_text(self.wanted.torch.choice.text(), encoding="utf-8")
        (self.folder / "complete").touch()

    def _make_environment(self) -> None:
        wanted, programs = self.wanted, self._host.programs
        venv = [wanted.python, "-m", "venv"]
        if not wanted.requirements:
            programs.demand([*venv, "--without-pip", str(self.folder / "venv")])
            return
        self._need_ensurepip()
        programs.demand([*venv, str(self.folder / "venv")])
        more = ["-qq"] if wanted.wheels is None else ["-qq", "--no-index", "--find-links", str(wanted.wheels)]
        packages = requirements_file(wanted.checkout, wanted.requirements)
        if programs.show(pip_install(self.python, packages, more)) != 0:
            shown = f"requirements/{packages.name}"
            raise StopError(
                EX_UNAVAILABLE,
                f"pip could not install {shown}; is the package index reachable? Without one, fetch the packages "
                f"elsewhere (pip download --no-deps -d DIR -r {shown}) and give --wheels DIR",
            )
        if wanted.torch is not None:
            self._want_torch(wanted.torch, more)

    def _want_torch(self, build: TorchBuild, more: list[str]) -> None:
        programs, checkout = self._host.programs, self.wanted.checkout
        if build.optional and programs.ask(build.question(checkout, self.python, more))[0] != 0:
            say(build.left_out())
            return
        free = shutil.disk_usage(self.folder).free
        if free < build.needs_bytes():
            raise StopError(
                EX_UNAVAILABLE,
                f"torch with CUDA needs {build.needs_bytes() / 1e9:.0f} GB while it is installed, and the disk of "
                f"{self._host.at.prefix} has {free / 1e9:.1f} GB free; free some, or give --torch none",
            )
        # Its downloads lie beside it, because the folder for temporary files is often small and in memory.
        temporary = self.folder / "tmp"
        temporary.mkdir()
        environ = {**self._host.environ, "TMPDIR": str(temporary)}
        try:
            for command in build.commands(checkout, self.python, more):
                if programs.show(command, environ=environ) != 0:
                    raise build.lacking()
        finally:
            shutil.rmtree(temporary)
        check = build.check(self.python)
        if check is not None and programs.ask(check)[0] != 0:
            raise build.lacking()

    def _need_ensurepip(self) -> None:
        """Debian ships Python without the part that makes environments."""
        if self._host.programs.ask([self.wanted.python, "-c", _ENSUREPIP])[0] == 0:
            return
        if not self._host.install_packages("python3-venv"):
            raise StopError(
                EX_UNAVAILABLE,
                f"{self.wanted.python} cannot make environments; install that and run this again: "
                "sudo apt-get install -y python3-venv",
            )


def wanted_release(
    host: Linux, checkout: Path, *, python: str, requirements: str | None, wheels: Path | None, otherwise: str
) -> Wanted:
    """Return what to install.

    Args:
        host: The host.
        checkout: Where the code lies.
        python: The Python to use, empty for the one of the machine.
        requirements: Name of the list of packages; None for that of an earlier installation, or else `otherwise`.
        wheels: Folder with packages.
        otherwise: Name of the list at first.

    Raises:
        StopError: Something of it is not there.
    """
    demand_checkout(checkout)
    kept = host.at.current / "packages"
    if requirements is None:
        requirements = kept.read_text(encoding="utf-8").strip() if kept.exists() else otherwise
    if wheels is not None and not wheels.is_dir():
        raise StopError(EX_CONFIG, f"found --wheels {wheels}; expected a folder with the packages")
    return Wanted(checkout, _chosen_python(host, python), requirements, wheels and wheels.absolute())


def _chosen_python(host: Linux, named: str) -> str:
    """Return the path of the Python to install with.

    A service of the machine needs one of the machine, and the first one in the path of root may lie in a home folder.
    """
    if named:
        found = shutil.which(named, path=host.environ.get("PATH"))
        if found is None:
            raise StopError(EX_CONFIG, f"found no program {named}; give --python a Python 3.11 or newer")
        status, version = host.programs.ask([found, "-c", _VERSION])
        if status != 0:
            raise StopError(
                EX_CONFIG, f"found {named}, which is {version or 'no Python'}; give --python a Python 3.11 or newer"
            )
    else:
        found = (None if host.user else _python_of_machine(host)) or sys.executable
    if not host.user and any(Path(found).is_relative_to(home) for home in HOMES):
        raise StopError(EX_CONFIG, f"the service cannot read {found} in a home folder; give --python another")
    return found


def _python_of_machine(host: Linux) -> str | None:
    for name in _NAMES:
        found = shutil.which(name, path=PLAIN_PATH)
        if found is not None and host.programs.ask([found, "-c", _VERSION])[0] == 0:
            return found
    return None


def wanted_torch(host: Linux, requirements: str, given: TorchChoice | None) -> TorchBuild:
    """Return the build of torch to install.

    Args:
        host: The host.
        requirements: Name of the list of packages.
        given: What the person chose now; None for what an earlier installation had, or else what suits the card.

    Raises:
        StopError: What is chosen cannot be.
    """
    return TorchBuild.of(given or _kept_torch(host), requirements, lambda: bool(cards.find([])))


def _kept_torch(host: Linux) -> TorchChoice:
    """Return the choice of the release in use, or the one that fits a torch that somebody put into it by hand."""
    kept = host.at.current / "torch"
    if kept.exists():
        return remembered(kept.read_text(encoding="utf-8"))
    if not host.at.python.exists():
        return TorchChoice()
    status, version = host.programs.ask([str(host.at.python), "-c", TORCH_VERSION_PROBE])
    return of_version(version if status == 0 else "")


def want_openmp(host: Linux, wanted: Wanted) -> None:
    """Have the OpenMP runtime of the system, which LightGBM loads and a small Debian lacks."""
    if wanted.requirements != "trainer" or host.programs.ask([wanted.python, "-c", _OPENMP])[0] == 0:
        return

    def install() -> None:
        if not host.install_packages("libgomp1"):
            raise StopError(
                EX_UNAVAILABLE,
                "the system lacks libgomp1; install that and run this again: "
                "sudo apt-get update && sudo apt-get install -y libgomp1",
            )

    host.steps.change("install the system package libgomp1", install)
