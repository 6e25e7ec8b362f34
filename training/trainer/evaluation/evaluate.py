"""Owns the evaluation of a run: every number that is reported, computed once from the scored windows.

Nothing is chosen here: thresholds came with the alarms, from validation windows. Each number is defined in the module
that computes it: `measures`, `bootstrap`, `calibration`, `incidents`.
"""

from __future__ import annotations

from typing import Any

from training.trainer.evaluation.calibration import reliability
from training.trainer.evaluation.incidents import MAX_LISTED, incident_summary, incidents_of
from training.trainer.evaluation.intervals import host_intervals
from training.trainer.evaluation.measures import measured
from training.trainer.evaluation.scored_windows import Predictions


def evaluated(predictions: Predictions, seed: int) -> dict[str, Any]:
    """Evaluate scored test windows.

    Args:
        predictions: The scored windows.
        seed: Seed of the job; decides the draws of the intervals.

    Returns:
        "pooled", "host_mean" and "hosts" as `measures.measured` gives them, "intervals" of the host means,
        "reliability" (ten bins, pooled), "incident_summary" and "incidents" (at most 2,000 of them).
    """
    metrics = measured(predictions.label, predictions.score, predictions.alarm, predictions.host, predictions.hosts)
    incidents = incidents_of(predictions)
    return {
        "pooled": metrics["pooled"],
        "host_mean": metrics["host_mean"],
        "intervals": host_intervals(metrics["hosts"].values(), seed),
        "hosts": metrics["hosts"],
        "reliability": reliability(predictions.label, predictions.score),
        "incident_summary": incident_summary(incidents),
        "incidents": [item.document() for item in incidents[:MAX_LISTED]],
    }
