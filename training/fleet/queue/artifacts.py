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
        """Return the length of an artifact as its row says, None without a row."""
        rows = tx.all(ARTIFACT_ROWS, sha256=key.sha256)
        return next((row.size_bytes for row in rows if (row.model, row.mode) == (key.model, key.mode)), None)

    def add(self, tx: Transaction, key: ArtifactKey, size_bytes: int) -> bool:
        """Note an artifact whose file is durable; True when it is new."""
        new = tx.run("add_artifact", **asdict(key), size_bytes=size_bytes, at=self._clock.label()) == 1
        if new:

            def follow() -> None:
                # Without totals the first count reads this row as well.
                if self._totals is not None:
                    self._totals[0] += 1
                    self._totals[1] += size_bytes

            tx.after_commit(follow)
        return new

    def of(self, tx: Transaction, sha256: str) -> list[ArtifactKey]:
        """Return the artifacts that have these bytes; one for each model and mode, mostly one."""
        return [ArtifactKey(sha256, row.model, row.mode) for row in tx.all(ARTIFACT_ROWS, sha256=sha256)]

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
        """Return the length of an artifact as its row says, None without a row."""
        return self._database.submit(lambda tx: self._artifacts.size_bytes(tx, key)).result()

    def add(self, key: ArtifactKey, size_bytes: int, then: Callable[[], None]) -> None:
        """Note an artifact whose file is durable; if it is new, call back once its row is, in the order of the rows."""

        def change(tx: Transaction) -> None:
            if self._artifacts.add(tx, key, size_bytes):
                tx.after_commit(then)

        self._database.submit(change).result()

    def parts(self, key: ArtifactKey) -> list[PartRow] | None:
        """Return the small files of an artifact, None where the artifact has no row."""

        def look(tx: Transaction) -> list[PartRow] | None:
            return None if self._artifacts.size_bytes(tx, key) is None else self._artifacts.parts(tx, key)

        return self._database.submit(look).result()

    def add_part(self, key: ArtifactKey, part: PartRow) -> bool:
        """Note a small file of an artifact; see `Artifacts.add_part`."""
        return self._database.submit(lambda tx: self._artifacts.add_part(tx, key, part)).result()

    def __iter__(self) -> Iterator[tuple[ArtifactKey, int]]:
        """Yield every artifact with its length in the order they came, page by page."""
        # A transaction for each page, so that claims have their turn between two of them.
        page = functools.partial(self._artifacts.page, after=0, limit=PAGE)
        while rows := self._database.submit(page).result():
            yield from ((row.key, row.size_bytes) for row in rows)
            page = functools.partial(self._artifacts.page, after=rows[-1].seq, limit=PAGE)
