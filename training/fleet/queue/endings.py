"""How an attempt ends without a result.

Owns the decision what becomes of the job and of the host, from what is known and without touching either: the same
values give the same ending. Guarantees that every ending which costs the job nothing costs its host a growing delay.
Leaves writing it down to `settling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from training.fleet.database.queries import LeaseRow
from training.fleet.model.jobs import FREE_KINDS, Requirement, Terms
from training.fleet.wire.worker import Fail

GIVEN_BACK_S: Final = 2.0
"""First delay before a host gets a job again that it gave back, seconds from when it got the job: a worker that is
restarted, and an owner who wanted the machine for an hour, do not notice it."""
RECEIVER: Final = "receiver"
"""How the history names the receiver."""
MAX_WHY_CHARS: Final = 160
"""Characters of an error that its event repeats."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ends without a result.

    Attributes:
        to: Status of the job afterwards.
        outcome: Of the attempt.
        action: Of the event.
        actor: Of the event.
        why: Of the event.
        given_back: Whether the attempt costs the budget nothing.
        refunded: Whether that counts as one of the refunds of lost claims.
        delay_s: Seconds before a pending job is offered again.
        away_s: First of the growing delays before this host is offered the job again, seconds; 0 is none.
        away_from: From when that delay counts, monotonic seconds.
        requirement: What the job needs from now on, None when nothing was learned.
        report: What the worker said, None when it said nothing.
    """

    to: str
    outcome: str
    action: str
    actor: str
    why: str = ""
    given_back: bool = False
    refunded: bool = False
    delay_s: float = 0.0
    away_s: float = 0.0
    away_from: float = 0.0
    requirement: Requirement | None = None
    report: Fail | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt that has ended, with or without a result.

    Attributes:
        outcome: Of the attempt.
        kind: Kind of the failure that the worker reported, None when it reported none.
        held_s: Seconds since the worker was given the job.
    """

    outcome: str
    kind: str | None
    held_s: float


@dataclass(frozen=True, slots=True)
class Witnesses:
    """What is known when a host rejects a specification.

    Attributes:
        drift: How the host's own trainer differs from the one the manifest was checked against, empty if it does not.
        times: How often this host has rejected the job since its last requeue, this time included.
        others: Other hosts that have rejected it since.
        able: Other hosts that are heard now and could run it.
    """

    drift: str
    times: int
    others: Sequence[str]
    able: Sequence[str]


@dataclass(frozen=True, slots=True)
class FailureFacts:
    """What is known beside the job and the worker's report when an attempt fails.

    Attributes:
        terms: Time limits.
        now: Monotonic seconds.
        granted_at: When the lease was granted, monotonic seconds.
        delay_s: The back-off after this failure.
        learned: What the job needs from now on, None when nothing was learned.
        witnesses: What is known of the specification; wanted for `spec_rejected` alone.
        others: Another host that is heard now could run the job.
        suspect: The host has failed everything it was given, this job included.
    """

    terms: Terms
    now: float
    granted_at: float
    delay_s: float
    learned: Requirement | None = None
    witnesses: Witnesses | None = None
    others: bool = False
    suspect: bool = False


def failure(row: LeaseRow, message: Fail, facts: FailureFacts) -> Ending:
    """Return what follows from a worker's report that its attempt ended without a result.

    Args:
        row: The lease and its job.
        message: What the worker said.
        facts: What else is known.
    """
    actor, why, terms = worker_actor(row.worker), told(message), facts.terms
    # Whatever the trainer died of, the operator got what was asked for; another attempt would undo it.
    if row.cancel_requested:
        return Ending("cancelled", "cancelled", "cancel", actor, f"confirmed by the worker ({why})", report=message)
    # From when the job was granted: who had it for an hour has waited long enough, who gives it back at once has not.
    if message.kind == "preempted":
        free = Ending("pending", "released", "release", actor, why, given_back=True, report=message)
        return replace(free, away_s=min(terms.backoff_s, GIVEN_BACK_S), away_from=facts.granted_at)
    # The host is to blame and not the job, so the job pays nothing and the host waits.
    if message.kind in FREE_KINDS:
        free = Ending("pending", "failed", "fail", actor, why, given_back=True, report=message)
        return replace(free, away_s=terms.backoff_s, away_from=facts.now)
    if message.kind == "spec_rejected":
        assert facts.witnesses is not None
        return rejection(actor, message, facts.witnesses, row.max_attempts, terms.backoff_s, facts.now)
    if facts.suspect and facts.others:
        return _of_suspect(row, message, facts)
    # The attempt at hand was counted when it was claimed.
    if row.attempts_used >= row.max_attempts:
        return Ending("failed", "failed", "fail", actor, why, requirement=facts.learned, report=message)
    ending = Ending("pending", "failed", "fail", actor, why, delay_s=facts.delay_s, report=message)
    # Another host first: where the job fails too, the fault is its own. The longest delay, because a shorter one ends
    # with the job's own back-off, and who failed at once is often the first to ask again.
    away_s = terms.backoff_cap_s if facts.others else 0.0
    return replace(ending, requirement=facts.learned, away_s=away_s, away_from=facts.now)


def _of_suspect(row: LeaseRow, message: Fail, facts: FailureFacts) -> Ending:
    """Return what follows when a host fails everything: the job pays nothing and goes to another host."""
    reason = f"{row.worker} fails everything it is given, so this costs the job nothing and another host tries it"
    free = Ending(
        "pending", "failed", "fail", worker_actor(row.worker), f"{told(message)}; {reason}", given_back=True,
        report=message,
    )  # fmt: skip
    return replace(free, away_s=facts.terms.backoff_cap_s, away_from=facts.now)


def lapse(row: LeaseRow, why: str, granted_at: float, terms: Terms) -> Ending:
    """Return what follows when nobody renews a lease.

    Its host waits as if it had given the job back, whatever that cost the job: a lease that ran out can be taken back
    for nothing and be left to run out again.

    Args:
        row: The lease, which lives, and its job.
        why: What happened, for the history.
        granted_at: When it was granted, monotonic seconds.
        terms: Time limits.
    """
    lost = row.status == "claimed"
    # A claim whose answer was lost never started a trainer, so it costs nothing; not without end, or a host that
    # claims and never starts would hold the job for ever.
    refunded = lost and row.refunds < terms.refunds
    left = row.max_attempts - row.attempts_used + refunded
    to = "cancelled" if row.cancel_requested else "pending" if left > 0 else "failed"
    outcome, away_s = "lost_claim" if lost else "expired", min(terms.backoff_s, GIVEN_BACK_S)
    ending = Ending(to, outcome, "expire", RECEIVER, why, given_back=refunded, refunded=refunded)
    return replace(ending, away_s=away_s, away_from=granted_at)


def taken_back(row: LeaseRow, actor: str, why: str) -> Ending:
    """Return what follows when a worker may work no more; the attempt costs the job nothing."""
    if row.cancel_requested:
        return Ending("cancelled", "cancelled", "cancel", actor, why)
    return Ending("pending", "released", "release", actor, why, given_back=True)


def rejection(actor: str, message: Fail, known: Witnesses, max_attempts: int, away_s: float, now: float) -> Ending:
    """Return what follows from a `spec_rejected`.

    One host is no proof: its checkout may be another one, or it may lie. So the job fails for good when a second host
    says the same; or when nobody else is there to ask and this host has said it as often as the job has attempts, so
    that a fleet of one host gets an answer. Until then it costs nothing, and this host waits.

    Args:
        actor: Of the event.
        message: What the worker said.
        known: What else is known.
        max_attempts: The job's budget.
        away_s: First of the growing delays of the host.
        now: Monotonic seconds.
    """
    why = told(message)
    # Its own trainer is another one than the manifest was checked against, so its word says nothing of the job.
    if known.drift:
        reason = f"{why}; only this host is concerned: {known.drift}"
        ending = Ending("pending", "released", "release", actor, reason, given_back=True, report=message)
        return replace(ending, away_s=away_s, away_from=now)
    # Two hosts with the right trainer agree: no third one needs to spend its time.
    if known.others:
        return Ending("failed", "failed", "fail", actor, f"{why}; {known.others[0]} said the same", report=message)
    if known.times >= max_attempts and not known.able:
        reason = f"{why}; said {known.times} times, and no other host that is heard could run the job"
        return Ending("failed", "failed", "fail", actor, reason, report=message)
    reason = f"{why}; the job fails for good when a second host says the same"
    ending = Ending("pending", "failed", "fail", actor, reason, given_back=True, report=message)
    return replace(ending, away_s=away_s, away_from=now)


def worker_actor(name: str) -> str:
    """Return how the history names a worker."""
    return f"worker:{name}"


def told(message: Fail) -> str:
    """Return kind and start of an error for the history; the attempt keeps all of it."""
    return f"{message.kind}: {first_line(message.error)}".rstrip(": ")


def first_line(error: str) -> str:
    """Return the first line of an error, cut where it is long; a mark says that there is more."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    first = lines[0][:MAX_WHY_CHARS] if lines else ""
    return first if first == error.strip() else f"{first} …"
