"""What workers ask: claim, heartbeat, complete, fail, upload."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import time
from collections.abc import Callable
from typing import Final, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from training.fleet.api.answers import Json
from training.fleet.api.arrival import KNOWN, PARKED
from training.fleet.api.callers import address, client, demand_holder, demand_own_name, spot
from training.fleet.api.fleet import Fleet
from training.fleet.api.parking import ParkedCall
from training.fleet.api.request import Request
from training.fleet.auth import neighbourhood
from training.fleet.database import Transaction
from training.fleet.model.errors import (
    DigestMismatchError,
    FleetError,
    LengthRequiredError,
    RequestError,
    UpgradeRequiredError,
)
from training.fleet.store import Upload, index_row
from training.fleet.wire.worker import Claim, Complete, Fail, Heartbeat, Lease, Stored

T = TypeVar("T")
PARK_CAP_S: Final = 60.0
"""Longest wait for a job in one call: proxies close what is silent for longer."""
OLDEST_WORKER: Final = (0, 1)
"""Oldest version of a worker this receiver speaks with."""
LOOP_TURNS: Final = 6
"""Turns of the event loop until a hang-up that the kernel knows has reached its task."""
LEASE: Final = re.compile(r"[0-9A-Za-z_-]{8,64}")
UPLOAD_BATCH_BYTES: Final = 2**19
LOOK_AGAIN_S: Final = 30.0
"""How long an upload goes on under a lease that may have ended."""
CLOSE: Final = {"connection": "close"}
"""Ends the connection, because nobody reads the body that the client still sends."""
PREFERENCE_APPLIED: Final = {"preference-applied": "wait"}


async def claim(fleet: Fleet, request: Request, message: Claim) -> Response:
    """Give the caller a job, now or when one appears while it waits."""
    demand_own_name(fleet, request, message.worker)
    fleet.demand_open()
    if not _speakable(message.capability.version):
        oldest = ".".join(map(str, OLDEST_WORKER))
        raise UpgradeRequiredError(
            f"the worker is version {message.capability.version}", "upgrade it", expected=f"{oldest} or newer"
        )
    wait_s = request.wait_s(PARK_CAP_S)
    if wait_s:
        lease = await _parked(fleet, request, message, wait_s)
    else:
        lease = await _ask(fleet, lambda tx: _claimed(fleet, request, tx, message))
    headers = PREFERENCE_APPLIED if wait_s else {}
    if lease is None:
        retry_s = 1.0 if wait_s else fleet.idle_retry_s
        return Response(status_code=204, headers={**headers, "retry-after": f"{retry_s:.0f}"})
    return Json(lease, headers=headers)


async def _ask(fleet: Fleet, change: Callable[[Transaction], T]) -> T:
    """Put a claim to the queue; how long the queue takes is measured."""
    begun = time.perf_counter()
    found = await fleet.run(change)
    fleet.meters.claims.observe(time.perf_counter() - begun)
    return found


async def _parked(fleet: Fleet, request: Request, message: Claim, wait_s: float) -> Lease | None:
    """Return a lease as soon as there is one, None after the wait.

    A caller that hung up takes no job: hang-ups are looked for after every wake-up, before the queue is asked.
    """
    place = fleet.lot.enter(message.worker, spot(request), neighbourhood(address(request)))
    request.scope[PARKED] = True
    try:
        lease = await _ask(fleet, lambda tx: _claimed(fleet, request, tx, message))
        return lease or await _wait_for_job(fleet, request, place, message, wait_s)
    finally:
        fleet.lot.leave(place)
        del request.scope[PARKED]


async def _wait_for_job(
    fleet: Fleet, request: Request, place: ParkedCall, message: Claim, wait_s: float
) -> Lease | None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    timer = loop.call_at(deadline, place.bell.set)
    gone = loop.create_task(_hang_up(request))
    gone.add_done_callback(lambda _: place.bell.set())
    try:
        while loop.time() < deadline:
            await place.bell.wait()
            place.bell.clear()
            await _let_hang_ups_arrive(gone)
            if gone.done():
                raise ClientDisconnect
            if place.over:
                return None
            fleet.demand_open()
            fleet.queue.identities.demand_living(request.caller.identity)
            if place.offer is not None and (lease := await _take_offered(fleet, request, place, message)):
                return lease
        return None
    finally:
        timer.cancel()
        gone.cancel()


async def _take_offered(fleet: Fleet, request: Request, place: ParkedCall, message: Claim) -> Lease | None:
    offer = place.offer
    assert offer is not None

    def take(tx: Transaction) -> tuple[Lease | None, int]:
        lease = _claimed(fleet, request, tx, message)
        return lease, fleet.queue.claimable(tx, offer.requirement)

    lease, left = await _ask(fleet, take)
    fleet.lot.answered(place, left)
    return lease


def _claimed(fleet: Fleet, request: Request, tx: Transaction, message: Claim) -> Lease | None:
    """Claim on the writer thread, unless the worker was revoked or has enrolled since it was let in."""
    demand_own_name(fleet, request, message.worker)
    fleet.queue.identities.demand_living(request.caller.identity)
    # The session rules have let an enrolled worker in, so they know how many processes live under its name.
    return fleet.queue.claim(tx, message, vouched=bool(request.caller.identity))


async def _hang_up(request: Request) -> None:
    """Return when the client hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _let_hang_ups_arrive(gone: asyncio.Task[None]) -> None:
    # A hang-up that the kernel already knows takes a few turns of the loop: poll, end of file, connection lost, task.
    for _ in range(LOOP_TURNS):
        await asyncio.sleep(0)
        if gone.done():
            return


@functools.lru_cache(64)
def _speakable(version: str) -> bool:
    """Return True if a worker is new enough. Without a version, or with one that cannot be read, it counts as new."""
    numbers = version.split(".")[:2]
    if len(numbers) < 2 or not all(number.isdecimal() for number in numbers):
        return True
    return tuple(map(int, numbers)) >= OLDEST_WORKER


async def heartbeat(fleet: Fleet, request: Request, message: Heartbeat) -> Response:
    """Keep a lease alive. Mostly answered from memory."""
    await demand_holder(fleet, request, message.lease_id)
    job_id = request.target
    beat = fleet.queue.beat(job_id, message)
    if beat is None:
        beat = await fleet.run(lambda tx: fleet.queue.heartbeat(tx, job_id, message))
    return Json(beat)


async def complete(fleet: Fleet, request: Request, message: Complete) -> Response:
    """Take the result of a job."""
    await demand_holder(fleet, request, message.lease_id)
    job_id = request.target
    return Json(await fleet.run(lambda tx: fleet.queue.complete(tx, job_id, message)))


async def fail(fleet: Fleet, request: Request, message: Fail) -> Response:
    """End an attempt without a result."""
    await demand_holder(fleet, request, message.lease_id)
    job_id = request.target
    return Json(await fleet.run(lambda tx: fleet.queue.fail(tx, job_id, message)))


async def upload(fleet: Fleet, request: Request) -> Response:
    """Store an artifact while it arrives."""
    try:
        return await _upload(fleet, request)
    except FleetError as error:
        fleet.meters.count_refused_upload(error.code)
        raise


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
    sha256 = request.target
    model, mode = await _for_upload(fleet, request, lease_id)
    if await _known(fleet, sha256, size_bytes, model, mode):
        return Json(Stored(sha256, size_bytes, new=False), headers=CLOSE)
    threads, loop = fleet.uploads.threads, asyncio.get_running_loop()
    fleet.uploads.begin(lease_id, sha256)
    stored = await loop.run_in_executor(threads, fleet.store.begin, sha256, model, mode, size_bytes)
    try:
        await _receive(fleet, request, stored, lease_id)
        await loop.run_in_executor(threads, stored.finish)
    except BaseException:
        await asyncio.shield(loop.run_in_executor(threads, stored.abort))
        raise
    await _record(fleet, sha256, size_bytes, model, mode)
    return Json(Stored(sha256, size_bytes, new=True), 201)


async def _for_upload(fleet: Fleet, request: Request, lease_id: str) -> tuple[str, str]:
    """Return model and mode of the lease that an artifact is uploaded under, while it may.

    Raises:
        StaleLeaseError: The lease is over, or there never was one.
        OtherResultError: It has completed its job with another artifact.
        RevokedError: The worker was revoked.
    """

    def look(tx: Transaction) -> tuple[str, str]:
        fleet.queue.identities.demand_living(request.caller.identity)
        _, model, mode = fleet.queue.artifacts.lease_for_upload(tx, lease_id, request.target)
        return model, mode

    return await fleet.run(look)


async def _known(fleet: Fleet, sha256: str, size_bytes: int, model: str, mode: str) -> bool:
    """Return True when the store holds the artifact, with its row, so that nothing of the upload need be read.

    Raises:
        DigestMismatchError: The upload declares another length than the artifact has.
    """
    threads, loop = fleet.uploads.threads, asyncio.get_running_loop()
    row_bytes = await fleet.run(lambda tx: fleet.queue.artifacts.size_bytes(tx, sha256, model, mode))
    found = await loop.run_in_executor(threads, fleet.store.size_bytes, sha256, model, mode)
    if found is None:
        return False
    if found != row_bytes:
        # Neither the file's name nor what the upload declares says what the file holds. Reading it is rare: a crash
        # between file and row, an older database beside a newer store, a copy by hand.
        async with fleet.uploads.proving:
            found = await loop.run_in_executor(threads, fleet.store.proven_bytes, sha256, model, mode)
        if found is None:
            return False
    if found != size_bytes:
        raise DigestMismatchError(
            f"found a declared length of {size_bytes} bytes; the artifact is {found} bytes long, so other bytes "
            f"cannot hash to {sha256}",
            "pack and send the artifact again",
        )
    if row_bytes is None:
        await _record(fleet, sha256, found, model, mode)
    return True


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


async def _record(fleet: Fleet, sha256: str, size_bytes: int, model: str, mode: str) -> None:
    """Note a durable file: first the row, then the line of the derived index."""
    if await fleet.run(lambda tx: fleet.queue.artifacts.add(tx, sha256, size_bytes, model, mode)):
        row = index_row({"sha256": sha256, "model": model, "mode": mode, "size_bytes": size_bytes})
        # Rows become known here in the order of the database, and so do the lines have to.
        async with fleet.uploads.indexing:
            await asyncio.get_running_loop().run_in_executor(fleet.uploads.threads, fleet.store.append_index, row)


async def _receive(fleet: Fleet, request: Request, stored: Upload, lease_id: str) -> None:
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
                    writing = loop.run_in_executor(fleet.uploads.threads, _write, stored, batch)
                    batch, waiting = [], 0
        await _for_upload(fleet, request, lease_id)
        if writing is not None:
            await writing
        writing = loop.run_in_executor(fleet.uploads.threads, _write, stored, batch)
    finally:
        if writing is not None:
            await asyncio.shield(writing)


def _write(stored: Upload, batch: list[bytes]) -> None:
    # One call for a batch lets the interpreter go once for the hash and once for the disk, not for every piece.
    stored.write(b"".join(batch))
