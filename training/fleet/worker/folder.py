"""The folder of one run: what stands where, and the state that survives the worker.

runs/<job>-<fence>/
    state.json      how far the run is; written whole before the step that depends on it
    job.json        what the trainer is asked for
    out/            what the trainer writes: artifact/, progress.jsonl, result.json
    scratch/        where it starts and keeps temporary files
    exit.json       how it ended, written by the shim
    log.*           what it printed, bounded
    bundle.tar.zst  the packed artifact
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from training.fleet import wire
from training.fleet.worker.progress import Metrics

Step = Literal["claimed", "training", "packed", "failed", "over"]
STEPS: Final = ("claimed", "training", "packed", "failed", "over")
_MAX_JSON_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class State:
    """How far a run is.

    Attributes:
        step: `claimed` nothing started; `training` the shim was started; `packed` the bundle waits for its upload;
            `failed` the failure waits to be reported; `over` nobody waits for it, the folder is only kept for a day.
        lease: The lease, as it was granted.
        shim: Identity of the shim's process, empty before it runs.
        artifact: Digest of the bundle, empty before it is packed.
        content_digest: Digest of the uncompressed tar, empty before it is packed.
        metrics: Headline figures of the result.
        duration_s: Seconds the trainer ran.
        failure: The report that waits, None without one.
        why: Why it is over, for people.
    """

    step: Step
    lease: wire.Lease
    shim: str = ""
    artifact: str = ""
    content_digest: str = ""
    metrics: Metrics = field(default_factory=dict)
    duration_s: float = 0.0
    failure: wire.Fail | None = None
    why: str = ""


class RunFolder:
    """One run's files.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.job = path / "job.json"
        self.out = path / "out"
        self.artifact = self.out / "artifact"
        self.progress = self.out / "progress.jsonl"
        self.result = self.out / "result.json"
        self.scratch = path / "scratch"
        self.report = path / "exit.json"
        self.bundle = path / "bundle.tar.zst"
        self._state = path / "state.json"

    def make(self) -> None:
        """Make the folders of a new run."""
        for folder in (self.path, self.out, self.scratch):
            folder.mkdir(mode=0o700, parents=True)

    def save(self, state: State) -> None:
        """Write the state, whole and synced."""
        write_whole(self._state, json.dumps({"v": 1, **dataclasses.asdict(state)}))

    def load(self) -> State | None:
        """Return the state, None when there is none that can be read."""
        found = read_object(self._state)
        try:
            found.pop("v")
            lease = wire.Lease(**found.pop("lease"))
            failure = found.pop("failure")
            state = State(**found, lease=lease, failure=None if failure is None else wire.Fail(**failure))
        except (KeyError, TypeError):
            return None
        return state if state.step in STEPS else None

    def trainer_result(self) -> dict[str, Any]:
        """Return the trainer's `result.json`, empty when there is none that can be read."""
        return read_object(self.result)

    def has_artifact(self) -> bool:
        """Tell whether the trainer left any file as its artifact."""
        return self.artifact.is_dir() and any(entry.is_file() for entry in self.artifact.rglob("*"))

    def shrink(self) -> None:
        """Drop what a finished run needs no longer, so that a kept folder costs little."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def remove(self) -> None:
        """Delete the folder; what cannot be deleted now is left for the next start."""
        shutil.rmtree(self.path, ignore_errors=True)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, empty when there is none or it is over 1 MiB."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_JSON_BYTES + 1)
        found = json.loads(data) if len(data) <= _MAX_JSON_BYTES else None
    except (OSError, ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def write_whole(path: Path, text: str) -> None:
    """Make a file appear whole or not at all, and last over a power cut."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    with contextlib.suppress(OSError):  # Windows cannot open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
