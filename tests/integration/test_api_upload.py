"""Uploads: whole, short, long, wrong, aborted, repeated, at once."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_receiver import LiveReceiver, Reply, manifest, read_answer

from training.fleet.api import arrival
from training.fleet.model.errors import StorageFullError
from training.fleet.store import Store, Upload

LIMIT = 8 * 2**20


@pytest.fixture(scope="module", params=["h11", "httptools"])
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    folder = tmp_path_factory.mktemp("upload")
    with LiveReceiver(folder, manifest(40), http_parser=request.param, max_artifact_bytes=str(LIMIT)) as live:
        yield live


@pytest.fixture
def lease(receiver: LiveReceiver) -> Iterator[dict[str, Any]]:
    found = receiver.claim()
    yield found
    body = {"lease_id": found["lease_id"], "kind": "preempted"}
    assert receiver.call("POST", f"/v1/job/{found['job_id']}/fail", body).status == 200


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def head(lease: dict[str, Any], sha256: str, *headers: str) -> bytes:
    lines = [f"PUT /v1/model/{sha256} HTTP/1.1", "Host: 127.0.0.1", f"X-Lease-Id: {lease['lease_id']}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def leftovers(receiver: LiveReceiver) -> list[Path]:
    return list((receiver.folder / "incoming").iterdir())


def wait_for(condition: Any) -> None:
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def code(answer: bytes) -> tuple[int, str]:
    body = answer.partition(b"\r\n\r\n")[2]
    return int(answer.split(b" ", 2)[1]), json.loads(body)["code"]


@pytest.mark.parametrize("size", [0, 1, 65536, 2**20, 5 * 2**20 + 17])
def test_what_arrives_is_stored_under_its_digest(receiver: LiveReceiver, lease: dict[str, Any], size: int) -> None:
    data = os.urandom(size)
    reply = receiver.upload(lease, data)
    assert (reply.status, reply.json["size_bytes"]) == (201, size)
    assert (receiver.folder / f"store/gbt_oracle/{digest(data)}/bundle.tar.zst").read_bytes() == data
    assert leftovers(receiver) == []


def test_a_second_upload_is_200_and_nothing_is_read(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    data = b"twice" * 1000
    assert receiver.upload(lease, data).status == 201
    with receiver.connect() as link:
        link.sendall(head(lease, digest(data), f"Content-Length: {len(data)}"))  # the body never follows
        answer = read_answer(link)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"new":false' in answer
    assert b"connection: close" in answer.lower()


def test_a_file_with_its_row_is_not_read_again_for_the_next_upload(
    receiver: LiveReceiver, lease: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"known" * 1000
    assert receiver.upload(lease, data).status == 201

    def refuse(*_: Any) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(receiver.fleet.store, "proven_bytes", refuse)
    assert receiver.upload(lease, data).status == 200
    assert recorded(receiver, data) == [len(data)]


def test_a_file_without_its_row_gets_the_row_with_the_next_upload(
    receiver: LiveReceiver, lease: dict[str, Any]
) -> None:
    """A crash between the file and the row must not leave the artifact unusable."""
    data = b"orphan"
    placed(receiver, data, data)
    assert receiver.upload(lease, data).status == 200
    assert recorded(receiver, data) == [6]


def placed(receiver: LiveReceiver, data: bytes, held: bytes) -> Path:
    """Put a file where the artifact of `data` belongs, without a row."""
    path = receiver.folder / f"store/gbt_oracle/{digest(data)}/bundle.tar.zst"
    path.parent.mkdir(parents=True)
    path.write_bytes(held)
    return path


def recorded(receiver: LiveReceiver, data: bytes) -> list[int]:
    """Return the lengths that the index names for an artifact; they are those of its row."""
    lines = (receiver.folder / "index.jsonl").read_text().splitlines()
    return [json.loads(line)["size_bytes"] for line in lines if digest(data) in line]


def findings(receiver: LiveReceiver) -> Any:
    receiver.call("POST", "/v1/fsck", {}, operator=True)
    wait_for(lambda: receiver.call("GET", "/v1/chore", operator=True).json["state"] == "done")
    return receiver.call("GET", "/v1/chore", operator=True).json["findings"]


@pytest.mark.parametrize("declared", [0, 5, 8, LIMIT])
def test_a_file_without_a_row_never_takes_a_declared_length(
    receiver: LiveReceiver, lease: dict[str, Any], declared: int
) -> None:
    data = b"7 byte" + bytes([declared % 251])
    path = placed(receiver, data, data)
    with receiver.connect() as link:  # the body of the largest one never follows
        link.sendall(head(lease, digest(data), f"Content-Length: {declared}") + bytes(declared % LIMIT))
        answer = read_answer(link)
    assert code(answer) == (422, "digest_mismatch")
    assert b"the artifact is 7 bytes long" in answer
    assert (recorded(receiver, data), path.read_bytes()) == ([], data)
    assert receiver.upload(lease, data).status == 200
    assert recorded(receiver, data) == [7]
    assert findings(receiver) == []


def test_a_known_artifact_declared_in_another_length_is_refused(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    data = b"known and whole"
    assert receiver.upload(lease, data).status == 201
    with receiver.connect() as link:
        link.sendall(head(lease, digest(data), "Content-Length: 1") + b"x")
        assert code(read_answer(link)) == (422, "digest_mismatch")


@pytest.mark.parametrize("held", [b"", b"cut", b"bent file", b"longer than the artifact"])
def test_a_damaged_file_without_a_row_is_put_aside_and_the_upload_taken(
    receiver: LiveReceiver, lease: dict[str, Any], held: bytes
) -> None:
    """Its name alone says nothing: a copy that was cut off must not become the result of a job."""
    data = b"good file" + held
    path = placed(receiver, data, held)
    assert receiver.upload(lease, data).status == 201
    assert (path.read_bytes(), recorded(receiver, data)) == (data, [len(data)])
    assert (receiver.folder / f"store/quarantine/{digest(data)}-1").read_bytes() == held


def test_a_known_artifact_that_was_cut_off_is_put_aside_and_taken_again(
    receiver: LiveReceiver, lease: dict[str, Any]
) -> None:
    data = b"whole at first"
    path = receiver.folder / f"store/gbt_oracle/{digest(data)}/bundle.tar.zst"
    assert receiver.upload(lease, data).status == 201
    path.write_bytes(data[:5])
    assert receiver.upload(lease, data).status == 201
    assert (path.read_bytes(), recorded(receiver, data)) == (data, [len(data)])


def test_two_uploads_of_one_artifact_at_once_both_succeed(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    data = os.urandom(3 * 2**20)
    leases = [lease, *(receiver.claim() for _ in range(3))]
    replies: list[Reply] = []
    threads = [threading.Thread(target=lambda one=one: replies.append(receiver.upload(one, data))) for one in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {reply.status for reply in replies} <= {200, 201}
    assert len(replies) == 4
    lines = (receiver.folder / "index.jsonl").read_text().splitlines()
    assert sum(digest(data) in line for line in lines) == 1
    assert leftovers(receiver) == []


# ---- what one lease may bring


def begun(receiver: LiveReceiver, lease: dict[str, Any], data: bytes, sent: int) -> socket.socket:
    """Begin an upload that is here when this returns."""
    before = leftovers(receiver)
    link = receiver.connect()
    link.sendall(head(lease, digest(data), f"Content-Length: {len(data)}") + data[:sent])
    wait_for(lambda: [path for path in leftovers(receiver) if path not in before])
    return link


def test_a_completed_lease_uploads_nothing_but_the_accepted_artifact(receiver: LiveReceiver) -> None:
    lease, data = receiver.claim(), b"the result"
    assert receiver.upload(lease, data).status == 201
    result = {"lease_id": lease["lease_id"], "artifact": digest(data)}
    assert receiver.call("POST", f"/v1/job/{lease['job_id']}/complete", result).status == 200
    again = receiver.upload(lease, data)
    assert (again.status, again.json["new"]) == (200, False)
    stored = len(list((receiver.folder / "store").rglob("*.zst")))
    for number in range(20):
        reply = receiver.upload(lease, b"further %d" % number)
        assert (reply.status, reply.json["code"]) == (409, "other_result")
    with receiver.connect() as link:
        link.sendall(head(lease, "d" * 64, f"Content-Length: {LIMIT}"))  # refused before its body
        assert code(read_answer(link)) == (409, "other_result")
    assert len(list((receiver.folder / "store").rglob("*.zst"))) == stored
    assert receiver.call("POST", f"/v1/job/{lease['job_id']}/complete", result).status == 200


def test_a_lease_begins_eight_different_artifacts_and_no_more(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    bundles = [os.urandom(64) for _ in range(9)]
    assert [receiver.upload(lease, data).status for data in bundles[:8]] == [201] * 8
    refused = receiver.upload(lease, bundles[8])
    assert (refused.status, refused.json["code"]) == (409, "wrong_state")
    assert "has begun 8 different artifacts" in refused.json["detail"]
    assert receiver.upload(lease, bundles[0]).status == 200
    assert receiver.upload(receiver.claim(), bundles[8]).status == 201


def test_an_artifact_that_arrives_damaged_again_and_again_counts_once(
    receiver: LiveReceiver, lease: dict[str, Any]
) -> None:
    data = os.urandom(64)
    for _ in range(12):
        reply = receiver.call("PUT", f"/v1/model/{digest(data)}", bytes(64), {"X-Lease-Id": lease["lease_id"]})
        assert reply.json["code"] == "digest_mismatch"
    assert receiver.upload(lease, data).status == 201


def test_the_newest_upload_of_a_lease_is_the_one_that_counts(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    """The old connection may be dead without anybody having told the receiver."""
    data = os.urandom(3 * 2**20)
    with begun(receiver, lease, data, 2**20) as old:
        assert receiver.upload(lease, data).status == 201
        assert code(read_answer(old)) == (503, "unavailable")
    assert leftovers(receiver) == []


def test_one_lease_has_one_upload_at_a_time_however_many_begin(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    data = os.urandom(3 * 2**20)
    links = [receiver.connect() for _ in range(30)]
    for link in links:
        link.sendall(head(lease, digest(data), f"Content-Length: {len(data)}") + data[:100_000])
        receiver.call("GET", "/healthz")
        assert len(leftovers(receiver)) <= 1
    wait_for(lambda: len(leftovers(receiver)) == 1)
    assert [code(read_answer(link)) for link in links[:-1]] == [(503, "unavailable")] * 29
    links[-1].sendall(data[100_000:])
    assert read_answer(links[-1]).startswith(b"HTTP/1.1 201 ")
    for link in links:
        link.close()
    assert leftovers(receiver) == []
    assert receiver.fleet.uploads._lines == {}


def test_an_upload_that_is_whole_is_not_replaced(
    receiver: LiveReceiver, lease: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, held, go = Upload.finish, threading.Event(), threading.Event()

    def slow(stored: Upload) -> str:
        held.set()
        go.wait(10)
        return finish(stored)

    monkeypatch.setattr(Upload, "finish", slow)
    data, replies = os.urandom(1000), list[Reply]()
    first, second = (threading.Thread(target=lambda: replies.append(receiver.upload(lease, data))) for _ in range(2))
    first.start()
    assert held.wait(10)
    second.start()
    wait_for(lambda: [line.here for line in receiver.fleet.uploads._lines.values()] == [2])
    go.set()
    first.join()
    second.join()
    assert sorted(reply.status for reply in replies) == [200, 201]


def test_a_stranger_without_the_lease_takes_no_turn(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    data = os.urandom(3 * 2**20)
    other = receiver.enrolled("stranger")
    with begun(receiver, lease, data, 2**20) as link:
        headers = {**other, "X-Lease-Id": lease["lease_id"]}
        assert receiver.call("PUT", f"/v1/model/{'d' * 64}", b"x", headers).json["code"] == "stale_lease"
        link.sendall(data[2**20 :])
        assert read_answer(link).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("end", ["cancelled", "revoked"])
def test_an_upload_whose_lease_ends_while_it_arrives_is_not_stored(
    receiver: LiveReceiver, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.fleet.api.handlers.uploads.LOOK_AGAIN_S", 0.0)
    data, name = os.urandom(3 * 2**20), f"ends-{end}-{receiver.parser}"
    own = receiver.enrolled(name)
    lease = receiver.call("POST", "/v1/job/claim", receiver.claim_body(name), own).json
    with receiver.connect() as link:
        lines = [f"Content-Length: {len(data)}", *(f"{name}: {value}" for name, value in own.items())]
        link.sendall(head(lease, digest(data), *lines) + data[: 2**20])
        wait_for(lambda: len(leftovers(receiver)) == 1)
        if end == "revoked":
            assert receiver.call("POST", f"/v1/worker/{name}/revoke", operator=True).status == 200
        else:
            body = {"lease_id": lease["lease_id"], "kind": "preempted"}
            assert receiver.call("POST", f"/v1/job/{lease['job_id']}/fail", body, own).status == 200
        link.sendall(data[2**20 : 2 * 2**20])
        assert code(read_answer(link)) == ((401, "revoked") if end == "revoked" else (409, "stale_lease"))
    wait_for(lambda: leftovers(receiver) == [])
    assert not (receiver.folder / f"store/gbt_oracle/{digest(data)}").exists()


def test_wrong_bytes_are_422_and_nothing_is_kept(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    reply = receiver.call("PUT", f"/v1/model/{'d' * 64}", b"other", {"X-Lease-Id": lease["lease_id"]})
    assert (reply.status, reply.json["code"]) == (422, "digest_mismatch")
    assert not (receiver.folder / f"store/gbt_oracle/{'d' * 64}").exists()
    assert leftovers(receiver) == []
    result = {"lease_id": lease["lease_id"], "artifact": "d" * 64}
    assert receiver.call("POST", f"/v1/job/{lease['job_id']}/complete", result).status == 412


def test_an_upload_without_length_is_411(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    with receiver.connect() as link:
        link.sendall(head(lease, "d" * 64, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n")
        assert code(read_answer(link)) == (411, "length_required")


def test_a_too_large_upload_is_413_before_its_body(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    with receiver.connect() as link:
        link.sendall(head(lease, "d" * 64, f"Content-Length: {LIMIT + 1}"))
        assert code(read_answer(link)) == (413, "too_large")


def test_a_client_that_sends_on_still_reads_the_413(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    reply = receiver.upload(lease, bytes(LIMIT + 2**20))
    assert (reply.status, reply.json["code"]) == (413, "too_large")


@pytest.mark.parametrize("length", ["1e3", "-5", "0x10", "9" * 30])
def test_a_length_that_is_no_number_is_400(receiver: LiveReceiver, lease: dict[str, Any], length: str) -> None:
    with receiver.connect() as link:
        link.sendall(head(lease, "d" * 64, f"Content-Length: {length}"))
        assert read_answer(link).startswith(b"HTTP/1.1 400 ")


def test_a_missing_lease_is_400_and_a_stale_one_409(receiver: LiveReceiver) -> None:
    missing = receiver.call("PUT", f"/v1/model/{'d' * 64}", b"x")
    assert (missing.status, missing.json["code"]) == (400, "bad_request")
    stale = receiver.call("PUT", f"/v1/model/{'d' * 64}", b"x", {"X-Lease-Id": "never-given-01"})
    assert (stale.status, stale.json["code"]) == (409, "stale_lease")


def test_an_encoded_upload_is_400(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    headers = {"X-Lease-Id": lease["lease_id"], "Content-Encoding": "gzip"}
    assert receiver.call("PUT", f"/v1/model/{'d' * 64}", b"x", headers).status == 400


@pytest.mark.parametrize("name", ["d" * 63, "D" * 64, "d" * 64 + "%0a", "..%2f" + "d" * 61])
def test_an_odd_name_is_404(receiver: LiveReceiver, lease: dict[str, Any], name: str) -> None:
    assert receiver.call("PUT", f"/v1/model/{name}", b"x", {"X-Lease-Id": lease["lease_id"]}).status == 404


@pytest.mark.parametrize("sent", [0, 100, 2 * 2**20])
def test_an_aborted_upload_leaves_nothing_and_can_be_repeated(
    receiver: LiveReceiver, lease: dict[str, Any], sent: int
) -> None:
    data = os.urandom(3 * 2**20)
    with receiver.connect() as link:
        link.sendall(head(lease, digest(data), f"Content-Length: {len(data)}") + data[:sent])
        wait_for(lambda: len(leftovers(receiver)) == 1)
    wait_for(lambda: leftovers(receiver) == [])
    assert receiver.upload(lease, data).status == 201


def test_an_aborted_twin_does_not_take_the_good_file_along(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    data = os.urandom(2 * 2**20)
    with receiver.connect() as link:
        link.sendall(head(lease, digest(data), f"Content-Length: {len(data)}") + data[:-10])
        wait_for(lambda: len(leftovers(receiver)) == 1)
        assert receiver.upload(lease, data).status == 201
    wait_for(lambda: leftovers(receiver) == [])
    assert receiver.upload(lease, data).status == 200


def test_an_upload_that_stops_is_400_in_the_end(
    receiver: LiveReceiver, lease: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "BODY_WAIT_S", 0.2)
    with receiver.connect() as link:
        link.sendall(head(lease, "d" * 64, "Content-Length: 1000") + b"x" * 10)
        assert code(read_answer(link)) == (400, "short_body")
    assert leftovers(receiver) == []


def test_a_full_disk_is_507_with_retry_after(
    receiver: LiveReceiver, lease: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageFullError("no room; make some", retry_after_s=60)

    monkeypatch.setattr(Store, "begin", full)
    reply = receiver.upload(lease, b"x" * 100_000)
    assert (reply.status, reply.json["code"], reply.headers["retry-after"]) == (507, "storage_full", "60")


def test_a_draining_receiver_takes_no_upload(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    receiver.fleet.draining = True
    try:
        assert receiver.upload(lease, b"late").status == 503
    finally:
        receiver.fleet.draining = False


def test_the_index_keeps_the_order_of_the_database_when_uploads_end_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LiveReceiver(tmp_path, manifest(2)) as live:
        leases = [live.claim(), live.claim()]
        index = live.fleet.intake._index
        pay, first, second = index.pay, threading.Event(), threading.Event()

        def late_at_first() -> None:
            if first.is_set():
                pay()
                second.set()
            else:
                first.set()
                assert second.wait(10)
                pay()

        monkeypatch.setattr(index, "pay", late_at_first)
        early = threading.Thread(target=live.upload, args=(leases[0], b"first"))
        early.start()
        assert first.wait(10)
        assert live.upload(leases[1], b"second").status == 201
        early.join()
    names = [json.loads(line)["sha256"] for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert names == [hashlib.sha256(data).hexdigest() for data in (b"first", b"second")]
