"""One request and its answer.

Owns reading headers, query and body within their caps, and the bytes of answers. Guarantees that a body is counted
while it streams and that a call whose client has gone is told apart from a faulty one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec

from training.fleet.auth import Caller
from training.fleet.errors import FleetError, RequestError, ShortBodyError, TooLargeError
from training.fleet.wire import MAX_BODY_BYTES

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MAX_HEADERS: Final = 64
MAX_HEADER_BYTES: Final = 16384
BODY_WAIT_S: Final = 30.0
"""How long a body may keep the receiver waiting until another `PACE_BYTES` of it, or its end, have come."""
PACE_BYTES: Final = 32768

KNOWN: Final = "known"
"""Where the ASGI scope says whose a request is, once a credential or a lease was accepted: its places go last."""
PARKED: Final = "parked"
"""Where the ASGI scope says that a request waits for a job: of its client's places it goes first."""

JSON: Final = (b"content-type", b"application/json")
PROBLEM: Final = (b"content-type", b"application/problem+json")
NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
encode = msgspec.json.Encoder().encode


class ClientGoneError(Exception):
    """The client hung up; there is nobody to answer."""


class Request:
    """A request as handlers see it.

    Attributes:
        scope: The ASGI scope.
        headers: Header name, lower case, to value; singular headers are known to stand there once.
        target: The id or the name in the path, empty for routes without one.
        query: The query parameters, judged by the route's table.
        caller: Who asks.
        receive: The ASGI channel.
        consumed: The body has been read to its end.
    """

    __slots__ = (
        "_due_bytes",
        "_given_up",
        "_patience_s",
        "_timer",
        "caller",
        "consumed",
        "headers",
        "query",
        "receive",
        "scope",
        "target",
    )

    def __init__(self, scope: Message, headers: dict[bytes, bytes], receive: Receive) -> None:
        self.scope = scope
        self.headers = headers
        self.receive = receive
        self.target = ""
        self.query: dict[str, str] = {}
        self.caller = Caller("anyone")
        self.consumed = False
        self._due_bytes = PACE_BYTES
        self._patience_s = BODY_WAIT_S
        self._timer: asyncio.Timeout | None = None
        self._given_up: FleetError | None = None

    async def body(self, limit: int = MAX_BODY_BYTES) -> bytes:
        """Return the body.

        Args:
            limit: Largest size in bytes.

        Raises:
            TooLargeError: It is larger.
            ShortBodyError: It did not arrive in time.
            ClientGoneError: The client hung up.
        """
        # The usual body is already here; the receiver closes connections that keep it waiting for the first piece.
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        if not message.get("more_body"):
            self.consumed = True
            data: bytes = message["body"]
            if len(data) > limit:
                raise TooLargeError(f"the body is larger than {limit} bytes", "send less")
            return data
        return await self._rest(message["body"], limit)

    async def _rest(self, first: bytes, limit: int) -> bytes:
        if self.declared_length() > limit:
            raise TooLargeError(f"the body is declared as larger than {limit} bytes", "send less")
        self.scope["paced"] = limit > MAX_BODY_BYTES
        data = bytearray(first)
        more = True
        while more:
            if len(data) > limit:
                raise TooLargeError(f"the body is larger than {limit} bytes", "send less")
            message = await self._next()
            data += message["body"]
            more = message.get("more_body", False)
        self.consumed = True
        if len(data) > limit:
            raise TooLargeError(f"the body is larger than {limit} bytes", "send less")
        return bytes(data)

    async def _next(self) -> Message:
        """Return the next message, counting only the time in which the client is waited for."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self.demand_wanted()
        try:
            async with asyncio.timeout(self._patience_s) as self._timer:
                message = await self.receive()
        except TimeoutError:
            self.demand_wanted()
            raise ShortBodyError(
                f"less than {PACE_BYTES} bytes of the body came in {BODY_WAIT_S:g} s", "send it again, faster"
            ) from None
        finally:
            self._timer = None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        self._patience_s -= loop.time() - begun
        self._due_bytes -= len(message["body"])
        if self._due_bytes <= 0:
            self._due_bytes, self._patience_s = PACE_BYTES, BODY_WAIT_S
        return message

    def give_up(self, why: FleetError) -> None:
        """Have who reads the body get an error in the place of its next piece, at once if it waits for one."""
        self._given_up = why
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(asyncio.get_running_loop().time())

    def demand_wanted(self) -> None:
        """Raise what the request was given up with, once: the rest of the body may still be read away."""
        why, self._given_up = self._given_up, None
        if why is not None:
            raise why

    async def piece(self) -> tuple[bytes, bool]:
        """Return the next piece of a large body and whether more follows.

        Raises:
            ShortBodyError: Too little came in time.
            ClientGoneError: The client hung up.
        """
        self.scope["paced"] = True
        message = await self._next()
        more: bool = message.get("more_body", False)
        self.consumed = not more
        return message["body"], more

    def declared_length(self) -> int:
        """Return the `Content-Length`, -1 without one.

        Raises:
            RequestError: It is no number.
        """
        value = self.headers.get(b"content-length")
        if value is None:
            return -1
        if not value.isdigit() or len(value) > 18:
            raise RequestError("Content-Length is no number of bytes", "send one decimal number")
        return int(value)

    def wait_s(self, cap_s: float) -> float:
        """Return how long the caller would wait (`Prefer: wait=N`), 0 when it would not.

        Source: RFC 7240, section 4.3.
        """
        given = self.headers.get(b"prefer")
        for preference in given.split(b",") if given else ():
            name, _, value = preference.partition(b";")[0].strip().partition(b"=")
            if name.strip().lower() == b"wait" and value.strip().isdigit() and len(value) < 10:
                return min(float(value), cap_s)
        return 0.0


class Answer:
    """A status, headers and a body.

    Attributes:
        status: HTTP status.
        body: Its bytes.
        headers: Headers besides the length.
        close: Close the connection afterwards, because the request's body stays unread.
    """

    __slots__ = ("body", "close", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", headers: Headers | None = None, *, close: bool = False) -> None:
        self.status = status
        self.body = body
        self.headers = [] if headers is None else headers
        self.close = close

    def start(self) -> Message:
        """Return the ASGI message that starts the answer."""
        headers = [*self.headers, NOSNIFF]
        if self.status not in (204, 304):
            headers.append((b"content-length", b"%d" % len(self.body)))
        if self.close:
            headers.append((b"connection", b"close"))
        return {"type": "http.response.start", "status": self.status, "headers": headers}


def answer(value: Any, status: int = 200, headers: Headers | None = None) -> Answer:
    """Return an answer with a value as JSON."""
    return Answer(status, encode(value), [JSON, *headers] if headers else [JSON])


def problem(error: FleetError, headers: Headers | None = None) -> Answer:
    """Return an error as `application/problem+json`, with `Retry-After` where it makes sense.

    Source: RFC 9457.
    """
    extra = list(headers or ())
    if error.retry_after_s is not None or error.status in (429, 503, 507):
        extra.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s or 5))))
    if error.status == 401:
        extra.append((b"www-authenticate", b"Bearer"))
    return Answer(error.status, encode(error.problem()), [PROBLEM, *extra])
