"""Which part of a long walk the ordinary run takes: every nth point, from an offset that moves on every day.

A walk is the same on all days, so over as many days as it has parts the ordinary runs take all of it. The long version
takes all at once. A test that takes `daily` as a parameter gets both, from `conftest.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

Point = TypeVar("Point")
WHOLE = "0/1"
"""The part that is all of a walk."""


def todays_part(of: int, daily: bool = True) -> str:
    """Return the part for today as `OFFSET/OF`, or all of it.

    Args:
        of: How many parts there are, which is how many days take all of them.
        daily: False for all of it.
    """
    return f"{datetime.now(UTC).timetuple().tm_yday % of}/{of}" if daily else WHOLE


def in_part(points: Iterable[Point], part: str) -> Iterator[Point]:
    """Return every nth of the points, from the offset of a part on."""
    offset, of = map(int, part.split("/"))
    return islice(points, offset, None, of)
