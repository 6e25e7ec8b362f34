"""A receiver that speaks TLS itself: what it makes, what it refuses, and how its certificate is renewed."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from live_receiver import HERE, LiveReceiver, manifest
from test_receiver_process import refused, started
from tls_doors import direct
from tls_site import Site

from training.fleet import receiver, settings
from training.fleet.client import Client
from training.fleet.client.pinning import fingerprint
from training.fleet.files import write_new
from training.fleet.model.errors import AuthenticationError
from training.fleet.receiver import init as making
from training.fleet.receiver import options
from training.fleet.receiver.operators import credentials_of
from training.fleet.tls.certificates import DAY_S, facts
from training.fleet.tls.serving import Files, Tls

TOKENS = {"CIS490_READ_TOKEN": "r" * 16}


# ---- init


def init(folder: Path, *words: str) -> int:
    return receiver.main(["init", "--folder", str(folder), *words])


def test_init_makes_private_files_and_the_lines_that_serve_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = os.umask(0)
    try:
        assert init(tmp_path / "tls", "--host-names", "receiver.lab,10.0.0.7") == 0
    finally:
        os.umask(before)
    names = ["ca.key", "ca.pem", "operator.token", "read.token", "receiver.key", "receiver.pem"]
    assert sorted(path.name for path in (tmp_path / "tls").iterdir()) == names
    assert {stat.S_IMODE((tmp_path / "tls" / name).stat().st_mode) for name in names} == {0o600}
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
    said = capsys.readouterr().out.splitlines()
    digest = facts((tmp_path / "tls/ca.pem").read_bytes()).fingerprint
    assert f"# the authority's SHA-256 is {digest}" in said
    assert any(f"--receiver https://receiver.lab:8445 --host HOST --ca-sha256 {digest}" in line for line in said)
    environ = dict(line.split("=", 1) for line in said if not line.startswith("#"))
    environ |= {"CIS490_LISTEN_ADDR": "127.0.0.1:0", "CIS490_OPERATOR_TOKEN": ""}
    with started(tmp_path, text=manifest(1), **environ) as running:
        port = int(running.wait_for("listening")["address"].removeprefix("https://127.0.0.1:"))
        work_with(f"https://localhost:{port}", tmp_path / "tls")
        assert running.end() == 0


def work_with(url: str, folder: Path) -> None:
    """Enrol and ask for a job, at a receiver that runs on the event loop of its choice."""
    operator = Client(url, operator_token=(folder / "operator.token").read_text().strip(), ca_file=folder / "ca.pem")
    invite = operator.post("/v1/invite", {"worker": "tower"})[1] or {}
    message = {"code": invite["code"], "worker": "tower", "secret_sha256": hashlib.sha256(b"k" * 43).hexdigest()}
    found = operator.post("/v1/enrol", message)[1] or {}
    operator.close()
    own = folder / "worker.pem"
    write_new(own, (found["certificate_pem"] + found["key_pem"]).encode())
    secret = f"cis490w.{found['id']}.{'k' * 43}"
    for certificate in (None, (own, own)):
        here = HERE["X-Worker-Session"]
        worker = Client(url, secret, ca_file=folder / "ca.pem", certificate=certificate, session=here)
        body = {"claim_id": "claim-0001", "worker": "tower", "held_leases": []}
        capability = {"hostname": "tower", "ram_bytes": 2**34, "version": "0.1.0"}
        if certificate is None:
            with pytest.raises(AuthenticationError, match="none came"):
                worker.post("/v1/job/claim", {**body, "capability": capability})
        else:
            assert worker.post("/v1/job/claim", {**body, "capability": capability})[0] == 200
        worker.close()


def test_init_again_keeps_every_file_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init(tmp_path, "--host-names", "receiver.lab") == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert init(tmp_path, "--host-names", "other.lab") == 0
    said = capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert said.count("# kept ") == 6
    assert "does not name other.lab; --renew issues it again" in said


def test_renewing_keeps_the_key_and_takes_new_names(tmp_path: Path) -> None:
    assert init(tmp_path, "--host-names", "receiver.lab") == 0
    key, first = (tmp_path / "receiver.key").read_bytes(), facts((tmp_path / "receiver.pem").read_bytes())
    assert init(tmp_path, "--renew") == 0
    second = facts((tmp_path / "receiver.pem").read_bytes())
    assert (second.names, first.names[0]) == (first.names, "receiver.lab")
    assert init(tmp_path, "--renew", "--host-names", "other.lab") == 0
    third = facts((tmp_path / "receiver.pem").read_bytes())
    assert third.names == ("other.lab", "localhost", "127.0.0.1", "::1")
    assert len({first.fingerprint, second.fingerprint, third.fingerprint}) == 3
    assert (tmp_path / "receiver.key").read_bytes() == key


def test_init_refuses_half_a_pair_an_open_key_and_a_folder_it_cannot_make(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path, "--host-names", "receiver.lab") == 0
    (tmp_path / "receiver.key").chmod(0o644)
    assert init(tmp_path) == 78
    assert f"run chmod o= {tmp_path / 'receiver.key'}" in capsys.readouterr().err
    (tmp_path / "receiver.key").unlink()
    assert init(tmp_path) == 78
    assert "receiver.pem is there and" in capsys.readouterr().err
    assert init(Path("/proc/none")) == 78
    assert "run init as who owns" in capsys.readouterr().err
    assert init(tmp_path / "other", "--host-names", "a b") == 1
    assert "is no host name" in capsys.readouterr().err


def test_what_root_makes_is_given_to_the_receivers_user_and_never_what_a_link_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that leads nowhere shows it: to give its target away would fail."""
    link = tmp_path / "receiver.pem"
    link.symlink_to(tmp_path / "missing")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    making._give(link, tmp_path)
    assert link.lstat().st_uid == tmp_path.stat().st_uid


def test_init_without_cryptography_says_what_to_install(tmp_path: Path, root: Path) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from training.fleet import receiver; sys.exit(receiver.main(['init', '--folder', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 78
    assert "-m pip install '.[tls]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_receiver_loads_cryptography_only_to_issue(root: Path) -> None:
    code = "import sys, training.fleet.receiver; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# ---- what it refuses to start with


@pytest.mark.parametrize("name", ["tls_key", "tls_ca_key"])
def test_a_key_that_others_can_read_ends_the_start_with_the_command_that_mends_it(tmp_path: Path, name: str) -> None:
    site = Site(tmp_path / "site")
    certificate, key = site.server()
    opened = key if name == "tls_key" else site.ca_key
    opened.chmod(0o644)
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    flags += ["--tls-ca", str(site.ca), "--tls-ca-key", str(site.ca_key)]
    said = refused(tmp_path, *flags, text=manifest(1))
    assert f"{name}: everybody on this host can use {opened}; expected a private file; run chmod o= {opened}" in said


SETTINGS = {
    "clients without certificates": (["--tls-clients", "required"], {}, "tls_clients is required, which wants"),
    "a key without its authority": (["--tls-ca-key", "/none"], {}, "tls_ca_key is set and tls_ca is not"),
    "an authority that is not there": (["--tls-ca", "/none"], {}, "cannot use tls_ca /none"),
    "a proxy without its token": (["--trusted-proxies", "127.0.0.1"], TOKENS, "CIS490_PROXY_TOKEN is set; set both"),
    "a token without its proxy": ([], {"CIS490_PROXY_TOKEN": "p" * 16}, "trusted_proxies and CIS490_PROXY_TOKEN"),
    "a proxy that is no address": (
        ["--trusted-proxies", "caddy.lab"], {**TOKENS, "CIS490_PROXY_TOKEN": "p" * 16}, "names 'caddy.lab'; expected"),
    "a proxy and no read token": (
        ["--trusted-proxies", "127.0.0.1"], {"CIS490_PROXY_TOKEN": "p" * 16}, "through a proxy"),
    "a proxy and a token that workers share": (
        ["--trusted-proxies", "127.0.0.1"],
        {**TOKENS, "CIS490_PROXY_TOKEN": "p" * 16, "CIS490_WORKER_TOKEN": "w" * 16}, "a token that workers share"),
}  # fmt: skip


@pytest.mark.parametrize(("flags", "more", "said"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    flags: list[str], more: dict[str, str], said: str,
) -> None:  # fmt: skip
    (tmp_path / "manifest.toml").write_text(manifest(1))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    for name, value in {"CIS490_OPERATOR_TOKEN": "o" * 16, **more}.items():
        monkeypatch.setenv(name, value)
    words = ["--check", "--listen-addr", "127.0.0.1:0", "--manifest", str(tmp_path / "manifest.toml"), *flags]
    assert receiver.main(words) == 78
    assert said in capsys.readouterr().err


def test_behind_a_proxy_workers_are_enrolled_ones_although_the_receiver_listens_on_loopback() -> None:
    def of(**flags: str) -> tuple[bool, bool]:
        found = credentials_of(settings.read(options.table({}), flags, {}), {"operator": "o" * 16, "read": "r" * 16})
        return found.enrolled_only, found.certificate_wanted

    assert of() == (False, False)
    assert of(trusted_proxies="127.0.0.1") == (True, False)
    assert of(trusted_proxies="127.0.0.1", tls_clients="required") == (True, True)
    assert of(tls_clients="optional") == (False, False)


# ---- the handshake


def test_who_does_not_finish_the_handshake_stops_nobody_and_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.fleet.receiver.server.HANDSHAKE_S", 2.0)
    with direct(tmp_path, manifest(1)) as door:
        silent = [socket.create_connection(("127.0.0.1", door.port), timeout=20) for _ in range(20)]
        silent[0].sendall(b"\x16\x03\x01\x02\x00\x01")
        assert door.ask("GET", "/healthz").status == 200
        for link in silent:
            assert link.recv(1) == b""
            link.close()


def test_less_than_tls_1_2_and_plain_http_are_refused(tmp_path: Path) -> None:
    with direct(tmp_path, manifest(1)) as door:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(door.site.ca)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with socket.create_connection(("127.0.0.1", door.port), timeout=20) as link, pytest.raises(ssl.SSLError):
            old.wrap_socket(link, server_hostname="localhost")
        plain = http.client.HTTPConnection("127.0.0.1", door.port, timeout=20)
        with pytest.raises((http.client.BadStatusLine, ConnectionError)):
            plain.request("GET", "/healthz")
            plain.getresponse()
        plain.close()
        assert door.ask("GET", "/healthz").status == 200


# ---- renewal


def shown(port: int) -> str:
    """Return the fingerprint of the certificate that new connections get."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))).hexdigest()


def made(site: Site, **when: float) -> Tls:
    certificate, key = site.server(**when)
    return Tls(Files(certificate, key, site.ca, site.ca_key), ask_clients=True)


def test_a_certificate_is_issued_anew_when_two_thirds_of_its_life_have_passed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    before = facts(site.server()[0].read_bytes())
    kept = made(site)
    begun = time.time()
    assert not kept.refresh(begun + 39 * DAY_S)
    assert kept.refresh(begun + 41 * DAY_S)
    after = facts((tmp_path / "receiver.pem").read_bytes())
    assert after.names == before.names
    assert abs(after.not_after - (begun + 41 * DAY_S + 397 * DAY_S)) < 60
    assert not kept.refresh(begun + 42 * DAY_S)


def test_a_certificate_that_was_issued_while_the_clock_was_ahead_is_issued_anew(tmp_path: Path) -> None:
    kept = made(Site(tmp_path), begins_s=3600, ends_s=90 * DAY_S)
    assert kept.refresh(time.time())
    assert facts((tmp_path / "receiver.pem").read_bytes()).not_before < time.time()


def test_without_the_authoritys_key_changed_files_are_taken_up_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path)
    kept = made(site, ends_s=60)
    site.ca_key.unlink()
    assert not kept.refresh(time.time() + 3600)
    assert caplog.messages == ["the certificate could not be renewed"]
    site.server()
    assert kept.refresh(time.time())


def test_a_certificate_of_another_authority_is_left_to_who_made_it(tmp_path: Path) -> None:
    site, other = Site(tmp_path / "site"), Site(tmp_path / "other")
    certificate, key = other.server(ends_s=60)
    kept = Tls(Files(certificate, key, site.ca, site.ca_key), ask_clients=True)
    before = certificate.read_bytes()
    assert not kept.refresh(time.time() + 3600)
    assert certificate.read_bytes() == before


def test_new_connections_get_the_new_certificate_and_open_ones_go_on(tmp_path: Path) -> None:
    with direct(tmp_path, manifest(1)) as door:
        connection = door.connect()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        before = shown(door.port)
        assert door.receiver.secure is not None
        door.site.server()
        assert door.receiver.secure.refresh(time.time())
        assert shown(door.port) == facts((door.site.folder / "receiver.pem").read_bytes()).fingerprint != before
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.parametrize("half", ["certificate", "key"])
def test_files_that_do_not_fit_together_change_nothing(
    tmp_path: Path, half: str, caplog: pytest.LogCaptureFixture
) -> None:
    with direct(tmp_path, manifest(1)) as door:
        before = shown(door.port)
        other = door.site.server("other")
        name = "receiver.pem" if half == "certificate" else "receiver.key"
        (door.site.folder / name).write_bytes(other[half == "key"].read_bytes())
        assert door.receiver.secure is not None
        assert not door.receiver.secure.refresh(time.time())
        assert "the changed certificate cannot be used" in caplog.messages
        assert shown(door.port) == before
        assert door.ask("GET", "/healthz").status == 200


def test_a_signal_takes_up_a_certificate_that_another_program_has_replaced(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    certificate, key = site.server()
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    with started(tmp_path, *flags, text=manifest(1)) as running:
        port = int(running.wait_for("listening")["address"].rpartition(":")[2])
        before = shown(port)
        site.server()
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("certificate taken up")
        assert shown(port) == facts(certificate.read_bytes()).fingerprint != before
        assert running.end() == 0


def test_a_receiver_whose_certificate_is_about_to_end_renews_it_at_the_start(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    certificate, key = site.server(begins_s=-90 * DAY_S, ends_s=60)
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    flags += ["--tls-ca", str(site.ca), "--tls-ca-key", str(site.ca_key)]
    with started(tmp_path, *flags, text=manifest(1)) as running:
        port = int(running.wait_for("listening")["address"].rpartition(":")[2])
        running.wait_for("certificate taken up")
        assert facts(certificate.read_bytes()).not_after > time.time() + 396 * DAY_S
        assert shown(port) == facts(certificate.read_bytes()).fingerprint
        assert running.end() == 0


def test_without_an_authority_there_is_none_to_fetch_and_none_to_renew_with(tmp_path: Path) -> None:
    with LiveReceiver(tmp_path, manifest(1)) as live:
        assert live.call("GET", "/v1/ca").status == 404
        assert live.call("POST", "/v1/worker/certificate", headers=live.enrolled("tower")).status == 404


AUTHORITIES = {
    "as init makes it": lambda pem, _: pem,
    "with the next authority behind it": lambda pem, other: pem + other,
    "with text around it": lambda pem, _: f"subject=CN = fleet\n\n{pem}\nthe end\n",
    "with the ends of lines of Windows": lambda pem, _: pem.replace("\n", "\r\n"),
    "with the end of a certificate before it": lambda pem, _: f"-----END CERTIFICATE-----\n{pem}",
}


@pytest.mark.parametrize("form", AUTHORITIES)
def test_the_authority_for_hosts_that_enrol_is_the_first_of_its_file_alone(tmp_path: Path, form: str) -> None:
    """A worker refuses a text that holds more than the certificate of the fingerprint."""
    site, other = Site(tmp_path / "site"), Site(tmp_path / "other")
    pem = site.ca.read_text()
    site.ca.write_bytes(AUTHORITIES[form](pem, other.ca.read_text()).encode())
    with LiveReceiver(tmp_path, manifest(1), tls_ca=str(site.ca)) as live:
        shown = live.call("GET", "/v1/ca").body.decode()
        assert (shown, live.fleet.authority.sha256) == (pem, site.fingerprint)
        assert fingerprint(shown) == site.fingerprint


def test_an_authority_that_is_no_certificate_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text(ssl.DER_cert_to_PEM_cert(b"\x30\x02ab"))
    said = refused(tmp_path, "--tls-ca", str(path), text=manifest(1))
    assert f"cannot use tls_ca {path}" in said
    assert "expected a certificate in PEM" in said


def test_who_is_not_enrolled_gets_no_certificate(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    with LiveReceiver(tmp_path, manifest(1), tls_ca=str(site.ca), tls_ca_key=str(site.ca_key)) as live:
        answer = live.call("POST", "/v1/worker/certificate")
        assert (answer.status, answer.json["code"]) == (403, "forbidden")
        assert live.call("POST", "/v1/worker/certificate", headers=live.enrolled("tower")).status == 200
