"""Who waits for what: jobs after a failure, and hosts that gave jobs back.

Owns the back-offs of jobs and the growing delays of hosts. Guarantees that they end with the receiver: a restart
offers everything again. Leaves what an ending costs to `endings`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from training.fleet.database import Transaction
from training.fleet.model.jobs import Terms
from training.fleet.queue.delays import Delays
from training.fleet.queue.suspects import Suspects

FREE_ENDS: Final = 8
"""Attempts without a result that a host may have in a row before it waits for its next job: what a flaky network, or an
owner who comes and goes, brings about in a day."""


class Waits:
    """Everything that waits for time to pass, leases aside.

    Args:
        clock: Monotonic seconds.
        terms: Time limits.
        jitter: A number from 0 to 1 for each back-off.

    Attributes:
        apart: Hosts that are not offered a job they gave back, by host and job number.
        held_back: Hosts that are offered nothing, because they end attempts without a result again and again.
        suspects: Hosts that fail everything they are given.
        probed: How long each of them waits for its next job.
        full: Workers whose claim found all their slots taken.
        forgiven_at: Up to when the ends of delays were looked at, monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float], terms: Terms, jitter: Callable[[], float]) -> None:
        self._clock = clock
        self._terms = terms
        self._jitter = jitter
        self._delayed: dict[int, float] = {}
        fades_s = terms.backoff_cap_s
        self.apart: Delays[tuple[str, int]] = Delays(clock, self.backoff_s, fades_s)
        self.held_back: Delays[str] = Delays(clock, self.backoff_s, fades_s, FREE_ENDS)
        self.suspects = Suspects()
        self.probed: Delays[str] = Delays(clock, self.backoff_s, fades_s)
        self.full: set[str] = set()
        self.forgiven_at = clock()

    def backoff_s(self, failures: int, first_s: float) -> float:
        """Return the delay after so many failures: doubling from the first one, capped, half of it random."""
        # The exponent is capped because a float overflows long after the delay has reached its cap.
        full = min(self._terms.backoff_cap_s, first_s * 2.0 ** min(failures - 1, 32))
        return full * (1 + self._jitter()) / 2

    # ---- jobs

    def delay(self, tx: Transaction, seq: int, delay_s: float) -> None:
        """Let a job wait before it is offered again."""
        ready_at = self._clock() + delay_s

        def follow() -> None:
            self._delayed[seq] = ready_at

        tx.after_commit(follow)

    def end_delay(self, seq: int) -> None:
        """Note that a job waits no more; to be called after the commit."""
        self._delayed.pop(seq, None)

    def delays_over(self, now: float) -> list[int]:
        """Return the jobs whose back-off is over."""
        return [seq for seq, ready_at in self._delayed.items() if ready_at <= now]

    def delay_left_s(self, seq: int) -> float:
        """Return for how many seconds yet a job waits after a failure, 0 for one that does not."""
        return max(0.0, self._delayed.get(seq, 0.0) - self._clock())

    # ---- hosts

    def keep_apart(self, tx: Transaction, worker: str, seq: int, first_s: float, since: float, *, counts: bool) -> None:
        """Let a host wait for a job that it gave back or failed on.

        Args:
            tx: The change.
            worker: The host.
            seq: The job.
            first_s: The first delay, seconds.
            since: From when it counts, monotonic seconds.
            counts: It cost the job nothing, so the host waits for any job once it does so again and again.
        """
        # At once and not after the commit, so that a claim in the same batch already finds it.
        tx.after_rollback(self.apart.add((worker, seq), first_s, since))
        if counts:
            tx.after_rollback(self.held_back.add(worker, self._terms.backoff_s, since))

    def note_failure(self, tx: Transaction, worker: str, seq: int, *, suspect: bool) -> None:
        """Take in that a job failed on a host; a suspect waits longer each time before it may try its next one."""
        tx.after_rollback(self.suspects.note_failure(worker, seq, suspect=suspect))
        if suspect:
            tx.after_rollback(self.probed.add(worker, self._terms.backoff_s, self._clock()))

    def note_result(self, worker: str) -> None:
        """Let a host that completed a job wait no more; to be called after the commit."""
        self.suspects.clear(worker)
        for delays in (self.held_back, self.probed):
            delays.forget(lambda host: host == worker)

    def held_s(self, worker: str) -> float:
        """Return for how many seconds yet a host is offered nothing."""
        return max(self.held_back.left_s(worker), self.probed.left_s(worker))

    def avoided_by(self, worker: str) -> str:
        """Return the jobs a host has just given back or failed on, as JSON."""
        # The usual case, at every claim.
        if not len(self.apart):
            return "[]"
        return json.dumps([seq for host, seq in self.apart.waiting() if host == worker])

    def kept_away_s(self, worker: str, seq: int) -> float:
        """Return for how many seconds yet a host is not offered a job that it gave back, or any job."""
        return max(self.apart.left_s((worker, seq)), self.held_s(worker))

    def forgive(self) -> None:
        """Let no host wait any more. What speaks against a suspect stays, so it gets one job to try."""
        for delays in (self.apart, self.held_back, self.probed):
            delays.forget()

    def next_end(self) -> float | None:
        """Return when the next wait ends, monotonic seconds; None while nothing waits."""
        times = [
            min(self._delayed.values(), default=None),
            self.apart.next_end(self.forgiven_at),
            self.held_back.next_end(self.forgiven_at),
            self.probed.next_end(self.forgiven_at),
        ]
        return min((time for time in times if time is not None), default=None)
