"""Whom a client trusts, what it shows, and what it says when TLS fails. Every server here speaks real TLS."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tls_site import Site

from training.fleet.client import Client
from training.fleet.model.errors import ConfigurationError, UnreachableError
from training.fleet.tls.trust import ClientTls, reason

URI = "urn:cis490:worker:gpu-tower:abc"


class Answering(BaseHTTPRequestHandler):
    """Answers with the digest of the certificate that the client showed."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        der = self.connection.getpeercert(True)  # type: ignore[attr-defined]
        body = b'{"shown": "%s"}' % (hashlib.sha256(der).hexdigest().encode() if der else b"")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


class Servers:
    """Starts servers and ends them."""

    def __init__(self) -> None:
        self._live: list[tuple[Quiet, threading.Thread]] = []

    def start(self, files: tuple[Path, Path], clients: Path | None = None, *, needed: bool = False) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        if clients is not None:
            context.load_verify_locations(clients)
            context.verify_mode = ssl.CERT_REQUIRED if needed else ssl.CERT_OPTIONAL
        server = Quiet(("127.0.0.1", 0), Answering)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        self._live.append((server, thread))
        return f"https://localhost:{server.server_port}"

    def end(self) -> None:
        for server, thread in self._live:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.fixture
def servers() -> Iterator[Servers]:
    live = Servers()
    yield live
    live.end()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("foreign"))


def asked(client: Client) -> str:
    try:
        return str(client.get("/", deadline_s=0)["shown"])
    finally:
        client.close()


def test_a_server_of_the_given_authority_is_trusted_and_sees_this_hosts_certificate(
    servers: Servers, site: Site
) -> None:
    own = site.worker("gpu-tower", URI)
    url = servers.start(site.server(), site.ca, needed=True)
    shown = asked(Client(url, ca_file=site.ca, certificate=own))
    assert shown == hashlib.sha256(ssl.PEM_cert_to_DER_cert(own[0].read_text())).hexdigest()


@pytest.mark.parametrize(
    ("label", "names", "when", "said"),
    [
        (
            "early",
            ("localhost",),
            {"begins_s": 3600},
            r"not yet valid: this host's clock says 20\d\d-.*Z; set the clock",
        ),
        ("late", ("localhost",), {"ends_s": -60}, r"has expired: this host's clock says .*init --renew"),
        ("other", ("other.lab",), {}, r"is for another name: .*other\.lab|is for another name: .*init --renew --host"),
    ],
    ids=["not yet valid", "expired", "another name"],
)
def test_each_fault_of_a_certificate_says_what_to_do(
    servers: Servers, site: Site, label: str, names: tuple[str, ...], when: dict[str, float], said: str
) -> None:
    url = servers.start(site.server(label, names=names, **when))
    with pytest.raises(UnreachableError, match="no safe connection to https://localhost:.*" + said):
        asked(Client(url, ca_file=site.ca))


def test_a_given_authority_replaces_all_others(servers: Servers, site: Site, foreign: Site) -> None:
    url = servers.start(foreign.server())
    with pytest.raises(UnreachableError, match=r"not accepted: unable to get local issuer certificate.*ca_file"):
        asked(Client(url, ca_file=site.ca))


CASES = {
    "foreign": "it refuses this host's own certificate: unknown ca",
    "expired": "it refuses this host's own certificate: certificate expired",
    "early": "it refuses this host's own certificate: bad certificate",
    "none": "it refuses this host's own certificate: certificate required",
}


def shown_in(case: str, site: Site, foreign: Site) -> tuple[Path, Path] | None:
    if case == "foreign":
        return foreign.worker("gpu-tower", URI)
    if case == "expired":
        return site.worker("gpu-tower", URI, "expired", ends_s=-60)
    return site.worker("gpu-tower", URI, "early", begins_s=3600) if case == "early" else None


def alert_to(client: ssl.SSLContext, server: ssl.SSLContext) -> ssl.SSLError:
    """Return what a client hears from a server that refuses it, without a network that could lose it."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(back, there, server_hostname="localhost")
    other = server.wrap_bio(there, back, server_side=True)
    for _ in range(3):
        for side in (one, other):
            with contextlib.suppress(ssl.SSLError):
                side.do_handshake()
    with pytest.raises(ssl.SSLError) as caught:
        one.read()
    return caught.value


@pytest.mark.parametrize("case", CASES)
def test_an_alert_of_the_server_says_what_is_wrong_with_this_hosts_certificate(
    site: Site, foreign: Site, case: str
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*site.server())
    server.load_verify_locations(site.ca)
    server.verify_mode = ssl.CERT_REQUIRED
    found, remedy = reason(alert_to(ClientTls(site.ca, shown_in(case, site, foreign)).context, server))
    assert (found, remedy) == (CASES[case], "check this clock, or enrol this host again")


@pytest.mark.parametrize("case", ["foreign", "expired", "early"])
def test_a_server_that_refuses_this_hosts_certificate_is_told_apart(
    servers: Servers, site: Site, foreign: Site, case: str
) -> None:
    """The network may lose the alert; then the cut connection alone must lead to the certificate."""
    url = servers.start(site.server(), site.ca, needed=True)
    with pytest.raises(UnreachableError, match=r"no safe connection.*this host's own certificate.*enrol this host"):
        asked(Client(url, ca_file=site.ca, certificate=shown_in(case, site, foreign)))


def test_a_renewed_certificate_is_shown_from_the_next_request_on(servers: Servers, site: Site) -> None:
    own = site.worker("renewed", URI)
    client = Client(servers.start(site.server(), site.ca), ca_file=site.ca, certificate=own)
    first = client.get("/", deadline_s=0)["shown"]
    assert client.get("/", deadline_s=0)["shown"] == first
    site.worker("renewed", URI)
    second = client.get("/", deadline_s=0)["shown"]
    client.close()
    assert second != first
    assert second == hashlib.sha256(ssl.PEM_cert_to_DER_cert(own[0].read_text())).hexdigest()


def test_half_a_renewal_changes_nothing(servers: Servers, site: Site) -> None:
    own = site.worker("half", URI)
    client = Client(servers.start(site.server(), site.ca), ca_file=site.ca, certificate=own)
    first = client.get("/", deadline_s=0)["shown"]
    own[0].write_bytes(site.worker("other half", URI)[0].read_bytes())
    assert client.get("/", deadline_s=0)["shown"] == first
    own[0].unlink()
    client.close()
    assert client.get("/", deadline_s=0)["shown"] == first
    client.close()


def test_plain_http_behind_an_https_address_is_told_apart(site: Site) -> None:
    server = Quiet(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        with pytest.raises(UnreachableError, match="does not speak https there; check the address"):
            asked(Client(f"https://127.0.0.1:{server.server_port}", ca_file=site.ca))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_https_behind_a_plain_address_is_told_apart(servers: Servers, site: Site) -> None:
    port = servers.start(site.server()).rpartition(":")[2]
    with pytest.raises(UnreachableError) as caught:
        asked(Client(f"http://127.0.0.1:{port}"))
    assert caught.value.message == (
        f"port {port} speaks https, and it was spoken to with http; use the address https://127.0.0.1:{port} and the "
        "receiver's ca.pem (--ca-file or $CIS490_CA_FILE)"
    )
    assert caught.value.answered


def test_a_server_that_hangs_up_without_tls_is_no_https(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            for _ in range(3):
                listening.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        port = listening.getsockname()[1]
        with pytest.raises(UnreachableError, match="no answer from") as caught:
            asked(Client(f"http://127.0.0.1:{port}"))
        assert not caught.value.answered
        for _ in range(3):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                break
        thread.join(10)


def test_an_own_key_that_others_can_read_is_refused(site: Site) -> None:
    own = site.worker("open", URI)
    own[1].chmod(0o644)
    with pytest.raises(ConfigurationError, match="run chmod o= "):
        Client("https://localhost", ca_file=site.ca, certificate=own)


def test_an_own_certificate_that_is_not_there_or_none_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read; enrol this host again"):
        Client("https://localhost", ca_file=site.ca, certificate=(tmp_path / "a", tmp_path / "b"))
    (tmp_path / "a").write_text("nothing")
    (tmp_path / "b").touch(mode=0o600)
    with pytest.raises(ConfigurationError, match="expected a certificate and its key in PEM"):
        Client("https://localhost", ca_file=site.ca, certificate=(tmp_path / "a", tmp_path / "b"))
