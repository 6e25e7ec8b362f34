"""What an operator does to one job: cancel it, or give it a new budget."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from training.fleet.database import Transaction
from training.fleet.database.queries import JobStateRow
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.errors import ConflictError
from training.fleet.queue.artifacts import Artifacts
from training.fleet.queue.events import History
from training.fleet.queue.memory import Memory
from training.fleet.queue.settling import error_id
from training.fleet.queue.standing import job_state, state_of
from training.fleet.wire.worker import JobState

_LIVE = ("claimed", "running")


class OperatorChanges:
    """The changes of an operator."""

    def __init__(self, memory: Memory, history: History, artifacts: Artifacts) -> None:
        self._memory = memory
        self._history = history
        self._artifacts = artifacts

    def cancel(self, tx: Transaction, job_id: str, actor: str, expected: Set[str] = frozenset()) -> JobState:
        """End a waiting job, or ask the worker that holds it to stop, see `Queue.cancel`."""
        row = job_state(tx, job_id)
        status = row.status
        _demand_status(job_id, status, expected)
        # A failed job has nothing to stop. Cancelling it would only hide that it failed.
        if status in ("completed", "failed"):
            raise ConflictError(f"the job {job_id} is {status} already", expected="a job that waits or runs")
        if status == "pending":
            tx.run("cancel", seq=row.seq, at=self._memory.clock.label())
            self._history.record(tx, row.seq, actor, "cancel", "pending", "cancelled")
            self._memory.tally.moved(tx, "pending", "cancelled")
        # Only the worker knows when its trainer has ended, so the job stays live until it says so or its lease ends.
        elif status in _LIVE and not row.cancel_requested:
            self._request_cancel(tx, row, actor)
        return state_of(job_state(tx, job_id))

    def _request_cancel(self, tx: Transaction, row: JobStateRow, actor: str) -> None:
        memory, seq, status = self._memory, row.seq, row.status
        tx.run("request_cancel", seq=seq, at=memory.clock.label())
        why = "asked; the worker will stop the trainer and confirm"
        self._history.record(tx, seq, actor, "cancel", status, status, why)
        memory.tally.moved(tx, status, status)
        lease_id = row.lease_id
        assert lease_id is not None
        tx.after_commit(lambda: memory.leases.ask_to_stop(lease_id))

    def result_of(self, tx: Transaction, job_id: str) -> ArtifactKey | None:
        """Return the artifact of a completed job that should be here, see `Queue.result_of`."""
        row = job_state(tx, job_id)
        if row.artifact is None:
            return None
        key = ArtifactKey(row.artifact, row.model, row.mode)
        found = (one for one in self._artifacts.of(tx, row.artifact) if (one.model, one.mode) == (row.model, row.mode))
        return None if any(one.gone == "pruned" for one in found) else key

    def requeue(
        self, tx: Transaction, job_id: str, actor: str, expected: Set[str] = frozenset(), lost: str = ""
    ) -> JobState:
        """Give a failed or cancelled job a new budget, on every host at once, see `Queue.requeue`."""
        memory, row = self._memory, job_state(tx, job_id)
        status = row.status
        _demand_status(job_id, status, expected)
        # Asked twice, or the job came back by itself: there is nothing to do but for a withdrawn one.
        if status == "pending":
            if row.withdrawn:
                self._offer_again(tx, row, actor)
            return state_of(row)
        key = self.result_of(tx, job_id) if lost else None
        if status not in ("failed", "cancelled") and key is None:
            expected_words = "a failed or cancelled job, or a completed one whose artifact is lost"
            raise ConflictError(f"the job {job_id} is {status}", expected=expected_words)
        # What was learned of its size goes too: the operator may have changed the job's environment.
        needs = replace(memory.hosts.requirement(row.requirement), over_vram_gib=0, over_ram_gib=0)
        number = memory.hosts.number_of(tx, needs)
        values = {"seq": row.seq, "requirement": number, "tick": memory.clock.tick(), "at": memory.clock.label()}
        if key is None:
            tx.run("requeue", **values)
        else:
            self._artifacts.lose(tx, key)
            tx.run("lose_attempt", job=row.seq, error_id=error_id(tx, f"its result was lost: {lost}"))
            tx.run("requeue_lost", **values)
        self._history.record(tx, row.seq, actor, "requeue", status, "pending", lost)
        seq = row.seq
        # The operator looked at the job: hosts that gave it back get it again at once.
        tx.after_commit(lambda: memory.waits.apart.forget(lambda key: key[1] == seq))
        memory.tally.moved(tx, status, "pending", number)
        return state_of(job_state(tx, job_id))

    def _offer_again(self, tx: Transaction, row: JobStateRow, actor: str) -> None:
        """Let a withdrawn job run: the word on one job counts more than a manifest that no longer names it."""
        tx.run("offer_again", seq=row.seq, at=self._memory.clock.label())
        why = "offered again, although the manifest does not name it"
        self._history.record(tx, row.seq, actor, "requeue", "pending", "pending", why)
        self._memory.tally.moved(tx, "pending", "pending", row.requirement)


def _demand_status(job_id: str, status: str, expected: Set[str]) -> None:
    """Refuse a change of a job that has moved since the operator chose it.

    Raises:
        ConflictError: It has another status than one of those expected; nothing is expected of an empty set.
    """
    if expected and status not in expected:
        raise ConflictError(
            f"the job {job_id} is {status} now, nothing was changed",
            expected=f"a job that is {' or '.join(sorted(expected))}",
        )
