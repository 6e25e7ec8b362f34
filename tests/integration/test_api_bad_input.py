"""What nobody should send, over raw sockets to both parsers. Each row gets its stated answer and breaks nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_receiver import TOKEN, LiveReceiver, manifest, read_answer

from training.fleet.api.routes import ROUTES, Route

ID = "a" * 64
BEAT = b'{"lease_id":"never-given-01"}'


@pytest.fixture(scope="module", params=["h11", "httptools"])
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path_factory.mktemp("bad"), manifest(1), http_parser=request.param) as live:
        yield live


def post(path: str, body: bytes, *headers: str, host: str = "Host: 127.0.0.1", length: bool = True) -> bytes:
    lines = [f"POST {path} HTTP/1.1", host, *headers, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode("latin-1")


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def code(answer: bytes) -> str:
    found: str = json.loads(answer.partition(b"\r\n\r\n")[2])["code"]
    return found


PATH = f"/v1/job/{ID}/heartbeat"

BODIES = {
    "empty": (b"", 400, "bad_request"),
    "half": (b'{"lease_id"', 400, "bad_request"),
    "NaN": (b'{"lease_id":NaN}', 400, "bad_request"),
    "1e999": (b'{"x":1e999}', 400, "bad_request"),
    "duplicate keys": (b'{"lease_id":"never-given-01","lease_id":"never-given-02"}', 400, "bad_request"),
    "lone surrogate": (b'{"lease_id":"\\ud800"}', 400, "bad_request"),
    "NUL": (b'{"lease_id":"never-given-01\\u0000"}', 400, "bad_request"),
    "invalid UTF-8": (b'{"lease_id":"\xff\xfe"}', 400, "bad_request"),
    "60000 brackets": (b"[" * 60000, 400, "bad_request"),
    "5000 digits": (b'{"x":' + b"1" * 5000 + b"}", 400, "bad_request"),
    "wrong type": (b'{"lease_id":7}', 422, "invalid_message"),
    "no object": (b"[1]", 422, "invalid_message"),
    "65537 bytes": (b" " * 65537, 413, "too_large"),
}


@pytest.mark.parametrize(("body", "wanted", "named"), BODIES.values(), ids=BODIES)
def test_a_bad_body_is_refused(receiver: LiveReceiver, body: bytes, wanted: int, named: str) -> None:
    answer = receiver.raw(post(PATH, body))
    assert (status(answer), code(answer)) == (wanted, named)
    assert b"application/problem+json" in answer


HEADS = {
    "unknown path": (get("/v2/jobs"), 404, "not_found"),
    "root": (get("/"), 404, "not_found"),
    "trailing slash": (get("/v1/jobs/"), 404, "not_found"),
    "empty verb": (get(f"/v1/job/{ID}/"), 404, "not_found"),
    "unknown verb": (post(f"/v1/job/{ID}/train", b"{}"), 404, "not_found"),
    "short id": (get("/v1/job/abc"), 404, "not_found"),
    "id in upper case": (get(f"/v1/job/{'A' * 64}"), 404, "not_found"),
    "id with an encoded newline": (get(f"/v1/job/{ID}%0a"), 404, "not_found"),
    "id with an encoded slash": (get(f"/v1/job/{'a' * 32}%2f{'a' * 31}"), 404, "not_found"),
    "id with dots": (get(f"/v1/job/..%2f..%2f{'a' * 58}"), 404, "not_found"),
    "id that is an escape sequence": (get("/v1/job/%1b%5b31m"), 404, "not_found"),
    "wrong method on a fixed path": (get("/v1/job/claim"), 405, "method_not_allowed"),
    "wrong method on a job": (post(f"/v1/job/{ID}", b""), 405, "method_not_allowed"),
    "odd method": (b"BREW /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", (400, 405), None),
    "65 headers": (get("/healthz", *[f"X-{number}: 1" for number in range(65)]), 400, "bad_request"),
    "long header": (get("/healthz", "X-Long: " + "x" * 17000), 400, None),
    "two lease ids": (post(PATH, BEAT, "X-Lease-Id: a", "X-Lease-Id: b"), 400, "bad_request"),
    "two hosts": (get("/healthz", "Host: other"), 400, None),
    "two lengths": (post(PATH, BEAT, "Content-Length: 5"), 400, None),
    "length and chunks": (
        post(PATH, b"%x\r\n%b\r\n0\r\n\r\n" % (len(BEAT), BEAT), "Transfer-Encoding: chunked"),
        400,
        None,
    ),
    "negative length": (post(PATH, BEAT, "Content-Length: -1", length=False), 400, None),
    "length with a sign": (post(PATH, BEAT, "Content-Length: +29", length=False), 400, None),
    "length that is no number": (post(PATH, BEAT, "Content-Length: many", length=False), 400, None),
    "strange host": (get("/healthz").replace(b"127.0.0.1", b"evil.example"), 403, "forbidden"),
    "host that begins like loopback": (get("/healthz").replace(b"127.0.0.1", b"127.0.0.1.evil.example"), 403, None),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400, None),
    "empty host": (b"GET /healthz HTTP/1.1\r\nHost:\r\n\r\n", 400, None),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, None),
    "folded header": (get("/healthz", "X-A: 1\r\n 2"), (200, 400), None),
    "unknown query": (get("/v1/jobs?stat=running"), 422, "invalid_message"),
    "query twice": (get("/v1/jobs?limit=1&limit=2"), 400, "bad_request"),
    "query of broken UTF-8": (get("/v1/jobs?model=%ff"), 400, "bad_request"),
    "long query": (get("/v1/jobs?model=" + "x" * 5000), 400, "bad_request"),
    "limit zero": (get("/v1/jobs?limit=0"), 422, "invalid_message"),
    "limit 501": (get("/v1/jobs?limit=501"), 422, "invalid_message"),
    "limit with zeros in front": (get("/v1/jobs?limit=005"), 422, "invalid_message"),
    "limit in other digits": (get("/v1/jobs?limit=%D9%A1"), 422, "invalid_message"),
    "unknown status": (get("/v1/jobs?status=running,done"), 422, "invalid_message"),
    "unknown mode": (get("/v1/jobs?mode=both"), 422, "invalid_message"),
    "two modes": (get("/v1/jobs?mode=realistic,oracle"), 422, "invalid_message"),
    "odd prefix": (get("/v1/jobs?id_prefix=xyz"), 422, "invalid_message"),
    "odd cursor": (get("/v1/jobs?cursor=%27%20OR%201"), 422, "invalid_message"),
    "query where none is known": (get(f"/v1/job/{ID}?x=1"), 422, "invalid_message"),
    "cross-site change": (
        post(f"/v1/job/{ID}/cancel", b"", "Sec-Fetch-Site: cross-site", f"X-Operator-Token: {TOKEN}"),
        403,
        "forbidden",
    ),
    "same-site change": (post(PATH, BEAT, "Sec-Fetch-Site: same-site"), 403, "forbidden"),
    "cross-site upload": (
        post(f"/v1/model/{ID}", b"x", "Sec-Fetch-Site: cross-site", "X-Lease-Id: lease-0001").replace(
            b"POST", b"PUT", 1
        ),
        403,
        "forbidden",
    ),
    "change by a page of another site, in an old browser": (
        post(PATH, BEAT, "Origin: https://evil.example"),
        403,
        "forbidden",
    ),
    "change by a page that hides where it is from": (post(PATH, BEAT, "Origin: null"), 403, "forbidden"),
    "change by another port of this host": (post(PATH, BEAT, "Origin: http://127.0.0.1:3000"), 403, "forbidden"),
    "two origins": (post(PATH, BEAT, "Origin: http://127.0.0.1", "Origin: http://127.0.0.1"), 400, "bad_request"),
    "upload by a page of another site, in an old browser": (
        post(f"/v1/model/{ID}", b"x", "Origin: https://evil.example", "X-Lease-Id: lease-0001").replace(
            b"POST", b"PUT", 1
        ),
        403,
        "forbidden",
    ),
    "form of many parts": (
        post(PATH, b"--x\r\n\r\n" * 5000 + b"--x--\r\n", "Content-Type: multipart/form-data; boundary=x"),
        400,
        "bad_request",
    ),
    "a thousand ranges": (get("/v1/worker.pyz", "Range: bytes=" + ",".join(["0-"] * 1000)), 200, None),
}


@pytest.mark.parametrize(("data", "wanted", "named"), HEADS.values(), ids=HEADS)
def test_a_bad_request_is_refused(
    receiver: LiveReceiver, data: bytes, wanted: int | tuple[int, ...], named: str | None
) -> None:
    answer = receiver.raw(data)
    assert status(answer) in (wanted if isinstance(wanted, tuple) else (wanted,))
    if named:
        assert code(answer) == named
    if status(answer) >= 400:
        assert b"application/problem+json" in answer
        assert b"nosniff" in answer
    assert b"Traceback (most recent call last)" not in answer
    assert receiver.call("GET", "/healthz").status == 200


@pytest.mark.parametrize("name", ["abc", ID[:-1], ID + "a", ID.upper(), ID + "%0a", ID + "%00", "%20" + ID[1:]])
@pytest.mark.parametrize("verb", ["", "/why"])
def test_an_odd_id_is_refused_before_anybody_looks_for_it(receiver: LiveReceiver, name: str, verb: str) -> None:
    reply = receiver.call("GET", f"/v1/job/{name}{verb}")
    assert reply.status == 404
    assert "is no id; expected 64 lower-case hex digits" in reply.json["detail"]
    assert reply.json["found"].endswith("is no id")
    assert reply.json["expected"] == "64 lower-case hex digits"


@pytest.mark.parametrize("header", ["Sec-Fetch-Site: none", "Sec-Fetch-Site: same-origin", "Origin: http://127.0.0.1"])
def test_a_page_of_the_receiver_itself_may_change_things(receiver: LiveReceiver, header: str) -> None:
    assert status(receiver.raw(post(PATH, BEAT, header))) == 404


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_a_page_of_another_site_may_look(receiver: LiveReceiver, origin: str) -> None:
    """The browser does not show it the answer: none names another site in `Access-Control-Allow-Origin`."""
    answer = receiver.raw(get("/healthz", f"Origin: {origin}"))
    assert status(answer) == 200
    assert b"access-control" not in answer.lower()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_refuses_a_query_parameter_that_it_does_not_declare(receiver: LiveReceiver, route: Route) -> None:
    named = {"id": ID, "sha256": ID, "digest": ID, "name": "w1", "file": "a.md"}
    path = route.path.format(**named)
    for query, wanted in (("unknown=1", 422), ("a=1&a=2", 400)):
        reply = receiver.call(route.method, f"{path}?{query}", b"" if route.method != "GET" else None, operator=True)
        assert reply.status == wanted, reply.body


def test_an_enrolled_workers_query_is_judged_although_its_secret_names_it(receiver: LiveReceiver) -> None:
    headers = receiver.enrolled("judged")
    assert receiver.call("GET", "/v1/worker/self?worker=judged", headers=headers).status == 200
    for wrong in ("judged%0a", "%00", "..%2f", ""):
        reply = receiver.call("GET", f"/v1/worker/self?worker={wrong}", headers=headers)
        assert (reply.status, reply.json["code"]) == (422, "invalid_message")


def test_bytes_that_are_no_request_get_a_problem_and_the_end(receiver: LiveReceiver) -> None:
    with receiver.connect() as link:
        link.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        answer = read_answer(link)
        assert (status(answer), code(answer)) == (400, "bad_request")
        assert b"connection: close" in answer
        assert link.recv(1) == b""


def test_what_is_allowed_is_named(receiver: LiveReceiver) -> None:
    reply = receiver.call("DELETE", "/v1/jobs")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


def test_head_answers_like_get_without_a_body(receiver: LiveReceiver) -> None:
    reply = receiver.call("HEAD", "/v1/jobs")
    assert (reply.status, reply.body) == (200, b"")
    assert int(reply.headers["content-length"]) > 0


def test_a_chunked_body_is_counted_while_it_streams(receiver: LiveReceiver) -> None:
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    head = post(PATH, b"", "Transfer-Encoding: chunked", length=False)
    answer = receiver.raw(head + chunk * 17 + b"0\r\n\r\n")
    assert (status(answer), code(answer)) == (413, "too_large")


def test_a_chunked_body_within_the_limit_is_read(receiver: LiveReceiver) -> None:
    pieces = b"5\r\n" + BEAT[:5] + b"\r\n%x\r\n" % (len(BEAT) - 5) + BEAT[5:] + b"\r\n0\r\n\r\n"
    assert status(receiver.raw(post(PATH, b"", "Transfer-Encoding: chunked", length=False) + pieces)) == 404


def in_pieces(receiver: LiveReceiver, *pieces: bytes) -> bytes:
    """Send pieces one after the other, each after the receiver has looked at the one before."""
    with receiver.connect() as link:
        for piece in pieces:
            link.sendall(piece)
            receiver.call("GET", "/healthz")
        return read_answer(link)


def test_a_body_in_pieces_is_put_together(receiver: LiveReceiver) -> None:
    data = post(PATH, BEAT)
    assert status(in_pieces(receiver, data[:-20], data[-20:-10], data[-10:])) == 404


def test_a_streamed_body_is_refused_once_it_is_too_large(receiver: LiveReceiver) -> None:
    head = post(PATH, b"", "Transfer-Encoding: chunked", length=False)
    chunk = b"8000\r\n" + b" " * 32768 + b"\r\n"
    for pieces in ([head, chunk, chunk, chunk], [head + chunk, chunk + chunk + b"0\r\n\r\n"]):
        answer = in_pieces(receiver, *pieces)
        assert (status(answer), code(answer)) == (413, "too_large")


def test_a_body_declared_too_large_is_refused_before_it_comes(receiver: LiveReceiver) -> None:
    answer = in_pieces(receiver, post(PATH, b" " * 70000)[:200])
    assert (status(answer), code(answer)) == (413, "too_large")


def test_a_body_that_stops_is_refused_in_the_end(receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.fleet.api.arrival.BODY_WAIT_S", 0.2)
    data = post(PATH, BEAT)
    answer = in_pieces(receiver, data[:-20], data[-20:-10])
    assert (status(answer), code(answer)) == (400, "short_body")


def test_a_refused_small_body_leaves_the_connection_usable(receiver: LiveReceiver) -> None:
    with receiver.connect() as link:
        for _ in range(3):
            link.sendall(post(f"/v1/job/{ID}/cancel", b'{"x": 1}'))
            assert status(read_answer(link)) == 401


def test_a_client_that_hangs_up_in_its_body_harms_nobody(receiver: LiveReceiver) -> None:
    with receiver.connect() as link:
        link.sendall(post(PATH, BEAT)[:-5])
    with receiver.connect() as link:
        link.sendall(post(f"/v1/job/{ID}/cancel", b"x" * 100)[:-50])
    assert receiver.call("GET", "/healthz").status == 200


def test_no_answer_tells_of_a_failure_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with LiveReceiver(tmp_path, manifest(1)) as live:

        def broken(*_: object) -> None:
            raise RuntimeError("a detail nobody outside should see")

        monkeypatch.setattr(live.fleet.queue, "job", broken)
        reply = live.call("GET", f"/v1/job/{ID}")
    assert (reply.status, reply.json["code"]) == (500, "internal")
    assert b"detail nobody" not in reply.body
    assert "detail nobody" in caplog.text


def test_slow_heads_and_bodies_are_cut_off_and_patient_ones_are_not(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(1)) as live:
        head, body, idle = (live.connect() for _ in range(3))
        with head, body, idle:
            head.sendall(b"GET /healthz HT")
            body.sendall(post(PATH, BEAT)[:-5])
            idle.sendall(get("/healthz"))
            assert status(read_answer(idle)) == 200
            for now in (0.0, 10.0, 41.0):
                _on_loop(live, now)
            for link in (head, body):
                assert read_answer(link) == b""
            idle.sendall(get("/healthz"))
            assert status(read_answer(idle)) == 200


def _on_loop(live: LiveReceiver, now: float) -> None:
    done = threading.Event()

    def look() -> None:
        live.server.close_slow(now)
        done.set()

    # Three rounds of the loop let what was sent arrive first.
    live.call("GET", "/healthz")
    live.loop.call_soon_threadsafe(look)
    assert done.wait(5)
