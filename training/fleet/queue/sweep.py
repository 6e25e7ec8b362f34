"""What time does to the queue, and whom that wakes.

Owns the ends of leases, back-offs and waits. Guarantees that whatever becomes claimable by time, or by hosts that come
and go, is announced like a new job: parked claims need not ask in vain. Leaves the changes of a job to `lifecycle`.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Final

from training.fleet.database import Transaction
from training.fleet.database.queries import CLAIMABLE, CLAIMABLE_JOB, MAKE_READY, OVERDUE, REQUIREMENTS_WITH_READY_JOBS
from training.fleet.queue.leases import SWEEP_S, LiveLease
from training.fleet.queue.lifecycle import Lifecycle

SWEEP_LEAST_S: Final = 0.05
"""Shortest sleep of the sweeper, however short the terms are."""


class Sweep(Lifecycle):
    """The changes that come by themselves."""

    def sweep(self, tx: Transaction) -> None:
        """End the leases, back-offs and waits that are over. Meant to run at `next_deadline` or sooner."""
        over = self.leases.take_expired()
        if over:
            tx.after_rollback(lambda: self.leases.restore(over))
        for live in over:
            self._lapse(tx, live.lease_id, _ran_out(live), live.granted_at)
        now = self._clock()
        for seq in [seq for seq, ready_at in self._delayed.items() if ready_at <= now]:
            self._make_ready(tx, seq)
        self._forgive(tx, now)
        self._hand_over(tx)
        self._keep_tick(tx)

    def next_deadline(self) -> float | None:
        """Return when `sweep` is needed next, monotonic seconds; None while nothing waits for time to pass."""
        times = [
            self.leases.next_sweep(),
            min(self._delayed.values(), default=None),
            self._apart.next_end(self._forgiven_at),
            self._held_back.next_end(self._forgiven_at),
        ]
        return min((time for time in times if time is not None), default=None)

    @property
    def patience_s(self) -> float:
        """How long the sweeper may sleep: no longer than what may begin to run meanwhile takes at least."""
        backoff_s = min(self.terms.backoff_s, self.terms.backoff_cap_s) / 2
        least_s = min(SWEEP_S, self.terms.ack_s, self.terms.lease_s, backoff_s or SWEEP_S)
        return max(SWEEP_LEAST_S, least_s)

    def claimable(self, tx: Transaction, requirement_id: int) -> int:
        """Return how many jobs with a requirement can be claimed now, at most 64; for waking parked claims."""
        if requirement_id in self.hosts.overdue:
            others = {number: head for number, head in self.hosts.overdue.items() if number != requirement_id}
            self.hosts.let_go(others | self._overdue(tx, [requirement_id]))
        row = tx.one(CLAIMABLE, requirement=requirement_id)
        assert row is not None
        return row.jobs

    def _make_ready(self, tx: Transaction, seq: int) -> None:
        row = tx.one(MAKE_READY, seq=seq)

        def follow() -> None:
            self._delayed.pop(seq, None)
            self._touch()
            if row is not None:
                self._on_ready({row.requirement: 1})

        tx.after_commit(follow)

    def _forgive(self, tx: Transaction, now: float) -> None:
        """Offer jobs again to the hosts that wait, and forget what was long ago."""
        ready: Counter[int] = Counter()
        for worker, seq in self._apart.ended(self._forgiven_at, now):
            row = None if self._held_back.left_s(worker) > 0 else tx.one(CLAIMABLE_JOB, seq=seq)
            if row is not None:
                ready[row.requirement] += 1
        for worker in self._held_back.ended(self._forgiven_at, now):
            if (number := self._first_for(tx, worker)) is not None:
                ready[number] += 1
        self._apart.fade(now)
        self._held_back.fade(now)

        def follow() -> None:
            self._forgiven_at = now
            if ready:
                self._on_ready(ready)

        tx.after_commit(follow)

    def _hand_over(self, tx: Transaction) -> None:
        """Offer jobs that prefer CUDA to other hosts, once no host with it is heard or they waited long enough."""
        self.hosts.look_around()
        ready: dict[int, int] = {}
        if self.hosts.take_news():
            waiting = (row.id for row in tx.all(REQUIREMENTS_WITH_READY_JOBS))
            ready = {number: 1 for number in waiting if self.hosts.requirement(number).prefer_cuda}
        before, preferring = self.hosts.overdue, self.hosts.left_to_cuda()
        overdue = self._overdue(tx, preferring) if preferring else {}
        self.hosts.let_go(overdue)
        ready |= {number: 1 for number, head in overdue.items() if before.get(number) != head}
        if ready:
            tx.after_commit(lambda: self._on_ready(ready))

    def _overdue(self, tx: Transaction, numbers: list[int]) -> dict[int, int]:
        """Return which requirements have a best job that waited long enough, and which job that is."""
        rows = tx.all(
            OVERDUE, requirements=json.dumps(numbers), waited_since=int(self.tick() - self.terms.prefer_wait_s)
        )
        return {row.requirement: row.seq for row in rows}


def _ran_out(live: LiveLease) -> str:
    if live.running:
        return f"no heartbeat from {live.worker} for the whole lease"
    return f"{live.worker} did not acknowledge the job in time"
