"""What makes the receiver speak https, and keeps it able to.

Owns the live TLS context and the files behind it. Guarantees that at least TLS 1.2 is spoken, that a client certificate
which is shown is checked in the handshake, that changed files are taken up for new connections without a restart, and
that files which do not fit together never replace ones that do. A certificate of the fleet's own authority is issued
again before it ends, where the authority's key is at hand. Leaves to the application who must show a certificate.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from training.fleet.auth import Peer
from training.fleet.files import replace_shared
from training.fleet.model.errors import ConfigurationError, FleetError
from training.fleet.settings import Settings, demand_private
from training.fleet.tls import peers
from training.fleet.wire.identities import RENEW_AT, Material
from training.needs import installing

if TYPE_CHECKING:
    from training.fleet.tls.certificates import Authority

HANDSHAKE_S: Final = 10.0
"""How long a client may take to agree on TLS."""
SHUTDOWN_S: Final = 5.0
RENEWED_AT: Final = 2 / 3
"""Part of its life after which a certificate is issued again."""
SAME_LEFT: Final = 2 / 3
"""Part of the life of a worker's certificate that is left when another one may be made."""
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Files:
    """The files that https needs.

    Attributes:
        certificate: The receiver's certificate, with the chain behind it.
        key: Its key.
        authority: Certificates of the authority that workers' certificates must come from; None checks none.
        authority_key: Key of that authority, None where it is kept elsewhere.
    """

    certificate: Path
    key: Path
    authority: Path | None = None
    authority_key: Path | None = None


class Tls:
    """TLS as the receiver speaks it.

    Args:
        files: What it is made of.
        ask_clients: Clients are asked for a certificate; without one they pass, a bad one ends the handshake.

    Attributes:
        context: For the listening socket; it lives as long as the receiver.

    Raises:
        ConfigurationError: The files cannot be used.
    """

    def __init__(self, files: Files, *, ask_clients: bool) -> None:
        self._files = files
        self._seen = self._stamp()
        self.context = _context(files, ask_clients=ask_clients)

    def refresh(self, now: float) -> bool:
        """Issue the certificate again when it is time, and take up files that changed.

        Args:
            now: Seconds since the epoch, UTC.

        Returns:
            Whether new connections get another certificate from now on.
        """
        self._renew(now)
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return False
            # Tried on a context of its own first: a pair that does not fit would leave the live one without a key.
            _context(self._files, ask_clients=False)
            self.context.load_cert_chain(self._files.certificate, self._files.key)
        except (FleetError, OSError) as error:  # ssl.SSLError is an OSError
            _log.error("the changed certificate cannot be used", extra={"data": {"reason": str(error)}})
            return False
        self._seen = stamp
        _log.info("certificate taken up", extra={"data": {"file": str(self._files.certificate)}})
        return True

    def _renew(self, now: float) -> None:
        if self._files.authority is None or self._files.authority_key is None:
            return
        try:
            self._issue(self._files.authority, self._files.authority_key, now)
        except (FleetError, OSError) as error:
            _log.error("the certificate could not be renewed", extra={"data": {"reason": str(error)}})

    def _issue(self, certificate: Path, key: Path, now: float) -> None:
        # Only a receiver that is an authority itself needs what this brings along.
        from training.fleet.tls import certificates

        pem = self._files.certificate.read_bytes()
        held = certificates.facts(pem)
        due = held.not_before + certificates.BACKDATE_S
        due += (held.not_after - due) * RENEWED_AT
        # One from the future was issued while this host's clock was ahead.
        if held.not_before <= now < due:
            return
        authority = certificates.Authority.read(certificate, key)
        if not certificates.signed_by(pem, authority):
            return
        pair = authority.server(held.names, now, key_pem=self._files.key.read_bytes())
        replace_shared(self._files.certificate, pair.certificate_pem)
        _log.info("certificate issued again", extra={"data": {"sha256": pair.fingerprint}})

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        try:
            found = [path.stat() for path in (self._files.certificate, self._files.key)]
        except OSError as error:
            raise _unusable(error) from error
        return tuple((item.st_ino, item.st_mtime_ns, item.st_size) for item in found)


def make(settings: Settings) -> Tls | None:
    """Return TLS as the settings want it, None where plain HTTP is spoken.

    Raises:
        ConfigurationError: The files cannot be used.
    """
    if settings["tls_certificate"] is None:
        return None
    files = Files(settings["tls_certificate"], settings["tls_key"], settings["tls_ca"], settings["tls_ca_key"])
    return Tls(files, ask_clients=settings["tls_clients"] != "off")


def judge(settings: Settings) -> None:
    """Refuse settings about TLS that contradict each other, keys readable by other users, and a CA file without a CA.

    Raises:
        ConfigurationError: Something is wrong.
    """
    demand_fit(settings)
    for name in ("tls_key", "tls_ca_key"):
        if settings[name] is not None:
            demand_private(name, settings[name])
    shown_authority(settings)


def demand_fit(settings: Settings) -> None:
    """Refuse settings about TLS that do not go together; no file is looked at.

    Raises:
        ConfigurationError: They do not.
    """
    certificate, key, authority = (settings[name] for name in ("tls_certificate", "tls_key", "tls_ca"))
    if (certificate is None) != (key is None):
        raise ConfigurationError("only one of tls_certificate and tls_key is set", expected="both or neither")
    if settings["tls_ca_key"] is not None and authority is None:
        raise ConfigurationError("tls_ca_key is set and tls_ca is not", "set tls_ca to that authority's certificate")
    asked, fronted = settings["tls_clients"] != "off", bool(settings["trusted_proxies"])
    if asked and not fronted and (certificate is None or authority is None):
        raise ConfigurationError(
            f"tls_clients is {settings['tls_clients']}, which wants tls_certificate, tls_key and tls_ca, or a proxy "
            "in trusted_proxies that checks the certificates",
            "set them: cis490-trainer-receiver init makes the files",
        )


def _context(files: Files, *, ask_clients: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key)
        if ask_clients and files.authority is not None:
            context.load_verify_locations(files.authority)
            context.verify_mode = ssl.CERT_OPTIONAL
            # A resumed session would show the certificate that was checked when it began.
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
    except OSError as error:  # ssl.SSLError is one
        raise _unusable(error) from error
    return context


def _unusable(error: OSError) -> ConfigurationError:
    return ConfigurationError(f"cannot use tls_certificate, tls_key and tls_ca ({error})", "check the files")


def peer_of(transport: asyncio.Transport) -> Peer | None:
    """Return what the certificate says that a client showed and TLS verified, None without one."""
    link = transport.get_extra_info("ssl_object")
    # Only what was verified can be read so; the raw bytes alone would also be there without a check.
    found = None if link is None else link.getpeercert()
    return peers.from_certificate(found, link.getpeercert(binary_form=True)) if found else None


@dataclass(frozen=True, slots=True)
class _Issued:
    """What was issued to a worker last.

    Attributes:
        identity: Public id of the enrolment it was issued for.
        material: What was answered.
        at: When, seconds since the epoch.
        until: How long it is answered again.
    """

    identity: str
    material: Material = field(repr=False)
    at: float
    until: float


class Issuer:
    """Makes certificates for workers. Any thread may call it.

    While two thirds of the life of a worker's last certificate are left, who asks gets that one again: so a lost answer
    costs nothing, and nobody who may ask makes certificates without end. Keys are kept in memory alone, so after a
    restart of the receiver a worker that asks gets one more.

    Args:
        authority: The fleet's own.
        life_s: Seconds a certificate is good for; None for 90 days.
        clock: Seconds since the epoch, UTC.
    """

    def __init__(
        self, authority: Authority, life_s: float | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._authority = authority
        self._life_s = life_s
        self._clock = clock
        self._last: dict[str, _Issued] = {}
        self._guard = threading.Lock()

    def __call__(self, worker: str, identity: str) -> Material:
        """Return key and certificate for an enrolment, and when to ask for the next."""
        with self._guard:
            now, last = self._clock(), self._last.get(worker)
            # A clock that went back may have made a certificate that is not good yet.
            if last is None or last.identity != identity or not last.at <= now < last.until:
                last = self._last[worker] = self._issue(worker, identity, now)
            return last.material

    def _issue(self, worker: str, identity: str, now: float) -> _Issued:
        from training.fleet.tls.certificates import WORKER_S

        life_s = self._life_s or WORKER_S
        pair = self._authority.worker(worker, peers.worker_uri(worker, identity), now, life_s=life_s)
        renew_at = datetime.fromtimestamp(int(now + life_s * RENEWED_AT), UTC).isoformat()
        material = Material(
            self._authority.pem.decode(),
            # Text in front of a certificate is for its readers; TLS passes it over (RFC 7468, section 2).
            f"{RENEW_AT}{renew_at}\n{pair.certificate_pem.decode()}",
            pair.key_pem.decode(),
            pair.fingerprint,
        )
        return _Issued(identity, material, now, now + life_s * (1 - SAME_LEFT))


def issuer(settings: Settings) -> Issuer | None:
    """Return what issues workers' certificates, None where the authority's key is kept elsewhere.

    Raises:
        ConfigurationError: The authority cannot be used, or the package `cryptography` is missing.
    """
    if settings["tls_ca_key"] is None:
        return None
    try:
        from training.fleet.tls.certificates import Authority
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"tls_ca_key needs the package {error.name}, which is not installed", f"{installing('tls')}"
        ) from None
    return Issuer(Authority.read(settings["tls_ca"], settings["tls_ca_key"]))


def shown_authority(settings: Settings) -> tuple[str, str | None]:
    """Return the authority's certificate in PEM and its SHA-256, for hosts that enrol; nothing without one.

    It is the first one of the file, alone: a host refuses a text that holds more than what the fingerprint is of.

    Raises:
        ConfigurationError: It cannot be read.
    """
    path: Path | None = settings["tls_ca"]
    if path is None:
        return "", None
    try:
        text = path.read_text(encoding="ascii")
        begin = text.index(_BEGIN)
        der = ssl.PEM_cert_to_DER_cert(text[begin : text.index(_END, begin) + len(_END)])
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigurationError(f"cannot use tls_ca {path} ({error})", expected="a certificate in PEM") from error
    return ssl.DER_cert_to_PEM_cert(der), hashlib.sha256(der).hexdigest()
