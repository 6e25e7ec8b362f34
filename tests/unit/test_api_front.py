"""Whom the edge believes what only a proxy can say."""

from __future__ import annotations

import time
from typing import Any

import pytest
from starlette.types import Message

from training.fleet.api.arrival import PEER, Arrival
from training.fleet.api.front import Front
from training.fleet.auth import Peer
from training.fleet.model.errors import (
    AuthenticationError,
    ConfigurationError,
    FleetError,
    ForbiddenError,
    RequestError,
)
from training.fleet.tls.peers import worker_uri

TOKEN = "the-token-of-the-proxy"
MARK = "a" * 64
TOLD = {
    b"x-client-cert-uri": worker_uri("tower", "ab12").encode(),
    b"x-client-cert-fingerprint": MARK.encode(),
    b"x-cis490-proxy": TOKEN.encode(),
}


async def never() -> Message:
    raise AssertionError("nothing is read")


def looked(front: Front, client: Any = ("192.0.2.1", 40000), **more: Any) -> Message:
    """Return the scope after a request was looked at."""
    headers = {**TOLD, **more.pop("headers", {})} if more.pop("told", True) else more.pop("headers", {})
    scope: Message = {"type": "http", "client": client, "headers": list(headers.items()), **more}
    front.look(Arrival(scope, never))
    return scope


@pytest.mark.parametrize(
    ("proxies", "address"),
    [
        (["192.0.2.1"], "192.0.2.1"),
        (["192.0.2.0/24"], "192.0.2.255"),
        (["198.51.100.7", "192.0.2.1"], "192.0.2.1"),
        (["2001:db8::/64"], "2001:db8::7"),
        (["fe80::1"], "fe80::1%eth0"),
    ],
)
def test_what_the_proxy_says_is_believed_from_its_address(proxies: list[str], address: str) -> None:
    scope = looked(Front(proxies, TOKEN), (address, 40000))
    assert scope[PEER] == Peer("tower", MARK, "ab12")
    assert scope["client"] == (address, 40000)


@pytest.mark.parametrize("address", ["192.0.2.2", "198.51.100.1", "127.0.0.1", "::1", "2001:db8::7", "", "a-socket"])
def test_what_only_the_proxy_may_say_is_refused_from_any_other_address_even_with_its_token(address: str) -> None:
    with pytest.raises(ForbiddenError, match="only the proxy in front of this receiver may send"):
        looked(Front(["192.0.2.1"], TOKEN), (address, 40000))


def test_a_caller_without_an_address_is_not_the_proxy() -> None:
    with pytest.raises(ForbiddenError):
        looked(Front(["192.0.2.1"], TOKEN), None)


@pytest.mark.parametrize("token", [b"", b"guessed", TOKEN.encode() + b" ", TOKEN.upper().encode()])
def test_the_address_of_the_proxy_without_its_token_is_not_enough(token: bytes) -> None:
    with pytest.raises(ForbiddenError):
        looked(Front(["192.0.2.1"], TOKEN), headers={b"x-cis490-proxy": token})


def test_a_receiver_without_a_proxy_believes_nobody() -> None:
    for token in (b"", TOKEN.encode()):
        with pytest.raises(ForbiddenError):
            looked(Front(), headers={b"x-cis490-proxy": token})


@pytest.mark.parametrize("header", sorted(TOLD))
def test_each_header_of_the_proxy_ends_the_request_of_another_by_itself(header: bytes) -> None:
    with pytest.raises(ForbiddenError):
        looked(Front(), told=False, headers={header: TOLD[header]})


@pytest.mark.parametrize("header", sorted(TOLD))
def test_a_header_of_the_proxy_in_a_second_spelling_is_refused_even_from_the_proxy(header: bytes) -> None:
    spelling = header.replace(b"-", b"_")
    for front in (Front(), Front(["192.0.2.1"], TOKEN)):
        for told in (True, False):
            with pytest.raises(RequestError, match="underscores"):
                looked(front, told=told, headers={spelling: b"x"})


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (b"203.0.113.9", ("203.0.113.9", 0)),
        (b"198.51.100.1, 203.0.113.9", ("203.0.113.9", 0)),
        (b" ", ("192.0.2.1", 40000)),
        (b"a" * 100, ("a" * 64, 0)),
    ],
)
def test_the_address_that_the_proxy_itself_saw_is_the_callers(forwarded: bytes, client: tuple[str, int]) -> None:
    scope = looked(Front(["192.0.2.1"], TOKEN), headers={b"x-forwarded-for": forwarded})
    assert scope["client"] == client


def test_an_address_that_another_forwards_is_not_believed() -> None:
    scope = looked(Front(), told=False, headers={b"x-forwarded-for": b"203.0.113.9"})
    assert scope["client"] == ("192.0.2.1", 40000)


def test_a_certificate_that_tls_verified_counts_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 5000.0)
    peer = Peer("tower", MARK, "ab12", 5000.1)
    assert looked(Front(), told=False, state={"peer": peer})[PEER] == peer
    for ends_at in (5000.0, 4000.0):
        with pytest.raises(AuthenticationError, match="has ended since this connection began"):
            looked(Front(), told=False, state={"peer": Peer("tower", MARK, "ab12", ends_at)})


@pytest.mark.parametrize("state", [{}, {"state": None}, {"state": {}}, {"state": {"peer": None}}])
def test_without_a_certificate_there_is_no_peer(state: dict[str, Any]) -> None:
    assert PEER not in looked(Front(), told=False, **state)


@pytest.mark.parametrize(
    ("proxies", "token", "said"),
    [
        (["192.0.2.1"], None, "only one of trusted_proxies and CIS490_PROXY_TOKEN"),
        ([], TOKEN, "only one of trusted_proxies and CIS490_PROXY_TOKEN"),
        (["proxy.lab"], TOKEN, "trusted_proxies names 'proxy.lab'"),
    ],
)
def test_half_a_proxy_is_refused(proxies: list[str], token: str | None, said: str) -> None:
    with pytest.raises(FleetError, match=said) as caught:
        Front(proxies, token)
    assert isinstance(caught.value, ConfigurationError)
