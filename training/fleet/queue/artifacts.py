"""The rows of stored artifacts, and under which lease one may be stored."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Final

from training.fleet.database import Database, Transaction
from training.fleet.database.queries import (
    ARTIFACT_ROWS,
    ARTIFACT_TOTALS,
    ARTIFACTS,
    JOB_IDS_OF_ARTIFACT,
    LEASE,
    PARTS,
    ArtifactLengthRow,
    ArtifactRow,
    PartRow,
)
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.errors import StaleLeaseError
from training.fleet.model.parts import MAX_PARTS, MAX_PARTS_BYTES
from training.fleet.queue.clock import FleetClock
from training.fleet.queue.standing import adoptable, demand_result, live, stale

PAGE: Final = 5000
"""Rows that are read at a time."""


class Artifacts:
    """The rows of artifacts, and their totals, which are counted once and then kept."""

    def __init__(self, clock: FleetClock) -> None:
        self._clock = clock
        self._totals: list[int] | None = None

    def lease_for_upload(self, tx: Transaction, lease_id: str, sha256: str) -> tuple[str, ArtifactKey]:
        """Return the job of a lease, and the key of an artifact that is uploaded under it.

        Raises:
            StaleLeaseError: The lease is over, or there never was one.
            OtherResultError: It has completed its job with another artifact.
        """
        row = tx.one(LEASE, lease_id=lease_id)
        if row is None:
            raise StaleLeaseError("no such lease", "stop the trainer and claim again")
        # The answer to the upload may have been lost after the job was completed with it.
        if row.outcome == "completed":
            demand_result(row, sha256)
        elif not (live(row) or adoptable(row)):
            raise stale(row)
        return row.id, ArtifactKey(sha256, row.model, row.mode)

    def size_bytes(self, tx: Transaction, key: ArtifactKey) -> int | None:
        """Return the length of an artifact as its row says, None without a row, or with one that says it is gone."""
        rows = tx.all(ARTIFACT_ROWS, sha256=key.sha256)
        same = ((row.size_bytes, row.gone) for row in rows if (row.model, row.mode) == (key.model, key.mode))
        return next((size_bytes for size_bytes, gone in same if gone is None), None)

    def add(self, tx: Transaction, key: ArtifactKey, size_bytes: int) -> bool:
        """Note an artifact whose file is durable; True when it is new."""
        new = tx.run("add_artifact", **asdict(key), size_bytes=size_bytes, at=self._clock.label()) == 1
        if new:
            self._count(tx, 1, size_bytes)
        return new

    def bring_back(self, tx: Transaction, key: ArtifactKey, size_bytes: int) -> bool:
        """Note that the files of an artifact that was gone are here again; False when it was not gone."""
        back = tx.run("bring_artifact_back", **asdict(key), size_bytes=size_bytes, at=self._clock.label()) == 1
        if back:
            self._count(tx, 1, size_bytes)
        return back

    def _count(self, tx: Transaction, artifacts: int, size_bytes: int) -> None:
        """Let the totals follow a change, once it is durable."""

        def follow() -> None:
            if self._totals is not None:
                self._totals[0] += artifacts
                self._totals[1] += size_bytes

        tx.after_commit(follow)

    def lose(self, tx: Transaction, key: ArtifactKey) -> None:
        """Note that the file of an artifact is missing."""
        size_bytes = self.size_bytes(tx, key)
        if size_bytes is not None and tx.run("lose_artifact", **asdict(key), at=self._clock.label()):
            self._count(tx, -1, -size_bytes)

    def prune(self, tx: Transaction, seq: int, key: ArtifactKey) -> None:
        """Note that an artifact is pruned; its files are removed afterwards."""
        size_bytes = self.size_bytes(tx, key)
        if size_bytes is not None and tx.run("prune_artifact", seq=seq, at=self._clock.label()):
            self._count(tx, -1, -size_bytes)

    def of(self, tx: Transaction, sha256: str) -> list[ArtifactLengthRow]:
        """Return the rows of the artifacts that have these bytes; one for each model and mode, mostly one."""
        return tx.all(ARTIFACT_ROWS, sha256=sha256)

    def jobs(self, tx: Transaction, key: ArtifactKey) -> list[str]:
        """Return the ids of the jobs whose result an artifact is."""
        return [row.id for row in tx.all(JOB_IDS_OF_ARTIFACT, **asdict(key))]

    def parts(self, tx: Transaction, key: ArtifactKey) -> list[PartRow]:
        """Return the small files of an artifact, by name."""
        return tx.all(PARTS, **asdict(key))

    def add_part(self, tx: Transaction, key: ArtifactKey, part: PartRow) -> bool:
        """Note a small file of an artifact; False when it is noted, is one too many, or the artifact has no row.

        The limits are counted by the statement itself, so that two uploads at once do not pass them together.
        """
        names = {**asdict(key), "name": part.name, "size_bytes": part.size_bytes, "part_sha256": part.sha256}
        return tx.run("add_part", **names, most=MAX_PARTS, most_bytes=MAX_PARTS_BYTES) == 1

    def page(self, tx: Transaction, after: int, limit: int) -> list[ArtifactRow]:
        """Return stored artifacts in the order they came."""
        return tx.all(ARTIFACTS, after=after, limit=limit)

    def totals(self, tx: Transaction) -> tuple[int, int]:
        """Return how many artifacts are stored and their bytes together."""
        # Counting them reads every row; from then on the totals follow each new artifact.
        if self._totals is None:
            row = tx.one(ARTIFACT_TOTALS)
            assert row is not None
            self._totals = [row.artifacts, row.size_bytes]
        return self._totals[0], self._totals[1]


class StoredRows:
    """The rows of artifacts for who works beside the writer's thread: each call is one transaction, and waits for it.

    Args:
        database: The database.
        artifacts: The rows.
    """

    def __init__(self, database: Database, artifacts: Artifacts) -> None:
        self._database = database
        self._artifacts = artifacts

    def size_bytes(self, key: ArtifactKey) -> int | None:
        """Return the length of an artifact as its row says, None without a row, or with one that says it is gone."""
        return self._database.submit(lambda tx: self._artifacts.size_bytes(tx, key)).result()

    def add(self, key: ArtifactKey, size_bytes: int, then: Callable[[], None]) -> bool:
        """Note an artifact whose file is durable; if it is new, call back once its row is, in the order of the rows.

        Returns:
            True when it is not new and was gone.
        """

        def change(tx: Transaction) -> bool:
            if self._artifacts.add(tx, key, size_bytes):
                tx.after_commit(then)
                return False
            return self._artifacts.bring_back(tx, key, size_bytes)

        return self._database.submit(change).result()

    def parts(self, key: ArtifactKey) -> list[PartRow] | None:
        """Return the small files of an artifact, None where the artifact has no row."""

        def look(tx: Transaction) -> list[PartRow] | None:
            return None if self._artifacts.size_bytes(tx, key) is None else self._artifacts.parts(tx, key)

        return self._database.submit(look).result()

    def add_part(self, key: ArtifactKey, part: PartRow) -> bool:
        """Note a small file of an artifact; see `Artifacts.add_part`."""
        return self._database.submit(lambda tx: self._artifacts.add_part(tx, key, part)).result()

    def __iter__(self) -> Iterator[tuple[ArtifactKey, int, str | None]]:
        """Yield every artifact in the order they came, page by page: key, length, and when it was pruned."""
        return self.following(lambda: None)

    def following(self, covered: Callable[[], None]) -> Iterator[tuple[ArtifactKey, int, str | None]]:
        """Yield every artifact as above while more come; call back on the writer's thread with the last one read."""

        def page(tx: Transaction, after: int) -> list[ArtifactRow]:
            found = self._artifacts.page(tx, after, PAGE)
            if len(found) < PAGE:
                tx.after_commit(covered)
            return found

        after, more = 0, True
        while more:
            rows = self._database.submit(functools.partial(page, after=after)).result()
            yield from (listed(row) for row in rows)
            more = len(rows) == PAGE
            after = rows[-1].seq if rows else after


def listed(row: ArtifactRow) -> tuple[ArtifactKey, int, str | None]:
    """Return an artifact as the list for people has it: key, length, and when it was pruned."""
    return row.key, row.size_bytes, row.gone_at if row.gone == "pruned" else None
