"""Owns the job description that a worker writes: `job.json`, read and checked, with every fault at once.

Needs the standard library alone. Unknown keys are ignored, so that a newer worker and an older trainer can talk; the
hyper-parameters are checked strictly against the declaration.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.contracts.dataset import MODES, SPLIT_RECIPES
from training.trainer.faults import HostError, SpecError
from training.trainer.hyper import MODELS, Value, completed_hyper

MAX_THREADS = 1024
MAX_SEED = 2**53 - 1
MAX_CHECKPOINT_S = 86400
RESUME_KEY = "key.json"
"""File that marks a folder of checkpoints and says whose they are."""
_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """One training job, complete: every hyper-parameter has a value."""

    job_id: str
    """Identity of the job in hex; empty when the caller gave none."""
    spec: Mapping[str, Any]
    """The specification as it was given; it goes into the provenance unchanged."""
    model: str
    mode: str
    split_recipe: str
    train_hosts: tuple[str, ...]
    """Globs; only rows of matching hosts train, test rows are never limited."""
    seed: int
    """0 to 2^53-1."""
    hyper: Mapping[str, Value]
    """Every declared parameter of the model, defaults filled in."""
    dataset_name: str
    dataset_folder: Path
    dataset_digest: str | None
    """Digest the receiver expects; None when it does not care."""
    threads: int
    """Threads to use, 1 to 1024."""
    device: str
    """"cpu" or "cuda", as offered by the worker; gbt and mlp use the CPU in any case."""
    resume_folder: Path | None = None
    """Folder for checkpoints, which an earlier run of the same job may have filled; None keeps none."""
    checkpoint_s: float = 60.0
    """Seconds between two checkpoints of a fit, 0 to a day."""


def read_job(path: Path) -> Job:
    """Read and check a job description.

    Raises:
        SpecError: The description is wrong; all faults are named.
        HostError: The file can't be read.
    """
    try:
        text = path.read_bytes()
    except OSError as fault:
        raise HostError(f"{path.name} can't be read: {fault.strerror}; write the job description there") from fault
    if len(text) > _LIMIT_BYTES:
        raise SpecError(f"{path.name} is larger than 1 MiB; a job description is a few hundred bytes")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise SpecError(f"{path.name} is not JSON: {fault}") from fault
    return parsed_job(document)


def parsed_job(document: object) -> Job:
    """Check a parsed job description.

    Raises:
        SpecError: It is wrong; all faults are named, with the nearest valid name for a wrong one.
    """
    if not isinstance(document, dict):
        raise SpecError(f"the job description is {type(document).__name__}, expected an object")
    faults: list[str] = []
    if document.get("v") != 1:
        faults.append(f"v: found {document.get('v')!r}, expected 1")
    spec, dataset = _table(document, "spec", faults), _table(document, "dataset", faults)
    choices = {
        "model": _choice(spec, "model", list(MODELS), faults),
        "mode": _choice(spec, "mode", list(MODES), faults),
        "split_recipe": _choice(spec, "split_recipe", list(SPLIT_RECIPES), faults),
        "device": _choice({"device": "cpu"} | document, "device", ["cpu", "cuda"], faults, place=""),
    }
    hyper = _hyper(spec, choices["model"], faults)
    job = Job(
        job_id=document["job_id"] if isinstance(document.get("job_id"), str) else "",
        spec=spec,
        hyper=hyper,
        train_hosts=_globs(spec, faults),
        seed=_whole(spec, "seed", 0, MAX_SEED, None, faults, "spec."),
        dataset_name=_text(dataset, "name", faults),
        dataset_folder=Path(_text(dataset, "path", faults)),
        dataset_digest=dataset.get("digest") if isinstance(dataset.get("digest"), str) else None,
        threads=_whole(document, "threads", 1, MAX_THREADS, 1, faults, ""),
        resume_folder=_folder(document, "resume", faults),
        checkpoint_s=_whole(document, "checkpoint_s", 0, MAX_CHECKPOINT_S, 60, faults, ""),
        **choices,
    )
    if faults:
        raise SpecError("the job is wrong: " + "; ".join(faults))
    return job


def _table(document: Mapping[str, Any], key: str, faults: list[str]) -> dict[str, Any]:
    found = document.get(key)
    if isinstance(found, dict):
        return found
    faults.append(f"{key}: found {found!r}, expected an object")
    return {}


def _choice(table: Mapping[str, Any], key: str, known: Sequence[str], faults: list[str], place: str = "spec.") -> str:
    found = table.get(key)
    if isinstance(found, str) and found in known:
        return found
    near = difflib.get_close_matches(str(found), known, n=1, cutoff=0.5)
    hint = f"; nearest is {near[0]}" if near else ""
    faults.append(f"{place}{key}: found {found!r}, expected one of {', '.join(known)}{hint}")
    return ""


def _hyper(spec: Mapping[str, Any], model: str, faults: list[str]) -> dict[str, Value]:
    given = spec.get("hyper", {})
    if not isinstance(given, dict):
        faults.append(f"spec.hyper: found {given!r}, expected an object")
        return {}
    if not model:
        return {}
    values, wrong = completed_hyper(model, given)
    faults += [f"spec.{line}" for line in wrong]
    return values


def _globs(spec: Mapping[str, Any], faults: list[str]) -> tuple[str, ...]:
    found = spec.get("train_hosts", ["*"])
    if isinstance(found, list) and found and all(isinstance(item, str) and item for item in found):
        return tuple(found)
    faults.append(f'spec.train_hosts: found {found!r}, expected a list of host names or globs such as ["*"]')
    return ()


def _text(table: Mapping[str, Any], key: str, faults: list[str]) -> str:
    found = table.get(key)
    if isinstance(found, str) and found:
        return found
    if table:
        faults.append(f"dataset.{key}: found {found!r}, expected text that is not empty")
    return ""


def _folder(document: Mapping[str, Any], key: str, faults: list[str]) -> Path | None:
    found = document.get(key)
    if found is None or (isinstance(found, str) and found):
        return None if found is None else Path(found)
    faults.append(f"{key}: found {found!r}, expected the path of a folder, or null")
    return None


def _whole(
    table: Mapping[str, Any], key: str, low: int, high: int, default: int | None, faults: list[str], place: str
) -> int:
    found = table.get(key, default)
    if isinstance(found, (int, float)) and not isinstance(found, bool) and low <= found <= high and found == int(found):
        return int(found)
    faults.append(f"{place}{key}: found {found!r}, expected a whole number from {low} to {high}")
    return low
