"""The secrets that enrolled workers show, and which of them live.

Owns the form of a worker's secret and the comparison with what the receiver keeps, which is a digest. Guarantees that
a secret is found by its public id and compared in constant time, that an unknown id costs the same comparison, and that
only who shows the right secret learns that it was revoked. Leaves the rows to `queue`, whose committed changes are
followed here. Safe from any thread.

A secret is `cis490w.ID.KEY`: the receiver makes the id, the worker makes the key and tells its digest alone.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from training.fleet.model.errors import AuthenticationError, RevokedError

START: Final = "cis490w."
CODE_BYTES: Final = 16
"""Random bytes in a one-time code."""
KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Identity:
    """One enrolment of a worker.

    Attributes:
        id: The public part of its secret.
        worker: The name it may work under.
        digest: SHA-256 of its key, hex.
        next_digest: Of the key that takes over at its first use, None without one.
        rotate: Whether the worker is to make a new key.
        created_at: When it enrolled, RFC 3339, UTC.
        revoked_at: When it was revoked or replaced, None while it lives.
        fingerprint: SHA-256 of its client certificate, hex; None without one.
        place: Where it was used last, as its session says; None before.
    """

    id: str
    worker: str
    digest: str = field(repr=False)
    next_digest: str | None = field(default=None, repr=False)
    rotate: bool = False
    created_at: str = ""
    revoked_at: str | None = None
    fingerprint: str | None = None
    place: str | None = None

    @property
    def state(self) -> str:
        """`enrolled`, `rotating` (a new key is asked for or not used yet) or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "rotating" if self.rotate or self.next_digest is not None else "enrolled"


_NOBODY: Final = Identity("", "", hashlib.sha256(b"nobody's key").hexdigest())


class Registry:
    """All identities by public id."""

    def __init__(self) -> None:
        self._known: dict[str, Identity] = {}
        self._newest: dict[str, Identity] = {}

    def __iter__(self) -> Iterator[Identity]:
        return iter(sorted(self._known.values(), key=lambda one: (one.worker, one.created_at, one.id)))

    def put(self, identity: Identity) -> None:
        """Take in an identity, or what became of it."""
        self._known[identity.id] = identity
        other = self._newest.get(identity.worker)
        if other is None or other.id == identity.id or _follows(identity, other):
            self._newest[identity.worker] = identity

    def get(self, public_id: str) -> Identity | None:
        """Return an identity, None when there is none."""
        return self._known.get(public_id)

    def newest(self, worker: str) -> Identity | None:
        """Return the identity that lives or was revoked last, None for a worker that never enrolled."""
        return self._newest.get(worker)

    def living(self, worker: str) -> Identity | None:
        """Return the identity a worker has now, None when it has none or it is revoked."""
        found = self._newest.get(worker)
        return found if found is not None and found.revoked_at is None else None

    def authenticate(self, token: bytes) -> tuple[Identity, bool]:
        """Return whose secret it is, and whether its key is the next one, used for the first time.

        Raises:
            AuthenticationError: It is nobody's.
            RevokedError: It was somebody's.
        """
        public_id, key = _taken_apart(token)
        # Nobody's identity takes the same steps as one that is known.
        identity = self._known.get(public_id, _NOBODY)
        shown = digest_of(key)
        now = hmac.compare_digest(shown, identity.digest)
        later = hmac.compare_digest(shown, identity.next_digest or _NOBODY.digest)
        if not (now or later) or identity is _NOBODY:
            raise AuthenticationError(
                "the worker's secret is not one of this receiver's",
                "enrol this host with what `cis490-jobs invite HOST` prints",
            )
        demand_living(identity)
        return identity, not now

    def demand_living(self, public_id: str) -> None:
        """Refuse an identity that was revoked since its secret was looked at.

        Raises:
            RevokedError: It was.
        """
        if (identity := self._known.get(public_id)) is not None:
            demand_living(identity)


def _follows(identity: Identity, other: Identity) -> bool:
    if identity.revoked_at is None:
        return True
    return other.revoked_at is not None and identity.created_at > other.created_at


def demand_living(identity: Identity) -> None:
    """Refuse a revoked identity.

    Raises:
        RevokedError: It is one.
    """
    if identity.revoked_at is not None:
        raise RevokedError(
            f"the secret of worker {identity.worker} was revoked at {identity.revoked_at}",
            f"stop its trainers; if the host may come back, `cis490-jobs invite {identity.worker}` prints how to "
            "enrol it again",
        )


def new_code() -> str:
    """Return a one-time code: 128 random bits in hex, because one that begins with a dash would be taken for a flag."""
    return secrets.token_hex(CODE_BYTES)


def new_key() -> str:
    """Return a new key of 256 bits."""
    return secrets.token_urlsafe(KEY_BYTES)


def digest_of(key: bytes | str) -> str:
    """Return the digest of a key as the receiver keeps it."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def secret_of(public_id: str, key: str) -> str:
    """Return the secret that a worker shows."""
    return f"{START}{public_id}.{key}"


def key_of(secret: str) -> str:
    """Return the key in a secret, empty when it is none."""
    return _taken_apart(secret.encode())[1].decode("latin-1") if secret.startswith(START) else ""


def id_of(secret: str) -> str:
    """Return the public id in a secret, empty when it is none."""
    return _taken_apart(secret.encode())[0] if secret.startswith(START) else ""


def _taken_apart(token: bytes) -> tuple[str, bytes]:
    public_id, _, key = token.removeprefix(START.encode()).partition(b".")
    return public_id.decode("latin-1"), key
