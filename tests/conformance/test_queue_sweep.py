"""Whom time wakes: parked claims that may take a job that was not for them before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.queue_world import Engine, World, entry, host
from training.fleet.api.parking import Lot, ParkedCall
from training.fleet.database.queries import OVERDUE
from training.fleet.model.jobs import Policy, Requirement, Terms
from training.fleet.queue import Queue
from training.fleet.wire.worker import Heartbeat

PREFERS = Requirement("gbt", prefer_cuda=True)
TOWER = host("tower", vram_gib=12)


class Parked(World):
    """A queue with a car park at its door; callers look up as soon as they are woken."""

    def open(self) -> None:
        super().open()
        self.lot = Lot(self.queue._memory.hosts.eligible)
        self.queue.on_ready(self.lot.publish)

    def park(self, worker: str, held: tuple[str, ...] = ()) -> ParkedCall:
        place = self.lot.enter(worker)
        assert self.claim(worker, held) is None
        return place

    def take(self, place: ParkedCall, held: tuple[str, ...] = ()) -> Any:
        """Let a woken caller ask again, as the API does; its lease, None when there is nothing, \"asleep\" else."""
        if place.offer is None:
            return "asleep"
        number = place.offer.requirement
        lease = self.claim(place.worker, held)
        self.lot.answered(place, self.do(lambda tx: self.queue.claimable(tx, number)))
        if lease is not None:
            self.lot.leave(place)
        return lease


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[Parked]:
    opened = Parked(tmp_path / "queue.db", Terms(), engine)
    try:
        yield opened
    finally:
        opened.database.close()


def busy_tower(world: World, *more: Any) -> Any:
    """Load jobs that prefer CUDA and let the only host with it be busy."""
    world.load([entry(0, Requirement("gbt", require_cuda=True)), *more])
    lease = world.claim(TOWER)
    world.beat(lease)
    return lease


def wait_and_beat(world: World, lease: Any, seconds: int) -> None:
    """Let time pass while the tower goes on working."""
    for _ in range(seconds // 100):
        world.wait(100)
        world.beat(lease)


def test_a_preferred_job_that_waited_long_enough_wakes_a_host_without_cuda(world: Parked) -> None:
    lease = busy_tower(world, entry(1, PREFERS))
    first, second = world.park("pi"), world.park("server")
    wait_and_beat(world, lease, 500)
    assert (first.offer, second.offer) == (None, None)
    wait_and_beat(world, lease, 100)
    assert world.take(first).job_id == entry(1).id
    assert world.take(second) == "asleep"


def test_each_preferred_job_that_waited_wakes_one_host_and_later_ones_wait(world: Parked) -> None:
    lease = busy_tower(world, entry(1, PREFERS), entry(2, PREFERS))
    wait_and_beat(world, lease, 300)
    world.load([entry(0, Requirement("gbt", require_cuda=True)), *(entry(number, PREFERS) for number in (1, 2, 3))])
    places = [world.park(name) for name in ("a", "b", "c", "d")]
    wait_and_beat(world, lease, 300)
    taken = [world.take(place) for place in places[:2]]
    assert [found.job_id for found in taken] == [entry(1).id, entry(2).id]
    for found in taken:
        world.complete(found)
    assert [world.take(place) for place in places[2:]] == ["asleep", "asleep"]
    wait_and_beat(world, lease, 300)
    assert world.take(places[2]).job_id == entry(3).id
    assert world.take(places[3]) == "asleep"


def test_a_preferred_job_wakes_other_hosts_once_no_host_with_cuda_is_heard(world: Parked) -> None:
    world.terms = Terms(prefer_wait_s=1e9)
    world.restart()
    busy_tower(world, entry(1, PREFERS))
    place = world.park("pi")
    world.wait(600)
    assert world.take(place) == "asleep"
    world.claim("pi")
    world.wait(5)
    assert world.take(place).job_id == entry(1).id


def test_the_end_of_a_fault_delay_wakes_the_host_that_faulted(world: Parked) -> None:
    world.load([entry(1)])
    world.fail(world.running("pi"), "host_fault")
    place = world.park("pi")
    world.wait(29)
    assert world.take(place) == "asleep"
    world.wait(1)
    assert world.take(place).job_id == entry(1).id


def test_the_end_of_a_fault_delay_wakes_nobody_when_another_host_has_the_job(world: Parked) -> None:
    world.load([entry(1)])
    world.fail(world.running("pi"), "host_fault")
    world.beat(world.claim("server"))
    place = world.park("pi")
    world.wait(60)
    assert world.take(place) == "asleep"
    assert world.queue.next_deadline() is not None


def test_the_end_of_a_fault_delay_announces_no_other_job(world: World) -> None:
    world.load([entry(1), entry(2, Requirement("gbt", min_ram_gib=1))])
    world.fail(world.running("pi"), "host_fault")
    world.running("server")
    told = announced(world)
    world.wait(60)
    assert (told, world.status(entry(2).id)) == ([], "pending")


def test_only_what_can_be_claimed_is_announced_when_a_manifest_comes_into_force(world: World) -> None:
    jobs = [entry(1), entry(2, Requirement("gbt", min_ram_gib=1))]
    world.load(jobs)
    world.running("pi")
    told = announced(world)
    world.load(jobs)
    assert [set(ready) for ready in told] == [{2}]


def test_a_preferred_job_of_another_kind_does_not_stand_in_for_one_that_waited(world: Parked) -> None:
    lease = busy_tower(world, entry(1, PREFERS))
    wait_and_beat(world, lease, 300)
    later = Requirement("gbt", prefer_cuda=True, min_ram_gib=1)
    jobs = [entry(0, Requirement("gbt", require_cuda=True)), entry(1, PREFERS), entry(2, later, priority=1)]
    world.load(jobs)
    wait_and_beat(world, lease, 300)
    assert world.claim("pi").job_id == entry(1).id
    assert world.claim("server") is None
    world.sweep()
    assert set(world.queue._memory.hosts.overdue) == set()


def test_the_best_job_of_a_kind_is_the_one_that_must_have_waited(world: Parked) -> None:
    lease = busy_tower(world, entry(1, PREFERS))
    wait_and_beat(world, lease, 300)
    world.load([entry(0, Requirement("gbt", require_cuda=True)), entry(1, PREFERS), entry(2, PREFERS, priority=1)])
    wait_and_beat(world, lease, 300)
    assert world.claim("pi") is None
    wait_and_beat(world, lease, 300)
    assert world.claim("pi").job_id == entry(2).id


def test_the_end_of_a_fault_delay_announces_no_job_that_waits_for_its_next_try(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running("pi"), "host_fault")
    world.now += 20
    world.fail(world.running("server"), "trainer_error")
    told = announced(world)
    world.wait(29)
    assert told == []
    world.wait(1)
    assert told == [{1: 1}]


def test_a_kind_of_job_is_overdue_when_its_own_best_job_has_waited(world: World) -> None:
    other = Requirement("gbt", min_ram_gib=1)
    world.load([entry(1), entry(2, other)])
    world.now += 100
    world.load([entry(1), entry(2, other), entry(3, priority=5)])
    rows = world.do(lambda tx: tx.all(OVERDUE, requirements="[1, 2]", waited_since=50))
    assert [(row.requirement, row.seq) for row in rows] == [(2, 2)]


def announced(world: World) -> list[dict[int, int]]:
    told: list[dict[int, int]] = []
    world.queue.on_ready(lambda ready: told.append(dict(ready)))
    return told


def test_where_no_host_has_cuda_no_job_that_prefers_it_is_announced_a_second_time(world: World) -> None:
    world.load([entry(1, PREFERS)])
    told = announced(world)
    for _ in range(8):
        world.wait(100)
        world.sweep()
    assert told == []


def test_a_job_that_does_not_prefer_cuda_is_not_announced_when_it_has_waited(world: Parked) -> None:
    lease = busy_tower(world, entry(1))
    told = announced(world)
    wait_and_beat(world, lease, 800)
    assert told == []


def test_the_end_of_its_wait_wakes_a_host_that_gave_back_too_much(world: Parked) -> None:
    world.load([entry(number) for number in range(10)])
    for _ in range(9):
        world.fail(world.claim("pi"), "preempted")
    place = world.park("pi")
    world.wait(29)
    assert world.take(place) == "asleep"
    world.wait(1)
    assert world.take(place) is not None


def test_a_slot_that_becomes_free_wakes_its_host(world: Parked) -> None:
    world.load([entry(1), entry(2)], {"pi": Policy(slots=1), "default": Policy(deny_jobs=("*",))})
    lease = world.running("pi")
    other, place = world.park("server"), world.park("pi", (lease.lease_id,))
    world.complete(lease)
    assert world.take(other) == "asleep"
    assert world.take(place, (lease.lease_id,)).job_id == entry(2).id


def test_a_slot_that_becomes_free_wakes_nobody_without_a_job(world: Parked) -> None:
    world.load([entry(1)])
    lease = world.running("pi")
    place = world.park("pi", (lease.lease_id,))
    world.complete(lease)
    assert world.take(place) == "asleep"


def test_a_slot_that_becomes_free_announces_nothing_without_a_job(world: World) -> None:
    world.load([entry(1)])
    lease = world.running("pi")
    assert world.claim("pi", (lease.lease_id,)) is None
    told = announced(world)
    world.complete(lease)
    assert told == []


def test_a_slot_that_a_failure_frees_wakes_its_host(world: Parked) -> None:
    world.load([entry(1), entry(2)])
    lease = world.running("pi")
    place = world.park("pi", (lease.lease_id,))
    world.fail(lease, "trainer_error")
    assert world.take(place).job_id == entry(2).id


def test_a_manifest_that_lets_a_host_do_more_wakes_it(world: Parked) -> None:
    world.load([entry(1)], {"pi": Policy(deny_jobs=("*",))})
    place = world.park("pi")
    world.load([entry(1)], {"pi": Policy()})
    assert world.take(place).job_id == entry(1).id


@pytest.mark.parametrize(
    ("terms", "longest_s"),
    [
        (Terms(), 5.0),
        (Terms(ack_s=2, lease_s=3), 2.0),
        (Terms(lease_s=1), 1.0),
        (Terms(backoff_s=0.5), 0.25),
        (Terms(backoff_s=60, backoff_cap_s=1), 0.5),
        (Terms(backoff_s=0), 5.0),
        (Terms(backoff_s=0.001), 0.05),
    ],
)
def test_the_sweeper_sleeps_no_longer_than_what_begins_meanwhile(terms: Terms, longest_s: float) -> None:
    assert Queue(terms=terms).longest_sleep_s == longest_s


def test_an_idle_sweep_writes_nothing_and_wakes_nobody(world: Parked) -> None:
    world.load([entry(1, Requirement("gbt", allowed_hosts=("other",)))])
    place = world.park("pi")
    world.sweep()
    before = world.queue.revision
    world.sweep()
    assert (world.queue.revision, place.offer, world.queue.next_deadline()) == (before, None, None)


def test_a_beat_between_sweeps_is_not_lost(world: Parked) -> None:
    """The tower beats from memory only; that keeps its preferred jobs from others."""
    lease = busy_tower(world, entry(1, PREFERS))
    for _ in range(4):
        world.wait(149)
        assert world.queue.beat(lease.job_id, Heartbeat(lease.lease_id)) is not None
        world.sweep()
    assert world.claim("pi") is None


def test_the_sweeper_is_needed_at_the_end_of_a_fault_delay_and_announces_it_once(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running("pi"), "host_fault")
    assert world.queue.next_deadline() == 1030.0
    told = announced(world)
    world.now = 1030.0
    for _ in range(3):
        world.sweep()
    assert told == [{1: 1}]
    assert world.queue.next_deadline() is None


def test_the_history_says_why_a_lease_ran_out(world: World) -> None:
    world.load([entry(1), entry(2)])
    started, unstarted = world.running("pi"), world.claim("tower")
    world.wait(600)
    why = [world.detail(lease.job_id).events[-1].why for lease in (started, unstarted)]
    assert why == ["no heartbeat from pi for the whole lease", "tower did not acknowledge the job in time"]


def test_a_job_that_waited_long_enough_is_announced_once(world: World) -> None:
    lease = busy_tower(world, entry(1, PREFERS))
    world.sweep()
    told = announced(world)
    wait_and_beat(world, lease, 800)
    assert told == [{2: 1}]


def test_when_hosts_with_cuda_go_only_what_they_were_left_is_announced(world: World) -> None:
    world.load([entry(1, PREFERS), entry(2, Requirement("gbt", min_ram_gib=64))])
    world.complete(world.claim(TOWER))
    world.load([entry(2, Requirement("gbt", min_ram_gib=64)), entry(3, PREFERS)], allow_shrink=True)
    told = announced(world)
    world.now += 601
    world.sweep()
    assert told == [{1: 1}]


def test_counting_the_jobs_of_a_kind_takes_no_announcement_from_the_sweeper(world: Parked) -> None:
    lease = busy_tower(world, entry(1, PREFERS))
    place = world.park("pi")
    wait_and_beat(world, lease, 500)
    world.now += 100
    assert world.do(lambda tx: world.queue.claimable(tx, 2)) == 1
    world.sweep()
    assert world.take(place).job_id == entry(1).id


def test_a_kind_whose_best_job_has_just_come_is_left_to_cuda_again_and_the_others_are_not(world: Parked) -> None:
    other = Requirement("gbt", prefer_cuda=True, min_ram_gib=1)
    lease = busy_tower(world, entry(1, PREFERS), entry(2, other))
    wait_and_beat(world, lease, 300)
    world.load([entry(0, Requirement("gbt", require_cuda=True)), *(entry(n, PREFERS) for n in (1, 3)), entry(2, other)])
    wait_and_beat(world, lease, 300)
    assert world.claim("pi").job_id == entry(1).id
    assert [world.queue._memory.hosts.eligible(number, "pi") for number in (2, 3)] == [True, True]
    assert world.do(lambda tx: world.queue.claimable(tx, 2)) == 1
    assert [world.queue._memory.hosts.eligible(number, "pi") for number in (2, 3)] == [False, True]


def test_a_host_that_waits_for_its_next_job_is_not_woken_for_an_older_one_before(world: World) -> None:
    world.load([entry(number) for number in range(10)])
    world.fail(world.claim("pi"), "host_fault")
    for _ in range(7):
        world.fail(world.claim("pi"), "preempted")
    world.now += 0.5
    world.fail(world.claim("pi"), "preempted")
    told = announced(world)
    world.wait(29.5)
    assert told == []
    world.wait(0.5)
    assert told == [{1: 1}]


def test_the_end_of_its_wait_announces_nothing_where_no_job_waits_that_the_host_can_run(world: World) -> None:
    world.load([*(entry(number) for number in range(9)), entry(9, Requirement("gbt", min_ram_gib=64))])
    for _ in range(9):
        world.fail(world.claim("pi"), "preempted")
    for number in range(9):
        world.cancel(entry(number).id)
    told = announced(world)
    world.wait(60)
    assert told == []


def test_the_end_of_a_delay_announces_no_job_that_was_cancelled_meanwhile(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running("pi"))
    world.cancel(entry(1).id)
    told = announced(world)
    world.wait(60)
    assert (told, world.queue.next_deadline()) == ([], None)
