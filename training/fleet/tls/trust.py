"""Whom a client trusts, what it shows of itself, and what went wrong when TLS did.

Guarantees that given authorities replace the system's, that names are always checked, that a changed certificate of
this host is shown from the next request on, and that an error of TLS says what to do. `ssl` is loaded only for https.
"""

from __future__ import annotations

import datetime
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from training.fleet.model.errors import ConfigurationError
from training.fleet.settings import demand_private, full_path

if TYPE_CHECKING:
    import ssl

_NOT_YET, _EXPIRED = 9, 10
_WRONG_NAME: Final = frozenset({62, 63, 64})
_RENEW: Final = "cis490-trainer-receiver init --renew"
_ADVICE: Final = "check this clock, or enrol this host again"


PROBE_S: Final = 2.0
"""How long a port is asked whether it speaks TLS, seconds."""


class CutReason(NamedTuple):
    """Why a connection failed, for people.

    Attributes:
        found: What happened, in a few words.
        remedy: What to do now; empty where nothing better than to try again is known.
    """

    found: str
    remedy: str = ""


CUT: Final = CutReason("it was cut", f"if that repeats, the receiver may refuse this host's own certificate: {_ADVICE}")
"""What a cut connection means to a host that showed a certificate: the receiver's reason can get lost on the way."""


class ClientTls:
    """TLS of one client: the authorities it trusts and the certificate it shows.

    Args:
        ca_file: PEM file with the only authorities to trust; None for the system's.
        certificate: Files of this host's certificate and its key, None without one.

    Attributes:
        context: For new connections.
        shows_one: Whether there is a certificate of this host.

    Raises:
        ConfigurationError: A file cannot be used, or others can read the key.
    """

    def __init__(self, ca_file: Path | None, certificate: tuple[Path, Path] | None) -> None:
        self.context = _context(ca_file)
        self._certificate = certificate
        self.shows_one = certificate is not None
        self._stamp: tuple[int, ...] = ()
        if certificate is not None:
            demand_private("client_key", certificate[1])
            self.refresh()
            if not self._stamp:
                raise ConfigurationError(
                    f"the certificate {certificate[0]} cannot be read", "enrol this host again, or correct the path"
                )

    def refresh(self) -> object:
        """Read the host's certificate again if its files changed.

        Returns:
            Something that differs when another certificate is shown.

        Raises:
            ConfigurationError: The first time: certificate and key are no pair in PEM.
        """
        if self._certificate is None:
            return ()
        try:
            found = [path.stat() for path in self._certificate]
        except OSError:
            return self._stamp  # while they are replaced, what was read before still serves
        stamp = tuple(number for item in found for number in (item.st_ino, item.st_mtime_ns, item.st_size))
        if stamp != self._stamp and (not self._stamp or self._is_pair()):
            try:
                self.context.load_cert_chain(*self._certificate)
            except OSError as cause:  # ssl.SSLError is one
                raise ConfigurationError(
                    f"{self._certificate[0]} and {self._certificate[1]} cannot be used ({reason(cause).found})",
                    "enrol this host again",
                    expected="a certificate and its key in PEM",
                ) from cause
            self._stamp = stamp
        return self._stamp

    def _is_pair(self) -> bool:
        """Return whether the files fit together: between two writes they may not, and then the old pair serves."""
        import ssl

        assert self._certificate is not None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(*self._certificate)
        except OSError:
            return False
        return True


def _context(ca_file: Path | None) -> ssl.SSLContext:
    import ssl  # an idle worker on loopback does not pay for it

    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as cause:
        raise ConfigurationError(
            f"the authorities' file {ca_file} cannot be used ({reason(cause).found})", expected="certificates in PEM"
        ) from cause
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def certificate_files(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """Return the files of a certificate and its key, which may be one; None without a certificate.

    Raises:
        ConfigurationError: There is a key alone.
    """
    if certificate is None:
        if key is not None:
            raise ConfigurationError("client_key is set and client_certificate is not", "set both, or neither")
        return None
    return full_path(certificate), full_path(key or certificate)


def speaks_tls(host: str, port: int) -> bool:
    """Return True if a port answers TLS; looked at only after plain HTTP got no answer there."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is sent and nothing is believed: this only finds out which protocol the address should have named.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), PROBE_S) as plain, context.wrap_socket(plain, server_hostname=host):
            return True
    except ssl.SSLError as cause:
        # A server that wants a certificate, or another version, has answered in TLS all the same.
        return "alert" in str(cause.reason or "").lower()
    except OSError:
        return False


def of_tls(cause: BaseException) -> bool:
    """Return whether it was TLS that failed, not the network."""
    return type(cause).__module__ == "ssl"  # without loading it where only plain HTTP is spoken


def reason(cause: BaseException) -> CutReason:
    """Return why a connection failed, or why a file of certificates cannot be used."""
    if isinstance(cause, TimeoutError):
        return CutReason("timed out")
    if getattr(cause, "verify_code", 0):
        return _unaccepted(cause)
    if of_tls(cause):
        return _refused(str(getattr(cause, "reason", "") or cause))
    if isinstance(cause, socket.gaierror):
        return CutReason("the host name is not known")
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return CutReason((text or type(cause).__name__).lower())


def _unaccepted(cause: BaseException) -> CutReason:
    """Return why this host does not accept the receiver's certificate."""
    code, said = getattr(cause, "verify_code", 0), str(getattr(cause, "verify_message", "")).rstrip(".")
    now = datetime.datetime.fromtimestamp(int(time.time()), datetime.UTC)
    says = f"this host's clock says {now.isoformat().replace('+00:00', 'Z')}"
    if code == _NOT_YET:
        return CutReason(f"its certificate is not yet valid: {says}", "set the clock and try again")
    if code == _EXPIRED:
        return CutReason(f"its certificate has expired: {says}", f"if the clock is right, renew it there: {_RENEW}")
    if code in _WRONG_NAME:
        return CutReason(
            f"its certificate is for another name: {said}",
            f"use the name it was made for, or add this one there: {_RENEW} --host-names NAME",
        )
    return CutReason(
        f"its certificate is not accepted: {said}",
        "set CIS490_CA_FILE (ca_file) to the ca.pem of that receiver, copied from there",
    )


def _refused(alert: str) -> CutReason:
    """Return what an alert of the receiver, or an answer that is no TLS, means."""
    words = alert.lower().replace("_", " ")
    if "alert" in words and ("certificate" in words or "unknown ca" in words):
        said = words.partition("alert ")[2]
        return CutReason(f"it refuses this host's own certificate: {said}", _ADVICE)
    if "eof" in words:
        return CUT
    if "wrong version" in words or "http request" in words:
        return CutReason("it does not speak https there", "check the address")
    return CutReason(words)
