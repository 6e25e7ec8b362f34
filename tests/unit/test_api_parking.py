"""Whom a new job wakes."""

from __future__ import annotations

from training.fleet.api.parking import Lot, ParkedCall


def lot(able: dict[str, set[int]] | None = None) -> Lot:
    return Lot(lambda requirement, worker: able is None or requirement in able.get(worker, set()))


def woken(places: list[ParkedCall]) -> list[int]:
    return [number for number, place in enumerate(places) if place.bell.is_set()]


def test_only_as_many_are_woken_as_there_are_jobs_first_come_first() -> None:
    parked = lot()
    places = [parked.enter(f"w{number}") for number in range(1000)]
    parked.publish({1: 3})
    assert woken(places) == [0, 1, 2]


def test_nobody_is_woken_for_a_job_nobody_may_take() -> None:
    parked = lot({"w0": {1}})
    places = [parked.enter("w0"), parked.enter("w1")]
    parked.publish({2: 5})
    assert woken(places) == []


def test_each_job_wakes_a_caller_that_may_take_it() -> None:
    parked = lot({"w0": {1}, "w1": {2}})
    places = [parked.enter("w0"), parked.enter("w1")]
    parked.publish({2: 1})
    assert woken(places) == [1]


def test_an_offer_that_was_not_taken_goes_to_the_next_one_and_never_back() -> None:
    parked = lot()
    places = [parked.enter("w0"), parked.enter("w1")]
    parked.publish({1: 1})
    parked.answered(places[0], left=1)
    assert places[1].offer is not None
    places[0].bell.clear()
    parked.answered(places[1], left=1)
    assert woken(places) == [1]
    assert places[0].offer is None


def test_an_offer_whose_job_is_gone_wakes_nobody_else() -> None:
    parked = lot()
    places = [parked.enter("w0"), parked.enter("w1")]
    parked.publish({1: 1})
    parked.answered(places[0], left=0)
    assert woken(places) == [0]


def test_callers_already_awake_count_against_the_jobs_left() -> None:
    """Two jobs woke two callers; the first took one, the other is for the second caller, not for a third."""
    parked = lot()
    places = [parked.enter(f"w{number}") for number in range(3)]
    parked.publish({1: 2})
    parked.answered(places[0], left=1)
    assert woken(places) == [0, 1]


def test_who_leaves_with_an_offer_hands_it_on() -> None:
    parked = lot()
    places = [parked.enter("w0"), parked.enter("w1")]
    parked.publish({1: 1})
    parked.leave(places[0])
    assert woken(places) == [0, 1]
    assert len(parked) == 1


def test_who_leaves_without_an_offer_wakes_nobody() -> None:
    parked = lot()
    places = [parked.enter("w0"), parked.enter("w1")]
    parked.leave(places[0])
    parked.leave(places[0])
    assert woken(places) == []


def test_a_drain_wakes_everybody() -> None:
    parked = lot()
    places = [parked.enter("w0"), parked.enter("w1")]
    parked.ring_all()
    assert woken(places) == [0, 1]


def test_an_answer_without_an_offer_changes_nothing() -> None:
    parked = lot()
    place = parked.enter("w0")
    parked.answered(place, left=9)
    assert place.offer is None


# ---- whose calls wait


def ended(places: list[ParkedCall]) -> list[int]:
    return [number for number, place in enumerate(places) if place.over]


def test_the_newest_call_of_a_worker_is_the_one_that_waits() -> None:
    parked = lot()
    places = [parked.enter("w0"), parked.enter("w1"), parked.enter("w0"), parked.enter("w0")]
    assert ended(places) == woken(places) == [0, 2]
    assert len(parked) == 2
    parked.publish({1: 9})
    assert [place.offer is not None for place in places] == [False, True, False, True]


def test_a_worker_that_runs_in_two_places_waits_in_both() -> None:
    parked = lot()
    places = [parked.enter("w0", "here"), parked.enter("w0", "there"), parked.enter("w0", "here")]
    assert ended(places) == [0]


def test_what_an_older_call_was_offered_goes_on_when_it_leaves() -> None:
    parked = lot()
    older = parked.enter("w0")
    parked.publish({1: 1})
    newer = parked.enter("w0")
    assert newer.offer is None
    parked.leave(older)
    assert newer.offer is not None


def test_an_older_call_that_leaves_later_takes_nothing_from_the_newer_one() -> None:
    parked = lot()
    older, newer = parked.enter("w0"), parked.enter("w0")
    parked.leave(older)
    parked.leave(older)
    assert (len(parked), newer.over) == (1, False)
    newest = parked.enter("w0")
    assert (newer.over, newest.over) == (True, False)


def test_of_an_address_with_too_many_calls_the_oldest_is_over_and_no_other_address_is_touched() -> None:
    parked = lot()
    parked.most = 3
    others = [parked.enter(f"o{number}", "", "10.0.0.2") for number in range(3)]
    places = [parked.enter(f"w{number}", "", "10.0.0.1") for number in range(5)]
    assert ended(places) == [0, 1]
    assert ended(others) == []
    assert len(parked) == 6


def test_a_call_that_replaces_its_older_one_ends_no_third() -> None:
    parked = lot()
    parked.most = 2
    places = [parked.enter(name, "", "10.0.0.1") for name in ("w0", "w1", "w1")]
    assert ended(places) == [1]


def test_nothing_is_remembered_of_who_has_left() -> None:
    parked = lot()
    for place in [parked.enter(f"w{number}", "", f"10.0.0.{number}") for number in range(9)]:
        parked.leave(place)
    assert (parked._places, parked._newest, parked._by_address) == ({}, {}, {})


def test_who_has_an_offer_to_look_at_gets_no_second_one() -> None:
    """It would take the first one's place, and nobody would be asked about that job again."""
    parked = lot()
    places = [parked.enter("w0"), parked.enter("w1"), parked.enter("w2")]
    parked.publish({1: 1})
    parked.publish({2: 1})
    assert [place.offer.requirement if place.offer else None for place in places] == [1, 2, None]


def test_the_calls_of_one_worker_are_woken_when_its_identity_may_have_ended_and_no_others() -> None:
    parked = lot()
    places = [parked.enter("w0", "a"), parked.enter("w1"), parked.enter("w0", "b"), parked.enter("w00")]
    parked.ring("w0")
    assert woken(places) == [0, 2]
    assert len(parked) == 4
