"""From one `[[jobs]]` table to the jobs it stands for: `seeds`, `grid` and `random`.

Owns the order of the jobs, the choice of random points, and the limit on their number. Guarantees that every job is the
one that a table written out by hand gives, and that editing a list adds and takes away only what changed: random points
are chosen by a digest of each point, so that a larger number keeps all of those before.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from training.fleet.manifest.findings import short
from training.fleet.manifest.keys import MAX_EXPANDED
from training.fleet.model.errors import InvalidMessageError
from training.fleet.model.jobs import canonical, normalise

KEYS: Final = frozenset({"seeds", "grid", "random", "random_seed"})
"""Keys that make one table stand for several jobs."""

Misuse = tuple[str, str, str, str]
"""Key, found, expected, remedy."""


def misuse(given: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Misuse]:
    """Yield what is wrong with the keys together.

    Args:
        given: The job's table as it stands in the file.
        values: The same in normal form, with the defaults; None where a value is wrong.
    """
    if "seed" in given and "seeds" in given:
        yield "seeds", "seed and seeds", "one of them", "leave one out"
    grid, hyper = values["grid"] or {}, values["hyper"] or {}
    for key in sorted(grid.keys() & hyper.keys()):
        yield f"grid.{key}", f"{short(key)} in hyper as well", "each hyper-parameter once", "leave one out"
    if values["random"] is not None and not grid:
        yield "random", f"random = {values['random']} without a grid", "a grid to choose from", "add grid = { … }"
    if "random_seed" in given and values["random"] is None:
        yield "random_seed", "random_seed without random", "random = N beside it", "leave it out"
    points = math.prod(len(choices) for choices in grid.values())
    jobs = min(points, values["random"] or points) * len(_seeds(given, values))
    most = f"at most {MAX_EXPANDED} from one table"
    if points > MAX_EXPANDED:
        yield "grid", f"{points} points", most, "make lists shorter, or write several tables"
    elif jobs > MAX_EXPANDED:
        yield "seeds", f"{jobs} jobs", most, "make lists shorter, or write several tables"


def expanded(given: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the values of each job that a table stands for, in the order of its lists, seeds last.

    Args:
        given: The job's table as it stands in the file.
        values: The same in normal form, with the defaults.
    """
    for point in _points(values):
        hyper = {**values["hyper"], **point} if point else values["hyper"]
        for seed in _seeds(given, values):
            yield {**values, "hyper": hyper, "seed": seed}


def _seeds(given: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[int, ...]:
    # A seed of the job's own counts more than the seeds of the defaults.
    if values["seeds"] is None or ("seed" in given and "seeds" not in given):
        return (values["seed"],)
    seeds: tuple[int, ...] = values["seeds"]
    return seeds


def _points(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    grid: Mapping[str, list[Any]] = values["grid"] or {}
    points = [dict(zip(grid, choice, strict=True)) for choice in itertools.product(*grid.values())]
    most = values["random"]
    if most is None or most >= len(points):
        return points
    ranks = [_rank(values["random_seed"], point) for point in points]
    chosen = set(sorted(ranks)[:most])
    return [point for point, rank in zip(points, ranks, strict=True) if rank in chosen]


def _rank(seed: int, point: Mapping[str, Any]) -> bytes:
    """Return where a point stands in the random order of a seed: the same on every platform and Python."""
    try:
        text = canonical(normalise(dict(point)))
    except InvalidMessageError:  # the job with this point has a fault of its own
        text = repr(point).encode()
    return hashlib.sha256(f"{seed}:".encode() + text).digest()
