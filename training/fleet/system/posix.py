"""Linux and its kin."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Final

assert sys.platform != "win32"

HIDDEN: Final = 0
"""Flags for the start of a child, so that it opens no window."""
STOP_LOOK_S: Final[float | None] = None
"""How often the worker looks for a stop file; None where a signal tells."""
PATIENCE_S: Final[tuple[float, ...]] = ()
"""Pauses between tries to delete a folder that something still holds open."""
_TOOL_FOLDERS = "/usr/bin:/usr/local/bin:/usr/lib/wsl/lib"
LONGEST_ROOT: Final[int | None] = None
"""Most characters a work folder's path may have; None for no limit worth a word."""


def lock(stream: IO[str]) -> None:
    """Hold a file for this process; the system lets go of it however the process ends.

    Raises:
        OSError: Another process holds it.
    """
    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def replace(source: Path, target: Path) -> None:
    """Rename a file over another one, or a folder, whole or not at all.

    Raises:
        OSError: It cannot be done; on Windows after several tries, because scanners hold files open for a moment.
    """
    source.replace(target)


def unlink(path: Path) -> None:
    """Delete a file or a link.

    Raises:
        OSError: It cannot be deleted.
    """
    path.unlink()


def is_link(path: Path) -> bool:
    """Tell whether a path names a link, in whatever way the system links.

    Raises:
        OSError: Nothing is there.
    """
    return stat.S_ISLNK(path.lstat().st_mode)


def is_plain_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder and no link to one, in whatever way the system links."""
    return entry.is_dir(follow_symlinks=False)


def long_path(path: Path) -> Path:
    """Return a path under which the system finds things whatever its length."""
    return path


def everybody_can_read(path: Path) -> bool:
    """Tell whether users of this host other than the owner and its group have a right to a file."""
    return bool(path.stat().st_mode & stat.S_IRWXO)


def user() -> str:
    """Return the name of this process's user, for people."""
    return _name_of(os.geteuid())


def _name_of(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def other_owner(path: Path, *, or_root: bool = False) -> str:
    """Return whom a file, folder or link belongs to when that is not this process's user; empty when it is.

    Args:
        path: What is asked about; a link is not followed.
        or_root: What belongs to root counts as its own.

    Raises:
        OSError: Nothing is there.
    """
    owner = path.lstat().st_uid
    return "" if owner == os.geteuid() or (or_root and owner == 0) else _name_of(owner)


def owner(path: Path) -> str:
    """Return whom a file or folder belongs to; a link is not followed.

    Raises:
        OSError: Nothing is there.
    """
    return _name_of(path.lstat().st_uid)


def is_administrator() -> bool:
    """Return True if this process may change the whole machine."""
    return os.geteuid() == 0


def others_can_write(path: Path) -> bool:
    """Return True if users other than its owner may change what is in a folder."""
    return bool(path.lstat().st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def everybody_can_write(path: Path) -> bool:
    """Return True if any user may put something into a folder; a link has no such rights."""
    mode = path.lstat().st_mode
    return stat.S_ISDIR(mode) and bool(mode & stat.S_IWOTH)


def everybody_can_rename_in(path: Path) -> bool:
    """Return True if any user may put something else in the place of what is in a folder.

    In a sticky one, such as /tmp, only the owner of an entry may.
    """
    return everybody_can_write(path) and not path.lstat().st_mode & stat.S_ISVTX


def private(path: Path) -> None:
    """Keep everybody but its owner out of a file that this process has made.

    Raises:
        OSError: It cannot be done.
    """
    path.chmod(0o600)


def private_command(path: Path) -> str:
    """Return the command with which a person keeps others out of a file."""
    return f"chmod o= {path}"


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return where a program keeps its state: the service manager's folder, or the user's.

    Source: systemd.exec(5), StateDirectory; XDG Base Directory Specification.
    """
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    base = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".local" / "state")
    return Path(base) / "cis490"


def cores() -> int:
    """Return how many cores this process may use, as its affinity says."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on every Unix
        return os.cpu_count() or 1


def ram_bytes() -> int:
    """Return the memory of the machine, 0 when it cannot be told."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def gpu_tool() -> str | None:
    """Return where the driver's nvidia-smi is, None when it is not installed.

    In WSL it lies in a folder that a service does not have in its path.
    """
    return shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path=_TOOL_FOLDERS)


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """Keep a PC from falling asleep while the calling thread is inside; servers never do by themselves."""
    yield
