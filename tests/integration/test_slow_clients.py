"""Clients that do not go on: the others are served meanwhile, and the slow ones are closed in the end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live_receiver import LiveReceiver, manifest, read_answer

JOBS = 400
EACH = 60
BEGUN_S = time.monotonic()
GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
PAGE = b"GET /v1/jobs?limit=500 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
BODY = b"POST /v1/job/claim HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 60000\r\n\r\n"
CHUNKS = b"POST /v1/job/claim HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(params=["h11", "httptools"])
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path, manifest(JOBS), http_parser=request.param) as live:
        yield live


class Crowd:
    """Many connections of one sort, each of which sends a little more now and then."""

    def __init__(self, receiver: LiveReceiver, count: int, first: bytes, more: bytes = b"") -> None:
        self.more = more
        self.links = [receiver.connect() for _ in range(count)]
        for link in self.links:
            link.sendall(first)

    def go_on(self) -> None:
        for link in self.links:
            with contextlib.suppress(ConnectionError):
                link.sendall(self.more)

    def open(self) -> int:
        """How many are open."""
        return sum(not _ended(link) for link in self.links)

    def close(self) -> None:
        for link in self.links:
            link.close()


def _ended(link: socket.socket) -> bool:
    """Read what there is; tell whether the other end is gone."""
    link.setblocking(False)
    try:
        while link.recv(2**16):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    finally:
        link.settimeout(20)
    return True


def look(receiver: LiveReceiver, later_s: float) -> None:
    """Let the receiver look for slow connections as if it were so much later, after what was sent has arrived."""
    done = threading.Event()

    def look_once() -> None:
        receiver.server.close_slow(BEGUN_S + later_s)
        done.set()

    receiver.call("GET", "/healthz")
    receiver.loop.call_soon_threadsafe(look_once)
    assert done.wait(10)


def serves(receiver: LiveReceiver) -> None:
    """Fail unless a worker and an operator are answered."""
    lease = receiver.claim()
    beat = receiver.call("POST", f"/v1/job/{lease['job_id']}/heartbeat", {"lease_id": lease["lease_id"]})
    assert beat.status == 200
    assert receiver.call("POST", f"/v1/job/{lease['job_id']}/cancel", operator=True).status == 200
    assert receiver.call("GET", "/v1/jobs").status == 200


def until(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


CROWDS = {
    "heads byte by byte": (GET[:8], b"x"),
    "heads line by line": (GET[:-2], b"X-A: 1\r\n"),
    "heads after a whole request": (GET + GET[:8], b"x"),
    "bodies byte by byte": (BODY, b" "),
    "chunks byte by byte": (CHUNKS, b"1\r\n \r\n"),
    "bodies that stop": (BODY + b"{", b""),
    "nothing at all": (b"", b""),
}


def test_slow_clients_of_every_sort_are_closed_and_the_others_served(receiver: LiveReceiver) -> None:
    crowds = {name: Crowd(receiver, EACH, *sent) for name, sent in CROWDS.items()}
    try:
        for later_s in (0.0, 10.0, 20.0, 29.0):
            look(receiver, later_s)
            serves(receiver)
            for crowd in crowds.values():
                crowd.go_on()
        assert {name: crowd.open() for name, crowd in crowds.items()} == dict.fromkeys(CROWDS, EACH)
        look(receiver, 45.0)
        until(lambda: not any(crowd.open() for crowd in crowds.values()))
        assert {name: crowd.open() for name, crowd in crowds.items()} == dict.fromkeys(CROWDS, 0)
        serves(receiver)
    finally:
        for crowd in crowds.values():
            crowd.close()


def test_a_client_that_does_not_read_is_closed_and_one_that_reads_slowly_is_not(receiver: LiveReceiver) -> None:
    links = [receiver.connect() for _ in range(3)]
    for link in links:
        link.sendall(PAGE * 150)
    deaf, slow = links[:2], links[2]
    assert until(lambda: len(_unsent(receiver)) == 3)
    for later_s in (0.0, 20.0, 40.0, 60.0):
        look(receiver, later_s)
        serves(receiver)
        begun = receiver.server.server_state.total_requests
        while receiver.server.server_state.total_requests == begun:
            assert slow.recv(2**20)
    assert not _ended(slow)
    assert until(lambda: all(_ended(link) for link in deaf))
    for link in links:
        link.close()


def _unsent(receiver: LiveReceiver) -> list[int]:
    """Bytes that each connection has not taken, zeros left out."""
    connections = list(receiver.server.server_state.connections)
    return [size for size in (link.transport.get_write_buffer_size() for link in connections) if size]


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"GET /", b"a" * 4096),
        (b"GET / HTTP/1.1\r\nX-A: ", b"a" * 4096),
        (b"GET / HTTP/1.1\r\n", b"X-A: 1\r\n" * 512),
        (GET + b"GET / HTTP/1.1\r\n", b"X-A: 1\r\n" * 512),
        (CHUNKS + b"2\r\n{}\r\n0\r\n", b"X-T: 1\r\n" * 512),
        (CHUNKS + b"1\r\n{\r\n1;", b"a" * 4096),
    ],
    ids=["target", "header", "headers", "headers of a second request", "trailers", "extension"],
)
def test_what_does_not_end_is_cut_off_early(receiver: LiveReceiver, begin: bytes, piece: bytes) -> None:
    with receiver.connect() as link:
        sent = len(begin)
        link.sendall(begin)
        with contextlib.suppress(ConnectionError):
            while sent < 2**20:
                receiver.call("GET", "/healthz")
                link.sendall(piece)
                sent += len(piece)
        assert sent < 60_000
        assert until(lambda: _ended(link))
    serves(receiver)


def test_an_upload_that_trickles_is_refused_and_one_that_goes_on_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.fleet.api.arrival.BODY_WAIT_S", 0.4)
    data = b"x" * 400_000
    with LiveReceiver(tmp_path, manifest(2)) as live:
        trickle, steady = (_begin_upload(live, live.claim(), data) for _ in range(2))
        sent = 0
        with trickle, steady:
            while not _readable(trickle):
                with contextlib.suppress(ConnectionError):
                    trickle.sendall(b"x")
                steady.sendall(data[sent : sent + 40_000])
                sent += 40_000
                time.sleep(0.05)
            answer = read_answer(trickle)
            steady.sendall(data[sent:])
            assert read_answer(steady).startswith(b"HTTP/1.1 201 ")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "short_body"
        assert list((tmp_path / "incoming").iterdir()) == []


def _begin_upload(live: LiveReceiver, lease: dict[str, str], data: bytes) -> socket.socket:
    link = live.connect()
    head = f"PUT /v1/model/{hashlib.sha256(data).hexdigest()} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    link.sendall(f"{head}X-Lease-Id: {lease['lease_id']}\r\nContent-Length: {len(data)}\r\n\r\n".encode())
    return link


def _readable(link: socket.socket) -> bool:
    link.setblocking(False)
    try:
        return link.recv(1, socket.MSG_PEEK) is not None
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    finally:
        link.settimeout(20)


def test_half_open_and_idle_connections_give_way_to_new_ones(receiver: LiveReceiver, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    with LiveReceiver(tmp_path / "few", manifest(3), max_connections="40", http_parser=receiver.parser) as live:
        worker = live.connect()
        body = json.dumps(live.claim_body(gpus=[]) | {"worker": "nobody"}).encode()
        for _ in range(3):
            live.claim()
        worker.sendall(
            b"POST /v1/job/claim HTTP/1.1\r\nHost: 127.0.0.1\r\nPrefer: wait=60\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        assert until(lambda: len(live.fleet.lot) == 1)
        idle = Crowd(live, 20, GET)
        half = Crowd(live, 200, b"GET /he")
        try:
            for _ in range(10):
                assert live.call("GET", "/v1/jobs").status == 200
            assert until(lambda: half.open() + idle.open() <= 40)
            assert not _ended(worker)
            assert len(live.fleet.lot) == 1
        finally:
            idle.close()
            half.close()
            worker.close()


def test_a_receiver_full_of_requests_under_way_says_so_and_serves_again_afterwards(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(3), max_connections="16") as live:
        secrets = [live.enrolled(f"busy{number}")["Authorization"].encode() for number in range(16)]
        lines = [BODY.replace(b"\r\n\r\n", b"\r\nAuthorization: " + secret + b"\r\n\r\n") for secret in secrets]
        busy = [live.connect() for _ in secrets]
        for link, head in zip(busy, lines, strict=True):
            link.sendall(head)
        assert until(lambda: len(live.server.server_state.tasks) == 16)
        look(live, 0.0)
        refused = live.call("GET", "/v1/jobs")
        assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (503, "unavailable", "5")
        assert refused.headers["content-type"] == "application/problem+json"
        more = Crowd(live, 100, BODY)
        assert until(lambda: more.open() <= 32)
        assert not any(_ended(link) for link in busy)
        look(live, 31.0)
        assert until(lambda: all(_ended(link) for link in busy))
        more.close()
        for link in busy:
            link.close()
        assert until(lambda: live.call("GET", "/v1/jobs").status == 200)
