from __future__ import annotations

from tests.helpers.clock import Clock
from training.fleet.queue.delays import MAX_COUNTED, Delays


def doubled(repeats: int, first_s: float) -> float:
    return min(1800.0, first_s * 2.0 ** (repeats - 1))


def test_each_repeat_waits_twice_as_long_up_to_the_cap() -> None:
    clock = Clock()
    delays: Delays[str] = Delays(clock, doubled, 1e9)
    waited = []
    for _ in range(8):
        delays.add("pi", 30.0, clock.now)
        waited.append(delays.left_s("pi"))
        clock.now += waited[-1]
    assert waited == [30, 60, 120, 240, 480, 960, 1800, 1800]


def test_a_delay_counts_from_the_given_moment_and_never_becomes_shorter() -> None:
    clock = Clock()
    delays: Delays[str] = Delays(clock, doubled, 1800.0)
    delays.add("pi", 30.0, clock.now - 20)
    assert delays.left_s("pi") == 10
    delays.add("pi", 30.0, clock.now - 100)
    assert delays.left_s("pi") == 10
    assert (delays.left_s("server"), delays.repeats("pi"), delays.repeats("server")) == (0.0, 2, 0)


def test_what_is_free_costs_no_delay() -> None:
    clock = Clock()
    delays: Delays[str] = Delays(clock, doubled, 1800.0, free=2)
    left = []
    for _ in range(4):
        delays.add("pi", 30.0, clock.now)
        left.append(delays.left_s("pi"))
    assert left == [0, 0, 30, 60]


def test_repeats_fade_one_by_one_and_are_forgotten_in_the_end() -> None:
    clock = Clock()
    delays: Delays[str] = Delays(clock, doubled, 1800.0)
    for _ in range(3):
        delays.add("pi", 2.0, clock.now)
    clock.now += 1800
    assert delays.repeats("pi") == 2
    delays.fade(clock.now)
    assert len(delays) == 1
    clock.now += 3600
    delays.fade(clock.now)
    assert len(delays) == 0


def test_what_has_faded_is_forgotten_at_the_end_of_its_delay_and_not_before() -> None:
    clock = Clock()
    delays: Delays[str] = Delays(clock, doubled, 10.0)
    delays.add("pi", 30.0, clock.now)
    clock.now += 20
    delays.fade(clock.now)
    assert (delays.repeats("pi"), delays.left_s("pi"), list(delays.waiting())) == (0, 10.0, ["pi"])
    clock.now += 10
    assert list(delays.waiting()) == []
    delays.fade(clock.now)
    assert len(delays) == 0


def test_no_more_repeats_count_than_fade_within_hours() -> None:
    clock = Clock()
    delays: Delays[str] = Delays(clock, doubled, 1800.0)
    for _ in range(1000):
        delays.add("pi", 2.0, clock.now)
    assert delays.repeats("pi") == MAX_COUNTED == 16


def test_without_a_cap_nothing_is_counted() -> None:
    clock = Clock()
    delays: Delays[str] = Delays(clock, lambda _repeats, _first_s: 0.0, 0.0)
    for _ in range(3):
        delays.add("pi", 0.0, clock.now)
    assert (delays.repeats("pi"), delays.left_s("pi"), list(delays.waiting())) == (0, 0.0, [])


def test_what_is_undone_leaves_what_was_before() -> None:
    clock = Clock()
    delays: Delays[str] = Delays(clock, doubled, 1800.0)
    first, second = delays.add("pi", 30.0, clock.now), delays.add("pi", 30.0, clock.now)
    assert delays.left_s("pi") == 60
    second()
    assert delays.left_s("pi") == 30
    first()
    assert len(delays) == 0


def test_who_waits_and_whose_delay_has_ended_can_be_asked() -> None:
    clock = Clock()
    delays: Delays[str] = Delays(clock, doubled, 1800.0)
    delays.add("pi", 30.0, clock.now)
    delays.add("server", 60.0, clock.now)
    assert (sorted(delays.waiting()), delays.next_end(1000.0), delays.next_end(1060.0)) == (
        ["pi", "server"],
        1030,
        None,
    )
    assert (delays.ended(1000.0, 1030.0), delays.ended(1030.0, 1059.0)) == (["pi"], [])
    delays.forget(lambda host: host == "pi")
    assert list(delays.waiting()) == ["server"]
    delays.forget()
    assert list(delays.waiting()) == []
