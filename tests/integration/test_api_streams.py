"""Answers that come piece by piece, from a real receiver: they reach the client at once, and end with the receiver."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_receiver import LiveReceiver, manifest

from training.fleet.api.answers import Stream
from training.fleet.api.fleet import Fleet
from training.fleet.api.request import Request
from training.fleet.api.routes import ROUTES, Route
from training.fleet.model.errors import FleetError

END_S = 2.0
"""How long the end of a receiver may wait for streams."""
FILE_BYTES = 1_000_000


class Source:
    """Gives pieces until it is told to end; knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.given = 0

    async def slow(self) -> AsyncGenerator[bytes, None]:
        """Give one piece and wait for an end that never comes."""
        try:
            self.given += 1
            yield b"first"
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    async def endless(self) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                self.given += 1
                yield bytes(65536)
        finally:
            self.closed.set()

    async def breaking(self) -> AsyncGenerator[bytes, None]:
        yield b"first"
        raise FleetError("the source broke")


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture(params=["h11", "httptools"])
def live(
    request: pytest.FixtureRequest, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LiveReceiver]:
    async def slow(fleet: Fleet, _request: Request) -> Stream:
        """Events without end."""
        return Stream(source.slow(), fleet.streams, media_type="text/event-stream")

    async def file(fleet: Fleet, _request: Request) -> Stream:
        """A file that never gets whole."""
        return Stream(source.slow(), fleet.streams, headers={"content-length": str(FILE_BYTES)})

    async def endless(fleet: Fleet, _request: Request) -> Stream:
        """More than anybody takes."""
        return Stream(source.endless(), fleet.streams)

    async def breaking(fleet: Fleet, _request: Request) -> Stream:
        """A source that breaks."""
        return Stream(source.breaking(), fleet.streams)

    handlers: dict[str, Any] = {"slow": slow, "file": file, "endless": endless, "breaking": breaking}
    more = [Route("GET", f"/test/{name}", "anyone", handler) for name, handler in handlers.items()]
    monkeypatch.setattr("training.fleet.api.app.ROUTES", (*ROUTES, *more))
    with LiveReceiver(tmp_path, manifest(1), http_parser=request.param, drain_s="20") as receiver:
        yield receiver


def begun(live: LiveReceiver, name: str) -> socket.socket:
    link = live.connect()
    link.sendall(f"GET /test/{name} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return link


def until(link: socket.socket, text: bytes) -> bytes:
    found = b""
    while text not in found and (piece := link.recv(65536)):
        found += piece
    return found


def stop(live: LiveReceiver) -> float:
    """Ask the receiver for its end and return when."""
    live.loop.call_soon_threadsafe(live._stop)
    return time.monotonic()


def ended(live: LiveReceiver, asked_at: float) -> bool:
    live._thread.join(END_S - (time.monotonic() - asked_at))
    return not live._thread.is_alive()


def test_the_first_piece_arrives_before_the_last_one_is_known(live: LiveReceiver) -> None:
    with begun(live, "slow") as link:
        found = until(link, b"first")
        assert b"transfer-encoding: chunked" in found.lower()
        assert b"x-content-type-options: nosniff" in found.lower()


def test_a_stream_ends_whole_when_the_receiver_stops(live: LiveReceiver, source: Source) -> None:
    with begun(live, "slow") as link:
        until(link, b"first")
        asked_at = stop(live)
        assert until(link, b"0\r\n\r\n").endswith(b"0\r\n\r\n")
        assert ended(live, asked_at)
        assert source.closed.is_set()


def test_a_stream_of_a_declared_length_breaks_off_when_the_receiver_stops(live: LiveReceiver, source: Source) -> None:
    """So that nobody takes a part of a file for the file."""
    with begun(live, "file") as link:
        until(link, b"first")
        asked_at = stop(live)
        assert link.recv(65536) == b""
        assert ended(live, asked_at)
        assert source.closed.is_set()


def test_a_stream_that_nobody_reads_holds_up_no_end(live: LiveReceiver, source: Source) -> None:
    with begun(live, "endless") as link:
        until(link, b"\r\n\r\n")
        assert ended(live, stop(live))
        assert source.closed.wait(1)


def test_a_stream_ends_when_its_client_hangs_up(live: LiveReceiver, source: Source) -> None:
    with begun(live, "slow") as link:
        until(link, b"first")
    assert source.closed.wait(10)


def test_a_stream_that_breaks_inside_is_never_taken_for_a_whole_one(
    live: LiveReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    with begun(live, "breaking") as link:
        found = until(link, b"0\r\n\r\n")
    assert found.endswith(b"first\r\n")
    assert "an answer broke off" in caplog.text
