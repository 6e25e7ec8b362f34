"""Taking the parts of artifacts in: small files beside a bundle, each of them file first, then row.

Owns that order. Guarantees that a part with a row is durable and hashes to what the row says, that all parts of an
artifact stay within the limits, and that a part once noted is never replaced. Leaves leases and turns to the callers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from training.fleet.database.queries import PartRow
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.errors import ArtifactMissingError, ConflictError, TooLargeError
from training.fleet.model.parts import MAX_PARTS, MAX_PARTS_BYTES
from training.fleet.store.artifacts import Store, Upload


class PartRows(Protocol):
    """The rows of parts, as far as an upload needs them. Each call waits until it is durable."""

    def parts(self, key: ArtifactKey, /) -> list[PartRow] | None:
        """Return the parts of an artifact, None where the artifact has no row."""

    def add_part(self, key: ArtifactKey, part: PartRow, /) -> bool:
        """Write a row, unless the part has one or the limits would be passed; return whether it was written."""


@dataclass(frozen=True, slots=True)
class PartUpload:
    """One part on its way in.

    Attributes:
        key: Its artifact.
        row: The row that it will have.
        upload: Its bytes.
    """

    key: ArtifactKey
    row: PartRow
    upload: Upload


class PartIntake:
    """Takes parts in. Every method may be called from any thread, and waits for the disk.

    Args:
        store: The files.
        rows: The rows.
    """

    def __init__(self, store: Store, rows: PartRows) -> None:
        self._store = store
        self._rows = rows

    def known(self, key: ArtifactKey, part: PartRow) -> bool:
        """Return True if a part is here, with its row, so that nothing of an upload need be read.

        Raises:
            ArtifactMissingError: The artifact is not here; its bundle comes first.
            ConflictError: There is another part of that name.
            TooLargeError: There is no room for it beside the artifact's other parts.
            FleetError: The disk refuses.
        """
        there = {row.name: row for row in self._demanded(key)}
        found = there.get(part.name)
        if found is None:
            self._demand_room(part, list(there.values()))
            return False
        if found != part:
            raise ConflictError(
                f"the artifact has another {part.name} already: {found.size_bytes} bytes that hash to {found.sha256}",
                "leave it out",
                expected="the same bytes each time, because the same bundle holds them",
            )
        return self._store.blobs.has(key.file(part.name))

    def _demanded(self, key: ArtifactKey) -> list[PartRow]:
        found = self._rows.parts(key)
        if found is None:
            raise ArtifactMissingError(f"no artifact {key.sha256} is stored", "upload the bundle first")
        return found

    @staticmethod
    def _demand_room(part: PartRow, others: list[PartRow]) -> None:
        taken = sum(other.size_bytes for other in others)
        if len(others) >= MAX_PARTS or taken + part.size_bytes > MAX_PARTS_BYTES:
            raise TooLargeError(
                f"found {part.size_bytes} bytes for {part.name}, beside {len(others)} parts of {taken} bytes",
                "leave it out; the bundle has it",
                expected=f"at most {MAX_PARTS} parts of {MAX_PARTS_BYTES} bytes together",
            )

    def begin(self, key: ArtifactKey, part: PartRow) -> PartUpload:
        """Start an upload; see `Store.begin`."""
        return PartUpload(key, part, self._store.begin_file(key.file(part.name), part.sha256, part.size_bytes))

    def finish(self, part: PartUpload) -> None:
        """Give a whole part its name, then its row.

        Raises:
            DigestMismatchError: The bytes hash to something else; nothing is kept.
            ConflictError: Another upload has brought a part of that name meanwhile.
            TooLargeError: Others have taken the room meanwhile; nothing is kept.
            FleetError: The disk refuses.
        """
        key, row = part.key, part.row
        path = key.file(row.name)
        with self._store.turns.held([key]):
            # The turn is held from a file's name to its row: a file without a row was then left by a crash.
            noted = any(other.name == row.name for other in self._demanded(key))
            if not noted:
                self._remove(path)
            part.upload.finish()
            if noted:
                self.known(key, row)
            elif not self._rows.add_part(key, row):
                self._remove(path)
                self._demand_room(row, self._demanded(key))

    def _remove(self, path: str) -> None:
        try:
            self._store.blobs.delete(path)
        except OSError as error:
            raise self._store.blobs.fault(f"remove {path}", error) from error
