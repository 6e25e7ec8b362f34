"""Owns one training job from data to numbers: the folds of the split, then the model that is kept.

A job trains every fold or the one that it names. A fit that an earlier run of the job finished is taken from its
checkpoint.

Each window that is tested is scored by a model that saw neither it nor, for the splits that promise it, its host. A
split with one fold keeps that fold's model: the one whose scores are reported. A split with several folds keeps one
more model, trained on all allowed hosts; the reported scores are those of the fold models, each on hosts that it never
saw, because the model that is kept has no unseen host left to be tested on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.contracts.dataset import Dataset
from training.trainer.data.splits import LEAKING_RECIPES, Fold, final_fold, fold_digest, folds_of
from training.trainer.data.telemetry import Floats, Ints, Telemetry, read_telemetry
from training.trainer.data.windows import Samples, Sequences, WindowSet, input_names, model_inputs, window_set
from training.trainer.evaluation.evaluate import evaluated
from training.trainer.evaluation.measures import best_threshold, has_both
from training.trainer.evaluation.scored_windows import Predictions, continuing
from training.trainer.exchange.checkpoint import Checkpoints
from training.trainer.exchange.job import Job
from training.trainer.exchange.progress import Progress
from training.trainer.faults import SpecError
from training.trainer.hyper import MODELS
from training.trainer.models import Fitted, InputShape, Setting, model_module

MAX_TRAIN_WINDOWS = 100_000
"""Training windows of a model on statistics, unless `train_stride` is given: neighbouring windows share most rows, so
every n-th says nearly as much as all."""
SCORE_ROWS = 65_536
"""Windows scored at a time."""
_READ_PART = 0.05
"""Part of the progress that reading takes; the fits share the rest."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job produced."""

    model: Fitted
    """The model that is kept."""
    threshold: float
    """Score from which the kept model raises an alarm; chosen on its own validation windows."""
    validation_alarm_rate: float | None
    """Part of those windows that raise an alarm, 0 to 1; None where an older trainer finished the fit."""
    feature_names: tuple[str, ...]
    """Names of the features or channels that the model sees."""
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
    """One fold's model, its line in the record, and its scores of the windows that the fold tests."""

    model: Fitted
    record: dict[str, Any]
    score: Floats


@dataclass(frozen=True, slots=True)
class _Bench:
    """What all fits of a job share."""

    job: Job
    windows: WindowSet
    inputs: Floats | Sequences
    names: tuple[str, ...]
    progress: Progress
    checkpoints: Checkpoints


def run_experiment(
    job: Job, dataset: Dataset, progress: Progress, checkpoints: Checkpoints, *, keep: bool = True
) -> Outcome:
    """Train and test a job.

    Args:
        job: The complete job.
        dataset: The declaration of its dataset.
        progress: Where the steps go.
        checkpoints: What an earlier run of the job finished, and where this one leaves what it finishes.
        keep: Whether a split with several folds also gets the model that is kept; no reported number depends on it.

    Raises:
        SpecError: The data or the split don't allow the job.
        HostError: The data can't be read here.
    """
    progress.phase("reading", 0.0, _READ_PART)
    telemetry = read_telemetry(dataset, job.mode, job.split_recipe)
    windows = window_set(telemetry, dataset.windows.length)
    folds = _wanted(job, folds_of(windows, dataset, job.split_recipe, job.train_hosts, job.seed))
    extra = [final_fold(windows, job.train_hosts, job.seed)] if keep and len(folds) > 1 else []
    kind, history = MODELS[job.model].inputs, bool(job.hyper["history"])
    names = tuple(input_names(kind, telemetry.columns, history))
    bench = _Bench(job, windows, model_inputs(kind, windows, history), names, progress, checkpoints)
    count = len(folds) + len(extra)
    trials = [_trial(bench, index, fold, _share(index, count)) for index, fold in enumerate([*folds, *extra])]
    predictions = _predictions(telemetry, windows, folds, trials)
    return Outcome(
        model=trials[-1].model,
        threshold=trials[-1].record["threshold"],
        validation_alarm_rate=_alarm_rate(trials[-1].record),
        device=job.device if kind == "sequences" else "cpu",
        feature_names=names,
        metrics=evaluated(predictions, job.seed),
        folds=[trial.record for trial in trials],
        fold_digest=fold_digest(windows, [*folds, *extra]),
        predictions=predictions,
        leaks=job.split_recipe in LEAKING_RECIPES,
    )


def _alarm_rate(record: Mapping[str, Any]) -> float | None:
    alarms = record.get("validation_alarms")
    return None if alarms is None else alarms / record["validation_windows"]


def _wanted(job: Job, folds: list[Fold]) -> list[Fold]:
    """Return the folds that a job trains: all, or the one it names."""
    number = int(job.hyper["fold"])
    if number > len(folds):
        raise SpecError(
            f"hyper.fold is {number}, but split {job.split_recipe} of this dataset has {len(folds)} folds; "
            f"name one from 1 to {len(folds)}, or 0 for all"
        )
    return folds if number == 0 else [folds[number - 1]]


def _share(index: int, count: int) -> tuple[float, float]:
    """Return which part of the job a fit takes, as begin and end from 0 to 1."""
    part = (1 - _READ_PART) / count
    return _READ_PART + index * part, _READ_PART + (index + 1) * part


def _trial(bench: _Bench, index: int, fold: Fold, share: tuple[float, float]) -> _Trial:
    """Return a fit that an earlier run finished, or fit, score and keep it."""
    leaks = bench.job.split_recipe in LEAKING_RECIPES
    bench.progress.phase(f"{fold.name} (leaks)" if leaks else fold.name, *share)
    found = bench.checkpoints.finished(index)
    if found is not None:
        folder, record, score = found
        shape = InputShape(bench.job.model, len(bench.names), bench.windows.length)
        return _Trial(model_module(bench.job.model).load(folder, shape), record, score)
    trial = _tried(bench, index, fold)
    bench.checkpoints.finish(index, trial.model.save, trial.record, trial.score)
    return trial


def _tried(bench: _Bench, index: int, fold: Fold) -> _Trial:
    """Fit one fold's model, choose its threshold on the fold's validation windows, and score those it tests."""
    job, windows = bench.job, bench.windows
    strides = _strides(job, fold)
    train, validation = (
        Samples(bench.inputs[part[::stride]], windows.label[part[::stride]], windows.host[part[::stride]])
        for part, stride in zip((fold.train, fold.validation), strides, strict=True)
    )
    for side, samples, stride in zip(("training", "validation"), (train, validation), strides, strict=True):
        if not has_both(samples.label):
            raise SpecError(
                f"{fold.name}: every {stride}-th window leaves one class on the {side} side; "
                "use a smaller train_stride or more epoch_windows"
            )
    checkpoint, report = bench.checkpoints.fit(index), bench.progress.report
    setting = Setting(job.hyper, bench.names, job.seed, job.threads, job.device, checkpoint, report)
    model = model_module(job.model).fit(train, validation, setting)
    score = model.score(validation.inputs)
    threshold = best_threshold(validation.label, score)
    record = {
        "name": fold.name,
        "train_windows": len(train),
        "validation_windows": len(validation),
        "test_windows": len(fold.test),
        "train_stride": strides[0],
        "validation_stride": strides[1],
        "validation_hosts": _names(windows, fold.validation),
        "test_hosts": _names(windows, fold.test),
        "threshold": threshold,
        "validation_alarms": int((score >= threshold).sum()),
        "fit": dict(model.fit_summary),
        "curve": [dict(point) for point in model.curve],
    }
    return _Trial(model, record, _scored(model, bench.inputs, fold.test))


def _strides(job: Job, fold: Fold) -> tuple[int, int]:
    """Return which of the windows train and which are looked at while training: every n-th."""
    if MODELS[job.model].inputs == "sequences":
        return 1, max(1, math.ceil(len(fold.validation) / int(job.hyper["epoch_windows"])))
    stride = int(job.hyper["train_stride"]) or max(1, math.ceil(len(fold.train) / MAX_TRAIN_WINDOWS))
    return stride, stride


def _names(windows: WindowSet, part: Ints) -> list[str]:
    return [windows.telemetry.hosts[index] for index in np.unique(windows.host[part])]


def _scored(model: Fitted, inputs: Floats | Sequences, part: Ints) -> Floats:
    """Score windows in chunks, so that no second copy of a whole side is made."""
    chunks = [model.score(inputs[part[first : first + SCORE_ROWS]]) for first in range(0, len(part), SCORE_ROWS)]
    return np.concatenate(chunks) if chunks else np.empty(0, np.float32)


def _predictions(
    telemetry: Telemetry, windows: WindowSet, folds: Sequence[Fold], trials: Sequence[_Trial]
) -> Predictions:
    score = np.full(len(windows.ends), np.nan, np.float32)
    fold_of = np.full(len(windows.ends), -1, np.int16)
    threshold = np.full(len(windows.ends), np.inf)
    for index, fold in enumerate(folds):
        fold_of[fold.test] = index
        score[fold.test] = trials[index].score
        threshold[fold.test] = trials[index].record["threshold"]
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
