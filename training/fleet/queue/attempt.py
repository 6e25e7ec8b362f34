"""What a worker reports of an attempt: heartbeat, completion, failure.

Owns the changes under a lease. Guarantees that nothing is accepted under a lease that is over, that a job has one
result, that a late result is taken while nobody else has begun, and that the same report twice has one effect.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from training.fleet.database import Transaction
from training.fleet.database.queries import LEASES_OF, REJECTIONS, LeaseRow
from training.fleet.model import placement
from training.fleet.model.errors import ArtifactMissingError
from training.fleet.model.jobs import Requirement
from training.fleet.queue import endings
from training.fleet.queue.claim import to_stop
from training.fleet.queue.endings import FailureFacts, Witnesses, worker_actor
from training.fleet.queue.events import History
from training.fleet.queue.memory import Memory
from training.fleet.queue.settling import Settling
from training.fleet.queue.standing import adoptable, demand_result, job_state, lease_of, live, stale, state_of
from training.fleet.queue.suspects import BLAMED
from training.fleet.wire.worker import Beat, Complete, Fail, Heartbeat, JobState

_compact = json.JSONEncoder(separators=(",", ":")).encode


class Attempts:
    """The reports of workers."""

    def __init__(self, memory: Memory, history: History, settling: Settling) -> None:
        self._memory = memory
        self._history = history
        self._settling = settling

    # ---- heartbeat

    def beat(self, job_id: str, message: Heartbeat) -> Beat | None:
        """Renew a running lease without the database; None when `heartbeat` has to decide. Safe from any thread."""
        memory = self._memory
        lease = memory.leases.beat(job_id, message.lease_id, message.progress, message.held_leases)
        if lease is None:
            return None
        memory.hosts.seen(lease.worker)
        # Only progress shows in lists. A plain beat must not make every reader fetch its list again.
        if message.progress is not None:
            memory.tally.touch()
        return Beat(memory.terms.lease_s, lease.cancel)

    def heartbeat(self, tx: Transaction, job_id: str, message: Heartbeat) -> Beat:
        """Renew a lease, see `Queue.heartbeat`."""
        tx.may_run_twice()
        memory = self._memory
        row = lease_of(tx, job_id, message.lease_id)
        worker = row.worker
        # Before the answer: the sweeper must not end a lease whose beat is being decided.
        memory.leases.extend(message.lease_id)
        if row.status == "claimed" and live(row):
            self._start(tx, row)
        # Nobody else has begun: going on costs nothing, starting again costs the whole training.
        elif adoptable(row):
            self._adopt(tx, row)
        elif not live(row):
            raise stale(row)
        cancel = bool(row.cancel_requested)
        memory.hosts.seen(worker)

        def follow() -> None:
            memory.leases.put(row.seq, job_id, message.lease_id, worker, running=True, cancel=cancel)
            memory.leases.report(message.lease_id, message.progress)
            memory.tally.touch()

        tx.after_commit(follow)
        return Beat(memory.terms.lease_s, cancel, stop=self._stop(tx, worker, message.held_leases))

    def _stop(self, tx: Transaction, worker: str, believed: Iterable[str]) -> list[str]:
        held = {lease.lease_id for lease in tx.all(LEASES_OF, worker=worker)}
        return to_stop(tx, believed, held)

    def _start(self, tx: Transaction, row: LeaseRow) -> None:
        at = self._memory.clock.label()
        tx.run("start", seq=row.seq, lease_id=row.own_lease, at=at)
        tx.run("start_attempt", job=row.seq, fence=row.fence, at=at)
        self._history.record(tx, row.seq, worker_actor(row.worker), "start", "claimed", "running")
        self._memory.tally.moved(tx, "claimed", "running")

    def _adopt(self, tx: Transaction, row: LeaseRow) -> None:
        at = self._memory.clock.label()
        changed = tx.run("adopt", seq=row.seq, lease_id=row.own_lease, fence=row.fence, refunded=row.refunded, at=at)
        assert changed == 1
        tx.run("adopt_attempt", job=row.seq, fence=row.fence, at=at)
        why = f"the lease had ended ({row.outcome}), nobody else had begun"
        self._history.record(tx, row.seq, worker_actor(row.worker), "adopt", row.status, "running", why)
        self._memory.tally.moved(tx, row.status, "running")

    # ---- complete

    def complete(self, tx: Transaction, job_id: str, message: Complete) -> JobState:
        """Accept the result of a job, see `Queue.complete`."""
        tx.may_run_twice()
        row = lease_of(tx, job_id, message.lease_id)
        # The answer to the first report may have been lost. A worker repeats it until it is answered.
        if row.outcome == "completed":
            demand_result(row, message.artifact)
            return state_of(row)
        if not (live(row) or adoptable(row)):
            raise stale(row)
        self._finish(tx, row, message)
        return JobState(job_id, "completed")

    def _finish(self, tx: Transaction, row: LeaseRow, message: Complete) -> None:
        memory, worker = self._memory, row.worker
        changed = tx.run(
            "complete",
            seq=row.seq,
            # The lease's own fence and not the job's, so that the statement would refuse an older lease by itself.
            fence=row.attempt_fence,
            artifact=message.artifact,
            metrics=_compact(message.metrics),
            content_digest=message.content_digest,
            duration_s=message.duration_s,
            refunded=row.refunded,
            at=memory.clock.label(),
        )
        # The statement looks for the artifact's row itself, so that no upload can be missed between a look and the
        # change.
        if not changed:
            raise ArtifactMissingError(
                f"the artifact {message.artifact} of {row.model}/{row.mode} is not stored",
                "upload it, then complete the job again",
            )
        self._settling.end_attempt(tx, row, "completed")
        why = f"a late result after {row.outcome}, nobody else had begun" if row.outcome else ""
        if memory.waits.suspects.is_suspect(worker):
            why = f"{why}; {worker} works again".removeprefix("; ")
        self._history.record(tx, row.seq, worker_actor(worker), "complete", row.status, "completed", why)
        memory.tally.moved(tx, row.status, "completed")
        self._settling.forget_lease(tx, row)
        memory.hosts.seen(worker)
        # A result shows that the host works, so what it gave back before counts no more.
        tx.after_commit(lambda: memory.waits.note_result(worker))

    # ---- fail

    def fail(self, tx: Transaction, job_id: str, message: Fail) -> JobState:
        """End an attempt without a result, see `Queue.fail`."""
        row = lease_of(tx, job_id, message.lease_id)
        # Told again. An attempt that expired is not in this list: its report comes too late to count as one.
        if row.outcome in ("failed", "released", "cancelled"):
            return state_of(row)
        if not live(row):
            raise stale(row)
        facts = self._facts(tx, row, message)
        ending = endings.failure(row, message, facts)
        # One log a job, that of its newest failed attempt: a thousand failures must not fill the database.
        if ending.report is not None and message.log_tail:
            tx.run("keep_log", job=row.seq, tail=message.log_tail)
        self._settling.settle(tx, row, ending)
        if message.kind in BLAMED and not row.cancel_requested:
            self._memory.waits.note_failure(tx, row.worker, row.seq, suspect=facts.suspect)
        self._memory.hosts.seen(row.worker)
        return state_of(job_state(tx, job_id))

    def _facts(self, tx: Transaction, row: LeaseRow, message: Fail) -> FailureFacts:
        """Return what is known beside a worker's report."""
        memory, worker = self._memory, row.worker
        others = bool(memory.hosts.heard_and_able(row.requirement, but=worker))
        suspects, blamed = memory.waits.suspects, message.kind in BLAMED
        return FailureFacts(
            memory.terms,
            memory.clock.now(),
            memory.granted_at(row.own_lease),
            memory.waits.backoff_s(row.attempts_used, memory.terms.backoff_s),
            self._learned(row, message),
            self._witnesses(tx, row) if message.kind == "spec_rejected" else None,
            others=others,
            suspect=blamed and suspects.would_be(worker, row.seq, others=others),
        )

    def _witnesses(self, tx: Transaction, row: LeaseRow) -> Witnesses:
        """Return what is known beside a host's word that a job's specification is wrong."""
        hosts = self._memory.hosts
        said = {found.worker: found.times for found in tx.all(REJECTIONS, job=row.seq)}
        # The attempt at hand has not ended yet, so its row does not count itself.
        times = said.pop(row.worker, 0) + 1
        known, number = hosts.known(row.worker), row.requirement
        drift = "" if known is None else placement.trainer_drift(hosts.requirement(number), known.capability)
        return Witnesses(drift, times, sorted(said), hosts.heard_and_able(number, but=row.worker))

    def _learned(self, row: LeaseRow, message: Fail) -> Requirement | None:
        """Return the requirement without hosts of the size that ran out of memory."""
        hosts = self._memory.hosts
        if message.kind not in ("oom_gpu", "oom_ram"):
            return None
        known, policy = hosts.known(row.worker), hosts.policy(row.worker)
        # After a reload the host may no longer be admitted: then nothing is known of the size it was allowed to use.
        if known is None or policy is None:
            return None
        # What the manifest lets it use, and not what it has: the trainer saw no more than that.
        host, old = placement.effective(known.capability, policy), hosts.requirement(row.requirement)
        if message.kind == "oom_gpu":
            # The card that was used, which may be smaller than the host's largest.
            used = next((gpu.vram_gib for gpu in host.gpus if gpu.uuid == row.card), host.vram_gib)
            return replace(old, over_vram_gib=max(old.over_vram_gib, used))
        return replace(old, over_ram_gib=max(old.over_ram_gib, host.ram_gib))
