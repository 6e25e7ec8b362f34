"""Random histories against the queue and a small model of it; `fleet.py` says what is checked and where.

The bulk comes from numbers, in processes of their own that no coverage slows down. Hypothesis drives the same events
less often, because it takes longer than the events do; it tries what plain chance does not.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.helpers.todays_part import in_part, todays_part
from tests.machine import driver, fleet
from tests.machine.__main__ import main

HISTORIES, STEPS = 1500, 60
PARTS = 10
"""How many days run all of these histories, which take four minutes of processor time on one."""
LONG_HISTORIES = 10_000


class FleetMachine(RuleBasedStateMachine):
    """One rule for each event; they stand below the class."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = fleet.Fleet(lambda count: 0)

    def teardown(self) -> None:
        try:
            self.fleet.finish()
        finally:
            self.fleet.close()


def as_rule(name: str, when: Any) -> Any:
    def happen(self: FleetMachine, data: st.DataObject) -> None:
        self.fleet.choose = lambda count: data.draw(st.integers(0, count - 1))
        getattr(self.fleet, name)()
        self.fleet.check()
        self.fleet.choose = lambda count: 0

    happen.__name__ = name
    return rule(data=st.data())(precondition(lambda self: bool(when(self.fleet)))(happen))


for _event in fleet.EVENTS.values():
    setattr(FleetMachine, _event.name, as_rule(_event.name, _event.when))


def run_under_hypothesis(examples: int) -> None:
    run_state_machine_as_test(
        FleetMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


def histories(first: int, number: int, root: Path) -> str:
    """Run histories in a process without coverage, which would double its time."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    command = [sys.executable, "-m", "tests.machine", "--seed", str(first), "--histories", str(number)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("half", [0, 1])
def test_three_thousand_random_histories_never_break_the_queue(
    half: int, daily: bool, root: Path, record_property: Any
) -> None:
    number = HISTORIES // PARTS if daily else HISTORIES
    starts = range(1 + half * HISTORIES, 1 + (half + 1) * HISTORIES, number)
    (first,) = in_part(starts, todays_part(len(starts)))
    found = histories(first, number, root)
    record_property("histories", found.strip())
    assert found.startswith(f"{number} histories, {number * STEPS} steps, ")


@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1])
def test_many_more_random_histories_never_break_the_queue(half: int, root: Path) -> None:
    first = 1_000_000 * (1 + half)
    assert histories(first, LONG_HISTORIES, root).startswith(f"{LONG_HISTORIES} histories, ")


def test_histories_that_hypothesis_makes_never_break_the_queue() -> None:
    run_under_hypothesis(40)


@pytest.mark.slow
def test_many_histories_that_hypothesis_makes_never_break_the_queue() -> None:
    run_under_hypothesis(600)


def test_every_event_happens_within_twenty_histories() -> None:
    count = driver.Count()
    assert driver.histories(range(1, 21), STEPS, count) is None
    assert set(count.events) == set(fleet.EVENTS)


def test_every_history_that_was_asked_for_is_run_by_one_of_the_processes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--histories", "5", "--steps", "3", "--processes", "3", "--chunk", "1"]) == 0
    assert capsys.readouterr().out.startswith("5 histories, 15 steps, ")


def test_a_history_is_the_same_again_and_what_it_breaks_is_told_in_its_shortest_form(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fleet.Model, "requeued", lambda self, job_id: None)
    arguments = ["--seed", "7", "--histories", "20", "--steps", "60"]
    assert main(arguments) == 1
    first = capsys.readouterr().out
    assert main(arguments) == 1
    again = capsys.readouterr().out
    told = re.search(
        r"history (\d+) breaks a rule; the shortest form that does has (\d+) steps:\n(.*?)Traceback", first, re.S
    )
    assert told is not None
    assert told[0] in again
    assert told[3].split("\n")[-2].split()[0] == "requeue"
    assert int(told[2]) <= 6
