"""Locks on what one receiver alone may use: its artifacts, the uploads under way, the list of artifacts.

Guarantees that no two programs hold the same folder, by whatever path or link it is named, and that none holds a folder
within another one's. The lock is on the folder itself (flock), not on a file in it: nothing is left behind that could
be stale or deleted, a read-only disk does not matter, and the system lets go of it however the process ends. On a
network file system it holds among the programs of one host.

Source: flock(2).
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from training.fleet.model.errors import ConfigurationError, UnavailableError, passing

_FOLDERS: Final = "--store-root and --incoming-root"
_LIST: Final = "--index-path"
_BACKUPS: Final = "--backup-root"


@contextlib.contextmanager
def folders_held(*folders: Path) -> Iterator[None]:
    """Hold folders for this program alone; one that is not there needs no holding.

    The folders above them are held as well, together with other programs, so that nobody holds one of those alone:
    its files would lie among those of somebody else.

    Raises:
        ConfigurationError: Another program holds one of them, a folder above it or a folder in it, or the file system
            cannot lock.
        UnavailableError: The disk refuses for now.
    """
    own = {_identity(folder): folder.resolve() for folder in folders if folder.is_dir()}
    above = {_identity(place): place for folder in own.values() for place in _above(folder)}
    with contextlib.ExitStack() as stack:
        for folder in own.values():
            _hold(stack, folder, os.O_RDONLY | os.O_DIRECTORY, fcntl.LOCK_EX, _FOLDERS)
        for identity in above.keys() - own.keys():
            _hold(stack, above[identity], os.O_RDONLY | os.O_DIRECTORY, fcntl.LOCK_SH, _FOLDERS)
        yield


@contextlib.contextmanager
def folder_held(folder: Path) -> Iterator[None]:
    """Hold a folder that this program has made, so that `is_held` tells others of it.

    Raises:
        ConfigurationError: Another program holds it, or the file system cannot lock.
        UnavailableError: The disk refuses for now.
    """
    with contextlib.ExitStack() as stack:
        _hold(stack, folder, os.O_RDONLY | os.O_DIRECTORY, fcntl.LOCK_EX, _BACKUPS)
        yield


def is_held(folder: Path) -> bool:
    """Return True when a program holds a folder, or when that cannot be found out."""
    try:
        with folder_held(folder):
            return False
    except (ConfigurationError, UnavailableError):
        return True


@contextlib.contextmanager
def file_held(path: Path) -> Iterator[None]:
    """Hold the list of artifacts for this program alone; a file that is not there needs no holding.

    The lock is on the file that bears the name now: after another one was renamed over it, it must be held again.

    Raises:
        ConfigurationError: Another program holds it, or it cannot be opened.
        UnavailableError: The disk refuses for now.
    """
    with contextlib.ExitStack() as stack:
        if path.is_file():
            _hold(stack, path, os.O_RDWR, fcntl.LOCK_EX, _LIST)
        yield


def _identity(path: Path) -> tuple[int, int]:
    """Return what a folder is called under all its paths, links and mounts."""
    facts = path.stat()
    return facts.st_dev, facts.st_ino


def _above(folder: Path) -> Iterator[Path]:
    """Yield the folders above one in which another receiver of the same user could keep its files.

    Places that everybody may write, such as /tmp, and the root are none: others lock them for purposes of their own.
    One that this user may pass through and not read cannot be locked.
    """
    owner = folder.stat().st_uid

    def private(place: Path) -> bool:
        facts = place.stat()
        return facts.st_uid == owner and not facts.st_mode & stat.S_IWOTH and place != place.parent

    return (place for place in itertools.takewhile(private, folder.parents) if os.access(place, os.R_OK))


def _hold(stack: contextlib.ExitStack, path: Path, mode: int, kind: int, flags: str) -> None:
    """Hold an open place until the stack ends. A network file system wants a file to be open for writing."""
    try:
        descriptor = os.open(path, mode | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigurationError(
            f"{path} is in use: another receiver, or fsck or restore of one, keeps its files there, above it or in it",
            f"stop that program (sudo fuser -v {path} names it), or give {flags} another place",
        ) from None
    except OSError as error:
        words = f"{path} cannot be locked ({error.strerror})"
        raise passing(error, words, "look at its disk") or ConfigurationError(
            words, f"correct {flags}", expected="a place that this user may read on a file system with locks"
        ) from error
