"""A Linux host as an installation sees it: where things lie, whom they belong to, and files that are as they should be.

Guarantees that a file appears whole, with its rights from the first moment on, and that what is right already is left
alone. A person without root installs the same below the home folder, with `user`.
"""

from __future__ import annotations

import getpass
import os
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from training.fleet import system
from training.fleet.files import sync_folder
from training.fleet.install.programs import Programs
from training.fleet.install.steps import Steps, StopError, say
from training.fleet.model.errors import EX_NOPERM, EX_UNAVAILABLE

PLAIN_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
"""Where programs of the machine lie, and none of a person."""
BOOTED: Final = Path("/run/systemd/system")
"""Is there where systemd runs the machine. Source: sd_booted(3)."""
HOMES: Final = ("/home", "/root")
"""Where a service of the machine sees nothing."""
_MARKER: Final = "# Written by the installer of the training fleet."
_PREFIX: Final = "CIS490_"


@dataclass(frozen=True, slots=True)
class InstallPart:
    """What is installed.

    Attributes:
        name: `worker` or `receiver`; its module is `training.fleet.` and this.
        unit: Name of its service.
        account: The system account that the service runs as.
        stops: What becomes of its work when it is stopped, for people.
    """

    name: str
    unit: str
    account: str
    stops: str

    @property
    def module(self) -> str:
        """Return the module of the program."""
        return f"training.fleet.{self.name}"


@dataclass(frozen=True, slots=True)
class LinuxFolders:
    """Where the parts of an installation lie.

    Attributes:
        prefix: Releases of the code.
        bin: Commands for people.
        config: What administrators set.
        state: What the service keeps; its account alone may write there.
        units: Service units.
    """

    prefix: Path
    bin: Path
    config: Path
    state: Path
    units: Path

    @property
    def current(self) -> Path:
        """Return the link to the release in use."""
        return self.prefix / "current"

    @property
    def python(self) -> Path:
        """Return the Python that the service runs with."""
        return self.current / "venv" / "bin" / "python"


def places_of_machine(part: InstallPart, root: Path = Path("/")) -> LinuxFolders:
    """Return where a part lies that is installed for the whole machine."""
    return LinuxFolders(
        root / "opt/cis490" / part.name,
        root / "usr/local/bin",
        root / "etc/cis490",
        root / "var/lib" / part.account,
        root / "etc/systemd/system",
    )


def places_of_user(part: InstallPart, environ: Mapping[str, str]) -> LinuxFolders:
    """Return where a part lies that a person installs. Source: XDG Base Directory Specification."""
    home = Path(environ["HOME"])
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return LinuxFolders(
        Path(environ.get("XDG_DATA_HOME") or home / ".local/share") / "cis490" / part.name,
        home / ".local/bin",
        config / "cis490",
        Path(environ.get("XDG_STATE_HOME") or home / ".local/state") / "cis490",
        config / "systemd/user",
    )


class Linux:
    """This host.

    Args:
        part: What is installed.
        steps: What makes the changes.
        programs: What starts programs.
        environ: The environment of who installs.
        user: Install for the account that runs this, without root.
        places: Where things lie; None for where they belong.
    """

    def __init__(
        self,
        part: InstallPart,
        steps: Steps,
        programs: Programs,
        environ: Mapping[str, str],
        *,
        user: bool,
        places: LinuxFolders | None = None,
    ) -> None:
        self.part = part
        self.steps = steps
        self.programs = programs
        self.environ = environ
        self.user = user
        self.at = places or (places_of_user(part, environ) if user else places_of_machine(part))
        self.settings = self.at.config / f"{part.unit.removeprefix('cis490-')}.env"

    # ---- what must be so

    def demand_rights(self) -> None:
        """Refuse root for a person's own installation, and anybody else for the machine's.

        Raises:
            StopError: That is so.
        """
        is_root = system.is_administrator()
        if not (self.user or is_root or self.steps.dry_run):
            raise StopError(
                EX_NOPERM,
                "installing for the whole machine needs root; run it with sudo, or give --user to install for yourself",
            )
        if self.user and is_root:
            raise StopError(
                EX_NOPERM,
                "--user is for an account of a person, and this is root; run it as that person, or without --user",
            )

    def demand_systemd(self, by_hand: str) -> None:
        """Refuse a host that has no service manager, with the commands that do without.

        Raises:
            StopError: That is so.
        """
        if not (BOOTED.is_dir() and shutil.which("systemctl")):
            raise StopError(
                EX_UNAVAILABLE,
                "this host is not run by systemd (a container, or WSL without it), so no service can be installed; "
                f"in the checkout, start it by hand: {by_hand}",
            )
        if self.user and not self.environ.get("XDG_RUNTIME_DIR"):
            raise StopError(
                EX_UNAVAILABLE,
                f"there is no session of systemd for {getpass.getuser()} (XDG_RUNTIME_DIR is not set); log in on a "
                "console or by ssh, not by su or sudo, and run this again",
            )

    # ---- files

    def want_folder(self, path: Path, mode: int, owner: str) -> None:
        """Have a folder with these rights.

        Args:
            path: The folder.
            mode: Its rights.
            owner: USER:GROUP; for a person's own installation that person, whatever this says.
        """
        if path.is_dir() and self._has_rights(path, mode, owner):
            return
        shown = f"{mode:04o}" if self.user else f"{mode:04o} {owner}"

        def make() -> None:
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(mode)
            self._give(path, owner)

        self.steps.change(f"make the folder {path} ({shown})", make)

    def want_file(self, path: Path, mode: int, owner: str, text: str) -> None:
        """Have a file with this text and these rights; see `want_folder`."""
        if path.is_file() and self._has_rights(path, mode, owner) and _text(path) == text:
            return
        self.steps.change(f"write {path}", lambda: self._write(path, mode, owner, text))

    def _write(self, path: Path, mode: int, owner: str, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.unlink(missing_ok=True)
        # Nobody else may read it until it has its owner, because it may hold a secret.
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as stream:
            stream.write(text.encode(errors="surrogateescape"))
            stream.flush()
            os.fsync(stream.fileno())
        self._give(part, owner)
        part.chmod(mode)
        system.replace(part, path)
        sync_folder(path.parent)

    def _has_rights(self, path: Path, mode: int, owner: str) -> bool:
        return stat.S_IMODE(path.stat().st_mode) == mode and (self.user or _owner(path) == owner)

    def _give(self, path: Path, owner: str) -> None:
        if not self.user:
            shutil.chown(path, *owner.split(":"))

    def drop(self, *paths: Path) -> None:
        """Delete what is there; a link is deleted and what it leads to is not."""
        for path in paths:
            if os.path.lexists(path):
                self.steps.change(f"delete {path}", lambda path=path: _delete(path))  # type: ignore[misc]

    def want_command(self, name: str, module: str) -> None:
        """Have a command of this name for people; a file of somebody else is left alone."""
        path = self.at.bin / name
        run = f"{self.at.python} -P -m {module}"
        if path.exists() and _MARKER not in path.read_text(encoding="utf-8", errors="replace").splitlines():
            say(f"left alone: {path} is not this installer's; the command is {run}")
            return
        self.want_file(path, 0o755, "root:root", f'#!/bin/sh\n{_MARKER}\nexec {run} "$@"\n')

    # ---- settings of the service

    def settings_text(self, otherwise: str) -> str:
        """Return what stands in the settings of the service, or the text of new ones."""
        return _text(self.settings) if self.settings.exists() else otherwise

    def setting(self, name: str) -> str:
        """Return a setting of the service as it stands there, empty when it is not set or cannot be read."""
        return _assigned(self._settings()).get(name, "")

    def _settings(self) -> str:
        try:
            return _text(self.settings)
        except OSError:
            return ""

    # ---- accounts and who a program runs as

    def want_account(self) -> None:
        """Have the account that the service runs as."""
        if self.user or self._has_account():
            return
        words = ["useradd", "--system", "--user-group", "--home-dir", str(self.at.state), "--no-create-home"]
        self.steps.change(
            f"add the system account {self.part.account}",
            lambda: self.programs.demand([*words, "--shell", "/usr/sbin/nologin", self.part.account]),
        )

    def drop_account(self) -> None:
        """Delete the account of the service."""
        if not self.user and self._has_account():
            self.steps.change(
                f"delete the system account {self.part.account}",
                lambda: self.programs.demand(["userdel", self.part.account]),
            )

    def _has_account(self) -> bool:
        return self.programs.ask(["getent", "passwd", self.part.account])[0] == 0

    def as_account(self, *words: str) -> tuple[list[str], dict[str, str]]:
        """Return a command that runs as who the service runs as, and its environment.

        That has nothing of the caller's, where a token may be.
        """
        clean = {
            "PATH": PLAIN_PATH,
            "HOME": self.environ["HOME"] if self.user else str(self.at.state),
            "LANG": self.environ.get("LANG") or "C.UTF-8",
            "STATE_DIRECTORY": str(self.at.state),
        }
        return self._of_account(words), clean

    def as_service(self, *words: str) -> tuple[list[str], dict[str, str]]:
        """Return a command that runs as the service does, with its settings, and its environment.

        Settings go through the environment and are never an argument, because one may be a token.
        """
        own = {name: value for name, value in self.environ.items() if not name.startswith(_PREFIX)}
        given = {name: value for name, value in _assigned(self._settings()).items() if name.startswith(_PREFIX)}
        more = {"STATE_DIRECTORY": str(self.at.state)}
        if not self.user:
            more["HOME"] = str(self.at.state)
        return self._of_account(words), {**own, **{name: _unquoted(value) for name, value in given.items()}, **more}

    def _of_account(self, words: Sequence[str]) -> list[str]:
        return list(words) if self.user else ["runuser", "-u", self.part.account, "--", *words]

    @property
    def folder(self) -> Path | None:
        """Return where a program of another account runs: it may not see the folder that this one works in."""
        return None if self.user else Path("/")

    # ---- packages of the system

    def install_packages(self, *names: str) -> bool:
        """Install packages of Debian and return True, or return False where that cannot be done."""
        root = [] if system.is_administrator() else ["sudo", "-n"]
        if root and self.programs.ask([*root, "true"])[0] != 0:
            return False
        if shutil.which("apt-get") is None:
            return False
        say(f"installing the system packages {' '.join(names)}")
        if self.programs.show([*root, "apt-get", "update", "-qq"]) != 0:
            return False
        apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-qq", "-y"]
        return self.programs.ask([*apt, "--no-install-recommends", *names], quiet=False)[0] == 0


def _owner(path: Path) -> str:
    """Return USER:GROUP of a file, empty when they have no names."""
    if sys.platform == "win32":  # for the type checker, which knows no owners there
        return ""
    try:
        return f"{path.owner()}:{path.group()}"
    except KeyError:
        return ""


def _text(path: Path) -> str:
    """Return the text of a file; bytes that are no UTF-8 come back as they were when it is written."""
    return path.read_bytes().decode(errors="surrogateescape")


def with_setting(text: str, name: str, value: str) -> str:
    """Return a text of settings with this one in place of an older one; every other line stays."""
    lines: list[str] = []
    wanted = f"{name}={value}"
    for line in text.removesuffix("\n").split("\n"):
        if not line.startswith(f"{name}="):
            lines.append(line)
        elif wanted not in lines:
            lines.append(wanted)
    if wanted not in lines:
        lines.append(wanted)
    return "\n".join(lines) + "\n"


def _assigned(text: str) -> dict[str, str]:
    """Return what lines of NAME=VALUE say; the last one of a name counts."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def _unquoted(value: str) -> str:
    """Return a value without the quotes that may stand around it in a file of settings."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
