"""Owns the provenance: where a model came from, as one JSON object.

It names job, data, code, folds and numeric class, and no time, path or process number.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from training.trainer.artifact.numeric_class import installed, numeric_class
from training.trainer.exchange.job import Job
from training.trainer.experiment import Outcome
from training.trainer.hyper import MODELS

FORMAT_VERSION = 1
_GIT_LIMIT_S = 10
_TRAINER_PATHS = ("training/trainer", "training/contracts")


def provenance(job: Job, digest: str, outcome: Outcome) -> dict[str, Any]:
    """Return where the model came from: job, data, code, numeric class, what drew the figures, and folds."""
    flags = getattr(outcome.model, "determinism", {})
    return {
        "v": FORMAT_VERSION,
        "job_id": job.job_id,
        "spec": dict(job.spec),
        "hyper": dict(job.hyper),
        "dataset": {"name": job.dataset_name, "digest": digest},
        "trainer": revision(),
        "numeric_class": numeric_class(job.threads, outcome.device, flags, MODELS[job.model].libraries),
        "figures": {"matplotlib": installed("matplotlib")},
        "split": {
            "recipe": job.split_recipe,
            "fold": int(job.hyper.get("fold", 0)),
            "leaks": outcome.leaks,
            "fold_digest": outcome.fold_digest,
        },
    }


def revision() -> dict[str, Any]:
    """Return the trainer's version and, in a git checkout, its commit and whether its files were changed since.

    The commit is the last one that touched the trainer, so that a change elsewhere does not make another artifact.
    """
    root = Path(__file__).resolve().parents[3]
    commit = _git(root, "log", "-1", "--format=%H", "--", *_TRAINER_PATHS) if (root / ".git").exists() else None
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *_TRAINER_PATHS) if commit else None
    return {
        "version": installed("cis490-training-fleet"),
        "commit": commit or None,
        "dirty": None if changed is None else bool(changed),
    }


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
