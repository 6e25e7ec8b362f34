"""Which of a trainer's files a worker brings beside the bundle, to a real receiver and to odd ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_receiver import LiveReceiver, manifest
from stub_receiver import StubReceiver, problem

from training.fleet.client import Client
from training.fleet.model.errors import UnreachableError
from training.fleet.model.parts import MAX_PARTS, MAX_PARTS_BYTES, chosen_parts
from training.fleet.worker.parts import bring_parts

BUNDLE = b"a bundle"
SHA = hashlib.sha256(BUNDLE).hexdigest()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    folder = tmp_path / "receiver"
    folder.mkdir()
    with LiveReceiver(folder, manifest(2)) as live:
        yield live


@pytest.fixture
def lease(receiver: LiveReceiver) -> dict[str, Any]:
    found = receiver.claim()
    assert receiver.upload(found, BUNDLE).status == 201
    return found


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    made = tmp_path / "artifact"
    made.mkdir()
    return made


@pytest.fixture
def client(receiver: LiveReceiver) -> Iterator[Client]:
    made = Client(f"http://127.0.0.1:{receiver.port}", sleep=lambda _: None)
    yield made
    made.close()


def brought(receiver: LiveReceiver, lease: dict[str, Any]) -> list[str]:
    message = {"lease_id": lease["lease_id"], "artifact": SHA, "metrics": {}}
    assert receiver.call("POST", f"/v1/job/{lease['job_id']}/complete", message).status == 200
    return [part["name"] for part in receiver.call("GET", f"/v1/job/{lease['job_id']}").json["parts"]]


def test_what_people_look_at_is_brought_and_nothing_else(
    receiver: LiveReceiver, lease: dict[str, Any], client: Client, artifact: Path, tmp_path: Path
) -> None:
    for name in ("report.md", "a.png", "b.svg", "metrics.json"):
        (artifact / name).write_bytes(name.encode())
    for name in ("model.json", "model.txt", "notes.html", "UPPER.PNG", ".hidden.md", "with space.md"):
        (artifact / name).write_bytes(b"not a part")
    (artifact / "figures").mkdir()
    (artifact / "figures" / "deep.svg").write_bytes(b"below")
    (artifact / "folder.md").mkdir()
    (tmp_path / "secret").write_text("of somebody else")
    (artifact / "link.md").symlink_to(tmp_path / "secret")
    os.mkfifo(artifact / "pipe.md")
    notes: list[str] = []
    bring_parts(client, lease["lease_id"], SHA, artifact, notes.append)
    assert notes == []
    assert brought(receiver, lease) == ["a.png", "b.svg", "metrics.json", "report.md"]
    assert receiver.call("GET", f"/v1/model/{SHA}/file/report.md").body == b"report.md"


def test_what_does_not_fit_is_left_out_with_a_note(
    receiver: LiveReceiver, lease: dict[str, Any], client: Client, artifact: Path
) -> None:
    (artifact / "huge.png").write_bytes(bytes(MAX_PARTS_BYTES))
    (artifact / "card.md").write_bytes(b"# A card")
    notes: list[str] = []
    bring_parts(client, lease["lease_id"], SHA, artifact, notes.append)
    assert [note.partition(";")[0] for note in notes] == ["left out beside the bundle, which has them: huge.png"]
    assert brought(receiver, lease) == ["card.md"]


def test_bringing_them_twice_changes_nothing(
    receiver: LiveReceiver, lease: dict[str, Any], client: Client, artifact: Path
) -> None:
    (artifact / "card.md").write_bytes(b"# A card")
    for _ in range(2):
        bring_parts(client, lease["lease_id"], SHA, artifact, pytest.fail)
    assert brought(receiver, lease) == ["card.md"]


def test_a_folder_that_is_gone_brings_nothing_and_costs_nothing(
    lease: dict[str, Any], client: Client, artifact: Path
) -> None:
    bring_parts(client, lease["lease_id"], SHA, artifact / "gone", pytest.fail)


@pytest.mark.parametrize(
    ("status", "code", "asked"),
    [
        (409, "stale_lease", 1),
        (401, "revoked", 1),
        (404, "not_found", 1),
        (413, "too_large", 2),
        (507, "storage_full", 2),
    ],
)
def test_a_refusal_ends_nothing_but_the_parts(artifact: Path, status: int, code: str, asked: int) -> None:
    stub = StubReceiver()
    try:
        stub.script["part"] = [problem(status, code)] * 5
        (artifact / "a.md").write_bytes(b"a")
        (artifact / "b.md").write_bytes(b"b")
        client = Client(f"http://127.0.0.1:{stub.port}", sleep=lambda _: None)
        bring_parts(client, "lease-0001", SHA, artifact, lambda _: None)
        assert len(stub.calls("part")) == asked
        client.close()
    finally:
        stub.stop()


def test_a_receiver_that_is_away_is_waited_for_by_the_caller(artifact: Path) -> None:
    (artifact / "card.md").write_bytes(b"# A card")
    client = Client("http://127.0.0.1:1", sleep=lambda _: None)
    client.hang_up()
    with pytest.raises(UnreachableError):
        bring_parts(client, "lease-0001", SHA, artifact, pytest.fail)


def test_the_card_comes_before_the_figures_when_the_room_is_short() -> None:
    half = MAX_PARTS_BYTES // 2
    sizes = [("a.png", half), ("z.md", half), ("metrics.json", half), ("b.svg", 1)]
    assert chosen_parts(sizes) == (["metrics.json", "z.md"], ["a.png", "b.svg"])
    many = [(f"{number:02d}.svg", 0) for number in range(MAX_PARTS + 1)]
    assert chosen_parts(many) == ([name for name, _ in many[:-1]], ["32.svg"])
    assert chosen_parts([]) == ([], [])
