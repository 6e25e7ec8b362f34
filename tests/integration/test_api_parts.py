"""Small files beside an artifact, from the worker that brings them to the browser that shows them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_receiver import LiveReceiver, Reply, manifest

from training.fleet.maintenance.artifacts import CheckOptions, Places
from training.fleet.maintenance.fsck import fsck
from training.fleet.model.parts import MAX_PARTS, MAX_PARTS_BYTES

CARD = b"# A model card\n\nIt was \xe2\x80\x9cgood\xe2\x80\x9d.\n"
HOSTILE = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path, manifest(4)) as live:
        yield live


@pytest.fixture
def lease(receiver: LiveReceiver) -> dict[str, Any]:
    """A lease whose bundle is stored."""
    return stored(receiver, b"a bundle")


def stored(receiver: LiveReceiver, data: bytes) -> dict[str, Any]:
    lease = receiver.claim()
    assert receiver.upload(lease, data).status in (200, 201)
    return {**lease, "artifact": hashlib.sha256(data).hexdigest()}


def digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def brought(receiver: LiveReceiver, lease: dict[str, Any], name: str, data: bytes, **headers: str) -> Reply:
    sent = {"X-Lease-Id": lease["lease_id"], "Repr-Digest": digest(data), **headers}
    return receiver.call("PUT", f"/v1/model/{lease['artifact']}/file/{name}", data, sent)


def shown(receiver: LiveReceiver, lease: dict[str, Any], name: str, method: str = "GET", **headers: str) -> Reply:
    return receiver.call(method, f"/v1/model/{lease['artifact']}/file/{name}", headers=headers)


def complete(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    message = {"lease_id": lease["lease_id"], "artifact": lease["artifact"], "metrics": {}}
    assert receiver.call("POST", f"/v1/job/{lease['job_id']}/complete", message).status == 200


def parts(receiver: LiveReceiver, lease: dict[str, Any]) -> Any:
    return receiver.call("GET", f"/v1/job/{lease['job_id']}").json["parts"]


def files(receiver: LiveReceiver) -> list[str]:
    return sorted(path.name for path in receiver.folder.glob("store/*/*/*"))


def code(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.json["code"]


def test_a_card_that_was_brought_is_listed_with_its_job_and_shown(
    receiver: LiveReceiver, lease: dict[str, Any]
) -> None:
    reply = brought(receiver, lease, "model_card.md", CARD)
    sha256 = hashlib.sha256(CARD).hexdigest()
    assert (reply.status, reply.json) == (201, {"sha256": sha256, "size_bytes": len(CARD), "new": True})
    complete(receiver, lease)
    assert parts(receiver, lease) == [
        {
            "name": "model_card.md",
            "size_bytes": len(CARD),
            "sha256": sha256,
            "type": "text/markdown; charset=utf-8",
        }
    ]
    found = shown(receiver, lease, "model_card.md")
    assert (found.status, found.body, found.headers["etag"]) == (200, CARD, f'"{sha256}"')
    assert found.headers["repr-digest"] == digest(CARD)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("learning.svg", "image/svg+xml"),
        ("roc-1.png", "image/png"),
        ("metrics.json", "application/json"),
        ("card.md", "text/markdown; charset=utf-8"),
    ],
)
def test_what_a_host_made_runs_nothing_in_a_browser(
    receiver: LiveReceiver, lease: dict[str, Any], name: str, kind: str
) -> None:
    assert brought(receiver, lease, name, HOSTILE).status == 201
    found = shown(receiver, lease, name)
    assert (found.body, found.headers["content-type"]) == (HOSTILE, kind)
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert found.headers["content-disposition"] == f'inline; filename="{name}"'
    assert shown(receiver, lease, name, Range="bytes=1-3").body == b"svg"
    assert shown(receiver, lease, name, **{"If-None-Match": found.headers["etag"]}).status == 304
    assert shown(receiver, lease, name, "HEAD").headers["content-length"] == str(len(HOSTILE))


def test_a_part_that_is_there_already_is_not_read_again(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    brought(receiver, lease, "card.md", CARD)
    reply = brought(receiver, lease, "card.md", CARD)
    assert (reply.status, reply.json["new"]) == (200, False)
    complete(receiver, lease)
    assert brought(receiver, lease, "card.md", CARD).status == 200


def test_another_part_of_the_same_name_is_refused_and_the_first_stays(
    receiver: LiveReceiver, lease: dict[str, Any]
) -> None:
    brought(receiver, lease, "card.md", CARD)
    assert code(brought(receiver, lease, "card.md", b"another card")) == (409, "wrong_state")
    assert shown(receiver, lease, "card.md").body == CARD


@pytest.mark.parametrize(
    "name",
    [
        "card.txt",
        "CARD.MD",
        ".card.md",
        "-card.md",
        "a b.md",
        "bundle.tar.zst",
        "card.md%2f..",
        "con.md",
        "x" * 80 + ".md",
    ],
)
def test_a_name_that_no_part_may_have_is_refused(receiver: LiveReceiver, lease: dict[str, Any], name: str) -> None:
    assert brought(receiver, lease, name.replace(" ", "%20"), CARD).status in (404, 422)
    assert files(receiver) == ["bundle.tar.zst"]


def test_damage_on_the_way_is_noticed_and_nothing_is_kept(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    other = {"Repr-Digest": digest(b"what was sent")}
    assert code(brought(receiver, lease, "card.md", CARD, **other)) == (422, "digest_mismatch")
    for bad in ("", "md5=:AAAA:", "sha-256=:AAAA:", "sha-256=:====:"):
        assert code(brought(receiver, lease, "card.md", CARD, **{"Repr-Digest": bad})) == (400, "bad_request")
    assert (files(receiver), list(receiver.folder.glob("incoming/*"))) == (["bundle.tar.zst"], [])


def test_all_parts_of_an_artifact_stay_within_the_limits(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    half = bytes(MAX_PARTS_BYTES // 2)
    assert [brought(receiver, lease, f"{n}.png", half).status for n in range(2)] == [201, 201]
    refused = brought(receiver, lease, "one-more.png", b"x")
    assert code(refused) == (413, "too_large")
    assert "leave it out" in refused.json["remedy"]
    assert shown(receiver, lease, "one-more.png").status == 404
    other = stored(receiver, b"another bundle")
    assert code(brought(receiver, other, "large.png", bytes(MAX_PARTS_BYTES + 1))) == (413, "too_large")
    assert [brought(receiver, other, f"{n}.svg", b"x").status for n in range(MAX_PARTS)] == [201] * MAX_PARTS
    assert code(brought(receiver, other, "one-more.svg", b"x")) == (413, "too_large")


def test_a_part_needs_its_bundle_a_length_and_a_lease_that_may_bring_it(
    receiver: LiveReceiver, lease: dict[str, Any]
) -> None:
    fresh = {**receiver.claim(), "artifact": "1" * 64}
    assert code(brought(receiver, fresh, "card.md", CARD)) == (412, "artifact_missing")
    assert code(brought(receiver, {**lease, "lease_id": "no-such-lease"}, "card.md", CARD)) == (409, "stale_lease")
    complete(receiver, lease)
    other = {**stored(receiver, b"third bundle"), "lease_id": lease["lease_id"]}
    assert code(brought(receiver, other, "card.md", CARD)) == (409, "other_result")
    head = f"PUT /v1/model/{lease['artifact']}/file/card.md HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    chunked = (
        f"{head}X-Lease-Id: {lease['lease_id']}\r\nRepr-Digest: {digest(CARD)}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert b"411" in receiver.raw(chunked.encode() + b"0\r\n\r\n").partition(b"\r\n")[0]


def test_a_part_that_is_gone_is_lost_and_can_be_brought_again(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    brought(receiver, lease, "card.md", CARD)
    (path,) = receiver.folder.glob("store/*/*/card.md")
    path.unlink()
    assert code(shown(receiver, lease, "card.md")) == (404, "artifact_lost")
    assert brought(receiver, lease, "card.md", CARD).status == 201
    assert shown(receiver, lease, "card.md").body == CARD


def test_what_a_crash_left_without_a_row_gives_way_to_the_part(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    (folder,) = receiver.folder.glob("store/*/*")
    (folder / "card.md").write_bytes(b"half a ca")
    assert shown(receiver, lease, "card.md").status == 404
    assert brought(receiver, lease, "card.md", CARD).status == 201
    assert shown(receiver, lease, "card.md").body == CARD


def test_a_job_without_parts_lists_none(receiver: LiveReceiver, lease: dict[str, Any]) -> None:
    assert parts(receiver, lease) == []
    complete(receiver, lease)
    assert parts(receiver, lease) == []


def test_a_running_and_a_stopped_receiver_are_clean_with_parts(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(1)) as live:
        lease = stored(live, b"a bundle")
        brought(live, lease, "card.md", CARD)
        complete(live, lease)
        assert live.call("POST", "/v1/fsck", {}, operator=True).status == 200
        while (chore := live.call("GET", "/v1/chore", operator=True).json)["state"] == "running":
            pass
        assert (chore["state"], chore["findings"], chore["notes"]) == ("done", [], [])
        places = Places(live.fleet.store.blobs, tmp_path / "index.jsonl")
    report = fsck(tmp_path / "queue.db", places, CheckOptions())
    assert (report.findings, report.notes) == ([], [])
    assert json.loads((tmp_path / "index.jsonl").read_text())["sha256"] == lease["artifact"]
