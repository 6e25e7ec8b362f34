"""A trainer for tests of the worker: does what `hyper.act` in its job says. Needs the standard library alone."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DECLARATION = {
    "title": "fake",
    "properties": {
        "mode": {"enum": ["realistic", "oracle"]},
        "split_recipe": {"enum": ["hosts"]},
        "model": {"enum": ["fake"]},
    },
    "$defs": {
        "fake": {"type": "object", "additionalProperties": False, "properties": {"act": {"type": "string"}}},
    },
}

TREE = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
time.sleep(600)
"""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    sys.stderr.write(line + "\n")


def artifact(out: Path, content: str = "model") -> None:
    (out / "artifact").mkdir()
    (out / "artifact" / "model.txt").write_text(content)
    (out / "result.json").write_text(json.dumps({"v": 1, "status": "done", "metrics": {"auroc": 0.75, "nan": "x"}}))


def step(out: Path, done: int, steps: int) -> None:
    with (out / "progress.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": done, "steps": steps, "phase": "fold 1/2", "metrics": {"loss": 0.5}}) + "\n")


def good(out: Path) -> int:
    say("training")
    step(out, 1, 2)
    artifact(out)
    step(out, 2, 2)
    return 0


def shown(out: Path) -> int:
    artifact(out)
    (out / "artifact" / "model_card.md").write_text("# A card")
    (out / "artifact" / "learning.svg").write_text("<svg/>")
    (out / "artifact" / "metrics.json").write_text("{}")
    return 0


def slow(out: Path) -> int:
    say(f"pid {os.getpid()}")
    for done in range(1, 601):
        step(out, done, 600)
        time.sleep(0.05)
    artifact(out)
    return 0


def patient(out: Path) -> int:
    """Work until somebody makes the file `go`."""
    say("started")
    step(out, 1, 2)
    while not Path("go").exists():
        time.sleep(0.02)
    say("ended")
    artifact(out)
    return 0


def patient_failure(out: Path) -> int:
    """Do that and fail."""
    patient(out)
    return 1


def stubborn(out: Path) -> int:
    """Ignore TERM and leave children that detach themselves, twice removed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-c", TREE])
    subprocess.Popen([sys.executable, "-c", TREE], start_new_session=True)
    say("stubborn")
    time.sleep(600)
    return 0


def leftovers(out: Path) -> int:
    """Do the work but leave children behind."""
    subprocess.Popen([sys.executable, "-c", TREE])
    time.sleep(0.3)
    artifact(out)
    return 0


def polite(out: Path) -> int:
    """Stop when asked, and say so."""

    def stop(number: int, frame: object) -> None:
        say("stopping politely")
        sys.exit(3)

    signal.signal(signal.SIGTERM, stop)
    say("ready")
    time.sleep(600)
    return 0


def fail(out: Path) -> int:
    complain("Traceback (most recent call last):")
    complain('  File "x.py", line 1, in <module>')
    complain("ValueError: column cpu holds \x1b[31mno\x1b[0m numbers")
    return 1


def binary(out: Path) -> int:
    os.write(1, bytes(range(256)) * 4096)
    artifact(out)
    return 0


def flood(out: Path) -> int:
    """Print much without a single line feed."""
    os.write(1, b"begin")
    for _ in range(400):
        os.write(1, b"x" * 65536)
    os.write(1, b"end")
    return 1


def silent_exit(out: Path) -> int:
    return 0


def oom_gpu(out: Path) -> int:
    complain("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
    return 1


def oom_ram(out: Path) -> int:
    (out / "result.json").write_text(json.dumps({"status": "failed", "kind": "oom_ram", "error": "needs 9 GiB"}))
    return 75


def elsewhere(out: Path) -> int:
    complain("lightgbm is not installed")
    return 75


def wrong(out: Path) -> int:
    complain("spec.hyper.act: found 'wrong', expected 'right'")
    return 78


def killed(out: Path) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def mute(out: Path) -> int:
    """Close the output at once and work on."""
    os.close(1)
    os.close(2)
    time.sleep(0.5)
    artifact(out)
    return 0


def checkpoint(out: Path) -> int:
    """Leave a checkpoint and die; with one, go on from it and finish."""
    kept = Path(job()["resume"]) / "step"
    if kept.exists():
        artifact(out, f"resumed at step {kept.read_text()}")
        return 0
    new = kept.with_suffix(".new")
    new.write_text("7")
    new.replace(kept)
    return killed(out)


def job() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(sys.argv[sys.argv.index("--job") + 1]).read_text())
    return found


def dump_environment(out: Path) -> int:
    artifact(out, json.dumps({"environ": dict(os.environ), "cwd": str(Path.cwd()), "device": job()["device"]}))
    return 0


def main(acts: dict[str, Any]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--describe", action="store_true")
    parser.add_argument("--job", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.describe:
        say(json.dumps(DECLARATION))
        return 0
    act = json.loads(args.job.read_text())["spec"]["hyper"]["act"]
    return int(acts[act](args.out))


if __name__ == "__main__":
    sys.exit(main(globals()))
