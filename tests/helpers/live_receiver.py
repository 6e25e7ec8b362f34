"""A real receiver inside the test's own process: real database, queue, store and sockets, on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import itertools
import json
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from training.fleet import settings
from training.fleet.api.fleet import Fleet
from training.fleet.api.front import Front
from training.fleet.auth import Credentials
from training.fleet.database.sqlite import Sqlite
from training.fleet.receiver import options
from training.fleet.receiver.run import make_server, start_fleet
from training.fleet.receiver.server import Server, listen
from training.fleet.tls import serving

TOKEN = "an-operator-token-for-tests"
HERE = {"X-Worker-Session": f"{'5' * 32}.{'1' * 32}"}
"""What a worker says of where it runs, unless a test has several places."""
HEAD = """\
[manifest]
schema = 1
[defaults]
split_recipe = "hosts"
[hosts.default]
slots = 64
"""


def manifest(jobs: int, model: str = "gbt", extra: str = "", head: str = HEAD) -> str:
    """Return a manifest with so many jobs that differ in their seed."""
    return head + "".join(
        f'[[jobs]]\nmodel = "{model}"\nmode = "oracle"\nseed = {seed}\n{extra}' for seed in range(jobs)
    )


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class LiveReceiver:
    """Starts in `with`, ends with it."""

    def __init__(
        self,
        folder: Path,
        text: str,
        tokens: Mapping[str, str | None] | None = None,
        http_parser: Literal["auto", "h11", "httptools"] = "auto",
        credentials: Credentials | None = None,
        front: Front | None = None,
        **flags: Any,
    ) -> None:
        self.folder = folder
        self.manifest = folder / "manifest.toml"
        self.manifest.write_text(text)
        self.tokens = {"operator": TOKEN} if tokens is None else dict(tokens)
        self.parser = http_parser
        self.front = front
        self.credentials = Credentials.of(self.tokens) if credentials is None else credentials
        defaults = {"manifest": str(self.manifest), "floor_bytes": "0", "drain_s": "1"}
        table = options.table({"STATE_DIRECTORY": str(folder)})
        self.settings = settings.read(table, {**defaults, **flags}, {})
        self.port = 0
        self.fleet: Fleet
        self.server: Server
        self.loop: asyncio.AbstractEventLoop
        self._numbers = itertools.count()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="receiver")

    def __enter__(self) -> LiveReceiver:
        self._thread.start()
        assert self._ready.wait(30)
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():  # a test may have ended it
            self.loop.call_soon_threadsafe(self._stop)
        self._thread.join(20)
        assert not self._thread.is_alive()
        assert self._error is None, f"the receiver ended with {self._error!r}"

    def _stop(self) -> None:
        self.fleet.drain()
        self.server.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._life())
        except BaseException as error:  # noqa: BLE001 - the test's own thread raises it
            self._error = error
            self._ready.set()

    async def _life(self) -> None:
        self.loop = asyncio.get_running_loop()
        database = Sqlite.open(self.settings["db"])
        try:
            self.fleet = await start_fleet(self.settings, database, self.credentials)
            self.secure = serving.make(self.settings)
            self.server = make_server(self.settings, self.fleet, "127.0.0.1", self.parser, self.secure, self.front)
            link = listen("127.0.0.1", 0)
            self.port = link.getsockname()[1]
            self._ready.set()
            await self.server.serve(sockets=[link])
        finally:
            database.close()

    # ---- asking it

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        operator: bool = False,
    ) -> Reply:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            sent = dict(headers or {})
            if operator:
                sent["X-Operator-Token"] = TOKEN
            data = body if isinstance(body, bytes | type(None)) else json.dumps(body).encode()
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def raw(self, data: bytes, *, end: bool = False) -> bytes:
        """Send bytes as they are and return the answer."""
        with self.connect() as link:
            link.sendall(data)
            if end:
                link.shutdown(socket.SHUT_WR)
            return read_answer(link)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    # ---- identities

    def invited(self, worker: str, **more: Any) -> str:
        """Return a one-time code for a host."""
        reply = self.call("POST", "/v1/invite", {"worker": worker, **more}, operator=True)
        assert reply.status == 200, reply.body
        code: str = reply.json["code"]
        return code

    def enrol(self, worker: str, code: str, key: str) -> Reply:
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.call("POST", "/v1/enrol", {"code": code, "worker": worker, "secret_sha256": digest})

    def enrolled(self, worker: str, key: str = "") -> dict[str, str]:
        """Enrol a host and return the headers that it shows from then on."""
        key = key or f"the-key-of-{worker}-for-this-test"
        reply = self.enrol(worker, self.invited(worker), key)
        assert reply.status == 200, reply.body
        return {"Authorization": f"Bearer cis490w.{reply.json['id']}.{key}", **HERE}

    # ---- what workers do

    def claim_body(self, worker: str = "", held: tuple[str, ...] = (), **capability: Any) -> dict[str, Any]:
        """Return a claim, of a new worker unless one is named: who asks again without its leases loses them."""
        number = next(self._numbers)
        worker = worker or f"worker-{number}"
        return {
            "claim_id": f"claim-{number:08d}",
            "worker": worker,
            "capability": {"hostname": worker, "ram_bytes": 2**34, "version": "0.1.0", **capability},
            "held_leases": list(held),
        }

    def claim(self, worker: str = "", held: tuple[str, ...] = ()) -> dict[str, Any]:
        """Claim a job that must be there."""
        reply = self.call("POST", "/v1/job/claim", self.claim_body(worker, held))
        assert reply.status == 200, reply.body
        lease: dict[str, Any] = reply.json
        return lease

    def upload(self, lease: dict[str, Any], data: bytes) -> Reply:
        sha256 = hashlib.sha256(data).hexdigest()
        return self.call("PUT", f"/v1/model/{sha256}", data, {"X-Lease-Id": lease["lease_id"]})


def read_answer(link: socket.socket, wait_s: float = 5.0) -> bytes:
    """Return one answer, or what came until the receiver closed or went silent."""
    link.settimeout(wait_s)
    found = b""
    with contextlib.suppress(TimeoutError, ConnectionResetError):
        while not _whole(found) and (piece := link.recv(65536)):
            found += piece
    return found


def _whole(found: bytes) -> bool:
    head, _, body = found.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return False
