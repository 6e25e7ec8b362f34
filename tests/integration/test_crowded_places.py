"""One client that wants every place: the others are served, whatever it fills the places with."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from live_receiver import LiveReceiver, manifest, read_answer

from training.fleet.api.front import Front

PLACES = 16
SHARED = "a-shared-token-for-tests"
TOKENS = {"operator": "an-operator-token-for-tests", "worker": SHARED}
Parser = Literal["h11", "httptools"]


@pytest.fixture(params=["h11", "httptools"])
def parser(request: pytest.FixtureRequest) -> Parser:
    found: Parser = request.param
    return found


@pytest.fixture
def live(tmp_path: Path, parser: Parser) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path, manifest(9), TOKENS, max_connections=str(PLACES), http_parser=parser) as receiver:
        for _ in range(9):
            receiver.call("POST", "/v1/job/claim", receiver.claim_body(), {"Authorization": f"Bearer {SHARED}"})
        yield receiver


def request(body: bytes, *lines: str, declared: int | None = None) -> bytes:
    head = ["POST /v1/job/claim HTTP/1.1", "Host: 127.0.0.1", *lines, f"Content-Length: {declared or len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


def half(*lines: str) -> bytes:
    """Return a claim whose body never ends."""
    return request(b"{", *lines, declared=60_000)


def parked(receiver: LiveReceiver, worker: str, *lines: str) -> bytes:
    return request(json.dumps(receiver.claim_body(worker)).encode(), "Prefer: wait=60", *lines)


class Links:
    """Connections of one client, closed at the end."""

    def __init__(self, receiver: LiveReceiver, source: str = "127.0.0.1") -> None:
        self.receiver = receiver
        self.source = source
        self.links: list[socket.socket] = []

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *_: object) -> None:
        for link in self.links:
            link.close()

    def send(self, data: bytes) -> None:
        link = socket.create_connection(("127.0.0.1", self.receiver.port), 20, (self.source, 0))
        self.links.append(link)
        with contextlib.suppress(ConnectionError):
            link.sendall(data)

    def open(self) -> int:
        return sum(not ended(link) for link in self.links)


def ended(link: socket.socket) -> bool:
    link.setblocking(False)
    try:
        return link.recv(2**16) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    finally:
        link.settimeout(20)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def under_way(receiver: LiveReceiver) -> int:
    """Return how many requests are being answered."""
    connections = list(receiver.server.server_state.connections)
    return sum(one.cycle is not None and not one.cycle.response_complete for one in connections)


def full(receiver: LiveReceiver) -> None:
    """Wait until every place is taken by a request under way."""
    until(lambda: under_way(receiver) >= PLACES)


def settled(receiver: LiveReceiver) -> None:
    """Wait until every claim that was sent waits or is answered."""
    receiver.call("GET", "/healthz")
    until(lambda: under_way(receiver) == len(receiver.fleet.lot))


def serves(receiver: LiveReceiver) -> None:
    """Fail unless somebody else is answered again and again."""
    for _ in range(2 * PLACES):
        assert receiver.call("GET", "/v1/jobs").status == 200


def shared() -> str:
    return f"Authorization: Bearer {SHARED}"


def test_half_bodies_of_nobody_give_way(tmp_path: Path, parser: Parser) -> None:
    """Without tokens on loopback nobody is known, and what waits for a body is closed first."""
    with (
        LiveReceiver(tmp_path, manifest(1), max_connections=str(PLACES), http_parser=parser) as live,
        Links(live) as crowd,
    ):
        for _ in range(PLACES):
            crowd.send(half())
        full(live)
        serves(live)


def test_half_bodies_with_a_wrong_token_give_way(live: LiveReceiver) -> None:
    with Links(live) as crowd:
        for _ in range(3 * PLACES):
            crowd.send(half("Authorization: Bearer wrong"))
        serves(live)


def test_half_bodies_of_nobody_give_way_before_a_connection_that_is_kept(live: LiveReceiver) -> None:
    with Links(live) as kept, Links(live) as crowd:
        kept.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert read_answer(kept.links[0]).startswith(b"HTTP/1.1 200 ")
        for _ in range(5 * PLACES):
            crowd.send(half())
            receiver_has_looked(live)
            assert not ended(kept.links[0])
        serves(live)


def receiver_has_looked(live: LiveReceiver) -> None:
    assert live.call("GET", "/healthz").status == 200


def test_half_bodies_of_nobody_give_way_before_a_worker_that_waits(live: LiveReceiver) -> None:
    with Links(live) as worker, Links(live) as crowd:
        worker.send(parked(live, "waits", shared()))
        until(lambda: len(live.fleet.lot) == 1)
        for _ in range(5 * PLACES):
            crowd.send(half())
            assert not ended(worker.links[0])
        assert len(live.fleet.lot) == 1
        serves(live)


def test_a_worker_that_waits_in_many_calls_waits_in_the_newest(live: LiveReceiver) -> None:
    with Links(live) as crowd:
        for _ in range(3 * PLACES):
            crowd.send(parked(live, "greedy", shared()))
            settled(live)
            assert len(live.fleet.lot) == 1
        serves(live)
        assert not ended(crowd.links[-1])


def test_calls_that_wait_under_many_names_take_half_of_the_places(live: LiveReceiver) -> None:
    with Links(live) as crowd:
        for number in range(3 * PLACES):
            crowd.send(parked(live, f"name{number}", shared()))
            settled(live)
        assert len(live.fleet.lot) == PLACES // 2
        serves(live)
        newest = crowd.links[-PLACES // 2 :]
        assert not any(ended(link) for link in newest)


def test_an_enrolled_worker_with_every_place_gives_some_up(live: LiveReceiver) -> None:
    greedy = f"Authorization: {live.enrolled('greedy')['Authorization']}"
    with Links(live) as crowd:
        for _ in range(PLACES):
            crowd.send(half(greedy))
        full(live)
        serves(live)
        assert crowd.open() >= PLACES - 2


def test_an_address_with_every_place_gives_some_up_to_another_address(live: LiveReceiver) -> None:
    with Links(live, "127.0.0.2") as crowd, Links(live, "127.0.0.3") as small:
        small.send(half(shared()))
        for _ in range(PLACES - 1):
            crowd.send(half(shared()))
        full(live)
        serves(live)
        assert crowd.open() >= PLACES - 3
        assert small.open() == 1


def test_of_the_client_with_the_most_places_a_call_that_waits_goes_first(live: LiveReceiver) -> None:
    greedy = "\r\n".join(f"{name}: {value}" for name, value in live.enrolled("greedy").items())
    with Links(live) as crowd, Links(live) as waits:
        for _ in range(PLACES - 1):
            crowd.send(half(greedy))
        waits.send(parked(live, "greedy", greedy))
        full(live)
        serves(live)
        until(lambda: ended(waits.links[0]))
        assert crowd.open() == PLACES - 1


def test_behind_a_proxy_the_address_counts_that_the_proxy_names(tmp_path: Path, parser: Parser) -> None:
    front = Front(["127.0.0.1"], "a-proxy-token-for-tests")
    proxied = "X-Cis490-Proxy: a-proxy-token-for-tests"
    with (
        LiveReceiver(tmp_path, manifest(1), TOKENS, parser, front=front, max_connections=str(PLACES)) as live,
        Links(live) as crowd,
        Links(live) as small,
    ):
        small.send(half(shared(), proxied, "X-Forwarded-For: 10.0.0.2"))
        for number in range(PLACES - 1):
            crowd.send(half(shared(), proxied, f"X-Forwarded-For: 2001:db8::{number + 1}"))
        full(live)
        serves(live)
        assert small.open() == 1
        assert crowd.open() >= PLACES - 3


def test_an_upload_on_loopback_is_no_half_body_of_nobody(tmp_path: Path, parser: Parser) -> None:
    """It needs no token there, but it names a lease that lives."""
    with (
        LiveReceiver(tmp_path, manifest(1), max_connections=str(PLACES), http_parser=parser) as live,
        Links(live) as worker,
        Links(live) as crowd,
    ):
        lines = f"X-Lease-Id: {live.claim()['lease_id']}\r\nContent-Length: 400000"
        worker.send(f"PUT /v1/model/{'d' * 64} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n\r\n".encode())
        until(lambda: len(list((tmp_path / "incoming").iterdir())) == 1)
        for _ in range(5 * PLACES):
            crowd.send(half())
        serves(live)
        worker.links[0].sendall(bytes(400_000))
        assert read_answer(worker.links[0]).startswith(b"HTTP/1.1 422 ")
