"""How many jobs have which status, and who is told that something changed.

Owns the counts, the number of the newest change and the bell for newly claimable jobs. Guarantees that all of it
follows committed changes only, because a parked claim that is woken too early finds nothing and sleeps again.
"""

from __future__ import annotations

import itertools
import secrets
from collections import Counter
from collections.abc import Callable, Mapping

from training.fleet.database import Transaction
from training.fleet.database.queries import COUNTS
from training.fleet.model.jobs import STATUSES

Ready = Mapping[int, int]
"""Number of newly claimable jobs by requirement."""


class Tally:
    """The counts.

    Attributes:
        revision: Another number after every change that a list can show, progress included; starts anywhere.
    """

    def __init__(self) -> None:
        # From anywhere, so that who kept a number over a restart is not told that nothing has changed.
        self._revisions = itertools.count(secrets.randbits(40))
        self.revision = next(self._revisions)
        self._counts: Counter[str] = Counter()
        self._ring: Callable[[Ready], None] = lambda _ready: None

    def start(self, tx: Transaction) -> None:
        """Count the jobs of the database."""
        self._counts = Counter({count.status: count.jobs for count in tx.all(COUNTS)})

    def on_ready(self, callback: Callable[[Ready], None]) -> None:
        """Call back on the writer thread, after each commit, with requirement id to number of newly claimable jobs."""
        self._ring = callback

    def counts(self) -> dict[str, int]:
        """Return the number of jobs by status; all six are there. Safe from any thread."""
        return {status: self._counts[status] for status in STATUSES}

    @property
    def jobs(self) -> int:
        """How many jobs there are."""
        return sum(self._counts.values())

    def moved(self, tx: Transaction, before: str, after: str, ready: int | None = None) -> None:
        """Let counts, change counter and parked claims follow once the change is durable.

        Args:
            tx: The change.
            before: The status the job had.
            after: The status it has.
            ready: Requirement of the job when it became claimable, else None.
        """

        def follow() -> None:
            # Counts change after the commit, so that a list and its counts never speak of a change that was lost.
            self.touch()
            self._counts[before] -= 1
            self._counts[after] += 1
            if ready is not None:
                self._ring({ready: 1})

        tx.after_commit(follow)

    def added(self, tx: Transaction, ready: Ready) -> None:
        """Let everything follow new jobs, all of which are claimable, once they are durable."""

        def follow() -> None:
            self._counts["pending"] += sum(ready.values())
            self.touch()
            self._ring(dict(ready))

        tx.after_commit(follow)

    def announce(self, ready: Ready) -> None:
        """Ring for jobs that are claimable now; to be called after the commit."""
        self._ring(ready)

    def touch(self) -> None:
        """Note a change that a list can show."""
        # Beats come from another thread: adding to the number could lose a change, taking the next one cannot.
        self.revision = next(self._revisions)
