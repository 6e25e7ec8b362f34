"""Wall clocks that jump and machines that sleep, under a real receiver, worker and trainer."""

from __future__ import annotations

import shutil
import signal
import struct
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from processes import Fleet, wait_until
from test_kill_moments import HEAD, JOB, SCRIPT

YEAR_S = 365 * 86400


def terms(lease_s: int) -> tuple[str, ...]:
    """The receiver's limits, with leases so long."""
    lease = ("--lease-s", str(lease_s), "--ack-s", str(lease_s))
    return ("--heartbeat-s", "0.2", *lease, "--backoff-s", "0.1", "--backoff-cap-s", "0.1")


class WallClock:
    """The wall clock of every process that starts while it is in force."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if shutil.which("gcc") is None:
            pytest.skip("needs gcc")
        library, self._offset = folder / "wall_clock.so", folder / "offset"
        source = Path(__file__).with_name("wall_clock.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
        self._offset.write_bytes(struct.pack("q", 0))
        monkeypatch.setenv("LD_PRELOAD", str(library))
        monkeypatch.setenv("WALL_CLOCK_OFFSET", str(self._offset))

    def move(self, seconds: float) -> None:
        """Have it differ from the true one by so much."""
        with self._offset.open("r+b") as file:
            file.write(struct.pack("q", int(seconds)))

    def set(self, at: float) -> None:
        """Set it to so many seconds after 1970."""
        self.move(at - time.time())


@pytest.fixture
def wall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    return WallClock(tmp_path, monkeypatch)


def manifest(folder: Path, jobs: int) -> str:
    script = folder / "slow.py"
    script.write_text(SCRIPT)
    return HEAD.replace("SCRIPT", str(script)) + "".join(JOB.replace("SEED", str(seed)) for seed in range(jobs))


def starts(folder: Path) -> int:
    path = folder / "starts"
    return len(path.read_text().splitlines()) if path.exists() else 0


def events(fleet: Fleet) -> list[list[dict[str, Any]]]:
    """The history of each job, as it is shown."""
    return [fleet.asked("show", job["id"])["events"] for job in fleet.listed()]


def serve(fleet: Fleet) -> None:
    fleet.start_receiver()
    fleet.start_worker("tower", "--min-free-gib", "0", "--grace-s", "1")


def test_a_fleet_that_starts_in_1970_and_jumps_ten_years_trains_each_job_once(tmp_path: Path, wall: WallClock) -> None:
    wall.set(540)
    with Fleet(tmp_path, manifest(tmp_path, 4), (*terms(20), "--backup-root", str(tmp_path / "backups"))) as fleet:
        serve(fleet)
        fleet.jobs("backup", "--artifacts")
        now = time.time()
        for started, at in ((1, now), (2, now + 10 * YEAR_S), (3, now - 10 * YEAR_S)):
            wait_until("a job runs", lambda wanted=started: starts(tmp_path) >= wanted)  # type: ignore[misc]
            wall.set(at)
        wait_until("all is trained", lambda: fleet.counts() == {"completed": 4})
        fleet.jobs("backup", "--artifacts")
        assert fleet.stop("tower") == 0
        told = events(fleet)
        assert [[event["action"] for event in job] for job in told] == [["add", "claim", "start", "complete"]] * 4
        numbers = [event["id"] for job in told for event in job if event["action"] == "claim"]
        assert numbers == sorted(numbers)
        years = {event["at"][:4] for job in told for event in job}
        assert {"1970", time.strftime("%Y", time.gmtime(now + 10 * YEAR_S))} <= years
        wall.set(540)
        assert fleet.stop("receiver") == 0
        fleet.start_receiver()
        assert fleet.counts() == {"completed": 4}
        assert fleet.jobs("fsck").returncode == 0
    assert starts(tmp_path) == 4
    assert len(list((tmp_path / "store").rglob("bundle.tar.zst"))) == 4
    assert len((tmp_path / "index.jsonl").read_text().splitlines()) == 4
    kept = sorted(path.name[:4] for path in (tmp_path / "backups").iterdir())
    assert kept == ["1970", time.strftime("%Y", time.gmtime(now - 10 * YEAR_S))]


@pytest.mark.parametrize(("sleeper", "lease_s"), [("receiver", 8), ("tower", 2)], ids=["receiver", "worker"])
def test_a_program_that_sleeps_for_longer_than_a_lease_loses_no_job(sleeper: str, lease_s: int, tmp_path: Path) -> None:
    """A stopped program finds the time gone by all at once, as after a suspend."""
    with Fleet(tmp_path, manifest(tmp_path, 1), terms(lease_s)) as fleet:
        serve(fleet)
        wait_until("the trainer runs", lambda: starts(tmp_path) == 1)
        wait_until("the lease is acknowledged", lambda: "running" in fleet.counts())
        fleet.processes[sleeper].send_signal(signal.SIGSTOP)
        if sleeper == "tower":
            wait_until("the lease is over", lambda: "running" not in fleet.counts())
        else:
            asleep_until = time.monotonic() + lease_s + 1
            wait_until("the lease would be over", lambda: time.monotonic() > asleep_until)
        fleet.processes[sleeper].send_signal(signal.SIGCONT)
        wait_until("the job is completed", lambda: fleet.counts() == {"completed": 1})
        told = Counter(event["action"] for job in events(fleet) for event in job)
        expired = int(sleeper == "tower")
        assert told == {"add": 1, "claim": 1, "start": 1, "complete": 1} | (
            {"expire": expired, "adopt": expired} if expired else {}
        )
    assert starts(tmp_path) == 1
