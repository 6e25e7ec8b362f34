"""A whole fleet as real processes on loopback, for tests."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = "operator-secret-of-the-test"
WORKER = "worker-secret-of-the-test"
QUICK = ("--heartbeat-s", "0.3", "--lease-s", "20", "--ack-s", "10", "--backoff-s", "0.2", "--backoff-cap-s", "0.5")


def wait_until(what: str, holds: Callable[[], Any], limit_s: float = 60.0) -> Any:
    """Look until something holds and return it; fail after the limit."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {limit_s} s: {what}")


class Fleet:
    """One receiver, its workers and the operator's command, all below one folder."""

    def __init__(self, folder: Path, manifest: str, terms: Sequence[str] = QUICK) -> None:
        self.folder = folder
        self.terms = terms
        self.manifest = folder / "manifest.toml"
        self.manifest.write_text(manifest)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.address = "127.0.0.1:0"

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(list(self.processes.values())):
            process.kill()
            process.wait()

    def start_receiver(self) -> None:
        """Start it, on the same port as before, and wait until it is ready."""
        self.launch_receiver()
        said = lambda: re.search(r"127\.0\.0\.1:[1-9]\d*", self.log("receiver"))  # noqa: E731
        self.address = wait_until("the receiver says where it listens", said)[0]
        wait_until("the receiver is ready", lambda: self.jobs("status", check=False).returncode == 0)

    def launch_receiver(self) -> subprocess.Popen[bytes]:
        """Start it and return it without waiting for anything."""
        arguments = ["--listen-addr", self.address, "--manifest", str(self.manifest)]
        for flag, name in (("db", "queue.db"), ("store-root", "store"), ("incoming-root", "incoming")):
            arguments += [f"--{flag}", str(self.folder / name)]
        arguments += ["--index-path", str(self.folder / "index.jsonl"), *self.terms]
        self._start("receiver", "training.fleet.receiver", arguments)
        return self.processes["receiver"]

    def start_worker(self, name: str, *flags: str, python: str = sys.executable) -> None:
        """Start a worker under a host name of its own, with the Python that its trainers get as well."""
        arguments = ["--receiver", f"http://{self.address}", "--name", name, "--work-dir", str(self.folder / name)]
        self._start(name, "training.fleet.worker", [*arguments, *flags], python)

    def stop(self, name: str, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(timeout=40)

    def log(self, name: str) -> str:
        """What a process wrote so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def jobs(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the operator's command from the checkout."""
        environ = {**_plain(), "CIS490_RECEIVER": f"http://{self.address}", "CIS490_OPERATOR_TOKEN": OPERATOR}
        command = [sys.executable, str(ROOT / "tools" / "cis490_jobs.py"), *arguments]
        done = subprocess.run(
            command, check=False, env=environ, cwd=self.folder, capture_output=True, text=True, timeout=60
        )
        assert not check or done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def asked(self, *arguments: str) -> Any:
        """Run the operator's command with --json and return the answer."""
        return json.loads(self.jobs(*arguments, "--json").stdout)

    def listed(self) -> list[dict[str, Any]]:
        """All jobs as `list` gives them."""
        answer = self.asked("list")
        return list(answer["jobs"] if isinstance(answer, dict) else answer)

    def by_status(self) -> dict[str, int]:
        """Number of jobs by status."""
        counts: dict[str, int] = {}
        for job in self.listed():
            counts[job["status"]] = counts.get(job["status"], 0) + 1
        return counts

    def counts(self) -> dict[str, int]:
        """Number of jobs by status, zeros left out, without the cost of a process for each look."""
        with urllib.request.urlopen(f"http://{self.address}/v1/health", timeout=20) as answer:
            counts: dict[str, int] = json.load(answer)["counts"]
        return {status: count for status, count in counts.items() if count}

    def job(self, job_id: str) -> dict[str, Any]:
        """All about one job, at the same low cost."""
        with urllib.request.urlopen(f"http://{self.address}/v1/job/{job_id}", timeout=20) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def _start(self, name: str, module: str, arguments: Sequence[str], python: str = sys.executable) -> None:
        environ = {**_plain(), "CIS490_OPERATOR_TOKEN": OPERATOR, "CIS490_WORKER_TOKEN": WORKER}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [python, "-m", module, *arguments],
                env=environ,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


def _plain() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CIS490_")}
    return {**kept, "NO_COLOR": "1"}
