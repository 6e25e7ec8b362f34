"""What operators ask: cancel, requeue, reload, plan, backup, fsck, accept."""

from __future__ import annotations

from starlette.responses import Response

from training.fleet.api.answers import Json
from training.fleet.api.fleet import Fleet
from training.fleet.api.queries import words
from training.fleet.api.request import Request
from training.fleet.wire.people import AcceptedLoss, BackupOrder, FsckOrder, Reload


async def cancel(fleet: Fleet, request: Request) -> Response:
    """Cancel a job, or ask the worker that runs it to stop."""
    job_id, who, expected = request.target, request.caller.who, words(request.query.get("if_status"))
    return Json(await fleet.run(lambda tx: fleet.queue.cancel(tx, job_id, who, expected)))


async def requeue(fleet: Fleet, request: Request) -> Response:
    """Make a failed or cancelled job claimable again with a new budget."""
    job_id, who, expected = request.target, request.caller.who, words(request.query.get("if_status"))
    return Json(await fleet.run(lambda tx: fleet.queue.requeue(tx, job_id, who, expected)))


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


async def chore(fleet: Fleet, _request: Request) -> Response:
    """The newest backup or check, and what it found."""
    return Json(fleet.keeper.chore())


async def accept(fleet: Fleet, request: Request) -> Response:
    """Accept what a host could train with before and cannot any more."""
    worker, who = request.target, request.caller.who
    return Json(AcceptedLoss(worker, await fleet.run(lambda tx: fleet.queue.losses.accept(tx, worker, who))))
