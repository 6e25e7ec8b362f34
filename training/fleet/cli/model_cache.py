"""The cache of results: a folder for each artifact, by digest, below the user's own cache folder.

Guarantees that it stays below its limit, apart from the newest entry: who was not used for longest goes first. A file
in it is never trusted, because the transfer compares its digest each time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from training.fleet.model.errors import ConfigurationError
from training.fleet.model.names import is_sha256

CACHE_BYTES: Final = 4 * 2**30
"""What it may hold: some hundred models of the usual size, and a disk of a laptop does not notice."""


class ModelCache:
    """The cache.

    Args:
        root: Its folder.
        limit_bytes: What it may hold.
    """

    def __init__(self, root: Path, limit_bytes: int = CACHE_BYTES) -> None:
        self.root = root
        self._limit_bytes = limit_bytes

    @classmethod
    def of_user(cls, environ: Mapping[str, str]) -> ModelCache:
        """Return the cache of the person who runs this.

        Raises:
            ConfigurationError: This account has no home folder.

        Source: XDG Base Directory Specification; FOLDERID_LocalAppData.
        """
        try:
            if os.name == "nt":
                base = Path(environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
            else:
                named = environ.get("XDG_CACHE_HOME", "")
                base = Path(named) if named.startswith("/") else Path.home() / ".cache"
        except RuntimeError:
            raise ConfigurationError("found no home folder of this account", "set XDG_CACHE_HOME to a folder") from None
        return cls(base / "cis490" / "results")

    def entry(self, sha256: str) -> Path:
        """Return the folder of an artifact, which counts as used now.

        Raises:
            ConfigurationError: It cannot be made.
        """
        path = self.root / sha256
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.utime(path)
        except OSError as fault:
            raise ConfigurationError(
                f"cannot make the folder {path} ({fault.strerror})", "set XDG_CACHE_HOME to a folder of yours"
            ) from None
        return path

    def shrink(self, keep: Path) -> None:
        """Delete what was not used for longest until the rest is below the limit; the entry in use stays."""
        entries = [path for path in self.root.iterdir() if is_sha256(path.name) and path != keep]
        total = sum(map(_size_bytes, [*entries, keep]))
        for path in sorted(entries, key=_used_at):
            if total <= self._limit_bytes:
                return
            total -= _size_bytes(path)
            # What another program has open on Windows stays until the next time.
            shutil.rmtree(path, ignore_errors=True)


def _used_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size_bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.lstat().st_size
        except OSError:
            continue  # another run has just deleted it
    return total
