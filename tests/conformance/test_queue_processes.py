"""Several worker programs under one name: each answers for its own leases alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from queue_world import Engine, World, entry, open_world

from training.fleet.model.jobs import Policy

ONE, TWO, THREE = "process-one", "process-two", "process-three"
JOBS = [entry(number) for number in range(6)]


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[World]:
    with open_world(tmp_path, engine=engine) as opened:
        yield opened


def running(world: World, process: str | None, *, vouched: bool = False) -> str:
    lease = world.claim("pi", process=process, vouched=vouched)
    world.beat(lease)
    return str(lease.lease_id)


def alive(world: World, lease_id: str) -> bool:
    return world.queue.live_holder(lease_id) == "pi"


@pytest.mark.parametrize("vouched", [True, False])
def test_a_process_ends_no_lease_of_another_one(world: World, vouched: bool) -> None:
    world.load(JOBS, {"pi": Policy(sessions=2)})
    first = running(world, ONE, vouched=vouched)
    second = running(world, TWO, vouched=vouched)
    assert alive(world, first)
    assert alive(world, second)


def test_a_process_ends_its_own_leases_that_it_does_not_name(world: World) -> None:
    world.load(JOBS, {"pi": Policy(sessions=2)})
    first, second = running(world, ONE), running(world, TWO)
    world.claim("pi", process=ONE)
    assert not alive(world, first)
    assert alive(world, second)


def test_each_process_has_all_the_slots(world: World) -> None:
    world.load(JOBS, {"pi": Policy(sessions=2, slots=2)})
    mine = [running(world, ONE)]
    mine.append(world.claim("pi", mine, process=ONE).lease_id)
    assert world.claim("pi", mine, process=ONE) is None
    other = world.claim("pi", process=TWO)
    assert world.claim("pi", [other.lease_id], process=TWO) is not None
    assert world.claim("pi", process=THREE) is None


@dataclass(frozen=True)
class Case:
    """One lease, and who asks after it was given."""

    sessions: int
    of: str | None
    asks: str | None
    vouched: bool
    goes_on: bool


@pytest.mark.parametrize(
    "case",
    [
        Case(1, ONE, TWO, vouched=True, goes_on=False),
        Case(1, ONE, TWO, vouched=False, goes_on=True),
        Case(1, ONE, None, vouched=False, goes_on=False),
        Case(1, None, TWO, vouched=False, goes_on=False),
        Case(1, None, None, vouched=False, goes_on=False),
        Case(2, ONE, TWO, vouched=True, goes_on=True),
        Case(2, None, TWO, vouched=True, goes_on=True),
        Case(2, ONE, None, vouched=True, goes_on=False),
    ],
    ids=str,
)
def test_a_lease_ends_with_the_claim_of_who_is_alone_or_has_it(world: World, case: Case) -> None:
    """Who names no process is of an older version, and that has always been alone under its name."""
    world.load(JOBS, {"pi": Policy(sessions=case.sessions)})
    lease = running(world, case.of)
    world.claim("pi", process=case.asks, vouched=case.vouched)
    assert alive(world, lease) is case.goes_on


def test_a_second_process_waits_for_the_slot_of_the_first(world: World) -> None:
    world.load(JOBS, {"pi": Policy()})
    first = world.claim("pi", process=ONE)
    assert world.claim("pi", process=TWO) is None
    world.complete(first)
    assert world.claim("pi", process=TWO) is not None


def test_a_receiver_that_was_started_again_knows_the_processes(world: World) -> None:
    world.load(JOBS, {"pi": Policy(sessions=2)})
    first, second = running(world, ONE), running(world, TWO)
    world.restart()
    world.claim("pi", process=ONE)
    assert (alive(world, first), alive(world, second)) == (False, True)
