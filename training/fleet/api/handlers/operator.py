"""What operators ask: cancel, requeue, reload, plan, backup, fsck, prune, accept."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from training.fleet.api.answers import Json
from training.fleet.api.fleet import Fleet
from training.fleet.api.queries import words
from training.fleet.api.request import Request
from training.fleet.database import Transaction
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.errors import InvalidMessageError
from training.fleet.queue.clock import label_before
from training.fleet.queue.pruning import PruneRule
from training.fleet.wire.people import AcceptedLoss, BackupOrder, FsckOrder, Reload
from training.fleet.wire.pruning import MAX_LISTED, PlannedPrune, PruneOrder, PrunePlan


async def cancel(fleet: Fleet, request: Request) -> Response:
    """Cancel a job, or ask the worker that runs it to stop."""
    job_id, who, expected = request.target, request.caller.who, words(request.query.get("if_status"))
    return Json(await fleet.run(lambda tx: fleet.queue.cancel(tx, job_id, who, expected)))


async def requeue(fleet: Fleet, request: Request) -> Response:
    """Make a failed or cancelled job claimable again with a new budget."""
    job_id, who, expected = request.target, request.caller.who, words(request.query.get("if_status"))
    lost = await _what_is_lost(fleet, job_id)
    return Json(await fleet.run(lambda tx: fleet.queue.requeue(tx, job_id, who, expected, lost)))


async def _what_is_lost(fleet: Fleet, job_id: str) -> str:
    """Return what is wrong with the file of a completed job's artifact, nothing when all is well."""

    def look(tx: Transaction) -> tuple[ArtifactKey, int | None] | None:
        key = fleet.queue.result_of(tx, job_id)
        return None if key is None else (key, fleet.queue.artifacts.size_bytes(tx, key))

    found = await fleet.run(look)
    if found is None:
        return ""
    key, size_bytes = found
    blobs = fleet.store.blobs
    try:
        blob = await asyncio.to_thread(blobs.stat, key.path)
    except OSError as error:
        raise blobs.fault(f"look at {key.path}", error) from error
    if blob is None:
        return f"there is no file {blobs.address(key.path)}"
    if size_bytes is not None and blob.size_bytes != size_bytes:
        return f"{blobs.address(key.path)} has {blob.size_bytes} bytes, expected {size_bytes}"
    return ""


async def reload(fleet: Fleet, request: Request, message: Reload) -> Response:
    """Read the manifest file again and apply it."""
    return Json(await fleet.loader.reload(message, request.caller.who))


async def plan(fleet: Fleet, request: Request) -> Response:
    """Show what applying a manifest would do: the one in the body, or the receiver's file."""
    return Json(await fleet.loader.plan(await request.arrival.whole() or None))


async def backup(fleet: Fleet, _request: Request, order: BackupOrder) -> Response:
    """Begin a backup below the receiver's backup_root; GET /v1/chore shows how far it is."""
    return Json(fleet.keeper.begin_backup(order))


async def fsck(fleet: Fleet, _request: Request, order: FsckOrder) -> Response:
    """Begin a check of database, store and index; GET /v1/chore shows how far it is."""
    return Json(fleet.keeper.begin_fsck(order))


async def plan_prune(fleet: Fleet, _request: Request, order: PruneOrder) -> Response:
    """Show which results a prune would remove."""
    choice = await asyncio.to_thread(fleet.keeper.pruner.choose, _rule(fleet, order), MAX_LISTED)
    listed = [
        PlannedPrune(
            result.key.sha256,
            result.key.model,
            result.key.mode,
            result.size_bytes,
            result.at,
            [job.id for job in result.jobs if job.id is not None],
        )
        for result in choice.first
    ]
    return Json(PrunePlan(choice.digest, len(choice.seqs), choice.size_bytes, len(choice.kept), listed))


async def prune(fleet: Fleet, request: Request, order: PruneOrder) -> Response:
    """Begin to remove the results that the plan showed; GET /v1/chore shows how far it is."""
    if order.if_digest is None:
        raise InvalidMessageError(
            "the order has no if_digest", "ask POST /v1/prune/plan for it", expected="the digest of the plan"
        )
    return Json(fleet.keeper.begin_prune(_rule(fleet, order), order.if_digest, request.caller.who))


def _rule(fleet: Fleet, order: PruneOrder) -> PruneRule:
    if order.older_than_s is None and not order.keep_best and not order.unnamed:
        raise InvalidMessageError(
            "the order chooses every result", "say which", expected="older_than_s, keep_best or unnamed"
        )
    headline = fleet.queue.in_force.headline
    if order.keep_best and headline is None:
        raise InvalidMessageError(
            "the trainer declares no headline metric, so nobody can say which results are the best",
            "leave keep_best out",
        )
    before = None if order.older_than_s is None else label_before(order.older_than_s)
    return PruneRule(before, order.keep_best, order.unnamed, headline)


async def chore(fleet: Fleet, _request: Request) -> Response:
    """The newest backup, check or prune, and what it found."""
    return Json(fleet.keeper.chore())


async def accept(fleet: Fleet, request: Request) -> Response:
    """Accept what a host could train with before and cannot any more."""
    worker, who = request.target, request.caller.who
    return Json(AcceptedLoss(worker, await fleet.run(lambda tx: fleet.queue.losses.accept(tx, worker, who))))
