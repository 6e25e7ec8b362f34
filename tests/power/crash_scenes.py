"""What the watched programs are made to do: one folder, one or more lives, one list of steps."""

from __future__ import annotations

import base64
import hashlib
import http.client
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crash_disk import Disk
from crash_trace import Step, run_traced, steps

from training.fleet.model.capability import GIB, Capability

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("crash_program.py")
OPERATOR = "an-operator-token-for-tests"
WORKER = "a-worker-token-for-tests"
OLD_SCHEMA = ROOT / "tests" / "vectors" / "schemas" / "0.1.0.sql"
HEAD = """\
[manifest]
schema = 1
[defaults]
split_recipe = "hosts"
max_attempts = 2
[hosts.default]
slots = 64
"""


@dataclass
class Scene:
    """What was done in one folder.

    Attributes:
        name: What it is about; says how its images are checked.
        before: A copy of the folder as it was.
        steps: All that happened.
        facts: Whatever its check needs besides.
    """

    name: str
    before: str
    steps: list[Step]
    facts: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> Path:
        path.write_bytes(pickle.dumps(self))
        return path


def places(site: Path) -> list[str]:
    """The places of a receiver's files, the database and the store apart from each other."""
    flags = {
        "db": "state/queue.db",
        "store-root": "data/store",
        "incoming-root": "data/incoming",
        "index-path": "lists/index.jsonl",
    }
    return [word for flag, name in flags.items() for word in (f"--{flag}", str(site / name))]


class Watched:
    """A receiver under strace, with a folder of its own; every life adds to one list of steps."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self._environ = environ
        self.site = folder / "site"
        self.site.mkdir(parents=True, exist_ok=True)
        self.manifest = folder / "manifest.toml"
        self.steps: list[Step] = []
        self._disk = Disk()
        self._lives = itertools.count()
        self._numbers = itertools.count()

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self._kill(signal.SIGKILL)

    def _kill(self, number: int) -> None:
        # Not strace itself: its end would let the program go on unwatched.
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        os.kill(int(children[0]), number)
        self.process.wait(60)

    def load(self, jobs: int) -> None:
        text = "".join(f'[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nseed = {seed}\n' for seed in range(jobs))
        self.manifest.write_text(HEAD + text)

    def start(self) -> None:
        self._log = self.folder / f"life-{next(self._lives)}.trace"
        self._said = self._log.with_suffix(".log")
        words = ["--listen-addr", "127.0.0.1:0", "--manifest", str(self.manifest), *places(self.site)]
        words += ["--backup-root", str(self.site / "backups"), "--floor-bytes", "0", "--drain-s", "1"]
        words += ["--ack-s", "1", "--backoff-s", "0.1", "--backoff-cap-s", "0.1"]
        environ = {**_plain(), **self._environ, "CIS490_OPERATOR_TOKEN": OPERATOR, "CIS490_WORKER_TOKEN": WORKER}
        with self._said.open("wb") as said:
            self.process = run_traced(
                [sys.executable, str(PROGRAM), "receiver", *words], self._log, env=environ, stderr=said
            )
        self.port = int(self._until("listening", lambda: re.search(r"127\.0\.0\.1:(\d+)", self._said.read_text()))[1])

    def _until(self, what: str, holds: Any) -> Any:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if found := holds():
                return found
            assert self.process.poll() is None, self._said.read_text()
            time.sleep(0.02)
        raise AssertionError(f"not within a minute: {what}\n{self._said.read_text()}")

    def end(self, number: int = signal.SIGTERM) -> None:
        """End the life that runs and take over its steps."""
        self._kill(number)
        self._add(steps(self._log, self.site))
        unseen = self._disk.unseen(self.site)
        assert number == signal.SIGKILL or not unseen, f"the log of an orderly end lacks {unseen}"
        self._add(unseen)

    def _add(self, seen: list[Step]) -> None:
        self.steps += seen
        for step in seen:
            self._disk.do(step)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Ask over a connection of its own; return the document of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        connection.request(
            method, path, data, {"X-Operator-Token": OPERATOR, "Authorization": f"Bearer {WORKER}", **headers}
        )
        reply = connection.getresponse()
        answer = reply.read()
        connection.close()
        assert reply.status < 300, (method, path, reply.status, answer)
        return json.loads(answer or b"null")

    def claim(self, worker: str) -> Any:
        capability = asdict(Capability(worker, ram_bytes=64 * GIB))
        capability.pop("hostname", None)
        message = {
            "claim_id": f"claim-{next(self._numbers):08d}",
            "worker": worker,
            "capability": {**capability, "hostname": worker},
        }
        return self.ask("POST", "/v1/job/claim", message)

    def beat(self, lease: Any) -> None:
        self.ask("POST", f"/v1/job/{lease['job_id']}/heartbeat", {"lease_id": lease["lease_id"]})

    def upload(self, lease: Any, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        self.ask("PUT", f"/v1/model/{sha256}", data, **{"X-Lease-Id": lease["lease_id"]})
        self.bring_part(lease, sha256, "card.md", data[: len(data) // 3])
        return sha256

    def bring_part(self, lease: Any, sha256: str, name: str, data: bytes) -> None:
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        headers = {"X-Lease-Id": lease["lease_id"], "Repr-Digest": f"sha-256=:{digest}:"}
        self.ask("PUT", f"/v1/model/{sha256}/file/{name}", data, **headers)

    def complete(self, lease: Any, sha256: str) -> None:
        message = {"lease_id": lease["lease_id"], "artifact": sha256, "metrics": {"auroc": 0.5}}
        self.ask("POST", f"/v1/job/{lease['job_id']}/complete", message)

    def fail(self, lease: Any) -> None:
        message = {"lease_id": lease["lease_id"], "kind": "trainer_error", "error": "no", "log_tail": "log\n" * 300}
        self.ask("POST", f"/v1/job/{lease['job_id']}/fail", message)

    def train(self, worker: str, count: int) -> None:
        """Work off jobs as one worker: every fourth fails."""
        for number in range(count):
            lease = self.claim(worker)
            self.beat(lease)
            if number % 4 == 3:
                self.fail(lease)
            else:
                self.complete(lease, self.upload(lease, _bundle(lease["lease_id"])))

    def back_up(self) -> None:
        self.ask("POST", "/v1/backup", {"artifacts": True, "label": f"n{next(self._lives)}"})
        self._until("the backup", lambda: (self.ask("GET", "/v1/chore") or {}).get("state") == "done")


def _bundle(word: str) -> bytes:
    """Bytes that stand for a bundle: one to thirteen sectors and a bit."""
    seed = hashlib.sha256(word.encode()).digest()
    return (seed * 300)[: 700 + seed[0] * 25]


def _plain() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CIS490_", "COV"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def _together(*calls: Any) -> None:
    with ThreadPoolExecutor(len(calls)) as threads:
        for done in [threads.submit(call) for call in calls]:
            done.result()


def receiver_lives(folder: Path) -> Scene:
    """First files, work by several workers at once, reload, twin upload, sweep, kill, restart, backup, orderly end."""
    with Watched(folder) as watched:
        watched.load(20)
        watched.start()
        _together(*(lambda name=name: watched.train(name, 5) for name in ("pi", "nas", "tower")))  # type: ignore[misc]
        first, second = watched.claim("pi"), watched.claim("nas")
        _together(*(lambda lease=lease: watched.upload(lease, _bundle("twin")) for lease in (first, second)))  # type: ignore[misc]
        watched.beat(first)
        watched.complete(first, hashlib.sha256(_bundle("twin")).hexdigest())
        watched.load(34)
        watched.ask("POST", "/v1/manifest/reload")
        watched.end(signal.SIGKILL)
        watched.start()
        _together(lambda: watched.train("pi", 4), lambda: watched.train("tower", 4), watched.back_up)
        swept, held = watched.claim("nas"), watched.claim("tower")
        watched.beat(held)
        for wanted in (swept["job_id"], held["job_id"]):
            watched.ask("POST", f"/v1/job/{wanted}/cancel")
        watched.fail(held)
        watched.ask("POST", f"/v1/job/{held['job_id']}/requeue")
        watched.claim("pi")
        time_out = lambda: all(job["status"] != "claimed" for job in watched.ask("GET", "/v1/jobs")["jobs"])  # noqa: E731
        watched._until("the sweep of what nobody acknowledged", time_out)
        watched.end()
        watched.start()
        watched.train("tower2", 3)
        watched.end()
    return Scene("receiver", "", watched.steps)


def short_life(folder: Path, synchronous: str) -> Scene:
    """A few jobs, with a database that syncs less."""
    with Watched(folder, WEAKER_SYNCHRONOUS=synchronous) as watched:
        watched.load(8)
        watched.start()
        watched.train("pi", 6)
        watched.end()
    return Scene("receiver", "", watched.steps)


def restored(folder: Path, backup: Path, spoilt: Path) -> Scene:
    """Bring a backup back over another database.

    Args:
        folder: Where to work.
        backup: Folder of the backup.
        spoilt: Folder of a receiver's files, over which it is brought back.
    """
    site, before = folder / "site", folder / "before"
    site.mkdir(parents=True)
    shutil.copytree(backup, site / "backup")
    shutil.copytree(spoilt / "state", site / "state")
    shutil.copytree(site, before)
    words = ["receiver", "restore", str(site / "backup"), *places(site), "--replace"]
    seen = _watch(words, folder / "restore.trace", site)
    return Scene("restore", str(before), seen, {"end": len(seen)})


def upgraded(folder: Path) -> Scene:
    """Open an old database whose tables a newer program brings up to date, after a copy."""
    site, before = folder / "site", folder / "before"
    (site / "state").mkdir(parents=True)
    connection = sqlite3.connect(site / "state" / "queue.db")
    connection.executescript(OLD_SCHEMA.read_text())
    connection.close()
    shutil.copytree(site, before)
    words = ["upgrade", str(site / "state" / "queue.db"), str(site / "backups" / "copies")]
    return Scene("upgrade", str(before), _watch(words, folder / "upgrade.trace", site))


def forgotten(folder: Path, spoilt: Path) -> Scene:
    """Give the sums of a database up."""
    site, before = folder / "site", folder / "before"
    site.mkdir(parents=True)
    shutil.copytree(spoilt / "state", site / "state")
    shutil.copytree(site, before)
    return Scene("forget", str(before), _watch(["forget", str(site / "state" / "queue.db")], folder / "f.trace", site))


def _watch(words: list[str], log: Path, site: Path) -> list[Step]:
    process = run_traced([sys.executable, str(PROGRAM), *words], log, env=_plain(), stdout=subprocess.DEVNULL)
    assert process.wait(120) == 0
    return steps(log, site)
