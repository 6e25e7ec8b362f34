"""Claims about incidents and their delays, against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scored_windows import scored

from training.trainer.data.telemetry import Telemetry
from training.trainer.evaluation.incidents import MAX_LISTED, incident_summary, incidents_of
from training.trainer.evaluation.scored_windows import continuing


def test_an_incident_is_a_run_of_anomalous_rows_with_its_first_alarm() -> None:
    found = incidents_of(
        scored({"a": [(0, 0.1), (1, 0.2), (1, 0.3), (1, 0.9), (0, 0.1), (1, 0.8), (0, 0.1), (1, 0.4), (1, 0.1)]})
    )
    assert [item.document() for item in found] == [
        {
            "host": "a",
            "first_time": 10,
            "last_time": 30,
            "rows": 3,
            "cut": False,
            "found": True,
            "delay_rows": 2,
            "delay_time": 20,
            "top_score": pytest.approx(0.9),
        },
        {
            "host": "a",
            "first_time": 50,
            "last_time": 50,
            "rows": 1,
            "cut": False,
            "found": True,
            "delay_rows": 0,
            "delay_time": 0,
            "top_score": pytest.approx(0.8),
        },
        {
            "host": "a",
            "first_time": 70,
            "last_time": 80,
            "rows": 2,
            "cut": False,
            "found": False,
            "delay_rows": None,
            "delay_time": None,
            "top_score": pytest.approx(0.4),
        },
    ]


def test_an_alarm_before_or_after_an_incident_does_not_find_it() -> None:
    (item,) = incidents_of(scored({"a": [(0, 0.9), (1, 0.1), (1, 0.1), (0, 0.9)]}))
    assert not item.found


def test_an_incident_ends_with_its_host() -> None:
    found = incidents_of(scored({"a": [(0, 0.1), (1, 0.1)], "b": [(1, 0.9), (0, 0.1)]}))
    assert [(item.host, item.rows, item.found) for item in found] == [("a", 1, False), ("b", 1, True)]


def test_a_row_that_was_not_tested_parts_an_incident_and_cuts_the_rest() -> None:
    found = incidents_of(scored({"a": [(1, 0.1), (1, 0.1), (1, 0.1), (1, 0.9)]}, untested=[1]))
    assert [(item.first_time, item.rows, item.cut, item.delay_rows) for item in found] == [
        (0, 1, False, None),
        (20, 2, True, 1),
    ]


def test_the_summary_counts_and_takes_the_median_of_delays_whose_start_was_tested() -> None:
    rows = [(1, 0.1), (1, 0.9), (0, 0.1), (1, 0.9), (0, 0.1), (1, 0.1), (1, 0.1), (1, 0.1), (1, 0.9), (0, 0.1)]
    later = [(1, 0.1), (1, 0.1), (1, 0.1), (1, 0.1), (1, 0.9), (0, 0.1), (1, 0.1)]
    # Delays 1, 0 and 3 at host a; host b is cut at its row 1 (delay 3 there, not counted) and misses its last one.
    summary = incident_summary(incidents_of(scored({"a": rows, "b": later}, untested=[10])))
    assert summary == {
        "count": 5,
        "found": 4,
        "missed": 1,
        "cut": 1,
        "listed": 5,
        "median_delay_rows": 1.0,
        "hosts": {"a": {"count": 3, "found": 3}, "b": {"count": 2, "found": 1}},
    }


def test_without_anomalies_there_is_no_incident_and_no_delay() -> None:
    summary = incident_summary(incidents_of(scored({"a": [(0, 0.9), (0, 0.1)]})))
    assert summary == {
        "count": 0,
        "found": 0,
        "missed": 0,
        "cut": 0,
        "listed": 0,
        "median_delay_rows": None,
        "hosts": {},
    }


def test_the_summary_counts_all_and_says_how_many_are_listed() -> None:
    summary = incident_summary(incidents_of(scored({"a": [(0, 0.1), (1, 0.9)] * (MAX_LISTED + 5)})))
    assert (summary["count"], summary["found"], summary["listed"]) == (2005, 2005, 2000)


def test_a_window_continues_an_incident_only_after_an_untested_anomalous_row_of_its_host() -> None:
    label = np.array([1, 1, 0, 1, 1, 1, 1], np.int8)
    host = np.array([0, 0, 0, 0, 1, 1, 1], np.int32)
    telemetry = Telemetry(("m",), np.zeros((7, 1), np.float32), ("a", "b"), host, np.arange(7), label, {})
    # Row 1 follows the untested row 0; row 3 a normal row; row 4 another host; row 6 the tested row 5.
    assert continuing(telemetry, np.array([1, 3, 4, 5, 6])).tolist() == [True, False, False, False, False]
    assert continuing(telemetry, np.array([0, 4, 6])).tolist() == [False, False, True]
