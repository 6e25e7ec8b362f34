"""A network that loses, cuts, delays, doubles and resets: every job is accepted once, and nothing else than accepted.

The fates are drawn from a seed, the order of the requests is not: it depends on the machine, as it does in the field.
"""

from __future__ import annotations

import collections
import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from backports.zstd import decompress
from processes import ROOT, WORKER, Fleet, wait_until
from test_kill_moments import Doomed

HEAD = """
[manifest]
schema = 1
[defaults]
split_recipe = "hosts"
max_attempts = 90
[hosts.default]
slots = 64
"""
HOLD_S = 3.0
TERMS = ("--heartbeat-s", "0.3", "--lease-s", "2", "--ack-s", "2", "--backoff-s", "0", "--backoff-cap-s", "0.1")
KEEPING_TERMS = (*TERMS, "--lease-s", "12", "--ack-s", "12")
TAKES_S = (0.0, 0.02, 0.02, 0.05, 0.05, 0.1, 0.1, 0.5, 0.5, 4.0)
STEPS = {
    "claim": ("pending", "claimed"),
    "start": ("claimed", "running"),
    "adopt": ("pending", "running"),
    "release": ("running", "pending"),
}


class Helper:
    """A program of the tests that works until its standard input ends and says at its end what it did."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("CIS490_", "COVERAGE_"))}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / path), json.dumps(options)],
            env={**kept, "PYTHONPATH": str(ROOT), "CIS490_WORKER_TOKEN": WORKER},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def lives(self) -> bool:
        """Fail if it has ended."""
        assert self.process.poll() is None
        return True

    def end(self) -> list[Any]:
        """Tell it to end and return the lines it printed."""
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return [json.loads(line) for line in out.splitlines()]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def between(fleet: Fleet, **options: Any) -> Iterator[tuple[Helper, list[int]]]:
    """Start a proxy in front of a fleet's receiver."""
    upstream = int(fleet.address.rpartition(":")[2])
    proxy = Helper("helpers/fault_proxy.py", {"upstream": upstream, **options})
    try:
        yield proxy, proxy.line()
    finally:
        proxy.kill()


@dataclass
class Run:
    """What came of one run."""

    details: list[dict[str, Any]]
    trainings: list[dict[str, Any]]
    faults: dict[str, int]
    bundles: dict[str, bytes]

    def ends(self) -> collections.Counter[str]:
        return collections.Counter(attempt["outcome"] for job in self.details for attempt in job["attempts"])

    def wasted(self) -> int:
        """Trainings that led to nothing."""
        return len(self.trainings) - len(self.details)

    def at_once(self) -> int:
        """How often a second trainer of a job was started while one was alive."""
        spans = sorted((one["job"], one["start"], one["end"] or float("inf")) for one in self.trainings)
        return sum(a[0] == b[0] and b[1] < a[2] for a, b in itertools.pairwise(spans))


def run(
    folder: Path,
    jobs: int,
    rate: float,
    *,
    terms: Sequence[str] = TERMS,
    hold_s: float = HOLD_S,
    takes_s: Sequence[float] = TAKES_S,
    stop_when_lost: bool = False,
) -> Run:
    """Let eight workers train many jobs through a proxy, and look at the end at everything."""
    text = HEAD + "".join(f'[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nseed = {seed}\n' for seed in range(jobs))
    with Fleet(folder, text, terms) as fleet:
        fleet.start_receiver()
        with between(fleet, ports=8, rate=rate, holds=0.03, hold_s=hold_s, seed=490) as (proxy, ports):
            given = {"folder": str(folder), "ports": ports, "takes_s": takes_s, "stop_when_lost": stop_when_lost}
            workers = Helper("e2e/instant_workers.py", given)
            try:
                wait_until("all is trained", lambda: workers.lives() and fleet.counts() == {"completed": jobs}, 400)
                trainings = workers.end()
            finally:
                workers.kill()
            (faults,) = proxy.end()
        found = fleet.listed()
        details = [fleet.job(job["id"]) for job in found]
        assert fleet.stop("receiver") == 0
    bundles = {job["id"]: _bundle(folder / "store", job["artifact"]) for job in found}
    return Run(details, trainings, faults, bundles)


def _bundle(store: Path, sha256: str) -> bytes:
    """Return the model in a stored bundle."""
    (path,) = store.glob(f"*/{sha256}/*")
    with tarfile.open(fileobj=io.BytesIO(decompress(path.read_bytes()))) as tar:
        member = tar.extractfile("model.txt")
        assert member is not None
        return member.read()


def is_sound(folder: Path, found: Run, jobs: int) -> None:
    """Fail unless each job has one result, made by the worker whose attempt was accepted."""
    assert len(found.details) == jobs
    by_mark = {training["mark"]: training for training in found.trainings}
    for detail in found.details:
        job = detail["job"]["id"]
        assert [event["action"] for event in detail["events"]].count("complete") == 1
        (accepted,) = (attempt for attempt in detail["attempts"] if attempt["outcome"] == "completed")
        training = by_mark[found.bundles[job].decode()]
        assert (training["job"], training["worker"]) == (job, accepted["host"])
        _is_legal(detail["events"])
    assert set(found.ends()) <= {"completed", "expired", "lost_claim", "released", "failed"}
    assert found.at_once() <= found.ends()["expired"]
    assert found.wasted() <= found.ends()["expired"] + found.ends()["lost_claim"] + found.ends()["failed"]
    places = [f"--{name}={folder / at}" for name, at in PLACES.items()]
    checked = subprocess.run(
        [sys.executable, "-m", "training.fleet.receiver", "fsck", *places], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    assert list((folder / "incoming").iterdir()) == []


PLACES = {"db": "queue.db", "store-root": "store", "incoming-root": "incoming", "index-path": "index.jsonl"}


def _is_legal(events: Sequence[dict[str, Any]]) -> None:
    """Fail unless each event starts where the one before it ended, and completed is the end."""
    assert events[0]["action"] == "add"
    assert events[-1]["to_status"] == "completed"
    for before, after in itertools.pairwise(events):
        assert after["from_status"] == before["to_status"], events
        assert before["to_status"] != "completed"
        assert STEPS.get(after["action"], (after["from_status"],))[0] == after["from_status"], events


def tell(found: Run) -> None:
    ends = dict(found.ends())
    sys.stdout.write(f"{found.faults} {ends} wasted {found.wasted()}, two at once {found.at_once()}\n")


def test_300_jobs_at_30_percent_faults_are_each_accepted_once(tmp_path: Path) -> None:
    found = run(tmp_path, 300, 0.3)
    tell(found)
    is_sound(tmp_path, found, 300)
    assert found.faults["requests"] > 900
    assert len(found.faults) == 11


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.2, 0.4, 0.5, 0.6])
def test_400_jobs_at_any_rate_of_faults_are_each_accepted_once(tmp_path: Path, rate: float) -> None:
    found = run(tmp_path, 400, rate)
    tell(found)
    is_sound(tmp_path, found, 400)


@pytest.mark.slow
def test_workers_that_stop_when_they_are_cut_off_never_train_a_job_twice_at_once(tmp_path: Path) -> None:
    """The hold is longer than the lease, and the trainings are as well."""
    found = run(tmp_path, 100, 0.3, terms=KEEPING_TERMS, hold_s=20.0, takes_s=(0.1, 0.5, 25.0), stop_when_lost=True)
    tell(found)
    is_sound(tmp_path, found, 100)
    assert found.ends()["failed"] + found.ends()["expired"] > 0
    assert found.at_once() == 0


def test_real_workers_and_trainers_behind_the_same_network_train_every_job_once(tmp_path: Path) -> None:
    doomed = Doomed(tmp_path, 8)
    with doomed.fleet as fleet:
        fleet.start_receiver()
        with between(fleet, ports=2, rate=0.3, holds=0.03, hold_s=1.0, seed=1) as (proxy, ports):
            for port in ports:
                fleet.start_worker(f"host-{port}", "--receiver", f"http://127.0.0.1:{port}", "--min-free-gib", "0")
            wait_until("all is trained", lambda: fleet.counts() == {"completed": 8}, 120)
            for port in ports:
                assert fleet.stop(f"host-{port}") == 0
            (faults,) = proxy.end()
        details = [fleet.job(job["id"]) for job in fleet.listed()]
    assert [[attempt["outcome"] for attempt in detail["attempts"]] for detail in details] == [["completed"]] * 8
    assert doomed.lines("twice") == []
    assert len(doomed.lines("starts")) == 8
    assert len(doomed.lines("index.jsonl")) == 8
    assert faults["requests"] > 50
