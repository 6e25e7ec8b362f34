"""Owns one training job from data to numbers: every fold of the split, then the model that is kept.

Each window that is tested is scored by a model that saw neither it nor, for the splits that promise it, its host. A
split with one fold keeps that fold's model: the one whose scores are reported. A split with several folds keeps one
more model, trained on all allowed hosts; the reported scores are those of the fold models and say how such a model does
on hosts it never saw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.dataset import Dataset
from training.trainer.data import Floats, Ints, Telemetry, read_telemetry
from training.trainer.evaluation import evaluated
from training.trainer.faults import SpecError
from training.trainer.job import Job
from training.trainer.measures import best_threshold, has_both
from training.trainer.models import Fitted, Setting, model_module
from training.trainer.predictions import Predictions, continuing
from training.trainer.progress import Progress
from training.trainer.splits import LEAKING_RECIPES, Fold, final_fold, fold_digest, folds_of
from training.trainer.windows import Samples, WindowSet, feature_matrix, feature_names, window_set

MAX_TRAIN_WINDOWS = 100_000
SCORE_ROWS = 65_536
_READ_PART = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job produced."""

    model: Fitted
    """The model that is kept."""
    threshold: float
    """Score from which the kept model raises an alarm; chosen on its own validation windows."""
    feature_names: tuple[str, ...]
    metrics: dict[str, Any]
    """Every number about the tested windows, as `evaluation.evaluated` returns them."""
    folds: list[dict[str, Any]]
    """Per fold: name, windows per side, threshold, how the fit ended and its learning curve; the kept model's last when
    it has its own."""
    fold_digest: str
    predictions: Predictions
    leaks: bool
    """True when the split lets test rows leak into training by its nature."""
    device: str
    """What trained and scored the models: "cpu" or "cuda"."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """One fold's model, its threshold, and its line in the record."""

    model: Fitted
    threshold: float
    record: dict[str, Any]


def run_experiment(job: Job, dataset: Dataset, progress: Progress) -> Outcome:
    """Train and test a job.

    Args:
        job: The complete job.
        dataset: The declaration of its dataset.
        progress: Where the steps go.

    Raises:
        SpecError: The data or the split don't allow the job.
        HostError: The data can't be read here.
    """
    progress.phase("reading", 0.0, _READ_PART)
    telemetry = read_telemetry(dataset, job.mode, job.split_recipe)
    windows = window_set(telemetry, dataset.windows.length)
    folds = folds_of(windows, dataset, job.split_recipe, job.train_hosts, job.seed)
    extra = [final_fold(windows, job.train_hosts, job.seed)] if len(folds) > 1 else []
    history = bool(job.hyper["history"])
    features = feature_matrix(windows, history)
    names = tuple(feature_names(telemetry.columns, history))
    trials: list[_Trial] = []
    score = np.full(len(windows.ends), np.nan, np.float32)
    for index, fold in enumerate([*folds, *extra]):
        trials.append(_tried(job, windows, features, names, fold, progress, _share(index, len(folds) + len(extra))))
        score[fold.test] = _scored(trials[-1].model, features, fold.test)
    predictions = _predictions(telemetry, windows, folds, trials, score)
    kept = trials[-1]
    return Outcome(
        model=kept.model,
        threshold=kept.threshold,
        feature_names=names,
        metrics=evaluated(predictions, job.seed),
        folds=[trial.record for trial in trials],
        fold_digest=fold_digest(windows, [*folds, *extra]),
        predictions=predictions,
        leaks=job.split_recipe in LEAKING_RECIPES,
        device="cpu",
    )


def _share(index: int, count: int) -> tuple[float, float]:
    """Return which part of the job a fit takes, as begin and end from 0 to 1."""
    part = (1 - _READ_PART) / count
    return _READ_PART + index * part, _READ_PART + (index + 1) * part


def _tried(
    job: Job,
    windows: WindowSet,
    features: Floats,
    names: Sequence[str],
    fold: Fold,
    progress: Progress,
    share: tuple[float, float],
) -> _Trial:
    """Fit one fold's model and choose its threshold on the fold's validation windows."""
    progress.phase(f"{fold.name} (leaks)" if job.split_recipe in LEAKING_RECIPES else fold.name, *share)
    stride = int(job.hyper["train_stride"]) or max(1, math.ceil(len(fold.train) / MAX_TRAIN_WINDOWS))
    train, validation = (_samples(windows, features, part[::stride]) for part in (fold.train, fold.validation))
    for side, samples in (("training", train), ("validation", validation)):
        if not has_both(samples.label):
            raise SpecError(
                f"{fold.name}: train_stride {stride} leaves one class on the {side} side; use a smaller one"
            )
    setting = Setting(job.hyper, tuple(names), job.seed, job.threads, progress.report)
    model = model_module(job.model).fit(train, validation, setting)
    threshold = best_threshold(validation.label, model.score(validation.features))
    record = {
        "name": fold.name,
        "train_windows": len(train),
        "validation_windows": len(validation),
        "test_windows": len(fold.test),
        "train_stride": stride,
        "validation_hosts": _names(windows, fold.validation),
        "test_hosts": _names(windows, fold.test),
        "threshold": threshold,
        "fit": dict(model.fit_summary),
        "curve": [dict(point) for point in model.curve],
    }
    return _Trial(model, threshold, record)


def _samples(windows: WindowSet, features: Floats, part: Ints) -> Samples:
    return Samples(features[part], windows.label[part], windows.host[part])


def _names(windows: WindowSet, part: Ints) -> list[str]:
    return [windows.telemetry.hosts[index] for index in np.unique(windows.host[part])]


def _scored(model: Fitted, features: Floats, part: Ints) -> Floats:
    """Score windows in chunks, so that no second copy of a whole side is made."""
    chunks = [model.score(features[part[first : first + SCORE_ROWS]]) for first in range(0, len(part), SCORE_ROWS)]
    return np.concatenate(chunks) if chunks else np.empty(0, np.float32)


def _predictions(
    telemetry: Telemetry, windows: WindowSet, folds: Sequence[Fold], trials: Sequence[_Trial], score: Floats
) -> Predictions:
    fold_of = np.full(len(windows.ends), -1, np.int16)
    threshold = np.full(len(windows.ends), np.inf)
    for index, fold in enumerate(folds):
        fold_of[fold.test] = index
        threshold[fold.test] = trials[index].threshold
    tested = np.flatnonzero(fold_of >= 0)
    rows = windows.ends[tested]
    return Predictions(
        host=telemetry.host[rows],
        hosts=telemetry.hosts,
        row=rows,
        time=telemetry.time[rows],
        label=telemetry.label[rows],
        score=score[tested],
        alarm=score[tested] >= threshold[tested],
        fold=fold_of[tested],
        continues=continuing(telemetry, rows),
    )
