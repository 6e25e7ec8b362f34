"""Claims that wait for a job."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from live_receiver import HEAD, LiveReceiver, manifest, read_answer

JOBS = 30


@pytest.fixture(scope="module", params=["h11", "httptools"])
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    """A receiver whose jobs are all cancelled, so that a requeue makes one appear."""
    text = manifest(JOBS, head=HEAD + '[hosts.no-gbt]\ndeny_jobs = ["gbt"]\n')
    with LiveReceiver(tmp_path_factory.mktemp("parked"), text, http_parser=request.param) as live:
        cancel_all(live)
        yield live


@pytest.fixture
def job(receiver: LiveReceiver) -> str:
    """A job that waits to be requeued."""
    return jobs(receiver)[0]


def cancel_all(receiver: LiveReceiver) -> None:
    for job in receiver.call("GET", "/v1/jobs?status=pending").json["jobs"]:
        assert receiver.call("POST", f"/v1/job/{job['id']}/cancel", operator=True).status == 200


def jobs(receiver: LiveReceiver) -> list[str]:
    return [job["id"] for job in receiver.call("GET", "/v1/jobs?status=cancelled").json["jobs"]]


def requeue(receiver: LiveReceiver, job: str) -> None:
    assert receiver.call("POST", f"/v1/job/{job}/requeue", operator=True).status == 200


def park(receiver: LiveReceiver, worker: str = "") -> socket.socket:
    """Send a claim that waits, and return its connection once it is parked."""
    body = json.dumps(receiver.claim_body(worker)).encode()
    before = len(receiver.fleet.lot)
    link = receiver.connect()
    link.sendall(
        f"POST /v1/job/claim HTTP/1.1\r\nHost: 127.0.0.1\r\nPrefer: wait=30\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    wait_for(lambda: len(receiver.fleet.lot) == before + 1 and not busy(receiver))
    return link


def busy(receiver: LiveReceiver) -> bool:
    """Say whether the claim of somebody parked is still on its way through the queue."""
    receiver.call("GET", "/v1/jobs?limit=1")
    return False


def wait_for(condition: Any) -> None:
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def silent(link: socket.socket) -> bool:
    return read_answer(link, 0.2) == b""


def lease_of(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    assert b"preference-applied: wait" in head.lower()
    lease: dict[str, Any] = json.loads(body)
    return lease


def test_a_job_that_is_there_is_given_at_once(receiver: LiveReceiver, job: str) -> None:
    requeue(receiver, job)
    reply = receiver.call("POST", "/v1/job/claim", receiver.claim_body(), {"Prefer": "wait=30"})
    assert (reply.status, reply.json["job_id"]) == (200, job)
    assert len(receiver.fleet.lot) == 0


def test_a_job_that_appears_goes_to_who_waited_longest_and_to_nobody_else(receiver: LiveReceiver, job: str) -> None:
    with park(receiver) as first, park(receiver) as second:
        requeue(receiver, job)
        assert lease_of(read_answer(first))["job_id"] == job
        assert silent(second)
        assert len(receiver.fleet.lot) == 1
    wait_for(lambda: len(receiver.fleet.lot) == 0)


def test_two_jobs_wake_two(receiver: LiveReceiver) -> None:
    two = jobs(receiver)[:2]
    with park(receiver) as first, park(receiver) as second, park(receiver) as third:
        for job in two:
            requeue(receiver, job)
        assert {lease_of(read_answer(link))["job_id"] for link in (first, second)} == set(two)
        assert silent(third)
    wait_for(lambda: len(receiver.fleet.lot) == 0)


def test_who_cannot_take_the_job_is_not_woken(receiver: LiveReceiver, job: str) -> None:
    with park(receiver, "no-gbt") as unfit, park(receiver) as fit:
        requeue(receiver, job)
        lease_of(read_answer(fit))
        assert silent(unfit)
    wait_for(lambda: len(receiver.fleet.lot) == 0)


def test_who_hung_up_takes_no_job(receiver: LiveReceiver, job: str) -> None:
    gone = park(receiver, "gone")
    with park(receiver, "here") as here:
        gone.close()
        requeue(receiver, job)
        assert lease_of(read_answer(here))["job_id"] == job


def test_a_hang_up_in_the_same_moment_takes_no_job(receiver: LiveReceiver, job: str) -> None:
    """The hang-up is only in the kernel's buffer when the wake-up comes: it is looked for before the queue is asked."""
    link = park(receiver, "gone")
    done = threading.Event()

    def close_and_publish() -> None:
        link.close()
        receiver.fleet.lot.publish({1: 1})
        done.set()

    # The notice of the queue is held back, so that the only wake-up is the one after the hang-up.
    publish = receiver.fleet.lot.publish
    receiver.fleet.lot.publish = lambda _ready: None  # type: ignore[method-assign]
    requeue(receiver, job)
    busy(receiver)
    receiver.fleet.lot.publish = publish  # type: ignore[method-assign]
    receiver.loop.call_soon_threadsafe(close_and_publish)
    assert done.wait(5)
    wait_for(lambda: len(receiver.fleet.lot) == 0)
    assert receiver.call("GET", f"/v1/job/{job}").json["job"]["status"] == "pending"
    cancel_all(receiver)


def test_an_offer_to_who_hung_up_goes_to_the_next(receiver: LiveReceiver, job: str) -> None:
    gone = park(receiver, "gone")
    with park(receiver, "next") as here:
        receiver.loop.call_soon_threadsafe(gone.close)
        requeue(receiver, job)
        lease_of(read_answer(here))


def test_the_wait_ends_with_204(receiver: LiveReceiver) -> None:
    reply = receiver.call("POST", "/v1/job/claim", receiver.claim_body(), {"Prefer": "respond-async, wait=1"})
    assert (reply.status, reply.headers["retry-after"], reply.headers["preference-applied"]) == (204, "1", "wait")
    assert len(receiver.fleet.lot) == 0


@pytest.mark.parametrize("prefer", ["wait=x", "wait", "return=minimal", "wait=-1", "wait=0", "wait=99999999999"])
def test_an_odd_preference_is_ignored(receiver: LiveReceiver, prefer: str) -> None:
    reply = receiver.call("POST", "/v1/job/claim", receiver.claim_body(), {"Prefer": prefer})
    assert (reply.status, reply.headers["retry-after"]) == (204, "10")
    assert "preference-applied" not in reply.headers


def test_a_drain_releases_who_waits(receiver: LiveReceiver) -> None:
    with park(receiver) as link:
        receiver.loop.call_soon_threadsafe(receiver.fleet.drain)
        answer = read_answer(link)
        receiver.fleet.draining = False
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 5" in answer.lower()


def test_a_released_job_wakes_who_waits(receiver: LiveReceiver, job: str) -> None:
    requeue(receiver, job)
    lease = receiver.claim()
    with park(receiver) as link:
        body = {"lease_id": lease["lease_id"], "kind": "preempted"}
        receiver.call("POST", f"/v1/job/{job}/fail", body)
        again = lease_of(read_answer(link))
        assert (again["job_id"], again["fence"]) == (job, lease["fence"] + 1)


def test_a_reload_wakes_who_waits(receiver: LiveReceiver) -> None:
    with park(receiver) as link:
        text = receiver.manifest.read_text() + '[[jobs]]\nmodel = "mlp"\nmode = "oracle"\n'
        receiver.manifest.write_text(text)
        assert receiver.call("POST", "/v1/manifest/reload", operator=True).json["counts"]["added"] == 1
        assert lease_of(read_answer(link))["spec"]["model"] == "mlp"


def test_an_older_call_of_the_same_worker_is_answered_204_at_once_and_the_newest_gets_the_job(
    receiver: LiveReceiver, job: str
) -> None:
    first = park(receiver, "again")
    second = send_parked(receiver, "again")
    answer = read_answer(first)
    assert answer.startswith(b"HTTP/1.1 204 ")
    assert b"retry-after: 1" in answer.lower()
    with first, second:
        wait_for(lambda: len(receiver.fleet.lot) == 1 and not busy(receiver))
        requeue(receiver, job)
        assert lease_of(read_answer(second))["job_id"] == job


def test_a_claim_that_does_not_wait_leaves_the_call_that_does(receiver: LiveReceiver) -> None:
    """Only a newer call that waits takes its place."""
    link = park(receiver, "twice")
    reply = receiver.call("POST", "/v1/job/claim", receiver.claim_body("twice"))
    assert (reply.status, "preference-applied" in reply.headers) == (204, False)
    assert len(receiver.fleet.lot) == 1
    assert silent(link)
    link.close()
    wait_for(lambda: len(receiver.fleet.lot) == 0)


def test_calls_of_one_name_from_two_places_both_wait(receiver: LiveReceiver) -> None:
    spots = [f"X-Worker-Session: {place * 32}.{'0' * 32}" for place in ("a", "b")]
    links = [send_parked(receiver, "twice", spot) for spot in spots]
    wait_for(lambda: len(receiver.fleet.lot) == 2)
    for link in links:
        link.close()
    wait_for(lambda: len(receiver.fleet.lot) == 0)


def test_three_hundred_idle_workers_wait_and_one_job_wakes_one(receiver: LiveReceiver, job: str) -> None:
    links = [send_parked(receiver, f"idle{number}") for number in range(300)]
    wait_for(lambda: len(receiver.fleet.lot) == 300)
    busy(receiver)
    requeue(receiver, job)
    wait_for(lambda: len(receiver.fleet.lot) == 299)
    assert receiver.call("GET", f"/v1/job/{job}").json["job"]["host"].startswith("idle")
    for link in links:
        link.close()
    wait_for(lambda: len(receiver.fleet.lot) == 0)


def send_parked(receiver: LiveReceiver, worker: str, *lines: str) -> socket.socket:
    body = json.dumps(receiver.claim_body(worker)).encode()
    link = receiver.connect()
    head = ["POST /v1/job/claim HTTP/1.1", "Host: localhost", "Prefer: wait=30", *lines, f"Content-Length: {len(body)}"]
    link.sendall("\r\n".join([*head, "", ""]).encode() + body)
    return link
