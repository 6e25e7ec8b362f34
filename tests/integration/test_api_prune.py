"""Old results lose their files and keep their figures: what goes, what stays, and what everybody is told."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_receiver import TOKEN, LiveReceiver, Reply, manifest

from training.fleet.api.keeping import Keeper
from training.fleet.cli import program
from training.fleet.maintenance import prune as prune_module
from training.fleet.receiver.retention import retain

NAMED = '[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nseed = 99\nname = "thesis"\n'


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path, manifest(6)) as live:
        yield live


def finish(live: LiveReceiver, data: bytes, auroc: float = 0.5, part: bytes = b"") -> tuple[str, str]:
    """Complete the next job with a bundle; return job and artifact."""
    lease = live.claim()
    assert live.upload(lease, data).status == 201
    sha256 = hashlib.sha256(data).hexdigest()
    if part:
        digest = base64.b64encode(hashlib.sha256(part).digest()).decode()
        head = {"X-Lease-Id": lease["lease_id"], "Repr-Digest": f"sha-256=:{digest}:"}
        assert live.call("PUT", f"/v1/model/{sha256}/file/model_card.md", part, head).status == 201
    body = {"lease_id": lease["lease_id"], "artifact": sha256, "metrics": {"auprc_host_mean": auroc}}
    assert live.call("POST", f"/v1/job/{lease['job_id']}/complete", body).status == 200
    return lease["job_id"], sha256


def plan(live: LiveReceiver, **order: Any) -> Any:
    reply = live.call("POST", "/v1/prune/plan", order, operator=True)
    assert reply.status == 200, reply.body
    return reply.json


def prune(live: LiveReceiver, **order: Any) -> Any:
    digest = plan(live, **order)["digest"]
    reply = live.call("POST", "/v1/prune", {**order, "if_digest": digest}, operator=True)
    assert reply.status == 200, reply.body
    return ended(live)


def ended(live: LiveReceiver) -> Any:
    until = time.monotonic() + 30
    while (chore := live.call("GET", "/v1/chore", operator=True).json)["state"] == "running":
        assert time.monotonic() < until
        time.sleep(0.02)
    return chore


def check(live: LiveReceiver) -> Any:
    assert live.call("POST", "/v1/fsck", {}, operator=True).status == 200
    return ended(live)


def files(live: LiveReceiver) -> list[str]:
    return sorted(path.name for path in (live.folder / "store").rglob("*") if path.is_file())


def index(live: LiveReceiver) -> list[Any]:
    return [json.loads(line) for line in (live.folder / "index.jsonl").read_text().splitlines()]


def test_a_pruned_result_keeps_its_figures_and_digests_and_loses_its_files(receiver: LiveReceiver) -> None:
    job, sha256 = finish(receiver, b"a bundle", part=b"# a card")
    shown = plan(receiver, older_than_s=3600)
    assert (shown["artifacts"], shown["size_bytes"], shown["kept_best"], shown["listed"]) == (0, 0, 0, [])
    old(receiver)
    shown = plan(receiver, older_than_s=86400)
    assert [(one["artifact"], one["jobs"], one["size_bytes"]) for one in shown["listed"]] == [(sha256, [job], 16)]
    done = prune(receiver, older_than_s=86400)
    assert (done["state"], done["checked"]) == ("done", {"bytes": 16, "pruned": 1})
    assert files(receiver) == []
    found = receiver.call("GET", f"/v1/job/{job}").json
    assert (found["job"]["status"], found["job"]["artifact"]) == ("completed", sha256)
    assert found["job"]["metrics"] == {"auprc_host_mean": 0.5}
    assert [part["sha256"] for part in found["parts"]] == [hashlib.sha256(b"# a card").hexdigest()]
    assert found["artifact_gone"].startswith("pruned on ")
    assert [(one["action"], one["actor"]) for one in found["events"]][-1] == ("prune", "operator:operator")


def age_all(tx: Any) -> None:
    """Make every result ten days old, behind the receiver's back."""
    connection = tx._connection
    connection.execute("UPDATE artifact SET stored_at = '2020-01-01T00:00:00.000Z'")
    connection.execute("UPDATE attempt SET ended_at = '2020-01-01T00:00:00.000Z' WHERE ended_at IS NOT NULL")


def old(live: LiveReceiver) -> None:
    live.fleet.keeper.pruner.database.submit(age_all).result()


def test_a_download_of_what_is_pruned_says_so_and_a_check_finds_nothing_wrong(receiver: LiveReceiver) -> None:
    _, sha256 = finish(receiver, b"a bundle", part=b"# a card")
    _, other = finish(receiver, b"another bundle")
    old(receiver)
    receiver.fleet.keeper.pruner.database.submit(lambda tx: renew(tx, other)).result()
    prune(receiver, older_than_s=86400)
    for path in (f"/v1/model/{sha256}", f"/v1/model/{sha256}/file/model_card.md"):
        refused = receiver.call("GET", path)
        assert (refused.status, refused.json["code"]) == (410, "artifact_pruned")
        assert "was pruned on 2" in refused.json["detail"]
    assert receiver.call("GET", f"/v1/model/{other}").body == b"another bundle"
    done = check(receiver)
    assert (done["findings"], done["notes"], done["checked"]["pruned"]) == ([], [], 1)
    assert ["pruned_at" in line for line in index(receiver)] == [True, False]
    assert receiver.call("GET", "/v1/health").json["storage"]["artifacts"] == 1


def renew(tx: Any, sha256: str) -> None:
    tx._connection.execute("UPDATE artifact SET stored_at = '2999-01-01T00:00:00.000Z' WHERE sha256 = ?", (sha256,))


def test_the_best_of_each_kind_and_jobs_with_a_name_are_kept(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(4) + NAMED) as live:
        found = [finish(live, b"bundle %d" % number, auroc=1 - number / 10) for number in range(5)]
        names = {live.call("GET", f"/v1/job/{job}").json["job"]["name"]: sha256 for job, sha256 in found}
        old(live)
        shown = plan(live, older_than_s=86400, keep_best=2)
        best = {sha256 for _, sha256 in found[:2]} | {names["thesis"]}
        assert shown["kept_best"] == 2
        assert {one["artifact"] for one in shown["listed"]} == {sha256 for _, sha256 in found} - best
        assert plan(live, unnamed=True)["artifacts"] == 0


def test_only_jobs_that_the_manifest_no_longer_names_go_with_unnamed(receiver: LiveReceiver) -> None:
    found = [finish(receiver, b"bundle %d" % number) for number in range(2)]
    receiver.manifest.write_text(manifest(1))
    assert receiver.call("POST", "/v1/manifest/reload", {"allow_shrink": True}, operator=True).status == 200
    named = [receiver.call("GET", f"/v1/job/{job}").json["job"]["named"] for job, _ in found]
    listed = {one["jobs"][0] for one in plan(receiver, unnamed=True)["listed"]}
    assert listed == {job for (job, _), is_named in zip(found, named, strict=True) if not is_named}
    assert len(listed) == 1


@pytest.mark.parametrize("order", [{}, {"keep_best": -1}, {"older_than_s": -5}, {"if_digest": "x"}], ids=str)
def test_an_order_that_says_too_little_or_nonsense_is_refused(receiver: LiveReceiver, order: Any) -> None:
    refused = receiver.call("POST", "/v1/prune/plan", order, operator=True)
    assert (refused.status, refused.json["code"]) == (422, "invalid_message")


def test_nothing_is_pruned_without_the_digest_of_what_was_shown(receiver: LiveReceiver) -> None:
    finish(receiver, b"a bundle")
    old(receiver)
    refused = receiver.call("POST", "/v1/prune", {"older_than_s": 86400}, operator=True)
    assert (refused.status, "if_digest" in refused.json["detail"]) == (422, True)
    digest = plan(receiver, older_than_s=86400)["digest"]
    finish(receiver, b"another bundle")
    old(receiver)
    receiver.call("POST", "/v1/prune", {"older_than_s": 86400, "if_digest": digest}, operator=True)
    done = ended(receiver)
    assert (done["state"], "the choice is another one now" in done["error"]) == ("failed", True)
    assert len(files(receiver)) == 2
    assert receiver.call("POST", "/v1/prune/plan", {"older_than_s": 1}).status == 401


def test_the_same_bytes_that_come_again_are_taken_and_count_once(receiver: LiveReceiver) -> None:
    _, sha256 = finish(receiver, b"a bundle")
    old(receiver)
    prune(receiver, older_than_s=86400)
    finish(receiver, b"a bundle")
    assert receiver.call("GET", f"/v1/model/{sha256}").body == b"a bundle"
    done = check(receiver)
    assert (done["findings"], done["notes"]) == ([], [])
    assert [line.get("pruned_at") for line in index(receiver)] == [None]
    storage = receiver.call("GET", "/v1/health").json["storage"]
    assert (storage["artifacts"], storage["bytes"]) == (1, 8)


def test_a_result_of_a_job_that_came_since_it_was_chosen_stays(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(receiver, b"a bundle")
    old(receiver)
    batch = prune_module.Pruner._batch

    def late(self: Any, *arguments: Any) -> None:
        lease = receiver.claim()
        assert receiver.upload(lease, b"a bundle").status == 200
        body = {"lease_id": lease["lease_id"], "artifact": hashlib.sha256(b"a bundle").hexdigest(), "metrics": {}}
        assert receiver.call("POST", f"/v1/job/{lease['job_id']}/complete", body).status == 200
        batch(self, *arguments)

    monkeypatch.setattr(prune_module.Pruner, "_batch", late)
    assert prune(receiver, older_than_s=86400)["checked"].get("pruned", 0) == 0
    assert files(receiver) == ["bundle.tar.zst"]


def test_a_prune_that_was_cut_off_is_whole_for_a_check_and_finished_by_the_next_start(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(2)) as live:
        _, sha256 = finish(live, b"a bundle", part=b"# a card")
        live.fleet.store.remove = None  # type: ignore[method-assign, assignment]
        old(live)
        assert prune(live, older_than_s=86400)["state"] == "failed"
        assert len(files(live)) == 2
        done = check(live)
        assert (done["findings"], [note["found"] for note in done["notes"]]) == ([], ["a pruned artifact"])
        assert live.call("GET", f"/v1/model/{sha256}").status == 410
    with LiveReceiver(tmp_path, manifest(2)) as live:
        assert files(live) == []
        done = check(live)
        assert (done["findings"], done["notes"]) == ([], [])


def test_a_list_that_could_not_be_written_again_is_written_before_the_next_check(receiver: LiveReceiver) -> None:
    finish(receiver, b"a bundle")
    old(receiver)
    in_the_way = receiver.folder / "index.jsonl.part"
    in_the_way.mkdir()
    assert prune(receiver, older_than_s=86400)["state"] == "done"
    assert "pruned_at" not in index(receiver)[0]
    in_the_way.rmdir()
    assert check(receiver)["findings"] == []
    assert "pruned_at" in index(receiver)[0]


def test_a_list_that_could_not_be_written_again_is_written_with_the_next_upload(receiver: LiveReceiver) -> None:
    finish(receiver, b"a bundle")
    old(receiver)
    in_the_way = receiver.folder / "index.jsonl.part"
    in_the_way.mkdir()
    prune(receiver, older_than_s=86400)
    in_the_way.rmdir()
    finish(receiver, b"another bundle")
    assert ["pruned_at" in line for line in index(receiver)] == [True, False]


def test_a_bundle_that_was_pruned_before_its_job_completed_is_asked_for_again(receiver: LiveReceiver) -> None:
    lease, sha256 = receiver.claim(), hashlib.sha256(b"a bundle").hexdigest()
    assert receiver.upload(lease, b"a bundle").status == 201
    old(receiver)
    assert prune(receiver, older_than_s=86400)["checked"]["pruned"] == 1
    body = {"lease_id": lease["lease_id"], "artifact": sha256, "metrics": {}}
    refused = receiver.call("POST", f"/v1/job/{lease['job_id']}/complete", body)
    assert (refused.status, refused.json["code"]) == (412, "artifact_missing")
    assert receiver.upload(lease, b"a bundle").status == 201
    assert receiver.call("POST", f"/v1/job/{lease['job_id']}/complete", body).status == 200
    assert receiver.call("GET", f"/v1/model/{sha256}").body == b"a bundle"


def test_the_upkeep_removes_by_itself_what_the_settings_say(receiver: LiveReceiver) -> None:
    found = [finish(receiver, b"bundle %d" % number, auroc=number / 10) for number in range(3)]
    old(receiver)

    def kept(days: int, best: int) -> bool:
        return asyncio.run_coroutine_threadsafe(retain(receiver.fleet, days, best), receiver.loop).result(20)

    assert not kept(36500, 0)
    assert kept(1, 1)
    assert ended(receiver)["checked"]["pruned"] == 2
    assert receiver.call("GET", f"/v1/model/{found[2][1]}").status == 200
    events = receiver.call("GET", f"/v1/events?job={found[0][0]}").json["events"]
    assert (events[0]["action"], events[0]["actor"]) == ("prune", "receiver")


# ---- a lost artifact


def lose(live: LiveReceiver, sha256: str) -> None:
    (path,) = (live.folder / "store").rglob(f"{sha256}/bundle.tar.zst")
    path.unlink()


def requeue(live: LiveReceiver, job: str) -> Reply:
    return live.call("POST", f"/v1/job/{job}/requeue", operator=True)


def test_a_completed_job_is_trained_again_only_when_its_artifact_is_lost(receiver: LiveReceiver) -> None:
    job, sha256 = finish(receiver, b"a bundle")
    refused = requeue(receiver, job)
    assert (refused.status, refused.json["code"]) == (409, "wrong_state")
    lose(receiver, sha256)
    (fault,) = check(receiver)["findings"]
    assert "requeue JOB" in fault["remedy"]
    assert requeue(receiver, job).json["status"] == "pending"
    found = receiver.call("GET", f"/v1/job/{job}").json
    assert (found["job"]["artifact"], found["job"]["metrics"]) == (None, {})
    last = found["events"][-1]
    assert (last["action"], last["from_status"], "there is no file" in last["why"]) == ("requeue", "completed", True)
    done = check(receiver)
    assert done["findings"] == []
    assert receiver.call("GET", f"/v1/model/{sha256}").json["code"] == "artifact_lost"


@pytest.mark.parametrize("data", [b"a bundle", b"not the same bundle"], ids=["same", "other"])
def test_a_result_that_comes_again_heals_what_was_lost(receiver: LiveReceiver, data: bytes) -> None:
    job, sha256 = finish(receiver, b"a bundle")
    lose(receiver, sha256)
    requeue(receiver, job)
    again = receiver.claim()
    while again["job_id"] != job:
        again = receiver.claim()
    assert receiver.upload(again, data).status == 201
    new = hashlib.sha256(data).hexdigest()
    body = {"lease_id": again["lease_id"], "artifact": new, "metrics": {}}
    assert receiver.call("POST", f"/v1/job/{job}/complete", body).status == 200
    assert receiver.call("GET", f"/v1/model/{new}").body == data
    done = check(receiver)
    assert (done["findings"], done["notes"]) == ([], [])


def test_a_pruned_result_is_not_lost(receiver: LiveReceiver) -> None:
    job, _ = finish(receiver, b"a bundle")
    old(receiver)
    prune(receiver, older_than_s=86400)
    assert requeue(receiver, job).status == 409


def test_a_cut_off_file_counts_as_lost_and_an_unreadable_folder_does_not(receiver: LiveReceiver) -> None:
    job, sha256 = finish(receiver, b"a bundle")
    (path,) = (receiver.folder / "store").rglob(f"{sha256}/bundle.tar.zst")
    path.write_bytes(b"a bun")
    assert requeue(receiver, job).json["status"] == "pending"
    why = receiver.call("GET", f"/v1/job/{job}").json["events"][-1]["why"]
    assert why.endswith("has 5 bytes, expected 8")


def test_the_old_lease_of_a_lost_result_is_over(receiver: LiveReceiver) -> None:
    lease = receiver.claim()
    receiver.upload(lease, b"a bundle")
    sha256 = hashlib.sha256(b"a bundle").hexdigest()
    body = {"lease_id": lease["lease_id"], "artifact": sha256, "metrics": {}}
    assert receiver.call("POST", f"/v1/job/{lease['job_id']}/complete", body).status == 200
    lose(receiver, sha256)
    requeue(receiver, lease["job_id"])
    late = receiver.call("POST", f"/v1/job/{lease['job_id']}/complete", body)
    assert (late.status, late.json["code"]) == (409, "stale_lease")


def test_the_database_lets_no_result_go_whose_artifact_is_here(receiver: LiveReceiver) -> None:
    finish(receiver, b"a bundle")
    database = receiver.fleet.keeper.pruner.database

    def change(tx: Any) -> None:
        tx._connection.execute(
            "UPDATE job SET status = 'pending', artifact = NULL, fence = fence + 1 WHERE status = 'completed'"
        )

    with pytest.raises(Exception, match="final while its artifact is not lost"):
        database.submit(change).result()


# ---- a full store


def test_a_refused_upload_is_a_problem_until_there_is_room(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(3)) as live:
        blobs, lease = live.fleet.store.blobs, live.claim()
        real = blobs.free_bytes
        floor = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
        blobs._floor_bytes = floor + 2**40  # type: ignore[attr-defined]
        assert live.upload(lease, b"x" * 100).status == 507
        blobs.free_bytes = lambda: 7  # type: ignore[method-assign]
        (problem,) = live.call("GET", "/v1/health").json["problems"]
        assert problem.startswith("uploads are refused since 2")
        assert ("7 bytes are free" in problem, "100 are wanted" in problem) == (True, True)
        assert lease["job_id"][:12] in problem
        ready = live.call("GET", "/readyz", headers={"X-Operator-Token": "an-operator-token-for-tests"})
        assert (ready.status, ready.json["problems"]) == (503, [problem])
        text = live.call("GET", "/metrics").body.decode()
        assert 'cis490_uploads_refused_total{code="storage_full"} 1.0' in text
        assert "cis490_store_floor_bytes 0.0" in text
        blobs.free_bytes = lambda: 100  # type: ignore[method-assign]
        assert live.call("GET", "/v1/health").json["problems"] == []
        blobs.free_bytes = real  # type: ignore[method-assign]


def test_a_refused_upload_is_a_problem_until_one_succeeds(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(3)) as live:
        refusals, lease = live.fleet.refusals, live.claim()
        live.loop.call_soon_threadsafe(refusals.note, lease["lease_id"], lease["job_id"], 8, 2**40)
        assert len(live.call("GET", "/v1/health").json["problems"]) == 1
        assert live.upload(lease, b"a bundle").status == 201
        assert live.call("GET", "/v1/health").json["problems"] == []


def test_a_prune_hides_no_finding_of_the_last_check(receiver: LiveReceiver) -> None:
    _, sha256 = finish(receiver, b"a bundle")
    lose(receiver, sha256)
    check(receiver)
    prune(receiver, older_than_s=1)
    keeper: Keeper = receiver.fleet.keeper
    assert keeper.chore().kind == "prune"
    assert len(keeper.problems()) == 1


def test_the_rows_of_pruned_results_hold_what_the_tables_demand(receiver: LiveReceiver) -> None:
    finish(receiver, b"a bundle")
    at = "'2026-01-01T00:00:00.000Z'"
    for values in (
        "gone = 'pruned'",
        "gone_at = '2026-01-01T00:00:00.000Z'",
        "files_left = 1",
        f"gone = 'lost', gone_at = {at}, files_left = 1",
        f"gone = 'away', gone_at = {at}",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            raise_of(receiver, f"UPDATE artifact SET {values}")


def raise_of(live: LiveReceiver, statement: str) -> None:
    found: list[BaseException] = []

    def change(tx: Any) -> None:
        try:
            tx._connection.execute(statement)
        except sqlite3.Error as error:
            found.append(error)

    live.fleet.keeper.pruner.database.submit(change).result()
    if found:
        raise found[0]


# ---- as it is typed


def typed(live: LiveReceiver, *words: str) -> int:
    return program.main([*words, "--receiver", f"http://127.0.0.1:{live.port}"])


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIS490_OPERATOR_TOKEN", TOKEN)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.usefixtures("operator")
def test_the_command_shows_first_and_then_removes_exactly_that(
    receiver: LiveReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    job, sha256 = finish(receiver, b"a bundle")
    old(receiver)
    assert typed(receiver, "prune", "--older-than", "30d") == 0
    shown = capsys.readouterr()
    assert shown.out.split("\t")[:4] == [sha256, "gbt", "oracle", "8"]
    assert shown.out.rstrip().endswith(job)
    assert "1 result of 8 B together would be removed; nothing is removed yet" in " ".join(shown.err.split())
    assert len(files(receiver)) == 1
    digest = shown.err.rsplit(maxsplit=1)[1]
    assert typed(receiver, "prune", "--older-than", "30d", "--if", "0" * 16) == 1
    assert "the choice is another one now" in capsys.readouterr().err
    assert typed(receiver, "prune", "--older-than", "30d", "--if", digest) == 0
    assert capsys.readouterr().out == "removed 1 result, 8 B; metrics and digests stay\n"
    assert files(receiver) == []
    assert typed(receiver, "prune", "--older-than", "30d", "--yes") == 0
    assert "there is nothing to remove" in capsys.readouterr().err
    assert typed(receiver, "show", job) == 0
    assert "path      pruned on 2" in capsys.readouterr().out


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "needs to know which results may go"),
        (("--dry-run",), "needs to know which results may go"),
        (("--unnamed", "--dry-run", "--yes"), "found --dry-run beside --yes"),
    ],
)
def test_a_command_that_says_too_little_is_refused(
    receiver: LiveReceiver, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert typed(receiver, "prune", *words) == 78
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("age", ["30", "d", "-3d", "3m", "1.5d", "999999d"])
def test_an_age_that_nobody_can_read_is_wrong_usage(age: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended_with:
        program.main(["prune", f"--older-than={age}"])
    assert ended_with.value.code == 2
    assert "such as 30d" in capsys.readouterr().err


@pytest.mark.usefixtures("operator")
def test_a_backup_removes_those_that_it_takes_the_place_of(
    receiver: LiveReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(receiver, b"a bundle")
    assert typed(receiver, "backup", "nightly", "--artifacts", "--keep", "1") == 0
    first = Path(capsys.readouterr().out.strip())
    aged = first.with_name("20200101T000000Z-nightly")
    first.rename(aged)
    assert typed(receiver, "backup", "nightly", "--artifacts", "--keep", "1") == 0
    removed, newest = capsys.readouterr().out.splitlines()
    assert (removed, Path(newest).is_dir(), aged.exists()) == (f"removed {aged.name}", True, False)
