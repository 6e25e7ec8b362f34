"""What time does to the queue, and whom that wakes.

Owns the ends of leases, back-offs and waits. Guarantees that whatever becomes claimable by time, or by hosts that come
and go, is announced like a new job: parked claims need not ask in vain. Leaves the changes of a job to `settling`.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Final

from training.fleet.database import Transaction
from training.fleet.database.queries import CLAIMABLE, CLAIMABLE_JOB, MAKE_READY, OVERDUE, REQUIREMENTS_WITH_READY_JOBS
from training.fleet.queue.leases import SWEEP_S, LiveLease
from training.fleet.queue.memory import Memory
from training.fleet.queue.settling import Settling

SWEEP_LEAST_S: Final = 0.05
"""Shortest sleep of the sweeper, however short the terms are."""


class Sweeper:
    """The changes that come by themselves."""

    def __init__(self, memory: Memory, settling: Settling) -> None:
        self._memory = memory
        self._settling = settling

    def sweep(self, tx: Transaction) -> None:
        """End the leases, back-offs and waits that are over. Meant to run at `next_deadline` or sooner."""
        memory = self._memory
        over = memory.leases.take_expired()
        # They were taken out of memory already: with a failed commit nobody would watch them any more.
        if over:
            tx.after_rollback(lambda: memory.leases.restore(over))
        for live in over:
            self._settling.lapse(tx, live.lease_id, _ran_out(live), live.granted_at)
        # Taken once, so that all waits of one sweep are judged at the same moment.
        now = memory.clock.now()
        for seq in memory.waits.delays_over(now):
            self._make_ready(tx, seq)
        self._forgive(tx, now)
        self._hand_over(tx)
        memory.clock.keep(tx)

    def next_deadline(self) -> float | None:
        """Return when `sweep` is needed next, monotonic seconds; None while nothing waits for time to pass."""
        times = (self._memory.leases.next_sweep(), self._memory.waits.next_end())
        return min((time for time in times if time is not None), default=None)

    @property
    def longest_sleep_s(self) -> float:
        """Longest sleep between two sweeps: the shortest deadline that can start while it sleeps."""
        terms = self._memory.terms
        # Half of a back-off is random, so half of it is the least it can take.
        backoff_s = min(terms.backoff_s, terms.backoff_cap_s) / 2
        least_s = min(SWEEP_S, terms.ack_s, terms.lease_s, backoff_s or SWEEP_S)
        return max(SWEEP_LEAST_S, least_s)

    def claimable(self, tx: Transaction, requirement_id: int) -> int:
        """Return how many jobs with a requirement can be claimed now, at most 64; for waking parked claims."""
        hosts = self._memory.hosts
        # The head may just have been taken, and the job behind it need not have waited long enough.
        if requirement_id in hosts.overdue:
            others = {number: head for number, head in hosts.overdue.items() if number != requirement_id}
            hosts.note_overdue(others | self._overdue(tx, [requirement_id]))
        row = tx.one(CLAIMABLE, requirement=requirement_id)
        assert row is not None
        return row.jobs

    def _make_ready(self, tx: Transaction, seq: int) -> None:
        memory, row = self._memory, tx.one(MAKE_READY, seq=seq)

        def follow() -> None:
            memory.waits.end_delay(seq)
            memory.tally.touch()
            if row is not None and not row.withdrawn:
                memory.tally.announce({row.requirement: 1})

        tx.after_commit(follow)

    def _forgive(self, tx: Transaction, now: float) -> None:
        """Offer jobs again to the hosts that wait, and forget what was long ago."""
        waits, tally = self._memory.waits, self._memory.tally
        ready: Counter[int] = Counter()
        for worker, seq in waits.apart.ended(waits.forgiven_at, now):
            # A host that is held back gets nothing yet, so waking somebody for this job would be in vain.
            row = None if waits.held_s(worker) > 0 else tx.one(CLAIMABLE_JOB, seq=seq)
            if row is not None:
                ready[row.requirement] += 1
        for worker in {*waits.held_back.ended(waits.forgiven_at, now), *waits.probed.ended(waits.forgiven_at, now)}:
            if (number := self._settling.first_for(tx, worker)) is not None:
                ready[number] += 1
        waits.apart.fade(now)
        waits.held_back.fade(now)
        waits.probed.fade(now)

        def follow() -> None:
            waits.forgiven_at = now
            if ready:
                tally.announce(ready)

        tx.after_commit(follow)

    def _hand_over(self, tx: Transaction) -> None:
        """Offer jobs that prefer CUDA to other hosts, once no host with it is heard or they waited long enough."""
        hosts, tally = self._memory.hosts, self._memory.tally
        hosts.find_live_cuda()
        ready: dict[int, int] = {}
        # Hosts with CUDA came or went: who may take the jobs that prefer it has changed without any change of a job.
        if hosts.take_cuda_news():
            waiting = (row.id for row in tx.all(REQUIREMENTS_WITH_READY_JOBS))
            ready = {number: 1 for number in waiting if hosts.requirement(number).prefer_cuda}
        before, preferring = hosts.overdue, hosts.preferring_cuda()
        overdue = self._overdue(tx, preferring) if preferring else {}
        hosts.note_overdue(overdue)
        # A job that took the head's place is told as well, even when its requirement was overdue before.
        ready |= {number: 1 for number, head in overdue.items() if before.get(number) != head}
        if ready:
            tx.after_commit(lambda: tally.announce(ready))

    def _overdue(self, tx: Transaction, numbers: list[int]) -> dict[int, int]:
        """Return which requirements have a best job that waited long enough, and which job that is."""
        waited_since = int(self._memory.clock.tick() - self._memory.terms.prefer_wait_s)
        rows = tx.all(OVERDUE, requirements=json.dumps(numbers), waited_since=waited_since)
        return {row.requirement: row.seq for row in rows}


def _ran_out(live: LiveLease) -> str:
    if live.running:
        return f"no heartbeat from {live.worker} for the whole lease"
    return f"{live.worker} did not acknowledge the job in time"
