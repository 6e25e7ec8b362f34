"""Planning and applying a manifest, step by step through the writer.

Owns the order of the steps. Guarantees that nothing is written before the whole manifest was compared and the
operator's conditions hold. Meant for a thread of its own: each step waits for the writer, and claims run in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from training.fleet.database import Database, Transaction
from training.fleet.manifest import Header, JobEntry
from training.fleet.model.errors import PreconditionError, WouldShrinkError
from training.fleet.queue.change import ManifestChange
from training.fleet.queue.load import Load
from training.fleet.queue.queue import Queue
from training.fleet.wire.people import Plan

T = TypeVar("T")

CHUNK: Final = 150
"""Jobs in one step: a few milliseconds of the writer's time."""


def plan(database: Database, queue: Queue, header: Header, entries: Iterable[JobEntry]) -> Plan:
    """Say what a manifest would change, and change nothing.

    Args:
        database: Where the queue is.
        queue: The queue.
        header: The manifest's header.
        entries: Its jobs in order; read once.
    """
    with _compared(database, queue.load, header, entries, "receiver") as change:
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
) -> Plan:
    """Bring a manifest in force.

    Args:
        database: Where the queue is.
        queue: The queue.
        header: The manifest's header.
        entries: Its jobs in order; read once.
        actor: Who asks, for the history.
        allow_shrink: Leave to drop jobs that it does not name.
        if_plan: Digest of the plan the operator saw, None when it does not matter.

    Returns:
        What was done.

    Raises:
        WouldShrinkError: It would drop jobs and may not.
        PreconditionError: The plan would be another one now.
    """
    with _compared(database, queue.load, header, entries, actor) as change:
        return _apply(database, queue.load, change, allow_shrink, if_plan)


def _apply(database: Database, queue: Load, change: ManifestChange, allow_shrink: bool, if_plan: str | None) -> Plan:
    found = change.plan()
    _check(found, allow_shrink, if_plan)
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
    database: Database, queue: Load, header: Header, entries: Iterable[JobEntry], actor: str
) -> ManifestChange:
    change = _step(database, lambda tx: queue.begin_manifest(tx, header, actor))
    try:
        for chunk in _chunks(iter(entries)):
            _step(database, partial(queue.compare_jobs, change=change, entries=chunk))
        while _step(database, lambda tx: queue.find_dropped(tx, change)):
            pass
    except BaseException:
        change.close()
        raise
    return change


def _check(found: Plan, allow_shrink: bool, if_plan: str | None) -> None:
    if if_plan is not None and if_plan != found.digest:
        raise PreconditionError(
            f"the manifest or the queue moved: the plan was {if_plan[:12]}, it would be {found.digest[:12]} now",
            "look at the plan again",
        )
    dropped = found.counts["dropped"]
    # A file that was cut off while it was written looks like one that names fewer jobs.
    if dropped and not allow_shrink:
        first = ", ".join(job.id[:12] for job in found.dropped[:5])
        jobs = "1 job" if dropped == 1 else f"{dropped} jobs"
        raise WouldShrinkError(
            f"the manifest no longer names {jobs} of the queue ({first}{', …' if dropped > 5 else ''}), nothing was "
            "applied",
            "check that the file is whole; if it is, reload with --allow-shrink, and the jobs stay until cancelled",
        )


def _step(database: Database, change: Callable[[Transaction], T]) -> T:
    return database.submit(change).result()


def _chunks(items: Iterator[T]) -> Iterator[list[T]]:
    while chunk := list(islice(items, CHUNK)):
        yield chunk
