"""By which figure results are compared, which values are better, and the best job.

Owns the one choice of the metric that `list`, `compare` and `best` share. Pure: jobs come in, an order goes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from training.fleet.cli.text import clean
from training.fleet.model.errors import FleetError
from training.fleet.model.jobs import Direction, Headline
from training.fleet.wire.people import JobView

USUAL_METRIC: Final = "auprc_host_mean"
"""The figure that is compared where the trainer declares none and jobs report it."""
_LOWER: Final = frozenset({"brier", "loss", "log_loss", "mae", "mse", "rmse"})
"""Well-known figures of which lower values are better, for a trainer that does not say."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of completed jobs.

    Attributes:
        name: Its name.
        direction: Which values are better.
        origin: Why this one was taken, for people; empty for one that the operator named.
    """

    name: str
    direction: Direction = "higher"
    origin: str = ""

    @property
    def sign(self) -> int:
        """What a value is multiplied by so that the smallest is the best."""
        return -1 if self.direction == "higher" else 1

    def said(self) -> str:
        """Return its name, which values are better, and why it was taken."""
        return ", ".join(filter(None, (clean(self.name), self.origin, f"{self.direction} is better")))

    def of(self, job: JobView) -> float | None:
        """Return the value of a job, None where it reports no number."""
        value = job.metrics.get(self.name)
        return float(value) if _is_number(value) else None  # type: ignore[arg-type]

    def ranked(self, jobs: Sequence[JobView]) -> list[JobView]:
        """Return jobs, the best first and those without a value last; equal ones stay in their order."""
        return sorted(jobs, key=self._place)

    def _place(self, job: JobView) -> tuple[bool, float]:
        value = self.of(job)
        return value is None, self.sign * (value or 0.0)

    def demand(self, jobs: Sequence[JobView]) -> None:
        """Refuse a name that no job reports.

        Raises:
            FleetError: There are jobs, and none of them has such a figure.
        """
        names = figures(jobs)
        if jobs and self.name not in names:
            known = f"--metric takes one of {', '.join(sorted(names))}" if names else "none of them reports any number"
            raise FleetError(f"found no metric {self.name} in {len(jobs)} completed jobs", known)


def figures(jobs: Sequence[JobView]) -> list[str]:
    """Return the names of the figures that jobs report, in the order they report them."""
    found = {name: None for job in jobs for name, value in job.metrics.items() if value is None or _is_number(value)}
    return list(found)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def metric_for(
    jobs: Sequence[JobView], headline: Headline | None, asked: str | None, direction: Direction | None = None
) -> Metric:
    """Return the figure by which jobs are compared.

    The one that was asked for, else the one that the trainer declares, else `auprc_host_mean` where a job reports it,
    else the first that one reports.

    Args:
        jobs: Completed jobs.
        headline: What the trainer declares, None when it declares nothing.
        asked: The name that the operator gave, None without one.
        direction: Which values the operator calls better, None without a word.
    """
    if asked is None and headline is not None:
        return Metric(headline.name, direction or headline.direction, "the trainer's headline metric")
    name, origin = (asked, "") if asked is not None else _usual(jobs)
    known = headline.direction if headline is not None and headline.name == name else _usual_direction(name)
    return Metric(name, direction or known, origin)


def _usual(jobs: Sequence[JobView]) -> tuple[str, str]:
    names = figures(jobs)
    if USUAL_METRIC in names or not names:
        return USUAL_METRIC, "the usual one, because the trainer names none"
    return names[0], "the first that was reported, because the trainer names none"


def _usual_direction(name: str) -> Direction:
    return "lower" if name.rpartition("/")[2].removeprefix("validation_") in _LOWER else "higher"
