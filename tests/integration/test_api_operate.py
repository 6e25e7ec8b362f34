"""What operators ask."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from live_receiver import HEAD, LiveReceiver, manifest


def test_cancel_and_requeue_answer_the_new_state(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(1)) as receiver:
        (job,) = receiver.call("GET", "/v1/jobs").json["jobs"]
        path = f"/v1/job/{job['id']}"
        cancelled = receiver.call("POST", f"{path}/cancel", operator=True)
        assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
        requeued = receiver.call("POST", f"{path}/requeue", b"", operator=True)
        assert (requeued.status, requeued.json["status"]) == (200, "pending")
        lease = receiver.claim("w1")
        refused = receiver.call("POST", f"{path}/requeue", operator=True).json
        assert (refused["code"], refused["expected"]) == (
            "wrong_state",
            "a failed or cancelled job, or a completed one whose artifact is lost",
        )
        assert receiver.call("POST", f"{path}/cancel", operator=True).json["cancel_requested"] is True
        beat = receiver.call("POST", f"{path}/heartbeat", {"lease_id": lease["lease_id"]})
        assert beat.json["cancel"] is True
        assert receiver.call("GET", f"{path}/why").json["status"] == "running"
        events = receiver.call("GET", path).json["events"]
        assert {"operator:operator", "worker:w1"} < {event["actor"] for event in events}


def test_a_change_can_be_bound_to_the_status_that_was_seen(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(1)) as receiver:
        (job,) = receiver.call("GET", "/v1/jobs").json["jobs"]
        path = f"/v1/job/{job['id']}"
        moved = receiver.call("POST", f"{path}/cancel?if_status=claimed,running", operator=True)
        assert (moved.status, moved.json["code"]) == (409, "wrong_state")
        assert moved.json["found"] == f"the job {job['id']} is pending now, nothing was changed"
        assert moved.json["expected"] == "a job that is claimed or running"
        assert receiver.call("GET", path).json["job"]["status"] == "pending"
        assert receiver.call("POST", f"{path}/cancel?if_status=pending", operator=True).json["status"] == "cancelled"
        assert receiver.call("POST", f"{path}/requeue?if_status=failed", operator=True).status == 409
        assert receiver.call("POST", f"{path}/requeue?if_status=cancelled", operator=True).json["status"] == "pending"
        assert receiver.call("POST", f"{path}/cancel?if_status=gone", operator=True).status == 422


def test_a_reload_adds_says_so_and_repeats_without_effect(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(2)) as receiver:
        receiver.manifest.write_text(manifest(5))
        plan = receiver.call("POST", "/v1/manifest/plan", operator=True)
        assert (plan.status, plan.json["counts"]["added"]) == (200, 3)
        other = {"if_plan": "0" * 64}
        assert receiver.call("POST", "/v1/manifest/reload", other, operator=True).json["code"] == "plan_moved"
        done = receiver.call("POST", "/v1/manifest/reload", {"if_plan": plan.json["digest"]}, operator=True)
        assert (done.status, done.json["counts"]["added"], done.json["digest"]) == (200, 3, plan.json["digest"])
        assert (tmp_path / "manifest.applied.toml").read_text() == manifest(5)
        nothing = receiver.call("POST", "/v1/manifest/plan", operator=True).json
        again = receiver.call("POST", "/v1/manifest/reload", {"if_plan": nothing["digest"]}, operator=True)
        assert again.json == nothing
        assert again.json["counts"] == {"added": 0, "changed": 0, "unchanged": 5, "dropped": 0, "stranded": 0}
        assert receiver.call("POST", "/v1/manifest/reload", other, operator=True).status == 412
        assert sum(receiver.call("GET", "/v1/health").json["counts"].values()) == 5


def test_a_reload_that_would_drop_jobs_needs_leave(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(3)) as receiver:
        receiver.manifest.write_text(manifest(1))
        refused = receiver.call("POST", "/v1/manifest/reload", operator=True)
        assert (refused.status, refused.json["code"]) == (409, "would_shrink")
        assert receiver.call("GET", "/v1/health").json["status"] == "degraded"
        done = receiver.call("POST", "/v1/manifest/reload", {"allow_shrink": True}, operator=True)
        assert (done.status, done.json["counts"]["dropped"]) == (200, 2)
        assert receiver.call("GET", "/v1/health").json["status"] == "ok"


def test_a_faulty_manifest_changes_nothing_and_stands_in_the_health(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(2)) as receiver:
        before = receiver.call("GET", "/v1/jobs").json
        receiver.manifest.write_text(manifest(3) + "hyper = { max_itr = 300 }\n[hosts.pi]\nslot = 1\n")
        refused = receiver.call("POST", "/v1/manifest/reload", operator=True)
        assert (refused.status, refused.json["code"]) == (422, "manifest_invalid")
        assert any("max_iter" in fault["remedy"] for fault in refused.json["errors"])
        assert len(refused.json["errors"]) == 2
        assert receiver.call("GET", "/v1/jobs").json == before
        health = receiver.call("GET", "/v1/health").json
        assert (health["status"], len(health["manifest"]["faults"])) == ("degraded", 2)
        assert receiver.call("GET", "/readyz").status == 503
        assert receiver.claim()["job_id"] == before["jobs"][0]["id"]
        receiver.manifest.write_text(manifest(2))
        assert receiver.call("POST", "/v1/manifest/reload", operator=True).status == 200
        assert receiver.call("GET", "/v1/health").json["problems"] == []


def test_a_posted_manifest_is_planned_and_not_applied(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(2)) as receiver:
        posted = manifest(4).encode()
        plan = receiver.call("POST", "/v1/manifest/plan", posted, operator=True)
        assert (plan.json["counts"]["added"], plan.json["manifest"]) == (2, hashlib.sha256(posted).hexdigest())
        assert sum(receiver.call("GET", "/v1/health").json["counts"].values()) == 2
        wrong = receiver.call("POST", "/v1/manifest/plan", b"[manifest", operator=True)
        assert (wrong.status, wrong.json["code"]) == (422, "manifest_invalid")


def test_the_trainer_of_a_posted_manifest_is_never_started(tmp_path: Path) -> None:
    """Else whoever may plan could have the receiver run a program."""
    mark = tmp_path / "started"
    head = f'{HEAD}[trainer]\ncommand = ["/bin/sh", "-c", "touch {mark}"]\n'
    with LiveReceiver(tmp_path, manifest(1)) as receiver:
        receiver.call("POST", "/v1/manifest/plan", manifest(1, head=head).encode(), operator=True)
    assert not mark.exists()


def test_a_manifest_file_that_has_gone_is_told(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(1)) as receiver:
        receiver.manifest.unlink()
        gone = receiver.call("POST", "/v1/manifest/reload", operator=True)
        assert (gone.status, gone.json["code"]) == (422, "manifest_invalid")


def test_a_start_with_an_unchanged_manifest_reads_it_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LiveReceiver(tmp_path, manifest(2)):
        pass
    monkeypatch.setattr("training.fleet.api.loading.child_load", lambda *_, **__: pytest.fail("read again"))
    with LiveReceiver(tmp_path, manifest(2)) as receiver:
        assert receiver.call("GET", "/v1/health").json["counts"]["pending"] == 2


def test_a_start_after_the_trainer_changed_checks_the_manifest_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LiveReceiver(tmp_path, manifest(2)):
        pass
    calls = []
    monkeypatch.setattr("training.trainer.hyper.contract_digest", lambda _: "sha256:other")
    monkeypatch.setattr("training.fleet.api.loading._read", lambda path: calls.append(path) or path.read_bytes())
    with LiveReceiver(tmp_path, manifest(2)):
        assert len(calls) == 1


def test_a_copy_of_the_applied_manifest_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "manifest.applied.toml.part").mkdir()
    with LiveReceiver(tmp_path, manifest(1)) as receiver:
        assert receiver.call("GET", "/v1/health").json["counts"]["pending"] == 1


def test_a_host_that_lost_models_is_a_problem_until_an_operator_accepts_it(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(1)) as receiver:
        for models in (["gbt", "cnn", "gru"], ["gbt"]):
            receiver.call("POST", "/v1/job/claim", receiver.claim_body("tower", models=models))
        health = receiver.call("GET", "/v1/health").json
        assert health["status"] == "degraded"
        assert [line.partition(" since ")[0] for line in health["problems"]] == ["tower lost cnn, gru"]
        assert receiver.call("GET", "/readyz").status == 200
        assert receiver.call("POST", "/v1/worker/tower/accept").status == 401
        done = receiver.call("POST", "/v1/worker/tower/accept", operator=True)
        assert (done.status, done.json) == (200, {"worker": "tower", "lost": ["cnn", "gru"]})
        assert receiver.call("POST", "/v1/worker/other/accept", operator=True).status == 404
        assert receiver.call("GET", "/v1/health").json["problems"] == []
