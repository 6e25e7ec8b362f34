"""What is asked about identities: invite, enrol, rotate, revoke, and the audit trail."""

from __future__ import annotations

import asyncio
from typing import Final

from training.fleet import wire
from training.fleet.api.callers import address, note
from training.fleet.api.exchange import Answer, Request, answer
from training.fleet.api.fleet import Fleet
from training.fleet.api.look import limit_of
from training.fleet.api.messages import Decoder
from training.fleet.errors import (
    ForbiddenError,
    InviteRefusedError,
    NotFoundError,
)

INVITE: Final = Decoder(wire.InviteOrder)
ENROL: Final = Decoder(wire.Enrol)
SECRET: Final = Decoder(wire.NewSecret)
NO_STORE: Final = (b"cache-control", b"no-store")


async def invite(fleet: Fleet, request: Request) -> Answer:
    """Make a one-time code with which one host can enrol."""
    order, who = INVITE.decode(await request.body()), request.caller.who
    made = await fleet.run(lambda tx: fleet.queue.invite(tx, order, who))
    shown = wire.Invite(made.worker, made.code, made.ttl_s, made.expires_at, fleet.ca_sha256, made.replaces)
    return answer(shown, headers=[NO_STORE])


async def enrol(fleet: Fleet, request: Request) -> Answer:
    """Exchange a one-time code for the identity of a worker."""
    message = ENROL.decode(await request.body())
    caller, before = address(request), fleet.queue.registry.living(message.worker)
    fleet.limiter.enter(caller)
    try:
        identity = await fleet.run(lambda tx: fleet.queue.enrol(tx, message))
    except (InviteRefusedError, ForbiddenError) as error:
        why = f"enrolment: {error.found}"
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
    enrolled = wire.Enrolled(
        worker=identity.worker,
        id=identity.id,
        version=fleet.version,
        heartbeat_s=fleet.queue.terms.heartbeat_s,
        ca_pem=material.ca_pem or fleet.ca_pem,
        certificate_pem=material.certificate_pem,
        key_pem=material.key_pem,
    )
    return answer(enrolled, headers=[NO_STORE])


async def _issued(fleet: Fleet, public_id: str, worker: str) -> wire.Material:
    """Return what the worker needs for mutual TLS; who asks again soon gets the same."""
    if fleet.issuer is None:
        return wire.Material()
    material = await asyncio.to_thread(fleet.issuer, worker, public_id)
    await fleet.run(lambda tx: fleet.queue.keep_certificate(tx, public_id, material.fingerprint))
    return material


async def secret(fleet: Fleet, request: Request) -> Answer:
    """Take the digest of a worker's next key."""
    message, identity = SECRET.decode(await request.body()), request.caller.identity
    if not identity:
        raise ForbiddenError("only an enrolled worker has a key of its own to change", "enrol this host first")
    return answer(await fleet.run(lambda tx: fleet.queue.take_secret(tx, identity, message.secret_sha256)))


async def certificate(fleet: Fleet, request: Request) -> Answer:
    """Issue a worker's next certificate, or answer with the last one again while two thirds of its life are left."""
    await request.body()
    caller = request.caller
    if fleet.issuer is None:
        raise NotFoundError("this receiver issues no certificates", "renew this host's where it was made")
    if not caller.identity:
        raise ForbiddenError("only an enrolled worker has a certificate of its own to renew", "enrol this host first")
    return answer(await _issued(fleet, caller.identity, caller.name), headers=[NO_STORE])


async def revoke(fleet: Fleet, request: Request) -> Answer:
    """Take a worker's secret back; its jobs return to the queue."""
    await request.body()
    worker, who = request.target, request.caller.who
    gone = await fleet.run(lambda tx: fleet.queue.revoke(tx, worker, who))
    fleet.sessions.forget(worker)
    fleet.lot.ring(worker)
    return answer(gone)


async def rotate(fleet: Fleet, request: Request) -> Answer:
    """Have a worker make a new key at its next contact."""
    await request.body()
    worker, who = request.target, request.caller.who
    return answer(await fleet.run(lambda tx: fleet.queue.ask_to_rotate(tx, worker, who)))


async def identities(fleet: Fleet, request: Request) -> Answer:
    """One page of the workers that enrolled, and of their earlier identities."""
    query = request.query
    return answer(fleet.queue.identities(query.get("cursor"), limit_of(query)))


async def events(fleet: Fleet, request: Request) -> Answer:
    """One page of the audit trail, newest first."""
    query = request.query
    job, worker, limit = query.get("job"), query.get("worker"), limit_of(query)
    return answer(await fleet.run(lambda tx: fleet.queue.events(tx, job, worker, query.get("cursor"), limit)))


async def authority(fleet: Fleet, _request: Request) -> Answer:
    """The receiver's certificate authority in PEM; whoever fetches it compares it with the fingerprint it was given."""
    if not fleet.ca_pem:
        raise NotFoundError("this receiver has no certificate authority of its own", "trust the one of its certificate")
    return Answer(200, fleet.ca_pem.encode(), [(b"content-type", b"application/x-pem-file")])
