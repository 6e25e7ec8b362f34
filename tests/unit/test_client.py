"""The client against a real HTTP server on loopback, and against raw sockets where a server must misbehave."""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stub_receiver import Reply, StubReceiver, lease, problem

from training.fleet.client import Client, address
from training.fleet.model.capability import Capability
from training.fleet.model.errors import (
    AuthenticationError,
    ConfigurationError,
    ForbiddenError,
    HostRefusedError,
    InvalidMessageError,
    NotFoundError,
    StaleLeaseError,
    StorageFullError,
    TooLargeError,
    UnavailableError,
    UnreachableError,
)
from training.fleet.wire.worker import Beat, Claim, Complete, Fail, Heartbeat, Stored

CLAIM = Claim("claim-0001", "box", Capability("box"))


@pytest.fixture
def stub() -> Iterator[StubReceiver]:
    receiver = StubReceiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def naps() -> list[float]:
    return []


@pytest.fixture
def client(stub: StubReceiver, naps: list[float]) -> Iterator[Client]:
    it = Client(stub.url, "worker-token", "operator-token", sleep=naps.append, random=lambda: 0.5)
    yield it
    it.close()


def raw_server(serve: Callable[[socket.socket], None]) -> tuple[str, threading.Thread]:
    """Serve one connection with a function; return the URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener, listener.accept()[0] as connection:
            connection.settimeout(5)
            serve(connection)

    thread = threading.Thread(target=run)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", thread


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("ftp://127.0.0.1", "'ftp://127.0.0.1'"),
        ("file:///etc/passwd", "'file:///etc/passwd'"),
        ("file://127.0.0.1/etc/passwd", "'file://127.0.0.1/etc/passwd'"),
        ("127.0.0.1:8445", "'127.0.0.1:8445'"),
        ("http://", "'http://'"),
        ("http://[::1", "something that is no URL"),
        ("http://127.0.0.1:99999", "something that is no URL"),
        ("http://user:secret@127.0.0.1", "a user, a query or a fragment"),
        ("http://127.0.0.1/?x=1", "a user, a query or a fragment"),
        ("http://pi.lab:8445", "would send the token in the clear"),
        ("http://127.0.0.1.evil.example", "would send the token in the clear"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_showing_a_password(url: str, found: str) -> None:
    with pytest.raises(ConfigurationError, match="receiver's address is") as caught:
        address(url)
    assert found in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://127.0.0.1:8445/", ("http://127.0.0.1:8445", False, "127.0.0.1", 8445, "")),
        ("http://localhost", ("http://localhost:80", False, "localhost", 80, "")),
        ("http://[::1]:9", ("http://[::1]:9", False, "::1", 9, "")),
        ("https://pi.lab/fleet/", ("https://pi.lab:443/fleet", True, "pi.lab", 443, "/fleet")),
    ],
)
def test_an_address_is_taken_apart(url: str, parts: tuple[str, bool, str, int, str]) -> None:
    found = address(url)
    assert (found.url, found.secure, found.host, found.port, found.prefix) == parts


@pytest.mark.parametrize("token", ["a b", "töken", "line\nfeed", ""])
def test_a_token_that_no_header_can_carry_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Client(token=token)
    assert token == "" or token not in caught.value.message


def test_a_proxy_is_only_taken_for_https() -> None:
    with pytest.raises(ConfigurationError, match="the proxy cannot be used"):
        Client(proxy="http://127.0.0.1:3128")


def test_proxies_of_the_environment_are_never_used(stub: StubReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with_proxy = Client(stub.url)
    assert with_proxy.get("/v1/health") == {"status": "ok"}
    with_proxy.close()


def test_a_request_under_way_while_the_secret_changes_is_sent_again_with_the_new_one(stub: StubReceiver) -> None:
    stub.script["claim"] = [problem(401, "unauthenticated", "this secret was replaced")] * 2
    client = Client(stub.url, lambda: f"secret-{min(len(stub.seen), 1)}")
    with pytest.raises(AuthenticationError):
        client.claim(CLAIM)
    client.close()
    assert [seen.headers["authorization"] for seen in stub.seen] == ["Bearer secret-0", "Bearer secret-1"]


def test_get_sends_tokens_and_query(client: Client, stub: StubReceiver) -> None:
    assert client.get("/v1/jobs", {"status": "running,claimed", "host": ""}) == {"status": "ok"}
    [seen] = stub.seen
    assert seen.path == "/v1/jobs?status=running,claimed"
    assert seen.headers["authorization"] == "Bearer worker-token"
    assert seen.headers["x-operator-token"] == "operator-token"
    assert seen.headers["user-agent"].startswith("cis490/")


def test_one_connection_serves_many_requests(client: Client, stub: StubReceiver) -> None:
    ports = set()
    stub.script["/v1/health"] = [lambda seen: (200, {}, {"n": 1})] * 3
    for _ in range(3):
        client.get("/v1/health")
        ports.add(next(iter(client._connections.values())).sock.getsockname())
    assert len(ports) == 1


def test_a_connection_the_receiver_closed_meanwhile_is_replaced(client: Client, stub: StubReceiver) -> None:
    stub.script["/v1/health"] = [(200, {"Connection": "close"}, {"n": 1})]
    client.get("/v1/health")
    stub.stop()
    stub.start()
    assert client.get("/v1/health") == {"status": "ok"}


def test_post_sends_json_or_bytes(client: Client, stub: StubReceiver) -> None:
    assert client.post("/v1/x/cancel", {"a": "ü"})[0] == 200
    assert client.post("/v1/manifest/plan", b"[[jobs]]")[1] == {"status": "ok"}
    assert stub.seen[0].body == '{"a":"ü"}'.encode()
    assert stub.seen[1].headers["content-type"] == "application/toml"
    assert stub.seen[1].body == b"[[jobs]]"


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (problem(401, "unauthenticated"), AuthenticationError),
        (problem(403, "host_refused"), HostRefusedError),
        (problem(404, "not_found"), NotFoundError),
        (problem(409, "stale_lease"), StaleLeaseError),
        (problem(422, "invalid_message"), InvalidMessageError),
        (problem(403, "code_of_a_newer_receiver"), ForbiddenError),
        ((307, {"Location": "http://evil.example/"}, b""), ConfigurationError),
    ],
)
def test_a_refusal_is_raised_as_its_class_and_not_repeated(
    client: Client, stub: StubReceiver, naps: list[float], reply: Reply, kind: type[Exception]
) -> None:
    stub.script["/v1/health"] = [reply]
    with pytest.raises(kind) as caught:
        client.get("/v1/health")
    assert "token" not in str(caught.value).replace("carry the token along", "")
    assert len(stub.seen) == 1
    assert naps == []


NOT_A_RECEIVERS = [
    (404, {"Content-Type": "text/html; charset=utf-8"}, b"<html>"),
    (401, {}, b""),
    (403, {}, {"code": 403, "message": "blocked by the gateway"}),
    (404, {}, {"code": "NOT_FOUND", "message": "no route"}),
    (409, {}, b"conflict"),
    (410, {}, {"status": 404, "code": "not_found"}),
    (413, {}, b""),
    (418, {}, b"[1]"),
]


@pytest.mark.parametrize("reply", NOT_A_RECEIVERS, ids=str)
def test_a_refusal_that_is_not_the_receivers_counts_as_an_outage(
    client: Client, stub: StubReceiver, naps: list[float], reply: Reply
) -> None:
    stub.script["/v1/health"] = [reply] * 2
    assert client.get("/v1/health") == {"status": "ok"}
    assert naps == [0.1, 0.2]
    stub.script["/v1/health"] = [reply]
    with pytest.raises(UnavailableError, match=f"answered {reply[0]} without a receiver's reason"):
        client.get("/v1/health", deadline_s=0)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_repeated_with_full_jitter(
    client: Client, stub: StubReceiver, naps: list[float], status: int
) -> None:
    stub.script["/v1/health"] = [(status, {}, b"")] * 3
    assert client.get("/v1/health") == {"status": "ok"}
    assert naps == [0.1, 0.2, 0.4]


def test_retry_after_is_heeded(client: Client, stub: StubReceiver, naps: list[float]) -> None:
    stub.script["/v1/health"] = [problem(503, "unavailable", headers={"Retry-After": "3"})]
    client.get("/v1/health")
    assert naps == [3.1]


def test_an_endless_retry_after_is_cut_by_the_deadline(client: Client, stub: StubReceiver, naps: list[float]) -> None:
    stub.script["/v1/health"] = [problem(503, "unavailable", headers={"Retry-After": "999999"})]
    with pytest.raises(UnavailableError) as caught:
        client.get("/v1/health")
    assert caught.value.retry_after_s == 300
    assert naps == []


def test_a_date_in_retry_after_is_passed_over(client: Client, stub: StubReceiver, naps: list[float]) -> None:
    stub.script["/v1/health"] = [problem(503, "unavailable", headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})]
    client.get("/v1/health")
    assert naps == [0.1]


def test_nobody_at_the_address_is_said_with_the_address(naps: list[float]) -> None:
    nobody = Client("http://127.0.0.1:1", sleep=naps.append)
    with pytest.raises(UnreachableError, match=r"no answer from http://127\.0\.0\.1:1 \(connection refused\)"):
        nobody.get("/v1/health", deadline_s=0)
    assert naps == []


def test_a_host_name_nobody_knows_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UnreachableError, match="the host name is not known"):
        Client("https://pi.lab").get("/v1/health", deadline_s=0)


def test_a_receiver_that_says_nothing_times_out() -> None:
    done = threading.Event()
    url, thread = raw_server(lambda _: done.wait(5) and None)
    quiet = Client(url, timeout_s=0.1)
    with pytest.raises(UnreachableError, match="timed out"):
        quiet.get("/v1/health", deadline_s=0)
    done.set()
    thread.join()


# The deep one has a name, because pytest puts its own into a variable, and Windows bounds those to 32,767 characters.
@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[]", pytest.param(b"[" * 100000, id="deep"), b""])
def test_an_answer_that_is_no_receivers_is_said_so(client: Client, stub: StubReceiver, body: bytes) -> None:
    stub.script["/v1/health"] = [(200, {}, body)]
    with pytest.raises(UnavailableError, match="not a receiver's"):
        client.get("/v1/health", deadline_s=0)


def test_a_claim_is_parked_and_answered_with_a_lease(client: Client, stub: StubReceiver) -> None:
    stub.offer(lease("good"))
    granted, _ = client.claim(CLAIM, wait_s=20)
    assert granted is not None
    assert (granted.job_id, granted.fence, granted.trainer_contract) == ("a" * 64, 1, None)
    assert stub.seen[0].headers["prefer"] == "wait=20"
    assert stub.seen[0].json["capability"]["hostname"] == "box"


def test_no_job_is_no_lease_and_says_when_to_ask_again(client: Client) -> None:
    assert client.claim(CLAIM) == (None, 1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"timeout_s": "one"}, "wrong timeout_s"), ({"lease_id": None}, "wrong lease_id"), ({"stop": {}}, "wrong stop")],
)
def test_a_lease_with_wrong_types_is_refused(
    client: Client, stub: StubReceiver, change: dict[str, object], said: str
) -> None:
    stub.offer(lease("good", **change))
    with pytest.raises(UnavailableError, match=said):
        client.claim(CLAIM)


def test_a_lease_without_a_field_is_refused_and_one_with_more_is_not(client: Client, stub: StubReceiver) -> None:
    stub.offer({key: value for key, value in lease("good").items() if key != "spec"})
    with pytest.raises(UnavailableError, match="lacks spec"):
        client.claim(CLAIM)
    stub.offer(lease("good", news_of_a_later_version=1))
    assert client.claim(CLAIM)[0] is not None


def test_heartbeat_complete_and_fail_return_what_the_receiver_says(client: Client, stub: StubReceiver) -> None:
    stub.beat = {"lease_s": 60, "cancel": True}
    assert client.heartbeat("a" * 64, Heartbeat("lease-0001")) == Beat(60, cancel=True)
    assert client.complete("a" * 64, Complete("lease-0001", "b" * 64)).status == "completed"
    assert client.fail("a" * 64, Fail("lease-0001", "stalled")).status == "failed"
    assert [seen.path.rpartition("/")[2] for seen in stub.seen] == ["heartbeat", "complete", "fail"]


def test_an_upload_is_streamed_with_its_length_and_lease(client: Client, stub: StubReceiver, tmp_path: Path) -> None:
    data = bytes(range(256)) * 8192
    (tmp_path / "bundle").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    assert client.upload("lease-0001", sha256, tmp_path / "bundle") == Stored(sha256, len(data), True)
    assert client.upload("lease-0001", sha256, tmp_path / "bundle").new is False
    assert stub.stored[sha256] == data
    assert stub.seen[0].headers["x-lease-id"] == "lease-0001"
    assert stub.seen[0].headers["content-length"] == str(len(data))


def test_an_early_refusal_of_an_upload_is_read_and_not_taken_for_a_lost_connection(tmp_path: Path) -> None:
    """The receiver refuses on the head alone and closes while the client still sends."""
    (tmp_path / "bundle").write_bytes(b"x" * 30_000_000)
    body = b'{"code": "too_large", "detail": "30 MB are over the limit"}'

    def refuse(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        time.sleep(0.2)

    url, thread = raw_server(refuse)
    with pytest.raises(TooLargeError, match="over the limit"):
        Client(url).upload("lease-0001", "a" * 64, tmp_path / "bundle", deadline_s=0)
    thread.join()


def test_an_upload_stops_as_soon_as_it_is_answered(tmp_path: Path) -> None:
    """The receiver has the artifact already, says so, and reads nothing of it."""
    (tmp_path / "bundle").write_bytes(b"x" * 30_000_000)
    body = b'{"sha256": "%s", "size_bytes": 30000000, "new": false}' % (b"a" * 64)
    read = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        read.wait(10)

    url, thread = raw_server(answer)
    client = Client(url, timeout_s=5)
    assert client.upload("lease-0001", "a" * 64, tmp_path / "bundle", deadline_s=0).new is False
    read.set()
    thread.join()


def test_a_full_store_is_only_worth_repeats_when_asked(client: Client, stub: StubReceiver, tmp_path: Path) -> None:
    (tmp_path / "bundle").write_bytes(b"x")
    sha256 = hashlib.sha256(b"x").hexdigest()
    stub.script["upload"] = [problem(507, "storage_full")]
    with pytest.raises(StorageFullError):
        client.upload("lease-0001", sha256, tmp_path / "bundle")
    stub.script["upload"] = [problem(507, "storage_full")]
    assert client.upload("lease-0001", sha256, tmp_path / "bundle", retry_full=True).new


def test_a_bundle_that_is_gone_is_this_hosts_fault(client: Client, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.upload("lease-0001", "a" * 64, tmp_path / "gone")


def test_hanging_up_ends_a_parked_claim_at_once(client: Client, stub: StubReceiver) -> None:
    threading.Timer(0.2, client.hang_up).start()
    began = time.monotonic()
    with pytest.raises(UnreachableError):
        client.claim(CLAIM, wait_s=30)
    assert time.monotonic() - began < 5
    with pytest.raises(UnreachableError, match="given up"):
        client.get("/v1/health")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("the openssl command is not installed")
    return cert, key


@pytest.fixture
def secure(stub: StubReceiver, certificate: tuple[Path, Path]) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    stub.server.socket = context.wrap_socket(stub.server.socket, server_side=True)
    return f"https://localhost:{stub.port}"


def test_https_works_with_a_given_authority(secure: str, certificate: tuple[Path, Path]) -> None:
    client = Client(secure, ca_file=certificate[0])
    assert client.get("/v1/health") == {"status": "ok"}
    client.close()


def test_an_upload_over_https_arrives_whole(
    secure: str, certificate: tuple[Path, Path], stub: StubReceiver, tmp_path: Path
) -> None:
    """Session tickets wait to be read at its start; they are no early answer."""
    data = bytes(range(256)) * 20000
    (tmp_path / "bundle").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    client = Client(secure, ca_file=certificate[0], timeout_s=5)
    assert client.upload("lease-0001", sha256, tmp_path / "bundle", deadline_s=0).new
    client.close()
    assert stub.stored[sha256] == data


def test_an_upload_that_nobody_reads_times_out(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_bytes(b"x" * 30_000_000)
    done = threading.Event()
    url, thread = raw_server(lambda _: done.wait(10) and None)
    with pytest.raises(UnreachableError, match="timed out"):
        Client(url, timeout_s=0.2).upload("lease-0001", "a" * 64, tmp_path / "bundle", deadline_s=0)
    done.set()
    thread.join()


def test_https_with_an_unknown_authority_says_what_to_check(secure: str) -> None:
    with pytest.raises(UnreachableError, match=r"its certificate is not accepted: self.signed certificate.*ca_file"):
        Client(secure).get("/v1/health", deadline_s=0)


def test_an_authorities_file_without_certificates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ConfigurationError, match="expected certificates in PEM"):
        Client("https://localhost", ca_file=tmp_path / "ca.pem")


def test_https_goes_through_a_given_proxy_without_the_token() -> None:
    heard: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        heard.append(connection.recv(4000))
        connection.sendall(b"HTTP/1.1 403 no\r\n\r\n")

    url, thread = raw_server(proxy)
    with pytest.raises(UnreachableError, match="403"):
        Client("https://pi.lab", "secret-token", proxy=url).get("/v1/health", deadline_s=0)
    thread.join()
    assert heard[0].startswith(b"CONNECT pi.lab:443")
    assert b"secret-token" not in heard[0]


def test_the_client_needs_nothing_beyond_the_standard_library(root: Path) -> None:
    code = "import sys, training.fleet.client; print(sorted({'msgspec', 'starlette', 'uvicorn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_cut_answer_is_no_answer() -> None:
    def cut(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}")

    url, thread = raw_server(cut)
    client = Client(url, deadline_s=0)
    with pytest.raises(UnreachableError):
        client.get("/v1/health")
    client.close()
    thread.join()


def test_a_hang_up_while_a_connection_is_made_ends_the_call(
    stub: StubReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(stub.url)
    connect = http.client.HTTPConnection.connect

    def late(connection: http.client.HTTPConnection) -> None:
        client.hang_up()
        connect(connection)

    monkeypatch.setattr(http.client.HTTPConnection, "connect", late)
    with pytest.raises(UnreachableError, match="the call was given up"):
        client.get("/v1/health", deadline_s=0)
    assert stub.seen == []


def test_an_error_keeps_no_socket_alive() -> None:
    """The frames of its cause would hold the answer, and with it the socket, until the garbage collector comes by."""
    url, thread = raw_server(lambda connection: connection.sendall(b"HTTP/1.1 403 no\r\n\r\n"))
    with pytest.raises(UnreachableError) as caught:
        Client("https://pi.lab", proxy=url).get("/v1/health", deadline_s=0)
    thread.join()
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__traceback__ is None
