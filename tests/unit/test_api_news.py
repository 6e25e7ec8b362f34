"""Which events are written that a caller can bring about again and again."""

from __future__ import annotations

import pytest

from tests.helpers.clock import Clock
from training.fleet.api.news import ALL, EACH, News


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def news(clock: Clock) -> News:
    return News(clock)


def told(news: News, address: str, about: str = "w1", action: str = "refuse", *, known: bool = False) -> bool:
    return news.is_news(address, action, about, known=known)


def test_the_same_thing_is_written_once_in_five_minutes(news: News, clock: Clock) -> None:
    assert [told(news, "192.0.2.1"), told(news, "192.0.2.1"), told(news, "192.0.2.1", "w2")] == [True, False, True]
    assert told(news, "192.0.2.1", action="clash")
    assert told(news, "192.0.2.2")
    clock.now += 299
    assert not told(news, "192.0.2.1")
    clock.now += 1
    assert told(news, "192.0.2.1")


@pytest.mark.parametrize("known", [False, True])
def test_one_address_brings_about_five_an_hour_whatever_names_it_gives(news: News, clock: Clock, known: bool) -> None:
    found = 0
    for number in range(7200):
        found += told(news, f"2001:db8:1:2::{number:x}", f"w{number}", known=known)
        clock.now += 12
    assert found == 24 * EACH


def test_an_address_has_one_measure_with_and_without_a_credential(news: News) -> None:
    found = [told(news, "192.0.2.1", f"w{number}", known=bool(number % 2)) for number in range(9)]
    assert sum(found) == EACH


def test_all_addresses_together_bring_about_sixty_an_hour_and_leave_what_belongs_to_the_known(
    news: News, clock: Clock
) -> None:
    found = [told(news, f"2001:db8:0:{number:x}::1", f"w{number}") for number in range(5000)]
    assert sum(found) == ALL
    assert told(news, "192.0.2.1", known=True)
    assert told(news, "192.0.2.1", action="clash")
    assert sum(map(len, news._written.values())) == ALL + 2
    clock.now += 3600
    assert told(news, "192.0.2.9")
    assert sum(map(len, news._written.values())) == 2
