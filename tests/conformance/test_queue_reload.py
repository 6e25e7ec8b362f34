from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.queue_world import Engine, World, entry, host, open_world
from training.fleet.database.queries import JOB, JOBS_NUMBERED, REQUIREMENTS
from training.fleet.model.errors import FleetError, PreconditionError, WouldShrinkError
from training.fleet.model.jobs import DatasetRef, Policy, Requirement, Trainer
from training.fleet.queue import change, reload
from training.fleet.queue.stored import requirement_from
from training.fleet.wire.people import Plan, PlannedJob
from training.fleet.wire.worker import Beat


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[World]:
    with open_world(tmp_path, engine=engine) as opened:
        yield opened


def order(world: World, worker: str = "pi") -> list[int]:
    """Claim everything; return the numbers of the jobs in the order they were given."""
    by_id = {entry(number).id: number for number in range(2000)}
    given = []
    while (lease := world.claim(worker)) is not None:
        given.append(by_id[lease.job_id])
        assert len(given) <= len(by_id), "claims have no end"
        world.complete(lease)
    return given


def counts(plan: Plan) -> dict[str, int]:
    return {key: value for key, value in plan.counts.items() if value}


def test_a_plan_changes_nothing(world: World) -> None:
    assert counts(world.plan([entry(1), entry(2)])) == {"added": 2}
    assert sum(world.queue.counts().values()) == 0
    assert world.queue._memory.hosts.in_force.digest == ""


def test_a_job_is_never_claimable_before_its_manifests_trainer_is_in_force(world: World) -> None:
    """A worker that waits gets a new job while the rest of the manifest is still being written."""
    seen: list[tuple[str, ...]] = []
    world.queue.on_ready(lambda _ready: seen.append(world.queue._memory.hosts.in_force.trainer.command))
    world.load([entry(1)], trainer=Trainer(command=("forest",)))
    assert set(seen) == {("forest",)}


def test_a_manifest_that_could_not_be_written_leaves_the_rules_of_the_one_before(world: World) -> None:
    world.load([entry(1)])
    before = world.queue._memory.hosts.in_force
    world.queue.load.write_jobs = _broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="the disk is gone"):
        world.load([entry(1), entry(2)], trainer=Trainer(command=("forest",)))
    assert world.queue._memory.hosts.in_force == before


def _broken(*_args: Any, **_more: Any) -> None:
    raise RuntimeError("the disk is gone")


def test_a_plan_and_the_reload_after_it_agree(world: World) -> None:
    world.load([entry(1), entry(2), entry(3)])
    wanted = [entry(1), entry(2, priority=4), entry(4)]
    plan = world.plan(wanted, digest="d" * 64)
    assert counts(plan) == {"added": 1, "changed": 1, "unchanged": 1, "dropped": 1}
    assert plan.changed == [PlannedJob(entry(2).id, "gbt", "realistic", {"priority": [0, 4]})]
    assert [job.id for job in plan.dropped] == [entry(3).id]
    done = world.load(wanted, digest="d" * 64, allow_shrink=True, if_plan=plan.digest)
    assert done == plan


def test_the_same_manifest_again_changes_nothing(world: World) -> None:
    jobs = [entry(number) for number in range(600)]
    assert counts(world.load(jobs)) == {"added": 600}
    assert counts(world.load(jobs)) == {"unchanged": 600}
    assert world.events(entry(1).id) == ["add"]


def test_what_is_in_force_survives_a_restart(world: World) -> None:
    hosts = {"pi": Policy(("gbt",), ("mlp",), 2, True, 12, 32)}
    datasets = {"lab": DatasetRef("lab", "sha256:1")}
    trainer = Trainer(("run", "it"), "sha256:2")
    world.load([entry(1)], hosts, datasets=datasets, trainer=trainer, contract="sha256:2")
    before = world.queue._memory.hosts.in_force
    assert (before.count, before.applied_at, before.own_contract) == (1, world.wall, None)
    world.restart()
    assert world.queue._memory.hosts.in_force == before


def test_existing_jobs_keep_their_status(world: World) -> None:
    jobs = [entry(number) for number in range(4)]
    world.load(jobs)
    world.complete(world.running())
    lease = world.running()
    world.cancel(entry(3).id)
    assert counts(world.load([entry(number, priority=7) for number in range(4)])) == {"changed": 4}
    assert [world.status(entry(number).id) for number in range(4)] == ["completed", "running", "pending", "cancelled"]
    assert world.beat(lease) == Beat(600.0)


def test_changed_constraints_are_named_field_by_field_and_count_at_once(world: World) -> None:
    world.load([entry(1)])
    needs = Requirement("gbt", min_ram_gib=64, allowed_hosts=("server",), dataset=DatasetRef("lab"))
    plan = world.load([entry(1, needs, max_attempts=5, timeout_s=60)])
    assert plan.changed[0].change == {
        "min_ram_gib": [0, 64],
        "allowed_hosts": [(), ("server",)],
        "dataset": [None, {"name": "lab", "digest": None}],
        "timeout_s": [86400, 60],
        "max_attempts": [3, 5],
    }
    assert world.claim("pi") is None
    why = world.detail(entry(1).id).events[-1].why
    assert "min_ram_gib 0 becomes 64" in why


def test_a_job_that_becomes_eligible_wakes_parked_claims(world: World) -> None:
    world.load([entry(1, Requirement("gbt", min_ram_gib=64))])
    world.ready.clear()
    world.load([entry(1)])
    assert {2: 1} in world.ready


def test_a_manifest_that_would_drop_jobs_needs_leave(world: World) -> None:
    world.load([entry(number) for number in range(8)])
    with pytest.raises(WouldShrinkError, match=r"7 jobs of the queue \(.*, …\).*--allow-shrink"):
        world.load([entry(0, priority=9)])
    with pytest.raises(WouldShrinkError, match=r"1 job of the queue"):
        world.load([entry(number) for number in range(7)])
    assert world.job(entry(0).id).priority == 0
    assert world.job(entry(7).id).named


def test_dropped_jobs_stay_until_they_are_cancelled_and_can_come_back(world: World) -> None:
    world.load([entry(1), entry(2)])
    assert counts(world.load([entry(1)], allow_shrink=True)) == {"unchanged": 1, "dropped": 1}
    assert not world.job(entry(2).id).named
    assert counts(world.load([entry(1)])) == {"unchanged": 1}
    back = world.load([entry(1), entry(2)])
    assert back.changed[0].change == {"named": [False, True]}
    assert world.job(entry(2).id).named
    assert world.events(entry(2).id) == ["add", "drop", "restore"]


def test_a_job_is_dropped_once(world: World) -> None:
    jobs = [entry(number) for number in range(1, 5)]
    world.load(jobs)
    world.load(jobs[:3], allow_shrink=True)
    plan = world.load(jobs[:2], allow_shrink=True)
    assert [job.id for job in plan.dropped] == [entry(3).id]
    assert world.events(entry(4).id) == ["add", "drop"]
    found = world.do(lambda tx: tx.all(JOBS_NUMBERED, seqs="[1, 2, 3, 4]"))
    assert [row.seq for row in found] == [1, 2]


def test_a_plan_that_has_moved_is_refused(world: World) -> None:
    world.load([entry(1)])
    plan = world.plan([entry(1), entry(2)], digest="e" * 64)
    world.load([entry(1), entry(2)])
    with pytest.raises(PreconditionError, match="look at the plan again"):
        world.load([entry(1), entry(2)], digest="e" * 64, if_plan=plan.digest)


def test_a_plan_whose_changes_are_others_now_is_refused(world: World) -> None:
    """The file is the same and so are the jobs that change; what they change from is not."""
    world.load([entry(1, priority=1)])
    wanted = [entry(1, priority=5)]
    seen = world.plan(wanted, digest="d" * 64)
    world.load([entry(1, priority=2)])
    with pytest.raises(PreconditionError):
        world.load(wanted, digest="d" * 64, if_plan=seen.digest)


def test_another_file_is_another_plan(world: World) -> None:
    first = world.plan([entry(1)], digest="e" * 64)
    assert first.digest == world.plan([entry(1)], digest="e" * 64).digest
    assert first.digest != world.plan([entry(1)], digest="f" * 64).digest


def test_a_plan_says_which_hosts_could_run_what(world: World) -> None:
    world.load([entry(1)])
    world.claim("pi")
    hosts = {"pi": Policy(), "tower": Policy(cuda=True)}
    needs = [Requirement("gbt"), Requirement("gbt", require_cuda=True), Requirement("gbt", allowed_hosts=("nobody",))]
    plan = world.plan([entry(number + 10, need) for number, need in enumerate(needs)], hosts)
    assert [job.hosts for job in plan.added] == [["pi", "tower"], ["tower"], []]
    assert plan.stranded == [entry(12).id]
    assert plan.counts["stranded"] == 1


def test_a_job_that_a_newcomer_could_run_is_not_stranded(world: World) -> None:
    plan = world.plan([entry(1), entry(2, Requirement("gbt", require_cuda=True))], {"default": Policy()})
    assert plan.stranded == [entry(2).id]


def test_warnings_are_passed_on(world: World) -> None:
    assert world.plan([entry(1)], warnings=("jobs 3 and 4 are twins",)).warnings == ["jobs 3 and 4 are twins"]


def test_lists_of_a_plan_are_bounded_and_counts_exact(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change, "MAX_LISTED", 3)
    plan = world.plan([entry(number) for number in range(10)], {})
    assert (len(plan.added), len(plan.stranded)) == (3, 3)
    assert (plan.counts["added"], plan.counts["stranded"]) == (10, 10)


# ---- order


def test_jobs_run_in_the_order_of_the_manifest(world: World) -> None:
    world.load([entry(number) for number in (3, 1, 2)])
    assert order(world) == [3, 1, 2]


def test_new_jobs_take_the_place_they_have_in_the_manifest(world: World) -> None:
    world.load([entry(number) for number in (10, 20, 30)])
    world.load([entry(number) for number in (5, 10, 15, 16, 20, 30, 35)])
    world.load([entry(number) for number in (5, 10, 12, 15, 16, 17, 18, 20, 30, 35, 36)])
    assert order(world) == [5, 10, 12, 15, 16, 17, 18, 20, 30, 35, 36]


def test_a_new_order_in_the_manifest_counts_without_being_a_change(world: World) -> None:
    world.load([entry(number) for number in (1, 2, 3, 4)])
    assert counts(world.load([entry(number) for number in (4, 2, 1, 3)])) == {"unchanged": 4}
    assert [world.events(entry(number).id) for number in (1, 2, 3, 4)] == [["add"]] * 4
    assert order(world) == [4, 2, 1, 3]


def test_new_terms_of_a_job_that_does_not_wait_are_announced_to_nobody(world: World) -> None:
    world.load([entry(1)])
    world.cancel(entry(1).id)
    world.ready.clear()
    assert world.load([entry(1, priority=3)]).counts["changed"] == 1
    assert [ready for ready in world.ready if ready] == []


def test_inserting_a_job_rewrites_only_a_few_others(world: World) -> None:
    world.load([entry(number) for number in range(100)])
    before = {number: position(world, number) for number in range(100)}
    world.load([entry(0), entry(1000), *(entry(number) for number in range(1, 100))])
    assert sum(before[number] != position(world, number) for number in range(100)) <= 1


def position(world: World, number: int) -> int:
    row = world.do(lambda tx: tx.one(JOB, id=entry(number).id))
    found: int = row.position
    return found


# ---- budgets


def test_a_smaller_budget_ends_a_job_that_has_used_it_up(world: World) -> None:
    world.load([entry(1)])
    for _ in range(2):
        world.fail(world.running())
        world.wait(100)
    world.load([entry(1, max_attempts=2)])
    assert world.status(entry(1).id) == "failed"
    assert world.queue.counts()["failed"] == 1


def test_a_smaller_budget_lets_a_running_attempt_finish(world: World) -> None:
    world.load([entry(1)])
    for _ in range(2):
        world.fail(world.running())
        world.wait(100)
    lease = world.running()
    world.load([entry(1, max_attempts=1)])
    assert (world.status(entry(1).id), world.job(entry(1).id).attempts_used) == ("running", 1)
    assert world.fail(lease).status == "failed"


# ---- trouble


def test_a_reload_that_broke_off_is_finished_by_the_next(world: World) -> None:
    jobs = [entry(number) for number in range(600)]
    header = world.header(600)

    def broken() -> Iterator[object]:
        yield from jobs[:300]
        raise FleetError("the spool broke")

    with pytest.raises(FleetError, match="the spool broke"):
        reload(world.database, world.queue, header, broken())  # type: ignore[arg-type]
    assert sum(world.queue.counts().values()) == 0

    steps = iter(range(2))
    write = world.queue.load.write_jobs

    def write_once(*args: object, **more: object) -> None:
        if next(steps):
            raise FleetError("power cut")
        write(*args, **more)  # type: ignore[arg-type]

    world.queue.load.write_jobs = write_once  # type: ignore[method-assign]
    with pytest.raises(FleetError, match="power cut"):
        reload(world.database, world.queue, header, jobs)
    world.restart()
    assert sum(world.queue.counts().values()) == 150
    assert world.queue._memory.hosts.in_force.digest == ""
    assert counts(reload(world.database, world.queue, header, jobs)) == {"added": 450, "unchanged": 150}


def test_claims_go_on_between_the_steps_of_a_reload(world: World) -> None:
    world.load([entry(0)], {"default": Policy(slots=64)})
    lease = world.claim("pi")
    seen = []

    def entries() -> Iterator[object]:
        for number in range(600):
            if number % 200 == 0:
                seen.append(world.beat(lease).lease_s)
            yield entry(number)

    reload(world.database, world.queue, world.header(600), entries())  # type: ignore[arg-type]
    assert seen == [600.0] * 3
    assert world.status(entry(0).id) == "running"


def test_dropping_many_jobs_goes_in_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.fleet.queue.load.SCAN", 100)
    world.load([entry(number) for number in range(300)])
    plan = world.load([entry(299)], allow_shrink=True)
    assert plan.counts["dropped"] == 299
    assert world.job(entry(299).id).named
    assert not world.job(entry(100).id).named


def test_hosts_that_may_do_more_under_the_new_manifest_are_woken(world: World) -> None:
    world.load([entry(1)], {"pi": Policy(deny_jobs=("gbt",))})
    world.claim("pi")
    world.ready.clear()
    world.load([entry(1)], {"pi": Policy()})
    assert world.ready == [{1: 64}]
    assert world.claim(host("pi")).job_id == entry(1).id


# ---- what jobs need


def test_requirements_that_no_job_has_any_more_are_removed(world: World) -> None:
    for ram_gib in range(8):
        world.load([entry(1, Requirement("gbt", min_ram_gib=ram_gib)), entry(2)])
        rows = world.do(lambda tx: tx.all(REQUIREMENTS))
        assert [requirement_from(row.body).min_ram_gib for row in rows] == ([0] if ram_gib == 0 else [0, ram_gib])
    world.load([entry(1, Requirement("gbt", min_ram_gib=7)), entry(2)], {"pi": Policy()})
    assert len(world.queue._memory.hosts.requirement_ids()) == 2
    assert world.claim("pi").job_id == entry(1).id


def test_a_requirement_that_was_removed_can_come_back(world: World) -> None:
    for ram_gib in (4, 8, 4):
        world.load([entry(1, Requirement("gbt", min_ram_gib=ram_gib))])
        assert world.plan([entry(1, Requirement("gbt", min_ram_gib=ram_gib))]).counts["unchanged"] == 1
    assert world.claim(host("small", ram_gib=2)) is None
    assert world.claim(host("large", ram_gib=4)).job_id == entry(1).id


def test_what_was_learned_goes_with_its_job(world: World) -> None:
    world.load([entry(1)])
    lease = world.running(host("small", ram_gib=2))
    world.fail(lease, "oom_ram")
    world.wait(60)
    assert len(world.queue._memory.hosts.requirement_ids()) == 2
    world.cancel(lease.job_id)
    world.requeue(lease.job_id)
    world.load([entry(1), entry(2)])
    assert len(world.queue._memory.hosts.requirement_ids()) == 1
    assert world.claim(host("small", ram_gib=2)).job_id == entry(1).id


def test_a_plan_of_no_change_is_what_comparing_the_same_manifest_again_says(world: World) -> None:
    jobs = [entry(number) for number in range(3)]
    world.load(jobs, digest="d" * 64)
    assert world.queue.plan_of_no_change() == world.plan(jobs, digest="d" * 64)


def test_after_a_reload_that_broke_off_the_manifest_in_force_is_compared_too(world: World) -> None:
    """The file may be the old one again, and some jobs are already those of the one that broke off."""
    jobs = [entry(number) for number in range(3)]
    world.load(jobs)

    def break_off(tx: Any) -> None:
        with world.queue.load.begin_manifest(tx, world.header(3), "receiver") as change:
            world.queue.load.compare_jobs(tx, change, [entry(0, priority=9)])
            world.queue.load.write_jobs(tx, change, list(change.writes()))

    world.do(break_off)
    assert world.queue.plan_of_no_change() is None
    world.restart()
    assert world.queue.plan_of_no_change() is None
    world.load(jobs)
    assert world.job(entry(0).id).priority == 0
    world.restart()
    assert world.queue.plan_of_no_change() is not None
