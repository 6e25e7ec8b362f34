"""Scored windows made by hand, and the document of a result, for tests of numbers, card and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training.trainer.data.telemetry import Telemetry
from training.trainer.evaluation.evaluate import evaluated
from training.trainer.evaluation.measures import headline
from training.trainer.evaluation.scored_windows import Predictions, continuing

Host = Sequence[tuple[int, float]]
"""Label and score of each row of one host."""


def scored(hosts: Mapping[str, Host], threshold: float = 0.5, untested: Sequence[int] = ()) -> Predictions:
    """Return the windows of hosts, ten time units a row, as if all rows but some were tested.

    Args:
        hosts: Host name to its rows.
        threshold: Score from which an alarm is raised.
        untested: Rows, counted over all hosts, that were not tested.
    """
    names = tuple(hosts)
    rows = [(index, at, *row) for index, name in enumerate(names) for at, row in enumerate(hosts[name])]
    host, at, label, score = (np.array(part) for part in zip(*rows, strict=True))
    keep = np.setdiff1d(np.arange(len(rows)), untested)
    telemetry = Telemetry(("m",), np.zeros((len(rows), 1), np.float32), names, host, at, label, {})
    return Predictions(
        host=host[keep].astype(np.int32),
        hosts=names,
        row=keep,
        time=at[keep] * 10,
        label=label[keep].astype(np.int8),
        score=score[keep].astype(np.float32),
        alarm=score[keep] >= threshold,
        fold=np.zeros(len(keep), np.int16),
        continues=continuing(telemetry, keep),
    )


FOLD: dict[str, Any] = {
    "name": "fold 1/2",
    "fit": {"rounds": 20, "validation_auprc": 0.5},
    "curve": [
        {"step": 10, "validation_auprc": 0.4, "train_loss": 0.3},
        {"step": 20, "validation_auprc": 0.5, "train_loss": 0.2},
    ],
}


def result_document(predictions: Predictions, **changes: Any) -> dict[str, Any]:
    """Return the content of `metrics.json` for scored windows; keywords replace keys."""
    metrics = evaluated(predictions, 490)
    document: dict[str, Any] = {
        "v": 1,
        "dataset": {"name": "lab", "digest": "sha256:" + "0123456789abcdef" * 4},
        "split": "hosts",
        "fold": 0,
        "seed": 490,
        "threads": 2,
        "device": "cpu",
        "leaks": False,
        "model": "gbt",
        "mode": "oracle",
        "headline": headline(metrics),
    }
    folds = [FOLD, FOLD | {"name": "fold 2/2"}, FOLD | {"name": "final"}]
    return document | metrics | {"folds": folds} | changes
