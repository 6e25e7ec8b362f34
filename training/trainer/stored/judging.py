"""Owns judging a stored model on labelled data that it was not tested on: the card's numbers on another dataset.

The dataset folder says which columns are host, time and label; the model says which metrics it needs. Every full window
of every host is scored. The threshold is the model's, so nothing is chosen on the data that are reported.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from training.contracts.dataset import Dataset
from training.contracts.dataset_folder import dataset_digest, read_dataset
from training.trainer.data.telemetry import Columns, Telemetry, read_rows
from training.trainer.data.windows import model_inputs
from training.trainer.evaluation.evaluate import evaluated
from training.trainer.evaluation.measures import headline
from training.trainer.evaluation.scored_windows import Predictions, continuing
from training.trainer.faults import SpecError
from training.trainer.hyper import MODELS
from training.trainer.models import Fitted
from training.trainer.stored.model_files import Description
from training.trainer.stored.scoring import host_windows, load_bundle, scores

FORMAT_VERSION = 1
_SEED = 0
"""Seed of the draws behind the intervals, so that the same data give the same text."""


def judged(bundle: Path, folder: Path, threshold: float | None) -> tuple[dict[str, Any], Dataset]:
    """Score a labelled dataset with a stored model and return all numbers, with the declaration of the data.

    Args:
        bundle: A `bundle.tar.zst` or an artifact folder.
        folder: A dataset folder.
        threshold: Score from which an alarm is raised; None takes the model's.

    Raises:
        SpecError: Bundle or data are wrong.
        HostError: A file or a library is missing here.
        DatasetError: The declaration is wrong.
    """
    dataset = read_dataset(folder)
    with tempfile.TemporaryDirectory() as temporary:
        model, description = load_bundle(bundle, Path(temporary))
    roles = dataset.roles
    wanted = Columns(description.columns, roles.host, roles.time, roles.label, categories=description.categories)
    telemetry = read_rows(dataset.data_path, wanted)
    limit = description.threshold if threshold is None else threshold
    metrics = evaluated(_predictions(model, description, telemetry, limit), _SEED)
    digest = dataset_digest(folder)
    about = {
        "v": FORMAT_VERSION,
        "model": description.model,
        "mode": description.mode,
        "dataset": {"name": dataset.name, "digest": digest},
        "trained_on_it": digest == description.dataset_digest,
        "window_rows": description.window_rows,
        "threshold": limit,
        "headline": headline(metrics),
    }
    return about | metrics, dataset


def _predictions(model: Fitted, description: Description, telemetry: Telemetry, threshold: float) -> Predictions:
    kind, found = MODELS[description.model].inputs, []
    for _, windows in host_windows(description, telemetry):
        found.append(scores(model, description, model_inputs(kind, windows, description.history)))
    if not found:
        raise SpecError("no host has enough rows for one window; give longer telemetry")
    score = np.concatenate(found)
    ends = [np.arange(first + description.window_rows - 1, end) for _, first, end in telemetry.spans()]
    rows = np.concatenate(ends).astype(np.int64)
    return Predictions(
        host=telemetry.host[rows],
        hosts=telemetry.hosts,
        row=rows,
        time=telemetry.time[rows],
        label=telemetry.label[rows],
        score=score,
        alarm=score >= threshold,
        fold=np.zeros(len(rows), np.int16),
        continues=continuing(telemetry, rows),
    )
