"""One request while it arrives: its head by name, and its body counted and timed.

Guarantees that no more of a body is taken than its route allows, that a body which comes too slowly ends in an error,
and that a reader can be told from outside to give up. Whatever reads a body reads it through here: the framework's
request, an upload, and the guard that takes the rest of a refused body off the connection.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from training.fleet.model.errors import FleetError, RequestError, ShortBodyError, TooLargeError
from training.fleet.wire.limits import MAX_BODY_BYTES

BODY_WAIT_S: Final = 30.0
"""How long a body may keep the receiver waiting until another `PACE_BYTES` of it, or its end, have come."""
PACE_BYTES: Final = 32768

LOOKS: Final = ("GET", "HEAD")
"""Methods that change nothing."""
ARRIVAL: Final = "cis490.arrival"
"""Where the ASGI scope keeps the arrival of its request."""
KNOWN: Final = "known"
"""Where the ASGI scope says whose a request is, once a credential or a lease was accepted: its places go last."""
PARKED: Final = "parked"
"""Where the ASGI scope says that a request waits for a job: of its client's places it goes first."""
PEER: Final = "cis490.peer"
"""Where the ASGI scope has the `auth.Peer` of a client whose certificate was verified."""
PACED: Final = "paced"
"""Where the ASGI scope says that a body has a limit of time here, so that the connection needs none."""


class Arrival:
    """The head and the body of one request.

    Args:
        scope: The ASGI scope.
        receive: The ASGI channel.

    Attributes:
        scope: The ASGI scope.
        head: Header name, lower case, to value; the guard has seen to it that singular headers stand there once.
        consumed: The body has been read to its end.
    """

    __slots__ = (
        "_begun",
        "_due_bytes",
        "_given_up",
        "_limit",
        "_patience_s",
        "_receive",
        "_size",
        "_timer",
        "consumed",
        "head",
        "scope",
    )

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.head: dict[bytes, bytes] = dict(scope["headers"])
        self.consumed = False
        self._receive = receive
        self._limit: int | None = MAX_BODY_BYTES
        self._begun = False
        self._size = 0
        self._due_bytes = PACE_BYTES
        self._patience_s = BODY_WAIT_S
        self._timer: asyncio.Timeout | None = None
        self._given_up: FleetError | None = None

    def allow(self, limit: int | None) -> None:
        """Set the largest size of the body in bytes; None for a handler that counts for itself."""
        self._limit = limit
        if limit is None:
            self.scope[PACED] = True

    async def receive(self) -> Message:
        """Return the next ASGI message.

        Raises:
            TooLargeError: The body is larger than it may be.
            ShortBodyError: Too little of it came in time.
            FleetError: What the request was given up with.
        """
        if self.consumed:  # what follows is the client's hang-up, which may take any time
            return await self._receive()
        # The usual body is already here; the receiver closes connections that keep it waiting for the first piece.
        message = await (self._receive() if not self._begun and self._limit is not None else self._in_time())
        self._begun = True
        self._note(message)
        return message

    async def whole(self) -> bytes:
        """Return the body.

        Raises:
            ClientDisconnect: The client hung up.
            FleetError: See `receive`.
        """
        if self._begun or self._limit is None:
            return await self._rest(await self.receive())
        message = await self._receive()  # the usual message is here and whole
        self._begun = True
        body: bytes = message.get("body", b"")
        if message["type"] != "http.request" or message.get("more_body") or len(body) > self._limit:
            self._note(message)
            return await self._rest(message)
        self.consumed = True
        return body

    async def _rest(self, message: Message) -> bytes:
        pieces = []
        while message["type"] == "http.request":
            pieces.append(message["body"])
            if not message.get("more_body"):
                return b"".join(pieces)
            message = await self.receive()
        raise ClientDisconnect

    def _note(self, message: Message) -> None:
        if message["type"] != "http.request":
            return
        self.consumed = not message.get("more_body", False)
        limit = self._limit
        if limit is None:
            return
        if self.declared_bytes() > limit:
            raise TooLargeError(f"the body is declared as larger than {limit} bytes", "send less")
        self.scope[PACED] = limit > MAX_BODY_BYTES
        self._size += len(message["body"])
        if self._size > limit:
            raise TooLargeError(f"the body is larger than {limit} bytes", "send less")

    async def _in_time(self) -> Message:
        """Return the next message, counting only the time in which the client is waited for."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self.demand_wanted()
        try:
            async with asyncio.timeout(self._patience_s) as self._timer:
                message = await self._receive()
        except TimeoutError:
            self.demand_wanted()
            raise ShortBodyError(
                f"less than {PACE_BYTES} bytes of the body came in {BODY_WAIT_S:g} s", "send it again, faster"
            ) from None
        finally:
            self._timer = None
        self._patience_s -= loop.time() - begun
        self._due_bytes -= len(message.get("body", b""))
        if self._due_bytes <= 0:
            self._due_bytes, self._patience_s = PACE_BYTES, BODY_WAIT_S
        return message

    def give_up(self, why: FleetError) -> None:
        """Give the reader of the body an error in the place of its next piece, at once if it waits for one."""
        self._given_up = why
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(asyncio.get_running_loop().time())

    def demand_wanted(self) -> None:
        """Raise the error the request was given up with, once: the rest of the body may still be read and dropped."""
        why, self._given_up = self._given_up, None
        if why is not None:
            raise why

    def has_body(self) -> bool:
        """Return True if the head announces a body."""
        return b"transfer-encoding" in self.head or self.head.get(b"content-length", b"0") != b"0"

    def is_small(self) -> bool:
        """Return True if the head says how long the body is, and that it is no longer than a message may be."""
        length = self.head.get(b"content-length", b"")
        plain = not self.head.keys() & {b"transfer-encoding", b"upgrade"}
        return plain and length.isdigit() and len(length) < 8 and int(length) <= MAX_BODY_BYTES

    def declared_bytes(self) -> int:
        """Return the `Content-Length`, -1 without one.

        Raises:
            RequestError: It is no number.
        """
        value = self.head.get(b"content-length")
        if value is None:
            return -1
        if not value.isdigit() or len(value) > 18:
            raise RequestError("Content-Length is no number of bytes", "send one decimal number")
        return int(value)

    async def drop(self, most: int) -> bool:
        """Read up to `most` bytes of the rest of the body and drop them; return True if that was all of it."""
        self._limit = None
        while not self.consumed and most > 0:
            message = await self.receive()
            if message["type"] != "http.request":
                break
            most -= len(message["body"])
        return self.consumed
