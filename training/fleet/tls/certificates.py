"""The fleet's own certificate authority: making it, and issuing with it.

Owns what stands in the certificates and how their files are written. Guarantees that a key file is made with mode 0600,
appears whole and is never overwritten. A certificate begins 30 days before it is made, so that a host whose clock is
late still takes it. Needs the package `cryptography`; only what issues certificates loads this module. Leaves checking
certificates to `ssl`, which needs no help from here.

Source: RFC 5280 for the extensions; CA/Browser Forum Baseline Requirements 6.3.2 for 397 days.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from training.fleet.model.errors import ConfigurationError, FleetError

DAY_S: Final = 86400.0
BACKDATE_S: Final = 30 * DAY_S
AUTHORITY_S: Final = 3650 * DAY_S
SERVER_S: Final = 397 * DAY_S
WORKER_S: Final = 90 * DAY_S
MAX_COMMON_NAME: Final = 64
MAX_NAMES: Final = 64
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*"
)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key.

    Attributes:
        certificate_pem: The certificate.
        key_pem: Its key, PKCS #8 without a password.
        fingerprint: SHA-256 of the certificate's DER form, 64 lower-case hex digits.
        serial: The serial number, lower-case hex digits.
        not_after: End of its life, seconds since the epoch.
    """

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    fingerprint: str
    serial: str
    not_after: float


class Authority:
    """A certificate authority that can issue.

    Args:
        certificate: Its certificate.
        key: Its key.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def read(cls, certificate: Path, key: Path) -> Authority:
        """Return the authority in two files.

        Raises:
            ConfigurationError: They cannot be read, or do not belong together.
        """
        try:
            found = x509.load_pem_x509_certificate(certificate.read_bytes())
            secret = serialization.load_pem_private_key(key.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(
                f"cannot read the authority's files {certificate} and {key} ({error})",
                "make them with cis490-trainer-receiver init",
            ) from None
        if not isinstance(secret, ec.EllipticCurvePrivateKey) or found.public_key() != secret.public_key():
            raise ConfigurationError(f"{key} is not the key of {certificate}", expected="the pair that init made")
        return cls(found, secret)

    @property
    def pem(self) -> bytes:
        """The authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def server(
        self, names: Iterable[str], now: float, *, life_s: float = SERVER_S, key_pem: bytes | None = None
    ) -> KeyPair:
        """Issue a certificate for a receiver.

        Args:
            names: Host names and addresses it is reached by.
            now: Seconds since the epoch, UTC.
            life_s: Seconds it is good for from now on.
            key_pem: The key to go on with, None for a new one.

        Raises:
            FleetError: There is no name, too many, or one that no certificate can hold.
        """
        found = [_subject_name(name) for name in dict.fromkeys(names)]
        if not 0 < len(found) <= MAX_NAMES:
            raise FleetError(f"found {len(found)} host names for a certificate", expected=f"1 to {MAX_NAMES}")
        return self._issue(str(found[0].value), found, ExtendedKeyUsageOID.SERVER_AUTH, now, life_s, _key(key_pem))

    def worker(self, name: str, uri: str, now: float, *, life_s: float = WORKER_S) -> KeyPair:
        """Issue a certificate and a new key for a worker.

        Args:
            name: The worker's name, for people.
            uri: What names it for the receiver.
            now: Seconds since the epoch, UTC.
            life_s: Seconds it is good for from now on.
        """
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
        return self._issue(name, names, ExtendedKeyUsageOID.CLIENT_AUTH, now, life_s, _key(None))

    def _issue(
        self,
        title: str,
        names: list[x509.GeneralName],
        purpose: x509.ObjectIdentifier,
        now: float,
        life_s: float,
        key: ec.EllipticCurvePrivateKey,
    ) -> KeyPair:
        own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            _begun(title, key, now, now + life_s)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
        )
        return _pair(builder.sign(self._key, hashes.SHA256()), key)


def make_authority(now: float, *, title: str = "CIS490 training fleet", life_s: float = AUTHORITY_S) -> KeyPair:
    """Make a new authority that signs for itself.

    Args:
        now: Seconds since the epoch, UTC.
        title: Its name, for people.
        life_s: Seconds it is good for from now on.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    # Two authorities with one name are hard to tell apart in messages of ssl.
    name = f"{title} {secrets.token_hex(4)}"
    builder = (
        _begun(name, key, now, now + life_s)
        .issuer_name(_title(name))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def _subject_name(name: str) -> x509.GeneralName:
    text = name.strip("[]").lower()
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    with contextlib.suppress(UnicodeError):
        text = text.encode("idna").decode("ascii")
    if not _HOST_NAME.fullmatch(text):
        raise FleetError(f"{ascii(name)[:80]} is no host name or address that a certificate can hold", "leave it out")
    return x509.DNSName(text)


def _key(pem: bytes | None) -> ec.EllipticCurvePrivateKey:
    if pem is None:
        return ec.generate_private_key(ec.SECP256R1())
    try:
        found = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise FleetError(f"the key cannot be read ({error})", "bring it back, or make a new pair") from None
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise FleetError("the key is of another kind than the fleet's own", "renew the certificate where it was made")
    return found


def _begun(title: str, key: ec.EllipticCurvePrivateKey, now: float, not_after: float) -> x509.CertificateBuilder:
    """Return a certificate with what all of them have."""
    return (
        x509.CertificateBuilder()
        .subject_name(_title(title))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_instant(min(now, not_after) - BACKDATE_S))
        .not_valid_after(_instant(not_after))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _title(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:MAX_COMMON_NAME])])


def _instant(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(at), datetime.UTC)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        certificate.fingerprint(hashes.SHA256()).hex(),
        f"{certificate.serial_number:x}",
        certificate.not_valid_after_utc.timestamp(),
    )


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What a certificate says of itself.

    Attributes:
        names: Host names and addresses.
        not_before: Begin of its life, seconds since the epoch.
        not_after: End of its life, seconds since the epoch.
        fingerprint: SHA-256 of its DER form in hex.
        issuer: Name of who signed it.
    """

    names: tuple[str, ...]
    not_before: float
    not_after: float
    fingerprint: str
    issuer: str


def facts(pem: bytes) -> CertificateFacts:
    """Return what the first certificate of a PEM text says.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        found = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise ConfigurationError(f"found no certificate in PEM ({error})", expected="one") from None
    names: tuple[str, ...] = ()
    with contextlib.suppress(x509.ExtensionNotFound):
        held = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(str(item.value) for item in held)
    digest = hashlib.sha256(found.public_bytes(serialization.Encoding.DER)).hexdigest()
    begin, end = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    return CertificateFacts(names, begin, end, digest, found.issuer.rfc4514_string())


def signed_by(pem: bytes, authority: Authority) -> bool:
    """Return whether the first certificate of a PEM text comes from an authority."""
    try:
        x509.load_pem_x509_certificate(pem).verify_directly_issued_by(authority.certificate)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is not that authority's
        return False
    return True
