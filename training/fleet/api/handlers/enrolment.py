"""What is asked about identities: invite, enrol, rotate, revoke, and the audit trail."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.responses import Response

from training.fleet.api.answers import Json
from training.fleet.api.callers import address, note
from training.fleet.api.fleet import Fleet
from training.fleet.api.handlers.read import limit_of
from training.fleet.api.request import Request
from training.fleet.model.errors import (
    ForbiddenError,
    InviteRefusedError,
    NotFoundError,
)
from training.fleet.queue import EventFilters
from training.fleet.single_file import INSTALLER, digest_of
from training.fleet.wire.identities import Enrol, Enrolled, Invite, InviteOrder, Material, NewSecret

NO_STORE: Final = {"cache-control": "no-store"}


async def invite(fleet: Fleet, request: Request, order: InviteOrder) -> Response:
    """Make a one-time code with which one host can enrol."""
    who = request.caller.who
    made = await fleet.run(lambda tx: fleet.queue.identities.invite(tx, order, who))
    installer = await asyncio.to_thread(digest_of, INSTALLER)
    pinned = fleet.authority.sha256
    shown = Invite(made.worker, made.code, made.ttl_s, made.expires_at, pinned, made.replaces, installer)
    return Json(shown, headers=NO_STORE)


async def enrol(fleet: Fleet, request: Request, message: Enrol) -> Response:
    """Exchange a one-time code for the identity of a worker."""
    caller, before = address(request), fleet.queue.identities.registry.living(message.worker)
    fleet.limiter.enter(caller)
    try:
        identity = await fleet.run(lambda tx: fleet.queue.identities.enrol(tx, message))
    except (InviteRefusedError, ForbiddenError) as error:
        why = f"enrolment: {error.message.partition(';')[0]}"
        await note(fleet, request, message.worker, "refuse", why, known=False)
        raise
    except BaseException:
        fleet.limiter.forgive(caller)
        raise
    fleet.limiter.forgive(caller)
    if before is None or before.id != identity.id:  # the same exchange asked again changes nothing
        fleet.sessions.forget(identity.worker)
        fleet.lot.ring(identity.worker)
    material = await _issued(fleet, identity.id, identity.worker)
    enrolled = Enrolled(
        worker=identity.worker,
        id=identity.id,
        version=fleet.version,
        heartbeat_s=fleet.queue.terms.heartbeat_s,
        ca_pem=material.ca_pem or fleet.authority.pem,
        certificate_pem=material.certificate_pem,
        key_pem=material.key_pem,
    )
    return Json(enrolled, headers=NO_STORE)


async def _issued(fleet: Fleet, public_id: str, worker: str) -> Material:
    """Return what the worker needs for mutual TLS; who asks again soon gets the same."""
    if fleet.authority.issue is None:
        return Material()
    material = await asyncio.to_thread(fleet.authority.issue, worker, public_id)
    await fleet.run(lambda tx: fleet.queue.identities.keep_certificate(tx, public_id, material.fingerprint))
    return material


async def secret(fleet: Fleet, request: Request, message: NewSecret) -> Response:
    """Take the digest of a worker's next key."""
    identity = request.caller.identity
    if not identity:
        raise ForbiddenError("only an enrolled worker has a key of its own to change", "enrol this host first")
    return Json(await fleet.run(lambda tx: fleet.queue.identities.take_secret(tx, identity, message.secret_sha256)))


async def certificate(fleet: Fleet, request: Request) -> Response:
    """Issue a worker's next certificate, or answer with the last one again while two thirds of its life are left."""
    caller = request.caller
    if fleet.authority.issue is None:
        raise NotFoundError("this receiver issues no certificates", "renew this host's where it was made")
    if not caller.identity:
        raise ForbiddenError("only an enrolled worker has a certificate of its own to renew", "enrol this host first")
    return Json(await _issued(fleet, caller.identity, caller.name), headers=NO_STORE)


async def revoke(fleet: Fleet, request: Request) -> Response:
    """Revoke a worker's secret; its jobs return to the queue."""
    worker, who = request.target, request.caller.who
    gone = await fleet.run(lambda tx: fleet.queue.identities.revoke(tx, worker, who))
    fleet.sessions.forget(worker)
    fleet.lot.ring(worker)
    return Json(gone)


async def rotate(fleet: Fleet, request: Request) -> Response:
    """Have a worker make a new key at its next contact."""
    worker, who = request.target, request.caller.who
    return Json(await fleet.run(lambda tx: fleet.queue.identities.ask_to_rotate(tx, worker, who)))


async def identities(fleet: Fleet, request: Request) -> Response:
    """One page of the workers that enrolled, and of their earlier identities."""
    query = request.query
    return Json(fleet.queue.identities.page(query.get("cursor"), limit_of(query)))


async def events(fleet: Fleet, request: Request) -> Response:
    """One page of the audit trail, newest first."""
    query = request.query
    wanted = EventFilters(query.get("job"), query.get("worker"), query.get("since"), query.get("until"))
    cursor, limit = query.get("cursor"), limit_of(query)
    return Json(await fleet.run(lambda tx: fleet.queue.history.page(tx, wanted, cursor, limit)))


async def authority(fleet: Fleet, _request: Request) -> Response:
    """The receiver's certificate authority in PEM; a host compares it with the fingerprint from its invitation."""
    if not fleet.authority.pem:
        raise NotFoundError("this receiver has no certificate authority of its own", "trust the one of its certificate")
    return Response(fleet.authority.pem, media_type="application/x-pem-file")
