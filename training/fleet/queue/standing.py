"""Where a lease stands, and what that allows.

Owns the rules on one lease, as pure functions of its row: the same row gives the same answer.
"""

from __future__ import annotations

from training.fleet.database import Transaction
from training.fleet.database.queries import JOB_STATE, LEASE, JobStateRow, LeaseRow
from training.fleet.model.errors import NotFoundError, OtherResultError, StaleLeaseError
from training.fleet.wire.worker import JobState

_RAN_OUT = ("expired", "lost_claim")


def live(row: LeaseRow) -> bool:
    """Return True if a lease is the one its job has now."""
    return row.lease_id == row.own_lease


def adoptable(row: LeaseRow) -> bool:
    """Return True if a lease ran out and nobody else has begun since; that the budget was used up changes nothing."""
    if row.status not in ("pending", "failed"):
        return False
    # A requeue raises the fence without an attempt: from then on the old lease is out for good.
    return row.attempt_fence == row.fence and row.outcome in _RAN_OUT


def stale(row: LeaseRow) -> StaleLeaseError:
    """Return the refusal of a lease that is over."""
    return StaleLeaseError(
        f"the lease of job {row.id} is over ({row.outcome} at {row.ended_at}), the job is {row.status}",
        "stop the trainer, nothing is accepted under it",
    )


def demand_result(row: LeaseRow, sha256: str) -> None:
    """Refuse another artifact than the one that a lease completed its job with.

    Raises:
        OtherResultError: It is another one.
    """
    if row.artifact != sha256:
        raise OtherResultError(
            f"the job {row.id} is completed with the artifact {row.artifact}", f"{sha256} is not accepted"
        )


def state_of(row: JobStateRow | LeaseRow) -> JobState:
    """Return where a job stands, as an answer."""
    return JobState(row.id, row.status, bool(row.cancel_requested))


# ---- looked up


def job_state(tx: Transaction, job_id: str) -> JobStateRow:
    """Return where a job stands.

    Raises:
        NotFoundError: There is no such job.
    """
    row = tx.one(JOB_STATE, id=job_id)
    if row is None:
        raise NotFoundError(f"there is no job {job_id}", "`cis490-jobs list` shows the jobs there are")
    return row


def lease_of(tx: Transaction, job_id: str, lease_id: str) -> LeaseRow:
    """Return a lease with its job.

    Raises:
        NotFoundError: There is no such job.
        StaleLeaseError: The lease is not one of this job.
    """
    row = tx.one(LEASE, lease_id=lease_id)
    # A job that is not there is another mistake than a lease that is not there, and has another remedy.
    if row is None or row.id != job_id:
        job_state(tx, job_id)
        raise StaleLeaseError(f"the job {job_id} has no such lease", "stop the trainer and claim again")
    return row
