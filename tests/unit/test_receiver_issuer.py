"""How many certificates a worker is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from tls_site import Site

from tests.helpers.clock import Clock
from training.fleet.tls.certificates import DAY_S
from training.fleet.tls.serving import Issuer


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture
def issuer(tmp_path: Path, clock: Clock) -> Issuer:
    return Issuer(Site(tmp_path).authority, clock=clock)


def test_a_certificate_is_answered_again_while_two_thirds_of_its_life_are_left(issuer: Issuer, clock: Clock) -> None:
    first = issuer("box", "ab12")
    clock.now += 30 * DAY_S - 1
    assert issuer("box", "ab12") == first
    clock.now += 1
    second = issuer("box", "ab12")
    assert second.fingerprint != first.fingerprint
    clock.now += 30 * DAY_S - 1
    assert issuer("box", "ab12") == second


def test_another_enrolment_and_another_worker_get_their_own(issuer: Issuer) -> None:
    found = [issuer(*who).fingerprint for who in (("box", "ab12"), ("nas", "cd34"), ("box", "ef56"), ("nas", "cd34"))]
    assert len(set(found)) == 3
    assert found[1] == found[3]


def test_a_certificate_of_a_clock_that_was_set_back_is_not_answered_again(issuer: Issuer, clock: Clock) -> None:
    """It could begin in the future."""
    first = issuer("box", "ab12")
    clock.now -= 60 * DAY_S
    assert issuer("box", "ab12") != first
