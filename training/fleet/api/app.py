"""The ASGI application.

Owns dispatch, the checks that every request passes (caps, ambiguous headers, host name, cross-site calls, credentials)
and the way from an error to an answer. Guarantees that nobody ever sees a traceback and that every answer that is an
error is a problem document.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import Final

from training.fleet.api import callers, queries
from training.fleet.api.exchange import (
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    Answer,
    ClientGoneError,
    Message,
    Receive,
    Request,
    Send,
    problem,
)
from training.fleet.api.fleet import Fleet
from training.fleet.api.front import MARKS, Front
from training.fleet.api.look import WORKER
from training.fleet.api.routes import ROUTES, Route
from training.fleet.api.sites import demand_own_page
from training.fleet.auth import host_name, is_loopback
from training.fleet.errors import (
    FleetError,
    ForbiddenError,
    MethodError,
    NotFoundError,
    RequestError,
    ShortBodyError,
)
from training.fleet.wire import MAX_BODY_BYTES

ID: Final = re.compile(r"[0-9a-f]{64}")
SINGULAR: Final = (
    b"host",
    b"content-length",
    b"content-type",
    b"authorization",
    b"x-operator-token",
    b"x-lease-id",
    b"x-worker-session",
    b"sec-fetch-site",
    b"origin",
    *MARKS,
)
SPOKEN: Final = ("1.1", "1.0")
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 64 * 2**20
DRAIN_S: Final = 5.0

_log = logging.getLogger(__name__)
_Methods = dict[str, Route]


class App:
    """The receiver's HTTP interface.

    Args:
        fleet: What the handlers work on, and who may do what.
        host_names: Names under which the receiver may be addressed besides loopback ones; empty with `any_host`.
        any_host: Answer under every name, because the receiver listens beyond loopback without a list of names.
        front: What stands between clients and the application; None for nothing.
    """

    def __init__(
        self,
        fleet: Fleet,
        host_names: frozenset[str] = frozenset(),
        *,
        any_host: bool = False,
        front: Front | None = None,
    ) -> None:
        self._fleet = fleet
        self._front = front or Front()
        self._host_names = host_names
        self._any_host = any_host
        self._known_hosts: set[bytes] = set()
        self._fixed: dict[str, _Methods] = {}
        self._by_id: dict[tuple[str, str], _Methods] = {}
        self._by_name: dict[tuple[str, str], _Methods] = {}
        for route in ROUTES:
            self._add(route)

    def _add(self, route: Route) -> None:
        if "{" in route.path:
            _, _, noun, _, *verb = route.path.split("/")
            table = self._by_name if "{name}" in route.path else self._by_id
            methods = table.setdefault((noun, "".join(verb)), {})
        else:
            methods = self._fixed.setdefault(route.path, {})
        methods[route.method] = route
        if route.method == "GET":
            methods["HEAD"] = route

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, dict(scope["headers"]), receive)
        try:
            answer = await self._answer(request)
        except ClientGoneError:
            return
        except FleetError as error:
            answer = await self._refusal(request, error)
        except Exception:  # noqa: BLE001  nobody outside ever sees what went wrong inside
            _log.exception("a request failed", extra={"data": {"method": scope["method"], "path": scope["path"]}})
            answer = await self._refusal(request, FleetError("the receiver failed at this request", "its log says why"))
        await _send(request, answer, send)

    async def _answer(self, request: Request) -> Answer:
        scope, headers = request.scope, request.headers
        self._demand_sane(scope, headers)
        method: str = scope["method"]
        # As it was sent: what an encoded slash hides from a proxy's rules must not be found here either.
        methods, request.target = self._find(scope["raw_path"].decode("latin-1"))
        route = methods.get(method)
        if route is None:
            allow = ", ".join(sorted(methods))
            raise MethodError(f"{method!a} does not work here", f"use {allow}", allow=allow)
        if method not in ("GET", "HEAD"):
            demand_own_page(request, self._host_names)
        self._front.look(request)
        await callers.demand(self._fleet, request, route.role, route.right if route.role == "operator" else None)
        callers.mark_known(self._fleet, request)
        request.query = queries.read(scope["query_string"], route.query)
        if request.caller.identity:
            return await callers.as_worker(self._fleet, request, route.handler)
        return await route.handler(self._fleet, request)

    def _find(self, path: str) -> tuple[_Methods, str]:
        methods = self._fixed.get(path)
        if methods is not None:
            return methods, ""
        parts = path.split("/")
        if 4 <= len(parts) <= 5 and parts[1] == "v1" and (len(parts) == 4 or parts[4]):
            key = (parts[2], parts[4] if len(parts) == 5 else "")
            methods = self._by_id.get(key)
            if methods is not None:
                if not ID.fullmatch(parts[3]):
                    raise NotFoundError(f"{ascii(parts[3])[:80]} is no id", expected="64 lower-case hex digits")
                return methods, parts[3]
            methods = self._by_name.get(key)
            if methods is not None:
                if not WORKER.fullmatch(parts[3]):
                    raise NotFoundError(f"{ascii(parts[3])[:80]} is no name of a worker", expected="a host name")
                return methods, parts[3]
        raise NotFoundError(f"nothing is at {ascii(path)[:120]}", "GET /openapi.json lists what is")

    def _demand_sane(self, scope: Message, headers: dict[bytes, bytes]) -> None:
        """Refuse header floods, requests that two servers could read differently, and strange host names."""
        pairs = scope["headers"]
        size_bytes = sum(map(len, headers)) + sum(map(len, headers.values()))
        if len(headers) != len(pairs):
            _demand_singular([name for name, _ in pairs])
            size_bytes = sum(len(name) + len(value) for name, value in pairs)
        if len(pairs) > MAX_HEADERS or size_bytes > MAX_HEADER_BYTES:
            raise RequestError(f"more than {MAX_HEADERS} headers or {MAX_HEADER_BYTES} bytes of them", "send fewer")
        if b"transfer-encoding" in headers:
            _demand_chunked(headers)
        if b"upgrade" in headers and _has_body(headers):
            raise RequestError("no upgrade is offered, and what follows the head would be unclear", "send no Upgrade")
        if scope["http_version"] not in SPOKEN:
            raise RequestError(f"HTTP/{scope['http_version']} is not spoken here", "send HTTP/1.1")
        host = headers.get(b"host")
        if host not in self._known_hosts:
            self._demand_host(host)

    def _demand_host(self, host: bytes | None) -> None:
        """Refuse host names that are not the receiver's, against DNS rebinding."""
        if not host:
            raise RequestError("the Host header is missing", "send the receiver's name")
        name = host_name(host)
        if not (self._any_host or is_loopback(name) or name in self._host_names):
            raise ForbiddenError(
                f"{ascii(name)[:80]} is not a name of this receiver", "use its address, or add the name to --host-names"
            )
        if len(self._known_hosts) < 64:
            self._known_hosts.add(host)

    async def _refusal(self, request: Request, error: FleetError) -> Answer:
        """Return an error as an answer; a small body that is still under way is read away first."""
        answer = problem(error, [(b"allow", error.allow.encode())] if isinstance(error, MethodError) else None)
        if not request.consumed and _has_body(request.headers):
            length = request.headers.get(b"content-length", b"")
            plain = not request.headers.keys() & {b"transfer-encoding", b"upgrade"}
            small = plain and length.isdigit() and len(length) < 8 and int(length) <= MAX_BODY_BYTES
            waits = isinstance(error, ShortBodyError)
            answer.close = waits or not (small and await _drained(request))
        return answer


def _demand_chunked(headers: dict[bytes, bytes]) -> None:
    if b"content-length" in headers:
        raise RequestError("both Content-Length and Transfer-Encoding are there", "send one of them")
    if headers[b"transfer-encoding"].lower() != b"chunked":
        raise RequestError("the Transfer-Encoding is not read here", expected="chunked alone, or a Content-Length")


def _demand_singular(names: list[bytes]) -> None:
    for name in SINGULAR:
        if names.count(name) > 1:
            raise RequestError(f"the header {name.decode()} stands there twice", "send it once")


def _has_body(headers: dict[bytes, bytes]) -> bool:
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


async def _drained(request: Request) -> bool:
    """Read a small body away so that the connection can be used again; False when it does not come."""
    with contextlib.suppress(TimeoutError, FleetError, ClientGoneError):
        async with asyncio.timeout(DRAIN_S):
            await request.body()
            return True
    return False


async def _send(request: Request, answer: Answer, send: Send) -> None:
    await send(answer.start())
    if not answer.close or request.consumed:
        await send({"type": "http.response.body", "body": answer.body})
        return
    # The client may still be sending. Closing at once would reset the connection and could take the answer away from
    # it, so it gets the answer first and a moment to stop.
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    with contextlib.suppress(TimeoutError, FleetError, ClientGoneError):
        async with asyncio.timeout(LINGER_S):
            left = LINGER_BYTES
            while left > 0 and not request.consumed:
                left -= len((await request.piece())[0])
    await send({"type": "http.response.body", "body": b""})
