"""Who asks, from the first look at a request to the last word of its answer.

Owns what is done around the handlers for an enrolled worker: its next key takes over at first use, its session holds
the identity while it is answered, and it is told when it should make a new key. Guarantees that a worker touches only
leases that were given to it. Leaves the judgement of secrets and sessions to `auth`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from training.fleet.api.exchange import KNOWN, Answer, Message, Request
from training.fleet.api.fleet import Fleet
from training.fleet.auth import Caller, Peer, Right, Role, neighbourhood
from training.fleet.auth.sessions import FORM, HEADER
from training.fleet.errors import CertificateMismatchError, ForbiddenError, IdentityInUseError, StaleLeaseError

SESSION: Final = HEADER.lower().encode()
ROTATE: Final = (b"x-rotate-secret", b"1")
"""Tells a worker to make a new key."""
LOOKS: Final = ("GET", "HEAD")
"""Methods that change nothing."""
PEER_KEY: Final = "cis490.peer"
"""Where an `auth.Peer` stands in the ASGI scope when a client certificate was verified."""


async def demand(fleet: Fleet, request: Request, role: Role, right: Right | None) -> None:
    """Find out who asks and whether it may.

    Raises:
        AuthenticationError: The credential is missing, wrong or revoked.
        ForbiddenError: The caller may not do this.
    """
    headers = request.headers
    peer = _peer(request.scope)
    try:
        request.caller = fleet.credentials.demand(
            role, headers.get(b"authorization"), headers.get(b"x-operator-token"), peer, right
        )
    except CertificateMismatchError as error:
        shown = peer.worker if peer is not None else ""
        await note(
            fleet, request, error.worker, "refuse", f"its secret came with the certificate of {shown or 'nobody'}"
        )
        raise


def _peer(scope: Message) -> Peer | None:
    found = scope.get(PEER_KEY)
    return found if isinstance(found, Peer) else None


async def as_worker(fleet: Fleet, request: Request, handler: Callable[[Fleet, Request], Awaitable[Answer]]) -> Answer:
    """Answer an enrolled worker.

    Raises:
        IdentityInUseError: Another machine uses its identity.
        RequestError: It does not say where it runs.
    """
    caller, queue = request.caller, fleet.queue
    given = request.headers.get(SESSION, b"").decode("latin-1")
    try:
        with fleet.sessions.present(caller.name, given, looks=request.scope["method"] in LOOKS) as place:
            if place:  # a visit changes nothing
                await _settle(fleet, caller, place)
            answer = await handler(fleet, request)
    except IdentityInUseError:
        await note(fleet, request, caller.name, "clash", f"another machine shows identity {caller.identity} as well")
        raise
    identity = queue.registry.get(caller.identity)
    if identity is not None and identity.rotate and request.scope["path"] != "/v1/secret":
        answer.headers.append(ROTATE)
    return answer


async def _settle(fleet: Fleet, caller: Caller, place: str) -> None:
    """Write down what a request says by being let in: the next key was used, and where the identity is."""
    queue = fleet.queue
    if caller.fresh:
        await fleet.run(lambda tx: queue.renew(tx, caller.identity))
    identity = queue.registry.get(caller.identity)
    if identity is not None and identity.place != place:
        await fleet.run(lambda tx: queue.keep_place(tx, caller.identity, place))


def address(request: Request) -> str:
    """Return where a request came from."""
    client = request.scope.get("client")
    return str(client[0]) if client else ""


def client(request: Request) -> str:
    """Return under whose name the places of a request count: an enrolled worker's or an operator's, else its address's.

    Ten workers behind one address are ten clients then, and one that is known takes places from nobody beside it.
    """
    caller = request.caller
    return caller.who if caller.name else neighbourhood(address(request))


def mark_known(fleet: Fleet, request: Request) -> None:
    """Note whose a request is, if it showed a credential; on loopback workers and readers may need none."""
    caller = request.caller
    if caller.name or caller.kind == "reader" or (caller.kind == "worker" and fleet.credentials.worker is not None):
        request.scope[KNOWN] = client(request)


def spot(request: Request) -> str:
    """Return where a worker says it runs, empty when it does not say."""
    match = FORM.fullmatch(request.headers.get(SESSION, b"").decode("latin-1"))
    return match[1] if match else ""


async def note(fleet: Fleet, request: Request, worker: str, action: str, why: str, *, known: bool = True) -> None:
    """Append an event that a request brings about again and again; of one address few are written, see `News`.

    Args:
        fleet: What is worked on.
        request: The request.
        worker: The worker it is about.
        action: The action of the event.
        why: What happened.
        known: The caller has shown a credential.
    """
    if fleet.news.is_news(address(request), action, worker, known=known):
        told, who = f"{why} (from {address(request)})", request.caller.who
        await fleet.run(lambda tx: fleet.queue.note(tx, who, worker, action, told))


def demand_own_name(fleet: Fleet, request: Request, worker: str) -> None:
    """Refuse a claim for another host than the one that enrolled.

    Raises:
        ForbiddenError: The names differ, or the host has enrolled and its secret is not shown.
    """
    name = request.caller.name
    if not request.caller.identity and fleet.queue.registry.living(worker) is not None:
        raise ForbiddenError(
            f"the claim is for {worker}, which has enrolled, and does not show its secret",
            "start the worker with --worker-secret-file, or under another name with --name; or cis490-jobs worker "
            f"revoke {worker}",
        )
    if name and name != worker:
        raise ForbiddenError(
            f"the claim is for {worker} and the secret that of {name}",
            f"start the worker with --name {name}, or enrol it as {worker}: cis490-jobs invite {worker}",
            expected="one name",
        )


async def demand_holder(fleet: Fleet, request: Request, lease_id: str) -> None:
    """Refuse a lease that was given to another worker, live or over.

    Raises:
        StaleLeaseError: It was; whoever believes in it must stop its trainer.
    """
    name = request.caller.name
    if not name:
        return
    live = fleet.queue.leases.get(lease_id)
    holder = live.worker if live is not None else await fleet.run(lambda tx: fleet.queue.holder(tx, lease_id))
    if holder is not None and holder != name:
        await note(fleet, request, name, "refuse", "it showed a lease of another worker")
        raise StaleLeaseError(f"the lease was not given to {name}", "stop its trainer and claim again")
