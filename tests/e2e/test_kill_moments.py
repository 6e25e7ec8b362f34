"""A worker that is killed at any moment and started again: nothing is lost, nothing is done twice, nothing is left."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from pathlib import Path

import pytest
from processes import Fleet, wait_until

SCRIPT = """
import fcntl, json, pathlib, sys, time
if "--describe" in sys.argv:
    print(json.dumps({"properties": {"model": {"enum": ["slow"]}, "mode": {"enum": ["oracle"]},
                                     "split_recipe": {"enum": ["hosts"]}},
                      "$defs": {"slow": {"type": "object", "properties": {}}}}))
    sys.exit()
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
seed = json.loads(pathlib.Path(sys.argv[sys.argv.index("--job") + 1]).read_text())["spec"]["seed"]
here = pathlib.Path(__file__).parent
with (here / "starts").open("a") as starts:
    starts.write(f"{seed}\\n")
alone = (here / f"trains-{seed}").open("w")
try:
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    with (here / "twice").open("a") as twice:
        twice.write(f"{seed}\\n")
for step in range(1, 11):
    with (out / "progress.jsonl").open("a") as progress:
        progress.write(json.dumps({"step": step, "steps": 10}) + "\\n")
    print("x" * 2000, flush=True)
    time.sleep(0.08)
(out / "artifact").mkdir()
(out / "artifact" / "model.txt").write_text(f"model {seed}")
(out / "result.json").write_text(json.dumps({"v": 1, "status": "done", "metrics": {"seed": seed}}))
"""
HEAD = """
[manifest]
schema = 1
[defaults]
max_attempts = 90
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
PATIENT = ("--heartbeat-s", "0.3", "--lease-s", "120", "--ack-s", "120", "--backoff-s", "0.1", "--backoff-cap-s", "0.1")
MOMENTS_OF_A_JOB = 57


def moments(count: int, seed: int) -> list[float]:
    """Moments as `doomed_worker` counts them, every third one while an answer is on its way; the last quarter as
    negative seconds after the start of the worker."""
    chance = random.Random(seed)
    counted = [float(moment) for moment in chance.sample(range(1, MOMENTS_OF_A_JOB + 1), min(count, MOMENTS_OF_A_JOB))]
    counted += [float(chance.randint(1, MOMENTS_OF_A_JOB)) for _ in range(count - len(counted))]
    found = [moment + (0.5 if number % 3 == 2 else 0.0) for number, moment in enumerate(counted)]
    return [-chance.uniform(0.5, 3.0) if number % 4 == 3 else moment for number, moment in enumerate(found)]


class Doomed:
    """One host whose worker is killed again and again."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self.folder = folder
        script = folder / "slow.py"
        script.write_text(SCRIPT)
        text = HEAD.replace("SCRIPT", str(script)) + "".join(JOB.replace("SEED", str(seed)) for seed in range(jobs))
        self.fleet = Fleet(folder, text, PATIENT)
        self.work = folder / "work"

    def start(self, moment: float) -> None:
        flags = ["--receiver", f"http://{self.fleet.address}", "--name", "tower", "--min-free-gib", "0"]
        arguments = [str(max(moment, 0)), str(self.work), *flags, "--grace-s", "1"]
        self.fleet._start("tower", "tests.e2e.doomed_worker", arguments)

    def kill_at(self, moment: float) -> None:
        """Let one worker live until its moment."""
        self.start(moment)
        process = self.fleet.processes["tower"]
        if moment < 0:
            try:
                process.wait(-moment)
            except Exception:  # noqa: BLE001 - it lives, as it should
                process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -9

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def processes(self) -> list[str]:
        """Command lines of all that was started for a trainer of this host and lives."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(self.work / "runs").encode() in line:
                found.append(line.decode(errors="replace"))
        return found


def survives(folder: Path, jobs: int, when: list[float]) -> None:
    doomed = Doomed(folder, jobs)
    with doomed.fleet as fleet:
        fleet.start_receiver()
        for moment in when:
            doomed.kill_at(moment)
        doomed.start(0)
        wait_until("all is trained", lambda: fleet.by_status() == {"completed": jobs}, 30 + 5 * jobs)
        wait_until("the last folder is gone", lambda: not _waiting(doomed.work), 20)
        assert fleet.stop("tower") == 0
        wait_until("no process is left", lambda: doomed.processes() == [], 10)
        details = [fleet.asked("show", job["id"]) for job in fleet.listed()]
    ends = Counter(_end(attempt) for detail in details for attempt in detail["attempts"])
    assert set(ends) <= {"completed", "released", "lost"}, ends
    assert ends["completed"] == jobs
    assert [_accepted(detail) for detail in details] == [1] * jobs
    assert len(doomed.lines("index.jsonl")) == jobs
    assert doomed.lines("twice") == []
    assert len(doomed.lines("starts")) == jobs + ends["lost"]


def _end(attempt: dict[str, str]) -> str:
    return attempt["kind"] if attempt["outcome"] == "failed" else attempt["outcome"]


def _accepted(detail: dict[str, list[dict[str, str]]]) -> int:
    return sum(event["action"] == "complete" for event in detail["events"])


def _waiting(work: Path) -> list[str]:
    """Names of the runs that are not over, and of folders that are neither."""
    states = {path: path / "state.json" for path in (work / "runs").iterdir()}
    return [
        path.name
        for path, state in states.items()
        if not state.exists() or json.loads(state.read_text())["step"] != "over"
    ]


def test_a_worker_killed_at_twenty_moments_completes_every_job_once(tmp_path: Path) -> None:
    survives(tmp_path, 16, moments(20, 490))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_worker_killed_at_a_hundred_more_moments_completes_every_job_once(tmp_path: Path, seed: int) -> None:
    survives(tmp_path, 20, moments(25, seed))
