"""The messages about who a worker is: invites, enrolment, secrets, certificates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from training.fleet.wire.limits import Hex64, HostName, Limit


@dataclass(frozen=True, slots=True)
class InviteOrder:
    """`POST /v1/invite`: let a host enrol.

    Attributes:
        worker: Name of the host; the code is good for it alone.
        ttl_s: Seconds the code lives.
    """

    worker: HostName
    ttl_s: Annotated[int, Limit(ge=60, le=86400)] = 900


@dataclass(frozen=True, slots=True)
class Enrol:
    """`POST /v1/enrol`: exchange a one-time code for an identity.

    Attributes:
        code: What an invite holds.
        worker: Name of the host, the one of the invite.
        secret_sha256: SHA-256 of the key that the worker has made; the key itself stays on its host.
    """

    code: Annotated[str, Limit(pattern="^[0-9A-Za-z_-]{22,64}$", min_length=22, max_length=64)]
    worker: HostName
    secret_sha256: Hex64


@dataclass(frozen=True, slots=True)
class Login:
    """`POST /v1/login`: exchange a one-time code for the token of an operator.

    Attributes:
        code: What `cis490-trainer-receiver operator NAME` printed.
        token_sha256: SHA-256 of the token that the caller has made; the token itself stays there.
    """

    code: Annotated[str, Limit(pattern="^[0-9A-Za-z_-]{22,64}$", min_length=22, max_length=64)]
    token_sha256: Hex64


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Answer to a login.

    Attributes:
        name: How the history names the operator.
        roles: What it may do: some of `read`, `operate`, `enrol`.
    """

    name: str
    roles: list[str]


@dataclass(frozen=True, slots=True)
class NewSecret:
    """`POST /v1/secret`: the digest of a worker's next key, which takes over at its first use."""

    secret_sha256: Hex64


RENEW_AT: Final = "renew-at: "
"""Begin of the line in front of a worker's certificate that says when to ask for the next one, RFC 3339."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a worker needs for mutual TLS, in PEM; empty where the receiver issues none.

    Attributes:
        ca_pem: The authority to trust.
        certificate_pem: The worker's certificate, with a line in front that says when to renew it.
        key_pem: Its key.
        fingerprint: SHA-256 of the certificate, hex.
    """

    ca_pem: str = ""
    certificate_pem: str = ""
    key_pem: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Answer to an enrolment; asked again with the same code and digest it is the same.

    Attributes:
        worker: The name the worker is held to.
        id: Public part of its secret, which is `cis490w.ID.KEY`.
        version: Of the receiver.
        heartbeat_s: Seconds between heartbeats.
        ca_pem: The authority to trust, empty without one.
        certificate_pem: The worker's certificate, empty without one.
        key_pem: Its key, empty without one.
    """

    worker: str
    id: str
    version: str
    heartbeat_s: float
    ca_pem: str = ""
    certificate_pem: str = ""
    key_pem: str = ""


@dataclass(frozen=True, slots=True)
class SecretTaken:
    """Answer to a new key's digest."""

    id: str


@dataclass(frozen=True, slots=True)
class Invite:
    """Answer to an invite; the code is shown once.

    Attributes:
        worker: The host it is good for.
        code: The one-time code.
        ttl_s: Seconds it lives.
        expires_at: When it ends, RFC 3339, UTC.
        ca_sha256: SHA-256 of the receiver's certificate authority, hex; None without one.
        replaces: True if the host is enrolled already; enrolling again revokes that identity.
        installer_sha256: SHA-256 of the installer that the receiver hands out, hex; None where it has none.
    """

    worker: str
    code: str
    ttl_s: int
    expires_at: str
    ca_sha256: str | None = None
    replaces: bool = False
    installer_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class IdentityView:
    """One identity of a worker.

    Attributes:
        worker: Name of the host.
        id: Public part of its secret.
        state: `enrolled`, `rotating` (a new key is asked for or not used yet) or `revoked`.
        created_at: When it enrolled, RFC 3339, UTC.
        revoked_at: When it was revoked or replaced, None while it lives.
        fingerprint: SHA-256 of its client certificate, None without one.
    """

    worker: str
    id: str
    state: str
    created_at: str
    revoked_at: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class IdentityPage:
    """`GET /v1/identities`: one page. `next` is the cursor of the following page, None at the end."""

    identities: list[IdentityView]
    next: str | None = None
