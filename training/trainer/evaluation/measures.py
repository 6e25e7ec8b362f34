"""Owns the numbers a result is judged by, pooled and per host.

Scores are compared as given: higher means more anomalous. A host with one class only has no AUROC or AUPRC; it takes no
part in means over hosts and says so with null. Nothing here rounds, and no threshold is chosen on rows that are
reported.

Definitions, for a threshold: recall (true positive rate, TPR) is the part of anomalous windows whose score reaches it,
false positive rate (FPR) the part of normal ones, precision the part of alarms that are anomalous. AUROC is the area
below recall over FPR, 0.5 for a score without skill; AUPRC is the sum of precision times rise of recall, for a score
without skill the part of windows that is anomalous.

Source: AUROC and AUPRC (average precision) as in scikit-learn 1.8; average precision rather than trapezoids, because
straight lines between points of a precision-recall curve are too kind (Davis and Goadrich, ICML 2006).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from training.trainer.evaluation.calibration import brier

FALSE_ALARM_RATE = 0.01
HEADLINES = (
    "auroc",
    "auprc",
    "auroc_host_mean",
    "auprc_host_mean",
    "f1",
    "f1_host_mean",
    "tpr_at_1pct_fpr",
    "brier",
    "incidents_found",
)

Labels = npt.NDArray[np.int8]
Scores = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Hosts = npt.NDArray[np.int32]


def has_both(label: Labels) -> bool:
    """Say whether both classes occur."""
    return bool(label.any()) and not bool(label.all())


def f1(label: Labels, alarm: Mask) -> float:
    """Return the F1 of alarms, 0 to 1; 0 when there is neither an anomaly nor an alarm."""
    hits = int((alarm & (label == 1)).sum())
    total = int(alarm.sum()) + int((label == 1).sum())
    return 2 * hits / total if total else 0.0


def best_threshold(label: Labels, score: Scores) -> float:
    """Return the score at or above which alarms give the best F1; for validation windows only."""
    precision, recall, thresholds = precision_recall_curve(label, score)
    f1s = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return float(thresholds[int(np.argmax(f1s[:-1]))])


def tpr_at(label: Labels, score: Scores, false_alarm_rate: float = FALSE_ALARM_RATE) -> float:
    """Return the largest part of anomalous windows found while at most this part of normal ones raise an alarm."""
    false_alarms, hits, _ = roc_curve(label, score, drop_intermediate=False)
    return float(hits[false_alarms <= false_alarm_rate].max())


def auprc_host_mean(label: Labels, score: Scores, host: Hosts) -> float:
    """Return the mean of AUPRC over the hosts with both classes; the pooled AUPRC when no host has both."""
    found = [average_precision_score(label[host == i], score[host == i]) for i in _mixed_hosts(label, host)]
    return float(np.mean(found)) if found else float(average_precision_score(label, score))


def measured(label: Labels, score: Scores, alarm: Mask, host: Hosts, names: Sequence[str]) -> dict[str, Any]:
    """Measure scored test windows.

    Args:
        label: (n,) 1 anomalous, 0 normal.
        score: (n,) higher is more anomalous.
        alarm: (n,) whether the score reached the threshold of the model that gave it.
        host: (n,) index into `names`.
        names: Host names.

    Returns:
        "pooled" over all windows, "hosts" per host, and "host_mean" over hosts with both classes; rates are 0 to 1, a
        number that does not exist is None.
    """
    per_host = {names[i]: _one(label[host == i], score[host == i], alarm[host == i]) for i in np.unique(host).tolist()}
    mixed = [entry for entry in per_host.values() if entry["auroc"] is not None]
    mean = {
        key: float(np.mean([entry[key] for entry in mixed])) if mixed else None
        for key in ("auroc", "auprc", "f1", "tpr_at_1pct_fpr")
    }
    return {"pooled": _one(label, score, alarm), "host_mean": mean | {"hosts": len(mixed)}, "hosts": per_host}


def headline(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the flat numbers of a result, in the order of `HEADLINES`; all 0 to 1, None for one that does not exist.

    Args:
        metrics: What `evaluation.evaluated` returned.
    """
    flat = {key: metrics["pooled"][key] for key in ("auroc", "auprc", "f1", "tpr_at_1pct_fpr", "brier")}
    flat |= {f"{key}_host_mean": metrics["host_mean"][key] for key in ("auroc", "auprc", "f1")}
    incidents = metrics["incident_summary"]
    flat["incidents_found"] = incidents["found"] / incidents["count"] if incidents["count"] else None
    return {key: flat[key] for key in HEADLINES}


def _one(label: Labels, score: Scores, alarm: Mask) -> dict[str, Any]:
    both = has_both(label)
    return {
        "windows": len(label),
        "anomalous": int(label.sum()),
        "alarms": int(alarm.sum()),
        "false_alarms": int((alarm & (label == 0)).sum()),
        "auroc": float(roc_auc_score(label, score)) if both else None,
        "auprc": float(average_precision_score(label, score)) if both else None,
        "f1": f1(label, alarm),
        "tpr_at_1pct_fpr": tpr_at(label, score) if both else None,
        "brier": brier(label, score),
    }


def _mixed_hosts(label: Labels, host: Hosts) -> list[int]:
    return [i for i in np.unique(host).tolist() if has_both(label[host == i])]
