"""A host that fails everything is held back; a job that fails everywhere is not its fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from queue_world import Engine, World, entry, host, open_world

from training.fleet.model.jobs import Policy
from training.fleet.wire.worker import Fail

HOSTS = {"good": Policy(slots=8), "bad": Policy(slots=4)}


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[World]:
    with open_world(tmp_path, engine=engine) as opened:
        opened.load([entry(number) for number in range(16)], HOSTS)
        yield opened


def fails_on(world: World, name: str) -> str:
    lease = world.running(name)
    world.fail(lease, "trainer_error", "ImportError: libcudart")
    return str(lease.job_id)


def suspected(world: World) -> World:
    """Let `bad` fail three jobs while `good` is heard."""
    world.claim("good")
    for _ in range(3):
        fails_on(world, "bad")
    assert world.queue.suspects() == {"bad": 3}
    return world


def test_a_job_that_failed_goes_to_another_host_first(world: World) -> None:
    world.claim("good")
    failed = fails_on(world, "bad")
    world.wait(60)
    held: list[str] = []
    while (lease := world.claim("bad", held)) is not None:
        assert lease.job_id != failed
        held.append(lease.lease_id)


def test_a_job_of_a_lone_host_waits_for_nobody(world: World) -> None:
    failed = fails_on(world, "bad")
    world.wait(31)
    assert world.claim("bad").job_id == failed


def test_the_third_job_in_a_row_holds_a_host_back_and_costs_nothing(world: World) -> None:
    suspected(world)
    assert world.claim("bad") is None
    used = [world.detail(entry(number).id).job.attempts_used for number in (1, 2, 3)]
    assert used == [1, 1, 0]
    event = world.detail(entry(3).id).events[-1]
    assert "bad fails everything it is given, so this costs the job nothing" in event.why


def test_a_suspect_tries_one_job_at_a_time_after_growing_delays(world: World) -> None:
    suspected(world)
    world.wait(31)
    lease = world.running("bad")
    assert world.claim("bad", [lease.lease_id]) is None
    world.fail(lease, "trainer_error")
    world.wait(31)
    assert world.claim("bad") is None
    world.wait(61)
    assert world.claim("bad") is not None


def test_a_result_clears_a_suspect(world: World) -> None:
    suspected(world)
    world.wait(31)
    lease = world.running("bad")
    world.complete(lease)
    assert world.queue.suspects() == {}
    assert world.detail(lease.job_id).events[-1].why == "bad works again"
    first = world.claim("bad")
    assert world.claim("bad", [first.lease_id]) is not None


def test_jobs_that_fail_on_two_hosts_speak_against_neither(world: World) -> None:
    held = world.claim("good")
    jobs = [fails_on(world, "bad"), fails_on(world, "bad")]
    world.wait(31)
    lease = world.claim("good", [held.lease_id])
    world.beat(lease)
    assert lease.job_id in jobs
    world.fail(lease, "trainer_error")
    fails_on(world, "bad")
    assert world.queue.suspects() == {}


def test_one_job_that_fails_again_and_again_is_no_evidence(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "one").mkdir()
    with open_world(tmp_path / "one", engine=engine) as world:
        world.load([entry(1, max_attempts=5)], HOSTS)
        for _ in range(4):
            world.wait(3600)
            world.queue._memory.hosts.note_capability(host("good"))
            fails_on(world, "bad")
        assert world.queue.suspects() == {}


def test_memory_that_ran_out_speaks_against_no_host(world: World) -> None:
    world.claim("good")
    for _ in range(4):
        world.fail(world.running("bad"), "oom_ram")
    assert world.queue.suspects() == {}


def test_a_lone_host_is_held_back_late_and_its_jobs_pay(world: World) -> None:
    for _ in range(11):
        fails_on(world, "bad")
    assert world.queue.suspects() == {}
    last = fails_on(world, "bad")
    assert world.queue.suspects() == {"bad": 12}
    assert world.detail(last).job.attempts_used == 1
    assert world.claim("bad") is None


def test_a_failure_that_is_undone_is_no_evidence(world: World) -> None:
    world.claim("good")
    for _ in range(2):
        fails_on(world, "bad")
    lease = world.running("bad")

    def broken(tx: object) -> None:
        world.queue.fail(tx, lease.job_id, Fail(lease.lease_id, "trainer_error"))  # type: ignore[arg-type]
        raise RuntimeError("the disk")

    with pytest.raises(RuntimeError):
        world.do(broken)
    assert world.queue.suspects() == {}


def test_people_are_told_of_a_suspect(world: World) -> None:
    suspected(world)
    (bad,) = (row for row in world.queue.workers().workers if row.name == "bad")
    assert bad.alerts[0].startswith("fails everything: 3 jobs in a row failed here since its last result; it gets one")
    world.wait(31)
    assert "bad failed everything lately" in world.do(lambda tx: world.queue.why(tx, entry(9).id)).summary


def test_a_full_disk_costs_the_job_nothing(world: World) -> None:
    lease = world.running("bad")
    world.fail(lease, "disk_full")
    assert world.detail(lease.job_id).job.attempts_used == 0
    assert world.claim("good").job_id == entry(0).id
