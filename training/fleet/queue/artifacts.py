"""The rows of stored artifacts, and under which lease one may be stored."""

from __future__ import annotations

from training.fleet.database import Transaction
from training.fleet.database.queries import ARTIFACT_ROWS, ARTIFACT_TOTALS, ARTIFACTS, LEASE, ArtifactRow
from training.fleet.model.errors import StaleLeaseError
from training.fleet.queue.clock import FleetClock
from training.fleet.queue.standing import adoptable, demand_result, live, stale


class Artifacts:
    """The rows of artifacts, and their totals, which are counted once and then kept."""

    def __init__(self, clock: FleetClock) -> None:
        self._clock = clock
        self._totals: list[int] | None = None

    def lease_for_upload(self, tx: Transaction, lease_id: str, sha256: str) -> tuple[str, str, str]:
        """Return job id, model and mode of the lease an artifact is uploaded under, see `Queue.lease_for_upload`."""
        row = tx.one(LEASE, lease_id=lease_id)
        if row is None:
            raise StaleLeaseError("no such lease", "stop the trainer and claim again")
        # The answer to the upload may have been lost after the job was completed with it.
        if row.outcome == "completed":
            demand_result(row, sha256)
        elif not (live(row) or adoptable(row)):
            raise stale(row)
        return row.id, row.model, row.mode

    def size_bytes(self, tx: Transaction, sha256: str, model: str, mode: str) -> int | None:
        """Return the length of an artifact as its row says, None without a row."""
        rows = tx.all(ARTIFACT_ROWS, sha256=sha256)
        return next((row.size_bytes for row in rows if (row.model, row.mode) == (model, mode)), None)

    def add(self, tx: Transaction, sha256: str, size_bytes: int, model: str, mode: str) -> bool:
        """Note an artifact whose file is durable; True when it is new."""
        at = self._clock.label()
        new = tx.run("add_artifact", sha256=sha256, size_bytes=size_bytes, model=model, mode=mode, at=at) == 1
        if new:

            def follow() -> None:
                if self._totals is not None:
                    self._totals[0] += 1
                    self._totals[1] += size_bytes

            tx.after_commit(follow)
        return new

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
