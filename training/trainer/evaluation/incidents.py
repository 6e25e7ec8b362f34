"""Owns incidents: unbroken stretches of anomalous rows of one host, and how long each took to be noticed.

An incident is the longest run of label 1 among consecutive tested rows of one host. It is found when a window that ends
within it raises an alarm; an alarm before it or after it does not count. The delay runs from its first row to the first
alarm, so 0 means at once. A run that began in rows that were not tested is marked as cut: its true start is not known
to the test, so its delay says little and takes no part in the median.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.trainer.data.telemetry import Ints
from training.trainer.evaluation.scored_windows import Predictions

MAX_LISTED = 2000

Number = int | float


@dataclass(frozen=True, slots=True)
class Incident:
    """One stretch of anomalous rows of one host."""

    host: str
    first_time: Number
    """Time of its first tested row, as in the data."""
    last_time: Number
    """Time of its last tested row, as in the data."""
    rows: int
    """Tested rows in it, 1 or more."""
    cut: bool
    """True when it began in rows that were not tested."""
    found: bool
    """Whether a window that ends within it raised an alarm."""
    delay_rows: int | None
    """Rows from its first tested row to its first alarm, 0 for at once; None when missed."""
    delay_time: Number | None
    """The same in the unit of the time column; None when missed."""
    top_score: float
    """Highest score within it, 0 to 1."""

    def document(self) -> dict[str, Any]:
        """Return the incident for JSON, keys in the order of the fields."""
        return asdict(self)


def incidents_of(predictions: Predictions) -> list[Incident]:
    """Find every incident among the scored windows, in the order of the data."""
    anomalous = np.flatnonzero(predictions.label == 1)
    if not len(anomalous):
        return []
    starts, ends = _runs(predictions, anomalous)
    place = np.where(predictions.alarm[anomalous], np.arange(len(anomalous)), len(anomalous))
    alarms = np.minimum.reduceat(place, starts)
    top = np.maximum.reduceat(predictions.score[anomalous], starts)
    return [
        _incident(predictions, anomalous, (int(start), int(end)), int(alarm), float(score))
        for start, end, alarm, score in zip(starts, ends, alarms, top, strict=True)
    ]


def incident_summary(incidents: Sequence[Incident]) -> dict[str, Any]:
    """Count incidents.

    Returns:
        "count", "found", "missed", "cut" (began in rows that were not tested), "listed" (how many the list keeps),
        "median_delay_rows" of those found whose start was tested, or None, and "hosts" with count and found of each
        host that had any.
    """
    delays = [item.delay_rows for item in incidents if item.delay_rows is not None and not item.cut]
    hosts: dict[str, dict[str, int]] = {}
    for item in incidents:
        entry = hosts.setdefault(item.host, {"count": 0, "found": 0})
        entry["count"] += 1
        entry["found"] += item.found
    found = sum(item.found for item in incidents)
    return {
        "count": len(incidents),
        "found": found,
        "missed": len(incidents) - found,
        "cut": sum(item.cut for item in incidents),
        "listed": min(len(incidents), MAX_LISTED),
        "median_delay_rows": float(np.median(delays)) if delays else None,
        "hosts": hosts,
    }


def _runs(predictions: Predictions, anomalous: Ints) -> tuple[Ints, Ints]:
    """Return where in `anomalous` each run begins and where it has ended."""
    row, host = predictions.row[anomalous], predictions.host[anomalous]
    breaks = np.flatnonzero((np.diff(row) != 1) | (np.diff(host) != 0)) + 1
    return np.concatenate([[0], breaks]), np.concatenate([breaks, [len(anomalous)]])


def _incident(predictions: Predictions, anomalous: Ints, run: tuple[int, int], alarm: int, score: float) -> Incident:
    start, end = run
    first, last = anomalous[start], anomalous[end - 1]
    found = alarm < end
    begun = predictions.time[first].item()
    return Incident(
        host=predictions.hosts[predictions.host[first]],
        first_time=begun,
        last_time=predictions.time[last].item(),
        rows=end - start,
        cut=bool(predictions.continues[first]),
        found=found,
        delay_rows=alarm - start if found else None,
        delay_time=predictions.time[anomalous[alarm]].item() - begun if found else None,
        top_score=score,
    )
