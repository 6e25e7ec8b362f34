"""Reading and deleting what a trainer wrote.

Guarantees that nothing a trainer leaves can hold the worker up: a pipe or device in place of a file is not opened to
wait on, a link is not followed, and a tree is deleted whatever its depth, its names and its rights.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from training.fleet import system

_AT_ONCE: Final = 1000
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_NOCTTY"))


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without ever waiting.

    Raises:
        OSError: It is missing, unreadable, or anything other than a regular file.
    """
    stream = os.fdopen(os.open(path, _FLAGS), "rb")
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return stream
    stream.close()
    raise OSError(f"{path} is no regular file")


def has_files(folder: Path) -> bool:
    """Tell whether a folder is there and holds anything other than folders.

    What cannot be looked into counts as something, because packing says what is wrong with it.
    """
    waiting = [system.long_path(folder)]
    try:
        folder.lstat()
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if not system.is_plain_folder(entry):
                        return True
                    waiting.append(Path(entry.path))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def delete_tree(top: Path) -> None:
    """Delete a folder and all in it; what the system does not let go of stays.

    Deep folders are moved up instead of walked into, because a path may be too long and a recursion too deep.
    """
    top = system.long_path(top)
    _delete_tree(top)
    for pause_s in system.PATIENCE_S:
        if not top.exists():
            break
        time.sleep(pause_s)
        _delete_tree(top)


def _delete_tree(top: Path) -> None:
    progress = 1
    while progress:
        progress = sum(_unlinked(entry) for entry in _entries(top, folders=False))
        for folder in list(itertools.islice(_entries(top, folders=True), _AT_ONCE)):
            progress += _emptied(Path(folder.path), top)
    _removed(top)


def _emptied(folder: Path, top: Path) -> int:
    """Take everything out of a folder; return how much was moved or deleted."""
    done = sum(_unlinked(entry) for entry in _entries(folder, folders=False))
    for entry in _entries(folder, folders=True):
        done += _removed(Path(entry.path)) or _moved(Path(entry.path), top)
    return done + _removed(folder)


def _removed(folder: Path) -> int:
    try:
        folder.rmdir()
    except OSError:
        return 0
    return 1


def _moved(folder: Path, top: Path) -> int:
    try:
        folder.chmod(0o700)
        folder.rename(top / f".{os.urandom(8).hex()}")
    except OSError:
        return 0
    return 1


def _entries(folder: Path, *, folders: bool) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(OSError):
        folder.chmod(0o700)
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if system.is_plain_folder(entry) is folders)


def _unlinked(entry: os.DirEntry[str]) -> int:
    try:
        system.unlink(Path(entry.path))
    except OSError:
        return 0
    return 1
