"""Taking artifacts in, in the one order that survives a power cut: file, row, line of the index.

Owns that order, and what is done where a file is there already. Guarantees that a row is written only for a file that
is durable and hashes to its name, and that the lines of the index have the order of the rows. Knows of the database
only what `Rows` says; leaves leases and turns to the callers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.errors import DigestMismatchError
from training.fleet.store.artifacts import Store, Upload
from training.fleet.store.index import Index, Listed, index_line, index_lines


class Rows(Protocol):
    """The rows of artifacts, as far as an upload needs them. Each call waits until it is durable."""

    def size_bytes(self, key: ArtifactKey, /) -> int | None:
        """Return the length that an artifact's row says, None without a row, or with one that says it is gone."""

    def add(self, key: ArtifactKey, size_bytes: int, then: Callable[[], None], /) -> bool:
        """Write a row where there is none; if so, call back once it is durable, in the order of the rows.

        Returns:
            True where there was one that said the artifact is gone, which it does no longer.
        """

    def following(self, covered: Callable[[], None], /) -> Iterator[Listed]:
        """Yield every artifact in the order they came while more come; call back with the last one read."""


class Intake:
    """Takes artifacts in. Every method may be called from any thread, and waits for the disk.

    Args:
        store: The files.
        rows: The rows.
        index: The list.
    """

    def __init__(self, store: Store, rows: Rows, index: Index) -> None:
        self._store = store
        self._rows = rows
        self._index = index
        self._proving = threading.Lock()
        self.stale = False
        """Whether the list says something else than the rows, because it could not be written again."""

    def known(self, key: ArtifactKey, size_bytes: int) -> bool:
        """Return True when the store holds the artifact, with its row, so that nothing of an upload need be read.

        Raises:
            DigestMismatchError: The upload declares another length than the artifact has.
            FleetError: The disk refuses.
        """
        with self._store.turns.held([key]):
            return self._known(key, size_bytes)

    def _known(self, key: ArtifactKey, size_bytes: int) -> bool:
        row_bytes, found = self._rows.size_bytes(key), self._store.size_bytes(key)
        if found is not None and found != row_bytes:
            # Neither the file's name nor what the upload declares says what the file holds. Reading it is rare: a crash
            # between file and row, an older database beside a newer store, a copy by hand.
            with self._proving:
                found = self._store.proven_bytes(key)
        if found is None:
            return False
        if found != size_bytes:
            raise DigestMismatchError(
                f"found a declared length of {size_bytes} bytes; the artifact is {found} bytes long, so other bytes "
                f"cannot hash to {key.sha256}",
                "pack and send the artifact again",
            )
        if row_bytes is None:
            self._record(key, found)
        return True

    def begin(self, key: ArtifactKey, size_bytes: int) -> Upload:
        """Start an upload; see `Store.begin`."""
        return self._store.begin(key, size_bytes)

    def finish(self, upload: Upload, key: ArtifactKey, size_bytes: int) -> None:
        """Give a whole upload its name, then its row, then its line.

        Raises:
            DigestMismatchError: The bytes hash to something else; nothing is kept.
            FleetError: See `Upload.finish`; or the row was refused, and a repeated upload finds the file.
        """
        with self._store.turns.held([key]):
            upload.finish()
            self._record(key, size_bytes)

    def _record(self, key: ArtifactKey, size_bytes: int) -> None:
        # Called back on the writer's thread, one after the other: so the lines come in the order of the rows.
        line = index_line(key, size_bytes)
        if self._rows.add(key, size_bytes, lambda: self._index.owe(line)) or self.stale:
            self.relist()
        self._index.pay()

    def relist(self) -> None:
        """Write the whole list again, because the row of an artifact that it has says something else now."""
        self.stale = not self._index.rewrite(index_lines(self._rows.following(self._index.covered)))
