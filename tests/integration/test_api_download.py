"""Downloads from a real receiver: whole, in ranges, under conditions, and what a broken one looks like."""

from __future__ import annotations

import base64
import hashlib
import os
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_receiver import LiveReceiver, Reply, manifest

DATA = b"a bundle of twenty-6 bytes"
SHA = hashlib.sha256(DATA).hexdigest()
TAG = f'"{SHA}"'


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path_factory.mktemp("receiver"), manifest(20)) as live:
        yield live


@pytest.fixture(scope="module")
def job(receiver: LiveReceiver) -> str:
    """A completed job whose artifact is `DATA`."""
    return completed(receiver, DATA)


def completed(receiver: LiveReceiver, data: bytes) -> str:
    lease = receiver.claim()
    assert receiver.upload(lease, data).status in (200, 201)
    message = {"lease_id": lease["lease_id"], "artifact": hashlib.sha256(data).hexdigest(), "metrics": {}}
    assert receiver.call("POST", f"/v1/job/{lease['job_id']}/complete", message).status == 200
    job: str = lease["job_id"]
    return job


def got(receiver: LiveReceiver, method: str = "GET", sha256: str = SHA, **headers: str) -> Reply:
    return receiver.call(method, f"/v1/model/{sha256}", headers={n.replace("_", "-"): v for n, v in headers.items()})


def bundle(receiver: LiveReceiver, sha256: str) -> Path:
    (path,) = receiver.folder.glob(f"store/*/{sha256}/bundle.tar.zst")
    return path


def test_a_bundle_comes_whole_with_its_digest_and_a_name_that_speaks(receiver: LiveReceiver, job: str) -> None:
    reply = got(receiver)
    assert (reply.status, reply.body) == (200, DATA)
    found = {name: reply.headers[name] for name in EXPECTED}
    assert found == {**EXPECTED, "content-disposition": f'attachment; filename="gbt_oracle_{job[:12]}.tar.zst"'}
    assert "content-range" not in reply.headers


EXPECTED = {
    "content-type": "application/zstd",
    "content-length": "26",
    "etag": TAG,
    "repr-digest": f"sha-256=:{base64.b64encode(hashlib.sha256(DATA).digest()).decode()}:",
    "accept-ranges": "bytes",
    "x-content-type-options": "nosniff",
    "content-disposition": "",
}


def test_a_head_request_says_all_of_it_and_sends_nothing(receiver: LiveReceiver, job: str) -> None:
    reply, whole = got(receiver, "HEAD"), got(receiver)
    assert (reply.status, reply.body) == (200, b"")
    assert {name: reply.headers[name] for name in EXPECTED} == {name: whole.headers[name] for name in EXPECTED}


@pytest.mark.parametrize(
    ("given", "first", "last"),
    [
        ("bytes=0-25", 0, 25),
        ("bytes=0-0", 0, 0),
        ("bytes=2-7", 2, 7),
        ("BYTES=2-7", 2, 7),
        ("bytes=25-", 25, 25),
        ("bytes=10-", 10, 25),
        ("bytes=10-999999999999", 10, 25),
        ("bytes=-1", 25, 25),
        ("bytes=-26", 0, 25),
        ("bytes=-27", 0, 25),
    ],
)
def test_a_range_is_sent_as_that_part(receiver: LiveReceiver, job: str, given: str, first: int, last: int) -> None:
    reply = got(receiver, Range=given)
    assert (reply.status, reply.body) == (206, DATA[first : last + 1])
    assert reply.headers["content-range"] == f"bytes {first}-{last}/26"
    assert (reply.headers["etag"], reply.headers["content-length"]) == (TAG, str(last - first + 1))
    head = got(receiver, "HEAD", Range=given)
    assert (head.status, head.headers["content-range"]) == (206, reply.headers["content-range"])


@pytest.mark.parametrize("given", ["bytes=26-", "bytes=26-30", "bytes=-0", "bytes=999999999999999999-"])
def test_a_range_behind_the_end_is_416_and_names_the_length(receiver: LiveReceiver, job: str, given: str) -> None:
    reply = got(receiver, Range=given)
    assert (reply.status, reply.json["code"]) == (416, "range_beyond")
    assert reply.headers["content-range"] == "bytes */26"


@pytest.mark.parametrize(
    "given",
    ["bytes=0-1,4-5", "bytes=7-2", "bytes=-", "bytes=a-b", "lines=1-2", "bytes 0-1", "", "bytes=0x1-2", "bytes=--1"],
)
def test_a_range_that_says_nothing_or_too_much_is_the_whole(receiver: LiveReceiver, job: str, given: str) -> None:
    reply = got(receiver, Range=given)
    assert (reply.status, reply.body) == (200, DATA)


@pytest.mark.parametrize(
    ("given", "status"), [(TAG, 206), (f'"{"0" * 64}"', 200), (f"W/{TAG}", 200), ("Tue, 01 Dec 2026 04:00:00 GMT", 200)]
)
def test_a_download_goes_on_only_from_the_same_file(receiver: LiveReceiver, job: str, given: str, status: int) -> None:
    reply = got(receiver, Range="bytes=4-", If_Range=given)
    assert (reply.status, reply.body) == (status, DATA[4:] if status == 206 else DATA)


@pytest.mark.parametrize(
    ("given", "status"),
    [(TAG, 304), (f"W/{TAG}", 304), (f'"x", {TAG}', 304), ("*", 304), ('"x"', 200), (SHA, 200), ("", 200)],
)
def test_what_the_client_has_is_not_sent_again(receiver: LiveReceiver, job: str, given: str, status: int) -> None:
    reply = got(receiver, If_None_Match=given)
    assert (reply.status, reply.body) == (status, b"" if status == 304 else DATA)
    assert reply.headers["etag"] == TAG


def test_an_unknown_artifact_is_404_and_an_odd_id_too(receiver: LiveReceiver) -> None:
    for sha256 in ("0" * 64, SHA.upper(), SHA[:-1], f"..%2f{SHA}"):
        for method in ("GET", "HEAD"):
            assert got(receiver, method, sha256).status == 404
    assert got(receiver, sha256="0" * 64).json["code"] == "not_found"


@pytest.mark.parametrize("rest", [None, b"", b"cut", b"another length than the row"], ids=str)
def test_an_artifact_whose_file_is_gone_or_cut_is_said_to_be_lost(receiver: LiveReceiver, rest: bytes | None) -> None:
    data = b"lost" * 3 + str(rest).encode()
    sha256 = hashlib.sha256(data).hexdigest()
    completed(receiver, data)
    path = bundle(receiver, sha256)
    path.unlink() if rest is None else path.write_bytes(rest)
    reply = got(receiver, sha256=sha256)
    assert (reply.status, reply.json["code"]) == (404, "artifact_lost")
    assert str(path) in reply.json["found"]
    assert "backup" in reply.json["remedy"]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    assert got(receiver, sha256=sha256).body == data


def test_the_same_bytes_of_two_models_are_one_download(receiver: LiveReceiver, job: str) -> None:
    completed(receiver, DATA)
    assert got(receiver).body == DATA


def test_only_who_may_read_downloads(tmp_path: Path) -> None:
    tokens = {"operator": "an-operator-token-for-tests", "read": "a-read-token-for-tests", "worker": "a-worker-token"}
    with LiveReceiver(tmp_path, manifest(1), tokens) as live:
        for header in ({}, {"Authorization": "Bearer a-worker-token"}, {"Authorization": "Bearer wrong"}):
            assert live.call("GET", f"/v1/model/{SHA}", headers=header).status in (401, 403)
            assert live.call("GET", f"/v1/model/{SHA}/file/card.md", headers=header).status in (401, 403)
        reader = {"Authorization": "Bearer a-read-token-for-tests"}
        assert live.call("GET", f"/v1/model/{SHA}", headers=reader).status == 404
        assert live.call("PUT", f"/v1/model/{SHA}/file/card.md", b"x", headers=reader).status in (401, 403)


@pytest.fixture(params=["h11", "httptools"])
def large(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[LiveReceiver, bytes]]:
    with LiveReceiver(tmp_path, manifest(1), http_parser=request.param, drain_s="20") as live:
        data = os.urandom(48 * 2**20)
        completed(live, data)
        yield live, data


def test_memory_stays_flat_while_a_large_bundle_is_sent(large: tuple[LiveReceiver, bytes]) -> None:
    live, data = large
    sha256 = hashlib.sha256(data).hexdigest()
    tracemalloc.start()
    with live.connect() as link:
        link.sendall(f"GET /v1/model/{sha256} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        found, size = hashlib.sha256(), 0
        head = b""
        while b"\r\n\r\n" not in head:
            head += link.recv(4096)
        rest = head.partition(b"\r\n\r\n")[2]
        found.update(rest)
        size = len(rest)
        while size < len(data) and (piece := link.recv(65536)):
            found.update(piece)
            size += len(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found.hexdigest(), size) == (sha256, len(data))
    assert peak < 8 * 2**20


def test_a_download_that_nobody_reads_ends_with_the_receiver(large: tuple[LiveReceiver, bytes]) -> None:
    live, data = large
    with live.connect() as link:
        link.sendall(f"GET /v1/model/{hashlib.sha256(data).hexdigest()} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert b"200 OK" in link.recv(4096)
        begun = time.monotonic()
        live.loop.call_soon_threadsafe(live._stop)
        live._thread.join(2.0)
        assert not live._thread.is_alive(), f"the receiver went on for {time.monotonic() - begun:.1f} s"
        size = 0
        while piece := _rest(link):
            size += len(piece)
        assert size < len(data)


def _rest(link: Any) -> bytes:
    try:
        piece: bytes = link.recv(2**20)
    except ConnectionError:
        return b""
    return piece


def test_a_file_that_is_cut_while_it_is_sent_breaks_the_connection(
    large: tuple[LiveReceiver, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    live, data = large
    sha256 = hashlib.sha256(data).hexdigest()
    with live.connect() as link:
        link.sendall(f"GET /v1/model/{sha256} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert b"200 OK" in link.recv(4096)
        os.truncate(bundle(live, sha256), 1000)
        size = 0
        while piece := _rest(link):
            size += len(piece)
    assert size < len(data)
    assert "an answer broke off" in caplog.text
