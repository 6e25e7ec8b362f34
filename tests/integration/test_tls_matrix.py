"""Who gets in over TLS and who does not: directly, and behind both kinds of Caddy with the example's configuration."""

from __future__ import annotations

import contextlib
import functools
import http.client
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from live_receiver import manifest
from tls_doors import CADDIES, PROXY, READ, Door, Files, Worker, direct, fronted
from tls_site import Site

from training.fleet.tls.peers import worker_uri

WAYS: dict[str, Callable[[Path, str], AbstractContextManager[Door]]] = {
    "direct, httptools": functools.partial(direct, parser="httptools"),
    "direct, h11": functools.partial(direct, parser="h11"),
    **{name: functools.partial(fronted, caddy=name) for name in CADDIES},
}
CUT = (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)
"""How a connection ends that was refused in the handshake; the network may lose the reason."""


@pytest.fixture(scope="module", params=WAYS)
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with WAYS[request.param](tmp_path_factory.mktemp("door"), manifest(40)) as opened:
        yield opened


@pytest.fixture(scope="module")
def tower(door: Door) -> Worker:
    return door.enrol("tower")


@pytest.fixture(scope="module")
def other(door: Door) -> Worker:
    return door.enrol("other")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("foreign"))


def test_the_certificate_and_the_secret_of_one_worker_get_in(door: Door, tower: Worker) -> None:
    assert door.claim(tower, tower.files).status == 200


def test_without_a_certificate_a_worker_is_told_that_it_needs_one(door: Door, tower: Worker) -> None:
    answer = door.claim(tower)
    assert (answer.status, answer.json["code"]) == (401, "unauthenticated")
    assert "must show a client certificate here and none came" in answer.json["detail"]


def test_without_a_certificate_everybody_reaches_what_needs_none(door: Door) -> None:
    assert door.ask("GET", "/healthz").status == 200
    assert door.ask("GET", "/v1/ca").body == door.site.ca.read_bytes()
    assert door.ask("GET", "/v1/jobs", headers={"Authorization": f"Bearer {READ}"}).status == 200
    assert door.ask("GET", "/v1/jobs").status == 401


def bad_files(case: str, site: Site, foreign: Site, worker: Worker) -> Files:
    uri = worker_uri(worker.name, worker.id)
    if case == "foreign authority":
        return foreign.worker(worker.name, uri)
    if case == "expired":
        return site.worker(worker.name, uri, "expired", ends_s=-60)
    return site.worker(worker.name, uri, "early", begins_s=3600) if case == "not yet valid" else site.server("server")


@pytest.mark.parametrize("case", ["foreign authority", "expired", "not yet valid", "certificate of a server"])
def test_a_bad_certificate_ends_in_the_handshake(door: Door, foreign: Site, tower: Worker, case: str) -> None:
    shown = bad_files(case, door.site, foreign, tower)
    with pytest.raises(CUT):
        door.claim(tower, shown)
    with pytest.raises(CUT):
        door.ask("GET", "/healthz", shown=shown)


def test_under_another_name_than_the_certificates_no_connection_comes_about(door: Door) -> None:
    connection = door.connect(name="other.lab")
    with pytest.raises(ssl.SSLError):
        connection.connect()
    connection.close()


def test_the_certificate_of_one_worker_with_the_secret_of_another_is_refused_and_noted(
    door: Door, tower: Worker, other: Worker
) -> None:
    answer = door.claim(tower, other.files)
    assert (answer.status, answer.json["code"]) == (403, "certificate_mismatch")
    assert "that of worker other and the secret that of tower" in answer.json["detail"]
    assert [line.partition(" (from")[0] for line in door.events("tower") if line.startswith("refuse")] == [
        "refuse: its secret came with the certificate of other"
    ]


def test_a_certificate_that_names_no_worker_gets_nobody_in(door: Door, tower: Worker) -> None:
    answer = door.claim(tower, door.site.worker("tower", "urn:somebody:else", "nameless"))
    assert (answer.status, answer.json["code"]) == (403, "certificate_mismatch")


def test_a_certificate_of_the_sites_own_that_names_no_enrolment_counts_by_its_name(
    door: Door, tower: Worker, other: Worker
) -> None:
    files = door.site.worker("tower", "urn:cis490:worker:tower", "by-name")
    assert door.claim(tower, files).status == 200
    assert door.claim(other, files).status == 403


def test_a_revoked_worker_is_out_at_once_with_a_certificate_that_is_good(door: Door, tower: Worker) -> None:
    gone = door.enrol("gone")
    connection = door.connect(gone.files)
    connection.request("POST", f"/v1/job/{'0' * 64}/heartbeat", b'{"lease_id": "lease-0001"}', gone.headers)
    assert connection.getresponse().read() and door.claim(gone, gone.files).status == 200
    assert door.operate("/v1/worker/gone/revoke").status == 200
    connection.request("POST", f"/v1/job/{'0' * 64}/heartbeat", b'{"lease_id": "lease-0001"}', gone.headers)
    assert connection.getresponse().status == 401
    connection.close()
    answer = door.claim(gone, gone.files)
    assert (answer.status, answer.json["code"]) == (401, "revoked")
    mixed = door.claim(tower, gone.files)
    assert (mixed.status, mixed.json["code"]) == (401, "revoked")


def test_the_certificate_of_an_earlier_enrolment_ends_with_it(door: Door) -> None:
    before = door.enrol("again")
    after = door.enrol("again")
    answer = door.claim(after, before.files)
    assert (answer.status, answer.json["code"]) == (401, "revoked")
    assert door.claim(after, after.files).status == 200


def test_a_renewed_certificate_and_the_one_before_are_both_good(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door.receiver.fleet.authority.issue, "_life_s", 3600.0)
    worker = door.enrol("renewing")
    monkeypatch.setattr(door.receiver.fleet.authority.issue, "_clock", lambda: time.time() + 1201)
    answer = door.ask("POST", "/v1/worker/certificate", headers=worker.headers, shown=worker.files)
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    renewed = door.keep("renewed", answer.json)
    assert renewed[0].read_bytes() != worker.files[0].read_bytes()
    assert door.claim(worker, renewed).status == 200
    assert door.claim(worker, worker.files).status == 200
    assert door.ask("POST", "/v1/worker/certificate", headers=worker.headers).status == 401


def test_asking_for_certificates_without_end_gives_one(door: Door) -> None:
    worker = door.enrol("greedy")
    asked = [door.ask("POST", "/v1/worker/certificate", headers=worker.headers, shown=worker.files) for _ in range(9)]
    assert [answer.status for answer in asked] == [200] * 9
    assert {answer.json["certificate_pem"] for answer in asked} == {worker.files[0].read_text()}
    assert {answer.json["key_pem"] for answer in asked} == {worker.files[1].read_text()}
    assert [line for line in door.events("greedy") if line.startswith("renew")] == []


def test_a_flood_of_headers_is_refused(door: Door) -> None:
    with contextlib.suppress(*CUT):
        assert door.ask("GET", "/healthz", more=(("X-Long", "a" * 40_000),)).status in (400, 431)
    with contextlib.suppress(*CUT):
        assert door.ask("GET", "/healthz", more=tuple((f"X-{i}", "a") for i in range(100))).status in (400, 431)
    assert door.ask("GET", "/healthz").status == 200


URI, FINGERPRINT, TOKEN = "X-Client-Cert-Uri", "X-Client-Cert-Fingerprint", "X-Cis490-Proxy"
SPELLINGS = {
    "as Caddy writes them": (URI, FINGERPRINT, TOKEN),
    "lower case": (URI.lower(), FINGERPRINT.lower(), TOKEN.lower()),
    "upper case": (URI.upper(), FINGERPRINT.upper(), TOKEN.upper()),
    "underscores": tuple(name.replace("-", "_") for name in (URI, FINGERPRINT, TOKEN)),
    "half underscores": ("X_Client-Cert-Uri", "X_Client-Cert-Fingerprint", "X_Cis490-Proxy"),
}


def forged(worker: Worker, spelling: str, token: str) -> tuple[tuple[str, str], ...]:
    values = (worker_uri(worker.name, worker.id), "a" * 64, token)
    return tuple(zip(SPELLINGS[spelling], values, strict=True))


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("token", ["guessed", PROXY], ids=["token guessed", "token known"])
def test_forged_headers_let_nobody_in(door: Door, tower: Worker, other: Worker, spelling: str, token: str) -> None:
    """Even who knows the proxy's token gains nothing by sending it through the proxy, or to a receiver without one."""
    more = forged(tower, spelling, token)
    twice = (*more, *more)
    for shown, headers in ((None, more), (None, twice), (other.files, more), (other.files, twice)):
        answer = door.claim(tower, shown, more=headers)
        assert answer.status in (400, 401, 403), answer.body


@pytest.mark.parametrize("way", CADDIES)
def test_who_goes_past_the_proxy_is_not_taken_for_it(way: str, tmp_path: Path) -> None:
    """Every user of the receiver's host has the proxy's address, so the token tells the two apart."""
    with fronted(tmp_path, manifest(9), way) as door:
        tower = door.enrol("tower")
        body = door.receiver.claim_body("tower")

        def past(headers: dict[str, str]) -> tuple[int, str]:
            answer = door.receiver.call("POST", "/v1/job/claim", body, tower.headers | headers)
            return answer.status, answer.json.get("code", "")

        assert past({}) == (401, "unauthenticated")
        for spelling in SPELLINGS:
            status, _ = past(dict(forged(tower, spelling, "guessed")))
            assert status in (400, 401, 403)
        assert past(dict(forged(tower, "lower case", "guessed"))) == (403, "forbidden")
        assert past(dict(forged(tower, "underscores", PROXY))) == (400, "bad_request")
        assert past({URI: worker_uri("tower", tower.id), FINGERPRINT: "a" * 64}) == (403, "forbidden")
        double = b"".join(
            b"%s: %s\r\n" % (name.encode(), value.encode()) for name, value in forged(tower, "lower case", PROXY) * 2
        )
        head = b"POST /v1/job/claim HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n%s\r\n" % double
        assert door.receiver.raw(head).startswith(b"HTTP/1.1 400")
        # What is forged here is what only the proxy can say; so this is what it may say.
        assert past(dict(forged(tower, "lower case", PROXY)))[0] == 200
        other = door.enrol("other")
        told = dict(forged(other, "lower case", PROXY)) | {"X-Forwarded-For": "198.51.100.1, 203.0.113.9"}
        assert past(told) == (403, "certificate_mismatch")
        assert "refuse: its secret came with the certificate of other (from 203.0.113.9)" in door.events("tower")
        log = (tmp_path / "caddy.log").read_text()
        for secret in (PROXY, READ, tower.headers["Authorization"].partition(" ")[2]):
            assert secret not in log


def test_a_connection_that_outlives_its_certificate_ends_with_it(tmp_path: Path) -> None:
    with direct(tmp_path, manifest(3)) as door:
        tower = door.enrol("tower")
        short = door.site.worker("tower", worker_uri("tower", tower.id), "short", ends_s=5)
        connection = door.connect(short)
        statuses, until = [], time.monotonic() + 30
        while 401 not in statuses and time.monotonic() < until:
            connection.request("POST", f"/v1/job/{'0' * 64}/heartbeat", b'{"lease_id": "lease-0001"}', tower.headers)
            answer = connection.getresponse()
            statuses.append(answer.status)
            said = answer.read()
            time.sleep(0.05)
        connection.close()
    assert statuses[0] == 404
    assert b"has ended since this connection began" in said


def test_optional_certificates_are_held_to_their_worker_and_not_demanded(tmp_path: Path) -> None:
    with direct(tmp_path, manifest(9), clients="optional") as door:
        tower, other = door.enrol("tower"), door.enrol("other")
        assert door.claim(tower).status == 200
        assert door.claim(tower, tower.files).status in (200, 204)
        assert door.claim(tower, other.files).status == 403
