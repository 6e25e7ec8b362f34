"""Owns calibration: whether a score of 0.3 means that 3 of 10 such windows are anomalous.

Source: the Brier score, Brier, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 78,
1950; the reliability curve as in Niculescu-Mizil and Caruana, Predicting Good Probabilities with Supervised Learning,
ICML 2005.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 10

Labels = npt.NDArray[np.int8]
Scores = npt.NDArray[np.float32]


def brier(label: Labels, score: Scores) -> float:
    """Return the mean squared difference of score and label, 0 to 1, lower is better.

    A constant score of p, where p is the part of anomalous windows, gets p * (1 - p).
    """
    return float(np.mean((score.astype(np.float64) - label) ** 2))


def reliability(label: Labels, score: Scores) -> list[dict[str, Any]]:
    """Return how often windows are anomalous, per tenth of the score.

    Args:
        label: (n,) 1 anomalous, 0 normal.
        score: (n,) 0 to 1.

    Returns:
        Ten bins of equal width with "low" (part of the bin) and "high" (not part of it, except 1 in the last one),
        "windows", "mean_score" and "anomalous_rate", both 0 to 1 and None for an empty bin.
    """
    bins = np.clip((score.astype(np.float64) * BINS).astype(np.int64), 0, BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    scores = np.bincount(bins, weights=score, minlength=BINS) / np.maximum(count, 1)
    rates = np.bincount(bins, weights=label, minlength=BINS) / np.maximum(count, 1)
    return [
        {
            "low": index / BINS,
            "high": (index + 1) / BINS,
            "windows": int(count[index]),
            "mean_score": float(scores[index]) if count[index] else None,
            "anomalous_rate": float(rates[index]) if count[index] else None,
        }
        for index in range(BINS)
    ]
