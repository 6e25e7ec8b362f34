"""Which workers a receiver speaks with, by their version."""

from __future__ import annotations

import pytest

from training.fleet.api.handlers.worker import _speakable


@pytest.mark.parametrize(
    ("version", "speaks"),
    [
        ("0.1", True),
        ("0.1.0", True),
        ("0.2.3", True),
        ("0.10", True),
        ("1.0", True),
        ("10.0", True),
        ("0.0", False),
        ("0.0.9", False),
        ("0.00.9", False),
        # what cannot be read counts as new
        ("", True),
        ("0", True),
        ("0.", True),
        ("0.x", True),
        ("x.0", True),
        ("0.-1", True),
        ("0.0rc1", True),
        ("dev", True),
    ],
)
def test_a_worker_is_refused_when_its_version_says_that_it_is_too_old_and_in_no_other_case(
    version: str, speaks: bool
) -> None:
    assert _speakable(version) is speaks
