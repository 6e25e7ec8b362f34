"""From a job that appears to the parked worker that holds it, and to the first line of its trainer."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.figures import Figure
from bench.stage import OPERATOR, ROOT, WORKER_TOKEN, Program, call, fsync_p50_ms, load, manifest, receiver

TRAINER = """\
import sys, time
if "--describe" in sys.argv:
    print(DECLARATION)
    sys.exit(0)
open(MARK, "w").write(str(time.time_ns()))
sys.exit(78)
"""
"""Says when its first statement ran, then refuses the job, which ends it at once."""
DECLARATION = {
    "properties": {"mode": {"enum": ["realistic", "oracle"]}, "split_recipe": {"enum": ["hosts"]}},
    "$defs": {"gbt": {"properties": {"max_iter": {"type": "integer"}, "learning_rate": {"type": "number"}}}},
}


def parked(folder: Path, quick: bool) -> list[Figure]:
    """Wake one of 1 and of 1,000 parked workers, and nobody else."""
    figures = []
    for idle in (1, 20 if quick else 1000):
        with receiver(folder / f"receiver-{idle}", manifest(1)) as real:
            (job,) = call(real, "GET", "/v1/jobs")["jobs"]
            settle_s, rounds = (0.2, 5) if quick else (2.0, 100)
            found = load("parked", real, idle=idle, job=job["id"], operator=OPERATOR, rounds=rounds, settle_s=settle_s)
        note = f"fsync p50 {fsync_p50_ms(folder):.2f} ms, worst {found['worst_ms']:.1f} ms"
        figures += [
            Figure("parked", f"p50 with {idle} idle", found["p50_ms"], "ms", 20, 5, note=note),
            Figure("parked", f"p99 with {idle} idle", found["p99_ms"], "ms", 20, 15),
            Figure("parked", f"woken in vain with {idle} idle", found["extra"], "", 0, 0),
        ]
    return figures


@contextmanager
def worker(folder: Path, real: Program, environ: dict[str, str]) -> Iterator[Program]:
    """Run a real worker."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "training.fleet.worker", "--receiver", f"http://127.0.0.1:{real.port}"]
    command += ["--work-dir", str(folder)]
    full = {**os.environ, "CIS490_WORKER_TOKEN": WORKER_TOKEN, **environ}
    with (folder / "worker.log").open("ab") as log:
        program = Program(subprocess.Popen(command, cwd=ROOT, env=full, stderr=log))
    try:
        yield program
    finally:
        program.stop()


def first_line(folder: Path, quick: bool) -> list[Figure]:
    """Requeue a job and wait for its trainer's first statement, with a trainer of a few lines."""
    mark, script = folder / "first-line", folder / "trainer.py"
    declaration = repr(json.dumps(DECLARATION))
    script.write_text(TRAINER.replace("MARK", repr(str(mark))).replace("DECLARATION", declaration))
    trainer = f'\n[trainer]\ncommand = ["{{python}}", "-S", "-E", "{script}"]\n'
    took = []
    with (
        receiver(folder / "receiver", manifest(1, extra=trainer)) as real,
        worker(folder / "worker", real, {}),
    ):
        (job,) = call(real, "GET", "/v1/jobs")["jobs"]
        _await_failed(real, job["id"])
        for _ in range(3 if quick else 30):
            mark.unlink(missing_ok=True)
            time.sleep(0.3)
            begun = time.time_ns()
            call(real, "POST", f"/v1/job/{job['id']}/requeue")
            _await_failed(real, job["id"])
            took.append((int(mark.read_text()) - begun) / 1e6)
    note = f"fsync p50 {fsync_p50_ms(folder):.2f} ms"
    return [
        Figure("first line", "job appears to first statement, p50", statistics.median(took), "ms", 80, 25, note=note)
    ]


def _await_failed(real: Program, job_id: str) -> None:
    """Return when the job has failed; the trainer of this bench leaves no artifact."""
    deadline = time.monotonic() + 60
    while call(real, "GET", f"/v1/job/{job_id}")["job"]["status"] != "failed":
        if time.monotonic() > deadline:
            raise RuntimeError("the job did not end within a minute; see the worker's log")
        time.sleep(0.02)
