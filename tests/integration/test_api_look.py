"""What anyone may look at, and who may."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_receiver import TOKEN, LiveReceiver, manifest
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families

from training.fleet.api.routes import ROUTES
from training.fleet.model.errors import UnavailableError

JOBS = 7


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path_factory.mktemp("look"), manifest(JOBS)) as live:
        yield live


def test_pages_follow_their_cursor_to_the_end(receiver: LiveReceiver) -> None:
    found: list[str] = []
    cursor = ""
    for _ in range(4):
        page = receiver.call("GET", f"/v1/jobs?limit=2{cursor}").json
        found += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert len(found) == len(set(found)) == JOBS


def test_filters_choose(receiver: LiveReceiver) -> None:
    everything = receiver.call("GET", "/v1/jobs").json["jobs"]
    prefix = everything[3]["id"][:12]
    assert [job["id"] for job in receiver.call("GET", f"/v1/jobs?id_prefix={prefix}").json["jobs"]] == [
        everything[3]["id"]
    ]
    assert receiver.call("GET", "/v1/jobs?status=completed,failed").json["jobs"] == []
    assert len(receiver.call("GET", "/v1/jobs?status=pending&model=gbt&mode=oracle").json["jobs"]) == JOBS
    assert receiver.call("GET", "/v1/jobs?host=nobody").json["jobs"] == []


def test_a_list_carries_specifications_only_when_asked(receiver: LiveReceiver) -> None:
    plain = receiver.call("GET", "/v1/jobs").json["jobs"]
    asked = receiver.call("GET", "/v1/jobs?with=spec&limit=500").json["jobs"]
    by_id = receiver.call("GET", f"/v1/jobs?with=spec&id_prefix={plain[2]['id']}").json["jobs"]
    assert [job["spec"] for job in plain] == [None] * JOBS
    assert [(job["spec"]["seed"], job["spec"]["hyper"]) for job in asked] == [(seed, {}) for seed in range(JOBS)]
    assert [job["spec"]["seed"] for job in by_id] == [2]
    refused = receiver.call("GET", "/v1/jobs?with=log")
    assert (refused.status, "with is 'log'; expected of spec" in refused.json["detail"]) == (422, True)


def test_a_list_carries_hyper_parameters_and_reasons_only_when_asked(receiver: LiveReceiver) -> None:
    plain = receiver.call("GET", "/v1/jobs").json["jobs"]
    asked = receiver.call("GET", "/v1/jobs?with=hyper,reason&limit=500").json
    assert {(job["hyper"], job["reason"]) for job in plain} == {(None, "")}
    assert [job["hyper"] for job in asked["jobs"]] == [{}] * JOBS
    assert all(job["reason"] for job in asked["jobs"])


def test_what_filters_can_name_is_told(receiver: LiveReceiver) -> None:
    found = receiver.call("GET", "/v1/names").json
    assert found["models"] == ["gbt"]
    assert sorted(found) == ["datasets", "hosts", "models", "tags"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/events"])
@pytest.mark.parametrize("query", ["since=2099-01-01T00:00:00.000Z", "until=2001-01-01T00:00:00.000Z"])
def test_a_range_of_time_bounds_a_list(receiver: LiveReceiver, path: str, query: str) -> None:
    (items,) = (found for found in receiver.call("GET", f"{path}?{query}").json.values() if isinstance(found, list))
    assert items == []


@pytest.mark.parametrize("text", ["yesterday", "2026-11-30", "2026-11-30T10:00:00Z", "2026-11-30T10:00:00.000Z%0A"])
def test_a_time_that_could_not_be_compared_is_refused(receiver: LiveReceiver, text: str) -> None:
    refused = receiver.call("GET", f"/v1/jobs?since={text}")
    assert (refused.status, refused.json["expected"]) == (422, "a time in UTC such as 2026-11-30T14:00:00.000Z")


def test_an_unchanged_list_is_304_and_a_changed_one_is_sent(receiver: LiveReceiver) -> None:
    first = receiver.call("GET", "/v1/jobs")
    tag = first.headers["etag"]
    for given in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        same = receiver.call("GET", "/v1/jobs", headers={"If-None-Match": given})
        assert (same.status, same.body, same.headers["etag"]) == (304, b"", tag)
    receiver.claim()
    changed = receiver.call("GET", "/v1/jobs", headers={"If-None-Match": tag})
    assert (changed.status, changed.headers["etag"] == tag) == (200, False)


def test_workers_are_listed_with_what_they_can_do(receiver: LiveReceiver) -> None:
    receiver.claim("zeta")
    page = receiver.call("GET", "/v1/workers?limit=500").json
    (zeta,) = [worker for worker in page["workers"] if worker["name"] == "zeta"]
    assert (zeta["state"], zeta["capability"]["ram_bytes"], len(zeta["jobs"])) == ("working", 2**34, 1)
    assert receiver.call("GET", "/v1/workers", headers={"If-None-Match": "*"}).status == 304
    assert receiver.call("GET", "/v1/workers?cursor=zeta").json == {"workers": [], "next": None}


def test_health_tells_counts_manifest_and_storage(receiver: LiveReceiver) -> None:
    health = receiver.call("GET", "/v1/health").json
    assert set(health["counts"]) == {"pending", "claimed", "running", "completed", "failed", "cancelled"}
    assert sum(health["counts"].values()) == health["manifest"]["jobs"] == JOBS
    assert health["storage"]["artifacts"] == 0
    assert health["storage"]["free_bytes"] > 0


def test_why_names_each_host(receiver: LiveReceiver) -> None:
    receiver.claim("omega")
    job = receiver.call("GET", "/v1/jobs?status=pending").json["jobs"][0]["id"]
    why = receiver.call("GET", f"/v1/job/{job}/why").json
    assert {host["host"]: host["eligible"] for host in why["hosts"]}["omega"] is True
    assert receiver.call("GET", f"/v1/job/{'0' * 64}/why").status == 404


def test_a_host_without_an_identity_names_itself_to_see_its_own_page(receiver: LiveReceiver) -> None:
    receiver.claim("omega")
    assert receiver.call("GET", "/v1/worker/self?worker=omega").json["worker"] == "omega"
    refused = receiver.call("GET", "/v1/worker/self")
    assert (refused.status, refused.json["code"]) == (422, "invalid_message")


def test_a_receiver_that_drains_says_so_although_an_identity_is_used_twice(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver.fleet.sessions, "clashed", lambda: ["omega"])
    told = receiver.call("GET", "/v1/health").json
    assert (told["status"], len(told["problems"])) == ("degraded", 1)
    monkeypatch.setattr(receiver.fleet, "draining", True)
    told = receiver.call("GET", "/v1/health").json
    assert told["status"] == "draining"
    assert "omega" in told["problems"][-1]


def test_liveness_and_readiness_are_told(receiver: LiveReceiver) -> None:
    assert receiver.call("GET", "/healthz").json == {"status": "ok"}
    assert receiver.call("GET", "/readyz").json == {"status": "ready", "problems": []}


def test_a_receiver_with_which_nothing_is_wrong_says_so(receiver: LiveReceiver) -> None:
    told = receiver.call("GET", "/v1/health").json
    assert (told["status"], told["problems"]) == ("ok", [])


def test_a_store_whose_disk_failed_is_not_ready(receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.fleet.store.Store.broken", "the disk failed")
    assert receiver.call("GET", "/readyz").json["problems"] == ["the disk failed"]


def test_a_receiver_without_room_for_its_database_is_not_ready(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(1), floor_bytes=str(2**62)) as live:
        reply = live.call("GET", "/readyz")
        assert (reply.status, reply.json["status"]) == (503, "not ready")
        assert [problem.partition(",")[0] for problem in reply.json["problems"]] == [
            "the disk of db",
            "the disk of incoming_root",
        ]
        health = live.call("GET", "/v1/health").json
        assert (health["status"], len(health["problems"])) == ("degraded", 2)
        assert live.call("GET", "/healthz").json == {"status": "ok"}


@pytest.mark.parametrize("name", ["store", "incoming"])
def test_a_receiver_that_cannot_write_into_a_folder_is_not_ready(tmp_path: Path, name: str) -> None:
    with LiveReceiver(tmp_path, manifest(1)) as live:
        (tmp_path / name).rename(tmp_path / "moved")
        reply = live.call("GET", "/readyz")
        assert (reply.status, len(reply.json["problems"])) == (503, 1)
        assert f"{tmp_path / name}, cannot be written" in reply.json["problems"][0]
        assert live.call("GET", "/v1/health").json["status"] == "degraded"
        (tmp_path / "moved").rename(tmp_path / name)
        assert live.call("GET", "/readyz").status == 200


def test_a_read_only_disk_is_not_ready(receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """To mount one takes root; the system's answer is put in instead."""
    monkeypatch.setattr("training.fleet.blobs.disk.System.writable", lambda _self, _folder: False)
    reply = receiver.call("GET", "/readyz")
    assert (reply.status, len(reply.json["problems"])) == (503, 3)


def test_a_writer_that_cannot_answer_is_not_ready(receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_fleet: object, _change: object) -> None:
        raise UnavailableError("the disk of the database failed; restart the receiver")

    monkeypatch.setattr(type(receiver.fleet), "run", broken)
    reply = receiver.call("GET", "/readyz")
    assert (reply.status, reply.json["status"]) == (503, "not ready")
    assert reply.json["problems"] == ["the disk of the database failed; restart the receiver"]


def test_who_may_not_read_gets_the_word_alone_and_nothing_of_the_manifest(guarded: LiveReceiver) -> None:
    reader, operator = {"Authorization": "Bearer a-read-token-for-tests"}, {"X-Operator-Token": TOKEN}
    good = guarded.manifest.read_text()
    guarded.manifest.write_text("[manifest")
    assert guarded.call("POST", "/v1/manifest/reload", operator=True).status == 422
    try:
        for headers in (*WRONG_HEADERS.values(), {"Authorization": "Bearer a-worker-token-for-tests"}):
            reply = guarded.call("GET", "/readyz", headers=headers)
            assert (reply.status, reply.json) == (503, {"status": "not ready"})
        for headers in (reader, operator):
            reply = guarded.call("GET", "/readyz", headers=headers)
            assert (reply.status, reply.json["status"]) == (503, "not ready")
            assert str(guarded.manifest) in reply.json["problems"][0]
    finally:
        guarded.manifest.write_text(good)
        assert guarded.call("POST", "/v1/manifest/reload", operator=True).status == 200
    assert guarded.call("GET", "/readyz").json == {"status": "ready"}
    assert guarded.call("GET", "/readyz", headers=reader).json == {"status": "ready", "problems": []}


def test_metrics_are_text_that_prometheus_reads(receiver: LiveReceiver) -> None:
    reply = receiver.call("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = reply.body.decode().splitlines()
    assert 'cis490_jobs{status="failed"} 0.0' in lines
    families = list(text_string_to_metric_families(reply.body.decode()))
    assert all(family.type in ("gauge", "counter", "histogram") and family.documentation for family in families)
    assert all(sample.name.startswith("cis490_") for family in families for sample in family.samples)


def test_metrics_count_what_workers_did_since_the_start(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(3)) as live:
        done, failed = live.claim("tower"), live.claim("shed")
        data = b"an artifact"
        assert live.upload(done, data).status == 201
        assert live.upload({"lease_id": "never-given-01"}, data).status == 409
        result = {"lease_id": done["lease_id"], "artifact": hashlib.sha256(data).hexdigest()}
        assert live.call("POST", f"/v1/job/{done['job_id']}/complete", result).status == 200
        report = {"lease_id": failed["lease_id"], "kind": "trainer_error", "error": "no such key"}
        assert live.call("POST", f"/v1/job/{failed['job_id']}/fail", report).status == 200
        text = live.call("GET", "/metrics").body.decode()
    found = {
        sample.name + "".join(f"[{value}]" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["cis490_attempts_ended_total[completed]"] == 1
    assert found["cis490_attempts_ended_total[trainer_error]"] == 1
    assert found["cis490_training_seconds_total[trained]"] > 0
    assert found["cis490_training_seconds_total[lost]"] > 0
    assert found["cis490_uploads_refused_total[stale_lease]"] == 1
    assert found["cis490_claim_seconds_count"] == 2
    assert found["cis490_commit_seconds_count"] >= 6
    assert found["cis490_worker_last_seen_timestamp_seconds[tower]"] == pytest.approx(time.time(), abs=60)
    assert found["cis490_worker_last_seen_timestamp_seconds[shed]"] == pytest.approx(time.time(), abs=60)


# ---- the description


def test_the_openapi_document_is_valid_and_holds_every_route(receiver: LiveReceiver) -> None:
    document = receiver.call("GET", "/openapi.json").json
    validate(document)
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(route.method, route.path) for route in ROUTES}
    assert document["openapi"] == "3.1.0"


def test_the_openapi_document_shows_bounds_and_problems(receiver: LiveReceiver) -> None:
    document = receiver.call("GET", "/openapi.json").json
    schemas = document["components"]["schemas"]
    assert schemas["Complete"]["properties"]["artifact"]["maxLength"] == 64
    claim = document["paths"]["/v1/job/claim"]["post"]
    assert claim["security"] == [{"worker": []}]
    assert claim["responses"]["204"]["description"].startswith("no job")
    problem = claim["responses"]["403"]["content"]["application/problem+json"]["schema"]
    assert problem == {"$ref": "#/components/schemas/Problem"}
    assert document["components"]["securitySchemes"]["operator"]["name"] == "X-Operator-Token"


def test_the_openapi_document_shows_what_a_query_and_a_header_may_hold(receiver: LiveReceiver) -> None:
    paths = receiver.call("GET", "/openapi.json").json["paths"]
    query = {item["name"]: item["schema"] for item in paths["/v1/jobs"]["get"]["parameters"]}
    assert query["limit"] == {"type": "integer", "minimum": 1, "maximum": 500}
    assert query["mode"] == {"enum": ["realistic", "oracle"]}
    assert query["id_prefix"]["pattern"] == "^[0-9a-f]{1,64}$"
    assert "422" in paths["/v1/jobs"]["get"]["responses"]
    upload = paths["/v1/model/{sha256}"]["put"]
    (lease,) = (item for item in upload["parameters"] if item["name"] == "X-Lease-Id")
    assert lease["required"]
    assert "404" in upload["responses"]


def test_the_workers_single_file_is_offered_with_its_digest_as_etag(receiver: LiveReceiver) -> None:
    reply = receiver.call("GET", "/v1/worker.pyz")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/zip")
    assert reply.headers["etag"] == f'"{hashlib.sha256(reply.body).hexdigest()}"'
    assert reply.body.startswith(b"#!/usr/bin/env python3\nPK")
    head = receiver.call("HEAD", "/v1/worker.pyz")
    assert (head.status, head.body) == (200, b"")
    assert (head.headers["etag"], head.headers["content-length"]) == (reply.headers["etag"], str(len(reply.body)))
    again = receiver.call("GET", "/v1/worker.pyz", None, {"If-None-Match": reply.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_the_reference_names_every_route(root: Path, route: object) -> None:
    text = (root / "docs" / "reference" / "http-api.md").read_text()
    method, path = route.method, route.path  # type: ignore[attr-defined]
    assert f"`{method} {path}`" in text


# ---- who may


def paths(role: str) -> list[tuple[str, str]]:
    fill = {"{id}": "0" * 64, "{sha256}": "0" * 64, "{digest}": "0" * 64, "{name}": "w1", "{file}": "card.md"}
    found = []
    for route in ROUTES:
        if route.role == role:
            path = route.path
            for name, value in fill.items():
                path = path.replace(name, value)
            found.append((route.method, path))
    return found


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    tokens = {"operator": TOKEN, "worker": "a-worker-token-for-tests", "read": "a-read-token-for-tests"}
    with LiveReceiver(tmp_path_factory.mktemp("guarded"), manifest(1), tokens) as live:
        yield live


WRONG_HEADERS = {
    "nothing": {},
    "a wrong bearer": {"Authorization": "Bearer wrong"},
    "a non-ASCII bearer": {"Authorization": "Bearer t\xf6ken"},
    "a wrong operator token": {"X-Operator-Token": "wrong"},
    "a non-ASCII operator token": {"X-Operator-Token": "\xff\xfe"},
    "a huge token": {"Authorization": "Bearer " + "x" * 8000},
}


@pytest.mark.parametrize("headers", WRONG_HEADERS.values(), ids=WRONG_HEADERS)
@pytest.mark.parametrize("role", ["operator", "worker", "read"])
def test_without_the_right_token_every_route_is_401(guarded: LiveReceiver, role: str, headers: dict[str, str]) -> None:
    for method, path in paths(role):
        reply = guarded.call(method, path, None, headers)
        assert (reply.status, reply.json["code"], reply.headers["www-authenticate"]) == (
            401,
            "unauthenticated",
            "Bearer",
        ), path


@pytest.mark.parametrize(
    ("role", "headers"),
    [
        ("operator", {"X-Operator-Token": TOKEN}),
        ("worker", {"Authorization": "Bearer a-worker-token-for-tests"}),
        ("read", {"Authorization": "Bearer a-read-token-for-tests"}),
        ("read", {"X-Operator-Token": TOKEN}),
    ],
)
def test_with_the_right_token_no_route_is_401(guarded: LiveReceiver, role: str, headers: dict[str, str]) -> None:
    for method, path in paths(role):
        assert guarded.call(method, path, b"", headers).status not in (401, 403), path


def test_liveness_needs_no_token(guarded: LiveReceiver) -> None:
    found = {(method, path): guarded.call(method, path).status for method, path in paths("anyone")}
    assert found == {
        ("GET", "/openapi.json"): 200,
        ("GET", "/healthz"): 200,
        ("GET", "/readyz"): 200,
        ("GET", "/v1/ca"): 404,
        ("POST", "/v1/enrol"): 400,
        ("POST", "/v1/login"): 400,
        ("GET", "/v1/jobs.pyz"): 200,
        ("GET", "/v1/installer.pyz"): 200,
    }


def test_an_unset_operator_token_closes_the_operators_routes_and_says_how_to_open_them(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(1), {}) as live:
        for method, path in paths("operator"):
            reply = live.call(method, path, None, {"X-Operator-Token": "anything"})
            assert (reply.status, reply.json["code"]) == (403, "forbidden")
            assert "CIS490_OPERATOR_TOKEN" in reply.json["detail"]


def test_a_configured_name_is_answered(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(1), {}, host_names="fleet.example") as live:
        assert live.call("GET", "/healthz", headers={"Host": "Fleet.example:8445"}).status == 200
        assert live.call("GET", "/healthz", headers={"Host": "other.example"}).status == 403


def test_no_answer_repeats_a_token(guarded: LiveReceiver, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"X-Operator-Token": "a-secret-that-is-wrong", "Authorization": "Bearer another-secret"}
    for route in ROUTES:
        reply = guarded.call(route.method, route.path.split("{")[0], b"", headers)
        assert b"a-secret-that-is-wrong" not in reply.body
        assert b"another-secret" not in reply.body
    assert "a-secret-that-is-wrong" not in caplog.text  # a path may hold the word itself
    assert "another-secret" not in caplog.text
    assert json.dumps(headers) not in caplog.text
