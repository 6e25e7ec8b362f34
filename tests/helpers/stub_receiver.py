"""A tiny receiver for tests of the worker and the client: real HTTP, scripted answers, everything written down."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], Any]


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class StubReceiver:
    """Hands out `jobs`, stores uploads, and answers as told by `script` first.

    Attributes:
        jobs: Leases still to hand out.
        script: Route ("claim", "heartbeat", "complete", "fail", "upload", "part", a path) to replies that come first; a
            reply may be a callable of the request.
        beat: Answer to heartbeats.
    """

    jobs: list[dict[str, Any]] = field(default_factory=list)
    script: dict[str, list[Reply | Callable[[Seen], Reply]]] = field(default_factory=dict)
    beat: dict[str, Any] = field(default_factory=lambda: {"lease_s": 600.0})
    seen: list[Seen] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    news: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                return

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                stub.answer(self, self.rfile.read(length))

            do_GET = do_POST = do_PUT = handle_any  # noqa: N815

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                return

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        seen = Seen(handler.command, handler.path, {k.lower(): v for k, v in handler.headers.items()}, body)
        name = route(seen)
        with self.news:
            self.seen.append(seen)
            waiting = self.script.get(name) or []
            reply = waiting.pop(0) if waiting else None
            self.news.notify_all()
        if callable(reply):
            reply = reply(seen)
        status, headers, document = reply or self.usual(name, seen)
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        handler.send_response(status)
        kind = "application/json" if status < 400 else "application/problem+json"
        for key, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(data)

    def usual(self, name: str, seen: Seen) -> Reply:
        if name == "claim":
            return self.grant(seen)
        if name == "heartbeat":
            return 200, {}, self.beat
        if name == "upload":
            sha256 = seen.path.rpartition("/")[2]
            assert hashlib.sha256(seen.body).hexdigest() == sha256
            new = sha256 not in self.stored
            self.stored[sha256] = seen.body
            return 201 if new else 200, {}, {"sha256": sha256, "size_bytes": len(seen.body), "new": new}
        if name == "part":
            sha256 = hashlib.sha256(seen.body).hexdigest()
            self.parts[seen.path.rpartition("/")[2]] = seen.body
            return 201, {}, {"sha256": sha256, "size_bytes": len(seen.body), "new": True}
        status = {"complete": "completed", "fail": "failed"}.get(name)
        if status:
            return 200, {}, {"id": seen.path.split("/")[3], "status": status, "cancel_requested": False}
        return 200, {}, {"status": "ok"}

    def grant(self, seen: Seen) -> Reply:
        wait = int(seen.headers.get("prefer", "wait=0").rpartition("=")[2])
        end = time.monotonic() + wait
        with self.news:
            while not self.jobs and time.monotonic() < end:
                self.news.wait(end - time.monotonic())
            return (200, {}, self.jobs.pop(0)) if self.jobs else (204, {"Retry-After": "1"}, b"")

    def offer(self, lease: dict[str, Any]) -> None:
        with self.news:
            self.jobs.append(lease)
            self.news.notify_all()

    def calls(self, name: str) -> list[Seen]:
        with self.news:
            return [seen for seen in self.seen if route(seen) == name]

    def wait_for(self, name: str, count: int = 1, timeout_s: float = 20.0) -> list[Seen]:
        """Return the requests of a route once there are so many."""
        end = time.monotonic() + timeout_s
        with self.news:
            while True:
                found = [seen for seen in self.seen if route(seen) == name]
                left = end - time.monotonic()
                if len(found) >= count:
                    return found
                if left <= 0:
                    raise AssertionError(f"{name}: {len(found)} of {count} after {timeout_s} s")
                self.news.wait(left)


def route(seen: Seen) -> str:
    """Return the short name of a request's route."""
    path = seen.path.partition("?")[0]
    if path.startswith("/v1/model/"):
        return "part" if "/file/" in path else "upload"
    if path.startswith("/v1/job/") and seen.method == "POST":
        return path.rpartition("/")[2]
    return path


def problem(status: int, code: str, detail: str = "no", headers: dict[str, str] | None = None) -> Reply:
    """Return a scripted refusal."""
    return status, headers or {}, {"status": status, "code": code, "detail": detail, "title": code}


def lease(
    act: str = "good", *, job: str = "a", fence: int = 1, command: list[str] | None = None, **changes: Any
) -> Any:
    """Return a lease for the fake trainer, which does what `act` says."""
    spec = {
        "v": 1,
        "model": "fake",
        "mode": "realistic",
        "hyper": {"act": act},
        "split_recipe": "hosts",
        "train_hosts": ["*"],
        "seed": 1,
    }
    return {
        "job_id": job * 64,
        "lease_id": f"lease-{job}-{fence:04d}",
        "fence": fence,
        "ack_within_s": 90.0,
        "lease_s": 600.0,
        "heartbeat_s": 0.2,
        "spec": spec,
        "timeout_s": 60,
        "trainer_command": command or ["{python}", "fake_trainer.py"],
        "trainer_contract": None,
        "stop": [],
        **changes,
    }
