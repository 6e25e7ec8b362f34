"""The ASGI application: the framework's router over the table of routes, behind the guard.

Owns the order in which a request is looked at: path, method, credential, query, body, handler. Guarantees that a
handler sees only what its row of the table declares. Leaves to `guard` what every request must pass before that.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from starlette import routing
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from training.fleet.api import callers, queries
from training.fleet.api.fleet import Fleet
from training.fleet.api.front import Front
from training.fleet.api.guard import Guard
from training.fleet.api.json import Decoder
from training.fleet.api.request import Request
from training.fleet.api.routes import ROUTES, Handler, Media, PathParameter, Route
from training.fleet.model.errors import MethodError, NotFoundError


def make_app(
    fleet: Fleet,
    host_names: frozenset[str] = frozenset(),
    *,
    any_host: bool = False,
    front: Front | None = None,
) -> Guard:
    """Return the receiver's HTTP interface.

    Args:
        fleet: What the handlers work on.
        host_names: Names under which the receiver may be addressed besides loopback ones; empty with `any_host`.
        any_host: Answer under every name, because the receiver listens beyond loopback without a list of names.
        front: The proxy or the TLS between clients and the application; None for neither.
    """
    by_path: dict[str, list[Route]] = {}
    for route in ROUTES:
        by_path.setdefault(route.path, []).append(route)
    router = routing.Router(
        [routing.Route(path, _Endpoint(fleet, found)) for path, found in by_path.items()],
        redirect_slashes=False,
        default=_nowhere,
        lifespan=lambda _app: _lifespan(fleet),
    )
    return Guard(router, host_names, any_host=any_host, front=front)


@contextlib.asynccontextmanager
async def _lifespan(fleet: Fleet) -> AsyncIterator[None]:
    """Hold the edge's threads from before the first request until after the last one."""
    try:
        yield
    finally:
        fleet.close()


async def _nowhere(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise NotFoundError(f"nothing is at {ascii(scope['path'])[:120]}", "GET /openapi.json lists what is")


class _Endpoint:
    """What is at one path: a route for each method.

    One frame from the credential to the answer: what is called for each request costs a share of every claim.
    """

    def __init__(self, fleet: Fleet, routes: Sequence[Route]) -> None:
        self._fleet = fleet
        self._parameters = routes[0].parameters
        self._methods: dict[str, tuple[Route, Handler]] = {}
        for route in routes:
            self._methods[route.method] = route, _reading(route)
        if "GET" in self._methods:
            self._methods["HEAD"] = self._methods["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        for name, parameter in self._parameters:
            setattr(request, parameter.attribute, _target(parameter, scope["path_params"][name]))
        found = self._methods.get(scope["method"])
        if found is None:
            allow = ", ".join(sorted(self._methods))
            raise MethodError(f"{scope['method']!a} does not work here", f"use {allow}", allow=allow)
        (route, handler), fleet = found, self._fleet
        await callers.demand(fleet, request, route.role, route.right)
        callers.mark_known(fleet, request)
        request.query = queries.read(scope["query_string"], route.query)
        answered = callers.as_worker(fleet, request, handler) if request.caller.identity else handler(fleet, request)
        answer = await answered
        await answer(scope, receive, send)


def _target(parameter: PathParameter, found: str) -> str:
    if not parameter.pattern.fullmatch(found):
        raise NotFoundError(f"{ascii(found)[:80]} is no {parameter.name}", expected=parameter.expected)
    return found


def _reading(route: Route) -> Handler:
    """Return the handler of a route, called with the body as the route declares it."""
    handler, body = route.handler, route.body
    if isinstance(body, Media):
        limit = body.limit_bytes

        async def with_bytes(fleet: Fleet, request: Request) -> Response:
            request.arrival.allow(limit)
            return await handler(fleet, request)

        return with_bytes
    if body is not None:
        decoder, message, optional = Decoder(body), body, route.optional

        async def with_message(fleet: Fleet, request: Request) -> Response:
            data = await request.arrival.whole()
            given = message() if optional and not data.strip() else decoder.decode(data)
            return await handler(fleet, request, given)

        return with_message
    if not route.changes:
        return handler

    async def without_body(fleet: Fleet, request: Request) -> Response:
        await request.arrival.whole()  # counted, and read so that the connection can be used again
        return await handler(fleet, request)

    return without_body
