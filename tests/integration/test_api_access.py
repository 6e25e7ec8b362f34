"""Who may ask what: every credential against every route."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_receiver import LiveReceiver, manifest
from tls_site import Site

from training.fleet.api.routes import ROUTES
from training.fleet.auth import Credentials, Operator
from training.fleet.tls.serving import Issuer

TOKENS = {"operator": "an-operator-token-for-tests", "read": "a-read-token-for-tests"}
NAMED = {"looker": "read", "steward": "operate", "doorman": "enrol"}

LOOK = {"reader", "operator", "looker"}
STEER = {"operator", "steward"}
ADMIT = {"operator", "doorman"}
WORK = {"worker"}
ALL = {"nobody", "reader", "worker", "operator", "looker", "steward", "doorman"}
MAY: dict[str, set[str]] = {
    "POST /v1/job/claim": WORK,
    "POST /v1/job/{id}/heartbeat": WORK,
    "POST /v1/job/{id}/complete": WORK,
    "POST /v1/job/{id}/fail": WORK,
    "PUT /v1/model/{sha256}": WORK,
    "PUT /v1/model/{sha256}/file/{file}": WORK,
    "GET /v1/model/{sha256}": LOOK,
    "GET /v1/model/{sha256}/file/{file}": LOOK,
    "POST /v1/secret": WORK,
    "GET /v1/worker.pyz": WORK,
    "GET /v1/worker/self": WORK,
    "POST /v1/worker/certificate": WORK,
    "GET /v1/jobs": LOOK,
    "GET /v1/job/{id}": LOOK,
    "GET /v1/job/{id}/why": LOOK,
    "GET /v1/workers": LOOK,
    "GET /v1/health": LOOK,
    "GET /v1/identities": LOOK,
    "GET /v1/events": LOOK,
    "GET /v1/names": LOOK,
    "GET /v1/manifests": LOOK,
    "GET /v1/manifest/{digest}": LOOK,
    "GET /metrics": LOOK,
    "POST /v1/job/{id}/cancel": STEER,
    "POST /v1/job/{id}/requeue": STEER,
    "POST /v1/manifest/reload": STEER,
    "POST /v1/manifest/plan": STEER,
    "PUT /v1/manifest": STEER,
    "POST /v1/prune/plan": STEER,
    "POST /v1/prune": STEER,
    "POST /v1/backup": STEER,
    "POST /v1/fsck": STEER,
    "GET /v1/chore": STEER,
    "POST /v1/invite": ADMIT,
    "POST /v1/worker/{name}/revoke": ADMIT,
    "POST /v1/worker/{name}/rotate": ADMIT,
    "POST /v1/worker/{name}/accept": STEER,
    "POST /v1/enrol": ALL,
    "POST /v1/login": ALL,
    "GET /v1/jobs.pyz": ALL,
    "GET /v1/installer.pyz": ALL,
    "GET /v1/ca": ALL,
    "GET /openapi.json": ALL,
    "GET /healthz": ALL,
    "GET /readyz": ALL,
}
"""Route to who may ask it; a new route needs a row here."""
UNKNOWN = {
    "a wrong operator token": {"X-Operator-Token": "wrong-operator-token"},
    "a non-ASCII operator token": {"X-Operator-Token": "t\xf6ken\xff"},
    "a wrong bearer": {"Authorization": "Bearer wrong-bearer-token"},
    "a non-ASCII bearer": {"Authorization": "Bearer t\xf6ken\xff"},
    "a worker's secret with an unknown id": {"Authorization": "Bearer cis490w.0123456789.key"},
    "a worker's secret with a non-ASCII id": {"Authorization": "Bearer cis490w.\xf6\xff.key"},
    "a worker's secret without a key": {"Authorization": "Bearer cis490w."},
    "the operator's token as a bearer": {"Authorization": f"Bearer {TOKENS['operator']}"},
    "the read token as an operator's": {"X-Operator-Token": TOKENS["read"]},
    "the read token with another scheme": {"Authorization": f"Basic {TOKENS['read']}"},
}


def operators() -> list[Operator]:
    digest = lambda name: hashlib.sha256(f"the-token-of-{name}".encode()).digest()  # noqa: E731
    return [Operator(name, digest(name), frozenset({role})) for name, role in NAMED.items()]


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    credentials = Credentials.of(TOKENS, operators(), enrolled_only=True)
    with LiveReceiver(tmp_path_factory.mktemp("access"), manifest(1), credentials=credentials) as live:
        yield live


@pytest.fixture(scope="module")
def known(receiver: LiveReceiver) -> dict[str, dict[str, str]]:
    """Return the headers of everybody who is somebody."""
    return {
        "nobody": {},
        "reader": {"Authorization": f"Bearer {TOKENS['read']}"},
        "worker": receiver.enrolled("w1"),
        "operator": {"X-Operator-Token": TOKENS["operator"]},
        **{name: {"X-Operator-Token": f"the-token-of-{name}"} for name in NAMED},
    }


@pytest.fixture(scope="module")
def over(receiver: LiveReceiver) -> dict[str, dict[str, str]]:
    """Return the headers of workers whose time is over: a key before a renewal, a revoked one, a replaced one."""
    renewed = receiver.enrolled("renewed", "the-old-key")
    receiver.call("POST", "/v1/worker/renewed/rotate", operator=True)
    receiver.call("POST", "/v1/secret", {"secret_sha256": hashlib.sha256(b"the-new-key").hexdigest()}, renewed)
    new = {**renewed, "Authorization": renewed["Authorization"].replace("the-old-key", "the-new-key")}
    assert receiver.call("POST", "/v1/job/claim", receiver.claim_body("renewed"), new).status == 200
    revoked = receiver.enrolled("revoked")
    receiver.call("POST", "/v1/worker/revoked/revoke", operator=True)
    replaced = receiver.enrolled("replaced", "the-first-key")
    receiver.enrolled("replaced", "the-second-key")
    return {"renewed": renewed, "revoked": revoked, "replaced": replaced}


@pytest.fixture(scope="module")
def halves(receiver: LiveReceiver) -> dict[str, dict[str, str]]:
    """Return the headers of who has a worker's secret and does not say where it runs, or says so of another host."""
    silent, heard = receiver.enrolled("silent"), receiver.enrolled("heard")
    assert receiver.call("GET", "/v1/worker/self", headers=heard).status == 200
    return {
        "the worker is silent, no session": {"Authorization": silent["Authorization"]},
        "the worker is silent, a malformed session": {**silent, "X-Worker-Session": "here"},
        "the worker lives, no session": {"Authorization": heard["Authorization"]},
        "the worker lives, a malformed session": {**heard, "X-Worker-Session": "here"},
        "the worker lives, another place": {**heard, "X-Worker-Session": f"{'6' * 32}.{'1' * 32}"},
        "the worker lives, a visit from another host": {**heard, "X-Worker-Session": f"{'6' * 16}.visit"},
    }


HALVES = (
    "the worker is silent, no session",
    "the worker is silent, a malformed session",
    "the worker lives, no session",
    "the worker lives, a malformed session",
    "the worker lives, another place",
    "the worker lives, a visit from another host",
)


def statuses(live: LiveReceiver, headers: dict[str, str]) -> dict[str, int]:
    """Return how every route answers, without a body."""
    fill = {
        "{id}": "0" * 64,
        "{sha256}": "0" * 64,
        "{digest}": "0" * 64,
        "{name}": "never-enrolled",
        "{file}": "card.md",
    }
    found = {}
    for route in ROUTES:
        path = route.path
        for name, value in fill.items():
            path = path.replace(name, value)
        found[f"{route.method} {route.path}"] = live.call(route.method, path, b"", headers).status
    return found


def test_every_route_says_who_may_ask_it() -> None:
    assert {f"{route.method} {route.path}" for route in ROUTES} == set(MAY)


@pytest.mark.parametrize("who", sorted(ALL))
def test_everybody_gets_what_is_theirs_and_nothing_else(
    receiver: LiveReceiver, known: dict[str, dict[str, str]], who: str
) -> None:
    is_operator = "X-Operator-Token" in known[who]
    for route, status in statuses(receiver, known[who]).items():
        if who in MAY[route]:
            assert status not in (401, 403), route
        else:
            lacks_a_right = is_operator and MAY[route] is not WORK
            assert status == (403 if lacks_a_right else 401), route


@pytest.mark.parametrize("headers", UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_credential_opens_what_is_open_to_all_and_nothing_else(
    receiver: LiveReceiver, headers: dict[str, str]
) -> None:
    for route, status in statuses(receiver, headers).items():
        if MAY[route] is ALL:
            assert status not in (401, 403), route
        else:
            assert status == 401, route


@pytest.mark.parametrize("which", ["renewed", "revoked", "replaced"])
def test_a_worker_whose_time_is_over_is_401_everywhere(
    receiver: LiveReceiver, over: dict[str, dict[str, str]], which: str
) -> None:
    for route, status in statuses(receiver, over[which]).items():
        assert (status == 401) == (MAY[route] is not ALL), route


@pytest.mark.parametrize("which", HALVES)
def test_a_workers_secret_without_its_session_opens_what_is_open_to_all_and_nothing_else(
    receiver: LiveReceiver, halves: dict[str, dict[str, str]], which: str
) -> None:
    refused = 409 if which.startswith("the worker lives") else 400
    for route, status in statuses(receiver, halves[which]).items():
        if MAY[route] is WORK:
            assert status == refused, route
        else:
            assert (status == 401) == (MAY[route] is not ALL), route


@pytest.mark.parametrize("who", ["silent", "heard"])
def test_a_visit_looks_at_what_is_a_workers_and_changes_nothing(
    receiver: LiveReceiver, halves: dict[str, dict[str, str]], who: str
) -> None:
    known = halves[f"the worker {'lives' if who == 'heard' else 'is silent'}, no session"]
    visit = {**known, "X-Worker-Session": f"{'5' * 16}.visit"}
    for route, status in statuses(receiver, visit).items():
        if MAY[route] is WORK:
            assert status == (200 if route.startswith("GET ") else 400), route
        else:
            assert (status == 401) == (MAY[route] is not ALL), route


def test_a_code_that_is_replayed_with_another_key_opens_nothing(receiver: LiveReceiver) -> None:
    code = receiver.invited("replayed")
    assert receiver.enrol("replayed", code, "the-true-key").status == 200
    stolen = receiver.enrol("replayed", code, "a-key-of-somebody-else")
    assert (stolen.status, stolen.json["code"]) == (401, "invite_refused")


def test_a_lacking_right_is_named_beside_those_there_are(
    receiver: LiveReceiver, known: dict[str, dict[str, str]]
) -> None:
    reply = receiver.call("POST", "/v1/invite", {"worker": "w9"}, known["steward"])
    assert (reply.status, reply.json["code"]) == (403, "forbidden")
    assert "wants the role enrol and operator steward has operate" in reply.json["detail"]


def test_the_history_names_the_operator(receiver: LiveReceiver, known: dict[str, dict[str, str]]) -> None:
    receiver.call("POST", "/v1/invite", {"worker": "by-name"}, known["doorman"])
    [event] = receiver.call("GET", "/v1/events?worker=by-name", headers=known["reader"]).json["events"]
    assert (event["actor"], event["action"]) == ("operator:doorman", "invite")


def test_a_worker_may_not_speak_for_an_operator_or_a_reader_in_the_other_header(
    receiver: LiveReceiver, known: dict[str, dict[str, str]]
) -> None:
    secret = known["worker"]["Authorization"].removeprefix("Bearer ")
    assert receiver.call("GET", "/v1/jobs", headers={"X-Operator-Token": secret}).status == 401


# ---- on loopback


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    tokens = {**TOKENS, "worker": "a-shared-token-for-tests"}
    with LiveReceiver(tmp_path_factory.mktemp("loopback"), manifest(9), tokens) as live:
        yield live


def test_on_loopback_the_shared_token_names_hosts_that_did_not_enrol_and_an_enrolled_worker_only_itself(
    loopback: LiveReceiver,
) -> None:
    shared, own = {"Authorization": "Bearer a-shared-token-for-tests"}, loopback.enrolled("w1")
    found = [
        loopback.call("POST", "/v1/job/claim", loopback.claim_body(worker), headers).status
        for worker, headers in (("w1", shared), ("w2", shared), ("w1", own), ("w2", own))
    ]
    assert found == [403, 200, 200, 403]
    loopback.call("POST", "/v1/worker/w1/revoke", operator=True)
    assert loopback.call("POST", "/v1/job/claim", loopback.claim_body("w1"), shared).status == 200


def test_a_key_of_its_own_is_for_enrolled_workers_alone(loopback: LiveReceiver) -> None:
    shared = {"Authorization": "Bearer a-shared-token-for-tests"}
    reply = loopback.call("POST", "/v1/secret", {"secret_sha256": "0" * 64}, shared)
    assert (reply.status, reply.json["code"]) == (403, "forbidden")


def test_a_certificate_of_its_own_is_for_enrolled_workers_alone(
    loopback: LiveReceiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loopback.fleet.authority, "issue", Issuer(Site(tmp_path).authority))
    shared = {"Authorization": "Bearer a-shared-token-for-tests"}
    reply = loopback.call("POST", "/v1/worker/certificate", {}, shared)
    assert (reply.status, reply.json["code"]) == (403, "forbidden")
