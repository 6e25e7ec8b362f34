"""Who asks: which credential came with a request, and what an enrolled worker may touch with it.

Owns what is done around the handlers for an enrolled worker: its next key takes over at first use, its session holds
the identity while it is answered, and a header asks it for a new key. Guarantees that a worker touches only leases that
were given to it. Leaves the judgement of secrets and sessions to `auth`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.responses import Response

from training.fleet.api.arrival import KNOWN, LOOKS, PEER
from training.fleet.api.fleet import Fleet
from training.fleet.api.request import Request
from training.fleet.auth import Caller, Peer, Right, Role, neighbourhood
from training.fleet.auth.sessions import FORM, HEADER
from training.fleet.model.errors import CertificateMismatchError, ForbiddenError, IdentityInUseError, StaleLeaseError

SESSION: Final = HEADER.lower().encode()
ROTATE: Final = (b"x-rotate-secret", b"1")
"""Asks a worker to make a new key."""


async def demand(fleet: Fleet, request: Request, role: Role, right: Right | None) -> None:
    """Find out who sent a request, and refuse it unless that caller may send it.

    Raises:
        AuthenticationError: The credential is missing, wrong or revoked.
        ForbiddenError: The caller may not do this.
    """
    head = request.head
    peer: Peer | None = request.scope.get(PEER)
    try:
        request.caller = fleet.access.credentials.demand(
            role, head.get(b"authorization"), head.get(b"x-operator-token"), peer, right
        )
    except CertificateMismatchError as error:
        shown = peer.worker if peer is not None else ""
        await note(
            fleet, request, error.worker, "refuse", f"its secret came with the certificate of {shown or 'nobody'}"
        )
        raise


async def as_worker(
    fleet: Fleet, request: Request, handler: Callable[[Fleet, Request], Awaitable[Response]]
) -> Response:
    """Answer an enrolled worker.

    Raises:
        IdentityInUseError: Another machine uses its identity.
        RequestError: It does not say where it runs.
    """
    caller, queue = request.caller, fleet.queue
    given = request.head.get(SESSION, b"").decode("latin-1")
    try:
        places, looks = queue.sessions_of(caller.name), request.scope["method"] in LOOKS
        with fleet.sessions.present(caller.name, given, looks=looks, places=places) as place:
            if place:  # a visit changes nothing
                await _settle(fleet, caller, place if places == 1 else "")
            answer = await handler(fleet, request)
    except IdentityInUseError:
        await note(fleet, request, caller.name, "clash", f"another machine shows identity {caller.identity} as well")
        raise
    identity = queue.identities.get(caller.identity)
    if identity is not None and identity.rotate and request.scope["path"] != "/v1/secret":
        answer.raw_headers.append(ROTATE)
    return answer


async def _settle(fleet: Fleet, caller: Caller, place: str) -> None:
    """Record what an accepted request has shown: that the next key is in use, and where the identity runs.

    Args:
        fleet: What is worked on.
        caller: Who asked.
        place: The one place it runs in, empty where there may be several.
    """
    queue = fleet.queue
    if caller.fresh:
        await fleet.run(lambda tx: queue.identities.renew(tx, caller.identity))
    identity = queue.identities.get(caller.identity)
    if identity is not None and place and identity.place != place:
        await fleet.run(lambda tx: queue.identities.keep_place(tx, caller.identity, place))


def address(request: Request) -> str:
    """Return where a request came from."""
    client = request.scope.get("client")
    return str(client[0]) if client else ""


def client(request: Request) -> str:
    """Return the name under which a request counts when connections run out: the caller's, else its address.

    So ten enrolled workers behind one address are ten clients, and none of them takes places from the others.
    """
    caller = request.caller
    return caller.who if caller.name else neighbourhood(address(request))


def mark_known(fleet: Fleet, request: Request) -> None:
    """Note whose a request is, if it showed a credential; on loopback workers and readers may need none."""
    caller = request.caller
    if (
        caller.name
        or caller.kind == "reader"
        or (caller.kind == "worker" and fleet.access.credentials.worker is not None)
    ):
        request.scope[KNOWN] = client(request)


def spot(request: Request) -> str:
    """Return the place that a worker's session names, empty without one."""
    match = FORM.fullmatch(request.head.get(SESSION, b"").decode("latin-1"))
    return match[1] if match else ""


async def note(fleet: Fleet, request: Request, worker: str, action: str, why: str, *, known: bool = True) -> None:
    """Record an event, at most once every few minutes for the same worker and action of one address; see `News`.

    Args:
        fleet: What is worked on.
        request: The request.
        worker: The worker it is about.
        action: The action of the event.
        why: What happened.
        known: The caller has shown a credential.
    """
    if fleet.news.is_news(address(request), action, worker, known=known):
        text, who = f"{why} (from {address(request)})", request.caller.who
        await fleet.run(lambda tx: fleet.queue.history.note(tx, who, worker, action, text))


def demand_own_name(fleet: Fleet, request: Request, worker: str) -> None:
    """Refuse a claim for another host than the one that enrolled.

    Raises:
        ForbiddenError: The names differ, or the host has enrolled and its secret is not shown.
    """
    name = request.caller.name
    if not request.caller.identity and fleet.queue.identities.living(worker) is not None:
        raise ForbiddenError(
            f"the claim is for {worker}, which has enrolled, and does not show its secret",
            "start the worker with --worker-secret-file, or under another name with --name; or cis490-jobs identity "
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
        StaleLeaseError: It was given to another worker; this one must stop its trainer.
    """
    name = request.caller.name
    if not name:
        return
    holder = fleet.queue.live_holder(lease_id) or await fleet.run(lambda tx: fleet.queue.holder(tx, lease_id))
    if holder is not None and holder != name:
        await note(fleet, request, name, "refuse", "it showed a lease of another worker")
        raise StaleLeaseError(f"the lease was not given to {name}", "stop its trainer and claim again")
