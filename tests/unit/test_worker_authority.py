"""Which texts `enrol` takes for the authority of a receiver, and what its file holds then."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from impostor import Impostor
from tls_site import Site

from training.fleet.client.pinning import MAX_CA_BYTES, certificate_alone, fingerprint
from training.fleet.worker.enrol import enrol_host


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("genuine"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """What the man in the middle has: an authority of his own and a certificate from it."""
    return Site(tmp_path_factory.mktemp("own"))


def pem_of(site: Site) -> str:
    return site.ca.read_text()


def wrapped(der: bytes, label: str = "CERTIFICATE") -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n"


def colons(digest: str) -> str:
    """Return a fingerprint as openssl prints it."""
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2)).upper()


ALONE: dict[str, Callable[[str], str]] = {
    "as it is written": lambda pem: pem,
    "with the ends of lines of Windows": lambda pem: pem.replace("\n", "\r\n"),
    "with blanks around it": lambda pem: f"\n  \r\n{pem}\n\t\n",
    "with blanks at the ends of lines": lambda pem: pem.replace("\n", "  \n"),
    "without a last line feed": lambda pem: pem.strip(),
    "with lines of another length": lambda pem: wrapped(ssl.PEM_cert_to_DER_cert(pem)),
}
NOT_ALONE: dict[str, Callable[[str, str], str]] = {
    "another one behind it": lambda pem, other: pem + other,
    "another one before it": lambda pem, other: other + pem,
    "the same twice": lambda pem, _: pem + pem,
    "a TRUSTED CERTIFICATE behind it": lambda pem, other: pem + other.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
    "an X509 CERTIFICATE behind it": lambda pem, other: pem + other.replace("CERTIFICATE", "X509 CERTIFICATE"),
    "an X509 CERTIFICATE before it": lambda pem, other: other.replace("CERTIFICATE", "X509 CERTIFICATE") + pem,
    "as a TRUSTED CERTIFICATE": lambda pem, _: pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
    "as an X509 CERTIFICATE": lambda pem, _: pem.replace("CERTIFICATE", "X509 CERTIFICATE"),
    "with small letters as its mark": lambda pem, _: pem.replace("BEGIN CERTIFICATE", "begin certificate"),
    "text before it": lambda pem, _: f"subject=CN = fleet\n{pem}",
    "text behind it": lambda pem, _: f"{pem}fleet\n",
    "text in it": lambda pem, _: pem.replace("-----\n", "-----\nProc-Type: 4,ENCRYPTED\n", 1),
    "two marks in one": lambda pem, _: f"-----BEGIN CERTIFICATE-----\n{pem}",
    "two ends": lambda pem, _: f"{pem}-----END CERTIFICATE-----\n",
    "another one inside": lambda pem, other: pem.replace("-----END", f"{other}-----END", 1),
    "no end": lambda pem, _: pem.replace("-----END CERTIFICATE-----", ""),
    "garbage at the end of the base64": lambda pem, _: pem.replace("\n-----END", "!\n-----END"),
    "more base64 behind the padding": lambda pem, _: pem.replace("\n-----END", "\n====\nMIIB\n-----END"),
    "bytes behind the certificate": lambda pem, _: wrapped(ssl.PEM_cert_to_DER_cert(pem) + b"\0"),
    "another certificate in the same base64": lambda pem, other: wrapped(
        ssl.PEM_cert_to_DER_cert(pem) + ssl.PEM_cert_to_DER_cert(other)
    ),
    "fewer bytes": lambda pem, _: wrapped(ssl.PEM_cert_to_DER_cert(pem)[:-1]),
    "a letter that is no ASCII": lambda pem, _: f"{pem}\u00e9",
    "a blank that is no ASCII": lambda pem, _: f"{pem}\u2003",
    "a zero byte": lambda pem, _: f"{pem}\0",
    "more than the limit": lambda pem, _: pem + " " * MAX_CA_BYTES,
    "nothing": lambda _pem, _: "",
    "no certificate": lambda _pem, _: "no certificate",
    "no base64": lambda _pem, _: "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----",
    "an empty one": lambda _pem, _: "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----",
    "one byte": lambda _pem, _: wrapped(b"0"),
    "a sequence of no known length": lambda _pem, _: wrapped(b"\x30\x80\0\0"),
    "something that is no sequence": lambda _pem, _: wrapped(b"\x04\x02ab"),
}


@pytest.mark.parametrize("form", ALONE)
def test_a_certificate_alone_has_its_fingerprint_in_whatever_lines_it_stands(genuine: Site, form: str) -> None:
    text = ALONE[form](pem_of(genuine))
    assert fingerprint(text) == genuine.fingerprint
    assert certificate_alone(text) == ssl.PEM_cert_to_DER_cert(pem_of(genuine))


@pytest.mark.parametrize("form", NOT_ALONE)
def test_a_text_that_holds_anything_else_has_no_fingerprint(genuine: Site, own: Site, form: str) -> None:
    assert fingerprint(NOT_ALONE[form](pem_of(genuine), pem_of(own))) == ""


def test_a_short_sequence_is_one_to_its_end() -> None:
    assert certificate_alone(wrapped(b"\x30\x02ab")) == b"\x30\x02ab"
    assert certificate_alone(wrapped(b"\x30\x02abc")) is None


def test_a_long_text_that_is_none_is_refused_at_once() -> None:
    began_s = time.process_time()
    for filler in (" ", "\n", "A", "=", "-"):
        assert fingerprint(f"-----BEGIN CERTIFICATE-----\n{filler * (MAX_CA_BYTES - 40)}") == ""
    assert time.process_time() - began_s < 5


# ---- through the command


def enrol(folder: Path, other: Impostor, *flags: str) -> int:
    words = ["--receiver", other.url, "--host", "box", *flags]
    return enrol_host(words, {"STATE_DIRECTORY": str(folder)}, io.StringIO("the-one-time-code-of-this-test-ab\n"))


SENT = {
    name: made
    for name, made in NOT_ALONE.items()
    if name not in ("a letter that is no ASCII", "a blank that is no ASCII")  # these go as bytes, below
}


@pytest.mark.parametrize("form", SENT)
def test_a_man_in_the_middle_gets_no_code_and_no_trust(
    tmp_path: Path, genuine: Site, own: Site, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Impostor(own, SENT[form](pem_of(genuine), pem_of(own)).encode()) as middle:
        assert enrol(tmp_path, middle, "--ca-sha256", genuine.fingerprint) == 78
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{genuine.fingerprint}; ask the operator for a new invite, and do not go on if it differs again" in said
    assert middle.asked == ["GET /v1/ca"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("body", [b"\xff\xfe", "\u00e9".encode(), "\u2003".encode(), b"\xa0"])
def test_bytes_that_are_no_ascii_beside_the_certificate_are_refused(
    tmp_path: Path, genuine: Site, own: Site, body: bytes
) -> None:
    with Impostor(own, genuine.ca.read_bytes() + body) as middle:
        assert enrol(tmp_path, middle, "--ca-sha256", genuine.fingerprint) == 78
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{genuine}{own}", "shows 2 certificates or keys as its certificate authority; expected one alone, with the"),
        (
            "CN=fleet\n{genuine}",
            "shows a certificate that is damaged or has other text around it as its certificate authority",
        ),
        ("hello", "shows a text that is none as its certificate authority"),
        ("{genuine}" + " " * MAX_CA_BYTES, "shows more than 65536 bytes as its certificate authority"),
        ("", "shows a certificate authority with the fingerprint none; expected"),
        ("{own}", "shows a certificate authority with the fingerprint {fingerprint}; expected"),
    ],
)
def test_it_is_said_what_was_shown(
    tmp_path: Path, genuine: Site, own: Site, body: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = body.format(genuine=pem_of(genuine), own=pem_of(own))
    with Impostor(own, text.encode()) as middle:
        assert enrol(tmp_path, middle, "--ca-sha256", genuine.fingerprint) == 78
    assert said.format(fingerprint=own.fingerprint) in capsys.readouterr().err


@pytest.mark.parametrize("form", ALONE)
@pytest.mark.parametrize("shown", [str.lower, str.upper, colons])
def test_the_file_holds_the_certificate_as_it_was_hashed_and_the_next_connection_trusts_it_alone(
    tmp_path: Path, genuine: Site, form: str, shown: Callable[[str], str]
) -> None:
    """The genuine receiver, whose answer to the code is no enrolment here, because only its authority matters."""
    with Impostor(genuine, ALONE[form](pem_of(genuine)).encode()) as receiver:
        assert enrol(tmp_path, receiver, "--ca-sha256", shown(genuine.fingerprint)) == 75
    assert (tmp_path / "ca.pem").read_text() == pem_of(genuine)
    assert stat.S_IMODE((tmp_path / "ca.pem").stat().st_mode) == 0o600
    assert receiver.asked == ["GET /v1/ca", "POST /v1/enrol"]


STORED: dict[str, Callable[[str, str], str]] = {
    "another one behind it": lambda pem, other: pem + other,
    "another one before it": lambda pem, other: other + pem,
    "a TRUSTED CERTIFICATE behind it": lambda pem, other: pem + other.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
    "text before it": lambda pem, _: f"text\n{pem}",
    "the ends of lines of Windows": lambda pem, _: pem.replace("\n", "\r\n"),
    "another one alone": lambda _pem, other: other,
    "something else": lambda _pem, _: "text",
}


@pytest.mark.parametrize("form", STORED)
def test_a_file_of_an_earlier_enrolment_that_holds_more_is_written_again(
    tmp_path: Path, genuine: Site, own: Site, form: str
) -> None:
    (tmp_path / "ca.pem").write_bytes(STORED[form](pem_of(genuine), pem_of(own)).encode())
    with Impostor(genuine, genuine.ca.read_bytes()) as receiver:
        assert enrol(tmp_path, receiver, "--ca-sha256", genuine.fingerprint) == 75
    assert (tmp_path / "ca.pem").read_bytes() == genuine.ca.read_bytes()


def test_a_file_of_an_earlier_enrolment_that_holds_more_brings_the_code_to_nobody(
    tmp_path: Path, genuine: Site, own: Site
) -> None:
    before = pem_of(genuine) + pem_of(own)
    (tmp_path / "ca.pem").write_text(before)
    with Impostor(own, before.encode()) as middle:
        assert enrol(tmp_path, middle, "--ca-sha256", genuine.fingerprint) == 78
    assert middle.asked == ["GET /v1/ca"]


def test_a_pipe_in_place_of_the_file_is_not_waited_for(tmp_path: Path, genuine: Site) -> None:
    os.mkfifo(tmp_path / "ca.pem")
    with Impostor(genuine, genuine.ca.read_bytes()) as receiver:
        assert enrol(tmp_path, receiver, "--ca-sha256", genuine.fingerprint) == 75
    assert (tmp_path / "ca.pem").read_bytes() == genuine.ca.read_bytes()


def test_what_tls_reads_from_the_written_file_is_the_certificate_that_was_hashed(tmp_path: Path, genuine: Site) -> None:
    with Impostor(genuine, genuine.ca.read_bytes()) as receiver:
        enrol(tmp_path, receiver, "--ca-sha256", genuine.fingerprint)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(tmp_path / "ca.pem")
    assert context.cert_store_stats()["x509"] == 1
    [der] = context.get_ca_certs(binary_form=True)
    assert hashlib.sha256(der).hexdigest() == genuine.fingerprint
