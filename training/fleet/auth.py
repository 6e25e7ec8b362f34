"""Who may do what: credentials and roles.

Owns the comparison of tokens. Guarantees that a token is compared in constant time as the digest of its bytes, whatever
bytes a client sends, and that no error tells a token. Leaves reading secrets to `settings` and headers to `api`.

Roles: an operator changes the queue (`X-Operator-Token`), a worker trains (`Authorization: Bearer`), a reader looks
(`Authorization: Bearer` with the read token, or the operator's token). On loopback, workers and readers need a token
only when one is set; beyond loopback the receiver does not start without all three.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from training.fleet.errors import AuthenticationError, ConfigurationError, Fault, ForbiddenError

Role = Literal["operator", "worker", "read", "anyone"]

TOKENS: Final[dict[str, str]] = {
    "operator": "CIS490_OPERATOR_TOKEN",
    "worker": "CIS490_WORKER_TOKEN",
    "read": "CIS490_READ_TOKEN",
}
"""Role to the variable that holds its token."""
MIN_WIDE_TOKEN: Final = 16
"""Least length of a token where the receiver listens beyond loopback."""


def _digest(token: str | None) -> bytes | None:
    return None if token is None else hashlib.sha256(token.encode()).digest()


def _same(digest: bytes, token: bytes) -> bool:
    return hmac.compare_digest(digest, hashlib.sha256(token).digest())


@dataclass(frozen=True, slots=True)
class Credentials:
    """The digests of the tokens that are set; None where a role has no token.

    Attributes:
        operator: SHA-256 of the operator's token.
        worker: SHA-256 of the workers' token.
        read: SHA-256 of the readers' token.
    """

    operator: bytes | None = field(default=None, repr=False)
    worker: bytes | None = field(default=None, repr=False)
    read: bytes | None = field(default=None, repr=False)

    @classmethod
    def of(cls, tokens: Mapping[str, str | None]) -> Credentials:
        """Return the credentials for tokens by role.

        Raises:
            ConfigurationError: Two roles share a token, so that one could do the other's work.
        """
        given = [token for token in tokens.values() if token is not None]
        if len(set(given)) != len(given):
            raise ConfigurationError(
                f"two of {', '.join(TOKENS.values())} hold the same token; expected one per role; make new ones"
            )
        return cls(*(_digest(tokens.get(role)) for role in TOKENS))

    def demand(self, role: Role, authorization: bytes | None, operator_token: bytes | None) -> None:
        """Let a caller with the right to a role pass.

        Args:
            role: What the route asks for.
            authorization: Value of the `Authorization` header, None without one.
            operator_token: Value of the `X-Operator-Token` header, None without one.

        Raises:
            AuthenticationError: The token is missing or wrong.
            ForbiddenError: The role needs a token and the receiver has none set.
        """
        if role == "operator":
            self._demand_operator(operator_token)
        elif role == "worker" and self.worker is not None:
            _demand_bearer(self.worker, authorization, TOKENS["worker"])
        elif role == "read" and self.read is not None:
            by_operator = operator_token is not None and self.operator is not None
            if not (by_operator and _same(self.operator or b"", operator_token or b"")):
                _demand_bearer(self.read, authorization, TOKENS["read"])

    def _demand_operator(self, token: bytes | None) -> None:
        if self.operator is None:
            raise ForbiddenError(
                "this receiver has no operator token, so nobody may change its queue; "
                "set CIS490_OPERATOR_TOKEN for the receiver and start it again"
            )
        if token is None:
            raise AuthenticationError(
                "the X-Operator-Token header is missing; set CIS490_OPERATOR_TOKEN to the receiver's operator token"
            )
        if not _same(self.operator, token):
            raise AuthenticationError(
                "the operator token is not this receiver's; check CIS490_OPERATOR_TOKEN on both sides"
            )


def _demand_bearer(digest: bytes, authorization: bytes | None, variable: str) -> None:
    scheme, _, token = (authorization or b"").partition(b" ")
    if scheme.lower() != b"bearer" or not token:
        raise AuthenticationError(f"no bearer token came; set {variable} to the receiver's token of that name")
    if not _same(digest, token.strip(b" \t")):
        raise AuthenticationError(f"the bearer token is not this receiver's; check {variable} on both sides")


def is_loopback(host: str) -> bool:
    """Return whether an address or name can only be reached from this host."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def demand_wide_tokens(address: str, tokens: Mapping[str, str | None]) -> None:
    """Refuse to serve beyond loopback without every token.

    Args:
        address: Host part of the address to listen on.
        tokens: Tokens by role, None where unset.

    Raises:
        ConfigurationError: One is missing or shorter than 16 characters; all of them are named.
    """
    if is_loopback(address):
        return
    faults = tuple(
        Fault(variable, "not set" if not tokens.get(role) else "a short token", f"{MIN_WIDE_TOKEN} or more characters")
        for role, variable in TOKENS.items()
        if len(tokens.get(role) or "") < MIN_WIDE_TOKEN
    )
    if faults:
        names = ", ".join(fault.place for fault in faults)
        raise ConfigurationError(
            f"{address} can be reached from other hosts and {names} is missing or shorter than {MIN_WIDE_TOKEN} "
            "characters; set it, or listen on 127.0.0.1",
            faults=faults,
        )


def host_name(header: bytes) -> str:
    """Return the host part of a `Host` header, lower case, without port and brackets."""
    text = header.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.rpartition(":")[0] if text.count(":") == 1 else text
