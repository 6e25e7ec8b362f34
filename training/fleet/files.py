"""Files that appear whole and outlast a power cut.

Owns the order of the calls: write under another name, sync the file, rename it, sync its folder. Each of them depends
on the one before: a rename that reaches the disk first would leave a name with half a file behind it, and a folder that
is not synced can lose the name. Leaves two kinds of files to their owners: blobs, because a test makes each of their
calls fail, and the report of the shim, which runs without any other module of this project.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from training.fleet import system

_WRITE: Final = os.O_WRONLY | os.O_CREAT | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW"))


def write_whole(path: Path, data: bytes, *, private: bool = False) -> None:
    """Put data in the place of a file, or of none; readers see the old or the new one, whole.

    Args:
        path: The file. Its folder must exist.
        data: Its new content.
        private: Whether only this user may read it.

    Raises:
        OSError: The disk refuses. What was there before is still there.
    """
    with whole(path, private=private) as file:
        file.write(data)


@contextlib.contextmanager
def whole(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open a file that takes the place of another one when the block ends, and is removed when the block fails.

    One program at a time may do so for one path, because a file that a killed one has left is written over.

    Args:
        path: The file. Its folder must exist.
        private: Whether only this user may read it.

    Raises:
        OSError: The disk refuses. What was there before is still there.
    """
    part = path.with_name(f"{path.name}.part")
    if private:
        part.unlink(missing_ok=True)  # somebody could have it open, or it could be open to everybody
    try:
        with _written(part, private=private) as file:
            yield file
        system.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, whole, and for this user alone.

    Raises:
        FileExistsError: Something is there already; it is left as it is.
    """
    with _aside(path, data) as part:
        os.link(part, path)  # a rename would write over what is there, a link fails
    sync_folder(path.parent)


def replace_shared(path: Path, data: bytes) -> None:
    """Do as `write_whole` for a private file that several programs may write at the same time: the last one wins."""
    with _aside(path, data) as part:
        system.replace(part, path)
    sync_folder(path.parent)


@contextlib.contextmanager
def _aside(path: Path, data: bytes) -> Iterator[Path]:
    """Yield a synced file under a name of its own, which is gone after the block."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with _written(part, private=True) as file:
            file.write(data)
        yield part
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _written(part: Path, *, private: bool) -> Iterator[BinaryIO]:
    """Open a temporary file, a private one only if nothing is there, and sync it when the block ends."""
    flags, rights = (os.O_EXCL, 0o600) if private else (os.O_TRUNC, 0o666)
    descriptor = os.open(part, _WRITE | flags, rights)
    with os.fdopen(descriptor, "wb") as file:
        if private:
            system.private(part)
        yield file
        file.flush()
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk.

    On Windows, which has no such call and keeps the order of renames in the journal of its file system, and on a file
    system that has none either, this does nothing.

    Raises:
        OSError: The disk refuses.
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each with its name on the disk. One that is there is left as it is."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o750, exist_ok=True)
        sync_folder(folder.parent)


def unused(path: Path, *endings: str) -> Path:
    """Return a path that is free, together with those that end in `endings`: two moments may bear the same time.

    Args:
        path: The wanted one; a number is put behind it as long as something is there.
        endings: What follows the name of further files.
    """
    free, number = path, 1
    while any(free.with_name(free.name + ending).exists() for ending in ("", *endings)):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
