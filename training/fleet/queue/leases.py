"""The live leases, as the receiver keeps them in memory.

Owns deadlines and progress. Guarantees that a beat and the sweeper never both win a lease: whichever takes the lock
first decides, and a lease the sweeper took is renewed only by a change of the queue. Deadlines are on the monotonic
clock; nothing here reads a wall clock. Leaves which lease exists to the database, whose committed changes are
followed here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from training.fleet.model.jobs import Terms
from training.fleet.wire.worker import Progress

SWEEP_S: Final = 5.0
"""Longest time between two sweeps while a lease lives; what goes beyond it is the receiver's own stall."""
MAX_EXPIRED: Final = 500
"""Leases that one sweep ends at most, so that claims wait a few milliseconds and no more."""


@dataclass(slots=True)
class LiveLease:
    """One live lease.

    Attributes:
        seq: Number of the job.
        job_id: Identity of the job.
        lease_id: The lease.
        worker: Who holds it.
        running: Whether the first heartbeat came.
        cancel: Whether the operator wants the job stopped.
        granted_at: When it began to live here, monotonic seconds.
        renewed_at: When the holder was last answered, monotonic seconds.
        deadline: When it runs out, monotonic seconds.
        progress: The latest report, None before the first.
    """

    seq: int
    job_id: str
    lease_id: str
    worker: str
    running: bool
    cancel: bool
    granted_at: float
    renewed_at: float
    deadline: float
    progress: Progress | None = None


class Leases:
    """The live leases by lease id.

    Args:
        clock: Monotonic seconds.
        terms: Time limits.
    """

    def __init__(self, clock: Callable[[], float], terms: Terms) -> None:
        self._clock = clock
        self._terms = terms
        self._lock = threading.Lock()
        self._live: dict[str, LiveLease] = {}
        self._by_worker: dict[str, set[str]] = {}
        self._swept_at = clock()

    def __len__(self) -> int:
        return len(self._live)

    def get(self, lease_id: str | None) -> LiveLease | None:
        """Return a live lease, None when it is not live."""
        return self._live.get(lease_id) if lease_id is not None else None

    def held_by(self, worker: str) -> list[LiveLease]:
        """Return the live leases of a worker."""
        with self._lock:
            return [self._live[lease_id] for lease_id in sorted(self._by_worker.get(worker, ()))]

    def holders(self) -> set[str]:
        """Return the workers that hold a lease."""
        with self._lock:
            return set(self._by_worker)

    def put(self, seq: int, job_id: str, lease_id: str, worker: str, *, running: bool, cancel: bool = False) -> None:
        """Let a lease live for a full term from now; one that lives already keeps its progress."""
        now = self._clock()
        with self._lock:
            old = self._live.get(lease_id)
            # A lease that is told again is the same one: neither its age nor its progress begins again.
            granted_at, progress = (now, None) if old is None else (old.granted_at, old.progress)
            deadline = now + self._term(running)
            self._live[lease_id] = LiveLease(
                seq, job_id, lease_id, worker, running, cancel, granted_at, now, deadline, progress
            )
            self._by_worker.setdefault(worker, set()).add(lease_id)

    def extend(self, lease_id: str) -> None:
        """Give a live lease a full term from now, as its holder is about to be answered."""
        now = self._clock()
        with self._lock:
            if (live := self._live.get(lease_id)) is not None:
                live.renewed_at, live.deadline = now, now + self._term(live.running)

    def drop(self, lease_id: str) -> None:
        """Forget a lease that is over."""
        with self._lock:
            self._drop(lease_id)

    def ask_to_stop(self, lease_id: str) -> None:
        """Let the next beat say that the operator wants the job stopped."""
        with self._lock:
            if (live := self._live.get(lease_id)) is not None:
                live.cancel = True

    def beat(self, job_id: str, lease_id: str, progress: Progress | None, held: Iterable[str]) -> LiveLease | None:
        """Renew a running lease without the database.

        Returns:
            The lease, or None when only the queue can decide: it is not live or not acknowledged, or the worker
            believes in another lease that is not live.
        """
        now = self._clock()
        with self._lock:
            live = self._live.get(lease_id)
            # A first beat acknowledges the lease, and that must be written down before it is answered.
            if live is None or not live.running or live.job_id != job_id:
                return None
            # The worker believes in a lease that may be over; only the rows can tell whether it has to stop.
            if any(other not in self._live for other in held):
                return None
            live.renewed_at, live.deadline = now, now + self._terms.lease_s
            if progress is not None:
                live.progress = progress
            return live

    def report(self, lease_id: str, progress: Progress | None) -> None:
        """Keep a progress report that came with a slow heartbeat."""
        with self._lock:
            live = self._live.get(lease_id)
            if live is not None and progress is not None:
                live.progress = progress

    def take_expired(self) -> list[LiveLease]:
        """Take out the leases that ran out, at most 500 of them, earliest first.

        When the sweeper itself came late, every deadline first moves by the time in which nobody was watching.
        """
        now = self._clock()
        with self._lock:
            watched_until = self._swept_at + SWEEP_S
            # The receiver itself was held up, by a stalled disk or a suspended machine. No worker could have beaten
            # then.
            if now > watched_until:
                for live in self._live.values():
                    live.deadline += max(0.0, now - max(watched_until, live.renewed_at))
            self._swept_at = now
            # Earliest first, so that a bounded sweep never leaves the oldest one behind.
            over = sorted((live for live in self._live.values() if live.deadline <= now), key=_deadline)[:MAX_EXPIRED]
            for live in over:
                self._drop(live.lease_id)
            return over

    def restore(self, leases: Iterable[LiveLease]) -> None:
        """Put leases back whose end did not become durable, with a full term."""
        for live in leases:
            self.put(live.seq, live.job_id, live.lease_id, live.worker, running=live.running, cancel=live.cancel)
            self.report(live.lease_id, live.progress)
            # `put` took it for a new lease, because it was not live; its age is what it was.
            self._live[live.lease_id].granted_at = live.granted_at

    def next_sweep(self) -> float | None:
        """Return when the sweeper is needed next, monotonic seconds; None while nothing lives."""
        with self._lock:
            if not self._live:
                return None
            # Never longer than the usual step, or the sweeper could not tell its own stall from that of a worker.
            return min(self._swept_at + SWEEP_S, *(live.deadline for live in self._live.values()))

    def _drop(self, lease_id: str) -> None:
        live = self._live.pop(lease_id, None)
        if live is not None:
            held = self._by_worker[live.worker]
            held.discard(lease_id)
            if not held:
                del self._by_worker[live.worker]

    def _term(self, running: bool) -> float:
        # A claim that nobody acknowledges is known to be lost long before a training is.
        return self._terms.lease_s if running else self._terms.ack_s


def _deadline(lease: LiveLease) -> float:
    return lease.deadline
