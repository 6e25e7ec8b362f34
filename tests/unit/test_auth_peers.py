"""What a client certificate says, and how a caller is held to it."""

from __future__ import annotations

import hashlib
import math

import pytest

from training.fleet.auth import Credentials, Identity, Peer, Registry
from training.fleet.model.errors import AuthenticationError, CertificateMismatchError, RevokedError
from training.fleet.tls.peers import from_certificate, from_proxy, worker_uri

MARK = "a" * 64
KEY = b"the-key-of-tower"
BEARER = b"Bearer cis490w.ab12." + KEY


def identity(public_id: str, worker: str, revoked_at: str | None = None) -> Identity:
    return Identity(public_id, worker, hashlib.sha256(KEY).hexdigest(), revoked_at=revoked_at)


def credentials(**more: object) -> Credentials:
    registry = Registry()
    for one in (identity("ab12", "tower"), identity("cd34", "other"), identity("ef56", "gone", "2026-01-01T00:00:00Z")):
        registry.put(one)
    return Credentials(registry=registry, **more)  # type: ignore[arg-type]


def certificate(*uris: str) -> dict[str, object]:
    names = (("DNS", "tower.lab"), *(("URI", uri) for uri in uris))
    return {"subjectAltName": names, "notAfter": "Nov 26 00:00:00 2026 GMT"}


@pytest.mark.parametrize(
    ("uris", "worker", "enrolment"),
    [
        (["urn:cis490:worker:tower:ab12"], "tower", "ab12"),
        (["urn:cis490:worker:tower"], "tower", ""),
        (["urn:cis490:worker:tower:ab12", "urn:cis490:worker:other:cd34"], "", ""),
        (["urn:cis490:worker:tower:ab12:cd34"], "", ""),
        (["urn:cis490:worker:Tower"], "", ""),
        (["urn:cis490:worker:tower\n"], "", ""),
        (["xurn:cis490:worker:tower"], "", ""),
        ([], "", ""),
    ],
    ids=[
        "both",
        "the name alone",
        "two workers",
        "a part too many",
        "capitals",
        "a line end",
        "another scheme",
        "none",
    ],
)
def test_the_uri_of_a_certificate_names_one_worker_or_nobody(uris: list[str], worker: str, enrolment: str) -> None:
    fingerprint = hashlib.sha256(b"der").hexdigest()
    assert from_certificate(certificate(*uris), b"der") == Peer(worker, fingerprint, enrolment, 1795651200.0)


def test_the_uri_that_is_issued_is_the_one_that_is_read() -> None:
    assert from_proxy(worker_uri("gpu-tower.lab", "ab12"), MARK) == Peer("gpu-tower.lab", MARK, "ab12", math.inf)


@pytest.mark.parametrize(
    ("uri", "fingerprint"),
    [
        ("", ""),
        ("{http.request.tls.client.san.uris.0}", "{http.request.tls.client.fingerprint}"),
        ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("urn:cis490:worker:tower:ab12", "<nil>"),
        ("urn:cis490:worker:tower:ab12", MARK.upper()),
        ("urn:cis490:worker:tower:ab12", MARK + "\n"),
    ],
    ids=["empty", "placeholders of Caddy 2.6", "the digest of nothing of Caddy 2.11", "nil", "capitals", "a line end"],
)
def test_what_a_proxy_says_without_a_certificate_is_no_certificate(uri: str, fingerprint: str) -> None:
    assert from_proxy(uri, fingerprint) is None


def test_a_certificate_without_the_uri_is_one_and_nobodys() -> None:
    assert from_proxy("{http.request.tls.client.san.uris.0}", MARK) == Peer("", MARK)


def test_secret_and_certificate_of_one_enrolment_are_one_caller() -> None:
    for peer in (Peer("tower", MARK, "ab12"), Peer("tower", MARK)):
        caller = credentials().demand("worker", BEARER, None, peer)
        assert (caller.name, caller.identity) == ("tower", "ab12")


@pytest.mark.parametrize(
    ("peer", "error"),
    [
        (Peer("other", MARK, "cd34"), CertificateMismatchError),
        (Peer("other", MARK), CertificateMismatchError),
        (Peer("tower", MARK, "cd34"), CertificateMismatchError),
        (Peer("tower", MARK, "9999"), CertificateMismatchError),
        (Peer("", MARK), CertificateMismatchError),
        (Peer("gone", MARK, "ef56"), RevokedError),
    ],
    ids=["another worker", "another worker by name", "another enrolment", "an unknown one", "nobody", "a revoked one"],
)
def test_a_certificate_of_another_is_refused(peer: Peer, error: type[Exception]) -> None:
    with pytest.raises(error):
        credentials().demand("worker", BEARER, None, peer)


def test_where_workers_share_a_token_the_certificate_names_the_caller() -> None:
    shared = credentials(worker=hashlib.sha256(b"shared").digest())
    assert shared.demand("worker", b"Bearer shared", None, Peer("tower", MARK, "ab12")).name == "tower"
    assert shared.demand("worker", b"Bearer shared", None).name == ""
    with pytest.raises(RevokedError):
        shared.demand("worker", b"Bearer shared", None, Peer("gone", MARK, "ef56"))
    for nobody in (Peer("", MARK), Peer("gone", MARK), Peer("tower", MARK, "cd34")):
        with pytest.raises(AuthenticationError, match="who is not enrolled here"):
            shared.demand("worker", b"Bearer shared", None, nobody)


def test_a_certificate_is_demanded_of_workers_alone() -> None:
    strict = credentials(certificate_wanted=True)
    with pytest.raises(AuthenticationError, match="none came"):
        strict.demand("worker", BEARER, None)
    assert strict.demand("read", None, None).kind == "anyone"
    assert strict.demand("anyone", None, None).kind == "anyone"
