"""Owns the resume folder: what a run leaves so that the next one goes on where this one stopped.

resume/
    key.json               what the checkpoints belong to; other content makes the run begin again
    part-03/               a finished fit: model files, record.json, score.npy
    part-04.safetensors    a fit under way, as its loop saved it

Guarantees: every file or folder appears whole, and a torn or foreign one is dropped, never believed. A checkpoint is
bound to job, data, code, libraries, threads and device, because only then do the same steps give the same bytes. Files
are formats that load without running code.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_tensors

from training.trainer.exchange.job import RESUME_KEY, Job
from training.trainer.exchange.stop import stop_asked, stopped
from training.trainer.files import sync, write_whole

Tensors = dict[str, npt.NDArray[Any]]

_STATE = "state"


def checkpoint_key(job: Job, dataset_digest: str, numeric_class: Mapping[str, Any]) -> str:
    """Return 64 hex digits over everything that decides the bytes of a run.

    Args:
        job: The complete job.
        dataset_digest: Digest of the data's content.
        numeric_class: System, processor, libraries, threads, device.
    """
    parts = {
        "job": [job.model, job.mode, job.split_recipe, job.train_hosts, job.seed, dict(job.hyper)],
        "data": dataset_digest,
        "code": _code_digest(),
        "device": job.device,
        "numeric_class": numeric_class,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _code_digest() -> str:
    """Return the digest of the code that decides what a fit does: all of the trainer, and what it reads data by."""
    training = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for folder in ("contracts", "trainer"):
        for path in sorted((training / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


class Checkpoints:
    """The resume folder of one run.

    Args:
        folder: Where it is; made when missing. None keeps nothing, so a run begins again each time.
        key: From `checkpoint_key`; checkpoints with another key are deleted.
        every_s: Seconds between two checkpoints of a fit under way.
        clock: Monotonic seconds.
    """

    def __init__(
        self, folder: Path | None, key: str, every_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._every_s = every_s
        self._clock = clock
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if _read(folder / RESUME_KEY) != {"key": key}:
                _empty(folder)
                write_whole(folder / RESUME_KEY, json.dumps({"key": key}).encode())

    def fit(self, index: int) -> FitCheckpoint:
        """Return the checkpoint of one fit that may be under way."""
        path = None if self._folder is None else self._folder / f"part-{index:02}.safetensors"
        return FitCheckpoint(path, self._every_s, self._clock)

    def finished(self, index: int) -> tuple[Path, dict[str, Any], npt.NDArray[np.float32]] | None:
        """Return a finished fit: the folder with its model files, its record, its scores; None when there is none."""
        if self._folder is None:
            return None
        part = self._folder / f"part-{index:02}"
        record = _read(part / "record.json")
        try:
            score = np.load(part / "score.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return None if record is None else (part, record, score)

    def finish(
        self,
        index: int,
        save: Callable[[Path], object],
        record: Mapping[str, Any],
        score: npt.NDArray[np.float32],
    ) -> None:
        """Keep a finished fit and drop the checkpoint it had under way."""
        if self._folder is None:
            return
        part = self._folder / f"part-{index:02}"
        partial = part.with_suffix(".partial")
        for stale in (partial, part):
            shutil.rmtree(stale, ignore_errors=True)
        partial.mkdir()
        save(partial)
        np.save(partial / "score.npy", score)
        (partial / "record.json").write_text(json.dumps(record), encoding="utf-8")
        for path in partial.iterdir():
            sync(path)
        sync(partial)
        partial.rename(part)
        sync(self._folder)
        part.with_suffix(".safetensors").unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete everything; the run is done and its artifact is on disk."""
        if self._folder is not None:
            _empty(self._folder)


@dataclass(slots=True)
class FitCheckpoint:
    """The one file of a fit under way: tensors, and a state of plain numbers and lists beside them."""

    path: Path | None
    """None keeps nothing."""
    every_s: float
    clock: Callable[[], float] = time.monotonic
    _saved_s: float | None = None

    def due(self) -> bool:
        """Say whether it is time to save: one interval after the first question, and when the run is asked to stop.

        Raises:
            HostError: It is asked to stop and keeps nothing.
        """
        if stop_asked():
            if self.path is None:
                raise stopped()
            return True
        now_s = self.clock()
        if self._saved_s is None:
            self._saved_s = now_s
        return self.path is not None and now_s - self._saved_s >= self.every_s

    def save(self, tensors: Tensors, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint; a power cut leaves the old one or the new one.

        Raises:
            HostError: The run is asked to stop; the checkpoint is whole.
        """
        if self.path is not None:
            write_whole(self.path, save_tensors(tensors, {_STATE: json.dumps(state)}))
            self._saved_s = self.clock()
            if stop_asked():
                raise stopped()

    def load(self) -> tuple[Tensors, dict[str, Any]] | None:
        """Return what was saved last, None when there is nothing or it is damaged."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="np") as file:
                state = json.loads(file.metadata()[_STATE])
                return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118  (no mapping)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, struct.error):
            self.path.unlink(missing_ok=True)
            return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
