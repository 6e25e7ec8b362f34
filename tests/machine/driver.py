"""Random histories by the thousand, each from one number, and the shortest one that still goes wrong.

A step is the name of an event and a number that makes the choices inside of it, so steps can be left out and the
others stay what they were. That is how a history that went wrong is made shorter.
"""

from __future__ import annotations

import functools
import random
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.machine.fleet import EVENTS, Fleet, forget_template

Step = tuple[str, int]
WRONG = (Exception, pytest.fail.Exception)
"""Whatever it is, the history is the finding."""
TRIES = 400
"""Histories tried at most to make one shorter."""


@dataclass
class Count:
    """What was run."""

    histories: int = 0
    steps: int = 0
    seconds: float = 0.0
    events: Counter[str] = field(default_factory=Counter)

    def add(self, other: Count) -> None:
        self.histories += other.histories
        self.steps += other.steps
        self.seconds += other.seconds
        self.events.update(other.events)

    def line(self) -> str:
        return f"{self.histories} histories, {self.steps} steps, {self.seconds:.1f} s of processor time"


@dataclass
class Violation:
    """A history that broke something: its number, the steps, and what was seen."""

    seed: int
    steps: list[Step]
    error: str


@functools.lru_cache(maxsize=1)
def deck() -> list[str]:
    return [event.name for event in EVENTS.values() for _ in range(event.weight)]


def possible(rng: random.Random, fleet: Fleet) -> str:
    while True:
        name = deck()[int(rng.random() * len(deck()))]
        if EVENTS[name].when(fleet):
            return name


def chooser(seed: int) -> Any:
    draw = random.Random(seed).random
    return lambda count: int(draw() * count)


def run_step(fleet: Fleet, step: Step) -> None:
    name, seed = step
    fleet.choose = chooser(seed)
    getattr(fleet, name)()
    fleet.check()


def history(seed: int, length: int, count: Count | None = None) -> Violation | None:
    """Run one history; None when all went well."""
    rng = random.Random(seed)
    steps: list[Step] = []
    fleet = Fleet(chooser(seed))
    try:
        for _ in range(length):
            steps.append((possible(rng, fleet), rng.getrandbits(32)))
            run_step(fleet, steps[-1])
        fleet.choose = chooser(seed)
        fleet.finish()
    except WRONG:
        return Violation(seed, steps, traceback.format_exc())
    finally:
        fleet.close()
    if count is not None:
        count.histories += 1
        count.steps += len(steps)
        count.events.update(name for name, _ in steps)
    return None


def replay(seed: int, steps: Iterable[Step]) -> str:
    """Run given steps; return what went wrong, empty when nothing did. Steps that cannot be are left out."""
    fleet = Fleet(chooser(seed))
    try:
        for step in steps:
            if EVENTS[step[0]].when(fleet):
                run_step(fleet, step)
        fleet.choose = chooser(seed)
        fleet.finish()
    except WRONG:
        return traceback.format_exc()
    finally:
        fleet.close()
    return ""


def shortest(violation: Violation) -> Violation:
    """Leave out steps as long as something still goes wrong."""
    steps, error, tries = violation.steps, violation.error, 0
    size = max(1, len(steps) // 2)
    while size and tries < TRIES:
        for start in range(len(steps) - size, -1, -size):
            fewer = steps[:start] + steps[start + size :]
            tries += 1
            if found := replay(violation.seed, fewer):
                steps, error = fewer, found
        size //= 2
    return Violation(violation.seed, steps, error)


def histories(seeds: Iterable[int], length: int, count: Count) -> Violation | None:
    """Run histories until one goes wrong."""
    begun = time.process_time()
    try:
        for seed in seeds:
            violation = history(seed, length, count)
            if violation is not None:
                return violation
        return None
    finally:
        count.seconds = time.process_time() - begun
        forget_template()
