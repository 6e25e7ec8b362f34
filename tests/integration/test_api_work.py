"""What workers ask, over real sockets with the real queue and store."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_receiver import HEAD, LiveReceiver, manifest

BUNDLE = b"bundle bytes"
SHA = hashlib.sha256(BUNDLE).hexdigest()


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path_factory.mktemp("work"), manifest(30)) as live:
        yield live


def test_a_job_goes_from_claim_to_artifact(receiver: LiveReceiver) -> None:
    lease = receiver.claim()
    path = f"/v1/job/{lease['job_id']}"
    assert lease["spec"]["model"] == "gbt"
    beat = receiver.call("POST", f"{path}/heartbeat", {"lease_id": lease["lease_id"], "progress": {"step": 1}})
    assert (beat.status, beat.json["cancel"]) == (200, False)
    again = receiver.call("POST", f"{path}/heartbeat", {"lease_id": lease["lease_id"], "progress": {"step": 2}})
    assert (again.status, again.json["lease_s"]) == (200, 600.0)
    assert receiver.call("GET", path).json["job"]["progress"]["step"] == 2
    stored = receiver.upload(lease, BUNDLE)
    assert (stored.status, stored.json) == (201, {"sha256": SHA, "size_bytes": len(BUNDLE), "new": True})
    done = {"lease_id": lease["lease_id"], "artifact": SHA, "metrics": {"auroc": 0.9}}
    for _ in range(2):  # a repeat gets the same answer
        reply = receiver.call("POST", f"{path}/complete", done)
        assert (reply.status, reply.json) == (
            200,
            {"id": lease["job_id"], "status": "completed", "cancel_requested": False},
        )
    detail = receiver.call("GET", path).json
    assert detail["job"]["artifact_path"] == f"gbt_oracle/{SHA}/bundle.tar.zst"
    assert (receiver.folder / "store" / detail["job"]["artifact_path"]).read_bytes() == BUNDLE
    lines = [json.loads(line) for line in (receiver.folder / "index.jsonl").read_text().splitlines()]
    assert [line["sha256"] for line in lines] == [SHA]


def test_a_beat_of_a_running_job_is_answered_from_memory(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred workers beat every few seconds, and a commit takes a sync of the disk."""
    lease = receiver.claim()
    path, body = f"/v1/job/{lease['job_id']}/heartbeat", {"lease_id": lease["lease_id"]}
    assert receiver.call("POST", path, body).status == 200

    def refuse(*_: Any) -> None:
        raise AssertionError("the writer was asked")

    monkeypatch.setattr(receiver.fleet.queue, "heartbeat", refuse)
    assert receiver.call("POST", path, body).status == 200


def test_a_host_that_reports_less_than_no_memory_breaks_no_look_at_a_job(receiver: LiveReceiver) -> None:
    """A division by zero before; found by Schemathesis."""
    card = {"name": "x", "uuid": "GPU-x", "vram_bytes": -(2**34), "free_vram_bytes": 0, "driver": "1"}
    body = receiver.claim_body("odd", ram_bytes=-(2**34), cuda_present=True, cuda_usable=True, gpus=[card])
    assert receiver.call("POST", "/v1/job/claim", body).status in (200, 204)
    job = receiver.call("GET", "/v1/jobs?limit=1").json["jobs"][0]
    assert receiver.call("GET", f"/v1/job/{job['id']}/why").status == 200


def test_the_same_claim_id_gets_the_same_lease(receiver: LiveReceiver) -> None:
    body = receiver.claim_body("repeater")
    first, second = (receiver.call("POST", "/v1/job/claim", body).json for _ in range(2))
    assert first == second


def test_a_completion_without_artifact_is_412(receiver: LiveReceiver) -> None:
    lease = receiver.claim("w412")
    body = {"lease_id": lease["lease_id"], "artifact": "b" * 64}
    reply = receiver.call("POST", f"/v1/job/{lease['job_id']}/complete", body)
    assert (reply.status, reply.json["code"]) == (412, "artifact_missing")
    assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("verb", ["heartbeat", "complete", "fail"])
def test_a_stale_lease_is_409(receiver: LiveReceiver, verb: str) -> None:
    lease = receiver.claim(f"stale-{verb}")
    body = {"lease_id": "never-given-01", "artifact": "b" * 64, "kind": "lost"}
    reply = receiver.call("POST", f"/v1/job/{lease['job_id']}/{verb}", body)
    assert (reply.status, reply.json["code"]) == (409, "stale_lease")


@pytest.mark.parametrize("verb", ["heartbeat", "complete", "fail"])
def test_an_unknown_job_is_404(receiver: LiveReceiver, verb: str) -> None:
    body = {"lease_id": "never-given-01", "artifact": "b" * 64, "kind": "lost"}
    reply = receiver.call("POST", f"/v1/job/{'0' * 64}/{verb}", body)
    assert (reply.status, reply.json["code"]) == (404, "not_found")


def test_a_failure_is_kept_with_its_error(receiver: LiveReceiver) -> None:
    lease = receiver.claim("failing")
    body = {"lease_id": lease["lease_id"], "kind": "trainer_error", "exit_status": 1, "error": "ValueError: no rows"}
    reply = receiver.call("POST", f"/v1/job/{lease['job_id']}/fail", body)
    assert (reply.status, reply.json["status"]) == (200, "pending")
    assert receiver.call("GET", "/v1/health").json["failures"][0]["failure"]["error"] == "ValueError: no rows"


def test_no_job_is_204_with_retry_after(receiver: LiveReceiver) -> None:
    with_nothing = receiver.claim_body("cramped", held=())
    with_nothing["capability"]["models"] = []
    with_nothing["capability"]["contract"] = None
    reply = receiver.call("POST", "/v1/job/claim", with_nothing)
    assert reply.status in (200, 204)
    if reply.status == 204:
        assert reply.headers["retry-after"] == "10"


def test_an_old_worker_is_426(receiver: LiveReceiver) -> None:
    reply = receiver.call("POST", "/v1/job/claim", receiver.claim_body("old", version="0.0.9"))
    assert (reply.status, reply.json["code"]) == (426, "upgrade_required")


@pytest.mark.parametrize("version", ["", "dev", "1"])
def test_an_odd_version_is_taken_as_new(receiver: LiveReceiver, version: str) -> None:
    reply = receiver.call("POST", "/v1/job/claim", receiver.claim_body("odd", version=version))
    assert reply.status == 200


def test_a_host_the_manifest_does_not_admit_is_403(tmp_path: Path) -> None:
    head = HEAD.replace("[hosts.default]", "[hosts.pi]")
    with LiveReceiver(tmp_path, manifest(1, head=head)) as receiver:
        reply = receiver.call("POST", "/v1/job/claim", receiver.claim_body("stranger"))
        assert (reply.status, reply.json["code"]) == (403, "host_refused")
        nothing = receiver.call("POST", "/v1/job/claim", {**receiver.claim_body("pi"), "held_leases": []})
        assert nothing.status == 200
        empty = receiver.call("POST", "/v1/job/claim", receiver.claim_body("pi", held=(nothing.json["lease_id"],)))
        assert (empty.status, empty.headers["retry-after"], empty.body) == (204, "10", b"")
        assert "content-length" not in empty.headers


def test_a_draining_receiver_gives_no_job_and_says_when_to_ask(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(1)) as receiver:
        receiver.fleet.draining = True
        reply = receiver.call("POST", "/v1/job/claim", receiver.claim_body())
        assert (reply.status, reply.headers["retry-after"]) == (503, "5")
        assert receiver.call("GET", "/readyz").status == 503
        assert receiver.call("GET", "/v1/health").json["status"] == "draining"


async def swept(receiver: LiveReceiver) -> None:
    await receiver.fleet.run(receiver.fleet.queue.sweep)


def test_a_result_of_the_last_attempt_is_taken_after_its_lease_ran_out(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(1, extra="max_attempts = 1\n"), lease_s="1") as receiver:
        lease = receiver.claim()
        path = f"/v1/job/{lease['job_id']}"
        receiver.call("POST", f"{path}/heartbeat", {"lease_id": lease["lease_id"]})
        deadline = time.monotonic() + 30
        while receiver.call("GET", path).json["job"]["status"] != "failed":
            assert time.monotonic() < deadline
            asyncio.run_coroutine_threadsafe(swept(receiver), receiver.loop).result(10)
        assert receiver.upload(lease, BUNDLE).status == 201
        done = receiver.call("POST", f"{path}/complete", {"lease_id": lease["lease_id"], "artifact": SHA})
        assert (done.status, done.json["status"]) == (200, "completed")
        assert receiver.call("GET", path).json["job"]["failure"] is None
