"""Owns the files a run leaves: the artifact folder and `result.json`, each appearing whole.

The artifact holds the model files, `model.json` (what `predict` needs), `metrics.json`, `model_card.md`,
`provenance.json` and `predictions.parquet`. It holds no time, duration, path or process number: the same job on the
same machine with the same threads gives the same bytes.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

from training.dataset import Dataset
from training.trainer.experiment import Outcome, Predictions
from training.trainer.hyper import MODELS
from training.trainer.job import Job
from training.trainer.measures import headline

FORMAT_VERSION = 1
LEAK_WARNING = (
    "The split `random` leaks: rows of one incident stand on both sides. "
    "These numbers are no measure of detection and look far better than any honest split."
)
_LIBRARIES = ("numpy", "pyarrow", "scikit-learn", "lightgbm", "safetensors")
_GIT_LIMIT_S = 10
_TRAINER_PATHS = ("training/trainer", "training/dataset.py")


def write_artifact(out: Path, job: Job, dataset: Dataset, digest: str, outcome: Outcome) -> None:
    """Write `out/artifact`, replacing an older one; it appears whole or not at all.

    Args:
        out: The run folder.
        job: The complete job.
        dataset: The declaration of its dataset.
        digest: Digest of the dataset's content.
        outcome: What the job produced.
    """
    partial = out / "artifact.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    files = outcome.model.save(partial)
    write_json(partial / "model.json", model_description(job, dataset, outcome, files))
    write_json(partial / "metrics.json", metrics_document(job, digest, outcome))
    write_json(partial / "provenance.json", provenance(job, digest, outcome))
    write_whole(partial / "model_card.md", model_card(job, dataset, digest, outcome).encode())
    _write_predictions(partial / "predictions.parquet", outcome.predictions, outcome.folds)
    for path in sorted(partial.iterdir()):
        _sync(path)
    _sync(partial)
    shutil.rmtree(out / "artifact", ignore_errors=True)
    partial.rename(out / "artifact")
    _sync(out)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file whole, keys in the given order, no NaN."""
    write_whole(path, (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it, and rename it."""
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def model_description(job: Job, dataset: Dataset, outcome: Outcome, files: list[str]) -> dict[str, Any]:
    """Return what is needed to score new telemetry with the model."""
    return {
        "v": FORMAT_VERSION,
        "model": job.model,
        "mode": job.mode,
        "files": files,
        "columns": list(dataset.features.columns(job.mode)),
        "categories": dataset.categories_of(job.mode),
        "host_column": dataset.roles.host,
        "time_column": dataset.roles.time,
        "window_rows": dataset.windows.length,
        "history": bool(job.hyper["history"]),
        "features": list(outcome.feature_names),
        "threshold": outcome.threshold,
    }


def metrics_document(job: Job, digest: str, outcome: Outcome) -> dict[str, Any]:
    """Return all numbers of a run with what they depend on."""
    document: dict[str, Any] = {
        "v": FORMAT_VERSION,
        "model": job.model,
        "mode": job.mode,
        "split": job.split_recipe,
        "leaks": outcome.leaks,
        "seed": job.seed,
        "threads": job.threads,
        "device": "cpu",
        "dataset": {"name": job.dataset_name, "digest": digest},
        "headline": headline(outcome.metrics),
    }
    if outcome.leaks:
        document["warning"] = LEAK_WARNING
    return document | outcome.metrics | {"folds": outcome.folds}


def provenance(job: Job, digest: str, outcome: Outcome) -> dict[str, Any]:
    """Return where the model came from: job, data, code, libraries, numeric class and folds."""
    return {
        "v": FORMAT_VERSION,
        "job_id": job.job_id,
        "spec": dict(job.spec),
        "hyper": dict(job.hyper),
        "dataset": {"name": job.dataset_name, "digest": digest},
        "trainer": revision(),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "numeric_class": numeric_class(job.threads),
        "split": {"recipe": job.split_recipe, "leaks": outcome.leaks, "fold_digest": outcome.fold_digest},
    }


def revision() -> dict[str, Any]:
    """Return the trainer's version and, in a git checkout, its commit and whether its files were changed since.

    The commit is the last one that touched the trainer, so that a change elsewhere does not make another artifact.
    """
    root = Path(__file__).resolve().parents[2]
    commit = _git(root, "log", "-1", "--format=%H", "--", *_TRAINER_PATHS) if (root / ".git").exists() else None
    try:
        version = importlib.metadata.version("cis490-training-fleet")
    except importlib.metadata.PackageNotFoundError:
        version = None
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *_TRAINER_PATHS) if commit else None
    return {"version": version, "commit": commit or None, "dirty": None if changed is None else bool(changed)}


def numeric_class(threads: int) -> dict[str, Any]:
    """Return what decides the last bits of a computation: system, processor, threads, linear algebra library."""
    blas = {
        (entry["internal_api"], entry.get("version"), entry.get("architecture"))
        for entry in threadpool_info()
        if entry["user_api"] == "blas"
    }
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "device": "cpu",
        "threads": threads,
        "blas": sorted([str(part) for part in entry] for entry in blas),
    }


def model_card(job: Job, dataset: Dataset, digest: str, outcome: Outcome) -> str:
    """Return the model card as Markdown, for people."""
    lines = [
        f"# {job.model} {job.mode}, split {job.split_recipe}",
        "",
        f"{MODELS[job.model].title}. Trained on `{job.dataset_name}` ({digest}), seed {job.seed}.",
        "",
    ]
    if outcome.leaks:
        lines += [f"> **Warning: leak.** {LEAK_WARNING}", ""]
    lines += ["## Numbers", "", _kept_line(outcome), "", "| measure | value |", "|---|---|"]
    lines += [f"| {name} | {_shown(value)} |" for name, value in headline(outcome.metrics).items()]
    lines += ["", "Means over hosts count hosts with both classes only.", "", "## Per host", ""]
    lines += ["| host | windows | anomalous | AUROC | AUPRC | F1 | TPR at 1 % FPR |", "|---|---|---|---|---|---|---|"]
    lines += [_host_row(host, entry) for host, entry in outcome.metrics["hosts"].items()]
    lines += ["", "## Input and use", "", f"Windows of {dataset.windows.length} rows of one host. Columns:", ""]
    lines += [f"- `{column}` ({dataset.units.get(column, 'no unit given')})" for column in _columns(job, dataset)]
    lines += ["", f"An alarm is a score of at least {outcome.threshold!r}, chosen on validation windows for best F1."]
    lines += ["", "## Hyper-parameters", "", *(f"- `{key}` = {json.dumps(value)}" for key, value in job.hyper.items())]
    return "\n".join(lines) + "\n"


def _columns(job: Job, dataset: Dataset) -> tuple[str, ...]:
    return dataset.features.columns(job.mode)


def _kept_line(outcome: Outcome) -> str:
    if len(outcome.folds) == 1:
        return "The stored model is the one that was scored."
    count = len(outcome.folds) - 1
    return (
        f"Each window was scored by one of {count} fold models that did not see it. "
        "The stored model was trained on all allowed hosts and was not scored itself."
    )


def _host_row(host: str, entry: Mapping[str, Any]) -> str:
    shown = [_shown(entry[key]) for key in ("auroc", "auprc", "f1", "tpr_at_1pct_fpr")]
    return f"| {host} | {entry['windows']} | {entry['anomalous']} | {' | '.join(shown)} |"


def _shown(value: float | None) -> str:
    return "one class only" if value is None else f"{value:.4f}"


def _write_predictions(path: Path, predictions: Predictions, folds: list[dict[str, Any]]) -> None:
    names = [fold["name"] for fold in folds]
    table = pa.table(
        {
            "host": pa.DictionaryArray.from_arrays(predictions.host, list(predictions.hosts)),
            "time": predictions.time,
            "label": predictions.label,
            "score": predictions.score,
            "alarm": predictions.alarm,
            "fold": pa.DictionaryArray.from_arrays(predictions.fold, names),
        }
    )
    pq.write_table(table, path, compression="zstd", compression_level=9, store_schema=False)


def _git(root: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603  (fixed arguments, no shell)
            [git, "-C", str(root), *arguments], capture_output=True, text=True, timeout=_GIT_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _sync(path: Path) -> None:
    """Sync a file or, where the system allows it, a folder."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
