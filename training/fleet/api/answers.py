"""What requests are answered with: values as JSON, errors as problem documents, streams.

Guarantees that a stream ends soon after the receiver begins to stop, however long its source goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Final

import msgspec
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from training.fleet.model.errors import FleetError, MethodError, RangeError

STREAM: Final = "cis490.stream"
"""Where the ASGI scope says that its answer is a stream: the end of the receiver cuts it off."""
STREAM_GRACE_S: Final = 0.5
"""How long a stream may go on after the receiver began to stop: a file that is nearly sent can end."""
RETRY_S: Final = 5.0

encode: Final = msgspec.json.Encoder().encode


class Json(JSONResponse):
    """A value as JSON; dataclasses are written with their fields."""

    def render(self, content: Any) -> bytes:
        """Return the bytes of a value."""
        return encode(content)


class ProblemAnswer(Json):
    """A problem document (RFC 9457)."""

    media_type = "application/problem+json"


def problem(error: FleetError) -> Response:
    """Return an error as a problem document, with the headers that belong to it.

    Source: RFC 9457.
    """
    headers: dict[str, str] = {}
    if isinstance(error, MethodError):
        headers["allow"] = error.allow
    if isinstance(error, RangeError):
        headers["content-range"] = f"bytes */{error.total_bytes}"
    if error.retry_after_s is not None or error.status in (429, 503, 507):
        headers["retry-after"] = str(max(1, round(error.retry_after_s or RETRY_S)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return ProblemAnswer(error.problem(), error.status, headers)


class Streams:
    """The streams that are open. Lives on the event loop."""

    def __init__(self) -> None:
        self._timers: set[asyncio.Timeout] = set()
        self._ends_at: float | None = None

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold a stream open until it ends by itself or the receiver stops.

        Raises:
            TimeoutError: The receiver stops and the stream did not end in time.
        """
        async with asyncio.timeout_at(self._ends_at) as timer:
            self._timers.add(timer)
            try:
                yield
            finally:
                self._timers.discard(timer)

    def end(self) -> None:
        """Let the open streams, and those that still begin, go on for `STREAM_GRACE_S` and no longer."""
        if self._ends_at is None:
            self._ends_at = asyncio.get_running_loop().time() + STREAM_GRACE_S
            for timer in self._timers:
                timer.reschedule(self._ends_at)


class Stream(StreamingResponse):
    """An answer whose body comes piece by piece.

    A stream that the receiver's stop interrupts ends like a whole one where the client cannot miss anything by it, as
    with server-sent events, which resume. Where `Content-Length` was promised the connection breaks instead, so that
    nobody takes a part for the whole.

    Args:
        pieces: Gives the pieces; closed when the stream ends.
        streams: Where it is counted as open.
        status: HTTP status.
        headers: Headers besides the type.
        media_type: Type of the body.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        streams: Streams,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(pieces, status, headers, media_type)
        self._pieces = pieces
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces."""
        scope[STREAM] = True
        try:
            async with self._streams.open(), contextlib.aclosing(self._pieces):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            if "content-length" not in self.headers:
                await send({"type": "http.response.body", "body": b""})
