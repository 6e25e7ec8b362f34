"""A day of fleet life with faults in every run, weeks of it in the long version."""

from __future__ import annotations

from typing import Any

import pytest

from tests.machine import life


def test_a_day_of_fleet_life_with_faults_ends_every_job_and_accepts_each_result_once(record_property: Any) -> None:
    told = life.live(seed=1, days=1)
    record_property("life", told)
    assert all(f" {name} " in f" {told} " for name in ("answer lost", "request twice", "expire", "die", "crash"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_a_week_of_fleet_life_with_faults_ends_every_job_and_accepts_each_result_once(seed: int) -> None:
    assert life.live(seed=seed, days=7)


def test_the_life_notices_a_worker_that_does_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life.Life, "mind_silence", lambda self, host: None)
    with pytest.raises(AssertionError, match="G4: two trainers of one job"):
        life.live(seed=1, days=1)
