"""No jump of the wall clock makes anything old."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from training.fleet.worker.ages import Ages

DAY_S = 86400.0
YEAR_S = 365 * DAY_S
NOW = 1_800_000_000.0


class Clocks:
    """A wall clock and one that only counts."""

    def __init__(self, wall: float) -> None:
        self.wall = wall
        self.steady = 50.0
        self.ages = Ages(lambda: self.wall, lambda: self.steady)

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def left(folder: Path, at: float) -> Path:
    os.utime(folder, (at, at))
    return folder


def test_on_a_sound_clock_the_age_is_the_time_since_the_last_change(tmp_path: Path) -> None:
    clocks = Clocks(NOW)
    clocks.wait(DAY_S)
    assert clocks.ages.of(left(tmp_path, NOW - 2 * DAY_S)) == 3 * DAY_S


@pytest.mark.parametrize("years", [10, -10])
def test_a_jump_makes_nothing_older_than_the_time_since(years: int, tmp_path: Path) -> None:
    clocks = Clocks(NOW)
    clocks.wall += years * YEAR_S
    assert clocks.ages.of(left(tmp_path, NOW)) <= 0.0
    clocks.wait(3 * DAY_S)
    assert clocks.ages.of(left(tmp_path, NOW)) <= 3 * DAY_S


def test_a_jump_there_and_back_is_not_forgotten(tmp_path: Path) -> None:
    clocks = Clocks(NOW)
    for years in (10, -10):
        clocks.wall += years * YEAR_S
        clocks.ages.of(left(tmp_path, NOW))
    clocks.wait(DAY_S)
    assert clocks.ages.of(left(tmp_path, NOW - 30 * DAY_S)) == DAY_S


def test_what_was_written_before_the_time_was_known_begins_to_age_when_it_is(tmp_path: Path) -> None:
    left(tmp_path, 600.0)
    clocks = Clocks(NOW)
    assert clocks.ages.of(tmp_path) == 0.0
    clocks.wait(DAY_S)
    assert clocks.ages.of(tmp_path) == DAY_S


def test_nothing_ages_while_the_time_is_not_known(tmp_path: Path) -> None:
    clocks = Clocks(300.0)
    clocks.wait(90 * DAY_S)
    assert clocks.ages.of(left(tmp_path, 300.0)) == 0.0
    assert clocks.ages.of(left(tmp_path, NOW)) == 0.0
