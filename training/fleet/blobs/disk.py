"""The calls to the operating system that a folder of blobs makes."""

from __future__ import annotations

import os
from pathlib import Path

from training.fleet.blobs.protocol import Data


class System:
    """The calls to the operating system, in one place so that a test can make each of them fail."""

    def create(self, path: Path) -> int:
        """Return a descriptor of a new file, open for writing."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)

    def reserve(self, descriptor: int, start: int, size_bytes: int) -> None:
        """Take the room for the next part of a file, so that a full disk is found before its bytes are written."""
        os.posix_fallocate(descriptor, start, size_bytes)

    def write(self, descriptor: int, data: Data) -> int:
        """Write some of the bytes and return how many."""
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Return when a file or folder is on the disk."""
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file within one file system."""
        source.rename(target)

    def free_bytes(self, folder: Path) -> int:
        """Return the room left for an ordinary user."""
        found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize

    def writable(self, folder: Path) -> bool:
        """Return True if files can be made in a folder: it is there, this user may, and its disk is not read-only.

        Source: POSIX, access, EROFS; it holds for root as well.
        """
        return os.access(folder, os.W_OK | os.X_OK)
