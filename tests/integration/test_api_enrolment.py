"""How a worker gets, changes and loses its identity, over real sockets with a real database."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_receiver import LiveReceiver, Reply, manifest

from training.fleet.api.front import Front
from training.fleet.auth import Credentials
from training.fleet.model.errors import UnavailableError
from training.fleet.wire.identities import Enrol, Material

TOKENS = {"operator": "an-operator-token-for-tests", "read": "a-read-token-for-tests"}
READ = {"Authorization": "Bearer a-read-token-for-tests"}
PLACE_A, PLACE_B = "a" * 32, "b" * 32


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path, manifest(5), credentials=Credentials.of(TOKENS, enrolled_only=True)) as live:
        yield live


def claim(live: LiveReceiver, worker: str, headers: dict[str, str], *held: str, **more: str) -> Reply:
    return live.call("POST", "/v1/job/claim", live.claim_body(worker, held), {**headers, **more})


def beat(live: LiveReceiver, lease: dict[str, Any], headers: dict[str, str]) -> Reply:
    return live.call("POST", f"/v1/job/{lease['job_id']}/heartbeat", {"lease_id": lease["lease_id"]}, headers)


def trail(live: LiveReceiver, **query: str) -> list[tuple[str, str, str | None]]:
    """Return who did what to which worker, oldest first."""
    text = "&".join(f"{name}={value}" for name, value in query.items())
    events = live.call("GET", f"/v1/events?{text}", headers=READ).json["events"]
    return [(event["actor"], event["action"], event["worker"]) for event in reversed(events) if event["worker"]]


# ---- one-time codes


def test_a_code_is_exchanged_for_an_identity_that_may_work(receiver: LiveReceiver) -> None:
    headers = receiver.enrolled("w1")
    assert claim(receiver, "w1", headers).status == 200
    assert trail(receiver) == [("operator:operator", "invite", "w1"), ("worker:w1", "enrol", "w1")]


def test_the_same_exchange_asked_again_is_answered_again_and_has_one_effect(receiver: LiveReceiver) -> None:
    code = receiver.invited("w1")
    first, second = receiver.enrol("w1", code, "key-one"), receiver.enrol("w1", code, "key-one")
    assert (first.status, second.status, first.json) == (200, 200, second.json)
    assert [action for _, action, _ in trail(receiver)] == ["invite", "enrol"]


def test_a_code_is_good_for_one_key_alone(receiver: LiveReceiver) -> None:
    code = receiver.invited("w1")
    assert receiver.enrol("w1", code, "key-one").status == 200
    other = receiver.enrol("w1", code, "key-two")
    assert (other.status, other.json["code"]) == (401, "invite_refused")
    assert "identity revoke" in other.json["detail"]


def test_a_code_is_good_for_its_host_alone(receiver: LiveReceiver) -> None:
    code = receiver.invited("w1")
    other = receiver.enrol("w2", code, "key")
    assert (other.status, other.json["code"]) == (403, "forbidden")
    assert "w1" not in other.json["detail"]
    assert receiver.enrol("w1", code, "key").status == 200


def test_a_newer_code_makes_the_unused_one_void(receiver: LiveReceiver) -> None:
    first, second = receiver.invited("w1"), receiver.invited("w1")
    assert receiver.enrol("w1", first, "key").status == 401
    assert receiver.enrol("w1", second, "key").status == 200


def test_of_two_hosts_with_one_code_one_enrols(receiver: LiveReceiver) -> None:
    code, replies = receiver.invited("w1"), list[Reply]()
    gate = threading.Barrier(6)

    def race(number: int) -> None:
        gate.wait(10)
        replies.append(receiver.enrol("w1", code, f"key-{number}"))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    gate.wait(10)
    for thread in threads:
        thread.join()
    assert sorted(reply.status for reply in replies) == [200, 401, 401, 401, 401]


def test_enrolling_anew_takes_the_identity_before_back(receiver: LiveReceiver) -> None:
    old = receiver.enrolled("w1", "old-key")
    new = receiver.enrolled("w1", "new-key")
    gone = claim(receiver, "w1", old)
    assert (gone.status, gone.json["code"]) == (401, "revoked")
    assert claim(receiver, "w1", new).status == 200
    assert [action for _, action, _ in trail(receiver)] == ["invite", "enrol", "invite", "replace", "enrol"]
    states = [one["state"] for one in receiver.call("GET", "/v1/identities", headers=READ).json["identities"]]
    assert sorted(states) == ["enrolled", "revoked"]


def test_a_host_that_enrolls_again_on_another_machine_works_there_at_once(receiver: LiveReceiver) -> None:
    """The old machine's session does not hold an identity that it has no more."""
    for key, place in (("one", PLACE_A), ("two", PLACE_B), ("three", PLACE_A)):
        headers = {**receiver.enrolled("w1", key), "X-Worker-Session": f"{place}.{'1' * 32}"}
        assert claim(receiver, "w1", headers).status == 200


def test_wrong_codes_are_limited_and_the_right_one_is_good_afterwards(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(receiver.fleet.limiter, "_clock", lambda: now[0])
    code = receiver.invited("w1")
    wrong = [receiver.enrol("w1", f"{'x' * 22}{number}", "key") for number in range(7)]
    assert [reply.status for reply in wrong] == [401] * 5 + [429] * 2
    assert (wrong[-1].json["code"], wrong[-1].headers["retry-after"]) == ("too_many_tries", "60")
    assert receiver.enrol("w1", code, "key").status == 429
    now[0] += 61
    assert receiver.enrol("w1", code, "key").status == 200
    assert trail(receiver) == [
        ("operator:operator", "invite", "w1"),
        ("anyone", "refuse", "w1"),
        ("worker:w1", "enrol", "w1"),
    ]


def test_a_code_that_could_not_be_looked_at_is_not_counted_as_wrong(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, real, failures = receiver.invited("w1"), receiver.fleet.queue.identities.enrol, iter(range(9))

    def enrol(tx: Any, message: Enrol) -> Any:
        if next(failures) < 8:
            raise UnavailableError("the disk does not answer")
        return real(tx, message)

    monkeypatch.setattr(receiver.fleet.queue.identities, "enrol", enrol)
    assert [receiver.enrol("w1", code, "key").status for _ in range(9)] == [503] * 8 + [200]


def test_an_address_without_a_credential_brings_about_few_events_whatever_names_it_gives(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    for clock in (receiver.fleet.limiter, receiver.fleet.news):
        monkeypatch.setattr(clock, "_clock", lambda: now[0])
    for number in range(100):
        assert receiver.enrol(f"host-{number}", "x" * 32, "key").status == 401
        now[0] += 30
    assert [action for _, action, _ in trail(receiver)] == ["refuse"] * 5


def test_behind_the_proxy_events_are_counted_by_the_client_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    front, now = Front(["127.0.0.1"], "a-proxy-token-for-tests"), [1000.0]
    credentials = Credentials.of(TOKENS, enrolled_only=True)
    with LiveReceiver(tmp_path, manifest(0), credentials=credentials, front=front) as live:
        for clock in (live.fleet.limiter, live.fleet.news):
            monkeypatch.setattr(clock, "_clock", lambda: now[0])

        def guess(number: int, client: str) -> int:
            now[0] += 30
            message = {"code": "x" * 32, "worker": f"host-{number}", "secret_sha256": "0" * 64}
            told = {"X-Cis490-Proxy": "a-proxy-token-for-tests", "X-Forwarded-For": f"203.0.113.7, {client}"}
            return live.call("POST", "/v1/enrol", message, told).status

        statuses = {guess(number, f"2001:db8:1:2::{number:x}") for number in range(20)}
        assert statuses | {guess(number, "198.51.100.1") for number in range(20)} == {401}
        events = live.call("GET", "/v1/events", headers=READ).json["events"]
    clients = [event["why"].rpartition("(from ")[2] for event in events if event["action"] == "refuse"]
    assert sorted(client.startswith("2001:db8:1:2:") for client in clients) == [False] * 5 + [True] * 5


def test_wrong_codes_from_everywhere_are_no_news_after_a_while(receiver: LiveReceiver) -> None:
    for number in range(60):
        receiver.fleet.news.is_news(f"192.0.2.{number}", "refuse", "w1", known=False)
    assert receiver.enrol("w1", "x" * 32, "key").status == 401
    assert trail(receiver) == []
    mine, other = receiver.enrolled("w1"), receiver.enrolled("w2")
    assert beat(receiver, claim(receiver, "w1", mine).json, other).status == 409
    assert trail(receiver)[-1] == ("worker:w2", "refuse", "w2"), "who has a credential is told of all the same"


def test_an_exchange_that_is_asked_again_gives_the_identity_to_nobody_else(receiver: LiveReceiver) -> None:
    code = receiver.invited("w1")
    secret = f"cis490w.{receiver.enrol('w1', code, 'key').json['id']}.key"
    places = [
        {"Authorization": f"Bearer {secret}", "X-Worker-Session": f"{place}.{'1' * 32}"} for place in (PLACE_A, PLACE_B)
    ]
    assert claim(receiver, "w1", places[0]).status == 200
    assert receiver.enrol("w1", code, "key").status == 200
    assert [claim(receiver, "w1", place).status for place in reversed(places)] == [409, 200]


def test_an_issuer_gives_what_mutual_tls_needs_and_its_certificate_is_noted(receiver: LiveReceiver) -> None:
    receiver.fleet.authority.pem = "the receiver's authority"
    assert receiver.enrol("plain", receiver.invited("plain"), "key").json["ca_pem"] == "the receiver's authority"
    assert receiver.call("GET", "/v1/ca").body == b"the receiver's authority"
    receiver.fleet.authority.sha256 = "c" * 64
    receiver.fleet.authority.issue = lambda worker, _id: Material("ca", f"certificate of {worker}", "its key", "f" * 64)
    invited = receiver.call("POST", "/v1/invite", {"worker": "w1"}, operator=True).json
    assert invited["ca_sha256"] == "c" * 64
    reply = receiver.enrol("w1", invited["code"], "key")
    found = [reply.json[name] for name in ("ca_pem", "certificate_pem", "key_pem")]
    assert found == ["ca", "certificate of w1", "its key"]
    assert reply.headers["cache-control"] == "no-store"
    identities = receiver.call("GET", "/v1/identities", headers=READ).json["identities"]
    assert [(one["worker"], one["fingerprint"]) for one in identities] == [("plain", None), ("w1", "f" * 64)]


def test_an_enrolled_worker_gets_its_next_certificate_where_the_receiver_issues_them(receiver: LiveReceiver) -> None:
    headers = receiver.enrolled("w1")
    refused = receiver.call("POST", "/v1/worker/certificate", {}, headers)
    assert (refused.status, refused.json["code"]) == (404, "not_found")
    assert "this receiver issues no certificates" in refused.json["detail"]
    none = receiver.call("GET", "/v1/ca")
    assert (none.status, none.json["code"]) == (404, "not_found")
    receiver.fleet.authority.issue = lambda worker, _id: Material("ca", f"next of {worker}", "its key", "f" * 64)
    reply = receiver.call("POST", "/v1/worker/certificate", {}, headers)
    assert (reply.status, reply.json["certificate_pem"]) == (200, "next of w1")
    assert reply.headers["cache-control"] == "no-store"
    [one] = receiver.call("GET", "/v1/identities", headers=READ).json["identities"]
    assert one["fingerprint"] == "f" * 64


@pytest.mark.parametrize("query", ["job=12", "worker=Not%20A%20Host", "who=me", "limit=0", "cursor=s1"])
def test_a_question_about_the_trail_that_makes_no_sense_is_422(receiver: LiveReceiver, query: str) -> None:
    reply = receiver.call("GET", f"/v1/events?{query}", headers=READ)
    assert (reply.status, reply.json["code"]) == (422, "invalid_message")


def test_a_worker_is_named_by_a_host_name(receiver: LiveReceiver) -> None:
    reply = receiver.call("POST", "/v1/worker/Not-A-Host/revoke", operator=True)
    assert (reply.status, reply.json["code"]) == (404, "not_found")
    assert "is no name of a worker" in reply.json["detail"]


# ---- what an enrolled worker may touch


def test_an_enrolled_worker_claims_under_its_own_name_alone(receiver: LiveReceiver) -> None:
    reply = claim(receiver, "w2", receiver.enrolled("w1"))
    assert (reply.status, reply.json["code"]) == (403, "forbidden")
    assert "--name w1" in reply.json["detail"]


def test_a_worker_touches_only_the_leases_it_holds(receiver: LiveReceiver) -> None:
    mine, other = receiver.enrolled("w1"), receiver.enrolled("w2")
    lease = claim(receiver, "w1", mine).json
    job, lease_id = f"/v1/job/{lease['job_id']}", lease["lease_id"]
    replies = [
        beat(receiver, lease, other),
        receiver.call("POST", f"{job}/complete", {"lease_id": lease_id, "artifact": "0" * 64}, other),
        receiver.call("POST", f"{job}/fail", {"lease_id": lease_id, "kind": "trainer_error"}, other),
        receiver.call("PUT", f"/v1/model/{'0' * 64}", b"bytes", {**other, "X-Lease-Id": lease_id}),
    ]
    assert [(reply.status, reply.json["code"]) for reply in replies] == [(409, "stale_lease")] * 4
    assert beat(receiver, lease, mine).status == 200
    assert trail(receiver)[-1] == ("worker:w2", "refuse", "w2")


# ---- rotation


def test_a_new_key_takes_over_at_its_first_use_and_not_before(receiver: LiveReceiver) -> None:
    old = receiver.enrolled("w1", "old-key")
    new = {**old, "Authorization": old["Authorization"].replace("old-key", "new-key")}
    digest = {"secret_sha256": hashlib.sha256(b"new-key").hexdigest()}
    assert "x-rotate-secret" not in claim(receiver, "w1", old).headers
    assert receiver.call("POST", "/v1/worker/w1/rotate", operator=True).json["state"] == "rotating"
    assert claim(receiver, "w1", old).headers["x-rotate-secret"] == "1"
    assert claim(receiver, "w1", new).status == 401
    for _ in range(2):
        taken = receiver.call("POST", "/v1/secret", digest, old)
        assert (taken.status, "x-rotate-secret" in taken.headers) == (200, False)
    assert claim(receiver, "w1", old).headers["x-rotate-secret"] == "1"
    assert "x-rotate-secret" not in claim(receiver, "w1", new).headers
    assert claim(receiver, "w1", old).status == 401
    assert [action for _, action, _ in trail(receiver)] == ["invite", "enrol", "rotate", "renew"]


# ---- revocation


def test_a_revoked_worker_holds_nothing_and_its_job_is_free_at_once(receiver: LiveReceiver) -> None:
    headers = receiver.enrolled("w1")
    lease = claim(receiver, "w1", headers).json
    assert beat(receiver, lease, headers).status == 200
    for _ in range(2):
        assert receiver.call("POST", "/v1/worker/w1/revoke", operator=True).json["state"] == "revoked"
    gone = beat(receiver, lease, headers)
    assert (gone.status, gone.json["code"]) == (401, "revoked")
    assert "cis490-jobs invite w1" in gone.json["detail"]
    job = receiver.call("GET", f"/v1/job/{lease['job_id']}", headers=READ).json
    assert (job["job"]["status"], job["job"]["attempts_used"]) == ("pending", 0)
    assert [event["action"] for event in job["events"]] == ["add", "claim", "start", "release"]
    assert job["events"][-1]["actor"] == "operator:operator"


def test_a_parked_claim_ends_when_its_worker_is_revoked(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(0), credentials=Credentials.of(TOKENS, enrolled_only=True)) as live:
        headers, replies = live.enrolled("w1"), list[Reply]()
        parked = threading.Thread(
            target=lambda: replies.append(claim(live, "w1", {**headers, "Prefer": "wait=30"})), daemon=True
        )
        parked.start()
        end = time.monotonic() + 10
        while not len(live.fleet.lot):
            assert time.monotonic() < end
        assert live.call("POST", "/v1/worker/w1/revoke", operator=True).status == 200
        parked.join(10)
        assert [(reply.status, reply.json["code"]) for reply in replies] == [(401, "revoked")]


def test_a_parked_claim_without_a_secret_gets_nothing_once_its_host_has_enrolled(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(0)) as live:
        replies = list[Reply]()
        parked = threading.Thread(target=lambda: replies.append(claim(live, "w1", {"Prefer": "wait=30"})), daemon=True)
        parked.start()
        while not len(live.fleet.lot):
            pass
        headers = live.enrolled("w1")
        live.manifest.write_text(manifest(1))
        assert live.call("POST", "/v1/manifest/reload", {}, operator=True).status == 200
        parked.join(10)
        assert [(reply.status, reply.json["code"]) for reply in replies] == [(403, "forbidden")]
        assert claim(live, "w1", headers).status == 200


def test_only_who_shows_the_right_secret_learns_that_it_was_revoked(receiver: LiveReceiver) -> None:
    headers = receiver.enrolled("w1", "right-key")
    receiver.call("POST", "/v1/worker/w1/revoke", operator=True)
    wrong = {**headers, "Authorization": headers["Authorization"].replace("right-key", "wrong-key")}
    assert [claim(receiver, "w1", shown).json["code"] for shown in (headers, wrong)] == ["revoked", "unauthenticated"]


@pytest.mark.parametrize("verb", ["revoke", "rotate"])
def test_a_worker_that_never_enrolled_is_404(receiver: LiveReceiver, verb: str) -> None:
    reply = receiver.call("POST", f"/v1/worker/nobody/{verb}", operator=True)
    assert (reply.status, reply.json["code"]) == (404, "not_found")


# ---- two machines with one identity


def test_after_a_restart_of_the_receiver_the_second_machine_is_still_the_second(tmp_path: Path) -> None:
    credentials, session = Credentials.of(TOKENS, enrolled_only=True), "X-Worker-Session"
    with LiveReceiver(tmp_path, manifest(2), credentials=credentials) as live:
        headers = live.enrolled("w1")
        assert claim(live, "w1", headers, **{session: f"{PLACE_A}.{'1' * 32}"}).status == 200
    with LiveReceiver(tmp_path, manifest(2), credentials=credentials) as live:
        found = [claim(live, "w1", headers, **{session: f"{place}.{'2' * 32}"}).status for place in (PLACE_B, PLACE_A)]
    assert found == [409, 200]


def test_a_second_machine_with_one_identity_is_refused_and_told_of(receiver: LiveReceiver) -> None:
    headers = receiver.enrolled("w1")
    session = "X-Worker-Session"
    first, again, copy = f"{PLACE_A}.{'1' * 32}", f"{PLACE_A}.{'2' * 32}", f"{PLACE_B}.{'3' * 32}"
    assert claim(receiver, "w1", headers, **{session: first}).status == 200
    refused = claim(receiver, "w1", headers, **{session: copy})
    assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (409, "identity_in_use", "15")
    assert claim(receiver, "w1", headers, **{session: again}).status == 200, "a restart in the same place takes over"
    assert claim(receiver, "w1", headers, **{session: first}).status == 409, "the start before is over"
    [view] = receiver.call("GET", "/v1/workers", headers=READ).json["workers"]
    assert (view["identity"], len(view["alerts"])) == ("enrolled", 1)
    assert trail(receiver)[-1] == ("worker:w1", "clash", "w1")
    assert [action for _, action, _ in trail(receiver)].count("clash") == 1


SECRET_ALONE = {
    "no session": "",
    "a malformed one": "here",
    "another place": f"{PLACE_B}.{'3' * 32}",
    "a visit from another host": f"{'b' * 16}.visit",
}


@pytest.mark.parametrize("session", SECRET_ALONE.values(), ids=SECRET_ALONE)
def test_a_secret_alone_takes_nothing_from_the_worker_that_lives_and_is_told_of(
    receiver: LiveReceiver, session: str
) -> None:
    headers = receiver.enrolled("w1", "its-own-key")
    lease = claim(receiver, "w1", headers, **{"X-Worker-Session": f"{PLACE_A}.{'1' * 32}"}).json
    home = {**headers, "X-Worker-Session": f"{PLACE_A}.{'1' * 32}"}
    thief = {**headers, "X-Worker-Session": session}
    if not session:
        del thief["X-Worker-Session"]
    digest = {"secret_sha256": hashlib.sha256(b"a-key-of-the-thief").hexdigest()}
    replies = [
        claim(receiver, "w1", thief),
        beat(receiver, lease, thief),
        receiver.call("POST", "/v1/secret", digest, thief),
        receiver.call("POST", "/v1/worker/certificate", headers=thief),
        receiver.call("GET", "/v1/worker/self", headers=thief),
        receiver.call("GET", "/v1/worker.pyz", headers=thief),
    ]
    assert [(reply.status, reply.json["code"]) for reply in replies] == [(409, "identity_in_use")] * 6
    assert beat(receiver, lease, home).status == 200
    assert [action for _, action, _ in trail(receiver)] == ["invite", "enrol", "clash"]
    health = receiver.call("GET", "/v1/health", headers=READ).json
    assert health["status"] == "degraded"
    assert [text.partition(";")[0] for text in health["problems"]] == [
        "another machine shows the identity of worker w1"
    ]
    assert b"cis490_problems 1.0\n" in receiver.call("GET", "/metrics", headers=READ).body
    assert receiver.call("GET", "/readyz").status == 200, "who has a secret alone must not take the receiver away"


def test_who_says_nothing_of_its_session_is_told_what_is_missing(receiver: LiveReceiver) -> None:
    headers = receiver.enrolled("w1")
    del headers["X-Worker-Session"]
    refused = claim(receiver, "w1", headers)
    assert (refused.status, refused.json["code"]) == (400, "bad_request")
    assert "found none in X-Worker-Session; expected PLACE.START, 32 hex digits each" in refused.json["detail"]
    assert [action for _, action, _ in trail(receiver)] == ["invite", "enrol"]
    assert receiver.call("GET", "/v1/health", headers=READ).json["problems"] == []


def test_a_program_of_the_workers_host_may_look_while_the_worker_runs_and_take_nothing(receiver: LiveReceiver) -> None:
    headers = receiver.enrolled("w1")
    home = {**headers, "X-Worker-Session": f"{PLACE_A}.{'1' * 32}"}
    visit = {**headers, "X-Worker-Session": f"{'a' * 16}.visit"}
    assert receiver.call("GET", "/v1/worker/self", headers=visit).json["worker"] == "w1"
    lease = claim(receiver, "w1", home).json
    assert receiver.call("GET", "/v1/worker/self", headers=visit).json["alerts"] == []
    assert receiver.call("GET", "/v1/worker.pyz", headers=visit).status == 200
    assert claim(receiver, "w1", visit).status == 400
    assert beat(receiver, lease, home).status == 200
    assert [action for _, action, _ in trail(receiver)] == ["invite", "enrol"]


def test_a_key_that_nobody_asked_for_does_not_lock_the_worker_out(receiver: LiveReceiver) -> None:
    """While the worker is silent, who has its secret is served; a key of its own would keep the worker out for good."""
    headers = receiver.enrolled("w1", "its-own-key")
    digest = {"secret_sha256": hashlib.sha256(b"a-key-of-the-thief").hexdigest()}
    refused = receiver.call("POST", "/v1/secret", digest, headers)
    assert (refused.status, refused.json["code"]) == (409, "wrong_state")
    assert "cis490-jobs identity rotate w1" in refused.json["detail"]
    assert receiver.call("GET", "/v1/worker/self", headers=headers).status == 200


def test_the_next_key_shown_in_another_place_does_not_take_over(receiver: LiveReceiver) -> None:
    home = {**receiver.enrolled("w1", "old-key"), "X-Worker-Session": f"{PLACE_A}.{'1' * 32}"}
    receiver.call("POST", "/v1/worker/w1/rotate", operator=True)
    digest = {"secret_sha256": hashlib.sha256(b"new-key").hexdigest()}
    assert receiver.call("POST", "/v1/secret", digest, home).status == 200
    new = {**home, "Authorization": home["Authorization"].replace("old-key", "new-key")}
    assert claim(receiver, "w1", {**new, "X-Worker-Session": f"{PLACE_B}.{'1' * 32}"}).status == 409
    visit = {**new, "X-Worker-Session": f"{'a' * 16}.visit"}
    assert receiver.call("GET", "/v1/worker/self", headers=visit).status == 200
    assert claim(receiver, "w1", home).status == 200, "the key before is good until its worker uses the next"
    assert [action for _, action, _ in trail(receiver)].count("renew") == 0
