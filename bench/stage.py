"""The stage: the processes that are measured, their folders, and what the system says about them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORKER_TOKEN = "bench-worker-token"
OPERATOR_TOKEN = "bench-operator-token"
WORKER = {"authorization": f"Bearer {WORKER_TOKEN}"}
OPERATOR = {"x-operator-token": OPERATOR_TOKEN}
START_S = 60.0
_TICK = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fsync_p50_ms(folder: Path, rounds: int = 100) -> float:
    """Return the median time of writing 4 KiB durably in a folder."""
    path, took = folder / "fsync-probe", []
    with path.open("wb", buffering=0) as file:
        for _ in range(rounds):
            file.write(bytes(4096))
            begun = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - begun)
    path.unlink()
    return 1000 * statistics.median(took)


@dataclass
class Program:
    """A process under measurement."""

    process: subprocess.Popen[bytes]
    port: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def rss_mib(self) -> float:
        """Resident memory of the process."""
        return _status_kib(self.pid, "VmRSS") / 1024

    def peak_mib(self) -> float:
        """Largest resident memory since the last `forget_peak`."""
        return _status_kib(self.pid, "VmHWM") / 1024

    def forget_peak(self) -> None:
        """Begin the peak again."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu_s(self) -> float:
        """Processor seconds used so far, by it and by the children it has waited for."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / _TICK

    def stop(self) -> None:
        """End it, gently first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def _status_kib(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise LookupError(name)


@contextlib.contextmanager
def reference(module: str, *arguments: str, environ: dict[str, str] | None = None) -> Iterator[Program]:
    """Run one of the reference programs."""
    port = free_port()
    command = [sys.executable, "-m", f"bench.{module}", str(port), *arguments]
    program = Program(subprocess.Popen(command, cwd=ROOT, env={**os.environ, **(environ or {})}), port)
    try:
        _await(program, lambda: answers(port, "/nothing"))
        yield program
    finally:
        program.stop()


@contextlib.contextmanager
def receiver(
    folder: Path, manifest: str | None = None, environ: dict[str, str] | None = None, root: Path = ROOT
) -> Iterator[Program]:
    """Run the real receiver with both tokens set.

    Args:
        folder: Its state; the manifest is written there when it is given.
        manifest: The text of the manifest.
        environ: Variables besides this process's own.
        root: The checkout whose receiver it is.
    """
    folder.mkdir(exist_ok=True)
    if manifest is not None:
        (folder / "manifest.toml").write_text(manifest)
    port = free_port()
    command = [sys.executable, "-m", "training.fleet.receiver", "--listen-addr", f"127.0.0.1:{port}"]
    for flag, name in (
        ("manifest", "manifest.toml"),
        ("db", "queue.db"),
        ("store-root", "store"),
        ("incoming-root", "incoming"),
        ("index-path", "index.jsonl"),
    ):
        command += [f"--{flag}", str(folder / name)]
    tokens = {"CIS490_WORKER_TOKEN": WORKER_TOKEN, "CIS490_OPERATOR_TOKEN": OPERATOR_TOKEN}
    with (folder / "receiver.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=root, env={**os.environ, **tokens, **(environ or {})}, stderr=log)
    program = Program(process, port, WORKER)
    try:
        _await(program, lambda: answers(port, "/readyz", 200), folder / "receiver.log")
        yield program
    finally:
        program.stop()


def _await(program: Program, ready: Callable[[], bool], log: Path | None = None) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        if program.process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text()[-2000:] if log else "see above"
            raise RuntimeError(f"the program did not start (exit status {program.process.poll()}): {said}")
        time.sleep(0.005)


def answers(port: int, path: str, status: int | None = None) -> bool:
    """Say whether somebody answers, with this status if one is given."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
        found = connection.recv(65536)
        return bool(found) and (status is None or found[9:12] == b"%d" % status)
    return False


def call(program: Program, method: str, path: str, body: bytes | dict[str, Any] | None = None, **headers: str) -> Any:
    """Ask the real receiver as worker and operator at once, and return the decoded answer."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    sent = {**WORKER, **OPERATOR, "content-type": "application/json", **headers}
    request = urllib.request.Request(f"http://127.0.0.1:{program.port}{path}", data, sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            found = answer.read()
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{method} {path} answered {error.code}: {error.read()[:500]!r}") from error
    return json.loads(found) if found else None


class Load:
    """A load driver under way."""

    def __init__(self, scenario: str, program: Program, **options: Any) -> None:
        body = {"port": program.port, "headers": program.headers, "prefix": "bench", **options}
        command = [sys.executable, "-m", "bench.load", scenario, json.dumps(body)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)

    def await_ready(self) -> None:
        """Return when the measured part begins."""
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def result(self) -> dict[str, Any]:
        """Return what it measured."""
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError("the load driver failed; its message stands above")
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        if found.get("odd"):
            raise RuntimeError(f"unexpected answers under load: {found['odd']}")
        return found


def load(scenario: str, program: Program, **options: Any) -> dict[str, Any]:
    """Run a load driver to its end."""
    return Load(scenario, program, **options).result()


def manifest(jobs: int, *, first: int = 0, extra: str = "", hosts: str = "slots = 1") -> str:
    """Return a manifest of many jobs that any host may train."""
    head = f"[manifest]\nschema = 1\njobs = {jobs}\n\n[hosts.default]\n{hosts}\n{extra}\n"
    job = '\n[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nhyper = {{ max_iter = 300, learning_rate = 0.1 }}\nseed = {}\n'
    return head + "".join(job.format(seed) for seed in range(first, first + jobs))


def store_artifact(program: Program, worker: str = "uploader") -> str:
    """Bring one artifact into the real receiver's store, so that jobs can be completed with it."""
    import hashlib

    from bench.load import claim_body

    data = b"an artifact of the bench"
    sha256 = hashlib.sha256(data).hexdigest()
    lease = call(program, "POST", "/v1/job/claim", claim_body(worker))
    call(program, "PUT", f"/v1/model/{sha256}", data, **{"x-lease-id": lease["lease_id"]})
    body = {"lease_id": lease["lease_id"], "artifact": sha256}
    call(program, "POST", f"/v1/job/{lease['job_id']}/complete", body)
    return sha256
