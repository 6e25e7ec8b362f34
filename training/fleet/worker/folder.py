"""The folder of one run: what stands where, and the state that survives the worker.

runs/<job>-<fence>/
    state.json      how far the run is; written whole before the step that depends on it
    job.json        what the trainer is asked for
    out/            what the trainer writes: artifact/, progress.jsonl, result.json
    scratch/        where it starts and keeps temporary files
    exit.json       how it ended, written by the shim
    log.*           what it printed, bounded
    bundle.tar.zst  the packed artifact

A folder appears whole, with its first state, and is renamed before it is deleted; so a name that ends in `.new` or
`.gone` is one that a worker was killed over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from training.fleet import system
from training.fleet.files import sync_folder, write_whole
from training.fleet.wire.limits import Metrics
from training.fleet.wire.read import MismatchError, message
from training.fleet.wire.worker import Fail, Lease
from training.fleet.worker.files import delete_tree, has_files, open_regular
from training.fleet.worker.verdict import Failure

Step = Literal["claimed", "training", "packed", "failed", "over"]
STEPS: Final = ("claimed", "training", "packed", "failed", "over")
_MAX_JSON_BYTES = 2**20
_MAX_STATE_BYTES = 2**24
_UNFINISHED = (".new", ".gone")


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a run is.

    Attributes:
        step: `claimed` nothing started; `training` the shim was started; `packed` the bundle waits for its upload;
            `failed` the failure waits to be reported; `over` nobody waits for it, the folder is only kept for a day.
        lease: The lease, as it was granted.
        claim_id: The question it was the answer to, empty when unknown.
        shim: Identity of the shim's process, empty before it runs.
        stopped: Why the worker stopped the trainer, None when it did not.
        artifact: Digest of the bundle, empty before it is packed.
        content_digest: Digest of the uncompressed tar, empty before it is packed.
        metrics: Headline figures of the result.
        duration_s: Seconds the trainer ran.
        failure: The report that waits, None without one.
        why: Why it is over, for people.
        cancelled: Whether it failed because the operator cancelled the job.
    """

    step: Step
    lease: Lease
    claim_id: str = ""
    shim: str = ""
    stopped: Failure | None = None
    artifact: str = ""
    content_digest: str = ""
    metrics: Metrics = field(default_factory=dict)
    duration_s: float = 0.0
    failure: Fail | None = None
    why: str = ""
    cancelled: bool = False


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

    def make(self, state: RunState) -> None:
        """Make the folder of a new run, whole and with its state; when that fails nothing is left of it."""
        new = RunFolder(self.path.with_name(self.path.name + ".new"))
        new.remove()
        try:
            for folder in (new.path, new.out, new.scratch):
                folder.mkdir(mode=0o700, parents=True)
            new.save(state)
            system.replace(new.path, self.path)
            sync_folder(self.path.parent)
        except OSError:
            new.remove()
            self.remove()
            raise

    def save(self, state: RunState) -> None:
        """Write the state, whole and synced."""
        write_whole(self._state, json.dumps({"v": 1, **dataclasses.asdict(state)}).encode())

    def load(self) -> RunState | None:
        """Return the state, None when there is none or it cannot be read."""
        try:
            state = message(RunState, read_object(self._state, _MAX_STATE_BYTES))
        except MismatchError:
            return None
        return state if state.step in STEPS else None

    def trainer_result(self) -> dict[str, Any]:
        """Return the trainer's `result.json`, empty when there is none or it cannot be read."""
        return read_object(self.result)

    def has_artifact(self) -> bool:
        """Tell whether the trainer left anything as its artifact."""
        return has_files(self.artifact)

    def shrink(self) -> None:
        """Drop what a finished run needs no longer, so that a kept folder costs little."""
        delete_tree(self.scratch)

    def make_room(self) -> None:
        """Drop all that a trainer wrote but its log."""
        for folder in (self.scratch, self.out):
            delete_tree(folder)
        for part in self.path.glob("bundle.*"):
            with contextlib.suppress(OSError):
                part.unlink()

    def remove(self) -> None:
        """Delete the folder; what cannot be deleted now is left for the next start."""
        gone = self.path
        if not unfinished(gone):
            gone = self.path.with_name(self.path.name + ".gone")
            with contextlib.suppress(OSError):
                system.replace(self.path, gone)
        delete_tree(gone)


def unfinished(path: Path) -> bool:
    """Tell whether a worker was killed while it made or deleted this run's folder."""
    return path.name.endswith(_UNFINISHED)


def read_object(path: Path, max_bytes: int = _MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file, empty when there is none or it is over the limit."""
    try:
        with open_regular(path) as stream:
            data = stream.read(max_bytes + 1)
        found = json.loads(data) if len(data) <= max_bytes else None
    except (OSError, ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}
