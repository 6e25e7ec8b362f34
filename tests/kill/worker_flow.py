"""The worker as its service manager starts it, with a trainer that takes a moment, and a receiver that is never killed.

The worker takes one job, trains, hands the artifact in, cleans up what an earlier run left, and changes its secret.
Only its own calls are disturbed, not those of the shim and the trainer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

from boundary import Boundary, Ran
from trial import Trial

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from one_job_receiver import OneJobReceiver, forked

from training.fleet.capability.detect import detect
from training.fleet.wire.worker import Lease
from training.fleet.worker import loop, program, resume
from training.fleet.worker.folder import RunFolder, RunState

SECRET = "cis490w.0123456789abcdef." + "k" * 43
LIMIT_S = 60.0
KEEP_S = 3600.0
"""How long the folders of lost runs are kept; that of the earlier run is older."""
TRAINER = """
import fcntl, json, pathlib, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
here = pathlib.Path(__file__).parent
with (here / "starts").open("a") as starts:
    starts.write(f"{out}\\n")
alone = (here / "alone").open("w")
try:
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    (here / "twice").touch()
job = json.loads(pathlib.Path(sys.argv[sys.argv.index("--job") + 1]).read_text())
(pathlib.Path(job["resume"]) / "checkpoint").write_text("half") if job.get("resume") else None
with (out / "progress.jsonl").open("a") as progress:
    progress.write(json.dumps({"step": 1, "steps": 2}) + "\\n")
print("training", flush=True)
time.sleep(0.05)
(out / "artifact").mkdir()
(out / "artifact" / "model.txt").write_text("model")
(out / "artifact" / "card.md").write_text("# A card")
(out / "result.json").write_text(json.dumps({"v": 1, "status": "done", "metrics": {"auroc": 0.75}}))
"""
HOST_KINDS = {"preempted", "host_fault"}
"""Kinds of failure that blame neither the trainer nor the network."""


class WorkerFlow:
    """One worker, one job.

    Args:
        boundary: The watcher.
        scratch: Folder for its files.
    """

    def __init__(self, boundary: Boundary, scratch: Path) -> None:
        self._boundary = boundary
        self._work = scratch / "work"
        self._beside = scratch / "beside"
        self._beside.mkdir(parents=True)
        (self._beside / "trainer.py").write_text(TRAINER)
        command = [sys.executable, "-I", "-S", str(self._beside / "trainer.py")]
        self._receiver = forked(lambda: OneJobReceiver(command, SECRET))
        os.environ.pop("CIS490_CONFIG", None)
        os.environ["XDG_STATE_HOME"] = str(scratch / "nothing")
        self._work.mkdir()
        found = dataclasses.replace(detect(self._work, name="tower"), gpus=())
        program.detect = lambda *_args, **_more: found  # type: ignore[assignment]
        # The same waits, only shorter.
        loop.REFUSED_S = loop.AWAY_S = 0.05  # type: ignore[misc]
        from training.fleet.worker.run import run

        run.RETRY_S = 0.05  # type: ignore[misc]
        resume.LEAVING_S = 0.5  # type: ignore[misc]

    def trial(self, at: int = 0, error: int = 0) -> Trial:
        """Disturb one worker, start it again, wait for the end of the job, and look at what is left."""
        self._begin()
        ran = self._run(at, error)
        trial = Trial(ran)
        trial.wrong += _badly_ended(ran, error)
        if ran.status != 0:
            trial.again = self._run()
            if trial.again.status != 0:
                trial.wrong.append(f"started again: {trial.again.status} {trial.again.said}")
        if error and list((self._work / "runs").iterdir()):
            self._run()  # what could not be deleted is left for the next start
        trial.wrong += self._at_the_end(error)
        if trial.wrong:
            trial.wrong.append(ran.said[-1500:])
        return trial

    def _begin(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        for name in ("starts", "twice"):
            (self._beside / name).unlink(missing_ok=True)
        (self._work / "runs").mkdir(parents=True)
        (self._work / "secret").write_text(SECRET + "\n")
        (self._work / "secret").chmod(0o600)
        old = RunFolder(self._work / "runs" / f"{'c' * 12}-1")
        old.make(RunState("over", Lease(**self._receiver.ask("/old-lease"))))
        long_ago = time.time() - 2 * KEEP_S
        os.utime(old.path, (long_ago, long_ago))
        (self._work / "runs" / f"{'d' * 12}-1.gone").mkdir()
        self._receiver.ask("/reset")

    def _run(self, at: int = 0, error: int = 0) -> Ran:
        self._receiver.ask("/again")
        return self._boundary.run(self._program, self._work, at, error, self._stop_when_done)

    def _program(self) -> int:
        flags = ["--receiver", self._receiver.url, "--name", "tower", "--min-free-gib", "0", "--keep-s", str(KEEP_S)]
        more = ["--grace-s", "1", "--worker-secret-file", str(self._work / "secret"), "--stop-limit-s", "10"]
        return program.main(["--work-dir", str(self._work), *flags, *more])

    def _stop_when_done(self, process: int, ended: threading.Event) -> None:
        """Stop the worker once the job is done and the secret changed, or when it hangs."""
        end = time.monotonic() + LIMIT_S
        while not ended.is_set() and time.monotonic() < end:
            if self._receiver.ask("/record")["rests"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM)
                if ended.wait(10):
                    return
                break
            ended.wait(0.01)
        if not ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGABRT)

    def _at_the_end(self, error: int) -> list[str]:
        record = self._receiver.ask("/record")
        wrong = list(record["wrong"])
        if record["completed"] != 1:
            wrong.append(f"completed {record['completed']} times")
        allowed = HOST_KINDS | ({"disk_full"} if error else set())
        if bad := set(record["kinds"]) - allowed:
            wrong.append(f"reported {bad}: {record['errors']}")
        if (self._beside / "twice").exists():
            wrong.append("two trainers at once")
        begun = self._beside / "starts"
        starts = begun.read_text().splitlines() if begun.exists() else []
        if len(starts) > 1 + len(record["kinds"]):
            wrong.append(f"{len(starts)} trainings for {record['kinds']}")
        if (self._work / "secret").read_text().strip() not in record["taken"]:
            wrong.append("the secret in the file is not one the receiver takes")
        return wrong + self._left(record["kinds"])

    def _left(self, kinds: list[str]) -> list[str]:
        """Nothing stays but the folders of runs that were reported as failed, which are kept for people."""
        runs = [(path, RunFolder(path).load()) for path in (self._work / "runs").glob("*")]
        kept = [path for path, state in runs if state is not None and state.why.startswith(tuple(kinds) or "-")]
        left = [str(path) for path, _ in runs if path not in kept]
        left += [str(path) for path in (self._work / "resume").glob("*")]
        end = time.monotonic() + 8
        while (living := _processes(self._work)) and time.monotonic() < end:
            time.sleep(0.02)
        return [f"left: {what}" for what in left + living]


def _badly_ended(ran: Ran, error: int) -> list[str]:
    wrong = [f"a traceback: {ran.said}"] if "Traceback" in ran.said or "please report it" in ran.said else []
    if error and ran.status not in (0, 1, 75, 78):
        wrong.append(f"ended with {ran.status}")
    return wrong


def _processes(work: Path) -> list[str]:
    """Command lines of all that was started for a trainer here and lives."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes()
            if str(work / "runs").encode() in line:
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found
