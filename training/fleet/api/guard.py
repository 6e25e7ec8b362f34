"""What stands in front of the framework: the checks that every request passes, and the end of every answer.

Owns caps on heads, requests that two servers could read differently, host names, pages of other sites, what a proxy
says of a client, and the way from an error to an answer. Guarantees that nobody ever sees a traceback, that every error
is answered with a problem document, and that a client which still sends its body gets that answer before the
connection is closed. Plain ASGI, so that it works before the framework has looked at a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from training.fleet.api.answers import problem
from training.fleet.api.arrival import ARRIVAL, LOOKS, Arrival
from training.fleet.api.front import MARKS, Front
from training.fleet.api.sites import demand_own_page
from training.fleet.auth import host_name, is_loopback
from training.fleet.model.errors import FleetError, ForbiddenError, RequestError, ShortBodyError

MAX_HEADERS: Final = 64
MAX_HEADER_BYTES: Final = 16384
MAX_HOSTS: Final = 64
"""Spellings of the receiver's own names that are remembered as good."""
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
"""Headers that decide something here; of two that differ, a proxy could have read the other one."""
SPOKEN: Final = ("1.1", "1.0")
LINGER_S: Final = 2.0
"""How long a client that still sends is read after its answer: a close at once would take the answer from it."""
LINGER_BYTES: Final = 64 * 2**20
DRAIN_S: Final = 5.0
"""How long the rest of a small refused body may take, so that the connection can be used again."""
NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
CLOSE: Final = (b"connection", b"close")

_log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware around the application.

    Args:
        app: The application.
        host_names: Names under which the receiver may be addressed besides loopback ones; empty with `any_host`.
        any_host: Answer under every name, because the receiver listens beyond loopback without a list of names.
        front: The proxy or the TLS between clients and the application; None for neither.
    """

    def __init__(
        self,
        app: ASGIApp,
        host_names: frozenset[str] = frozenset(),
        *,
        any_host: bool = False,
        front: Front | None = None,
    ) -> None:
        self._app = app
        self._front = front or Front()
        self._host_names = host_names
        self._any_host = any_host
        self._known_hosts: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        arrival = scope[ARRIVAL] = Arrival(scope, receive)
        departure = _Departure(arrival, send)
        try:
            self._look(arrival)
            await self._app(scope, arrival.receive, departure.send)
        except ClientDisconnect:
            return
        except FleetError as error:
            await departure.refuse(error)
        except Exception:  # noqa: BLE001  nobody outside ever sees what went wrong inside
            _log.exception("a request failed", extra={"data": {"method": scope["method"], "path": scope["path"]}})
            await departure.refuse(FleetError("the receiver failed at this request", "its log says why"))
        finally:
            del scope[ARRIVAL]  # the two hold each other, and the collector of such circles seldom runs

    def _look(self, arrival: Arrival) -> None:
        """Refuse what must not reach the application.

        Raises:
            RequestError: The head is too large, ambiguous or of another protocol.
            ForbiddenError: The host name or the page that sent the request is not the receiver's.
            AuthenticationError: The client's certificate has ended.
        """
        scope, head = arrival.scope, arrival.head
        _demand_sane(scope, head)
        host = head.get(b"host")
        if host not in self._known_hosts:
            self._demand_host(host)
        if scope["method"] not in LOOKS:
            demand_own_page(arrival, self._host_names)
        self._front.look(arrival)
        # As it was sent: what an encoded slash hides from a proxy's rules must not be found here either.
        scope["path"] = scope["raw_path"].decode("latin-1")

    def _demand_host(self, host: bytes | None) -> None:
        """Refuse host names that are not the receiver's, against DNS rebinding."""
        if not host:
            raise RequestError("the Host header is missing", "send the receiver's name")
        name = host_name(host)
        if not (self._any_host or is_loopback(name) or name in self._host_names):
            raise ForbiddenError(
                f"{ascii(name)[:80]} is not a name of this receiver",
                "use its address, or add the name to --host-names",
            )
        if len(self._known_hosts) < MAX_HOSTS:
            self._known_hosts.add(host)


def _demand_sane(scope: Scope, head: dict[bytes, bytes]) -> None:
    """Refuse floods of headers and requests that two servers could read differently."""
    pairs = scope["headers"]
    size_bytes = sum(map(len, head)) + sum(map(len, head.values()))
    if len(head) != len(pairs):
        _demand_singular([name for name, _ in pairs])
        size_bytes = sum(len(name) + len(value) for name, value in pairs)
    if len(pairs) > MAX_HEADERS or size_bytes > MAX_HEADER_BYTES:
        raise RequestError(f"more than {MAX_HEADERS} headers or {MAX_HEADER_BYTES} bytes of them", "send fewer")
    if b"transfer-encoding" in head:
        _demand_chunked(head)
    if b"upgrade" in head and (b"transfer-encoding" in head or head.get(b"content-length", b"0") != b"0"):
        raise RequestError("no upgrade is offered, and what follows the head would be unclear", "send no Upgrade")
    if scope["http_version"] not in SPOKEN:
        raise RequestError(f"HTTP/{scope['http_version']} is not spoken here", "send HTTP/1.1")


def _demand_chunked(head: dict[bytes, bytes]) -> None:
    if b"content-length" in head:
        raise RequestError("both Content-Length and Transfer-Encoding are there", "send one of them")
    if head[b"transfer-encoding"].lower() != b"chunked":
        raise RequestError("the Transfer-Encoding is not read here", expected="chunked alone, or a Content-Length")


def _demand_singular(names: list[bytes]) -> None:
    for name in SINGULAR:
        if names.count(name) > 1:
            raise RequestError(f"the header {name.decode()} stands there twice", "send it once")


class _Departure:
    """The answer to one request on its way out."""

    __slots__ = ("_arrival", "_closes", "_send", "_started")

    def __init__(self, arrival: Arrival, send: Send) -> None:
        self._arrival = arrival
        self._send = send
        self._started = False
        self._closes = False

    async def send(self, message: Message) -> None:
        """Pass an ASGI message on; one that ends the answer and the connection waits for the client to stop sending."""
        if message["type"] == "http.response.start":
            self._started = True
            self._closes = CLOSE in message["headers"]
            message["headers"] = [*message["headers"], NOSNIFF]
        elif self._closes and not message.get("more_body"):
            await self._linger(message)
            return
        await self._send(message)

    async def _linger(self, message: Message) -> None:
        # The client may still be sending. Closing at once would reset the connection and could take the answer away
        # from it, so it gets the answer first and a moment to stop.
        await self._send({**message, "more_body": True})
        with contextlib.suppress(TimeoutError, FleetError):
            async with asyncio.timeout(LINGER_S):
                await self._arrival.drop(LINGER_BYTES)
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, error: FleetError) -> None:
        """Answer with an error. A small body that is still under way is read first, so that the connection lives on."""
        arrival = self._arrival
        if self._started:  # there is no way back; the server closes a connection with half an answer
            _log.error("an answer broke off", extra={"data": {"path": arrival.scope["path"], "reason": error.message}})
            return
        answer = problem(error)
        if not arrival.consumed and arrival.has_body():
            late = isinstance(error, ShortBodyError)
            if late or not arrival.is_small() or not await self._drained():
                answer.raw_headers.append(CLOSE)
        await answer(arrival.scope, arrival.receive, self.send)

    async def _drained(self) -> bool:
        with contextlib.suppress(TimeoutError, FleetError):
            async with asyncio.timeout(DRAIN_S):
                return await self._arrival.drop(LINGER_BYTES)
        return False
