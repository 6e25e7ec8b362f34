"""How an attempt ends without a result.

Owns the decision what becomes of the job and of the host, from what is known and without touching either: the same
values give the same ending. Guarantees that every ending which costs the job nothing costs its host a growing delay.
Leaves writing it down to `lifecycle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from training.fleet import wire
from training.fleet.jobs import Requirement

GIVEN_BACK_S: Final = 2.0
"""First delay before a host gets a job again that it gave back, seconds from when it got the job: a worker that is
restarted, and an owner who wanted the machine for an hour, do not notice it."""
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
    report: wire.Fail | None = None


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


def rejection(actor: str, message: wire.Fail, known: Witnesses, max_attempts: int, away_s: float, now: float) -> Ending:
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
    if known.drift:
        reason = f"{why}; only this host is concerned: {known.drift}"
        ending = Ending("pending", "released", "release", actor, reason, given_back=True, report=message)
        return replace(ending, away_s=away_s, away_from=now)
    if known.others:
        return Ending("failed", "failed", "fail", actor, f"{why}; {known.others[0]} said the same", report=message)
    if known.times >= max_attempts and not known.able:
        reason = f"{why}; said {known.times} times, and no other host that is heard could run the job"
        return Ending("failed", "failed", "fail", actor, reason, report=message)
    reason = f"{why}; the job fails for good when a second host says the same"
    ending = Ending("pending", "failed", "fail", actor, reason, given_back=True, report=message)
    return replace(ending, away_s=away_s, away_from=now)


def told(message: wire.Fail) -> str:
    """Return kind and start of an error for the history; the attempt keeps all of it."""
    return f"{message.kind}: {first_line(message.error)}".rstrip(": ")


def first_line(error: str) -> str:
    """Return the first line of an error, cut where it is long; a mark says that there is more."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    first = lines[0][:MAX_WHY_CHARS] if lines else ""
    return first if first == error.strip() else f"{first} …"
