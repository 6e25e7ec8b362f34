"""What workers ask: claim, heartbeat, complete, fail, upload."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from typing import Final, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from training.fleet.api.answers import Json
from training.fleet.api.arrival import PARKED
from training.fleet.api.callers import address, demand_holder, demand_own_name, spot
from training.fleet.api.fleet import Fleet
from training.fleet.api.parking import ParkedCall
from training.fleet.api.request import Request
from training.fleet.auth import neighbourhood
from training.fleet.database import Transaction
from training.fleet.model.errors import (
    UpgradeRequiredError,
)
from training.fleet.wire.worker import Claim, Complete, Fail, Heartbeat, Lease

T = TypeVar("T")
PARK_CAP_S: Final = 60.0
"""Longest wait for a job in one call: proxies close what is silent for longer."""
OLDEST_WORKER: Final = (0, 1)
"""Oldest version of a worker this receiver speaks with."""
LOOP_TURNS: Final = 6
"""Turns of the event loop until a hang-up that the kernel knows has reached its task."""
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
