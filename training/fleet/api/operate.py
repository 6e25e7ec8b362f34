"""What operators ask: cancel, requeue, reload, plan, backup, fsck."""

from __future__ import annotations

from typing import Final

from training.fleet.api.exchange import Answer, Request, answer
from training.fleet.api.fleet import Fleet
from training.fleet.api.messages import Decoder
from training.fleet.model.jobs import MAX_MANIFEST_BYTES
from training.fleet.wire.people import BackupOrder, FsckOrder, Reload

RELOAD: Final = Decoder(Reload)
BACKUP: Final = Decoder(BackupOrder)
FSCK: Final = Decoder(FsckOrder)


async def cancel(fleet: Fleet, request: Request) -> Answer:
    """Cancel a job, or ask the worker that runs it to stop."""
    await request.body()
    job_id, who = request.target, request.caller.who
    return answer(await fleet.run(lambda tx: fleet.queue.cancel(tx, job_id, who)))


async def requeue(fleet: Fleet, request: Request) -> Answer:
    """Make a failed or cancelled job claimable again with a new budget."""
    await request.body()
    job_id, who = request.target, request.caller.who
    return answer(await fleet.run(lambda tx: fleet.queue.requeue(tx, job_id, who)))


async def reload(fleet: Fleet, request: Request) -> Answer:
    """Read the manifest file again and apply it."""
    body = await request.body()
    message = RELOAD.decode(body) if body.strip() else Reload()
    return answer(await fleet.loader.reload(message, request.caller.who))


async def plan(fleet: Fleet, request: Request) -> Answer:
    """Tell what applying a manifest would do: the one in the body, or the receiver's file."""
    body = await request.body(MAX_MANIFEST_BYTES)
    return answer(await fleet.loader.plan(body or None))


async def backup(fleet: Fleet, request: Request) -> Answer:
    """Begin a backup below the receiver's backup_root; GET /v1/chore tells how far it is."""
    body = await request.body()
    return answer(fleet.keeper.begin_backup(BACKUP.decode(body) if body.strip() else BackupOrder()))


async def fsck(fleet: Fleet, request: Request) -> Answer:
    """Begin a check of database, store and index; GET /v1/chore tells how far it is."""
    body = await request.body()
    return answer(fleet.keeper.begin_fsck(FSCK.decode(body) if body.strip() else FsckOrder()))


async def chore(fleet: Fleet, _request: Request) -> Answer:
    """The newest backup or check, and what it found."""
    return answer(fleet.keeper.chore())
