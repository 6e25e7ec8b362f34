"""Claims about calibration, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.trainer.evaluation.calibration import brier, reliability


def test_the_brier_score_is_the_mean_squared_difference() -> None:
    label, score = np.array([1, 0, 1, 0], np.int8), np.array([0.5, 0.5, 1.0, 0.25], np.float32)
    assert brier(label, score) == (0.25 + 0.25 + 0 + 0.0625) / 4
    assert brier(label, label.astype(np.float32)) == 0.0
    assert brier(label, 1 - label.astype(np.float32)) == 1.0


def test_the_reliability_curve_has_ten_bins_with_count_mean_score_and_rate() -> None:
    label = np.array([0, 0, 0, 1, 1, 0, 1], np.int8)
    score = np.array([0.0, 0.05, 0.0625, 0.0625, 0.5, 0.5625, 1.0], np.float32)
    bins = reliability(label, score)
    assert [(entry["low"], entry["high"]) for entry in bins] == [
        (0.0, 0.1),
        (0.1, 0.2),
        (0.2, 0.3),
        (0.3, 0.4),
        (0.4, 0.5),
        (0.5, 0.6),
        (0.6, 0.7),
        (0.7, 0.8),
        (0.8, 0.9),
        (0.9, 1.0),
    ]
    assert [entry["windows"] for entry in bins] == [4, 0, 0, 0, 0, 2, 0, 0, 0, 1]
    assert bins[0]["mean_score"] == pytest.approx(0.04375)
    assert bins[0]["anomalous_rate"] == 0.25
    assert (bins[5]["mean_score"], bins[5]["anomalous_rate"]) == (0.53125, 0.5)
    assert (bins[9]["mean_score"], bins[9]["anomalous_rate"]) == (1.0, 1.0)
    assert (bins[1]["mean_score"], bins[1]["anomalous_rate"]) == (None, None)
