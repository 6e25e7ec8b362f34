"""Claims about intervals over hosts, on cases whose interval is known."""

from __future__ import annotations

from typing import Any

import pytest

from training.trainer.evaluation.intervals import host_intervals


def host(auroc: float | None, auprc: float | None = 0.5, f1: float = 0.25) -> dict[str, Any]:
    return {"auroc": auroc, "auprc": auprc, "f1": f1}


def test_equal_hosts_give_an_interval_without_width() -> None:
    found = host_intervals([host(0.7)] * 5, 490)
    assert found == {
        "level": 0.95,
        "draws": 2000,
        "hosts": 5,
        "auroc_host_mean": [0.7, 0.7],
        "auprc_host_mean": [0.5, 0.5],
        "f1_host_mean": [0.25, 0.25],
    }


@pytest.mark.parametrize("seed", [0, 1, 2**53 - 1])
def test_the_interval_is_that_of_the_binomial_it_must_be(seed: int) -> None:
    # Four hosts of which one has 1: a mean is k/4 with k binomial (4, 1/4); P(k=0) = 0.32, P(k>=3) = 0.051,
    # P(k=4) = 0.004, so the middle 95 % run from 0 to 3/4. With one of three, P(k=3) = 0.037: from 0 to 1.
    assert host_intervals([host(0.0), host(0.0), host(1.0), host(0.0)], seed)["auroc_host_mean"] == [0.0, 0.75]
    assert host_intervals([host(0.0), host(1.0), host(0.0)], seed)["auroc_host_mean"] == pytest.approx([0.0, 1.0])


def test_a_host_with_one_class_is_not_drawn() -> None:
    found = host_intervals([host(0.7), host(None, None, 0.0), host(0.7), host(0.7)], 1)
    assert (found["hosts"], found["f1_host_mean"]) == (3, [0.25, 0.25])


def test_fewer_than_three_hosts_have_no_interval() -> None:
    found = host_intervals([host(0.2), host(0.9), host(None, None)], 1)
    assert (found["hosts"], found["auroc_host_mean"], found["auprc_host_mean"]) == (2, None, None)
    assert host_intervals([], 1)["f1_host_mean"] is None


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    hosts = [host(value / 17) for value in range(17)]
    first = host_intervals(hosts, 1)
    assert first == host_intervals(hosts, 1)
    assert first["auroc_host_mean"] != host_intervals(hosts, 2)["auroc_host_mean"]
