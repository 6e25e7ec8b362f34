from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.queue_world import Engine, World, entry, host, open_world, repeated
from training.fleet.database.queries import ADD_REQUIREMENT, REMEMBERED
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.errors import ConflictError, StorageFullError
from training.fleet.model.jobs import DatasetRef, Policy, Requirement, Terms
from training.fleet.queue.clock import wall_label
from training.fleet.queue.hosts import Hosts
from training.fleet.queue.in_force import InForce
from training.fleet.queue.leases import Leases
from training.fleet.queue.stored import requirement_from, requirement_json
from training.fleet.wire.worker import Complete, Heartbeat, Progress


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[World]:
    with open_world(tmp_path, engine=engine) as opened:
        yield opened


SPARE = Requirement("gbt", min_ram_gib=3)


def refuse_commits(world: World) -> Any:
    """Let every commit fail as on a full disk; return what undoes that."""
    cursor = world.database._transaction._cursor

    class Refusing:
        def execute(self, text: str, *values: Any) -> Any:
            if text.startswith("COMMIT"):
                cursor.execute("ROLLBACK")
                error = sqlite3.OperationalError("full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return cursor.execute(text, *values)

        def __getattr__(self, name: str) -> Any:
            return getattr(cursor, name)

    world.database._transaction._cursor = Refusing()  # type: ignore[assignment]
    return lambda: setattr(world.database._transaction, "_cursor", cursor)


def test_wall_labels_are_utc_with_milliseconds() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", wall_label())


def test_a_lease_whose_end_did_not_become_durable_gets_a_full_term(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.beat(lease, Progress(3, 9))
    world.wait(599)
    world.now += 1
    mend = refuse_commits(world)
    with pytest.raises(StorageFullError):
        world.sweep()
    mend()
    world.wait(599)
    assert world.status(lease.job_id) == "running"
    assert world.job(lease.job_id).progress == Progress(3, 9)
    world.wait(1)
    assert world.status(lease.job_id) == "pending"


def test_a_requirement_that_did_not_become_durable_is_made_again(world: World) -> None:
    world.load([entry(1)])
    lease = world.running("pi")
    mend = refuse_commits(world)
    with pytest.raises(StorageFullError):
        world.fail(lease, "oom_ram")
    mend()
    assert world.fail(lease, "oom_ram").status == "pending"
    world.restart()
    assert world.detail(lease.job_id).constraints["over_ram_gib"] == 16


def test_a_requirement_known_before_is_known_after_a_change_that_did_not_become_durable(world: World) -> None:
    world.load([entry(1, max_attempts=1)])
    world.fail(world.running("pi"))
    mend = refuse_commits(world)
    with pytest.raises(StorageFullError):
        world.requeue(entry(1).id)
    mend()
    assert world.queue._memory.hosts.requirement_ids() == [1]
    world.requeue(entry(1).id)
    assert world.claim("pi").job_id == entry(1).id


def test_a_requirement_whose_removal_did_not_become_durable_is_known_again(world: World) -> None:
    world.load([entry(1)])
    world.do(lambda tx: tx.one(ADD_REQUIREMENT, digest="spare", body=requirement_json(SPARE)))
    world.restart()
    assert world.queue._memory.hosts.requirement_id(SPARE) == 2
    mend = refuse_commits(world)
    with pytest.raises(StorageFullError):
        world.do(lambda tx: world.queue.load.drop_requirements(tx, [1, 2]))
    mend()
    assert world.queue._memory.hosts.requirement_id(SPARE) == 2
    world.do(lambda tx: world.queue.load.drop_requirements(tx, [1, 2]))
    assert world.queue._memory.hosts.requirement_ids() == [1]
    assert world.claim().job_id == entry(1).id


def test_a_lease_that_ended_while_the_sweeper_took_it_is_left_alone(world: World) -> None:
    """The result and the sweep are in one batch: memory follows only after the commit of both."""
    world.load([entry(1)])
    lease = world.running()
    world.do(lambda tx: world.queue.artifacts.add(tx, ArtifactKey("a" * 64, "gbt", "realistic"), 1))
    for _ in range(150):
        world.now += 4
        world.sweep()

    def both(tx: Any) -> None:
        world.queue.complete(tx, lease.job_id, Complete(lease.lease_id, "a" * 64))
        world.queue._memory.leases.put(1, lease.job_id, lease.lease_id, "pi", running=True)
        world.now += 601
        for _ in range(130):
            world.now += 5
            world.queue.sweep(tx)

    world.do(both)
    assert world.status(lease.job_id) == "completed"
    assert world.queue.next_deadline() is None


def test_a_beat_that_is_being_answered_wins_over_the_sweep_behind_it(world: World) -> None:
    """The slow heartbeat and the sweep are in one batch, and the deadline is over already."""
    world.load([entry(1)])
    lease = world.running()
    world.wait(599)
    world.now += 1

    def both(tx: Any) -> None:
        world.queue.heartbeat(tx, lease.job_id, Heartbeat(lease.lease_id))
        world.queue.sweep(tx)

    world.do(both)
    assert world.status(lease.job_id) == "running"
    assert world.queue.beat(lease.job_id, Heartbeat(lease.lease_id)) is not None


def test_a_change_in_force_that_was_undone_is_not_followed(world: World) -> None:
    world.load([entry(1)])

    def fail_late(tx: Any) -> None:
        with world.queue.load.begin_manifest(tx, world.header(0, {}), "operator:test") as change:
            world.queue.load.finish_manifest(tx, change)
        raise ConflictError("no")

    with pytest.raises(ConflictError):
        world.do(fail_late)
    assert world.claim("pi") is not None


def test_writing_a_job_that_is_as_wanted_already_changes_nothing(world: World) -> None:
    """Another reload may have written it between the comparison and the writing."""
    world.load([entry(1)])

    def twice(tx: Any) -> None:
        with world.queue.load.begin_manifest(tx, world.header(1), "operator:test") as change:
            world.queue.load.compare_jobs(tx, change, [entry(1, priority=3)])
            writes = list(change.writes())
            world.queue.load.write_jobs(tx, change, writes)
            world.queue.load.write_jobs(tx, change, writes)

    world.ready.clear()
    world.do(twice)
    assert world.events(entry(1).id) == ["add", "change"]
    assert world.ready == [{1: 1}]


def test_claimable_jobs_are_counted_up_to_64(world: World) -> None:
    world.load([entry(number) for number in range(70)])

    def claimable(requirement: int) -> Any:
        return world.do(lambda tx: world.queue.claimable(tx, requirement))

    assert (claimable(1), claimable(2)) == (64, 0)


def test_the_fleet_clock_is_written_once_a_minute(world: World) -> None:
    def kept(second: int) -> str | None:
        world.now = 1000.0 + second
        world.sweep()
        row = world.do(lambda tx: tx.one(REMEMBERED, key="fleet_clock_s"))
        return row and row.value

    assert [kept(second) for second in (1, 59, 60, 61, 119, 120)] == [None, None, "60", "60", "60", "120"]


def test_the_fleet_clock_loses_at_most_a_minute_in_a_crash(world: World) -> None:
    world.load([entry(1)])
    lease = world.claim()
    for _ in range(10):
        world.wait(95)
        world.beat(lease)
    lived = world.queue._memory.clock.tick()
    assert lived == 950
    world.restart()
    assert lived - 95 <= world.queue._memory.clock.tick() <= lived


def test_requirements_keep_their_form_in_the_database() -> None:
    for requirement in (
        Requirement("gbt"),
        Requirement("gbt", True, True, 1.5, 2, ("a*", "b"), DatasetRef("lab", "sha256:1"), "sha256:2", 3, 4),
    ):
        assert requirement_from(requirement_json(requirement)) == requirement


# ---- leases


def test_leases_are_listed_by_worker() -> None:
    leases = Leases(lambda: 0.0, Terms())
    leases.put(1, "job-1", "lease-1", "pi", running=True)
    leases.put(2, "job-2", "lease-2", "pi", running=False)
    leases.put(3, "job-3", "lease-3", "server", running=False)
    assert [lease.seq for lease in leases.held_by("pi")] == [1, 2]
    assert (len(leases), leases.holders(), leases.get(None)) == (3, {"pi", "server"}, None)
    for lease_id in ("lease-1", "lease-2", "lease-1"):
        leases.drop(lease_id)
    assert (leases.held_by("pi"), leases.holders()) == ([], {"server"})


def test_lease_that_is_gone_takes_no_message() -> None:
    leases = Leases(lambda: 0.0, Terms())
    leases.extend("gone")
    leases.ask_to_stop("gone")
    leases.report("gone", Progress(1))
    assert leases.beat("job", "gone", None, ()) is None
    assert leases.next_sweep() is None


def test_one_sweep_ends_a_bounded_number_of_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.fleet.queue.leases.MAX_EXPIRED", 2)
    now = [0.0]
    leases = Leases(lambda: now[0], Terms())
    for number in range(3):
        leases.put(number, f"job-{number}", f"lease-{number}", "pi", running=False)
        now[0] += 1
    while now[0] < 95:
        now[0] += 4
        over = leases.take_expired()
    assert [lease.seq for lease in over] == [0, 1]
    assert [lease.seq for lease in leases.take_expired()] == [2]


# ---- hosts


def test_hosts_without_a_policy_can_be_given_nothing() -> None:
    hosts = Hosts(lambda: 0.0, Terms())
    hosts.seen("stranger")
    hosts.learn(1, Requirement("gbt"))
    hosts.bring_in_force(InForce(hosts={"pi": Policy()}))
    hosts.note_capability(host("pi"))
    hosts.note_capability(host("tower", vram_gib=12))
    assert hosts.eligible(1, "pi")
    assert not hosts.eligible(1, "tower")
    hosts.bring_in_force(InForce(hosts={"server": Policy()}))
    assert not hosts.eligible(1, "pi")


def test_a_changed_host_is_judged_anew() -> None:
    hosts = Hosts(lambda: 0.0, Terms())
    hosts.bring_in_force(InForce(hosts={"default": Policy()}))
    hosts.learn(1, Requirement("gbt", min_ram_gib=32))
    assert hosts.note_capability(host("pi", ram_gib=16))
    assert not hosts.eligible(1, "pi")
    assert not hosts.note_capability(host("pi", ram_gib=16, free_disk_bytes=7))
    assert hosts.note_capability(host("pi", ram_gib=32))
    assert hosts.eligible(1, "pi")


def test_a_host_with_cuda_stops_counting_when_it_is_away_or_no_longer_admitted() -> None:
    now = [0.0]
    hosts = Hosts(lambda: now[0], Terms())
    hosts.bring_in_force(InForce(hosts={"default": Policy()}))
    hosts.learn(1, Requirement("gbt", prefer_cuda=True))
    hosts.note_capability(host("pi"))
    assert hosts.eligible(1, "pi")
    hosts.note_capability(host("tower", vram_gib=12))
    assert not hosts.eligible(1, "pi")
    assert hosts.offer("pi").free == "{}"
    now[0] = 601.0
    hosts.find_live_cuda()
    assert hosts.eligible(1, "pi")
    assert hosts.offer("pi").waiting == "{}"
    hosts.seen("tower")
    hosts.find_live_cuda()
    assert not hosts.eligible(1, "pi")
    hosts.bring_in_force(InForce(hosts={"pi": Policy()}))
    assert hosts.eligible(1, "pi")


def test_a_host_with_cuda_that_may_not_use_it_keeps_nothing_from_others() -> None:
    hosts = Hosts(lambda: 0.0, Terms())
    hosts.bring_in_force(InForce(hosts={"default": Policy(), "tower": Policy(cuda=False)}))
    hosts.learn(1, Requirement("gbt", prefer_cuda=True))
    hosts.note_capability(host("pi"))
    hosts.note_capability(host("tower", vram_gib=12))
    assert hosts.eligible(1, "pi")


def test_others_wait_for_a_host_with_cuda_only_as_long_as_it_is_large_enough() -> None:
    hosts = Hosts(lambda: 0.0, Terms())
    hosts.bring_in_force(InForce(hosts={"default": Policy()}))
    hosts.learn(1, Requirement("gbt", prefer_cuda=True, min_ram_gib=16))
    hosts.note_capability(host("pi"))
    hosts.note_capability(host("tower", vram_gib=12, ram_gib=32))
    assert hosts.offer("pi").free == "{}"
    hosts.note_capability(host("tower", vram_gib=12, ram_gib=8))
    assert hosts.offer("pi").waiting == "{}"


def test_nothing_is_left_to_a_host_whose_card_something_else_uses() -> None:
    hosts = Hosts(lambda: 0.0, Terms())
    hosts.bring_in_force(InForce(hosts={"default": Policy()}))
    hosts.learn(1, Requirement("gbt", prefer_cuda=True))
    hosts.note_capability(host("pi"))
    tower = host("tower", vram_gib=12)
    hosts.note_capability(replace(tower, gpus=(replace(tower.gpus[0], free_vram_bytes=0),)))
    assert hosts.eligible(1, "pi")
    hosts.note_capability(tower)
    assert not hosts.eligible(1, "pi")


def test_the_totals_of_artifacts_are_those_of_the_rows_whenever_they_are_asked_for_first(world: World) -> None:
    def add(sha256: str, size_bytes: int) -> bool:
        key = ArtifactKey(sha256, "gbt", "realistic")
        return bool(world.do(lambda tx: world.queue.artifacts.add(tx, key, size_bytes)))

    assert add("a" * 64, 10)
    assert world.do(world.queue.artifacts.totals) == (1, 10)
    assert add("b" * 64, 5)
    assert world.do(world.queue.artifacts.totals) == (2, 15)
    assert not add("b" * 64, 5)
    assert world.do(world.queue.artifacts.totals) == (2, 15)


def test_a_live_lease_has_its_worker_for_its_holder_and_any_other_none(world: World) -> None:
    world.load([entry(1)])
    lease = world.running("pi")
    assert world.queue.live_holder(lease.lease_id) == "pi"
    assert world.queue.live_holder("no-such-lease") is None
    world.complete(lease)
    assert world.queue.live_holder(lease.lease_id) is None


def test_a_step_after_a_commit_that_goes_wrong_is_noticed_by_these_tests(world: World) -> None:
    """The database only logs it, so a test that hears nothing of it would pass with a memory that is wrong."""

    def wrong() -> None:
        raise ValueError("memory does not follow")

    with pytest.raises(AssertionError, match="memory does not follow"):
        world.do(lambda tx: tx.after_commit(wrong))
    with pytest.raises(AssertionError, match="memory does not follow"):
        repeated(world.database, lambda tx: (tx.may_run_twice(), tx.after_commit(wrong)))


def test_each_end_of_an_attempt_is_told_with_what_its_worker_reported_and_how_long_it_took(world: World) -> None:
    told: list[tuple[str, str | None, float]] = []
    world.queue.on_ended(lambda ended: told.append((ended.outcome, ended.kind, ended.held_s)))
    world.load([entry(1), entry(2)])
    lease = world.running("pi")
    world.now += 7
    world.fail(lease, "oom_gpu")
    lease = world.running("server")
    world.now += 5
    world.complete(lease)
    assert told == [("failed", "oom_gpu", 7.0), ("completed", None, 5.0)]
