"""Which hosts fail everything they are given.

Owns the evidence: the jobs that failed on a host since a job was last completed there. A job that failed on a second
host as well is evidence against neither, because the fault is its own. Guarantees that a result clears its host at
once, and that all is forgotten at a restart. Leaves to `waits` how long a suspect waits, and to `endings` what its
failures cost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

BLAMED: Final = frozenset({"trainer_error", "no_artifact", "timeout", "stalled"})
"""Kinds that speak against a host where everything ends so. Memory that ran out has been explained by sizes already."""
FAILURES: Final = 3
"""Attempts in a row that must fail on a host before it is a suspect, while another host could have taken the job."""
JOBS: Final = 2
"""Different jobs among them: one job that fails again and again is more likely wrong itself."""
JOBS_ALONE: Final = 12
"""Different jobs that must fail in a row where no other host is heard that could run them: there is nobody to ask."""
MAX_KEPT: Final = 32
"""Jobs that are remembered for each host."""


class Suspects:
    """The evidence against hosts. Changed on the writer thread; reading is safe from any thread."""

    def __init__(self) -> None:
        self._failed: dict[str, dict[int, int]] = {}
        self._suspected: dict[str, int] = {}

    def is_suspect(self, worker: str) -> bool:
        """Return True if a host fails everything it is given."""
        return worker in self._suspected

    def jobs_failed(self, worker: str) -> int:
        """Return how many jobs have failed on a suspect since its last result, 0 for other hosts."""
        return self._suspected.get(worker, 0)

    def names(self) -> list[str]:
        """Return the suspects."""
        return sorted(self._suspected)

    def would_be(self, worker: str, seq: int, *, others: bool) -> bool:
        """Return True if a host is a suspect once this job has failed there as well.

        Args:
            worker: The host.
            seq: The job.
            others: Another host that is heard could run the job.
        """
        failed = self._with(worker, seq)
        jobs = self._telling(worker, failed)
        if not others:
            return len(jobs) >= JOBS_ALONE
        return len(jobs) >= JOBS and sum(failed[job] for job in jobs) >= FAILURES

    def note_failure(self, worker: str, seq: int, *, suspect: bool) -> Callable[[], None]:
        """Take in that a job failed on a host, at once; return what undoes it.

        Args:
            worker: The host.
            seq: The job.
            suspect: What `would_be` said.
        """
        # All of it, because taking in one failure may acquit other hosts too.
        before = {name: dict(jobs) for name, jobs in self._failed.items()}, dict(self._suspected)
        failed = self._failed[worker] = self._with(worker, seq)
        # A host that fails for days must not fill the memory.
        while len(failed) > MAX_KEPT:
            del failed[next(iter(failed))]
        if suspect:
            # What was told never falls while the host stays a suspect, though its oldest jobs are forgotten.
            self._suspected[worker] = max(len(self._telling(worker, failed)), self.jobs_failed(worker))
        self._acquit()

        def undo() -> None:
            self._failed, self._suspected = before

        return undo

    def clear(self, worker: str) -> None:
        """Forget what speaks against a host, because it completed a job."""
        self._suspected.pop(worker, None)
        failed = self._failed.pop(worker, {})
        for jobs in self._failed.values():  # what failed on a host that works failed by its own fault
            for seq in failed.keys() & jobs.keys():
                del jobs[seq]
        self._acquit()

    def _acquit(self) -> None:
        """Take back a suspicion whose jobs have failed elsewhere too."""
        for name in self.names():
            if len(self._telling(name, self._failed.get(name, {}))) < JOBS:
                del self._suspected[name]

    def _with(self, worker: str, seq: int) -> dict[int, int]:
        known = self._failed.get(worker, {})
        return {**known, seq: known.get(seq, 0) + 1}

    def _telling(self, worker: str, failed: dict[int, int]) -> list[int]:
        """Return the jobs that failed on this host alone."""
        others = [jobs for name, jobs in self._failed.items() if name != worker]
        return [seq for seq in failed if not any(seq in jobs for jobs in others)]
