"""The fleet's own authority. `openssl verify` is the judge wherever it can be."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from training.fleet.files import write_new
from training.fleet.model.errors import ConfigurationError, FleetError
from training.fleet.tls.certificates import (
    DAY_S,
    Authority,
    KeyPair,
    facts,
    make_authority,
    signed_by,
)

NOW = 1_800_000_000.0
URI = "urn:cis490:worker:gpu-tower:abc"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ca")
    pair = make_authority(NOW)
    write_new(made / "ca.pem", pair.certificate_pem)
    write_new(made / "ca.key", pair.key_pem)
    return made


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority.read(folder / "ca.pem", folder / "ca.key")


def openssl(*words: str, text: bytes = b"") -> str:
    try:
        done = subprocess.run(["openssl", *words], input=text, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("the openssl command is not installed")
    return (done.stdout + done.stderr).decode()


def verified(folder: Path, pair: KeyPair, purpose: str, at: float, *more: str) -> str:
    (folder / "shown.pem").write_bytes(pair.certificate_pem)
    words = ["-x509_strict", "-attime", str(int(at)), "-purpose", purpose, "-CAfile", str(folder / "ca.pem"), *more]
    return openssl("verify", *words, str(folder / "shown.pem"))


def test_openssl_accepts_a_server_under_each_of_its_names_and_no_other(folder: Path, authority: Authority) -> None:
    pair = authority.server(["receiver.lab", "10.1.2.3", "[fd00::1]"], NOW)
    for flag, name in (("-verify_hostname", "receiver.lab"), ("-verify_ip", "10.1.2.3"), ("-verify_ip", "fd00::1")):
        assert verified(folder, pair, "sslserver", NOW, flag, name).endswith("shown.pem: OK\n")
    assert "hostname mismatch" in verified(folder, pair, "sslserver", NOW, "-verify_hostname", "other.lab").lower()
    assert "unsuitable certificate purpose" in verified(folder, pair, "sslclient", NOW)


def test_openssl_accepts_a_worker_as_client_only(folder: Path, authority: Authority) -> None:
    pair = authority.worker("gpu-tower", URI, NOW)
    assert verified(folder, pair, "sslclient", NOW).endswith("shown.pem: OK\n")
    assert "unsuitable certificate purpose" in verified(folder, pair, "sslserver", NOW)
    text = openssl("x509", "-noout", "-subject", "-ext", "subjectAltName", text=pair.certificate_pem)
    assert "CN = gpu-tower" in text
    assert f"URI:{URI}" in text


def test_a_host_whose_clock_is_29_days_late_takes_a_new_certificate(folder: Path, authority: Authority) -> None:
    pair = authority.server(["receiver.lab"], NOW)
    assert verified(folder, pair, "sslserver", NOW - 29 * DAY_S).endswith("shown.pem: OK\n")
    assert "not yet valid" in verified(folder, pair, "sslserver", NOW - 31 * DAY_S)


def test_lives_are_ten_years_397_days_and_90_days(folder: Path, authority: Authority) -> None:
    assert facts(authority.pem).not_after == NOW + 3650 * 86400
    assert authority.server(["a.lab"], NOW).not_after == NOW + 397 * 86400
    assert authority.worker("a", URI, NOW).not_after == NOW + 90 * 86400
    assert "expired" in verified(folder, authority.worker("a", URI, NOW, life_s=60), "sslclient", NOW + 61)


def test_the_certificate_of_another_authority_is_told_apart(folder: Path, authority: Authority, tmp_path: Path) -> None:
    pair = make_authority(NOW)
    write_new(tmp_path / "ca.pem", pair.certificate_pem)
    write_new(tmp_path / "ca.key", pair.key_pem)
    foreign = Authority.read(tmp_path / "ca.pem", tmp_path / "ca.key").worker("gpu-tower", URI, NOW)
    assert "unable to get local issuer certificate" in verified(folder, foreign, "sslclient", NOW)
    assert not signed_by(foreign.certificate_pem, authority)
    assert signed_by(authority.worker("gpu-tower", URI, NOW).certificate_pem, authority)


def test_a_renewed_certificate_can_keep_its_key(authority: Authority) -> None:
    first = authority.server(["a.lab"], NOW)
    second = authority.server(["a.lab"], NOW + 1, key_pem=first.key_pem)
    assert second.key_pem == first.key_pem
    assert second.fingerprint != first.fingerprint
    assert second.serial != first.serial


def test_a_key_that_cannot_be_gone_on_with_is_refused(authority: Authority) -> None:
    rsa = openssl("genpkey", "-algorithm", "RSA", "-quiet").encode()
    with pytest.raises(FleetError, match="of another kind"):
        authority.server(["a.lab"], NOW, key_pem=rsa)
    with pytest.raises(FleetError, match="cannot be read"):
        authority.server(["a.lab"], NOW, key_pem=b"nothing")
    with pytest.raises(ConfigurationError, match="no certificate in PEM"):
        facts(b"nothing")


def test_the_fingerprint_is_the_one_openssl_shows(authority: Authority) -> None:
    pair = authority.worker("a", URI, NOW)
    shown = openssl("x509", "-noout", "-fingerprint", "-sha256", text=pair.certificate_pem)
    assert shown.strip().partition("=")[2].replace(":", "").lower() == pair.fingerprint
    assert facts(pair.certificate_pem).fingerprint == pair.fingerprint


@pytest.mark.parametrize("names", [[], ["a" * 64], [""], ["a b"], ["*.lab"], ["a/b"]], ids=ascii)
def test_names_that_no_certificate_can_hold_are_refused(authority: Authority, names: list[str]) -> None:
    with pytest.raises(FleetError):
        authority.server(names, NOW)


def test_key_and_certificate_that_do_not_belong_together_are_refused(folder: Path, tmp_path: Path) -> None:
    write_new(tmp_path / "ca.key", make_authority(NOW).key_pem)
    with pytest.raises(ConfigurationError, match="is not the key of"):
        Authority.read(folder / "ca.pem", tmp_path / "ca.key")
    (tmp_path / "none.key").write_text("nothing")
    with pytest.raises(ConfigurationError, match="make them with"):
        Authority.read(folder / "ca.pem", tmp_path / "none.key")


def test_no_key_stands_in_what_is_printed(authority: Authority) -> None:
    pair = authority.worker("a", URI, NOW)
    assert "PRIVATE" not in repr(pair)
    assert pair.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----")
