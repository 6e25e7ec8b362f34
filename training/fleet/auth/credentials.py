"""Credentials and roles: from what a request shows to who asks.

Guarantees that a token is compared in constant time as the digest of its bytes, whatever bytes a client sends, and
that no error tells a token.

Roles: an operator changes the queue (`X-Operator-Token`), a worker trains (`Authorization: Bearer`), a reader looks
(`Authorization: Bearer` with the read token, or an operator's token). Operators are several, each with the rights it
was given: `read`, `operate`, `enrol`. An enrolled worker shows a secret of its own and is held to its name. On
loopback, workers and readers need a token only when one is set, and workers may share one; beyond loopback every worker
is enrolled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from training.fleet.auth.addresses import is_loopback
from training.fleet.auth.identities import START, Registry, demand_living
from training.fleet.model.errors import (
    AuthenticationError,
    CertificateMismatchError,
    ConfigurationError,
    Fault,
    ForbiddenError,
)
from training.fleet.model.names import is_sha256

Role = Literal["operator", "worker", "read", "anyone"]
Right = Literal["read", "operate", "enrol"]
Kind = Literal["operator", "worker", "reader", "anyone"]

RIGHTS: Final[tuple[Right, ...]] = get_args(Right)
TOKENS: Final[dict[str, str]] = {
    "operator": "CIS490_OPERATOR_TOKEN",
    "worker": "CIS490_WORKER_TOKEN",
    "read": "CIS490_READ_TOKEN",
}
"""Role to the variable that holds its token."""
MIN_WIDE_TOKEN: Final = 16
"""Least length of a token where the receiver listens beyond loopback."""
OPERATOR_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_NOBODY: Final = hashlib.sha256(b"nobody's token").digest()


def _digest(token: str | None) -> bytes | None:
    return None if token is None else hashlib.sha256(token.encode()).digest()


def _same(digest: bytes, token: bytes) -> bool:
    return hmac.compare_digest(digest, hashlib.sha256(token).digest())


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        kind: As what: an operator, a worker, a reader, or anyone.
        name: Of an operator or an enrolled worker; empty for a worker that may name any host, and for others.
        rights: What an operator may do; a reader has `read`.
        identity: Public id of an enrolled worker's identity, empty for others.
        fresh: The worker shows its next key for the first time.
    """

    kind: Kind
    name: str = ""
    rights: frozenset[str] = frozenset()
    identity: str = ""
    fresh: bool = False

    @property
    def who(self) -> str:
        """How the history names it."""
        return f"{self.kind}:{self.name}" if self.name else self.kind


@dataclass(frozen=True, slots=True)
class Peer:
    """What a verified client certificate says.

    Attributes:
        worker: The worker it was issued to; empty for a certificate that names none.
        fingerprint: SHA-256 of the certificate, hex.
        identity: Public id of the enrolment it was issued for; empty where it names none.
        ends_at: End of its life, seconds since the epoch.
    """

    worker: str
    fingerprint: str
    identity: str = ""
    ends_at: float = math.inf


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator.

    Attributes:
        name: How the history names it.
        digest: SHA-256 of its token.
        rights: What it may do.
    """

    name: str
    digest: bytes = field(repr=False)
    rights: frozenset[str] = frozenset(RIGHTS)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the receiver compares with; None or empty where a role has no token.

    Attributes:
        operators: Everybody who may use `X-Operator-Token`.
        worker: SHA-256 of the token that workers share.
        read: SHA-256 of the readers' token.
        registry: The enrolled workers.
        enrolled_only: Workers must be enrolled.
        certificate_wanted: Workers must show a client certificate as well.
    """

    operators: tuple[Operator, ...] = field(default=(), repr=False)
    worker: bytes | None = field(default=None, repr=False)
    read: bytes | None = field(default=None, repr=False)
    registry: Registry = field(default_factory=Registry, repr=False)
    enrolled_only: bool = field(default=False, repr=False)
    certificate_wanted: bool = field(default=False, repr=False)

    @classmethod
    def of(
        cls, tokens: Mapping[str, str | None], operators: Iterable[Operator] = (), *, enrolled_only: bool = False
    ) -> Credentials:
        """Return the credentials for tokens by role and further operators.

        Raises:
            ConfigurationError: Two of them share a token, so that one could do the other's work, or a name.
        """
        digests = {role: _digest(tokens.get(role)) for role in TOKENS}
        everybody = list(operators)
        if (sole := digests["operator"]) is not None:
            everybody.insert(0, Operator("operator", sole))
        _demand_distinct(everybody, [digests["worker"], digests["read"]])
        return cls(tuple(everybody), digests["worker"], digests["read"], enrolled_only=enrolled_only)

    def demand(
        self,
        role: Role,
        authorization: bytes | None,
        operator_token: bytes | None,
        peer: Peer | None = None,
        right: Right | None = None,
    ) -> Caller:
        """Let a caller with the right to a role pass.

        Args:
            role: What the route asks for.
            authorization: Value of the `Authorization` header, None without one.
            operator_token: Value of the `X-Operator-Token` header, None without one.
            peer: What the client's verified certificate says, None without one.
            right: What an operator must be allowed to do.

        Returns:
            Who asks.

        Raises:
            AuthenticationError: The token is missing, wrong or revoked.
            ForbiddenError: The caller is known and may not do this, or the receiver has no operator.
        """
        if role == "operator":
            return self._operator(operator_token, right or "operate")
        if role == "worker":
            return self._worker(authorization, peer)
        if role == "read":
            return self._reader(authorization, operator_token)
        return Caller("anyone")

    # ---- operators and readers

    def _operator(self, token: bytes | None, right: Right) -> Caller:
        if not self.operators:
            raise ForbiddenError(
                "this receiver has no operator token, so nobody may change its queue",
                "set CIS490_OPERATOR_TOKEN for the receiver and start it again",
            )
        if token is None:
            raise AuthenticationError(
                "the X-Operator-Token header is missing", "set CIS490_OPERATOR_TOKEN to the receiver's operator token"
            )
        operator = self._operator_with(token)
        if operator is None:
            raise AuthenticationError(
                "the operator token is not this receiver's", "check CIS490_OPERATOR_TOKEN on both sides"
            )
        return _demand_right(operator, right)

    def _operator_with(self, token: bytes) -> Operator | None:
        found = [operator for operator in self.operators if _same(operator.digest, token)]
        return found[0] if found else None

    def _reader(self, authorization: bytes | None, operator_token: bytes | None) -> Caller:
        operator = None if operator_token is None else self._operator_with(operator_token)
        if operator is not None and ("read" in operator.rights or (authorization is None and self.read is not None)):
            return _demand_right(operator, "read")
        if self.read is None:
            return Caller("anyone")
        _demand_bearer(self.read, authorization, TOKENS["read"])
        return Caller("reader", rights=frozenset({"read"}))

    # ---- workers

    def _worker(self, authorization: bytes | None, peer: Peer | None) -> Caller:
        token = _bearer(authorization)
        if token is not None and token.startswith(START.encode()):
            identity, fresh = self.registry.authenticate(token)
            caller = Caller("worker", identity.worker, identity=identity.id, fresh=fresh)
        elif self.enrolled_only:
            raise AuthenticationError(
                "only enrolled workers may ask here, each with a secret of its own",
                "have an operator run `cis490-jobs invite HOST` and use the command it prints on this host",
            )
        else:
            if self.worker is not None:
                _demand_bearer(self.worker, authorization, TOKENS["worker"])
            caller = Caller("worker")
        if peer is not None:
            return self._certified(caller, peer)
        if self.certificate_wanted:
            raise AuthenticationError(
                "workers must show a client certificate here and none came", "enrol this host again, which gives it one"
            )
        return caller

    def _certified(self, caller: Caller, peer: Peer) -> Caller:
        """Return the caller, held to what its certificate says."""
        identity = self.registry.get(peer.identity) if peer.identity else self.registry.living(peer.worker)
        if identity is not None:
            demand_living(identity)
        if caller.name and (peer.worker != caller.name or peer.identity not in ("", caller.identity)):
            raise CertificateMismatchError(
                f"the certificate is that of worker {peer.worker or 'nobody'} and the secret that of {caller.name}",
                "enrol this host again",
                expected="both from one enrolment",
                worker=caller.name,
            )
        if identity is None or identity.worker != peer.worker:
            raise AuthenticationError(
                f"the certificate is that of {peer.worker or 'nobody'}, who is not enrolled here", "enrol this host"
            )
        return caller if caller.name else dataclasses.replace(caller, name=peer.worker)


def _demand_right(operator: Operator, right: Right) -> Caller:
    if right not in operator.rights:
        has = ", ".join(sorted(operator.rights)) or "none"
        raise ForbiddenError(
            f"this wants the role {right} and operator {operator.name} has {has}",
            "ask one who has it, or change the receiver's operators file and reload",
        )
    return Caller("operator", operator.name, operator.rights)


def _bearer(authorization: bytes | None) -> bytes | None:
    scheme, _, token = (authorization or b"").partition(b" ")
    return token.strip(b" \t") if scheme.lower() == b"bearer" and token else None


def _demand_bearer(digest: bytes, authorization: bytes | None, variable: str) -> None:
    token = _bearer(authorization)
    if token is None:
        raise AuthenticationError("no bearer token came", f"set {variable} to the receiver's token of that name")
    if not _same(digest, token):
        raise AuthenticationError("the bearer token is not this receiver's", f"check {variable} on both sides")


def _demand_distinct(operators: list[Operator], others: list[bytes | None]) -> None:
    given = [*(operator.digest for operator in operators), *(digest for digest in others if digest is not None)]
    if len(set(given)) != len(given):
        raise ConfigurationError(
            f"two of {', '.join(TOKENS.values())} and the operators hold the same token",
            "make new ones",
            expected="one for each",
        )
    names = [operator.name for operator in operators]
    if len(set(names)) != len(names):
        raise ConfigurationError(
            "the operators file names an operator 'operator', which is who holds CIS490_OPERATOR_TOKEN",
            "give it another name, or unset the variable",
        )


def demand_wide_tokens(
    address: str, tokens: Mapping[str, str | None], *, operators: bool = False, fronted: bool = False
) -> None:
    """Refuse to serve beyond loopback without every credential, or with a token that workers share.

    Args:
        address: Host part of the address to listen on.
        tokens: Tokens by role, None where unset.
        operators: Whether an operators file names any.
        fronted: A proxy passes on what comes from other hosts.

    Raises:
        ConfigurationError: Something is missing, shorter than 16 characters or shared; all of it is named.
    """
    if is_loopback(address) and not fronted:
        return
    wanted = [role for role in ("operator", "read") if not (role == "operator" and operators and not tokens.get(role))]
    faults = [
        Fault(TOKENS[role], "a short token" if tokens.get(role) else "not set", f"{MIN_WIDE_TOKEN} or more characters")
        for role in wanted
        if len(tokens.get(role) or "") < MIN_WIDE_TOKEN
    ]
    if tokens.get("worker"):
        remedy = "unset it, and enrol each worker: cis490-jobs invite HOST"
        faults.append(Fault(TOKENS["worker"], "a token that workers share", "one secret for each worker", remedy))
    if faults:
        raise ConfigurationError(
            f"{address} can be reached from other hosts{' through a proxy' if fronted else ''}, and these settings do "
            "not protect it",
            "correct them, or listen on 127.0.0.1 without trusted_proxies",
            faults=tuple(faults),
        )


def operators_of(text: str, place: str) -> tuple[Operator, ...]:
    """Return the operators that a file names.

    Args:
        text: The file: a TOML table `[operators.NAME]` each, with `token_sha256` and `roles`.
        place: The file, for people.

    Raises:
        ConfigurationError: It has faults, all of them listed.
    """
    faults: list[Fault] = []
    try:
        document = tomllib.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the operators file {place} is no TOML ({error})", "correct it") from None
    table = document.get("operators", {})
    faults += [Fault(key, "an unknown key", "tables [operators.NAME]") for key in document.keys() - {"operators"}]
    entries = table.items() if isinstance(table, dict) else ()
    found = tuple(_operator(name, entry, faults) for name, entry in entries)
    if not found:
        faults.append(Fault("operators", "no operator", "one table [operators.NAME] at least"))
    if faults:
        raise ConfigurationError(f"the operators file {place} has faults", "correct them", faults=tuple(faults))
    return found


def _operator(name: str, entry: Any, faults: list[Fault]) -> Operator:
    place, body = f"operators.{name}", entry if isinstance(entry, dict) else {}
    digest, roles = body.get("token_sha256"), body.get("roles")
    if not OPERATOR_NAME.fullmatch(name):
        faults.append(Fault(place, ascii(name)[:40], "a name of a-z, 0-9, - and _, at most 32 characters"))
    if not (isinstance(digest, str) and is_sha256(digest)):
        remedy = "make one with: cis490-trainer-receiver operator NAME"
        faults.append(Fault(f"{place}.token_sha256", "no digest", "64 lower-case hex digits", remedy))
        digest = _NOBODY.hex()
    if not (isinstance(roles, list) and roles and all(role in RIGHTS for role in roles)):
        faults.append(Fault(f"{place}.roles", ascii(roles)[:80], f"a list of {', '.join(RIGHTS)}"))
        roles = []
    unknown = body.keys() - {"token_sha256", "roles"}
    faults += [Fault(f"{place}.{key}", "an unknown key", "token_sha256 or roles") for key in unknown]
    return Operator(name, bytes.fromhex(digest), frozenset(roles))
