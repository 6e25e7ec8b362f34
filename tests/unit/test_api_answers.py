"""What errors are answered with, and how streams end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message

from training.fleet.api.answers import STREAM, STREAM_GRACE_S, Stream, Streams, problem
from training.fleet.model.errors import (
    AuthenticationError,
    ConflictError,
    FleetError,
    ForbiddenError,
    IdentityInUseError,
    MethodError,
    RevokedError,
    StorageFullError,
    TooManyTriesError,
    UnavailableError,
)


@pytest.mark.parametrize(
    ("error", "status", "retry_after", "challenge", "allow"),
    [
        (ConflictError("a", "b"), 409, None, None, None),
        (ForbiddenError("a", "b"), 403, None, None, None),
        (FleetError("a", "b"), 500, None, None, None),
        (AuthenticationError("a", "b"), 401, None, "Bearer", None),
        (RevokedError("a", "b"), 401, None, "Bearer", None),
        (MethodError("a", "b", allow="GET, HEAD"), 405, None, None, "GET, HEAD"),
        (UnavailableError("a", "b"), 503, "5", None, None),
        (StorageFullError("a", "b"), 507, "5", None, None),
        (TooManyTriesError("a", "b"), 429, "5", None, None),
        (UnavailableError("a", "b", retry_after_s=30.0), 503, "30", None, None),
        (UnavailableError("a", "b", retry_after_s=0.2), 503, "1", None, None),
        (IdentityInUseError("a", "b", retry_after_s=12.6), 409, "13", None, None),
        (ConflictError("a", "b", retry_after_s=2.0), 409, "2", None, None),
    ],
)
def test_an_error_says_when_to_ask_again_how_to_show_who_one_is_and_which_methods_there_are(
    error: FleetError, status: int, retry_after: str | None, challenge: str | None, allow: str | None
) -> None:
    answer = problem(error)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body)["code"] == error.code
    found = (answer.headers.get(name) for name in ("retry-after", "www-authenticate", "allow"))
    assert tuple(found) == (retry_after, challenge, allow)


def test_a_second_stop_gives_open_streams_no_more_time() -> None:
    """An impatient person sends the signal again."""

    async def run() -> float:
        streams, loop = Streams(), asyncio.get_running_loop()
        begun = loop.time()
        clock = [begun]
        loop.time = lambda: clock[0]  # type: ignore[method-assign]
        streams.end()
        clock[0] += STREAM_GRACE_S / 2
        streams.end()
        with pytest.raises(TimeoutError):
            async with streams.open():
                while clock[0] < begun + 2 * STREAM_GRACE_S:
                    clock[0] += STREAM_GRACE_S / 8
                    await asyncio.sleep(0)
        return clock[0] - begun

    assert asyncio.run(run()) < 1.4 * STREAM_GRACE_S


def test_open_streams_are_cut_off_at_a_stop_and_those_that_have_ended_are_left_alone() -> None:
    async def run() -> None:
        streams = Streams()
        async with streams.open():
            pass
        async with streams.open():
            streams.end()
            assert len(streams._timers) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "ends"),
    [
        pytest.param({}, True, id="nothing promised"),
        pytest.param({"content-length": "9"}, False, id="a length promised"),
    ],
)
def test_a_stream_that_is_cut_off_ends_like_a_whole_one_unless_its_length_was_promised(
    headers: dict[str, str], ends: bool
) -> None:
    sent: list[Message] = []
    closed = []

    async def pieces() -> AsyncGenerator[bytes, None]:
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    async def run() -> None:
        streams, scope = Streams(), {"type": "http", "asgi": {"spec_version": "2.4"}}
        loop = asyncio.get_running_loop()
        late = [0.0]
        real = loop.time
        loop.time = lambda: real() + late[0]  # type: ignore[method-assign]

        async def send(message: Message) -> None:
            sent.append(message)
            if message.get("body") == b"one":
                streams.end()
                late[0] = 2 * STREAM_GRACE_S

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        await Stream(pieces(), streams, headers=headers)(scope, receive, send)
        assert scope[STREAM] is True

    asyncio.run(asyncio.wait_for(run(), 20))
    assert closed == [True]
    last = {"type": "http.response.body", "body": b""}
    assert (sent[-1] == last) is ends
