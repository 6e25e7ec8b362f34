"""Two sides of a ratio, measured in turns so that a busy moment strikes both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Took(NamedTuple):
    """What one turn of one side took."""

    wall_s: float
    cpu_s: float
    """Processor seconds of this process, all threads together."""


@dataclass(frozen=True)
class Sides:
    """The turns of both sides; the n-th turns stood beside each other."""

    ours: list[Took]
    reference: list[Took]

    @property
    def ratio(self) -> float:
        """Our processor time in parts of the reference's: the median over the pairs of turns.

        Both sides run on one thread and wait for nothing, so on a quiet machine this is the ratio of their times; on
        a busy one it leaves out the moments in which somebody else had the core.
        """
        pairs = zip(self.ours, self.reference, strict=True)
        return statistics.median(ours.cpu_s / reference.cpu_s for ours, reference in pairs)

    def beside(self, per: int = 1, unit: str = "s") -> str:
        """Return the medians of both sides, for a figure's note.

        Args:
            per: Into how many parts a turn is divided.
            unit: "s" or "ms".
        """
        factor = {"s": 1.0, "ms": 1000.0}[unit] / per
        ours, reference = (
            [factor * statistics.median(turns) for turns in zip(*side, strict=True)]
            for side in (self.ours, self.reference)
        )
        by_clock = f"{ours[0]:.3g} against {reference[0]:.3g} {unit} by the clock"
        return f"{ours[1]:.3g} against {reference[1]:.3g} {unit} of processor time, {by_clock}"


def took(work: Callable[[], object]) -> Took:
    """Do some work and say what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


def in_turns(ours: Callable[[], object], reference: Callable[[], object], turns: int) -> Sides:
    """Measure both sides in turns after one turn of each that does not count."""
    ours(), reference()
    pairs = [(took(ours), took(reference)) for _ in range(turns)]
    return Sides([pair[0] for pair in pairs], [pair[1] for pair in pairs])
