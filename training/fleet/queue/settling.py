"""Writing down how an attempt ends.

Owns the rows, the history and the memory of an ending. Guarantees that a job loses its lease in one transaction with
everything that follows from it. Leaves the decision to `endings`.
"""

from __future__ import annotations

from collections.abc import Callable

from training.fleet.database import Transaction
from training.fleet.database.queries import KEEP_ERROR, LEASE, REQUIREMENTS_WITH_READY_JOBS, LeaseRow
from training.fleet.queue import endings, standing
from training.fleet.queue.endings import Ended, Ending
from training.fleet.queue.events import History
from training.fleet.queue.memory import Memory
from training.fleet.wire.worker import Fail


class Settling:
    """The ends of leases."""

    def __init__(self, memory: Memory, history: History) -> None:
        self._memory = memory
        self._history = history
        self._on_ended: Callable[[Ended], None] = lambda _ended: None

    def on_ended(self, callback: Callable[[Ended], None]) -> None:
        """Call back on the writer thread, after its commit, with each attempt that ended."""
        self._on_ended = callback

    def lapse(self, tx: Transaction, lease_id: str, why: str, granted_at: float) -> None:
        """End a lease that nobody renewed; one that is over already stays as it is."""
        row = tx.one(LEASE, lease_id=lease_id)
        if row is None or not standing.live(row):
            return
        self.settle(tx, row, endings.lapse(row, why, granted_at, self._memory.terms))

    def take_back(self, tx: Transaction, lease_id: str, actor: str, why: str) -> None:
        """End a live lease of a worker that may work no more."""
        row = tx.one(LEASE, lease_id=lease_id)
        assert row is not None
        self.settle(tx, row, endings.taken_back(row, actor, why))

    def settle(self, tx: Transaction, row: LeaseRow, ending: Ending) -> None:
        """Take the lease from a job and write down everything about it."""
        memory, seq, before = self._memory, row.seq, row.status
        # First, because the job's row keeps the number of the event of its newest bad end.
        event = self._history.record(tx, seq, ending.actor, ending.action, before, ending.to, ending.why)
        needs = ending.requirement or memory.hosts.requirement(row.requirement)
        number = memory.hosts.number_of(tx, needs)
        # A job that waits is not `ready`: claims then skip it by the index instead of looking at it again and again.
        delayed = ending.delay_s > 0
        changed = tx.run(
            "settle",
            seq=seq,
            lease_id=row.own_lease,
            status=ending.to,
            ready=0 if delayed else 1,
            tick=memory.clock.tick(),
            given_back=int(ending.given_back),
            refunded=int(ending.refunded),
            failure=row.failure if ending.outcome in ("released", "cancelled") else event,
            requirement=number,
            over_vram_gib=needs.over_vram_gib,
            over_ram_gib=needs.over_ram_gib,
            at=memory.clock.label(),
        )
        # The statement compares the lease, so a decision made from an old row stops here instead of ending another
        # lease.
        assert changed == 1
        self.end_attempt(tx, row, ending.outcome, ending.report, refunded=ending.refunded)
        if ending.away_s > 0:
            counts = ending.given_back or ending.outcome != "failed"
            memory.waits.keep_apart(tx, row.worker, seq, ending.away_s, ending.away_from, counts=counts)
        offered = ending.to == "pending" and not delayed and not row.withdrawn
        memory.tally.moved(tx, before, ending.to, number if offered else None)
        self.forget_lease(tx, row)
        if delayed:
            memory.waits.delay(tx, seq, ending.delay_s)

    def end_attempt(
        self, tx: Transaction, row: LeaseRow, outcome: str, report: Fail | None = None, *, refunded: bool = False
    ) -> None:
        """Write down how the attempt of a lease ended."""
        tx.run(
            "end_attempt",
            job=row.seq,
            fence=row.attempt_fence,
            at=self._memory.clock.label(),
            outcome=outcome,
            refunded=int(refunded),
            kind=None if report is None else report.kind,
            exit_status=None if report is None else report.exit_status,
            error_id=error_id(tx, "" if report is None else report.error),
        )
        held_s = self._memory.clock.now() - self._memory.granted_at(row.own_lease)
        ended = Ended(outcome, None if report is None else report.kind, held_s)
        tx.after_commit(lambda: self._on_ended(ended))

    def forget_lease(self, tx: Transaction, row: LeaseRow) -> None:
        """Let memory follow the end of a lease."""
        memory, seq, lease_id = self._memory, row.seq, row.own_lease

        def follow() -> None:
            memory.leases.drop(lease_id)
            memory.waits.end_delay(seq)

        tx.after_commit(follow)
        if row.card is not None:
            memory.hosts.release_card(row.worker, row.card)
        # Only for workers that were refused: looking for their next job at every end would cost a statement each time.
        if row.worker in memory.waits.full:
            self._free_slot(tx, row.worker)

    def _free_slot(self, tx: Transaction, worker: str) -> None:
        """Let a worker look again whose claim found all its slots taken."""
        full, tally = self._memory.waits.full, self._memory.tally
        # At once, so that two ends in one batch do not wake the worker twice.
        full.discard(worker)
        tx.after_rollback(lambda: full.add(worker))
        number = self.first_for(tx, worker)
        if number is not None:
            tx.after_commit(lambda: tally.announce({number: 1}))

    def first_for(self, tx: Transaction, worker: str) -> int | None:
        """Return a requirement of a job that waits and that a worker could run, None without one."""
        waiting = (row.id for row in tx.all(REQUIREMENTS_WITH_READY_JOBS))
        return next((number for number in waiting if self._memory.hosts.eligible(number, worker)), None)


def error_id(tx: Transaction, text: str) -> int | None:
    """Return the number of the row that keeps the words of a failure, None without words."""
    # Most attempts end without words. The words of the others repeat, so each is kept once.
    if not text:
        return None
    row = tx.one(KEEP_ERROR, text=text)
    assert row is not None
    return row.id
