"""What stands between a client and the application: TLS, or a proxy that speaks it.

Owns the headers in which a trusted proxy describes the client, and who may send them. Guarantees that such a header is
believed only from an address in `trusted_proxies` that shows the proxy's token. From anybody else it ends the request,
in every spelling, so that a forged header is never taken for a real one.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Iterable
from typing import Final

from training.fleet.api.arrival import PEER, Arrival
from training.fleet.model.errors import AuthenticationError, ConfigurationError, ForbiddenError, RequestError
from training.fleet.tls import peers

URI: Final = b"x-client-cert-uri"
FINGERPRINT: Final = b"x-client-cert-fingerprint"
TOKEN: Final = b"x-cis490-proxy"
FORWARDED: Final = b"x-forwarded-for"
MARKS: Final = (URI, FINGERPRINT, TOKEN)
"""Headers that only the proxy may send, once each."""
TWINS: Final = frozenset(name.replace(b"-", b"_") for name in MARKS)
"""Spellings that some servers take for the same."""
_KNOWN: Final = frozenset(MARKS) | TWINS


class Front:
    """Who stands in front.

    Args:
        proxies: Addresses or networks of the proxy; none for a receiver that is reached directly.
        token: What the proxy shows besides; every user of the proxy's host has its address.

    Raises:
        ConfigurationError: One of them is no address, or only one of both is given.
    """

    def __init__(self, proxies: Iterable[str] = (), token: str | None = None) -> None:
        self._networks = [_network(text) for text in proxies]
        self._digest = None if token is None else hashlib.sha256(token.encode()).digest()
        if bool(self._networks) != (token is not None):
            raise ConfigurationError(
                "only one of trusted_proxies and CIS490_PROXY_TOKEN is set",
                "set both, and give the proxy the same token, or neither",
            )

    def look(self, arrival: Arrival) -> None:
        """Note what is known about the client: its certificate, and the address that a proxy names.

        Raises:
            RequestError: A header is there in a second spelling.
            ForbiddenError: Somebody else than the proxy sent what only the proxy may send.
            AuthenticationError: The certificate has ended since the connection began.
        """
        scope, head = arrival.scope, arrival.head
        if _KNOWN.isdisjoint(head):
            peer = (scope.get("state") or {}).get("peer")
            if peer is not None:
                if peer.ends_at <= time.time():
                    raise AuthenticationError("the certificate has ended since this connection began", "renew it")
                scope[PEER] = peer
            return
        self._demand_proxy(arrival)
        uri, fingerprint = (head.get(name, b"").decode("latin-1") for name in (URI, FINGERPRINT))
        scope[PEER] = peers.from_proxy(uri, fingerprint)
        forwarded = head.get(FORWARDED, b"").decode("latin-1").rpartition(",")[2].strip()
        if forwarded:
            scope["client"] = (forwarded[:64], 0)

    def _demand_proxy(self, arrival: Arrival) -> None:
        if not TWINS.isdisjoint(arrival.head):
            raise RequestError("a header of the proxy came with underscores in its name", "leave it out")
        client = arrival.scope.get("client")
        address = str(client[0]) if client else ""
        shown = hashlib.sha256(arrival.head.get(TOKEN, b"")).digest()
        if self._digest is None or not hmac.compare_digest(shown, self._digest) or not self._is_proxy(address):
            names = ", ".join(name.decode() for name in MARKS)
            raise ForbiddenError(
                f"only the proxy in front of this receiver may send {names}, with its token",
                "leave them out, or set trusted_proxies and CIS490_PROXY_TOKEN",
            )

    def _is_proxy(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(found in network for network in self._networks)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigurationError(
            f"trusted_proxies names {ascii(text)[:80]}", expected="an address or a network, such as 127.0.0.1"
        ) from None
