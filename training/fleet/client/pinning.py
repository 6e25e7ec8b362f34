"""The authority that a person was told to trust by its fingerprint.

Owns fetching a receiver's certificate authority and comparing it. Guarantees that nothing secret goes over a connection
whose other end is not known yet, and that nothing but the one certificate of the fingerprint is ever returned.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
from typing import Final

from training.fleet import __version__
from training.fleet.client.addresses import Address
from training.fleet.model.errors import ConfigurationError, UnreachableError

MAX_CA_BYTES: Final = 2**16
"""A certificate has about 1 KiB; a longer text than this is none."""
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"
_SEQUENCE: Final = 0x30
_LONG_FORM: Final = 0x80


def pinned(where: Address, ca_sha256: str, held: str = "") -> bytes:
    """Return the certificate (DER) of the authority with this fingerprint, fetched unless it is held already.

    Args:
        where: The receiver, over https.
        ca_sha256: SHA-256 of the certificate (DER), hex.
        held: A text that may hold it already.

    Raises:
        UnreachableError: Nobody answers.
        ConfigurationError: The receiver shows another authority, or something that is none.
    """
    der = certificate_alone(held)
    if der is None or _sha256(der) != ca_sha256:
        der = _demanded(where, ca_sha256, _fetched(where))
    return der


def _demanded(where: Address, ca_sha256: str, text: str) -> bytes:
    der = certificate_alone(text)
    if der is not None and _sha256(der) == ca_sha256:
        return der
    shown = f"shows {_described(text)} as its certificate authority; expected one alone, with the fingerprint"
    if der is not None or not text:
        shown = f"shows a certificate authority with the fingerprint {fingerprint(text) or 'none'}; expected"
    raise ConfigurationError(
        f"{where.url} {shown} {ca_sha256}",
        "ask the operator for a new invite, and do not go on if it differs again",
    )


def _described(text: str) -> str:
    """Return what a text is that is no certificate alone, for people."""
    if len(text) > MAX_CA_BYTES:
        return f"more than {MAX_CA_BYTES} bytes"
    blocks = text.count("-----BEGIN ")
    if blocks > 1:
        return f"{blocks} certificates or keys"
    return "a certificate that is damaged or has other text around it" if blocks else "a text that is none"


def fingerprint(pem: str) -> str:
    """Return the SHA-256 of the certificate in a text that holds it and nothing else, hex; empty for any other text."""
    der = certificate_alone(pem)
    return "" if der is None else _sha256(der)


def certificate_alone(pem: str) -> bytes | None:
    """Return the certificate (DER) in a PEM text that holds it and nothing else; None for any other text."""
    text = pem.strip()
    if len(pem) > MAX_CA_BYTES or not (pem.isascii() and text.startswith(_BEGIN) and text.endswith(_END)):
        return None
    try:
        # What is left after the marks must be base64 to its end, so no further mark, header or comment gets through.
        der = base64.b64decode("".join(text[len(_BEGIN) : -len(_END)].split()), validate=True)
    except ValueError:
        return None
    return der if _is_one_sequence(der) else None


def _is_one_sequence(der: bytes) -> bool:
    """Return True if bytes are one DER sequence to their end, as a certificate is. Source: ITU-T X.690, 8.1.3."""
    if len(der) < 2 or der[0] != _SEQUENCE:
        return False
    if der[1] < _LONG_FORM:
        return len(der) == 2 + der[1]
    begin = 2 + der[1] - _LONG_FORM
    return begin > 2 and len(der) == begin + int.from_bytes(der[2:begin], "big")


def _sha256(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


def _fetched(where: Address) -> str:
    """Return the receiver's authority over a connection that nothing secret goes over; who it is is checked after.

    Raises:
        UnreachableError: Nobody answers.
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(where.host, where.port, timeout=30, context=context)
    try:
        connection.request("GET", f"{where.prefix}/v1/ca", headers={"User-Agent": f"cis490/{__version__}"})
        answer = connection.getresponse()
        body = answer.read(MAX_CA_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(
            f"no answer from {where.url} ({error})", "start the receiver, or correct its address"
        ) from error
    finally:
        connection.close()
    return body.decode("ascii", "replace") if answer.status == 200 else ""
