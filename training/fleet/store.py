"""The artifact store: bundles by digest, and the list of them.

Owns the names (`<model>_<mode>/<sha256>/bundle.tar.zst`), the digest check, the limit of size and `index.jsonl`.
Guarantees that what `Upload.finish` returned is durable and hashes to its name, that memory stays flat, and that paths
are made of checked names alone. The bytes themselves are opaque; nothing here opens a bundle. The index is derived: the
database is the truth, and a start makes the file say what the database says. Leaves the database row to `queue`; the
order is file, row, line. Leaves file operations to `blobs`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, Final

from training.fleet.blobs.folder import Data, Folder, Part
from training.fleet.files import sync_folder, whole
from training.fleet.model.errors import (
    ConfigurationError,
    DigestMismatchError,
    FleetError,
    InvalidMessageError,
    ShortBodyError,
    TooLargeError,
    passing,
)
from training.fleet.model.jobs import MODES
from training.fleet.model.names import is_sha256

BUNDLE: Final = "bundle.tar.zst"
QUARANTINE: Final = "quarantine"
"""Folder below the store's root of what was found damaged."""
MAX_BYTES: Final = 8 * 2**30
"""Default limit of one upload."""
FLOOR_BYTES: Final = 256 * 2**20
"""Default of the free space that uploads leave to the database."""

_MODEL: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,63}")
_CHUNK_BYTES: Final = 2**20

_log = logging.getLogger(__name__)


def bundle_path(sha256: str, model: str, mode: str) -> str:
    """Return the path of a bundle below the store root.

    Raises:
        InvalidMessageError: One of the names could not stand in a path.
    """
    if not is_sha256(sha256):
        raise InvalidMessageError(f"found the artifact id {sha256!r}", expected="64 lower-case hex digits")
    if not _MODEL.fullmatch(model):
        raise InvalidMessageError(f"found the model {model!r}", expected="letters, digits and any of _.- in its name")
    if mode not in MODES:
        raise InvalidMessageError(f"found the mode {mode!r}", expected=f"one of {', '.join(MODES)}")
    return f"{model}_{mode}/{sha256}/{BUNDLE}"


class Store:
    """Artifacts of one receiver. Every method may be called from any thread; all of them may wait for the disk.

    Args:
        root: Folder of the artifacts.
        incoming: Folder of uploads under way, on the same file system.
        index_path: The list of artifacts, one JSON object a line.
        max_bytes: Largest upload.
        floor_bytes: Free space that no upload may touch.
        blobs: Where the bytes lie; a folder made of the arguments before when left out.
    """

    def __init__(
        self,
        root: Path,
        incoming: Path,
        index_path: Path,
        max_bytes: int = MAX_BYTES,
        floor_bytes: int = FLOOR_BYTES,
        *,
        blobs: Folder | None = None,
    ) -> None:
        self._blobs = blobs or Folder(root, incoming, floor_bytes)
        self._max_bytes = max_bytes
        self._index = _Index(index_path)

    def open(self) -> None:
        """Make the folders ready and remove what aborted uploads left.

        Raises:
            ConfigurationError: A folder or the index cannot be used as it is configured.
            FleetError: The disk refuses for now.
        """
        self._blobs.open()
        self._index.open()

    @property
    def broken(self) -> str:
        """What the disk failed at, for people; empty while all is well. A restart is needed once it says something."""
        return self._blobs.broken

    def watch(self, on_broken: Callable[[str], None]) -> None:
        """Have something called once when the disk fails, on the thread that saw it."""
        self._blobs.on_broken = on_broken

    def free_bytes(self) -> int:
        """Return the room left for uploads."""
        return self._blobs.free_bytes()

    def begin(self, sha256: str, model: str, mode: str, size_bytes: int) -> Upload:
        """Start an upload and take the room for all of it.

        Args:
            sha256: The artifact id: what the bytes will hash to.
            model: Model of the job.
            mode: Mode of the job.
            size_bytes: Declared length.

        Raises:
            InvalidMessageError: A name could not stand in a path.
            TooLargeError: Over the limit of one upload.
            StorageFullError: No room.
            UnavailableError: The disk has failed earlier, is read-only, or too many files are open.
        """
        path = bundle_path(sha256, model, mode)
        if size_bytes > self._max_bytes:
            raise TooLargeError(
                f"found an artifact of {size_bytes} bytes",
                "make it smaller or raise the receiver's limit",
                expected=f"at most {self._max_bytes}",
            )
        return Upload(self._blobs.begin(size_bytes), sha256, path, size_bytes)

    def has(self, sha256: str, model: str, mode: str) -> bool:
        """Say whether an artifact is here, durably."""
        return self._blobs.has(bundle_path(sha256, model, mode))

    def size_bytes(self, sha256: str, model: str, mode: str) -> int | None:
        """Return the length of an artifact's file, which is on the disk by then; None where there is none."""
        if not self.has(sha256, model, mode):
            return None
        with contextlib.suppress(FileNotFoundError):
            return self.path(sha256, model, mode).stat().st_size
        return None

    def proven_bytes(self, sha256: str, model: str, mode: str) -> int | None:
        """Read an artifact's file and return its length if it hashes to its name; else move it to the quarantine.

        For a file that no row vouches for: a copy by hand that was cut off has the right name as well. The caller
        lets one such reading run at a time, so that none moves away what another upload has just placed.

        Returns:
            None when no sound file is there, or any more.

        Raises:
            FleetError: The disk refuses.
        """
        path = self.path(sha256, model, mode)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
            if found == sha256:
                return size
            _log.warning("moved to %s, because it hashes to %s", quarantined(self._blobs.root, path, sha256), found)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._blobs.fault(f"read {path}", error) from error
        return None

    def path(self, sha256: str, model: str, mode: str) -> Path:
        """Return the full path of a bundle, whether it is here or not."""
        return self._blobs.path(bundle_path(sha256, model, mode))

    def sweep_incoming(self) -> int:
        """Remove the leftovers of uploads that no longer live, and return how many there were."""
        return self._blobs.sweep()

    def append_index(self, row: Mapping[str, object]) -> None:
        """Add an artifact to the list, after its database row is durable.

        A line that cannot be written now is written with the next one or by the next start; the artifact is safe
        without it.

        Args:
            row: At least `sha256`, `model` and `mode`; the same members in the same order as `rebuild_index` gets.
        """
        self._index.append(index_line(row))

    def rebuild_index(self, rows: Iterable[Mapping[str, object]]) -> bool:
        """Make the list say exactly what the database says. For the start, before the first upload.

        Args:
            rows: Every artifact in the order of the database; read once, so it may be a generator.

        Returns:
            True when the file was wrong and is written again.

        Raises:
            ConfigurationError: The file cannot be written.
            UnavailableError: Its disk refuses for now.
        """
        return self._index.rebuild(index_line(row) for row in rows)


def quarantined(store: Path, path: Path, sha256: str) -> Path:
    """Move a file where nobody takes it for an artifact, and return where; what is there already stays."""
    folder = store / QUARANTINE
    folder.mkdir(exist_ok=True)
    number = 1
    while (target := folder / f"{sha256}-{number}").exists():
        number += 1
    path.rename(target)
    for changed in (folder, path.parent, store):
        sync_folder(changed)
    with contextlib.suppress(OSError):
        path.parent.rmdir()
    return target


def index_row(artifact: Mapping[str, object]) -> dict[str, object]:
    """Return what `index.jsonl` says of an artifact besides its path."""
    return {name: artifact[name] for name in ("sha256", "model", "mode", "size_bytes")}


def index_line(row: Mapping[str, object]) -> bytes:
    """Return the line of `index.jsonl` that a row makes."""
    path = bundle_path(str(row["sha256"]), str(row["model"]), str(row["mode"]))
    return json.dumps({**row, "path": path}, separators=(",", ":")).encode() + b"\n"


class Upload:
    """One artifact on its way in. Ends with `finish` or `abort`; both leave no temporary file."""

    def __init__(self, part: Part, sha256: str, path: str, size_bytes: int) -> None:
        self._part = part
        self._sha256 = sha256
        self._path = path
        self._size_bytes = size_bytes
        self._received_bytes = 0
        self._hash = hashlib.sha256()
        self.new = False
        """After `finish`: whether this upload brought the artifact, rather than another one before it."""

    def write(self, data: Data) -> None:
        """Take the next bytes. Chunks of a MiB are fast: hashing and writing let other threads run meanwhile.

        Raises:
            TooLargeError: More bytes than declared.
            StorageFullError: The disk is full after all.
            FleetError: The disk failed.
        """
        self._received_bytes += len(data)
        if self._received_bytes > self._size_bytes:
            raise TooLargeError(f"found more than the declared {self._size_bytes} bytes", "send the upload again")
        self._hash.update(data)
        self._part.write(data)

    def finish(self) -> str:
        """Check the artifact and give it its name, durably.

        Returns:
            Its path below the store root.

        Raises:
            ShortBodyError: Fewer bytes than declared.
            DigestMismatchError: The bytes hash to something else.
            StorageFullError: The disk is full after all.
            FleetError: The disk failed.
        """
        try:
            self._check()
            self.new = self._part.place(self._path)
        finally:
            self.abort()
        return self._path

    def _check(self) -> None:
        if self._received_bytes != self._size_bytes:
            raise ShortBodyError(
                f"found {self._received_bytes} bytes",
                "send the upload again",
                expected=f"the declared {self._size_bytes}",
            )
        found = self._hash.hexdigest()
        if found != self._sha256:
            raise DigestMismatchError(
                f"found bytes that hash to {found}", "pack and send the artifact again", expected=self._sha256
            )

    def abort(self) -> None:
        """Remove the temporary file and nothing else. Does nothing after the end."""
        self._part.discard()


class _Index:
    """`index.jsonl`: a derived file that is whole after every start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._owed = b""

    def open(self) -> None:
        """Make the folder and an empty file where there is none."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab"):
                pass
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> FleetError:
        return passing(error, f"cannot write the index {self._path}: {error.strerror}", "look at its disk") or (
            ConfigurationError(
                f"cannot write the index: {error}",
                "correct --index-path",
                expected=f"{self._path} to be a file this user may write",
            )
        )

    def append(self, line: bytes) -> None:
        """Add a line whole, together with those that could not be written before."""
        with self._lock:
            self._owed += line
            try:
                with self._path.open("ab", buffering=0) as file:
                    self._add(file)
            except OSError as error:
                _log.warning("index not written, it is made again at the next start: %s", error)

    def _add(self, file: BinaryIO) -> None:
        before, rest = file.seek(0, os.SEEK_END), memoryview(self._owed)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(before)
            raise
        self._owed = b""

    def rebuild(self, lines: Iterable[bytes]) -> bool:
        """Compare the file with what it should be; from the first difference on, write it again."""
        with self._lock:
            try:
                changed = self._rebuild(lines)
            except OSError as error:
                raise self._unusable(error) from error
            self._owed = b""
            return changed

    def _rebuild(self, lines: Iterable[bytes]) -> bool:
        rest = iter(lines)
        with self._path.open("rb") as old:
            good = 0
            for line in rest:
                if old.readline(len(line) + 1) != line:
                    self._replace(old, good, line, rest)
                    return True
                good += len(line)
            if not old.read(1):
                return False
            self._replace(old, good, b"", rest)
            return True

    def _replace(self, old: BinaryIO, good: int, line: bytes, rest: Iterable[bytes]) -> None:
        with whole(self._path) as new:
            old.seek(0)
            while good:
                good -= new.write(old.read(min(good, _CHUNK_BYTES)))
            new.write(line)
            new.writelines(rest)
