"""Records what a receiver and a worker of one version say to each other, for `test_wire_fixtures.py`.

    python tests/helpers/record_wire.py CHECKOUT OUT

CHECKOUT holds the code of the version. Everything is real: receiver, worker, trainers, sockets; a proxy between them
writes each request down with its answer. Run once per released version and keep what it wrote.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TRAINER = """
import json, sys, time
from pathlib import Path
if "--describe" in sys.argv:
    print(json.dumps({"title": "tiny", "properties": {"mode": {"enum": ["oracle"]}, "split_recipe": {"enum": ["hosts"]},
        "model": {"enum": ["tiny"]}}, "$defs": {"tiny": {"type": "object", "additionalProperties": False,
        "properties": {"act": {"type": "string"}}}}}))
    sys.exit(0)
job, out = json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[4])
with (out / "progress.jsonl").open("a") as stream:
    stream.write(json.dumps({"step": 5, "steps": 10, "phase": "fold 1/2", "metrics": {"loss": 0.5}}) + "\\n")
act = job["spec"]["hyper"]["act"]
print("acting", act, flush=True)
if act == "wait":
    time.sleep(60)
if act == "fail":
    sys.exit("ValueError: column cpu holds no numbers")
(out / "artifact").mkdir()
(out / "artifact" / "model.txt").write_text("model")
(out / "result.json").write_text(json.dumps({"v": 1, "status": "done", "metrics": {"auroc": 0.75}}))
"""
MANIFEST = """
[manifest]
schema = 1
[trainer]
command = ["{python}", "%s"]
[defaults]
split_recipe = "hosts"
max_attempts = 1
[hosts.default]
slots = 1
"""
ACTS = ("good", "fail", "wait")
KEPT = ("authorization", "prefer", "x-lease-id", "content-type", "user-agent", "retry-after", "preference-applied")
WORKER, OPERATOR = "a-worker-token-for-tests", "an-operator-token-for-tests"


class Proxy(ThreadingHTTPServer):
    """Passes requests on and writes them down."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.target = port
        self.told: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        return

    def handle_any(self) -> None:
        assert isinstance(self.server, Proxy)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        link = http.client.HTTPConnection("127.0.0.1", self.server.target)
        link.request(self.command, self.path, body, {**self.headers, "Host": "127.0.0.1"})
        reply = link.getresponse()
        answer = reply.read()
        self.server.told.append(
            {
                "request": {"method": self.command, "path": self.path, **told(self.headers.items(), body)},
                "response": {"status": reply.status, **told(reply.getheaders(), answer)},
            }
        )
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = handle_any  # noqa: N815


def told(headers: Any, body: bytes) -> dict[str, Any]:
    kept = {name.lower(): value for name, value in headers if name.lower() in KEPT}
    try:
        return {"headers": kept, "body": json.loads(body) if body else None}
    except ValueError:
        return {"headers": kept, "base64": base64.b64encode(body).decode()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(met: Any) -> Any:
    end = time.monotonic() + 30
    while not (found := met()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return found


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    link = http.client.HTTPConnection("127.0.0.1", port)
    fields = {"X-Operator-Token": OPERATOR, "Authorization": f"Bearer {WORKER}"}
    link.request(method, path, None if body is None else json.dumps(body), fields)
    reply = link.getresponse()
    data = reply.read()
    return reply.status, json.loads(data) if data else None


def record(checkout: Path, folder: Path) -> list[dict[str, Any]]:
    trainer, manifest, port = folder / "trainer.py", folder / "manifest.toml", free_port()
    trainer.write_text(TRAINER)
    jobs = [f'[[jobs]]\nmodel = "tiny"\nmode = "oracle"\nhyper = {{ act = "{act}" }}\n' for act in ACTS]
    manifest.write_text(MANIFEST % trainer + "".join(jobs))
    environ = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "STATE_DIRECTORY": str(folder),
        "CIS490_WORKER_TOKEN": WORKER, "CIS490_OPERATOR_TOKEN": OPERATOR,
    }  # fmt: skip
    listen = ["--listen-addr", f"127.0.0.1:{port}", "--manifest", str(manifest)]
    receiver = subprocess.Popen([sys.executable, "-m", "training.fleet.receiver", *listen], cwd=checkout, env=environ)
    proxy: Proxy | None = None
    try:
        until(lambda: answers(port))
        proxy = Proxy(port)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        work = ["--receiver", f"http://127.0.0.1:{proxy.server_address[1]}", "--name", "box", "--min-free-gib", "0"]
        command = [sys.executable, "-m", "training.fleet.worker", *work, "--work-dir", str(folder / "work"), "--once"]
        for _ in ACTS[:2]:
            subprocess.run(command, cwd=checkout, env=environ, check=False)
        cancelled = subprocess.Popen(command, cwd=checkout, env=environ)
        jobs = until(lambda: ask(port, "GET", "/v1/jobs?status=running")[1]["jobs"])
        ask(port, "POST", f"/v1/job/{jobs[0]['id']}/cancel")
        cancelled.wait(60)
        subprocess.run(command, cwd=checkout, env=environ, check=False)  # nothing is left
        stale(proxy)
        return proxy.told
    finally:
        if proxy is not None:
            proxy.shutdown()
        receiver.terminate()
        receiver.wait(20)


def answers(port: int) -> bool:
    try:
        return ask(port, "GET", "/healthz")[0] == 200
    except OSError:
        return False


def stale(proxy: Proxy) -> None:
    """Speak under a lease that is over, and name a job that is not there."""
    port = int(proxy.server_address[1])
    beat = next(item["request"] for item in proxy.told if item["request"]["path"].endswith("/heartbeat"))
    failed = next(item["request"] for item in proxy.told if item["request"]["path"].endswith("/fail"))
    ask(port, "POST", beat["path"], {**beat["body"], "lease_id": "another-lease-0001"})
    ask(port, "POST", failed["path"], {**failed["body"], "lease_id": "another-lease-0001"})
    ask(port, "POST", re.sub("[0-9a-f]{64}", "0" * 64, beat["path"]), beat["body"])


def main() -> None:
    checkout, out = (Path(text).absolute() for text in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as folder:
        told = record(checkout, Path(folder))
        text = json.dumps(told, indent=1, ensure_ascii=False).replace(folder, "/somewhere")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n")
    sys.stdout.write(f"{len(told)} exchanges in {out}\n")


if __name__ == "__main__":
    main()
