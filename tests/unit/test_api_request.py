"""What a request says of how long its caller waits."""

from __future__ import annotations

from typing import Any

import pytest

from training.fleet.api.arrival import ARRIVAL, Arrival
from training.fleet.api.request import Request


def waits(prefer: bytes | None, cap_s: float = 60.0) -> float:
    scope: dict[str, Any] = {"type": "http", "headers": [] if prefer is None else [(b"prefer", prefer)]}
    scope[ARRIVAL] = Arrival(scope, None)  # type: ignore[arg-type]
    return Request(scope, None).wait_s(cap_s)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prefer", "wait_s"),
    [
        (None, 0),
        (b"", 0),
        (b"wait=20", 20),
        (b"wait=0", 0),
        (b"wait=61", 60),
        (b"wait=999999999", 60),
        (b" Wait = 20 ", 20),
        (b"wait=20; foo=1", 20),
        (b"respond-async, wait=20", 20),
        (b"wait=x, wait=20", 20),
        (b"wait=20, wait=30", 20),
        # as long as no number of a sane client
        (b"wait=0000000020", 0),
        (b"wait=" + b"9" * 5000, 0),
        (b"wait=-1", 0),
        (b"wait=1.5", 0),
        (b"wait=", 0),
        (b"wait", 0),
        (b"waiting=20", 0),
        (b"x=20", 0),
        (b"handling=20;wait=20", 0),
        (b"wait=\xb2", 0),
    ],
)
def test_a_caller_waits_as_long_as_it_prefers_up_to_the_cap(prefer: bytes | None, wait_s: float) -> None:
    assert waits(prefer) == wait_s


def test_nine_digits_are_read() -> None:
    assert waits(b"wait=123456789", cap_s=1e12) == 123456789
    assert waits(b"wait=1234567890", cap_s=1e12) == 0
