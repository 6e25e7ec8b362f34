"""The ways into a receiver that speak TLS: directly, and through a real Caddy of either kind."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from live_receiver import HERE, TOKEN, LiveReceiver, Reply
from tls_site import Site

from training.fleet.api.front import Front
from training.fleet.auth import Credentials

ROOT = Path(__file__).resolve().parents[2]
READ = "a-read-token-for-tests"
PROXY = "a-proxy-token-for-tests"
CADDIES = {"caddy 2.6 of Debian": Path("/usr/bin/caddy"), "caddy of PyPI": Path(sys.executable).with_name("caddy")}
Files = tuple[Path, Path]


@dataclass(frozen=True)
class Worker:
    """An enrolled worker: its headers, its certificate's files and the public id of its enrolment."""

    name: str
    headers: dict[str, str]
    files: Files
    id: str


class Door:
    """One way in.

    Args:
        receiver: What is behind it.
        site: Where its certificates come from.
        port: Where it listens.
    """

    def __init__(self, receiver: LiveReceiver, site: Site, port: int) -> None:
        self.receiver = receiver
        self.site = site
        self.port = port

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def connect(self, shown: Files | None = None, name: str = "localhost") -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.site.ca))
        if shown is not None:
            context.load_cert_chain(*shown)
        connection = http.client.HTTPSConnection(name, self.port, context=context, timeout=20)
        # Every name leads here; which one was asked for is the certificate's matter.
        connection._create_connection = lambda _address, *more: socket.create_connection(  # type: ignore[attr-defined]
            ("127.0.0.1", self.port), *more
        )
        return connection

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        shown: Files | None = None,
        more: tuple[tuple[str, str], ...] = (),
    ) -> Reply:
        """Send one request; `more` are headers as they are, twice if need be."""
        connection = self.connect(shown)
        try:
            data = b"" if body is None else json.dumps(body).encode()
            connection.putrequest(method, path)
            for name, value in (*dict(headers or {}).items(), ("Content-Length", str(len(data))), *more):
                connection.putheader(name, value)
            connection.endheaders(data)
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def operate(self, path: str, body: Any = None) -> Reply:
        return self.ask("POST", path, body, {"X-Operator-Token": TOKEN})

    def enrol(self, name: str) -> Worker:
        """Enrol a worker as a host does it: without a certificate, which it gets here."""
        code = self.operate("/v1/invite", {"worker": name}).json["code"]
        key = hashlib.sha256(f"{name}{code}".encode()).hexdigest()
        message = {"code": code, "worker": name, "secret_sha256": hashlib.sha256(key.encode()).hexdigest()}
        answer = self.ask("POST", "/v1/enrol", message)
        assert answer.status == 200, answer.body
        found = answer.json
        return Worker(
            name,
            {"Authorization": f"Bearer cis490w.{found['id']}.{key}", **HERE},
            self.keep(f"{name}-{code[:6]}", found),
            found["id"],
        )

    def keep(self, label: str, found: Mapping[str, str]) -> Files:
        paths = self.site.folder / f"{label}.pem", self.site.folder / f"{label}.key"
        for path, text in zip(paths, (found["certificate_pem"], found["key_pem"]), strict=True):
            path.write_text(text)
            path.chmod(0o600)
        return paths

    def claim(
        self,
        worker: Worker,
        shown: Files | None = None,
        headers: Mapping[str, str] | None = None,
        more: tuple[tuple[str, str], ...] = (),
    ) -> Reply:
        """Claim a job as a worker; a job or none are both a yes."""
        body = self.receiver.claim_body(worker.name)
        return self.ask("POST", "/v1/job/claim", body, worker.headers | dict(headers or {}), shown=shown, more=more)

    def events(self, worker: str) -> list[str]:
        answer = self.ask("GET", f"/v1/events?worker={worker}", headers={"Authorization": f"Bearer {READ}"})
        return [f"{event['action']}: {event['why']}" for event in answer.json["events"]]


@contextlib.contextmanager
def direct(folder: Path, text: str, parser: str = "auto", clients: str = "required", **more: Any) -> Iterator[Door]:
    """Open a receiver that speaks TLS itself."""
    site = Site(folder / "site")
    certificate, key = site.server()
    flags = {
        "tls_certificate": str(certificate),
        "tls_key": str(key),
        "tls_clients": clients,
        **_authority(site),
        **more,
    }
    with LiveReceiver(folder, text, http_parser=parser, credentials=_credentials(clients), **flags) as live:  # type: ignore[arg-type]
        yield Door(live, site, live.port)


@contextlib.contextmanager
def fronted(folder: Path, text: str, caddy: str) -> Iterator[Door]:
    """Open a receiver on loopback behind a Caddy with the example's configuration."""
    if not CADDIES[caddy].is_file():
        pytest.skip(f"{caddy} is not installed; scripts/environment.sh installs it")
    site = Site(folder / "site")
    front = Front(["127.0.0.1"], PROXY)
    flags = {"trusted_proxies": "127.0.0.1", "tls_clients": "required", **_authority(site)}
    with (
        LiveReceiver(folder, text, credentials=_credentials("required"), front=front, **flags) as live,
        _caddy(CADDIES[caddy], folder, site, live.port) as port,
    ):
        yield Door(live, site, port)


def _authority(site: Site) -> dict[str, str]:
    return {"tls_ca": str(site.ca), "tls_ca_key": str(site.ca_key)}


def _credentials(clients: str) -> Credentials:
    found = Credentials.of({"operator": TOKEN, "read": READ}, enrolled_only=True)
    return dataclasses.replace(found, certificate_wanted=clients == "required")


@contextlib.contextmanager
def _caddy(program: Path, folder: Path, site: Site, behind: int) -> Iterator[int]:
    certificate, key = site.server("caddy")
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "CIS490_PROXY_TOKEN": PROXY}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    text = (ROOT / "etc/Caddyfile.example").read_text()
    for example, here in (
        ("receiver.lab.example:8443", f"localhost:{port}"),
        ("/etc/caddy/receiver.pem", str(certificate)),
        ("/etc/caddy/receiver.key", str(key)),
        ("/etc/caddy/ca.pem", str(site.ca)),
        ("127.0.0.1:8445 {", f"127.0.0.1:{behind} {{"),
    ):
        assert text.count(example) == 1
        text = text.replace(example, here)
    (folder / "Caddyfile").write_text(text)
    command = [program, "run", "--config", folder / "Caddyfile", "--adapter", "caddyfile"]
    with (folder / "caddy.log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
    try:
        _wait_for(port, process, folder / "caddy.log")
        yield port
    finally:
        process.kill()
        process.wait(10)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.02)
