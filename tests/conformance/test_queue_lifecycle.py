from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.queue_world import ARTIFACT, OTHER, Engine, World, entry, host, open_world
from training.fleet.database.queries import LEASE, NEWEST_EVENT
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.capability import Capability
from training.fleet.model.errors import (
    ArtifactMissingError,
    ConflictError,
    FleetError,
    HostRefusedError,
    NotFoundError,
    OtherResultError,
    StaleLeaseError,
)
from training.fleet.model.jobs import Policy, Requirement, Terms, Trainer
from training.fleet.queue import attempt
from training.fleet.wire.people import FailureView
from training.fleet.wire.worker import Beat, Claim, Fail, Heartbeat, JobState, Lease, Progress

TOWER = host("tower", ram_gib=32, vram_gib=12)


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[World]:
    with open_world(tmp_path, engine=engine) as opened:
        yield opened


def kept_failure(world: World, lease: Lease) -> int | None:
    """Return the event of the newest bad end of a lease's job."""
    event: int | None = world.do(lambda tx: tx.one(LEASE, lease_id=lease.lease_id)).failure
    return event


# ---- claim


def test_a_claim_gives_a_lease_with_all_its_terms(world: World) -> None:
    world.load([entry(1, timeout_s=60)], trainer=Trainer(("train", "me"), "sha256:1"), contract="sha256:1")
    lease = world.claim()
    assert (lease.job_id, lease.fence, lease.timeout_s) == (entry(1).id, 1, 60)
    assert (lease.ack_within_s, lease.lease_s, lease.heartbeat_s) == (90.0, 600.0, 30.0)
    assert (lease.trainer_command, lease.trainer_contract) == (["train", "me"], "sha256:1")
    assert lease.spec == entry(1).spec.document()
    assert world.job(lease.job_id).host == "pi"


@pytest.mark.parametrize(
    ("worker", "policy", "cuda"),
    [
        (TOWER, Policy(), True),
        (TOWER, Policy(cuda=True), True),
        (TOWER, Policy(cuda=False), False),
        (host("pi"), Policy(cuda=True), False),
    ],
)
def test_a_lease_lends_the_card_unless_the_manifest_keeps_it_free(
    world: World, worker: Capability, policy: Policy, cuda: bool
) -> None:
    world.load([entry(1)], {worker.hostname: policy})
    assert world.claim(worker, claim_id="claim-once").cuda is cuda
    assert world.claim(worker, claim_id="claim-once").cuda is cuda


def test_no_two_claims_get_the_same_job(world: World) -> None:
    world.load(entry(number) for number in range(5))
    leases = [world.claim(f"host-{number}") for number in range(7)]
    given = [lease.job_id for lease in leases if lease is not None]
    assert len(given) == len(set(given)) == 5
    assert leases[5:] == [None, None]


def test_a_repeated_claim_id_gets_the_same_lease(world: World) -> None:
    world.load([entry(1), entry(2)])
    first = world.claim("pi", claim_id="claim-once")
    assert world.claim("pi", claim_id="claim-once") == first
    assert world.queue.counts()["claimed"] == 1


def test_a_repeated_claim_id_renews_the_time_to_acknowledge(world: World) -> None:
    world.load([entry(1)])
    lease = world.claim("pi", claim_id="claim-once")
    world.wait(89)
    world.claim("pi", claim_id="claim-once")
    world.wait(89)
    assert world.status(lease.job_id) == "claimed"


def test_the_claim_id_of_an_ended_lease_is_refused(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.claim("pi", claim_id="claim-once"))
    with pytest.raises(ConflictError, match="ask with a new claim_id"):
        world.claim("pi", claim_id="claim-once")


def test_two_workers_may_choose_the_same_claim_id(world: World) -> None:
    world.load([entry(1), entry(2)])
    assert world.claim("pi", claim_id="claim-same").job_id != world.claim("server", claim_id="claim-same").job_id


def test_a_host_the_manifest_does_not_name_is_refused(world: World) -> None:
    world.load([entry(1)], {"server": Policy()})
    with pytest.raises(HostRefusedError, match=r"\[hosts.pi\]"):
        world.claim("pi")


def test_before_the_first_manifest_every_host_is_refused(world: World) -> None:
    with pytest.raises(HostRefusedError):
        world.claim("pi")


def test_a_worker_is_judged_by_its_own_name(world: World) -> None:
    world.load([entry(1, Requirement("gbt", allowed_hosts=("server",)))])
    message = Claim("claim-0001", "pi", host("server"))
    assert world.do(lambda tx: world.queue.claim(tx, message)) is None


def test_a_worker_never_holds_more_than_its_slots(world: World) -> None:
    world.load([entry(number) for number in range(4)], {"pi": Policy(slots=2)})
    first = world.claim("pi")
    second = world.claim("pi", [first.lease_id])
    held = [first.lease_id, second.lease_id]
    assert world.claim("pi", held) is None
    world.complete(first)
    assert world.claim("pi", held[1:]).job_id == entry(2).id


def test_claims_in_one_batch_respect_the_slots(world: World) -> None:
    world.load([entry(1), entry(2)])

    def twice(tx: Any) -> tuple[Any, Any]:
        first = world.queue.claim(tx, Claim("claim-0001", "pi", host("pi")))
        assert first is not None
        return first, world.queue.claim(tx, Claim("claim-0002", "pi", host("pi"), [first.lease_id]))

    first, second = world.do(twice)
    assert first is not None
    assert second is None


def test_leases_the_worker_denies_are_ended(world: World) -> None:
    world.load([entry(1), entry(2, priority=-1)], {"pi": Policy(slots=2)})
    started = world.running("pi")
    unstarted = world.claim("pi", [started.lease_id])
    assert world.claim("pi") is None
    world.wait(2)
    assert world.claim("pi").job_id == started.job_id
    assert world.detail(started.job_id).attempts[0].outcome == "expired"
    assert world.detail(unstarted.job_id).attempts[0].outcome == "lost_claim"
    with pytest.raises(StaleLeaseError):
        world.complete(started)


def test_a_host_that_denies_a_lease_late_gets_the_job_again_at_once(world: World) -> None:
    """Its delay counts from when it got the job."""
    world.load([entry(1)])
    lease = world.claim("pi")
    world.wait(50)
    assert world.claim("pi").job_id == lease.job_id


def test_a_lease_that_is_denied_in_the_batch_that_gave_it_is_ended(world: World) -> None:
    world.load([entry(1)])

    def twice(tx: Any) -> Any:
        first = world.queue.claim(tx, Claim("claim-0001", "pi", host("pi")))
        return first, world.queue.claim(tx, Claim("claim-0002", "pi", host("pi")))

    first, second = world.do(twice)
    assert (first.job_id, second) == (entry(1).id, None)
    world.wait(2)
    assert world.claim("pi").job_id == entry(1).id


def test_a_claim_says_which_leases_to_stop(world: World) -> None:
    world.load([entry(1), entry(2)])
    over = world.running("pi")
    world.fail(over, "lost")
    world.cancel(over.job_id)
    other = world.claim("server")
    world.requeue(over.job_id)
    lease = world.claim("pi", ["no-such-lease", over.lease_id, other.lease_id])
    assert lease.stop == ["no-such-lease", over.lease_id]


def test_a_lease_that_can_be_adopted_is_not_stopped(world: World) -> None:
    world.load([entry(1, Requirement("gbt", min_ram_gib=32)), entry(2)])
    late = world.running(host("pi", ram_gib=32))
    world.wait(601)
    lease = world.claim(host("pi", ram_gib=16), [late.lease_id])
    assert (lease.job_id, lease.stop) == (entry(2).id, [])


def test_the_order_is_priority_then_rank_then_manifest(world: World) -> None:
    world.load(
        [
            entry(1),
            entry(2, Requirement("gbt", prefer_cuda=True)),
            entry(3, Requirement("gbt", require_cuda=True)),
            entry(4),
            entry(5, priority=1),
        ],
        {"tower": Policy(slots=9)},
    )
    held: list[str] = []
    order = []
    two_cards = replace(TOWER, gpus=(*TOWER.gpus, replace(TOWER.gpus[0], uuid="GPU-2")))
    while (lease := world.claim(two_cards, held)) is not None:
        held.append(lease.lease_id)
        order.append(lease.spec["hyper"]["max_iter"])
        assert len(order) <= 5, "claims have no end"
    assert order == [5, 3, 2, 1, 4]


def test_a_host_without_cuda_leaves_preferred_jobs_to_a_live_host_with_it(world: World) -> None:
    world.load([entry(1, Requirement("gbt", prefer_cuda=True)), entry(2, Requirement("gbt", require_cuda=True))])
    world.claim(TOWER)
    assert world.claim("pi") is None
    world.wait(599)
    assert world.claim("pi") is None


def test_a_preferred_job_that_waited_goes_to_any_host(world: World) -> None:
    world.load([entry(1, Requirement("gbt", prefer_cuda=True)), entry(2, Requirement("gbt", require_cuda=True))])
    lease = world.claim(TOWER)
    world.beat(lease)
    for _ in range(3):
        world.wait(200)
        world.beat(lease)
    assert world.claim("pi").job_id == entry(1).id


def test_a_preferred_job_goes_to_any_host_when_no_host_with_cuda_is_heard(world: World) -> None:
    world.load([entry(1, Requirement("gbt", prefer_cuda=True)), entry(2)])
    assert [world.claim("pi").job_id, world.claim("server").job_id] == [entry(2).id, entry(1).id]


def test_nothing_is_left_to_a_host_with_cuda_that_changed_and_cannot_run_it(world: World) -> None:
    wanted = Requirement("gbt", prefer_cuda=True, min_ram_gib=12)
    world.load([entry(1, wanted), entry(2, Requirement("gbt", require_cuda=True))])
    lease = world.claim(TOWER)
    assert lease.job_id == entry(2).id
    assert world.claim("pi") is None
    world.claim(host("tower", ram_gib=8, vram_gib=12), [lease.lease_id])
    assert world.claim("pi").job_id == entry(1).id


def test_waiting_for_cuda_survives_a_restart(world: World) -> None:
    world.load([entry(1, Requirement("gbt", prefer_cuda=True)), entry(2, Requirement("gbt", require_cuda=True))])
    lease = world.claim(TOWER)
    for _ in range(2):
        world.wait(300)
        world.beat(lease)
    world.restart()
    world.claim(TOWER, [lease.lease_id])
    assert world.claim("pi").job_id == entry(1).id


# ---- heartbeat


def test_the_first_heartbeat_starts_the_job_and_the_next_need_no_database(world: World) -> None:
    world.load([entry(1)])
    lease = world.claim()
    message = Heartbeat(lease.lease_id)
    assert world.queue.beat(lease.job_id, message) is None
    assert world.beat(lease) == Beat(600.0)
    assert world.status(lease.job_id) == "running"
    assert world.queue.beat(lease.job_id, message) == Beat(600.0)


def test_a_beat_for_another_job_is_not_answered_from_memory(world: World) -> None:
    world.load([entry(1), entry(2)])
    lease = world.running()
    assert world.queue.beat(entry(2).id, Heartbeat(lease.lease_id)) is None
    with pytest.raises(StaleLeaseError):
        world.do(lambda tx: world.queue.heartbeat(tx, entry(2).id, Heartbeat(lease.lease_id)))


def test_heartbeats_keep_a_lease_for_ever(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    for _ in range(20):
        world.wait(599)
        world.beat(lease)
    assert world.status(lease.job_id) == "running"


def test_progress_is_shown_and_counts_as_a_change(world: World) -> None:
    world.load([entry(1)])
    lease = world.claim()
    world.beat(lease, Progress(1, 10))
    assert world.job(lease.job_id).progress == Progress(1, 10)
    before = world.queue.revision
    world.beat(lease, Progress(2, 10))
    assert world.job(lease.job_id).progress == Progress(2, 10)
    assert world.queue.revision > before
    before = world.queue.revision
    world.beat(lease)
    assert world.job(lease.job_id).progress == Progress(2, 10)
    assert world.queue.revision == before


def test_a_beat_that_says_nothing_of_progress_keeps_what_is_known(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.beat(lease, Progress(1, 10))
    world.beat(lease)
    world.beat(lease, held=["no-such-lease"])
    assert world.job(lease.job_id).progress == Progress(1, 10)
    world.wait(601)
    assert world.beat(lease) is not None
    assert world.job(lease.job_id).progress is None, "its lease had ended"


def test_a_beat_names_the_leases_to_stop_and_keeps_the_others(world: World) -> None:
    world.load([entry(1), entry(2)], {"pi": Policy(slots=2)})
    over = world.running()
    world.fail(over)
    lease = world.running()
    beat = world.beat(lease, held=[lease.lease_id, over.lease_id, "no-such-lease"])
    assert beat.stop == [over.lease_id, "no-such-lease"]
    assert world.queue.beat(lease.job_id, Heartbeat(lease.lease_id, None, [over.lease_id])) is None


def test_heartbeats_of_an_unknown_job_or_lease_say_which_is_unknown(world: World) -> None:
    world.load([entry(1)])
    with pytest.raises(NotFoundError, match="cis490-jobs list"):
        world.do(lambda tx: world.queue.heartbeat(tx, "f" * 64, Heartbeat("no-such-lease")))
    with pytest.raises(StaleLeaseError, match="no such lease"):
        world.do(lambda tx: world.queue.heartbeat(tx, entry(1).id, Heartbeat("no-such-lease")))


# ---- leases that run out


def test_an_unacknowledged_claim_is_given_back_for_free(world: World) -> None:
    world.load([entry(1)])
    lease = world.claim()
    world.wait(89)
    assert world.status(lease.job_id) == "claimed"
    world.wait(1)
    view = world.job(lease.job_id)
    assert (view.status, view.attempts_used) == ("pending", 0)
    assert view.failure is not None
    assert view.failure.kind == "lost_claim"
    assert world.claim().fence == 2


def test_lost_claims_are_refunded_three_times_at_most(world: World) -> None:
    world.load([entry(1, max_attempts=2)])
    used = []
    for _ in range(5):
        world.claim()
        world.wait(90)
        used.append((world.job(entry(1).id).attempts_used, world.status(entry(1).id)))
    assert used == [(0, "pending")] * 3 + [(1, "pending"), (2, "failed")]


def test_a_running_job_whose_lease_runs_out_is_pending_and_counts(world: World) -> None:
    world.load([entry(1, max_attempts=2)])
    world.running()
    world.wait(600)
    assert (world.status(entry(1).id), world.job(entry(1).id).attempts_used) == ("pending", 1)
    world.running()
    world.wait(600)
    assert (world.status(entry(1).id), world.job(entry(1).id).attempts_used) == ("failed", 2)


@pytest.mark.parametrize("acknowledged", [True, False])
def test_a_lease_that_runs_out_after_a_cancel_request_cancels_the_job(world: World, acknowledged: bool) -> None:
    world.load([entry(1)])
    lease = world.running() if acknowledged else world.claim()
    world.cancel(lease.job_id)
    world.wait(600)
    assert (world.status(lease.job_id), world.job(lease.job_id).cancel_requested) == ("cancelled", False)


def test_a_late_heartbeat_is_adopted_while_nobody_else_has_begun(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.wait(601)
    assert world.beat(lease) == Beat(600.0)
    view = world.job(lease.job_id)
    assert (view.status, view.attempts_used, view.failure, view.ended_at) == ("running", 1, None, None)
    assert world.claim("server") is None


def test_an_adopted_lost_claim_costs_its_attempt_again(world: World) -> None:
    world.load([entry(1)])
    lease = world.claim()
    world.wait(91)
    world.beat(lease)
    assert world.job(lease.job_id).attempts_used == 1
    row = world.do(lambda tx: tx.one(LEASE, lease_id=lease.lease_id))
    assert (row.refunds, row.refunded) == (0, 0)


def test_an_adopted_job_has_no_failure(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.wait(601)
    assert kept_failure(world, lease) is not None
    world.beat(lease)
    assert kept_failure(world, lease) is None


def test_a_late_result_is_adopted_while_nobody_else_has_begun(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.wait(601)
    assert world.complete(lease) == JobState(lease.job_id, "completed")
    assert world.events(lease.job_id)[-1] == "complete"
    assert "late result" in world.detail(lease.job_id).events[-1].why


def test_a_late_result_of_a_lost_claim_costs_its_attempt_again(world: World) -> None:
    world.load([entry(1)])
    lease = world.claim()
    world.wait(91)
    assert world.job(lease.job_id).attempts_used == 0
    world.complete(lease)
    assert world.job(lease.job_id).attempts_used == 1


def test_a_late_result_is_refused_once_somebody_else_has_begun(world: World) -> None:
    world.load([entry(1)])
    zombie = world.running()
    world.wait(601)
    heir = world.claim("server")
    for late in (lambda: world.beat(zombie), lambda: world.complete(zombie), lambda: world.fail(zombie)):
        with pytest.raises(StaleLeaseError, match="expired"):
            late()
    assert world.complete(heir).status == "completed"
    with pytest.raises(StaleLeaseError):
        world.complete(zombie, ARTIFACT)


def test_the_same_host_cannot_use_its_older_lease(world: World) -> None:
    world.load([entry(1)])
    old = world.running()
    world.wait(601)
    world.running()
    with pytest.raises(StaleLeaseError):
        world.complete(old)


def test_an_older_lease_ends_nothing_even_if_the_code_takes_it_for_live(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statements have the lease in their conditions as well."""
    world.load([entry(1)])
    zombie = world.running()
    world.wait(601)
    heir = world.running("server")
    monkeypatch.setattr(attempt, "live", lambda _row: True)
    with pytest.raises(ArtifactMissingError):
        world.complete(zombie)
    with pytest.raises(AssertionError):
        world.fail(zombie)
    assert (world.status(heir.job_id), world.job(heir.job_id).host) == ("running", "server")


@pytest.mark.parametrize("kind", ["trainer_error", "preempted"])
def test_a_lease_that_its_worker_gave_up_is_not_adopted(world: World, kind: str) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.fail(lease, kind)
    for late in (lambda: world.beat(lease), lambda: world.complete(lease)):
        with pytest.raises(StaleLeaseError):
            late()
    assert world.status(lease.job_id) == "pending"


def test_a_requeue_shuts_out_every_older_lease(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.wait(601)
    world.cancel(lease.job_id)
    world.requeue(lease.job_id)
    with pytest.raises(StaleLeaseError):
        world.beat(lease)
    assert world.claim().fence == 3


def test_a_failed_report_of_a_lease_that_ran_out_is_refused(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.wait(601)
    with pytest.raises(StaleLeaseError):
        world.fail(lease)


# ---- late results of a job that failed with its last lease


def last_lease_ran_out(world: World) -> Any:
    world.load([entry(1, max_attempts=1)])
    lease = world.running()
    world.wait(601)
    assert world.status(lease.job_id) == "failed"
    return lease


def test_a_late_result_of_the_last_attempt_is_accepted(world: World) -> None:
    """The training took a week, the network was away for one lease term, and nobody else has begun."""
    lease = last_lease_ran_out(world)
    assert world.do(lambda tx: world.queue.artifacts.lease_for_upload(tx, lease.lease_id, ARTIFACT))[0] == lease.job_id
    assert world.complete(lease) == JobState(lease.job_id, "completed")
    assert world.complete(lease) == JobState(lease.job_id, "completed")
    view = world.job(lease.job_id)
    assert (view.artifact, view.failure, view.attempts_used) == (ARTIFACT, None, 1)
    assert world.do(world.queue.recent_failures) == []
    counts = world.queue.counts()
    assert (counts["completed"], counts["failed"]) == (1, 0)
    event = world.detail(lease.job_id).events[-1]
    assert (event.action, event.from_status, event.to_status) == ("complete", "failed", "completed")


def test_a_late_beat_of_the_last_attempt_takes_the_job_back(world: World) -> None:
    lease = last_lease_ran_out(world)
    assert world.beat(lease) == Beat(600.0)
    view = world.job(lease.job_id)
    assert (view.status, view.host, view.attempts_used, view.failure) == ("running", "pi", 1, None)
    event = world.detail(lease.job_id).events[-1]
    assert (event.action, event.from_status, event.to_status) == ("adopt", "failed", "running")
    world.wait(599)
    assert world.status(lease.job_id) == "running"
    world.wait(1)
    assert world.status(lease.job_id) == "failed"
    assert world.beat(lease) == Beat(600.0)
    assert world.fail(lease).status == "failed"
    with pytest.raises(StaleLeaseError):
        world.beat(lease)


def test_a_claim_that_was_lost_on_the_last_attempt_is_taken_back_too(tmp_path: Path) -> None:
    with open_world(tmp_path, Terms(refunds=0)) as world:
        world.load([entry(1, max_attempts=1)])
        lease = world.claim()
        world.wait(90)
        assert world.status(lease.job_id) == "failed"
        world.beat(lease)
        assert world.status(lease.job_id) == "running"


def test_a_worker_is_not_told_to_stop_a_training_that_its_failed_job_still_waits_for(world: World) -> None:
    world.load([entry(1, max_attempts=1), entry(2)])
    late = world.running(host("pi", ram_gib=32))
    world.wait(601)
    other = world.running("pi")
    assert world.beat(other, held=[other.lease_id, late.lease_id]).stop == []
    assert world.status(late.job_id) == "failed"


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_late_result_of_a_job_that_should_stop_is_refused(world: World, attempts: int) -> None:
    world.load([entry(1, max_attempts=attempts)])
    lease = world.running()
    world.cancel(lease.job_id)
    world.wait(601)
    assert world.status(lease.job_id) == "cancelled"
    for late in (world.beat, world.complete):
        with pytest.raises(StaleLeaseError):
            late(lease)
    with pytest.raises(StaleLeaseError):
        world.do(lambda tx: world.queue.artifacts.lease_for_upload(tx, lease.lease_id, ARTIFACT))
    assert world.claim() is None


def test_a_requeue_of_a_failed_job_shuts_out_the_lease_that_ran_out(world: World) -> None:
    lease = last_lease_ran_out(world)
    world.requeue(lease.job_id)
    for late in (world.beat, world.complete):
        with pytest.raises(StaleLeaseError):
            late(lease)
    world.fail(world.running("server"))
    assert world.status(lease.job_id) == "failed"
    for late in (world.beat, world.complete):
        with pytest.raises(StaleLeaseError):
            late(lease)


def test_a_job_that_failed_by_a_report_is_not_taken_back(world: World) -> None:
    world.load([entry(1, max_attempts=1)])
    lease = world.running()
    world.fail(lease)
    for late in (world.beat, world.complete):
        with pytest.raises(StaleLeaseError):
            late(lease)


def test_a_lost_claim_of_a_job_whose_budget_shrank_is_taken_back_within_the_budget(world: World) -> None:
    """Its attempt was given back before the manifest asked for fewer attempts than the job had used."""
    world.load([entry(1, max_attempts=3)])
    world.fail(world.running("server"))
    world.wait(30)
    lease = world.claim()
    world.wait(90)
    world.load([entry(1, max_attempts=1)])
    assert world.status(lease.job_id) == "failed"
    world.beat(lease)
    view = world.job(lease.job_id)
    assert (view.status, view.attempts_used, view.max_attempts) == ("running", 1, 1)


def test_a_restart_gives_every_live_lease_a_full_fresh_term(world: World) -> None:
    world.load([entry(1), entry(2)])
    running, claimed = world.running("pi"), world.claim("server")
    world.wait(85)
    world.now += 100_000
    world.restart()
    world.wait(89)
    assert [world.status(lease.job_id) for lease in (running, claimed)] == ["running", "claimed"]
    world.wait(1)
    assert [world.status(lease.job_id) for lease in (running, claimed)] == ["running", "pending"]
    world.wait(510)
    assert world.status(running.job_id) == "pending"


def test_after_a_restart_only_what_a_worker_holds_is_a_lease(world: World) -> None:
    world.load(entry(number) for number in range(5))
    world.complete(world.running("a"))
    world.cancel(entry(1).id)
    leases = [world.running("b"), world.claim("c")]
    world.restart()
    assert len(world.queue._memory.leases) == 2
    assert [live.lease_id for name in ("b", "c") for live in world.queue._memory.leases.held_by(name)] == [
        lease.lease_id for lease in leases
    ]
    assert world.queue._memory.leases.holders() == {"b", "c"}


def test_the_receivers_own_stall_ends_no_lease(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.wait(500)
    world.now += 100_000
    world.sweep()
    assert world.status(lease.job_id) == "running"
    world.wait(105)
    assert world.status(lease.job_id) == "pending"


def test_a_lease_given_after_a_long_idle_time_is_not_lengthened(world: World) -> None:
    world.load([entry(1)])
    world.now += 100_000
    lease = world.running()
    world.wait(600)
    assert world.status(lease.job_id) == "pending"


def test_a_wall_clock_that_jumps_decides_nothing(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    for wall in ("1970-01-01T00:00:00.000Z", "2099-01-01T00:00:00.000Z"):
        world.wall = wall
        world.wait(10)
    assert world.status(lease.job_id) == "running"


def test_the_sweeper_is_needed_only_while_something_waits_for_time(world: World) -> None:
    world.load([entry(1)])
    assert world.queue.next_deadline() is None
    lease = world.running()
    assert world.queue.next_deadline() == 1005.0
    world.wait(598)
    assert world.queue.next_deadline() == 1600.0
    world.fail(lease)
    assert world.queue.next_deadline() == 1628.0


# ---- complete


def test_a_completed_job_is_never_claimed_again(world: World) -> None:
    world.load([entry(1)])
    world.complete(world.running())
    world.restart()
    assert world.claim() is None
    view = world.job(entry(1).id)
    assert (view.status, view.artifact, view.metrics) == ("completed", ARTIFACT, {"auroc": 0.9})
    assert (view.artifact_path, view.duration_s) == (f"gbt_realistic/{ARTIFACT}/bundle.tar.zst", 12.5)


def test_the_same_result_is_answered_for_ever(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    first = world.complete(lease)
    world.restart()
    assert world.complete(lease) == first == JobState(lease.job_id, "completed")
    assert world.events(lease.job_id).count("complete") == 1
    assert world.detail(lease.job_id).events[-1].why == ""


def test_another_result_under_the_same_lease_is_refused(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.complete(lease)
    with pytest.raises(OtherResultError, match=ARTIFACT):
        world.complete(lease, OTHER)
    assert world.job(lease.job_id).artifact == ARTIFACT


def test_a_result_needs_its_stored_artifact(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    with pytest.raises(ArtifactMissingError, match="upload it"):
        world.complete(lease, store=False)
    assert world.status(lease.job_id) == "running"


def test_an_artifact_of_another_mode_does_not_count(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.do(lambda tx: world.queue.artifacts.add(tx, ArtifactKey(ARTIFACT, "gbt", "oracle"), 10))
    with pytest.raises(ArtifactMissingError):
        world.complete(lease, store=False)


def test_a_job_can_complete_before_its_first_heartbeat(world: World) -> None:
    world.load([entry(1)])
    assert world.complete(world.claim()).status == "completed"


def test_a_result_that_comes_before_the_cancel_request_is_obeyed_wins(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.cancel(lease.job_id)
    assert world.complete(lease) == JobState(lease.job_id, "completed")
    with pytest.raises(ConflictError, match="completed already"):
        world.cancel(lease.job_id)


def test_an_upload_is_let_in_by_every_lease_that_may_complete(world: World) -> None:
    world.load([entry(1), entry(2, mode="oracle")])
    lease, other = world.running(), world.running("server")

    def ask(lease_id: str) -> Any:
        return world.do(lambda tx: world.queue.artifacts.lease_for_upload(tx, lease_id, ARTIFACT))

    assert ask(lease.lease_id) == (entry(1).id, ArtifactKey(ARTIFACT, "gbt", "realistic"))
    assert ask(other.lease_id) == (entry(2, mode="oracle").id, ArtifactKey(ARTIFACT, "gbt", "oracle"))
    world.complete(lease)
    assert ask(lease.lease_id)[0] == lease.job_id
    world.wait(601)
    assert ask(other.lease_id)[0] == other.job_id
    world.claim("tower")
    for stale in (other.lease_id, "no-such-lease"):
        with pytest.raises(StaleLeaseError):
            ask(stale)


def test_a_completed_lease_uploads_the_accepted_artifact_and_nothing_else(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.complete(lease, ARTIFACT)

    def ask(sha256: str) -> Any:
        return world.do(lambda tx: world.queue.artifacts.lease_for_upload(tx, lease.lease_id, sha256))

    assert ask(ARTIFACT) == (lease.job_id, ArtifactKey(ARTIFACT, "gbt", "realistic"))
    with pytest.raises(OtherResultError, match=f"{OTHER} is not accepted"):
        ask(OTHER)


def test_an_artifact_is_noted_once(world: World) -> None:
    def add(sha256: str) -> Any:
        return world.do(lambda tx: world.queue.artifacts.add(tx, ArtifactKey(sha256, "gbt", "realistic"), 10))

    def totals() -> Any:
        return world.do(world.queue.artifacts.totals)

    assert totals() == (0, 0)
    assert [add(ARTIFACT), add(ARTIFACT)] == [True, False]
    assert totals() == (1, 10)
    world.restart()
    assert totals() == (1, 10)
    add(OTHER)
    assert totals() == (2, 20)
    rows = world.do(lambda tx: world.queue.artifacts.page(tx, 0, 10))
    assert [row.sha256 for row in rows] == [ARTIFACT, OTHER]
    assert [row.sha256 for row in world.do(lambda tx: world.queue.artifacts.page(tx, rows[0].seq, 10))] == [OTHER]


def test_the_length_of_an_artifact_is_that_of_its_own_model_and_mode(world: World) -> None:
    def length(model: str, mode: str) -> Any:
        return world.do(lambda tx: world.queue.artifacts.size_bytes(tx, ArtifactKey(ARTIFACT, model, mode)))

    for size_bytes, mode in ((10, "realistic"), (20, "oracle")):
        world.do(
            lambda tx, size=size_bytes, mode=mode: world.queue.artifacts.add(
                tx, ArtifactKey(ARTIFACT, "gbt", mode), size
            )
        )
    assert [length("gbt", "realistic"), length("gbt", "oracle"), length("mlp", "oracle")] == [10, 20, None]


# ---- fail


def test_a_failure_is_retried_after_a_growing_delay_and_then_fails_the_job(world: World) -> None:
    world.load([entry(1)])
    seen = []
    for delay_s in (30, 60):
        seen.append(world.fail(world.running(), error="it broke").status)
        assert world.job(entry(1).id).delayed
        world.wait(delay_s - 1)
        assert world.claim() is None
        world.wait(1)
        assert not world.job(entry(1).id).delayed
    seen.append(world.fail(world.running(), error="it broke").status)
    assert seen == ["pending", "pending", "failed"]
    assert world.job(entry(1).id).failure == FailureView("trainer_error", "it broke", 1, "pi", world.wall)


def test_the_delay_is_capped(tmp_path: Path) -> None:
    with open_world(tmp_path, Terms(backoff_s=30, backoff_cap_s=40)) as world:
        world.load([entry(1, max_attempts=100)])
        for _ in range(40):
            world.fail(world.running())
            world.wait(40)
        assert world.running() is not None


def test_half_of_the_delay_is_random(world: World) -> None:
    world.queue._memory.waits._jitter = lambda: 0.0
    world.load([entry(1)])
    world.fail(world.running())
    world.wait(15)
    assert world.claim() is not None


def test_a_restart_ends_every_delay(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running())
    world.restart()
    assert world.claim() is not None


def test_an_older_delay_does_not_end_a_newer_one(world: World) -> None:
    world.load([entry(1, max_attempts=2)])
    world.fail(world.running())
    world.cancel(entry(1).id)
    world.requeue(entry(1).id)
    world.now += 20
    world.fail(world.running())
    world.wait(10)
    assert world.claim() is None
    world.wait(20)
    assert world.claim() is not None


def test_the_same_failure_twice_has_one_effect(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    assert world.fail(lease) == world.fail(lease)
    assert world.job(lease.job_id).attempts_used == 1
    assert world.events(lease.job_id).count("fail") == 1


def test_a_repeated_failure_report_leaves_the_next_attempt_alone(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.fail(lease)
    world.wait(30)
    heir = world.running("server")
    assert world.fail(lease).status == "running"
    assert world.complete(heir).status == "completed"


def test_a_rejected_specification_fails_for_good_when_a_second_host_says_the_same(world: World) -> None:
    world.load([entry(1)])
    assert world.fail(world.running("pi"), "spec_rejected", error="no such key").status == "pending"
    view = world.job(entry(1).id)
    assert (view.attempts_used, view.failure and view.failure.kind) == (0, "spec_rejected")
    assert world.claim("pi") is None
    assert world.fail(world.running("server"), "spec_rejected", error="no such key").status == "failed"
    assert [event.why for event in world.detail(entry(1).id).events if event.action == "fail"] == [
        "spec_rejected: no such key; the job fails for good when a second host says the same",
        "spec_rejected: no such key; pi said the same",
    ]


def test_a_rejection_by_the_only_host_is_final_after_as_many_times_as_the_job_has_attempts(world: World) -> None:
    world.load([entry(1, max_attempts=2)])
    assert world.fail(world.running("pi"), "spec_rejected").status == "pending"
    world.wait(30)
    assert world.fail(world.running("pi"), "spec_rejected").status == "failed"
    assert world.detail(entry(1).id).events[-1].why == (
        "spec_rejected; said 2 times, and no other host that is heard could run the job"
    )


def test_one_host_alone_fails_no_job_that_another_host_could_run(world: World) -> None:
    world.load([entry(1, max_attempts=1), entry(2, max_attempts=1)])
    world.running("server")
    for _ in range(6):
        assert world.fail(world.running("pi"), "spec_rejected").status == "pending"
        world.now += 1800
        world.queue._memory.hosts.seen("server")


def test_a_host_that_is_away_is_not_waited_for(world: World) -> None:
    world.load([entry(1, max_attempts=1)])
    world.fail(world.running("server"), "preempted")
    world.wait(601)
    assert world.fail(world.running("pi"), "spec_rejected").status == "failed"


def test_a_requeue_forgets_who_rejected_the_job(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running("pi"), "spec_rejected")
    world.fail(world.running("server"), "spec_rejected")
    world.requeue(entry(1).id)
    assert world.fail(world.running("server"), "spec_rejected").status == "pending"
    assert world.fail(world.running("pi"), "spec_rejected").status == "failed"


def test_hosts_that_reject_different_jobs_do_not_say_the_same(world: World) -> None:
    world.load([entry(1), entry(2)])
    leases = [world.running("pi"), world.running("server")]
    assert [world.fail(lease, "spec_rejected").status for lease in leases] == ["pending", "pending"]


def test_who_rejected_a_job_is_counted_by_its_own_attempts_and_requeues(world: World) -> None:
    others, own = ("h0", "h1", "h2", "h3", "h4"), ("pi", "server")
    world.load([entry(1, Requirement("gbt", allowed_hosts=others)), entry(2, Requirement("gbt", allowed_hosts=own))])
    for name in others:
        world.fail(world.running(name), "preempted")
    said = [world.fail(world.running(name), "spec_rejected").status for name in own]
    world.requeue(entry(2).id)
    said += [world.fail(world.running(name), "spec_rejected").status for name in reversed(own)]
    assert said == ["pending", "failed", "pending", "failed"]


def test_a_rejection_by_a_host_with_another_trainer_concerns_that_host_only(world: World) -> None:
    """Its checkout changed between the claim and the start."""
    wanted = Requirement("gbt", contract="sha256:manifest")
    world.load([entry(1, wanted, max_attempts=1), entry(2, wanted)], {"default": Policy(slots=2)})
    lease = world.running(host("pi", contract="sha256:manifest"))
    changed = host("pi", contract="sha256:another")
    assert world.claim(changed, [lease.lease_id]) is None
    assert world.fail(lease, "spec_rejected", error="no such key").status == "pending"
    attempt, event = world.detail(lease.job_id).attempts[-1], world.detail(lease.job_id).events[-1]
    assert (attempt.outcome, attempt.kind, attempt.error) == ("released", "spec_rejected", "no such key")
    assert event.why == (
        "spec_rejected: no such key; only this host is concerned: its own trainer declares sha256:another, "
        "the manifest wants sha256:manifest"
    )
    world.wait(2000)
    assert world.claim(changed) is None
    assert world.fail(world.running(host("server", contract="sha256:manifest")), "spec_rejected").status == "failed"
    assert "said 1 times" in world.detail(lease.job_id).events[-1].why


def test_a_host_with_a_trainer_of_its_own_counts_as_a_witness_for_a_foreign_one(world: World) -> None:
    """A job of a foreign trainer has no declaration that the host's own could differ from."""
    world.load([entry(1)])
    world.fail(world.running(host("pi", contract="sha256:mine")), "spec_rejected")
    assert world.fail(world.running(host("server", contract="sha256:other")), "spec_rejected").status == "failed"


def test_a_job_given_back_costs_nothing_and_others_can_claim_it_at_once(world: World) -> None:
    world.load([entry(1)])
    assert world.fail(world.running(), "preempted").status == "pending"
    view = world.job(entry(1).id)
    assert (view.attempts_used, view.failure, view.delayed) == (0, None, False)
    assert world.events(entry(1).id)[-1] == "release"
    assert world.claim("pi") is None
    assert world.claim("server") is not None


def test_the_only_host_gets_a_job_that_it_gave_back_after_a_moment(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running(), "preempted")
    world.wait(2)
    lease = world.running()
    world.wait(60)
    world.fail(lease, "preempted")  # it had the job for longer than any delay it has earned
    assert world.claim() is not None


def test_a_job_given_back_keeps_the_failure_before_it(world: World) -> None:
    world.load([entry(1)])
    failed = world.running()
    world.fail(failed, error="it broke")
    before = kept_failure(world, failed)
    world.wait(30)
    given_back = world.running()
    world.fail(given_back, "preempted")
    assert kept_failure(world, given_back) == before is not None
    world.cancel(entry(1).id)
    world.requeue(entry(1).id)
    cancelled = world.running()
    world.cancel(entry(1).id)
    assert world.fail(cancelled, "lost").status == "cancelled"
    assert kept_failure(world, cancelled) == before


@pytest.mark.parametrize("kind", ["preempted", "host_fault", "denied", "unacknowledged"])
def test_giving_back_one_job_takes_longer_each_time(tmp_path: Path, kind: str) -> None:
    with open_world(tmp_path, Terms(refunds=100, ack_s=1.0)) as world:
        world.load([entry(1, max_attempts=100)])
        lease, waited_s = world.claim(), []
        for _ in range(5):
            begun = world.now
            if kind == "unacknowledged":
                world.wait(1)
            elif kind != "denied":
                world.fail(lease, kind)
            while (lease := world.claim()) is None:
                world.wait(1)
            waited_s.append(world.now - begun)
    first_s = 30 if kind == "host_fault" else 2
    assert waited_s == [first_s, 2 * first_s, 4 * first_s, 8 * first_s, 16 * first_s]


def rounds_in(hours: int, world: World, one_round: Callable[[], bool]) -> int:
    """Let a worker try something as often as it can; return how often it could."""
    end, rounds = world.now + 3600 * hours, 0
    while world.now < end and rounds < 200:
        if one_round():
            rounds += 1
        else:
            world.wait(world.queue._memory.waits.held_back.left_s("pi") or 60)
    return rounds


def give_back(world: World) -> bool:
    lease = world.claim()
    if lease is not None:
        world.fail(lease, "preempted")
    return lease is not None


def events(world: World) -> int:
    row = world.do(lambda tx: tx.one(NEWEST_EVENT))
    number: int = row.number
    return number


def test_a_host_that_gives_back_one_job_after_the_other_waits_longer_and_longer(world: World) -> None:
    world.load([entry(number) for number in range(60)])
    before = events(world)
    assert 50 < rounds_in(24, world, lambda: give_back(world)) < 70
    assert events(world) - before < 200
    assert world.claim("server") is not None


def test_a_host_that_denies_its_lease_and_takes_it_back_waits_longer_and_longer(world: World) -> None:
    """Each round would cost nothing else: the lease that the next claim ended is adopted by a heartbeat."""
    world.load([entry(1)])
    lease, begun = world.running(), events(world)

    def deny_and_take_back() -> bool:
        before = events(world)
        assert world.claim() is None
        world.beat(lease)
        return events(world) > before

    assert 15 < rounds_in(6, world, deny_and_take_back) < 45
    assert events(world) - begun < 130


def test_a_host_that_waits_keeps_the_lease_that_its_claim_does_not_list(world: World) -> None:
    world.load([entry(number) for number in range(20)], {"default": Policy(slots=20)})
    held = [world.claim("pi", [])]
    for _ in range(9):
        held.append(world.claim("pi", [lease.lease_id for lease in held]))
    for lease in held[:9]:
        world.fail(lease, "preempted")
    assert world.claim("pi") is None
    assert world.status(held[9].job_id) == "claimed"
    world.wait(31)
    assert world.claim("pi") is not None
    assert world.status(held[9].job_id) == "pending"


def held_back(world: World, jobs: int = 12) -> None:
    world.load([entry(number) for number in range(jobs)])
    while give_back(world):
        pass
    assert world.claim() is None
    assert world.queue.counts()["pending"] == jobs


def test_a_host_waits_until_the_last_second_of_its_delay(world: World) -> None:
    held_back(world)
    world.wait(29.5)
    assert world.claim() is None
    world.wait(0.5)
    assert world.claim() is not None


@pytest.mark.parametrize("kind", ["preempted", "host_fault", "trainer_error"])
def test_a_first_delay_of_one_second_is_kept(tmp_path: Path, kind: str) -> None:
    with open_world(tmp_path, Terms(backoff_s=1.0)) as world:
        world.load([entry(1)])
        world.fail(world.running(), kind)
        world.wait(0.5)
        assert world.claim() is None
        world.wait(0.5)
        assert world.claim().job_id == entry(1).id


def test_ordinary_failures_do_not_count_among_the_jobs_given_back(world: World) -> None:
    world.load([entry(number) for number in range(10)])
    for _ in range(8):
        world.fail(world.running(), "trainer_error")
    world.fail(world.running(), "preempted")
    assert world.claim().job_id == entry(9).id


def test_a_result_ends_the_wait_of_a_host(world: World) -> None:
    held_back(world)
    world.wait(31)
    world.complete(world.running())
    for _ in range(8):
        assert give_back(world)


def test_a_claim_asked_again_is_answered_while_its_host_waits(world: World) -> None:
    world.load([entry(number) for number in range(20)], {"default": Policy(slots=20)})
    lease = world.claim("pi", claim_id="claim-once")
    for _ in range(9):
        world.fail(world.claim("pi", [lease.lease_id]), "preempted")
    assert world.claim("pi", [lease.lease_id]) is None
    assert world.claim("pi", claim_id="claim-once") == lease


def test_a_reload_ends_every_wait(world: World) -> None:
    held_back(world)
    world.load([entry(number) for number in range(12)])
    assert world.claim().job_id == entry(0).id


def test_a_requeue_lets_every_host_have_the_job_at_once(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running(), "host_fault")
    world.cancel(entry(1).id)
    world.requeue(entry(1).id)
    assert world.claim() is not None


def test_a_job_given_back_and_a_claim_in_one_batch_wait_as_well(world: World) -> None:
    """Else who sends both at once would never wait."""
    world.load([entry(1)])
    lease = world.running()

    def both(tx: Any) -> Any:
        world.queue.fail(tx, lease.job_id, Fail(lease.lease_id, "preempted"))
        return world.queue.claim(tx, Claim("claim-next", "pi", host("pi")))

    assert world.do(both) is None


def test_a_job_given_back_in_a_change_that_is_undone_leaves_no_wait(world: World) -> None:
    world.load([entry(1), entry(2)], {"default": Policy(slots=2)})
    lease = world.claim()
    other = world.claim("pi", [lease.lease_id])
    world.fail(other, "host_fault")

    def fail_late(tx: Any) -> None:
        world.queue.fail(tx, lease.job_id, Fail(lease.lease_id, "host_fault"))
        raise ConflictError("changed my mind")

    before = dict(world.queue._memory.waits.apart._entries), dict(world.queue._memory.waits.held_back._entries)
    with pytest.raises(ConflictError):
        world.do(fail_late)
    assert (world.queue._memory.waits.apart._entries, world.queue._memory.waits.held_back._entries) == before


def test_a_host_fault_costs_nothing_and_keeps_the_job_from_that_host_for_a_while(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running("pi"), "host_fault")
    assert world.job(entry(1).id).attempts_used == 0
    assert world.claim("pi") is None
    other = world.claim("server")
    assert other.job_id == entry(1).id
    world.fail(other, "preempted")
    world.wait(31)
    again = world.claim("pi")
    world.fail(again, "host_fault")
    world.wait(31)
    assert world.claim("pi") is None
    world.wait(30)
    assert world.claim("pi") is not None


def test_host_faults_are_forgotten_in_the_end(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running("pi"), "host_fault")
    world.wait(1900)
    assert (len(world.queue._memory.waits.apart), len(world.queue._memory.waits.held_back)) == (0, 0)


def test_a_gpu_that_is_too_small_is_not_tried_again(world: World) -> None:
    world.load([entry(1, Requirement("gbt", require_cuda=True))])
    world.fail(world.running(TOWER), "oom_gpu")
    world.wait(30)
    assert world.claim(TOWER) is None
    assert world.detail(entry(1).id).constraints["over_vram_gib"] == 12
    assert world.claim(host("big", vram_gib=24)) is not None


def test_a_host_with_too_little_memory_is_not_tried_again(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running(host("pi", ram_gib=4)), "oom_ram")
    world.wait(30)
    assert world.claim(host("pi", ram_gib=4)) is None
    assert world.claim(host("server", ram_gib=64)) is not None


def test_what_was_learned_counts_for_one_job_only(world: World) -> None:
    world.load([entry(1), entry(2)])
    world.fail(world.running("pi"), "oom_ram")
    assert world.claim("pi").job_id == entry(2).id


def test_what_was_learned_survives_restart_and_reload_and_ends_with_a_requeue(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running("pi"), "oom_ram")
    world.restart()
    world.load([entry(1, priority=5)])
    assert world.claim("pi") is None
    assert world.detail(entry(1).id).constraints["over_ram_gib"] == 16
    world.cancel(entry(1).id)
    world.requeue(entry(1).id)
    assert world.claim("pi") is not None


def test_an_out_of_memory_from_a_host_that_is_no_longer_admitted_teaches_nothing(world: World) -> None:
    world.load([entry(1)])
    lease = world.running("pi")
    world.load([entry(1)], {"server": Policy()})
    assert world.fail(lease, "oom_ram").status == "pending"
    assert world.detail(lease.job_id).constraints["over_ram_gib"] == 0


def test_a_failure_confirms_a_cancellation(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.cancel(lease.job_id)
    assert world.fail(lease, "lost") == JobState(lease.job_id, "cancelled")
    assert world.fail(lease, "lost") == JobState(lease.job_id, "cancelled")


def test_the_log_of_the_newest_failure_is_kept(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running(), log_tail="first")
    world.wait(30)
    world.fail(world.running(), log_tail="second")
    assert world.detail(entry(1).id).log_tail == "second"


def test_a_failure_without_a_log_leaves_the_one_before(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running(), log_tail="first")
    world.wait(30)
    world.fail(world.running())
    assert world.detail(entry(1).id).log_tail == "first"


def test_each_job_has_the_log_of_its_own_failure(world: World) -> None:
    world.load([entry(1), entry(2), entry(3)])
    for text in ("of the first", "of the second"):
        world.fail(world.running(), log_tail=text)
    assert [world.detail(entry(number).id).log_tail for number in (1, 2, 3)] == ["of the first", "of the second", ""]


# ---- cancel and requeue


def test_cancelling_a_waiting_job_ends_it(world: World) -> None:
    world.load([entry(1)])
    assert world.cancel(entry(1).id) == JobState(entry(1).id, "cancelled")
    assert world.cancel(entry(1).id) == JobState(entry(1).id, "cancelled")
    assert world.claim() is None
    assert world.events(entry(1).id) == ["add", "cancel"]


def test_cancelling_a_delayed_job_ends_it(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running())
    world.cancel(entry(1).id)
    world.wait(100)
    assert world.status(entry(1).id) == "cancelled"


def test_cancelling_a_running_job_asks_its_worker(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    assert world.cancel(lease.job_id) == JobState(lease.job_id, "running", True)
    assert world.cancel(lease.job_id) == JobState(lease.job_id, "running", True)
    assert world.beat(lease).cancel
    assert world.events(lease.job_id).count("cancel") == 1


def test_a_cancel_request_survives_a_restart(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.cancel(lease.job_id)
    world.restart()
    assert world.beat(lease).cancel


def test_cancelling_a_claimed_job_is_told_with_the_first_beat(world: World) -> None:
    world.load([entry(1)])
    lease = world.claim()
    world.cancel(lease.job_id)
    assert world.beat(lease) == Beat(600.0, cancel=True)


def test_a_failed_job_cannot_be_cancelled(world: World) -> None:
    world.load([entry(1, max_attempts=1)])
    world.fail(world.running())
    with pytest.raises(ConflictError, match="failed already") as refused:
        world.cancel(entry(1).id)
    assert refused.value.expected == "a job that waits or runs"


def test_a_requeue_gives_a_new_budget(world: World) -> None:
    world.load([entry(1, max_attempts=1)])
    world.fail(world.running())
    assert world.requeue(entry(1).id) == JobState(entry(1).id, "pending")
    assert world.requeue(entry(1).id) == JobState(entry(1).id, "pending")
    view = world.job(entry(1).id)
    assert (view.attempts_used, view.failure is not None) == (0, True)
    assert world.claim().fence == 3


def test_a_job_that_is_held_or_completed_cannot_be_requeued(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    with pytest.raises(ConflictError, match="running"):
        world.requeue(lease.job_id)
    world.complete(lease)
    with pytest.raises(ConflictError, match="completed"):
        world.requeue(lease.job_id)


@pytest.mark.parametrize("ask", ["cancel", "requeue"])
def test_an_unknown_job_is_not_found(world: World, ask: str) -> None:
    with pytest.raises(NotFoundError):
        getattr(world, ask)("f" * 64)


# ---- notices and counts


def test_parked_claims_are_told_how_many_jobs_of_which_requirement_appeared(world: World) -> None:
    world.load([entry(1), entry(2), entry(3, Requirement("gbt", min_ram_gib=8))])
    assert world.ready[0] == {1: 2, 2: 1}
    world.ready.clear()
    lease = world.running()
    assert world.ready == []
    world.fail(lease)
    assert world.ready == []
    world.wait(30)
    assert world.ready == [{1: 1}]
    assert world.queue._memory.hosts.eligible(1, "pi")
    assert not world.queue._memory.hosts.eligible(1, "stranger")


def test_a_job_that_ends_for_good_is_announced_to_nobody(world: World) -> None:
    world.load([entry(1, max_attempts=1), entry(2)])
    failed, cancelled = world.running("pi"), world.running("server")
    world.cancel(cancelled.job_id)
    world.ready.clear()
    assert world.fail(failed).status == "failed"
    assert world.fail(cancelled, "lost").status == "cancelled"
    assert world.ready == []


def test_a_change_that_is_undone_leaves_no_trace_in_memory(world: World) -> None:
    world.load([entry(1)])
    revision = world.queue.revision

    def fail_late(tx: Any) -> None:
        world.queue.claim(tx, Claim("claim-0001", "pi", host("pi")))
        raise ConflictError("changed my mind")

    with pytest.raises(FleetError):
        world.do(fail_late)
    assert world.queue.counts()["pending"] == 1
    assert len(world.queue._memory.leases) == 0
    assert world.queue.revision == revision
    assert world.status(entry(1).id) == "pending"


def test_counts_survive_a_restart(world: World) -> None:
    world.load([entry(number) for number in range(4)])
    world.complete(world.running())
    world.cancel(entry(3).id)
    world.running("server")
    expected = {"pending": 1, "claimed": 0, "running": 1, "completed": 1, "failed": 0, "cancelled": 1}
    assert world.queue.counts() == expected
    world.restart()
    assert world.queue.counts() == expected


def test_the_history_names_who_did_what(world: World) -> None:
    world.load([entry(1)])
    lease = world.running()
    world.cancel(lease.job_id)
    world.fail(lease, "lost")
    world.requeue(lease.job_id)
    events = world.detail(lease.job_id).events
    assert [(event.actor, event.action, event.from_status, event.to_status) for event in events] == [
        ("receiver", "add", None, "pending"),
        ("worker:pi", "claim", "pending", "claimed"),
        ("worker:pi", "start", "claimed", "running"),
        ("operator:test", "cancel", "running", "running"),
        ("worker:pi", "cancel", "running", "cancelled"),
        ("operator:test", "requeue", "cancelled", "pending"),
    ]
