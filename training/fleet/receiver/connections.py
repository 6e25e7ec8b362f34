"""What one connection may cost: uvicorn's protocols with limits of their own.

Owns the answer to what is no HTTP, the size of a head, the time a client may take, and who gives way when all places
are taken. Guarantees that a connection whose client does not go on is closed after a while, whatever it waits for, that
connections without a request under way, or with half a request of nobody known, never keep a new one out, and that no
client keeps others out by having many. Leaves the pace of a body that is being read to `api.arrival`.
"""

from __future__ import annotations

import asyncio
import operator
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, cast

from starlette.types import Receive, Scope, Send

from training.fleet.api.answers import STREAM, problem
from training.fleet.api.arrival import KNOWN, PACE_BYTES, PACED, PARKED
from training.fleet.api.guard import CLOSE, NOSNIFF
from training.fleet.auth import neighbourhood
from training.fleet.model.errors import RequestError, UnavailableError

SLOW_S: Final = 30.0
"""How long a head or a small body may take, and the next `PACE_BYTES` of an answer."""
FRAMING_BYTES: Final = 32768
"""Bytes in a row that are neither a whole head nor a part of a body."""
YOUNG_S: Final = 1.0
"""How long a new connection has before it is taken for one that sends nothing."""
GIVE_WAY: Final = 16
"""When all places are taken, up to this part of the limit is closed: idle connections, longest unused first."""
EXCESS: Final = 32
"""Connections beyond the limit that get an answer before they are closed; the spare open files allow them."""


def _unreadable() -> bytes:
    """Return the answer to bytes that are no request, as they go over the wire."""
    answer = problem(RequestError("this is no request that can be read", "send HTTP/1.1 with one sane head"))
    headers = [*answer.raw_headers, NOSNIFF, CLOSE]
    lines = [b"HTTP/1.1 400 Bad Request", *(b": ".join(pair) for pair in headers)]
    return b"\r\n".join([*lines, b"", bytes(answer.body)])


UNREADABLE: Final = _unreadable()


async def overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request on a connection for which there is no room."""
    answer = problem(UnavailableError("the receiver has as many connections as it may", "try again later"))
    answer.raw_headers += [NOSNIFF, CLOSE]
    await answer(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _Wait:
    """What a connection keeps the receiver waiting for.

    Attributes:
        what: "head", "body" or "answer", and the request it belongs to.
        left: Bytes of an answer that the client has not taken.
        since: Monotonic seconds.
    """

    what: tuple[str, object]
    left: int
    since: float


class Guarded(asyncio.Protocol):
    """The limits, mixed into one of uvicorn's protocols by `guarded`.

    Attributes:
        limit: Connections at most.
        since: When it was opened, in seconds of the loop.
    """

    limit: int
    app: Any
    connections: set[Guarded]
    client: tuple[str, int] | None
    cycle: Any
    loop: asyncio.AbstractEventLoop
    timeout_keep_alive_task: asyncio.TimerHandle | None
    transport: asyncio.Transport
    since = 0.0
    _framing_bytes = 0
    _wait: _Wait | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, which an idle connection gives up when there is none left."""
        super().connection_made(transport)
        self.since = self.loop.time()
        if len(self.connections) > self.limit:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Read, and refuse a head, an extension or a trailer that does not end: the parsers would keep all of it."""
        cycle = self.cycle
        held = 0 if cycle is None else len(cycle.body)
        super().data_received(data)
        if self.cycle is not cycle or (cycle is not None and len(cycle.body) > held):
            self._framing_bytes = 0
            return
        self._framing_bytes += len(data)
        if self._framing_bytes > FRAMING_BYTES and not self.transport.is_closing():
            self.send_400_response("")

    def send_400_response(self, _message: str) -> None:
        """Answer with a problem document where uvicorn has a line of text."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(UNREADABLE)
        self.transport.close()

    def close_if_slow(self, now: float) -> None:
        """Close it when its client has kept the receiver waiting for long.

        Args:
            now: Monotonic seconds.
        """
        before, waits = self._wait, self._waits()
        if waits is None:
            self._wait = None
        elif before is None or before.what != waits[0] or waits[1] <= before.left - PACE_BYTES:
            self._wait = _Wait(*waits, now)
        elif now - before.since > SLOW_S:
            self.transport.abort()

    def _waits(self) -> tuple[tuple[str, object], int] | None:
        """Return what it keeps the receiver waiting for and the bytes not taken, None when it does not."""
        cycle = self.cycle
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            return ("answer", cycle), unsent
        if cycle is None or cycle.response_complete:
            return (("head", cycle), 0) if self.timeout_keep_alive_task is None else None
        # An upload's handler may still be busy with the store, and a large body that is being read has its own limit.
        return (("body", cycle), 0) if cycle.more_body and not cycle.scope.get(PACED) else None

    def streams(self) -> bool:
        """Return True while its answer is a stream."""
        return not self._idle() and STREAM in self.cycle.scope

    def _idle(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def _unknown(self) -> bool:
        """Return True while a body is awaited from a client that has shown no credential that was accepted."""
        return bool(self.cycle.more_body) and KNOWN not in self.cycle.scope

    def _last_used(self) -> tuple[int, float]:
        """Return the order in which they go: those with half a request or none, then those silent for longest.

        One that has only just come goes after all of them: what it sent may not be read yet.
        """
        timer = self.timeout_keep_alive_task
        if timer is not None:
            return 1, timer.when()
        young = self.cycle is None and self.loop.time() - self.since < YOUNG_S
        return (2 if young else 0), self.since

    def _holder(self) -> str:
        """Return whose the place is: the known client's, else that of the address, which a proxy may have named."""
        scope = {} if self._idle() else self.cycle.scope
        where = scope.get("client") or self.client
        return str(scope.get(KNOWN) or neighbourhood(where[0] if where else ""))

    def _make_room(self) -> None:
        """Close the connections that are missed least; without any, refuse this one."""
        others = [other for other in self.connections if other is not self]
        idle = sorted((other for other in others if other._idle() or other._unknown()), key=Guarded._last_used)
        wanted = max(len(self.connections) - self.limit, self.limit // GIVE_WAY)
        for other in idle[:wanted] or self._crowd(others):
            self.connections.discard(other)
            other.transport.abort()
        if len(self.connections) > self.limit + EXCESS:
            self.transport.abort()
        elif len(self.connections) > self.limit:
            self.app = overloaded

    def _crowd(self, others: list[Guarded]) -> list[Guarded]:
        """Return one connection of the client with the most, a claim that waits first; none if this one has as many.

        There is no fixed share: ten workers behind one address, or one worker with many slots, may have every place
        that nobody else wants.
        """
        holders = [other._holder() for other in others]
        counts = Counter(holders)
        holder, most = max(counts.items(), key=operator.itemgetter(1))
        if most <= counts[self._holder()] + 1:
            return []
        theirs = [other for other, whose in zip(others, holders, strict=True) if whose == holder]
        return [min(theirs, key=lambda other: (PARKED not in other.cycle.scope, other.since))]


class _Targeted(Guarded):
    """What httptools needs besides: it would take a target apart that names another host or has a fragment."""

    url: bytes

    def on_headers_complete(self) -> None:
        """Refuse such a target; raising is how the parser learns of it."""
        if not self.url.startswith((b"/", b"*")) or b"#" in self.url:
            raise ValueError(self.url)
        super().on_headers_complete()  # type: ignore[misc]


def guarded(protocol: type[asyncio.Protocol], limit: int) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with the limits of this module.

    Args:
        protocol: The one that uvicorn chose.
        limit: Connections at most.
    """
    guard = _Targeted if hasattr(protocol, "on_headers_complete") else Guarded
    return cast(type[asyncio.Protocol], type(protocol.__name__, (guard, protocol), {"limit": limit}))
