"""Owns the intervals of means over hosts: how far a mean would move with other hosts of the same kind.

Hosts are drawn with replacement, as many as there are, and the interval runs from the 2.5th to the 97.5th percentile
of the means. It covers the variation between hosts and nothing else: not the variation of training (other seeds), not
the choice of hosts for validation, not another site. With few hosts it is rather too narrow.

Source: percentile intervals, Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

DRAWS = 2000
LEVEL = 0.95
MIN_HOSTS = 3
MEASURES = ("auroc", "auprc", "f1")
_SEED = 1993


def host_intervals(hosts: Iterable[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Compute the intervals of the host means.

    Args:
        hosts: The numbers of each host, as `measures.measured` gives them; hosts with one class take no part.
        seed: Seed of the job; the same seed gives the same intervals.

    Returns:
        "level", "draws", "hosts" (how many took part) and per measure, such as "auroc_host_mean", the two ends of its
        interval, or None with fewer than three hosts.
    """
    values = np.array([[entry[key] for key in MEASURES] for entry in hosts if entry["auroc"] is not None], np.float64)
    count = len(values)
    ends: list[Any] = [None] * len(MEASURES)
    if count >= MIN_HOSTS:
        ends = _percentiles(values, np.random.default_rng([_SEED, seed])).tolist()
    named = {f"{key}_host_mean": end for key, end in zip(MEASURES, ends, strict=True)}
    return {"level": LEVEL, "draws": DRAWS, "hosts": count} | named


def _percentiles(values: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return (n_measures, 2) float64, low and high end, of values (n_hosts, n_measures)."""
    count = len(values)
    drawn = random.multinomial(count, np.full(count, 1 / count), size=DRAWS)
    middle = values.mean(axis=0)
    # Drawn around the mean, so that equal hosts give exactly that mean.
    means = middle + drawn @ (values - middle) / count
    tail = (1 - LEVEL) / 2
    ends: np.ndarray[Any, Any] = np.quantile(means, [tail, 1 - tail], axis=0).T
    return ends
