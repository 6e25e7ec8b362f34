"""How a worker gets, changes and loses its identity, over real sockets with a real database."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_receiver import LiveReceiver, Reply, manifest

from training.fleet import wire
from training.fleet.auth import Credentials
from training.fleet.errors import UnavailableError

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
    assert "worker revoke" in other.json["detail"]


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
    code, real, failures = receiver.invited("w1"), receiver.fleet.queue.enrol, iter(range(9))

    def enrol(tx: Any, message: wire.Enrol) -> Any:
        if next(failures) < 8:
            raise UnavailableError("the disk does not answer")
        return real(tx, message)

    monkeypatch.setattr(receiver.fleet.queue, "enrol", enrol)
    assert [receiver.enrol("w1", code, "key").status for _ in range(9)] == [503] * 8 + [200]


def test_wrong_codes_from_everywhere_are_no_news_after_a_while(receiver: LiveReceiver) -> None:
    for number in range(60):
        receiver.fleet.limiter.enter(f"192.0.2.{number}")
    assert receiver.enrol("w1", "x" * 32, "key").status == 401
    assert trail(receiver) == []


def test_an_issuer_gives_what_mutual_tls_needs_and_its_certificate_is_noted(receiver: LiveReceiver) -> None:
    receiver.fleet.ca_pem = "the receiver's authority"
    assert receiver.enrol("plain", receiver.invited("plain"), "key").json["ca_pem"] == "the receiver's authority"
    assert receiver.call("GET", "/v1/ca").body == b"the receiver's authority"
    receiver.fleet.ca_sha256 = "c" * 64
    receiver.fleet.issuer = lambda worker, _id: wire.Material("ca", f"certificate of {worker}", "its key", "f" * 64)
    invited = receiver.call("POST", "/v1/invite", {"worker": "w1"}, operator=True).json
    assert invited["ca_sha256"] == "c" * 64
    reply = receiver.enrol("w1", invited["code"], "key")
    found = [reply.json[name] for name in ("ca_pem", "certificate_pem", "key_pem")]
    assert found == ["ca", "certificate of w1", "its key"]
    assert reply.headers["cache-control"] == "no-store"
    identities = receiver.call("GET", "/v1/identities", headers=READ).json["identities"]
    assert [(one["worker"], one["fingerprint"]) for one in identities] == [("plain", None), ("w1", "f" * 64)]


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
    new = {"Authorization": old["Authorization"].replace("old-key", "new-key")}
    digest = {"secret_sha256": hashlib.sha256(b"new-key").hexdigest()}
    assert "x-rotate-secret" not in claim(receiver, "w1", old).headers
    assert receiver.call("POST", "/v1/worker/w1/rotate", operator=True).json["state"] == "rotating"
    assert claim(receiver, "w1", old).headers["x-rotate-secret"] == "1"
    assert claim(receiver, "w1", new).status == 401
    for _ in range(2):
        assert receiver.call("POST", "/v1/secret", digest, old).status == 200
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
        while not len(live.fleet.lot):
            pass
        assert live.call("POST", "/v1/worker/w1/revoke", operator=True).status == 200
        parked.join(10)
        assert [(reply.status, reply.json["code"]) for reply in replies] == [(401, "revoked")]


def test_only_who_shows_the_right_secret_learns_that_it_was_revoked(receiver: LiveReceiver) -> None:
    headers = receiver.enrolled("w1", "right-key")
    receiver.call("POST", "/v1/worker/w1/revoke", operator=True)
    wrong = {"Authorization": headers["Authorization"].replace("right-key", "wrong-key")}
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
