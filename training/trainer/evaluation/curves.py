"""Owns the points of precision-recall and ROC curves, thinned for drawing; no number is computed from them.

Points are picked, never averaged: each drawn point is one that a threshold really gives.
"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from training.trainer.data.telemetry import Ints
from training.trainer.data.windows import Doubles
from training.trainer.evaluation.measures import Labels, Scores


def precision_recall(label: Labels, score: Scores, limit: int) -> tuple[Doubles, Doubles]:
    """Return (m,) recall, rising, and (m,) precision, both 0 to 1, with m at most `limit`; both classes must occur."""
    precision, recall, _ = precision_recall_curve(label, score)
    index = thinned(recall[::-1], limit)
    return recall[::-1][index], precision[::-1][index]


def receiver_operating(label: Labels, score: Scores, limit: int) -> tuple[Doubles, Doubles]:
    """Return (m,) false positive and (m,) true positive rate, both rising from 0 to 1, with m at most `limit`."""
    false_alarms, hits, _ = roc_curve(label, score)
    index = thinned(false_alarms + hits, limit)
    return false_alarms[index], hits[index]


def thinned(along: Doubles, limit: int) -> Ints:
    """Pick points evenly spaced along a rising coordinate, always with the first and the last.

    Args:
        along: (n,) float64, never falling.
        limit: Most points to pick, at least 2.

    Returns:
        (m,) int64 indices, rising, without repeats, m at most `limit`; all of them when n is within the limit.
    """
    if len(along) <= limit:
        return np.arange(len(along))
    places = np.searchsorted(along, np.linspace(along[0], along[-1], limit))
    places[0], places[-1] = 0, len(along) - 1
    return np.unique(places)
