"""What each change writes, and that it touches no other row.

Every change is made in a crowd: jobs in every state, attempts with equal fences, several identities and invites. So a
condition that is missing from a statement shows as a row that changed, and an assignment as one that did not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.queue_world import ARTIFACT, OPERATOR, OTHER, Engine, World, entry, host, open_world
from training.fleet.auth.identities import digest_of
from training.fleet.database.queries import MAKE_READY
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.errors import ArtifactMissingError, FleetError
from training.fleet.model.jobs import Policy, Requirement
from training.fleet.wire.identities import Enrol, InviteOrder
from training.fleet.wire.worker import Lease

KEYS = {
    "job": ("seq",),
    "attempt": ("job", "fence"),
    "log": ("job",),
    "error": ("id",),
    "artifact": ("seq",),
    "requirement": ("id",),
    "worker": ("name",),
    "identity": ("worker", "digest"),
    "invite": ("worker",),
}
EARLY, LATE = "2026-01-01T00:00:00.000Z", "2026-02-02T00:00:00.000Z"
ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64
Rows = dict[str, dict[str, Any] | None]


def rows(world: World) -> dict[str, dict[str, Any]]:
    """Return every row by table and key."""

    def read(_tx: Any) -> dict[str, dict[str, Any]]:
        found = {}
        for table, key in KEYS.items():
            for row in world.engine.look(world.database, f"SELECT * FROM {table}"):
                found[" ".join([table, *(str(row[name]) for name in key)])] = dict(row)
        return found

    read_rows: dict[str, dict[str, Any]] = world.do(read)
    return read_rows


def changed(world: World, change: Callable[[], Any]) -> Rows:
    """Return what a change wrote: new rows whole, changed ones with their new values, None for those that are gone."""
    before = rows(world)
    change()
    after = rows(world)
    found: Rows = {}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, {}), after.get(name)
        if new is None:
            found[name] = None
        elif values := {column: value for column, value in new.items() if old.get(column, ...) != value}:
            found[name] = values
    return found


class Crowd:
    """Jobs in every state, each with its lease.

    1 a claim that was lost, 2 running under its second lease, 3 claimed, 4 failed, 5 cancelled, 6 waits for its next
    try, 7 completed, 8 and 9 were never claimed, 10 running and asked to stop, 11 a lease that ran out.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.leases: dict[int, Lease] = {}
        own = {number: Requirement("gbt", allowed_hosts=(f"host-{number}",)) for number in range(1, 12)}
        self.entries = [entry(number, own[number], max_attempts=1 if number == 4 else 3) for number in range(1, 12)]
        world.load(self.entries, {"default": Policy(slots=9)})
        self.claim(1)
        self.run(11)
        world.wait(598)
        self.run(2, "preempted")
        world.wait(2)  # the lease of 11 runs out, and the host of 2 may have it again
        self.run(2)
        self.claim(3)
        self.run(4, "trainer_error")
        self.run(5)
        world.cancel(self.id(5))
        world.fail(self.leases[5], "lost")
        self.run(6, "trainer_error")
        world.complete(self.run(7))
        self.run(10)
        world.cancel(self.id(10))
        for worker, digest in (("alpha", ONE), ("beta", TWO)):
            code = self.invite(worker)
            world.do(lambda tx, w=worker, c=code, d=digest: world.queue.identities.enrol(tx, Enrol(c, w, d)))
        world.wall = LATE
        world.now += 7

    def id(self, number: int) -> str:
        return self.entries[number - 1].id

    def claim(self, number: int) -> Lease:
        self.leases[number] = self.world.claim(f"host-{number}")
        return self.leases[number]

    def run(self, number: int, ends_as: str = "") -> Lease:
        lease = self.claim(number)
        self.world.beat(lease)
        if ends_as:
            self.world.fail(lease, ends_as, error="it broke", log_tail="the end of the log")
        return lease

    def invite(self, worker: str, ttl_s: int = 900) -> str:
        order = InviteOrder(worker, ttl_s)
        code: str = self.world.do(lambda tx: self.world.queue.identities.invite(tx, order, OPERATOR)).code
        return code


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[World]:
    with open_world(tmp_path, engine=engine) as opened:
        yield opened


@pytest.fixture
def crowd(world: World) -> Crowd:
    return Crowd(world)


# ---- workers


def test_a_claim_writes_its_job_its_attempt_and_its_host(world: World, crowd: Crowd) -> None:
    found = changed(world, lambda: crowd.claim(8))
    lease_id = crowd.leases[8].lease_id
    capability = found["worker host-8"].pop("capability")  # type: ignore[union-attr]
    assert '"ram_bytes":17179869184' in capability
    assert found == {
        "job 8": {
            "status": "claimed",
            "lease_id": lease_id,
            "host": "host-8",
            "fence": 1,
            "attempt": 1,
            "attempts_used": 1,
            "updated_at": LATE,
        },
        "attempt 8 1": {
            "job": 8,
            "fence": 1,
            "lease_id": lease_id,
            "worker": "host-8",
            "claim_id": "claim-0012",
            "process": None,
            "claimed_at": LATE,
            "started_at": None,
            "ended_at": None,
            "outcome": None,
            "refunded": 0,
            "kind": None,
            "exit_status": None,
            "error_id": None,
            "card": None,
        },
        "worker host-8": {"name": "host-8", "seen_at": LATE},
    }


def test_a_host_that_has_changed_is_written_down_and_no_other(world: World, crowd: Crowd) -> None:
    found = changed(world, lambda: world.claim(host("host-7", ram_gib=32)))
    assert found.keys() == {"worker host-7"}
    assert '"ram_bytes":34359738368' in found["worker host-7"].pop("capability")  # type: ignore[union-attr]
    assert found == {"worker host-7": {"seen_at": LATE}}


def test_a_repeated_claim_is_answered_with_its_own_job(world: World, crowd: Crowd) -> None:
    first = world.claim("host-9", claim_id="claim-once")
    again: list[Lease] = []
    assert changed(world, lambda: again.append(world.claim("host-9", claim_id="claim-once"))) == {}
    assert again == [first]
    assert first.job_id == crowd.id(9)


def test_the_first_beat_writes_when_the_attempt_began(world: World, crowd: Crowd) -> None:
    assert changed(world, lambda: world.beat(crowd.leases[3])) == {
        "job 3": {"status": "running", "updated_at": LATE},
        "attempt 3 1": {"started_at": LATE},
    }


def test_a_later_beat_that_needs_the_database_writes_nothing(world: World, crowd: Crowd) -> None:
    before = world.events(crowd.id(2))
    assert changed(world, lambda: world.beat(crowd.leases[2], held=["no-such-lease"])) == {}
    assert world.events(crowd.id(2)) == before


def test_an_adopted_claim_that_was_lost_begins_and_costs_its_attempt(world: World, crowd: Crowd) -> None:
    lease = crowd.leases[1]
    assert changed(world, lambda: world.beat(lease)) == {
        "job 1": {
            "status": "running",
            "lease_id": lease.lease_id,
            "failure": None,
            "attempts_used": 1,
            "refunds": 0,
            "updated_at": LATE,
        },
        "attempt 1 1": {"outcome": None, "ended_at": None, "refunded": 0, "started_at": LATE},
    }


def test_an_adopted_attempt_keeps_when_it_began(world: World, crowd: Crowd) -> None:
    lease = crowd.leases[11]
    assert changed(world, lambda: world.beat(lease)) == {
        "job 11": {"status": "running", "lease_id": lease.lease_id, "failure": None, "updated_at": LATE},
        "attempt 11 1": {"outcome": None, "ended_at": None},
    }


def test_only_the_newest_attempt_of_a_job_begins_and_is_adopted(world: World, crowd: Crowd) -> None:
    world.fail(crowd.leases[2], "preempted")
    lease = crowd.claim(2)
    assert changed(world, lambda: world.beat(lease)) == {
        "job 2": {"status": "running"},
        "attempt 2 3": {"started_at": LATE},
    }
    world.wait(601)
    assert changed(world, lambda: world.beat(lease)) == {
        "job 2": {"status": "running", "lease_id": lease.lease_id, "failure": None},
        "attempt 2 3": {"outcome": None, "ended_at": None},
    }


def result(artifact: str) -> dict[str, Any]:
    return {
        "status": "completed",
        "lease_id": None,
        "artifact": artifact,
        "metrics": '{"auroc":0.9}',
        "content_digest": "sha256:" + "c" * 64,
        "duration_s": 12.5,
        "updated_at": LATE,
    }


def test_a_result_is_written_whole(world: World, crowd: Crowd) -> None:
    assert changed(world, lambda: world.complete(crowd.leases[2])) == {
        "job 2": result(ARTIFACT),
        "attempt 2 2": {"outcome": "completed", "ended_at": LATE},
    }


def test_a_result_after_a_failure_and_a_request_to_stop_ends_both(world: World, crowd: Crowd) -> None:
    crowd.run(9, "trainer_error")
    world.now += 30
    world.sweep()
    lease = crowd.run(9)
    world.cancel(crowd.id(9))
    world.wall = EARLY
    found = changed(world, lambda: world.complete(lease, OTHER))
    assert found["job 9"] == {**result(OTHER), "failure": None, "cancel_requested": 0, "updated_at": EARLY}
    assert found["attempt 9 2"] == {"outcome": "completed", "ended_at": EARLY}
    assert found.keys() == {"job 9", "attempt 9 2", "artifact 2"}


def test_a_late_result_of_a_lost_claim_costs_its_attempt(world: World, crowd: Crowd) -> None:
    written = {column: value for column, value in result(OTHER).items() if column != "lease_id"}
    assert (
        changed(world, lambda: world.complete(crowd.leases[1], OTHER)).items()
        >= {
            "job 1": {**written, "failure": None, "attempts_used": 1, "refunds": 0},
            "attempt 1 1": {"outcome": "completed", "ended_at": LATE, "refunded": 0},
        }.items()
    )


def test_a_failure_is_written_with_what_was_learned(world: World, crowd: Crowd) -> None:
    found = changed(world, lambda: world.fail(crowd.leases[3], "oom_ram", error="no memory", log_tail="the log"))
    number = found["job 3"]["requirement"]  # type: ignore[index]
    assert found.pop(f"requirement {number}") is not None
    assert isinstance(found["job 3"].pop("failure"), int)  # type: ignore[union-attr]
    error = found["attempt 3 1"]["error_id"]  # type: ignore[index]
    assert found.pop(f"error {error}") == {"id": error, "text": "no memory"}
    assert found == {
        "job 3": {
            "status": "pending",
            "lease_id": None,
            "ready": 0,
            "pending_tick": 607,
            "over_ram_gib": 16.0,
            "requirement": number,
            "updated_at": LATE,
        },
        "attempt 3 1": {
            "outcome": "failed",
            "ended_at": LATE,
            "kind": "oom_ram",
            "exit_status": 1,
            "error_id": error,
        },
        "log 3": {"job": 3, "tail": "the log"},
    }


def test_a_lost_claim_is_written_as_refunded(world: World, crowd: Crowd) -> None:
    crowd.claim(8)
    world.now += 2  # as long as its host must wait before it may have the job again
    found = changed(world, lambda: crowd.claim(8))
    lost = found["attempt 8 1"]
    assert lost == {"outcome": "lost_claim", "ended_at": LATE, "refunded": 1}
    assert found["job 8"]["refunds"] == 1  # type: ignore[index]
    assert found.keys() == {"job 8", "attempt 8 1", "attempt 8 2"}


# ---- operators


def test_a_cancelled_job_is_written_and_no_other(world: World, crowd: Crowd) -> None:
    ended = {"status": "cancelled", "updated_at": LATE}
    assert changed(world, lambda: world.cancel(crowd.id(9))) == {"job 9": ended}
    assert changed(world, lambda: world.cancel(crowd.id(6))) == {"job 6": {**ended, "ready": 1}}
    assert changed(world, lambda: world.cancel(crowd.id(2))) == {"job 2": {"cancel_requested": 1, "updated_at": LATE}}


def test_a_requeued_job_begins_like_a_new_one(world: World, crowd: Crowd) -> None:
    assert changed(world, lambda: world.requeue(crowd.id(4))) == {
        "job 4": {"status": "pending", "fence": 2, "attempts_used": 0, "pending_tick": 607, "updated_at": LATE}
    }
    world.cancel(crowd.id(1))
    world.wall = EARLY
    assert changed(world, lambda: world.requeue(crowd.id(1))) == {
        "job 1": {"status": "pending", "fence": 2, "refunds": 0, "pending_tick": 607, "updated_at": EARLY}
    }


def test_a_requeued_job_forgets_what_was_learned(world: World, crowd: Crowd) -> None:
    world.load([*crowd.entries, entry(20, Requirement("gbt", require_cuda=True), max_attempts=1)])
    world.fail(world.running(host("tower", vram_gib=12)), "oom_gpu")
    assert rows(world)["job 12"]["over_vram_gib"] == 12.0
    found = changed(world, lambda: world.requeue(entry(20).id))["job 12"]
    assert found is not None
    assert (found["over_vram_gib"], found.get("over_ram_gib", 0), found["attempts_used"]) == (0, 0, 0)
    assert rows(world)[f"requirement {found['requirement']}"]["body"].endswith('"over_vram_gib":0,"over_ram_gib":0}')
    world.fail(crowd.leases[3], "oom_ram")
    world.cancel(crowd.id(3))
    found = changed(world, lambda: world.requeue(crowd.id(3)))["job 3"]
    assert found is not None
    assert (found["over_ram_gib"], found["requirement"]) == (0, 3)


# ---- time


def test_the_end_of_a_delay_is_written_for_its_job_alone(world: World, crowd: Crowd) -> None:
    crowd.run(9, "trainer_error")
    world.now += 23
    assert changed(world, world.sweep) == {"job 6": {"ready": 1}}


def test_a_restart_ends_every_delay_and_changes_nothing_else(world: World, crowd: Crowd) -> None:
    assert changed(world, world.restart) == {"job 6": {"ready": 1}}


# ---- the manifest


def test_new_terms_are_written_for_the_jobs_that_have_them(world: World, crowd: Crowd) -> None:
    more = {"priority": 3, "timeout_s": 77, "max_attempts": 9}
    own = Requirement("gbt", allowed_hosts=("host-8",), min_ram_gib=1)
    entries = [entry(8, own, **more) if number == 8 else one for number, one in enumerate(crowd.entries, 1)]
    found = changed(world, lambda: world.load(entries, {"default": Policy(slots=9)}))
    assert found.keys() == {"job 8", "requirement 8", "requirement 12"}
    assert found["job 8"] == {**more, "requirement": 12, "updated_at": LATE}
    assert found["requirement 8"] is None


def test_a_shrunken_budget_ends_the_job_that_has_used_it(world: World, crowd: Crowd) -> None:
    entries = [
        entry(6, Requirement("gbt", allowed_hosts=("host-6",)), max_attempts=1) if number == 6 else one
        for number, one in enumerate(crowd.entries, 1)
    ]
    assert changed(world, lambda: world.load(entries, {"default": Policy(slots=9)})) == {
        "job 6": {"max_attempts": 1, "status": "failed", "ready": 1, "updated_at": LATE}
    }


def test_a_job_that_is_no_longer_named_is_marked_and_one_named_again_is_unmarked(world: World, crowd: Crowd) -> None:
    fewer = [one for one in crowd.entries if one.id != crowd.id(9)]
    gone = changed(world, lambda: world.load(fewer, {"default": Policy(slots=9)}, allow_shrink=True))
    assert gone == {"job 9": {"named": 0, "withdrawn": 1, "updated_at": LATE}}
    world.wall = EARLY
    again = changed(world, lambda: world.load(crowd.entries, {"default": Policy(slots=9)}))
    assert again["job 9"] == {"named": 1, "withdrawn": 0, "updated_at": EARLY}


# ---- identities


def test_each_change_of_an_identity_is_written_for_it_alone(world: World, crowd: Crowd) -> None:
    queue, name = world.queue, f"identity alpha {ONE}"
    own = queue.identities.registry.living("alpha")
    assert own is not None
    changes: list[tuple[Callable[[Any], Any], Rows]] = [
        (lambda tx: queue.identities.ask_to_rotate(tx, "alpha", OPERATOR), {name: {"rotate": 1}}),
        (lambda tx: queue.identities.take_secret(tx, own.id, THREE), {name: {"next_digest": THREE}}),
        (lambda tx: queue.identities.keep_certificate(tx, own.id, TWO), {name: {"fingerprint": TWO}}),
        (lambda tx: queue.identities.keep_place(tx, own.id, "here"), {name: {"place": "here"}}),
    ]
    for change, expected in changes:
        assert changed(world, lambda change=change: world.do(change)) == expected  # type: ignore[misc]
    renewed = changed(world, lambda: world.do(lambda tx: queue.identities.renew(tx, own.id)))
    assert renewed[name] is None
    new = renewed[f"identity alpha {THREE}"]
    assert new is not None
    assert (new["id"], new["next_digest"], new["rotate"], new["place"]) == (own.id, None, 0, "here")
    assert renewed.keys() == {name, f"identity alpha {THREE}"}
    revoked = changed(world, lambda: world.do(lambda tx: queue.identities.revoke(tx, "alpha", OPERATOR)))
    assert revoked == {f"identity alpha {THREE}": {"revoked_at": LATE}}


def test_an_invite_takes_the_place_of_an_unused_one_of_its_worker_alone(world: World, crowd: Crowd) -> None:
    crowd.invite("gamma")
    crowd.invite("delta")
    found = changed(world, lambda: crowd.invite("gamma", 60))["invite gamma"]
    assert found is not None
    assert (found["expires_tick"], found["expires_at"]) == (667, "2026-02-02T00:01:00.000Z")
    assert {name for name in rows(world) if name.startswith("invite")} == {
        "invite alpha",
        "invite beta",
        "invite gamma",
        "invite delta",
    }


def test_a_code_that_is_used_is_marked_and_no_other(world: World, crowd: Crowd) -> None:
    code, _ = crowd.invite("gamma"), crowd.invite("delta")
    found = changed(world, lambda: world.do(lambda tx: world.queue.identities.enrol(tx, Enrol(code, "gamma", THREE))))
    identity = world.queue.identities.registry.living("gamma")
    assert identity is not None
    assert found.keys() == {"invite gamma", f"identity gamma {THREE}"}
    assert found["invite gamma"] == {"identity": identity.id}


def test_a_code_is_used_once_even_if_the_code_forgets_to_look(world: World, crowd: Crowd) -> None:
    code = crowd.invite("gamma")
    world.do(lambda tx: world.queue.identities.enrol(tx, Enrol(code, "gamma", THREE)))
    own, other = (world.queue.identities.registry.living(name) for name in ("gamma", "alpha"))
    assert own is not None and other is not None
    use = lambda tx: tx.run("use_invite", digest=digest_of(code), identity=other.id)  # noqa: E731
    assert world.do(use) == 0
    assert rows(world)["invite gamma"]["identity"] == own.id


def test_codes_are_forgotten_a_day_after_their_end_and_not_before(world: World, crowd: Crowd) -> None:
    crowd.invite("gamma", 60)
    world.now += 60 + 86400
    crowd.invite("delta")
    assert "invite gamma" in rows(world)
    world.now += 1
    found = changed(world, lambda: crowd.invite("epsilon"))
    assert found.keys() == {"invite gamma", "invite epsilon"}
    assert found["invite gamma"] is None


# ---- statements stand behind the code


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        pytest.param("start", {"seq": 3, "lease_id": "another"}, id="a start under another lease"),
        pytest.param("start", {"seq": 10, "lease_id": "own"}, id="a second start"),
        pytest.param("adopt", {"seq": 1, "lease_id": "own", "fence": 0, "refunded": 0}, id="an older fence adopted"),
        pytest.param("adopt", {"seq": 6, "lease_id": "own", "fence": 0, "refunded": 0}, id="no fence adopted"),
        pytest.param("adopt", {"seq": 10, "lease_id": "own", "fence": 1, "refunded": 0}, id="a running job adopted"),
        pytest.param("cancel", {"seq": 2}, id="a running job cancelled at once"),
        pytest.param("cancel", {"seq": 7}, id="a completed job cancelled"),
        pytest.param("request_cancel", {"seq": 8}, id="a waiting job asked to stop"),
        pytest.param("requeue", {"seq": 2, "requirement": 2, "tick": 0}, id="a running job requeued"),
        pytest.param("requeue", {"seq": 8, "requirement": 8, "tick": 0}, id="a waiting job requeued"),
    ],
)
def test_a_statement_starts_from_the_state_it_names(
    world: World, crowd: Crowd, statement: str, values: dict[str, Any]
) -> None:
    values = {**values, "at": LATE}
    if values.get("lease_id") == "own":
        values["lease_id"] = crowd.leases[values["seq"]].lease_id
    written: list[int] = []
    assert changed(world, lambda: written.append(world.do(lambda tx: tx.run(statement, **values)))) == {}
    assert written == [0]


def test_a_lease_starts_and_ends_its_own_job_alone(world: World, crowd: Crowd) -> None:
    values = {"seq": 8, "at": LATE}
    start = lambda tx: tx.run("start", lease_id=crowd.leases[3].lease_id, **values)  # noqa: E731
    ended = {"status": "pending", "ready": 1, "tick": 0, "given_back": 0, "refunded": 0, "failure": None}
    needs = {"requirement": 8, "over_vram_gib": 0, "over_ram_gib": 0}
    settle = lambda tx: tx.run("settle", lease_id=crowd.leases[2].lease_id, **values, **ended, **needs)  # noqa: E731
    written: list[int] = []
    assert changed(world, lambda: written.extend([world.do(start), world.do(settle)])) == {}
    assert written == [0, 0]


def test_a_job_that_is_ready_does_not_become_it(world: World, crowd: Crowd) -> None:
    found = [world.do(lambda tx, seq=seq: tx.one(MAKE_READY, seq=seq)) for seq in (8, 6, 6)]
    assert [row and row.requirement for row in found] == [None, 6, None]


@pytest.mark.parametrize("statement", ["adopt", "complete"])
def test_the_tables_let_no_job_go_on_that_a_report_has_failed(world: World, crowd: Crowd, statement: str) -> None:
    values = {"seq": 4, "fence": 1, "refunded": 0, "at": LATE}
    more: dict[str, Any] = {"lease_id": crowd.leases[4].lease_id}
    if statement == "complete":
        more = {"artifact": ARTIFACT, "metrics": "{}", "content_digest": None, "duration_s": 1}
    before = rows(world)
    with pytest.raises(FleetError, match="goes on under its newest lease"):
        world.do(lambda tx: tx.run(statement, **values, **more))
    assert rows(world) == before


@pytest.mark.parametrize("number", [5, 7])
def test_no_result_is_written_over_a_job_that_is_over(world: World, crowd: Crowd, number: int) -> None:
    values = {"seq": number, "fence": 1, "artifact": ARTIFACT, "metrics": "{}", "content_digest": None}
    complete = lambda tx: tx.run("complete", **values, duration_s=1, refunded=0, at=LATE)  # noqa: E731
    written: list[int] = []
    assert changed(world, lambda: written.append(world.do(complete))) == {}
    assert written == [0]


@pytest.mark.parametrize(
    ("sha256", "model", "mode"),
    [(OTHER, "gbt", "realistic"), (ARTIFACT, "mlp", "realistic"), (ARTIFACT, "gbt", "oracle")],
    ids=["another digest", "another model", "another mode"],
)
def test_a_result_needs_the_artifact_of_its_digest_model_and_mode(
    tmp_path: Path, sha256: str, model: str, mode: str
) -> None:
    with open_world(tmp_path) as world:
        world.load([entry(1)])
        lease = world.running()
        world.do(lambda tx: world.queue.artifacts.add(tx, ArtifactKey(sha256, model, mode), 10))
        with pytest.raises(ArtifactMissingError):
            world.complete(lease, store=False)
