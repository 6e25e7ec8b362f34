"""From a client certificate to the worker it was issued to.

Owns the URI that names a worker in its certificate, and reading it from what TLS verified or from what the proxy in
front says. Guarantees that a certificate which names no worker, or several, is nobody's. Leaves verifying the
certificate to TLS, and whether the enrolment still stands to `credentials`.

The URI is `urn:cis490:worker:NAME:ID`: the name the worker enrolled under and the public id of that enrolment. So a
certificate ends with its enrolment, whatever its dates say. A site's own authority, which knows no ids, may leave the
last part out.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Mapping
from typing import Any, Final

from training.fleet.auth.credentials import Peer
from training.fleet.model.names import HOST_NAME, is_sha256

URN: Final = "urn:cis490:worker:"
_URI: Final = re.compile(re.escape(URN) + rf"({HOST_NAME})(?::([0-9a-f]{{1,64}}))?")
_OF_NOTHING: Final = hashlib.sha256(b"").hexdigest()
"""What Caddy 2.11 calls the fingerprint of no certificate; 2.6 leaves its placeholder there."""


def worker_uri(worker: str, identity: str) -> str:
    """Return the URI that names a worker and its enrolment."""
    return f"{URN}{worker}:{identity}"


def from_certificate(found: Mapping[str, Any], der: bytes) -> Peer:
    """Return what a verified certificate says.

    Args:
        found: What `ssl.SSLSocket.getpeercert()` returns.
        der: The certificate's DER form.
    """
    uris = [value for kind, value in found.get("subjectAltName", ()) if kind == "URI"]
    ends_at = float(ssl.cert_time_to_seconds(str(found["notAfter"])))
    return _peer(uris[0] if len(uris) == 1 else "", hashlib.sha256(der).hexdigest(), ends_at)


def from_proxy(uri: str, fingerprint: str) -> Peer | None:
    """Return what a proxy says of the certificate it has verified, None when it has seen none.

    Args:
        uri: First URI of the certificate.
        fingerprint: SHA-256 of the certificate, hex; anything else means that there was none.
    """
    if not is_sha256(fingerprint) or fingerprint == _OF_NOTHING:
        return None
    return _peer(uri, fingerprint, float("inf"))


def _peer(uri: str, fingerprint: str, ends_at: float) -> Peer:
    match = _URI.fullmatch(uri)
    return Peer(match[1] if match else "", fingerprint, (match[2] or "") if match else "", ends_at)
