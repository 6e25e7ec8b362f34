"""What happens when a part is away: no training is lost, no job is trained twice, nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from processes import Fleet, wait_until

SCRIPT = """
import json, pathlib, sys, time
if "--describe" in sys.argv:
    print(json.dumps({"properties": {"model": {"enum": ["slow"]}, "mode": {"enum": ["oracle"]},
                                     "split_recipe": {"enum": ["hosts"]}},
                      "$defs": {"slow": {"type": "object", "properties": {}}}}))
    sys.exit()
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
here = pathlib.Path(__file__).parent
with (here / "starts").open("a") as starts:
    starts.write("start\\n")
while not (here / "go").exists():
    time.sleep(0.02)
(out / "artifact").mkdir(parents=True)
(out / "artifact" / "model.txt").write_text("slow")
(out / "result.json").write_text(json.dumps({"v": 1, "status": "done", "metrics": {}}))
"""
MANIFEST = """
[manifest]
schema = 1
[trainer]
command = ["{python}", "SCRIPT"]
[hosts.default]
"""
JOB = """
[[jobs]]
model = "slow"
mode = "oracle"
seed = SEED
"""


def slow_fleet(folder: Path, terms: tuple[str, ...], jobs: int = 1, attempts: int = 3) -> Fleet:
    """A fleet whose trainer works until somebody makes the file `go`."""
    script = folder / "slow.py"
    script.write_text(SCRIPT)
    manifest = MANIFEST + "".join(
        JOB.replace("SEED", str(seed)) + f"max_attempts = {attempts}\n" for seed in range(jobs)
    )
    return Fleet(folder, manifest.replace("SCRIPT", str(script)), terms)


def starts(folder: Path) -> int:
    """How often that trainer was started."""
    path = folder / "starts"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_result_made_while_the_receiver_was_away_is_taken_afterwards(tmp_path: Path) -> None:
    with slow_fleet(tmp_path, ("--heartbeat-s", "0.3", "--lease-s", "60", "--ack-s", "30")) as fleet:
        fleet.start_receiver()
        fleet.start_worker("tower")
        wait_until("the trainer runs", lambda: starts(tmp_path) == 1 and fleet.by_status() == {"running": 1})
        fleet.stop("receiver", signal.SIGKILL)
        (tmp_path / "go").touch()
        wait_until("the artifact is packed", lambda: list((tmp_path / "tower").rglob("*.zst")))
        fleet.start_receiver()
        wait_until("the result is taken", lambda: fleet.by_status() == {"completed": 1})
        assert starts(tmp_path) == 1


@pytest.mark.parametrize(("attempts", "meanwhile"), [(3, "pending"), (1, "failed")])
def test_an_outage_beyond_the_lease_at_both_ends_costs_no_training(
    tmp_path: Path, attempts: int, meanwhile: str
) -> None:
    """The receiver is away until the training has ended, and the worker cannot reach it until the lease is over too."""
    terms = ("--heartbeat-s", "0.2", "--lease-s", "2", "--ack-s", "9", "--backoff-s", "0")
    with slow_fleet(tmp_path, terms, attempts=attempts) as fleet:
        fleet.start_receiver()
        fleet.start_worker("tower")
        wait_until("the trainer runs", lambda: starts(tmp_path) == 1 and fleet.by_status() == {"running": 1})
        fleet.stop("receiver", signal.SIGKILL)
        wait_until("the worker notices", lambda: "no heartbeat" in fleet.log("tower"))
        (tmp_path / "go").touch()
        wait_until("the artifact is packed", lambda: list((tmp_path / "tower").rglob("*.zst")))
        fleet.processes["tower"].send_signal(signal.SIGSTOP)
        fleet.start_receiver()
        wait_until("the lease has run out", lambda: fleet.by_status() == {meanwhile: 1})
        fleet.processes["tower"].send_signal(signal.SIGCONT)
        wait_until("the result is taken", lambda: fleet.by_status() == {"completed": 1})
        assert (starts(tmp_path), _ends(fleet)) == (1, [("tower", "completed")])


def test_a_worker_restarted_while_the_receiver_is_away_takes_over_and_delivers_later(tmp_path: Path) -> None:
    with slow_fleet(tmp_path, ("--heartbeat-s", "0.2", "--lease-s", "60", "--ack-s", "30")) as fleet:
        fleet.start_receiver()
        fleet.start_worker("tower")
        wait_until("the trainer runs", lambda: starts(tmp_path) == 1 and fleet.by_status() == {"running": 1})
        fleet.stop("receiver", signal.SIGKILL)
        (state,) = (tmp_path / "tower" / "runs").glob("*/state.json")
        shim = int(json.loads(state.read_text())["shim"].partition(":")[0])
        os.kill(shim, signal.SIGSTOP)  # so that it does not give up waiting because this machine is busy
        fleet.stop("tower", signal.SIGKILL)
        fleet.start_worker("tower")
        wait_until("it takes over", lambda: "trainer taken over" in fleet.log("tower"))
        os.kill(shim, signal.SIGCONT)
        (tmp_path / "go").touch()
        wait_until("the artifact is packed", lambda: list((tmp_path / "tower").rglob("*.zst")))
        fleet.start_receiver()
        wait_until("the result is taken", lambda: fleet.by_status() == {"completed": 1})
        assert (starts(tmp_path), _ends(fleet)) == (1, [("tower", "completed")])


def _ends(fleet: Fleet) -> list[tuple[str, str]]:
    """Host and outcome of each attempt of the one job."""
    (job,) = fleet.listed()
    return [(attempt["host"], attempt["outcome"]) for attempt in fleet.asked("show", job["id"])["attempts"]]


def test_a_job_whose_worker_was_killed_is_trained_by_another_one(tmp_path: Path) -> None:
    terms = ("--heartbeat-s", "0.2", "--lease-s", "2", "--ack-s", "2", "--backoff-s", "0.1")
    with slow_fleet(tmp_path, terms) as fleet:
        fleet.start_receiver()
        fleet.start_worker("tower")
        wait_until("the trainer runs", lambda: starts(tmp_path) == 1 and fleet.by_status() == {"running": 1})
        fleet.stop("tower", signal.SIGKILL)
        fleet.start_worker("server")
        wait_until("another host trains", lambda: starts(tmp_path) == 2)
        (tmp_path / "go").touch()
        wait_until("its result is taken", lambda: fleet.by_status() == {"completed": 1})
        assert _ends(fleet) == [("tower", "expired"), ("server", "completed")]


def test_no_trainer_outlives_a_killed_worker(tmp_path: Path) -> None:
    with slow_fleet(tmp_path, ("--heartbeat-s", "0.2", "--lease-s", "60", "--ack-s", "30")) as fleet:
        fleet.start_receiver()
        fleet.start_worker("tower", "--grace-s", "1")
        wait_until("the trainer runs", lambda: starts(tmp_path) == 1)
        assert _running(tmp_path / "slow.py")
        fleet.stop("tower", signal.SIGKILL)
        wait_until("the trainer is gone", lambda: not _running(tmp_path / "slow.py"), 15)


def test_a_stopped_worker_gives_its_job_back_at_no_cost(tmp_path: Path) -> None:
    with slow_fleet(tmp_path, ("--heartbeat-s", "0.2", "--lease-s", "60", "--ack-s", "30")) as fleet:
        fleet.start_receiver()
        fleet.start_worker("tower")
        wait_until("the trainer runs", lambda: fleet.by_status() == {"running": 1})
        assert fleet.stop("tower", signal.SIGTERM) == 0
        (job,) = fleet.listed()
        assert (job["status"], job["attempts_used"]) == ("pending", 0)
        assert not _running(tmp_path / "slow.py")


def test_a_cancelled_job_stops_its_trainer(tmp_path: Path) -> None:
    with slow_fleet(tmp_path, ("--heartbeat-s", "0.2", "--lease-s", "60", "--ack-s", "30")) as fleet:
        fleet.start_receiver()
        fleet.start_worker("tower")
        wait_until("the trainer runs", lambda: fleet.by_status() == {"running": 1})
        (job,) = fleet.listed()
        fleet.jobs("cancel", job["id"][:10])
        wait_until("the worker confirmed", lambda: fleet.by_status() == {"cancelled": 1})
        wait_until("the trainer is gone", lambda: not _running(tmp_path / "slow.py"), 15)
        fleet.jobs("requeue", job["id"][:10])
        (tmp_path / "go").touch()
        wait_until("it runs again", lambda: fleet.by_status() == {"completed": 1})


def _running(script: Path) -> list[int]:
    """Process ids whose command line names a script."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(script).encode() in line.split(b"\0"):
                found.append(int(entry.name))
    return found
