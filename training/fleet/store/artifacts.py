"""The files of artifacts: bundles under their digest.

Guarantees that what `Upload.finish` returned is durable and hashes to its name, that memory stays flat, and that
nothing found damaged is deleted. The bytes themselves are opaque; nothing here opens a bundle. Leaves where bytes lie
to `blobs`, and which artifacts count to the rows of the database.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import BinaryIO, Final

from training.fleet.blobs import Blobs, Data, NewBlob
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.errors import DigestMismatchError, ShortBodyError, TooLargeError
from training.fleet.store.turns import Turns

QUARANTINE: Final = "quarantine"
"""Folder below the store's root of what was found damaged."""
MAX_BYTES: Final = 8 * 2**30
"""Default limit of one upload."""
FLOOR_BYTES: Final = 256 * 2**20
"""Default of the free space that uploads leave to the database."""

_CHUNK_BYTES: Final = 2**20

_log = logging.getLogger(__name__)


class Store:
    """Artifacts of one receiver. Every method may be called from any thread; all of them may wait for the disk.

    Args:
        blobs: Where the bytes lie.
        max_bytes: Largest upload.

    Attributes:
        blobs: Where the bytes lie.
        turns: Whose files change now.
    """

    def __init__(self, blobs: Blobs, max_bytes: int = MAX_BYTES) -> None:
        self.blobs = blobs
        self.turns = Turns()
        self._max_bytes = max_bytes

    @property
    def broken(self) -> str:
        """What the disk failed at, for people; empty while all is well. A restart is needed once it says something."""
        return self.blobs.broken

    def watch(self, on_broken: Callable[[str], None]) -> None:
        """Have something called once when the disk fails, on the thread that saw it."""
        self.blobs.on_broken = on_broken

    def free_bytes(self) -> int:
        """Return the room left for uploads."""
        return self.blobs.free_bytes()

    def begin(self, key: ArtifactKey, size_bytes: int) -> Upload:
        """Start an upload and take the room for all of it.

        Args:
            key: The artifact; the bytes will hash to its id.
            size_bytes: Declared length.

        Raises:
            InvalidMessageError: A name could not stand in a path.
            TooLargeError: Over the limit of one upload.
            StorageFullError: No room.
            UnavailableError: The disk has failed earlier, is read-only, or too many files are open.
        """
        path = key.path
        if size_bytes > self._max_bytes:
            raise TooLargeError(
                f"found an artifact of {size_bytes} bytes",
                "make it smaller or raise the receiver's limit",
                expected=f"at most {self._max_bytes}",
            )
        return self.begin_file(path, key.sha256, size_bytes)

    def begin_file(self, path: str, sha256: str, size_bytes: int) -> Upload:
        """Start the upload of a small file beside a bundle; the caller has judged its length."""
        return Upload(self.blobs.begin(size_bytes), sha256, path, size_bytes)

    def has(self, key: ArtifactKey) -> bool:
        """Return True if an artifact is here, durably."""
        return self.blobs.has(key.path)

    def size_bytes(self, key: ArtifactKey) -> int | None:
        """Return the length of an artifact's file, which is on the disk by then; None where there is none."""
        if self.has(key) and (found := self.blobs.stat(key.path)) is not None:
            return found.size_bytes
        return None

    def remove(self, key: ArtifactKey) -> None:
        """Remove all files of an artifact, durably; what is gone already is fine. The caller holds its turn.

        Raises:
            FleetError: The disk refuses.
        """
        folder = f"{key.folder}/"
        try:
            # The bundle last: as long as it is there, the folder says whose the other files are.
            for blob in sorted(self.blobs.list(folder), key=lambda blob: blob.key == key.path):
                self.blobs.delete(blob.key)
        except OSError as error:
            raise self.blobs.fault(f"remove {folder}", error) from error

    def proven_bytes(self, key: ArtifactKey) -> int | None:
        """Read an artifact's file and return its length if it hashes to its name; else move it to the quarantine.

        For a file that no row vouches for: a copy by hand that was cut off has the right name as well. The caller
        lets one such reading run at a time, so that none moves away what another upload has just placed.

        Returns:
            None when no sound file is there, or any more.

        Raises:
            FleetError: The disk refuses.
        """
        try:
            with self.blobs.open(key.path) as file:
                found, size_bytes = measured(file)
            if found == key.sha256:
                return size_bytes
            _log.warning("moved to %s, because it hashes to %s", quarantine(self.blobs, key.path, key.sha256), found)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.blobs.fault(f"read {key.path}", error) from error
        return None


def quarantine(blobs: Blobs, path: str, sha256: str) -> str:
    """Move a file to where nobody takes it for what it should be, and return where; what is there already stays."""
    number = 1
    while blobs.stat(target := f"{QUARANTINE}/{sha256}-{number}") is not None:
        number += 1
    blobs.move(path, target)
    return blobs.address(target)


def measured(file: BinaryIO) -> tuple[str, int]:
    """Return the SHA-256, in hex, and the length of what is left of an open file."""
    found, size_bytes = hashlib.sha256(), 0
    while data := file.read(_CHUNK_BYTES):
        found.update(data)
        size_bytes += len(data)
    return found.hexdigest(), size_bytes


class Upload:
    """One artifact on its way in. Ends with `finish` or `abort`; both leave no temporary file."""

    def __init__(self, blob: NewBlob, sha256: str, path: str, size_bytes: int) -> None:
        self._blob = blob
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
        self._blob.write(data)

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
            self.new = self._blob.place(self._path)
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
        self._blob.discard()
