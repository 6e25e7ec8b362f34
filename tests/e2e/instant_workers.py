"""Real workers in one process whose trainers take a moment: `instant_workers.py '{"folder": ..., "ports": [...]}'`.

Everything of the worker is real but the trainer's process. Works until its standard input ends, then stops the workers
and prints one JSON object a training: job, worker, a mark that its artifact holds, start and end.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.fleet.client import Client
from training.fleet.client import client as client_module
from training.fleet.model.capability import Capability
from training.fleet.worker import loop
from training.fleet.worker.journal import Journal
from training.fleet.worker.loop import Worker
from training.fleet.worker.options import options
from training.fleet.worker.process.local import TrainerEnding, process_identity
from training.fleet.worker.run import prepare, run, watch

ME = process_identity(os.getpid())
TRAININGS: list[dict[str, Any]] = []
CHANCE = random.Random(490)


class Instant:
    """Stands in for `worker.process.training.Training`."""

    identity = ME

    def __init__(self, out: Path, report: Path, wake: Callable[[], object]) -> None:
        self.out, self.report, self.wake = out, report, wake
        self.ended, self.stopped = threading.Event(), threading.Event()
        folder = out.parent
        job = json.loads((folder / "job.json").read_text())["job_id"]
        self.record = {"job": job, "worker": folder.parents[1].name, "mark": os.urandom(8).hex(), "end": None}
        self.duration_s = CHANCE.choice(TAKES_S)

    def go(self) -> None:
        self.record["start"] = time.monotonic()
        TRAININGS.append(self.record)
        threading.Thread(target=self.train, daemon=True).start()

    def train(self) -> None:
        if not self.stopped.wait(self.duration_s):
            (self.out / "artifact").mkdir()
            (self.out / "artifact" / "model.txt").write_text(self.record["mark"])
            (self.out / "result.json").write_text('{"v": 1, "status": "done", "metrics": {}}')
        self.record["end"] = time.monotonic()
        self.ended.set()
        self.wake()

    def stop(self) -> None:
        self.stopped.set()

    abort = kill = stop

    def guarded(self) -> bool:
        return True

    def ending(self) -> TrainerEnding:
        return TrainerEnding(-9, "K") if self.stopped.is_set() else TrainerEnding(0, duration_s=self.duration_s)


def launch(
    command: Sequence[str], folder: Path, environ: Mapping[str, str], report: Path, *,
    grace_s: float, log: Callable[[bytes], object], wake: Callable[[], object],
) -> Instant:  # fmt: skip
    return Instant(Path(command[list(command).index("--out") + 1]), report, wake)


def hasten() -> None:
    """Shorten what a worker waits for, in the measure in which the test's leases are shorter."""
    prepare.launch = launch  # type: ignore[assignment]
    run.RETRY_S, run.RETRY_CAP_S, watch.TICK_S = 0.1, 0.5, 0.5  # type: ignore[misc]
    loop.AWAY_S, loop.AWAY_CAP_S, loop.REFUSED_S, loop.WAIT_S = 0.1, 0.5, 0.2, 2  # type: ignore[misc]
    client_module.BACKOFF_S, client_module.BACKOFF_CAP_S = 0.05, 0.3  # type: ignore[misc]
    client_module._PARKING_SLACK_S = 1.0


def worker(folder: Path, number: int, port: int, rule: bool) -> Worker:
    name = f"host-{number}"
    flags = {"work_dir": str(folder / name), "slots": "2", "min_free_gib": "0", "keep_s": "0", "stop_when_lost": rule}
    chosen = options(flags, {"CIS490_RECEIVER": f"http://127.0.0.1:{port}"})
    chosen.work_dir.mkdir()
    found = Capability(name, ram_bytes=2**34, cpu_count=2)
    token = os.environ["CIS490_WORKER_TOKEN"]
    return Worker(chosen, lambda: found, lambda: Client(chosen.receiver, token, timeout_s=1.0), Journal(io.StringIO()))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    TAKES_S: list[float] = given["takes_s"]
    hasten()
    folder, rule = Path(given["folder"]), given["stop_when_lost"]
    workers = [worker(folder, number, port, rule) for number, port in enumerate(given["ports"])]
    threads = [threading.Thread(target=one.serve, daemon=True) for one in workers]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    for one in workers:
        one.stop()
    for thread in threads:
        thread.join(20)
    sys.stdout.write("".join(json.dumps(record) + "\n" for record in TRAININGS))
    sys.stdout.flush()
    os._exit(0)
