"""Artifacts and their parts on the way in.

Guarantees that a body is written while it arrives and memory stays flat, that what a lease may not bring is not read,
and that nothing half is kept. Leaves the order of files and rows to `store`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from typing import Final

from starlette.responses import Response

from training.fleet.api.answers import Json
from training.fleet.api.arrival import KNOWN
from training.fleet.api.callers import client, demand_holder
from training.fleet.api.fleet import Fleet
from training.fleet.api.ranges import sent_digest
from training.fleet.api.request import Request
from training.fleet.database import Transaction
from training.fleet.database.queries import PartRow
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.errors import FleetError, LengthRequiredError, RequestError, StorageFullError
from training.fleet.store import Upload
from training.fleet.wire.worker import Stored

LEASE: Final = re.compile(r"[0-9A-Za-z_-]{8,64}")
UPLOAD_BATCH_BYTES: Final = 2**19
LOOK_AGAIN_S: Final = 30.0
"""How long an upload goes on under a lease that may have ended."""
CLOSE: Final = {"connection": "close"}
"""Ends the connection, because nobody reads the body that the client still sends."""


async def upload(fleet: Fleet, request: Request) -> Response:
    """Store an artifact while it arrives."""
    try:
        return await _upload(fleet, request)
    except StorageFullError as error:
        fleet.meters.count_refused_upload(error.code)
        await _note_full(fleet, request)
        raise
    except FleetError as error:
        fleet.meters.count_refused_upload(error.code)
        raise


async def _note_full(fleet: Fleet, request: Request) -> None:
    """Remember that an upload found no room, so that people see it."""
    size_bytes, lease_id = _upload_headers(request)
    free_bytes = await asyncio.to_thread(fleet.store.free_bytes)
    job = await fleet.run(lambda tx: fleet.queue.job_of(tx, lease_id))
    fleet.refusals.note(lease_id, job or "", size_bytes, free_bytes)


async def _upload(fleet: Fleet, request: Request) -> Response:
    size_bytes, lease_id = _upload_headers(request)
    fleet.demand_open()
    await demand_holder(fleet, request, lease_id)
    await _for_upload(fleet, request, lease_id)  # who has no lease takes no turn from one who has
    request.scope.setdefault(KNOWN, client(request))
    async with fleet.uploads.turn(lease_id, request.arrival):
        return await _uploaded(fleet, request, lease_id, size_bytes)


async def _uploaded(fleet: Fleet, request: Request, lease_id: str, size_bytes: int) -> Response:
    """Take an artifact in, unless it is here."""
    key = await _for_upload(fleet, request, lease_id)
    in_thread = functools.partial(asyncio.get_running_loop().run_in_executor, fleet.uploads.threads)
    intake = fleet.intake
    if await in_thread(intake.known, key, size_bytes):
        fleet.refusals.succeeded(lease_id, 0)
        return Json(Stored(key.sha256, size_bytes, new=False), headers=CLOSE)
    fleet.uploads.begin(lease_id, key.sha256)
    upload = await in_thread(intake.begin, key, size_bytes)
    try:
        await _receive(fleet, request, upload, lease_id)
        await in_thread(intake.finish, upload, key, size_bytes)
        fleet.refusals.succeeded(lease_id, size_bytes)
    except BaseException:
        await asyncio.shield(in_thread(upload.abort))
        raise
    return Json(Stored(key.sha256, size_bytes, new=True), 201)


async def upload_part(fleet: Fleet, request: Request) -> Response:
    """Store one of the small files beside an artifact: its card, a figure, its metrics."""
    size_bytes, lease_id = _upload_headers(request)
    row = PartRow(request.file, size_bytes, sent_digest(request.head))
    fleet.demand_open()
    await demand_holder(fleet, request, lease_id)
    await _for_upload(fleet, request, lease_id)
    request.scope.setdefault(KNOWN, client(request))
    async with fleet.uploads.turn(lease_id, request.arrival):
        return await _uploaded_part(fleet, request, lease_id, row)


async def _uploaded_part(fleet: Fleet, request: Request, lease_id: str, row: PartRow) -> Response:
    """Take a part in, unless it is here."""
    key = await _for_upload(fleet, request, lease_id)
    in_thread = functools.partial(asyncio.get_running_loop().run_in_executor, fleet.uploads.threads)
    parts = fleet.part_intake
    if await in_thread(parts.known, key, row):
        return Json(Stored(row.sha256, row.size_bytes, new=False), headers=CLOSE)
    part = await in_thread(parts.begin, key, row)
    try:
        await _receive(fleet, request, part.upload, lease_id)
        await in_thread(parts.finish, part)
    except BaseException:
        await asyncio.shield(in_thread(part.upload.abort))
        raise
    return Json(Stored(row.sha256, row.size_bytes, new=True), 201)


async def _for_upload(fleet: Fleet, request: Request, lease_id: str) -> ArtifactKey:
    """Return the key under which an upload of a lease is kept, while it may be brought.

    Raises:
        StaleLeaseError: The lease is over, or there never was one.
        OtherResultError: It has completed its job with another artifact.
        RevokedError: The worker was revoked.
    """

    def look(tx: Transaction) -> ArtifactKey:
        fleet.queue.identities.demand_living(request.caller.identity)
        return fleet.queue.artifacts.lease_for_upload(tx, lease_id, request.target)[1]

    return await fleet.run(look)


def _upload_headers(request: Request) -> tuple[int, str]:
    size_bytes = request.arrival.declared_bytes()
    if size_bytes < 0:
        raise LengthRequiredError("the upload does not say how long it is", "send Content-Length")
    if b"content-encoding" in request.head:
        raise RequestError("the upload has a Content-Encoding", "send the bundle as it is")
    lease_id = request.head.get(b"x-lease-id", b"").decode("latin-1")
    if not LEASE.fullmatch(lease_id):
        raise RequestError("the X-Lease-Id header is missing or no lease id", "send the id that the claim answered")
    return size_bytes, lease_id


async def _receive(fleet: Fleet, request: Request, upload: Upload, lease_id: str) -> None:
    """Write the body while the next pieces arrive: one batch is hashed and written, one fills.

    A body may take long, and its lease can end meanwhile: the lease is looked at now and then, and before the end.
    """
    loop = asyncio.get_running_loop()
    look_at = loop.time() + LOOK_AGAIN_S
    batch: list[bytes] = []
    waiting = 0
    writing: asyncio.Future[None] | None = None
    try:
        async with contextlib.aclosing(request.stream()) as pieces:
            async for piece in pieces:
                batch.append(piece)
                waiting += len(piece)
                if loop.time() >= look_at:
                    await _for_upload(fleet, request, lease_id)
                    look_at = loop.time() + LOOK_AGAIN_S
                if waiting >= UPLOAD_BATCH_BYTES:
                    if writing is not None:
                        await writing
                    writing = loop.run_in_executor(fleet.uploads.threads, _write, upload, batch)
                    batch, waiting = [], 0
        await _for_upload(fleet, request, lease_id)
        if writing is not None:
            await writing
        writing = loop.run_in_executor(fleet.uploads.threads, _write, upload, batch)
    finally:
        if writing is not None:
            await asyncio.shield(writing)


def _write(upload: Upload, batch: list[bytes]) -> None:
    # One call for a batch lets the interpreter go once for the hash and once for the disk, not for every piece.
    upload.write(b"".join(batch))
