"""Claims about the numbers a result is judged by, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.trainer.evaluation.measures import (
    HEADLINES,
    auprc_host_mean,
    best_threshold,
    f1,
    headline,
    measured,
    tpr_at,
)

LABEL = np.array([1, 0, 1, 0], np.int8)
SCORE = np.array([0.9, 0.8, 0.7, 0.1], np.float32)


def test_pooled_numbers_match_those_worked_out_by_hand() -> None:
    found = measured(LABEL, SCORE, SCORE >= 0.75, np.zeros(4, np.int32), ["a"])
    assert found["pooled"] == {
        "windows": 4,
        "anomalous": 2,
        "alarms": 2,
        "false_alarms": 1,
        "auroc": 0.75,
        "auprc": pytest.approx(1 / 2 + 1 / 2 * 2 / 3),
        "f1": 0.5,
        "tpr_at_1pct_fpr": 0.5,
        "brier": pytest.approx((0.01 + 0.64 + 0.09 + 0.01) / 4),
    }
    assert found["hosts"] == {"a": found["pooled"]}
    assert found["host_mean"]["hosts"] == 1


def test_a_host_with_one_class_takes_no_part_in_the_mean() -> None:
    label = np.concatenate([LABEL, np.zeros(3, np.int8), np.ones(2, np.int8)])
    score = np.concatenate([SCORE, np.full(5, 0.5, np.float32)])
    host = np.array([0] * 4 + [1] * 3 + [2] * 2, np.int32)
    found = measured(label, score, score >= 0.75, host, ["a", "quiet", "lost"])
    assert found["host_mean"] == {
        "auroc": 0.75,
        "auprc": pytest.approx(5 / 6),
        "f1": 0.5,
        "tpr_at_1pct_fpr": 0.5,
        "hosts": 1,
    }
    assert found["hosts"]["quiet"] == {
        "windows": 3,
        "anomalous": 0,
        "alarms": 0,
        "false_alarms": 0,
        "auroc": None,
        "auprc": None,
        "f1": 0.0,
        "tpr_at_1pct_fpr": None,
        "brier": 0.25,
    }
    assert auprc_host_mean(label, score, host) == pytest.approx(5 / 6)


def test_without_any_host_of_both_classes_the_mean_is_nothing_and_the_stopping_rule_uses_the_pool() -> None:
    host = np.array([0, 1, 0, 1], np.int32)
    found = measured(LABEL, SCORE, SCORE >= 0.75, host, ["a", "b"])
    assert found["host_mean"] == {"auroc": None, "auprc": None, "f1": None, "tpr_at_1pct_fpr": None, "hosts": 0}
    assert auprc_host_mean(LABEL, SCORE, host) == pytest.approx(5 / 6)


def test_the_headline_is_flat_and_in_stated_order() -> None:
    metrics = measured(LABEL, SCORE, SCORE >= 0.75, np.zeros(4, np.int32), ["a"])
    found = headline(metrics | {"incident_summary": {"count": 4, "found": 3}})
    assert tuple(found) == HEADLINES
    assert HEADLINES == (
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
    assert (found["auroc"], found["auprc_host_mean"], found["f1"]) == (0.75, pytest.approx(5 / 6), 0.5)
    assert (found["brier"], found["incidents_found"]) == (pytest.approx(0.1875), 0.75)


def test_without_incidents_none_of_them_can_be_found() -> None:
    metrics = measured(LABEL, SCORE, SCORE >= 0.75, np.zeros(4, np.int32), ["a"])
    assert headline(metrics | {"incident_summary": {"count": 0, "found": 0}})["incidents_found"] is None


def test_the_threshold_is_the_lowest_score_that_still_gives_the_best_f1() -> None:
    assert best_threshold(LABEL, SCORE) == pytest.approx(0.7)
    assert best_threshold(np.array([0, 0, 1], np.int8), np.array([0.1, 0.2, 0.3], np.float32)) == pytest.approx(0.3)


def test_f1_of_no_anomaly_and_no_alarm_is_zero() -> None:
    assert f1(np.zeros(3, np.int8), np.zeros(3, bool)) == 0.0


def test_the_rate_at_one_percent_false_alarms_is_the_largest_that_stays_within() -> None:
    label = np.array([0] * 200 + [1] * 4, np.int8)
    score = np.concatenate([np.linspace(0, 1, 200), [2.0, 0.999, 0.991, 0.5]]).astype(np.float32)
    assert tpr_at(label, score) == 0.75
    assert tpr_at(label, score, 0.0) == 0.25
    assert tpr_at(label, np.zeros(204, np.float32)) == 0.0


def test_false_alarms_are_the_alarms_on_normal_windows() -> None:
    pooled = measured(LABEL, SCORE, SCORE >= 0.65, np.zeros(4, np.int32), ["a"])["pooled"]
    assert (pooled["alarms"], pooled["false_alarms"]) == (3, 1)
