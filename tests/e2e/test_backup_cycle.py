"""Back up a busy fleet, lose its disk, bring the backup back: nothing answered before is missing."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from live_receiver import manifest
from processes import ROOT, WORKER, Fleet, wait_until

from training.fleet.client import Client
from training.fleet.model.capability import GIB, Capability
from training.fleet.model.errors import NotFoundError, StaleLeaseError
from training.fleet.wire.worker import Claim, Complete, Heartbeat, Lease

JOBS = 500
EACH = 200
"""Jobs that each host does at most, so that some are left."""
TERMS = ("--heartbeat-s", "1", "--lease-s", "60", "--ack-s", "60")


class Host(threading.Thread):
    """Claims and completes jobs until told to stop, and writes down what was answered and when."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        super().__init__(name=name)
        self.client = Client(f"http://{fleet.address}", token=WORKER)
        self.folder = fleet.folder
        self.done: dict[str, tuple[float, str]] = {}
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.is_set() and len(self.done) < EACH:
            self.work(self.claim())
        self.client.close()

    def claim(self, *held: str) -> Lease:
        capability = Capability(self.name, cpu_count=4, ram_bytes=8 * GIB, version="0.1.0")
        lease, _ = self.client.claim(Claim(os.urandom(12).hex(), self.name, capability, list(held)))
        assert lease is not None
        self.client.heartbeat(lease.job_id, Heartbeat(lease.lease_id))
        return lease

    def work(self, lease: Lease) -> None:
        path = self.folder / f"{lease.job_id}.bundle"
        path.write_bytes(lease.job_id.encode() * 500)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self.client.upload(lease.lease_id, sha256, path)
        self.client.complete(lease.job_id, Complete(lease.lease_id, sha256, {}))
        self.done[lease.job_id] = (time.monotonic(), sha256)


def offline(fleet: Fleet, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the receiver's own program on its files."""
    places = ["--db", "queue.db", "--store-root", "store", "--incoming-root", "incoming", "--index-path", "index.jsonl"]
    return subprocess.run(
        [sys.executable, "-m", "training.fleet.receiver", words[0], *places, *words[1:]],
        cwd=fleet.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_receiver_that_lost_its_disk_goes_on_from_a_backup_made_under_load(tmp_path: Path) -> None:
    with Fleet(tmp_path, manifest(JOBS), (*TERMS, "--backup-root", str(tmp_path / "backups"))) as fleet:
        fleet.start_receiver()
        hosts = [Host(fleet, f"host-{number}") for number in range(2)]
        keeper = Host(fleet, "keeper")
        held = keeper.claim()
        for host in hosts:
            host.start()
        wait_until("some jobs are done", lambda: sum(len(host.done) for host in hosts) > 20)
        began = time.monotonic()
        backup = Path(fleet.jobs("backup", "nightly", "--artifacts").stdout.strip())
        later = keeper.claim(held.lease_id)
        for host in hosts:
            host.stopped.set()
        for host in hosts:
            host.join()

        fleet.stop("receiver", signal.SIGKILL)
        for name in ("store", "incoming"):
            shutil.rmtree(tmp_path / name)
        for path in (*tmp_path.glob("queue.db*"), *tmp_path.glob("*.jsonl"), *tmp_path.glob("manifest.applied*")):
            path.unlink()
        done = offline(fleet, "restore", str(backup))
        assert (done.returncode, done.stderr) == (0, "")
        checked = offline(fleet, "fsck")
        assert checked.returncode == 0, checked.stdout
        assert checked.stdout.splitlines()[-1].startswith(f"clean: {JOBS} jobs, ")

        fleet.start_receiver()
        jobs = {job["id"]: job for job in fleet.listed()}
        answered = {job: sha for host in hosts for job, (at, sha) in host.done.items() if at < began}
        assert len(answered) > 20
        assert {job: (jobs[job]["status"], jobs[job]["artifact"]) for job in answered} == {
            job: ("completed", sha) for job, sha in answered.items()
        }
        assert (jobs[held.job_id]["status"], jobs[held.job_id]["host"]) == ("running", "keeper")
        again = Host(fleet, "keeper")
        again.work(held)
        with pytest.raises((NotFoundError, StaleLeaseError)):
            again.client.heartbeat(later.job_id, Heartbeat(later.lease_id))
        with pytest.raises((NotFoundError, StaleLeaseError)):
            again.client.complete(later.job_id, Complete(later.lease_id, "a" * 64, {}))
        lost = [job for host in hosts for job, (at, _) in host.done.items() if jobs[job]["status"] != "completed"]
        assert all(jobs[job]["status"] in ("pending", "running", "claimed") for job in lost)
        again.work(again.claim())
        again.client.close()
        keeper.client.close()
        assert fleet.jobs("fsck").stdout.startswith(f"clean: {JOBS} jobs, ")


def test_the_receivers_program_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with Fleet(tmp_path, manifest(1), TERMS) as fleet:
        fleet.start_receiver()
        for words in (("fsck",), ("restore", str(tmp_path))):
            done = offline(fleet, *words)
            assert (done.returncode, done.stdout) == (78, "")
            assert len(done.stderr.splitlines()) == 1
        assert "is no backup: cannot read" in done.stderr
        assert "is in use; stop the receiver first, or ask it: cis490-jobs fsck" in offline(fleet, "fsck").stderr
        assert fleet.stop("receiver") == 0
        assert offline(fleet, "fsck", "--json").returncode == 0
