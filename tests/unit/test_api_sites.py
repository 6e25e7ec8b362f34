"""Which pages may change something: every `Origin` a browser could send, against every way to reach the receiver."""

from __future__ import annotations

from typing import Any

import pytest

from training.fleet.api.arrival import Arrival
from training.fleet.api.sites import demand_own_page
from training.fleet.model.errors import ForbiddenError

NAMES = frozenset({"fleet.example"})
DIRECT, BEHIND, BARE = b"127.0.0.1:8445", b"fleet.example", b"127.0.0.1"

OWN = {
    "no header at all": (DIRECT, None, "http"),
    "the address itself": (DIRECT, b"http://127.0.0.1:8445", "http"),
    "in capitals": (b"LocalHost:8445", b"HTTP://localHOST:8445", "http"),
    "an IPv6 address": (b"[::1]:8445", b"http://[::1]:8445", "http"),
    "the usual port on one side": (b"fleet.example:443", b"https://fleet.example", "http"),
    "https": (b"fleet.example:8445", b"https://fleet.example:8445", "https"),
    "a proxy that passes Host on": (BEHIND, b"https://fleet.example", "http"),
    "a proxy that does not, with the name configured": (DIRECT, b"https://fleet.example", "http"),
    "a name that is not configured, but is the Host": (b"other.example", b"https://other.example", "http"),
}
FOREIGN = {
    "another site": (DIRECT, b"https://evil.example", "http"),
    "null": (DIRECT, b"null", "http"),
    "nothing": (DIRECT, b"", "http"),
    "another port of this host": (DIRECT, b"http://127.0.0.1:3000", "http"),
    "another name of this host": (DIRECT, b"http://localhost:8445", "http"),
    "another port of a configured name": (DIRECT, b"https://fleet.example:3000", "http"),
    "the usual port where the Host has another": (b"127.0.0.1:8445", b"http://127.0.0.1", "http"),
    "http to https": (b"fleet.example:8445", b"http://fleet.example:8445", "https"),
    "a name that begins like this one": (BARE, b"http://127.0.0.1.evil.example", "http"),
    "a name that ends like this one": (BEHIND, b"https://evil-fleet.example", "http"),
    "this one as a user": (BEHIND, b"https://fleet.example@evil.example", "http"),
    "this one with a path": (BEHIND, b"https://fleet.example/", "http"),
    "two": (BEHIND, b"https://fleet.example https://evil.example", "http"),
    "two with a comma": (BEHIND, b"https://fleet.example,https://evil.example", "http"),
    "a newline behind": (BEHIND, b"https://fleet.example\n", "http"),
    "another scheme": (BEHIND, b"chrome-extension://fleet.example", "http"),
    "beside a Host that is no name": (b"user@fleet.example", b"https://other.example", "http"),
    "no scheme": (BEHIND, b"fleet.example", "http"),
}


def request(host: bytes, origin: bytes | None, scheme: str, site: bytes | None = None) -> Arrival:
    headers = {b"host": host}
    if origin is not None:
        headers[b"origin"] = origin
    if site is not None:
        headers[b"sec-fetch-site"] = site
    scope: dict[str, Any] = {"scheme": scheme, "headers": list(headers.items())}
    return Arrival(scope, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("host", "origin", "scheme"), OWN.values(), ids=OWN)
def test_a_page_of_the_receiver_and_a_program_pass(host: bytes, origin: bytes | None, scheme: str) -> None:
    demand_own_page(request(host, origin, scheme), NAMES)


@pytest.mark.parametrize(("host", "origin", "scheme"), FOREIGN.values(), ids=FOREIGN)
def test_a_page_of_another_site_is_refused(host: bytes, origin: bytes, scheme: str) -> None:
    with pytest.raises(ForbiddenError, match="a page of another site"):
        demand_own_page(request(host, origin, scheme), NAMES)


@pytest.mark.parametrize("site", [b"cross-site", b"same-site", b"", b"Same-Origin", b"none, none"])
def test_an_own_origin_does_not_outweigh_a_foreign_site(site: bytes) -> None:
    with pytest.raises(ForbiddenError):
        demand_own_page(request(DIRECT, b"http://127.0.0.1:8445", "http", site), NAMES)


def test_an_own_site_does_not_outweigh_a_foreign_origin() -> None:
    with pytest.raises(ForbiddenError):
        demand_own_page(request(DIRECT, b"https://evil.example", "http", b"same-origin"), NAMES)
