"""How many wrong codes are looked at."""

from __future__ import annotations

import pytest

from tests.helpers.clock import Clock
from training.fleet.api.limiter import Limiter
from training.fleet.model.errors import TooManyTriesError


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> Limiter:
    return Limiter(clock)


def wrong(limiter: Limiter, address: str, times: int = 1) -> None:
    for _ in range(times):
        limiter.enter(address)


def test_the_sixth_wrong_code_of_an_address_within_a_minute_is_not_looked_at(limiter: Limiter, clock: Clock) -> None:
    for _ in range(5):
        wrong(limiter, "192.0.2.1")
        clock.now += 10
    with pytest.raises(TooManyTriesError, match="in 10 s") as caught:
        limiter.enter("192.0.2.1")
    assert caught.value.retry_after_s == 10
    clock.now += 10
    wrong(limiter, "192.0.2.1")


def test_many_at_once_are_counted_before_any_of_them_is_judged(limiter: Limiter) -> None:
    for _ in range(5):
        limiter.enter("192.0.2.1")
    with pytest.raises(TooManyTriesError):
        limiter.enter("192.0.2.1")


def test_a_right_code_costs_nothing(limiter: Limiter) -> None:
    for _ in range(100):
        limiter.enter("192.0.2.1")
        limiter.forgive("192.0.2.1")
    wrong(limiter, "192.0.2.1", 5)


def test_addresses_of_one_network_of_version_6_share_their_tries(limiter: Limiter) -> None:
    for number in range(5):
        wrong(limiter, f"2001:db8::{number}")
    with pytest.raises(TooManyTriesError):
        limiter.enter("2001:db8::99")
    limiter.enter("2001:db8:0:1::1")


def test_an_address_without_a_wrong_code_is_always_looked_at(limiter: Limiter) -> None:
    for number in range(60):
        wrong(limiter, f"192.0.2.{number}")
    with pytest.raises(TooManyTriesError):
        limiter.enter("192.0.2.1")
    limiter.enter("198.51.100.1")


def test_what_is_remembered_stays_bounded(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.fleet.api.limiter.MAX_ADDRESSES", 50)
    for number in range(200):
        wrong(limiter, f"192.0.2.{number}")
    assert len(limiter._wrong) == 50


def test_a_right_code_takes_back_one_try_and_not_the_wrong_ones_before_it(limiter: Limiter) -> None:
    wrong(limiter, "192.0.2.1", 4)
    limiter.enter("192.0.2.1")
    limiter.forgive("192.0.2.1")
    wrong(limiter, "192.0.2.1")
    with pytest.raises(TooManyTriesError):
        limiter.enter("192.0.2.1")


def test_what_is_over_or_forgiven_is_not_remembered(limiter: Limiter, clock: Clock) -> None:
    limiter.enter("192.0.2.1")
    limiter.forgive("192.0.2.1")
    assert limiter._wrong == {}
    wrong(limiter, "192.0.2.1", 5)
    clock.now += 60
    limiter.enter("192.0.2.2")
    assert list(limiter._wrong) == ["192.0.2.2"]
    limiter.enter("192.0.2.1")
