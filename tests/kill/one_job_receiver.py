"""A receiver with one job, in a process of its own: it hands the job out until it is completed, and keeps a record."""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from stub_receiver import Reply, Seen, StubReceiver, lease, problem

from training.fleet.auth.identities import digest_of, key_of

WAIT_S = 0.3


class OneJobReceiver(StubReceiver):
    """The stub with the rules of a lease, of questions asked twice, and of changed secrets.

    Args:
        command: The trainer's.
        secret: The worker's.
    """

    def __init__(self, command: list[str], secret: str) -> None:
        self._command, self._first = command, secret
        self._rules = threading.Lock()
        self.reset()
        super().__init__()

    def reset(self) -> None:
        self.fence = 0
        self.live: Any = None
        self.claims: dict[str, Any] = {}
        self.completed: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.errors: list[str] = []
        self.wrong: list[str] = []
        self.digests = [digest_of(key_of(self._first))]
        self.tokens = {digest_of(key_of(self._first)): self._first}
        self.rotated = False
        self.idle = 0

    def record(self) -> dict[str, Any]:
        kinds = list(self.failed.values())
        rests = bool(self.completed) and self.rotated and self.idle > 0
        taken = [token for digest, token in self.tokens.items() if digest in self.digests]
        return {
            "completed": len(self.completed),
            "kinds": kinds,
            "errors": self.errors,
            "wrong": self.wrong,
            "taken": taken,
            "rests": rests,
        }

    def usual(self, name: str, seen: Seen) -> Reply:
        if seen.path in ("/record", "/reset", "/again", "/old-lease"):
            return self._told(seen.path)
        with self._rules:
            if not self._knows(seen.headers.get("authorization", "").removeprefix("Bearer ")):
                if seen.headers.get("authorization") != f"Bearer {self._first}":  # which may have been on its way
                    self.wrong.append(f"a secret that was never taken at {name}")
                return problem(401, "unauthenticated")
            status, headers, document = self._ruled(name, seen)
        if name == "claim" and status == 204:
            time.sleep(WAIT_S)
        asks = {} if self.rotated or self.fence == 0 else {"X-Rotate-Secret": "1"}
        return status, {**headers, **asks}, document

    def _told(self, path: str) -> Reply:
        with self._rules:
            if path == "/again":
                self.idle = 0  # a worker rests once it has asked in vain, and this one has not yet
            if path == "/reset":
                self.reset()
                self.seen.clear()
                self.stored.clear()
            old = lease("good", job="c", command=self._command)
            return 200, {}, {"/record": self.record, "/old-lease": lambda: old, "/reset": dict, "/again": dict}[path]()

    def _knows(self, token: str) -> bool:
        digest = digest_of(key_of(token))
        if digest not in self.digests:
            return False
        self.tokens[digest] = token
        if digest == self.digests[-1] and len(self.digests) > 1:
            self.digests, self.rotated = [digest], True
        return True

    def _ruled(self, name: str, seen: Seen) -> Reply:
        if name == "claim":
            return self._claimed(seen)
        if name == "/v1/secret":
            digest = seen.json["secret_sha256"]
            if digest != self.digests[0]:
                self.digests = [self.digests[0], digest]
            return 200, {}, {"worker": "tower"}
        if name in ("upload", "part"):
            holder = seen.headers.get("x-lease-id")
            return super().usual(name, seen) if self._holds(holder) else problem(409, "stale_lease")
        if name in ("heartbeat", "complete", "fail"):
            return self._of_lease(name, seen)
        return super().usual(name, seen)

    def _holds(self, lease_id: str | None) -> bool:
        return self.live is not None and self.live["lease_id"] == lease_id

    def _claimed(self, seen: Seen) -> Reply:
        again = self.claims.get(seen.json["claim_id"])
        if again is not None:
            return (200, {}, again) if self._holds(again["lease_id"]) else problem(409, "stale_lease")
        if self.completed:
            self.idle += 1
        if self.completed or self.live is not None:
            return 204, {"Retry-After": "0"}, b""
        self.fence += 1
        self.live = self.claims[seen.json["claim_id"]] = lease("good", fence=self.fence, command=self._command)
        return 200, {}, self.live

    def _of_lease(self, name: str, seen: Seen) -> Reply:
        holder = seen.json["lease_id"]
        if name == "complete" and self.completed.get(holder) == seen.json["artifact"]:
            return 200, {}, self._status("completed")
        if name == "fail" and holder in self.failed:
            return 200, {}, self._status("pending")
        if not self._holds(holder):
            return problem(409, "stale_lease")
        if name == "heartbeat":
            return 200, {}, self.beat
        self.live = None
        if name == "complete":
            if seen.json["artifact"] not in self.stored:
                self.wrong.append("completed without its artifact")
            self.completed[holder] = seen.json["artifact"]
            return 200, {}, self._status("completed")
        self.failed[holder] = seen.json["kind"]
        self.errors.append(str(seen.json.get("error")))
        return 200, {}, self._status("pending")

    def _status(self, status: str) -> dict[str, Any]:
        return {"id": "a" * 64, "status": status, "cancel_requested": False}


class Forked:
    """The receiver in a process of its own, which ends with this one.

    Attributes:
        url: Its address.
    """

    def __init__(self, port: int, keep: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port, self._keep = port, keep

    def ask(self, path: str) -> Any:
        link = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            link.request("GET", path)
            return json.loads(link.getresponse().read())
        finally:
            link.close()


def forked(make: Callable[[], StubReceiver]) -> Forked:
    """Start the receiver in a fork."""
    told, tell = os.pipe()
    stay, keep = os.pipe()
    if os.fork() == 0:
        os.close(keep)
        try:
            os.write(tell, str(make().port).encode())
            os.read(stay, 1)  # until the other side is gone
        finally:
            os._exit(0)
    os.close(stay)
    return Forked(int(os.read(told, 16)), keep)
