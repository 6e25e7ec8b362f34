from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.queue_world import Engine, World, entry, host, open_world
from training.fleet.database.queries import JOB, JOBS_NUMBERED, REQUIREMENTS
from training.fleet.manifest import JobEntry
from training.fleet.model.errors import FleetError, NotFoundError, PreconditionError, WouldShrinkError
from training.fleet.model.jobs import DatasetRef, Policy, Requirement, Trainer
from training.fleet.queue import EventFilters, Filters, Origin, change, reload
from training.fleet.queue.manifests import pack
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


def test_a_manifest_that_declares_fewer_jobs_needs_leave(world: World) -> None:
    world.load([entry(number) for number in range(8)])
    told = r"declares 1 job, the one in force 8;.*: gbt realistic .* no longer named.* and 2 more;.*--allow-shrink"
    with pytest.raises(WouldShrinkError, match=told):
        world.load([entry(0, priority=9)])
    with pytest.raises(WouldShrinkError, match=rf"declares 7 jobs.*{entry(7).id[:12]} is no longer named"):
        world.load([entry(number) for number in range(7)])
    assert world.job(entry(0).id).priority == 0
    assert world.job(entry(7).id).named


def test_the_digest_of_a_plan_is_leave_for_all_that_it_showed(world: World) -> None:
    world.load([entry(number) for number in range(4)])
    plan = world.plan([entry(0)], digest="d" * 64)
    assert counts(plan) == {"unchanged": 1, "dropped": 3}
    assert world.load([entry(0)], digest="d" * 64, if_plan=plan.digest) == plan
    assert world.job(entry(3).id).withdrawn


def test_a_job_that_takes_the_place_of_another_needs_no_leave(world: World) -> None:
    world.load([entry(60), entry(1)])
    done = world.load([entry(80), entry(1)])
    (new,), (old,) = done.added, done.dropped
    assert (new.replaces, new.change) == (entry(60).id, {"max_iter": [60, 80]})
    assert (old.id, old.status) == (entry(60).id, "pending")


def test_each_new_job_stands_for_the_dropped_one_that_is_most_like_it(world: World) -> None:
    world.load([entry(1), entry(2, mode="oracle"), entry(3)])
    plan = world.plan([entry(1), entry(30), entry(20, mode="oracle")])
    assert {new.id: new.replaces for new in plan.added} == {
        entry(30).id: entry(3).id,
        entry(20, mode="oracle").id: entry(2, mode="oracle").id,
    }


def test_a_plan_that_moved_says_what_it_would_replace_now(world: World) -> None:
    world.load([entry(60)])
    with pytest.raises(PreconditionError, match=rf"gbt realistic max_iter 60 -> 80 replaces {entry(60).id[:12]}"):
        world.load([entry(80)], if_plan="e" * 64)


# ---- jobs that are no longer named


def test_a_pending_job_that_is_no_longer_named_is_offered_to_nobody(world: World) -> None:
    world.load([entry(1), entry(2)])
    assert counts(world.load([entry(2)], allow_shrink=True)) == {"unchanged": 1, "dropped": 1}
    gone = world.job(entry(1).id)
    assert (gone.status, gone.named, gone.withdrawn) == ("pending", False, True)
    assert order(world) == [2]
    assert world.do(lambda tx: world.queue.claimable(tx, 1)) == 0
    assert "withdrawn" in world.do(lambda tx: world.queue.why(tx, entry(1).id)).summary
    world.restart()
    assert world.claim("pi") is None
    assert world.job(entry(1).id).withdrawn


def test_a_withdrawn_job_that_is_named_again_comes_back_with_its_attempts(world: World) -> None:
    world.load([entry(1), entry(2, priority=-1)])
    world.fail(world.running())
    world.wait(100)
    world.load([entry(2, priority=-1)], allow_shrink=True)
    world.ready.clear()
    back = world.load([entry(1), entry(2, priority=-1)])
    assert back.changed[0].change == {"named": [False, True]}
    assert {1: 1} in world.ready
    assert (world.job(entry(1).id).withdrawn, world.job(entry(1).id).attempts_used) == (False, 1)
    assert world.events(entry(1).id) == ["add", "claim", "start", "fail", "drop", "restore"]
    assert world.claim("pi").job_id == entry(1).id


def test_dropped_jobs_can_be_kept_claimable(world: World) -> None:
    world.load([entry(1), entry(2)])
    jobs = [entry(2)]
    reload(world.database, world.queue, world.header(1), jobs, allow_shrink=True, keep_dropped=True)
    kept = world.job(entry(1).id)
    assert (kept.named, kept.withdrawn) == (False, False)
    assert order(world) == [1, 2]


@pytest.mark.parametrize("how", ["fails", "expires", "is lost"])
def test_a_running_job_goes_on_and_is_not_offered_again_when_it_comes_back(world: World, how: str) -> None:
    world.load([entry(1)])
    lease = world.claim() if how == "is lost" else world.running()
    world.load([], allow_shrink=True)
    assert not world.job(entry(1).id).withdrawn
    world.ready.clear()
    if how == "fails":
        world.fail(lease)
    world.wait(2000)
    assert (world.status(entry(1).id), world.job(entry(1).id).withdrawn) == ("pending", True)
    assert [ready for ready in world.ready if ready] == []
    assert world.claim("tower") is None


def test_a_late_result_of_a_withdrawn_job_is_taken(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.load([], allow_shrink=True)
    world.wait(2000)
    assert world.job(entry(1).id).withdrawn
    assert world.complete(lease).status == "completed"
    assert (world.job(entry(1).id).withdrawn, world.queue.counts()["completed"]) == (False, 1)


def test_a_requeue_offers_a_withdrawn_job_again(world: World) -> None:
    world.load([entry(1), entry(2)])
    world.fail(world.running(), "host_fault")
    world.load([], allow_shrink=True)
    world.ready.clear()
    assert world.requeue(entry(2).id).status == "pending"
    assert world.ready == [{1: 1}]
    assert not world.job(entry(2).id).named
    assert world.detail(entry(2).id).events[-1].why == "offered again, although the manifest does not name it"
    assert order(world) == [2]


def test_a_requeue_of_a_failed_job_that_is_no_longer_named_lets_it_run(world: World) -> None:
    world.load([entry(1, max_attempts=1)])
    world.fail(world.running())
    world.load([], allow_shrink=True)
    world.requeue(entry(1).id)
    assert world.claim("pi").job_id == entry(1).id


def test_the_end_of_a_back_off_wakes_nobody_for_a_withdrawn_job(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running())
    world.load([], allow_shrink=True)
    world.ready.clear()
    world.wait(2000)
    assert [ready for ready in world.ready if ready] == []
    world.load([entry(1)])
    assert world.claim("tower").job_id == entry(1).id


def test_withdrawn_jobs_are_counted_and_hidden_from_lists_until_they_are_asked_for(world: World) -> None:
    world.load([entry(number) for number in range(4)])
    world.cancel(entry(0).id)
    world.load([entry(3)], allow_shrink=True)
    assert world.do(world.queue.withdrawn) == 2
    assert world.queue.counts()["pending"] == 3

    def shown(**more: Any) -> list[str]:
        return [job.id for job in world.do(lambda tx: world.queue.jobs(tx, Filters(**more))).jobs]

    assert shown() == [entry(0).id, entry(3).id]
    assert shown(statuses=frozenset({"pending"})) == [entry(3).id]
    assert shown(withdrawn=True) == [entry(number).id for number in range(4)]
    assert shown(id_prefix=entry(1).id[:8]) == [entry(1).id]


def test_an_upgraded_queue_goes_on_with_the_jobs_that_an_older_version_dropped(world: World) -> None:
    """The older version kept them claimable, and an upgrade must not change what is trained."""
    world.load([entry(1)])
    reload(world.database, world.queue, world.header(0), [], allow_shrink=True, keep_dropped=True)
    world.restart()
    assert world.claim("pi").job_id == entry(1).id


# ---- labels


def labelled(number: int, name: str | None = None, *tags: str) -> JobEntry:
    return replace(entry(number), name=name, tags=tags)


def test_labels_are_changed_in_place_and_leave_the_identity_alone(world: World) -> None:
    world.load([labelled(1, "base-line", "night"), entry(2)])
    assert (world.job(entry(1).id).name, world.job(entry(1).id).tags) == ("base-line", ["night"])
    plan = world.load([labelled(1, None, "day", "week"), labelled(2, "base-line")])
    assert counts(plan) == {"changed": 2}
    assert plan.changed[0].change == {"name": ["base-line", None], "tags": [["night"], ["day", "week"]]}
    assert counts(world.load([labelled(1, None, "day", "week"), labelled(2, "base-line")])) == {"unchanged": 2}
    assert (world.job(entry(1).id).name, world.job(entry(1).id).tags) == (None, ["day", "week"])


def test_jobs_are_found_by_name_and_by_tag(world: World) -> None:
    world.load([labelled(1, "best-gbt", "night"), labelled(2, None, "night", "oracle"), entry(3)])

    def found(**more: Any) -> list[str]:
        return [job.id for job in world.do(lambda tx: world.queue.jobs(tx, Filters(**more))).jobs]

    assert found(tag="night") == [entry(1).id, entry(2).id]
    assert found(tag="oracle", statuses=frozenset({"pending"})) == [entry(2).id]
    assert found(tag="nigh") == []
    assert found(name="best-gbt") == [entry(1).id]
    world.load([labelled(4, "best-gbt"), entry(2), entry(3)])
    assert found(name="best-gbt") == [entry(4).id]
    world.load([entry(4), entry(2), entry(3)])
    assert found(name="best-gbt") == [entry(1).id]


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


# ---- hosts, datasets, trainer


def tables(plan: Plan) -> list[tuple[str, str, str, dict[str, list[Any]]]]:
    return [(one.table, one.name, one.what, one.change) for one in plan.tables]


def test_changes_besides_the_jobs_are_named_field_by_field(world: World) -> None:
    world.load([entry(1)], {"tower": Policy(), "pi": Policy()}, datasets={"lab": DatasetRef("lab")})
    hosts = {"tower": Policy(allow_jobs=(), slots=2), "nas": Policy(ram_gib=8)}
    more = {"datasets": {"lab": DatasetRef("lab", "sha256:1")}, "trainer": Trainer(("forest",)), "digest": "d" * 64}
    plan = world.plan([entry(1)], hosts, **more)
    assert tables(plan) == [
        ("host", "nas", "added", {"ram_gib": [None, 8]}),
        ("host", "pi", "removed", {}),
        ("host", "tower", "changed", {"allow_jobs": [["*"], []], "slots": [1, 2]}),
        ("dataset", "lab", "changed", {"digest": [None, "sha256:1"]}),
        ("trainer", "", "changed", {"command": [["{python}", "-m", "training.trainer.run"], ["forest"]]}),
    ]
    assert world.load([entry(1)], hosts, if_plan=plan.digest, **more) == plan
    assert world.load([entry(1)], hosts, **more).tables == []


def test_hosts_that_get_no_more_jobs_are_said_loudly(world: World) -> None:
    world.load([entry(1)], {"default": Policy(), "a": Policy(), "b": Policy(), "c": Policy(("gbt",)), "d": Policy()})
    assert world.plan([entry(1)], {"a": Policy(()), "b": Policy(deny_jobs=("*",)), "c": Policy(("mlp",))}).warnings == [
        "host a may train nothing from now on (allow_jobs is empty); what it trains now goes on",
        "host b may train nothing from now on (deny_jobs holds *); what it trains now goes on",
        "host d has no table any more and is refused from now on; what it trains now goes on",
        "[hosts.default] is removed: hosts without a table of their own are refused from now on",
    ]
    kept = {"default": Policy(), "a": Policy(), "b": Policy(), "c": Policy(("gbt",))}
    assert world.plan([entry(1)], kept).warnings == [
        "host d has no table any more: [hosts.default] holds for it from now on"
    ]


def test_a_table_whose_name_is_nearly_that_of_a_host_is_pointed_out(world: World) -> None:
    world.load([entry(1)])
    world.claim("gpu-tower")
    world.claim("nas")
    (warning,) = world.plan([entry(1)], {"default": Policy(), "gpu-towr": Policy(), "nas": Policy()}).warnings
    assert "no host gpu-towr ever called; did you mean gpu-tower?" in warning
    assert world.plan([entry(1)], {"default": Policy(), "gpu-tower": Policy()}).warnings == []


def test_what_a_manifest_changes_stands_in_the_events(world: World) -> None:
    world.load([entry(1)], {"tower": Policy(), "pi": Policy()})
    world.load([entry(1), entry(2)], {"tower": Policy(())})
    page = world.do(lambda tx: world.queue.history.page(tx, EventFilters(), None, 4))
    found = [(event.action, event.worker, event.why) for event in page.events if event.action != "add"]
    assert found[:2] == [
        ("change", "tower", 'host tower: allow_jobs ["*"] -> []'),
        ("drop", "pi", "host pi: removed"),
    ]
    action, worker, why = found[2]
    assert (action, worker) == ("apply", None)
    assert why.startswith("reload of ")
    assert why.endswith('1 added; host pi: removed; host tower: allow_jobs ["*"] -> []')


def test_a_plan_says_what_the_nearest_hosts_lack(world: World) -> None:
    world.load([entry(1)])
    world.claim(host("box", ram_gib=24))
    needs = [Requirement("gbt", min_ram_gib=64), Requirement("gbt", min_ram_gib=64, require_cuda=True)]
    plan = world.plan([entry(number + 2, need) for number, need in enumerate(needs)])
    assert [job.near for job in plan.added] == ["box: 24 of 64 GiB", "box: no CUDA, 24 of 64 GiB"]


# ---- the list of manifests


def brought(world: World, number: int, how: str = "apply") -> str:
    header = world.header(1)
    origin = Origin(how, pack(f"manifest {number}".encode()))
    reload(world.database, world.queue, header, [entry(number)], actor="operator:anna", origin=origin)
    return header.digest


def listed(world: World) -> list[tuple[int, str, str, str, bool]]:
    digest = world.queue.in_force.digest
    views = world.do(lambda tx: world.queue.manifests.views(tx, digest))
    return [(one.number, one.digest, one.actor, one.how, one.in_force) for one in views]


def test_manifests_that_came_in_force_are_listed_with_their_text(world: World) -> None:
    first, second = brought(world, 1, "start"), brought(world, 2)
    assert listed(world) == [
        (2, second, "operator:anna", "apply", True),
        (1, first, "operator:anna", "start", False),
    ]
    assert world.do(lambda tx: world.queue.manifests.text(tx, first)) == b"manifest 1"
    with pytest.raises(NotFoundError, match="manifest history"):
        world.do(lambda tx: world.queue.manifests.text(tx, "0" * 64))


def test_the_newest_fifty_manifests_are_kept(world: World) -> None:
    digests = [brought(world, number) for number in range(53)]
    assert [number for number, *_ in listed(world)] == list(range(53, 3, -1))
    with pytest.raises(NotFoundError):
        world.do(lambda tx: world.queue.manifests.text(tx, digests[2]))
    assert world.do(lambda tx: world.queue.manifests.text(tx, digests[3])) == b"manifest 3"


def test_a_manifest_that_was_refused_is_not_in_the_list(world: World) -> None:
    brought(world, 1)
    with pytest.raises(PreconditionError):
        reload(world.database, world.queue, world.header(1), [entry(2)], if_plan="0" * 64, origin=Origin("x", b""))
    assert len(listed(world)) == 1
