"""Backups and checks of a receiver that runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from live_receiver import LiveReceiver, manifest

from training.fleet.blobs import Blobs, open_blobs
from training.fleet.maintenance import backup as backup_module
from training.fleet.maintenance.artifacts import Places
from training.fleet.maintenance.report import ignore
from training.fleet.maintenance.restore import RestoreTarget, restore
from training.fleet.wire.people import Chore, Finding


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path, manifest(4)) as live:
        finish(live, b"a bundle")
        yield live


def finish(live: LiveReceiver, data: bytes) -> str:
    lease = live.claim()
    assert live.upload(lease, data).status == 201
    sha256 = hashlib.sha256(data).hexdigest()
    body = {"lease_id": lease["lease_id"], "artifact": sha256, "metrics": {}}
    assert live.call("POST", f"/v1/job/{lease['job_id']}/complete", body).status == 200
    return sha256


def ended(live: LiveReceiver) -> dict[str, Any]:
    until = time.monotonic() + 30
    while True:
        chore: dict[str, Any] = live.call("GET", "/v1/chore", operator=True).json
        if chore["state"] != "running":
            return chore
        assert time.monotonic() < until
        time.sleep(0.02)


def test_before_the_first_chore_there_is_none(receiver: LiveReceiver) -> None:
    chore = receiver.call("GET", "/v1/chore", operator=True).json
    assert (chore["kind"], chore["state"]) == ("", "idle")


def test_a_backup_is_made_below_the_receivers_own_folder(receiver: LiveReceiver, tmp_path: Path) -> None:
    begun = receiver.call("POST", "/v1/backup", {"label": "nightly", "artifacts": True}, operator=True)
    assert (begun.status, begun.json["kind"]) == (200, "backup")
    done = ended(receiver)
    assert (done["state"], done["error"], done["findings"], done["notes"]) == ("done", "", [], [])
    path = Path(done["path"])
    assert (path.parent, path.name) == (tmp_path / "backups", done["name"])
    assert path.name.endswith("Z-nightly")
    named = json.loads((path / "backup.json").read_text())["files"]
    assert {"queue.db", "index.jsonl", "manifest.applied.toml"} < set(named)
    assert (path / "manifest.applied.toml").read_text() == manifest(4)
    new = tmp_path / "new"
    place = RestoreTarget(new / "queue.db", Places(open_blobs(new / "s", new / "i"), new / "x.jsonl"))
    assert restore(path, place, replace=False, progress=ignore)[0] == "artifacts: 1 brought back, 0 were there"


def test_a_backup_without_a_body_is_one_without_artifacts(receiver: LiveReceiver) -> None:
    assert receiver.call("POST", "/v1/backup", operator=True).status == 200
    path = Path(ended(receiver)["path"])
    assert json.loads((path / "backup.json").read_text())["artifacts"] is False
    assert re.fullmatch(r"\d{8}T\d{6}Z", path.name)


def test_a_label_that_could_be_a_path_is_refused(receiver: LiveReceiver, tmp_path: Path) -> None:
    for label in ("../up", "UP", "", "a b", "a\n", "x" * 41):
        reply = receiver.call("POST", "/v1/backup", {"label": label}, operator=True)
        assert (reply.status, reply.json["code"]) == (422, "invalid_message"), label
    assert not (tmp_path / "backups").exists()


def test_a_check_of_a_running_receiver_is_clean(receiver: LiveReceiver, tmp_path: Path) -> None:
    assert receiver.call("POST", "/v1/fsck", operator=True).status == 200
    done = ended(receiver)
    assert (done["state"], done["findings"], done["notes"]) == ("done", [], [])
    assert {name: done["checked"][name] for name in ("jobs", "artifacts", "bytes")} == {
        "jobs": 4,
        "artifacts": 1,
        "bytes": 8,
    }
    assert not (tmp_path / "queue.db.fsck").exists()
    assert receiver.call("GET", "/v1/health").json["problems"] == []


def test_what_a_backup_could_not_copy_is_no_finding_of_a_check(receiver: LiveReceiver) -> None:
    keeper = receiver.fleet.keeper
    keeper._chore = Chore("backup", "done", findings=[Finding("a bundle", "other bytes", "those of its name", "")])
    assert keeper.problems() == []
    keeper._chore = replace(keeper._chore, kind="fsck")
    assert len(keeper.problems()) == 1


def test_a_receiver_that_is_stopping_begins_no_chore(receiver: LiveReceiver) -> None:
    receiver.fleet.keeper.close()
    for path in ("/v1/backup", "/v1/fsck"):
        refused = receiver.call("POST", path, operator=True)
        assert (refused.status, refused.json["code"]) == (503, "unavailable")
    assert receiver.fleet.keeper.chore().state == "idle"


def test_a_chore_without_a_finding_is_no_error_in_the_log(
    receiver: LiveReceiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "training.fleet.api.keeping")
    receiver.call("POST", "/v1/fsck", operator=True)
    ended(receiver)
    (tmp_path / "index.jsonl").write_text("torn")
    receiver.call("POST", "/v1/fsck", operator=True)
    ended(receiver)
    receiver.fleet.keeper.close()
    assert [record.levelname for record in caplog.records if record.message == "fsck ended"] == ["INFO", "ERROR"]


def test_only_old_files_without_a_row_are_told_because_uploads_go_on(receiver: LiveReceiver, tmp_path: Path) -> None:
    for number, age_s in enumerate((0, 3600)):
        data = b"orphan %d" % number
        orphan = tmp_path / "store" / "gbt_oracle" / hashlib.sha256(data).hexdigest() / "bundle.tar.zst"
        orphan.parent.mkdir()
        orphan.write_bytes(data)
        os.utime(orphan, (time.time() - age_s,) * 2)
    receiver.call("POST", "/v1/fsck", operator=True)
    done = ended(receiver)
    assert (done["findings"], [note["place"] for note in done["notes"]]) == ([], [str(orphan)])


def test_a_check_finds_a_damaged_artifact_and_a_wrong_index(receiver: LiveReceiver, tmp_path: Path) -> None:
    (bundle,) = (tmp_path / "store").rglob("bundle.tar.zst")
    bundle.write_bytes(b"a bungle")
    (tmp_path / "index.jsonl").write_text("torn")
    receiver.call("POST", "/v1/fsck", {"hashes": True}, operator=True)
    places = [finding["place"] for finding in ended(receiver)["findings"]]
    assert [place[:12] for place in places] == [
        "artifact " + hashlib.sha256(b"a bundle").hexdigest()[:3],
        places[1][:12],
    ]
    assert places[1] == f"{tmp_path / 'index.jsonl'}, line 1"
    assert bundle.read_bytes() == b"a bungle"
    (problem,) = receiver.call("GET", "/v1/health").json["problems"]
    assert problem.endswith(" found 2 faults; `cis490-jobs fsck` lists them")


def test_pages_that_were_damaged_at_the_start_stand_in_the_health(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(40)):
        pass
    path = tmp_path / "queue.db"
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)
    with LiveReceiver(tmp_path, manifest(40)) as live:
        health = live.call("GET", "/v1/health").json
        page = len(data) // 4096
        assert health["status"] == "degraded"
        assert health["problems"] == [
            f"pages of the database are not what they were ({page}); stop the receiver and run fsck"
        ]


def test_one_chore_runs_at_a_time_and_the_receiver_answers_on(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, waits = threading.Event(), threading.Event()
    shared = backup_module._shared

    def hold(*arguments: Any) -> Any:
        waits.set()
        assert gate.wait(20)
        return shared(*arguments)

    monkeypatch.setattr(backup_module, "_shared", hold)
    receiver.call("POST", "/v1/backup", {"artifacts": True}, operator=True)
    assert waits.wait(20)
    for path in ("/v1/backup", "/v1/fsck"):
        refused = receiver.call("POST", path, operator=True)
        assert (refused.status, refused.json["code"]) == (409, "wrong_state")
    finish(receiver, b"another bundle")
    gate.set()
    assert ended(receiver)["state"] == "done"


def test_a_backup_that_fails_says_why_and_the_next_one_works(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(backup_module, "_shared", refuse)
        receiver.call("POST", "/v1/backup", {"artifacts": True}, operator=True)
        failed = ended(receiver)
    assert failed["state"] == "failed"
    assert failed["error"].startswith("no room for a backup below ")
    receiver.call("POST", "/v1/backup", {"label": "again"}, operator=True)
    assert ended(receiver)["state"] == "done"


def test_a_check_that_the_disk_refuses_says_what_and_the_next_one_works(
    receiver: LiveReceiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "queue.db.fsck"
    in_the_way.mkdir()
    assert receiver.call("POST", "/v1/fsck", {}, operator=True).status == 200
    failed = ended(receiver)
    assert failed["state"] == "failed"
    assert f"'{in_the_way}'" in failed["error"]
    assert "Traceback" not in caplog.text
    in_the_way.rmdir()
    assert receiver.call("POST", "/v1/fsck", {}, operator=True).status == 200
    assert ended(receiver)["state"] == "done"


def test_a_fault_of_the_program_ends_the_chore_and_not_the_receiver(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_module, "_shared", lambda *_: 1 // 0)
    receiver.call("POST", "/v1/backup", {"artifacts": True}, operator=True)
    failed = ended(receiver)
    assert (failed["state"], "its log says why" in failed["error"]) == ("failed", True)
    assert receiver.call("GET", "/healthz").status == 200


def test_a_receiver_that_ends_stops_its_chore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()
    shared = backup_module._shared

    def slow(blobs: Blobs, key: str, target: Path, count: Any) -> Any:
        begun.set()
        while True:  # ends by the error that the count raises once the receiver ends
            count(1)
            time.sleep(0.01)
        return shared(blobs, key, target, count)

    monkeypatch.setattr(backup_module, "_shared", slow)
    with LiveReceiver(tmp_path, manifest(1)) as live:
        finish(live, b"a bundle")
        live.call("POST", "/v1/backup", {"artifacts": True}, operator=True)
        assert begun.wait(20)
    assert live.fleet.keeper.chore().error == "the receiver is stopping; ask again after its start"
    assert list((tmp_path / "backups").iterdir()) == []
