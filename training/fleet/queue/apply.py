"""Planning and applying a manifest, step by step through the writer.

Owns the order of the steps. Guarantees that nothing is written before the whole manifest was compared and the
operator's conditions hold. Meant for a thread of its own: each step waits for the writer, and claims run in between.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from training.fleet.database import Database, Transaction
from training.fleet.manifest import Header, JobEntry
from training.fleet.model.errors import PreconditionError, WouldShrinkError
from training.fleet.queue.change import ManifestChange
from training.fleet.queue.in_force import Origin
from training.fleet.queue.load import Load
from training.fleet.queue.queue import Queue
from training.fleet.wire.people import Plan, PlannedJob

T = TypeVar("T")

CHUNK: Final = 150
"""Jobs in one step: a few milliseconds of the writer's time."""
MAX_TOLD: Final = 5
"""Jobs that a refusal names."""
SHORT_ID: Final = 12


def plan(database: Database, queue: Queue, header: Header, entries: Iterable[JobEntry]) -> Plan:
    """Say what a manifest would change, and change nothing.

    Args:
        database: Where the queue is.
        queue: The queue.
        header: The manifest's header.
        entries: Its jobs in order; read once.
    """
    begin = partial(queue.load.begin_manifest, header=header, actor="receiver")
    with _compared(database, queue.load, entries, begin) as change:
        return change.plan()


def reload(
    database: Database,
    queue: Queue,
    header: Header,
    entries: Iterable[JobEntry],
    *,
    actor: str = "receiver",
    allow_shrink: bool = False,
    if_plan: str | None = None,
    keep_dropped: bool = False,
    origin: Origin | None = None,
) -> Plan:
    """Bring a manifest in force.

    Args:
        database: Where the queue is.
        queue: The queue.
        header: The manifest's header.
        entries: Its jobs in order; read once.
        actor: Who asks, for the history.
        allow_shrink: Permission to declare fewer jobs than the manifest in force.
        if_plan: Digest of the plan the operator saw, None when it does not matter. It is the permission for all that
            the plan showed.
        keep_dropped: Jobs that it does not name stay claimable.
        origin: Where its text comes from.

    Returns:
        What was done.

    Raises:
        WouldShrinkError: It declares fewer jobs and may not.
        PreconditionError: The plan would be another one now.
    """
    begin = partial(queue.load.begin_manifest, header=header, actor=actor, origin=origin, keep_dropped=keep_dropped)
    with _compared(database, queue.load, entries, begin) as change:
        return _apply(database, queue.load, change, allow_shrink, if_plan)


def _apply(database: Database, queue: Load, change: ManifestChange, allow_shrink: bool, if_plan: str | None) -> Plan:
    found = change.plan()
    _check(found, change, allow_shrink, if_plan)
    before = queue.hosts.in_force
    # First, because a job can be claimed as soon as it is written: its trainer and hosts are those of this manifest.
    _step(database, partial(queue.rule, in_force=replace(change.in_force, digest=before.digest, count=before.count)))
    try:
        _write(database, queue, change)
    # The old manifest is in force again; what is written already is finished by the next reload.
    except BaseException:
        _step(database, partial(queue.rule, in_force=before))
        raise
    # Last: until now a job that was claimed meanwhile may still have needed one of them.
    for numbers in _chunks(iter(queue.hosts.requirement_ids())):
        _step(database, partial(queue.drop_requirements, numbers=numbers))
    return found


def _write(database: Database, queue: Load, change: ManifestChange) -> None:
    for writes in _chunks(change.writes()):
        _step(database, partial(queue.write_jobs, change=change, writes=writes))
    for gone in _chunks(iter(change.gone)):
        _step(database, partial(queue.drop_jobs, change=change, seqs=gone))
    _step(database, lambda tx: queue.finish_manifest(tx, change))


def _compared(
    database: Database, queue: Load, entries: Iterable[JobEntry], begin: Callable[[Transaction], ManifestChange]
) -> ManifestChange:
    change = _step(database, begin)
    try:
        for chunk in _chunks(iter(entries)):
            _step(database, partial(queue.compare_jobs, change=change, entries=chunk))
        while _step(database, lambda tx: queue.find_dropped(tx, change)):
            pass
        change.pair(_step(database, lambda tx: queue.specs(tx, change.first_gone)))
    except BaseException:
        change.close()
        raise
    return change


def _check(found: Plan, change: ManifestChange, allow_shrink: bool, if_plan: str | None) -> None:
    if if_plan is not None:
        # An operator who names the plan has seen all of it, what it withdraws as well.
        if if_plan != found.digest:
            raise PreconditionError(
                f"the manifest or the queue moved: the plan was {if_plan[:12]}, it would be {found.digest[:12]} now"
                f"{_told(found)}",
                "look at the plan again",
            )
        return
    declared, before = change.in_force.count, change.before.count
    # A file that was cut off while it was written looks like one that names fewer jobs.
    if declared < before and not allow_shrink:
        raise WouldShrinkError(
            f"the manifest declares {_jobs(declared)}, the one in force {before}; nothing was applied{_told(found)}",
            "check that the file is whole; if it is, apply what `cis490-jobs plan` shows, or add --allow-shrink",
        )


def _told(found: Plan) -> str:
    """Return what a plan replaces and drops, job by job, for the text of a refusal."""
    replaced = {job.replaces: job for job in found.added if job.replaces is not None}
    lines = [_replacing(replaced[job.id], job) if job.id in replaced else _dropping(job) for job in found.dropped]
    shown = lines[:MAX_TOLD]
    more = found.counts["dropped"] - len(shown)
    return f": {', '.join(shown)}{f' and {more} more' if more else ''}" if shown else ""


def _replacing(new: PlannedJob, old: PlannedJob) -> str:
    fields = ", ".join(f"{key} {_word(before)} -> {_word(after)}" for key, (before, after) in new.change.items())
    return f"{new.model} {new.mode} {fields} replaces {old.id[:SHORT_ID]}"


def _dropping(job: PlannedJob) -> str:
    return f"{job.model} {job.mode} {job.id[:SHORT_ID]} is no longer named"


def _word(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)[:60]


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def _step(database: Database, change: Callable[[Transaction], T]) -> T:
    return database.submit(change).result()


def _chunks(items: Iterator[T]) -> Iterator[list[T]]:
    while chunk := list(islice(items, CHUNK)):
        yield chunk
