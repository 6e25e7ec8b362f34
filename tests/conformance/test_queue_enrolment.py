"""Invites, identities and the audit trail, on a real database with clocks that the test moves."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.queue_world import Engine, World, entry
from training.fleet.auth.identities import digest_of
from training.fleet.model.errors import (
    ConflictError,
    FleetError,
    ForbiddenError,
    InvalidMessageError,
    InviteRefusedError,
    NotFoundError,
    RevokedError,
)
from training.fleet.queue import EventFilters
from training.fleet.wire.identities import Enrol, InviteOrder
from training.fleet.wire.people import FleetEvent

ALICE = "operator:alice"
ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[World]:
    it = World(tmp_path / "queue.db", engine=engine)
    yield it
    it.database.close()


def invited(world: World, worker: str = "pi", ttl_s: int = 900) -> str:
    made = world.do(lambda tx: world.queue.identities.invite(tx, InviteOrder(worker, ttl_s), ALICE))
    code: str = made.code
    return code


def enrol(world: World, code: str, digest: str = ONE, worker: str = "pi") -> Any:
    return world.do(lambda tx: world.queue.identities.enrol(tx, Enrol(code, worker, digest)))


def enrolled(world: World, digest: str = ONE) -> Any:
    return enrol(world, invited(world), digest)


def revoke(world: World, worker: str = "pi") -> Any:
    return world.do(lambda tx: world.queue.identities.revoke(tx, worker, ALICE))


def rotate(world: World, worker: str = "pi") -> Any:
    return world.do(lambda tx: world.queue.identities.ask_to_rotate(tx, worker, ALICE))


def trail(world: World, job: str | None = None, worker: str | None = None, limit: int = 500) -> list[FleetEvent]:
    found: list[FleetEvent] = []
    cursor: str | None = None
    for _ in range(1000):
        page = world.do(
            functools.partial(world.queue.history.page, filters=EventFilters(job, worker), cursor=cursor, limit=limit)
        )
        found += page.events
        cursor = page.next
        if cursor is None:
            return found
    raise AssertionError("the pages have no end")


def actions(world: World) -> list[str]:
    return [event.action for event in reversed(trail(world)) if event.worker]


# ---- codes and their time


@pytest.mark.parametrize("undone", [True, False])
def test_a_host_that_enrols_twice_in_one_batch_has_the_newer_identity_or_with_the_batch_undone_none(
    world: World, undone: bool
) -> None:
    """The first one is replaced before anybody but the batch knows of it."""

    def twice(tx: Any) -> None:
        for digest in (ONE, TWO):
            made = world.queue.identities.invite(tx, InviteOrder("pi", 900), ALICE)
            world.queue.identities.enrol(tx, Enrol(made.code, "pi", digest))
        if undone:
            raise ConflictError("the batch goes wrong")

    if undone:
        with pytest.raises(ConflictError, match="the batch goes wrong"):
            world.do(twice)
    else:
        world.do(twice)
    living = world.queue.identities.living("pi")
    assert (living and living.digest) == (None if undone else TWO)
    assert len(world.queue.identities.page(None, 10).identities) == (0 if undone else 2)


@pytest.mark.parametrize("restart", [False, True])
def test_a_code_is_over_when_the_fleet_clock_says_so(world: World, restart: bool) -> None:
    code = invited(world, ttl_s=60)
    world.now += 59
    if restart:
        world.sweep()
        world.restart()
    assert enrol(world, code).worker == "pi"
    code = invited(world, ttl_s=60)
    world.now += 60
    with pytest.raises(InviteRefusedError, match=r"good until .*cis490-jobs invite pi"):
        enrol(world, code, TWO)


def test_a_code_is_over_when_the_wall_clock_says_so_because_nobody_ran(world: World) -> None:
    code = invited(world, ttl_s=900)
    world.restart()
    world.wall = "2026-01-01T00:14:59.999Z"
    assert enrol(world, code).worker == "pi"
    code = invited(world, ttl_s=900)
    world.wall = "2026-01-01T00:29:59.999Z"
    with pytest.raises(InviteRefusedError, match="good until"):
        enrol(world, code, TWO)


def test_a_wall_clock_that_is_set_back_gives_a_code_no_more_time(world: World) -> None:
    code = invited(world, ttl_s=60)
    world.wall = "2020-01-01T00:00:00.000Z"
    world.now += 60
    with pytest.raises(InviteRefusedError, match="good until"):
        enrol(world, code)


def test_the_answer_is_given_again_only_while_the_code_lives(world: World) -> None:
    code = invited(world, ttl_s=60)
    first = enrol(world, code)
    assert enrol(world, code) == first
    world.restart()
    assert enrol(world, code) == first
    world.now += 61
    with pytest.raises(InviteRefusedError, match="good until"):
        enrol(world, code)


def test_a_code_that_was_used_by_a_worker_since_revoked_is_refused(world: World) -> None:
    code = invited(world)
    enrol(world, code)
    revoke(world)
    with pytest.raises(InviteRefusedError, match="used already"):
        enrol(world, code)


def test_a_code_is_good_for_its_own_host_alone(world: World) -> None:
    code = invited(world)
    with pytest.raises(ForbiddenError, match="not good for the host tower"):
        enrol(world, code, worker="tower")
    assert enrol(world, code).worker == "pi"


def test_a_code_that_was_used_with_another_key_is_refused(world: World) -> None:
    code = invited(world)
    enrol(world, code)
    with pytest.raises(InviteRefusedError, match="used already"):
        enrol(world, code, TWO)


def test_of_two_keys_that_bring_one_code_in_one_batch_the_first_counts(world: World) -> None:
    code = invited(world)

    def twice(tx: Any) -> Any:
        first = world.queue.identities.enrol(tx, Enrol(code, "pi", ONE))
        with pytest.raises(InviteRefusedError, match="used already"):
            world.queue.identities.enrol(tx, Enrol(code, "pi", TWO))
        return first

    assert world.do(twice) == world.queue.identities.registry.living("pi")


def test_a_code_asked_twice_in_one_batch_gives_the_same_identity(world: World) -> None:
    code = invited(world)

    def twice(tx: Any) -> Any:
        return [world.queue.identities.enrol(tx, Enrol(code, "pi", ONE)) for _ in range(2)]

    first, second = world.do(twice)
    assert first == second == world.queue.identities.registry.living("pi")


def test_of_two_codes_used_in_one_batch_the_second_replaces_the_first(world: World) -> None:
    code = invited(world)

    def twice(tx: Any) -> Any:
        world.queue.identities.enrol(tx, Enrol(code, "pi", ONE))
        other = world.queue.identities.invite(tx, InviteOrder("pi"), "operator:test").code
        return world.queue.identities.enrol(tx, Enrol(other, "pi", TWO))

    assert world.do(twice) == world.queue.identities.registry.living("pi")
    assert sorted(one.state for one in world.queue.identities.page(None, 9).identities) == ["enrolled", "revoked"]


def test_two_changes_of_one_identity_in_one_batch_both_count(world: World) -> None:
    identity = enrolled(world)

    def twice(tx: Any) -> None:
        world.queue.identities.keep_place(tx, identity.id, "there")
        world.queue.identities.keep_certificate(tx, identity.id, TWO)

    world.do(twice)
    found = world.queue.identities.registry.living("pi")
    assert (found.place, found.fingerprint) == ("there", TWO)


def test_codes_of_long_ago_are_forgotten(world: World) -> None:
    code = invited(world, ttl_s=60)
    world.now += 61 + 86400
    invited(world, "other")
    with pytest.raises(InviteRefusedError, match="this receiver did not give the code"):
        enrol(world, code)


def test_revoking_makes_unused_codes_void(world: World) -> None:
    enrolled(world)
    code = invited(world)
    revoke(world)
    with pytest.raises(InviteRefusedError, match="this receiver did not give the code"):
        enrol(world, code, TWO)


def test_no_code_and_no_key_is_in_the_database(world: World) -> None:
    code = invited(world)
    enrol(world, code, digest_of("the-key-itself"))
    world.restart()
    data = b"".join(path.read_bytes() for path in world.path.parent.iterdir())
    assert digest_of(code).encode() in data
    assert code.encode() not in data
    assert b"the-key-itself" not in data


# ---- identities


def test_identities_outlive_a_restart(world: World) -> None:
    first = enrolled(world)
    rotate(world)
    world.do(lambda tx: world.queue.identities.take_secret(tx, first.id, TWO))
    world.restart()
    found = world.queue.identities.registry.living("pi")
    assert (found.id, found.digest, found.next_digest, found.rotate) == (first.id, ONE, TWO, True)
    world.do(lambda tx: world.queue.identities.renew(tx, first.id))
    world.do(lambda tx: world.queue.identities.renew(tx, first.id))
    world.restart()
    found = world.queue.identities.registry.living("pi")
    assert (found.digest, found.next_digest, found.rotate) == (TWO, None, False)
    assert actions(world) == ["invite", "enrol", "rotate", "renew"]


def test_a_key_that_nobody_asked_for_takes_the_place_of_none(world: World) -> None:
    """Whoever has the secret could otherwise make it useless to the worker it belongs to."""
    identity = enrolled(world)
    with pytest.raises(ConflictError, match=r"nobody asked the worker pi for a new.*cis490-jobs identity rotate pi"):
        world.do(lambda tx: world.queue.identities.take_secret(tx, identity.id, TWO))
    assert world.queue.identities.registry.living("pi") == identity
    world.do(lambda tx: world.queue.identities.take_secret(tx, identity.id, ONE))  # the one in force, told again
    rotate(world)
    for _ in range(2):
        world.do(lambda tx: world.queue.identities.take_secret(tx, identity.id, TWO))
    world.do(lambda tx: world.queue.identities.renew(tx, identity.id))
    world.do(lambda tx: world.queue.identities.take_secret(tx, identity.id, TWO))
    with pytest.raises(ConflictError):
        world.do(lambda tx: world.queue.identities.take_secret(tx, identity.id, ONE))


def test_an_invite_says_whether_it_replaces_an_identity(world: World) -> None:
    def replaces() -> bool:
        order = InviteOrder("pi", 900)
        return bool(world.do(lambda tx: world.queue.identities.invite(tx, order, ALICE)).replaces)

    assert not replaces()
    enrolled(world)
    assert replaces()
    revoke(world)
    assert not replaces()


def test_the_key_that_a_worker_has_already_is_no_next_one(world: World) -> None:
    identity = enrolled(world)
    world.do(lambda tx: world.queue.identities.take_secret(tx, identity.id, ONE))
    assert world.queue.identities.registry.living("pi").state == "enrolled"


def test_a_next_key_counts_once_it_is_durable_and_not_before(world: World) -> None:
    identity = enrolled(world)
    rotate(world)

    def take(tx: Any) -> str | None:
        world.queue.identities.take_secret(tx, identity.id, TWO)
        now = world.queue.identities.registry.living("pi")
        assert now is not None
        return now.next_digest

    assert world.do(take) is None
    assert world.queue.identities.registry.living("pi").next_digest == TWO


def test_asking_twice_for_a_new_key_is_one_event(world: World) -> None:
    enrolled(world)
    assert [rotate(world).state, rotate(world).state] == ["rotating", "rotating"]
    assert actions(world) == ["invite", "enrol", "rotate"]


def test_a_revoked_worker_cannot_be_asked_for_a_new_key(world: World) -> None:
    identity = enrolled(world)
    assert revoke(world).state == "revoked"
    with pytest.raises(ConflictError, match=r"was revoked at 2026-01-01.*cis490-jobs invite pi"):
        rotate(world)
    for change in (
        lambda tx: world.queue.identities.take_secret(tx, identity.id, TWO),
        lambda tx: world.queue.identities.renew(tx, identity.id),
    ):
        with pytest.raises(RevokedError):
            world.do(change)


def test_who_never_enrolled_cannot_be_revoked(world: World) -> None:
    with pytest.raises(NotFoundError, match="no worker pi ever enrolled"):
        revoke(world)


def test_a_change_that_is_undone_leaves_the_identity_as_it_was(world: World) -> None:
    identity = enrolled(world)

    def fail(tx: Any) -> None:
        world.queue.identities.revoke(tx, "pi", ALICE)
        assert world.queue.identities.registry.living("pi") is None, "it holds for requests that are under way"
        raise ForbiddenError("the change is undone")

    with pytest.raises(ForbiddenError):
        world.do(fail)
    assert world.queue.identities.registry.living("pi") == identity
    assert actions(world) == ["invite", "enrol"]


def test_the_fingerprint_of_a_certificate_is_kept(world: World) -> None:
    identity = enrolled(world)
    world.do(lambda tx: world.queue.identities.keep_certificate(tx, identity.id, ONE))
    world.do(lambda tx: world.queue.identities.keep_certificate(tx, "nobody", ONE))
    world.restart()
    assert world.queue.identities.registry.living("pi").fingerprint == ONE
    assert actions(world) == ["invite", "enrol"]


def test_a_certificate_after_the_first_is_an_event(world: World) -> None:
    identity = enrolled(world)
    for fingerprint in (ONE, ONE, TWO, TWO):
        world.do(lambda tx, shown=fingerprint: world.queue.identities.keep_certificate(tx, identity.id, shown))
    assert world.queue.identities.registry.living("pi").fingerprint == TWO
    assert actions(world) == ["invite", "enrol", "renew"]


def test_where_an_identity_is_used_outlives_a_restart(world: World) -> None:
    identity = enrolled(world)
    for place in ("here", "here", "there"):
        world.do(lambda tx, place=place: world.queue.identities.keep_place(tx, identity.id, place))
    world.do(lambda tx: world.queue.identities.keep_place(tx, "nobody", "nowhere"))
    world.restart()
    assert world.queue.identities.registry.living("pi").place == "there"


def test_identities_are_listed_page_by_page(world: World) -> None:
    for number, worker in enumerate(["b", "a", "c", "a"]):
        world.wall = f"2026-01-01T00:00:0{number}.000Z"
        enrol(world, invited(world, worker), f"{number}" * 64, worker)
    first = world.queue.identities.page(None, 3)
    rest = world.queue.identities.page(first.next, 3)
    found = [(one.worker, one.state) for one in (*first.identities, *rest.identities)]
    assert found == [("a", "revoked"), ("a", "enrolled"), ("b", "enrolled"), ("c", "enrolled")]
    assert rest.next is None
    assert world.queue.identities.page(None, 4).next is None


@pytest.mark.parametrize("statement", [
    "INSERT INTO identity (id, worker, digest, created_at) VALUES ('second', 'pi', '{two}', 'now')",
    "UPDATE identity SET digest = 'a key in clear'",
    "UPDATE identity SET next_digest = 'a key in clear'",
    "INSERT INTO invite (digest, worker, created_at, expires_at, expires_tick) VALUES ('a code', 'pi', '', '', 0)",
    "UPDATE event SET why = 'nothing'",
    "INSERT INTO event (at, actor, action) VALUES ('now', 'nobody', 'revoke')",
    "INSERT INTO event (at, actor, action, worker) VALUES ('now', 'nobody', 'forget', 'pi')",
])  # fmt: skip
def test_what_must_never_be_is_a_constraint(world: World, statement: str) -> None:
    enrolled(world)
    world.database.close()
    connection = sqlite3.connect(world.path)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement.format(two=TWO))
    connection.close()


# ---- leases of a revoked worker


def test_a_revoked_workers_jobs_return_at_once_and_cost_no_attempt(world: World) -> None:
    world.load([entry(1), entry(2), entry(3)])
    enrolled(world)
    ready = len(world.ready)
    running, cancelling = world.running("pi"), world.running("tower")
    world.cancel(cancelling.job_id)
    revoke(world, "pi")
    assert world.status(running.job_id) == "pending"
    assert len(world.ready) == ready + 1, "parked claims are told"
    with pytest.raises(FleetError, match="stop the trainer"):
        world.beat(running)
    assert world.status(cancelling.job_id) == "running"
    assert world.claim("another").job_id == running.job_id


def test_what_a_revoked_worker_has_finished_stays(world: World) -> None:
    world.load([entry(1), entry(2)])
    enrolled(world)
    world.complete(world.running("pi"))
    running = world.running("pi")
    revoke(world)
    assert [world.status(entry(1).id), world.status(running.job_id)] == ["completed", "pending"]


def test_a_job_whose_cancellation_waits_is_cancelled_when_its_worker_is_revoked(world: World) -> None:
    world.load([entry(1)])
    enrolled(world)
    lease = world.running("pi")
    world.cancel(lease.job_id)
    revoke(world)
    assert world.status(lease.job_id) == "cancelled"


def test_enrolling_again_frees_what_the_identity_before_held_and_costs_no_attempt(world: World) -> None:
    world.load([entry(1), entry(2)])
    enrolled(world)
    running, of_another = world.running("pi"), world.running("tower")
    code = invited(world)
    ready = len(world.ready)
    enrol(world, code, TWO)
    assert [world.status(lease.job_id) for lease in (running, of_another)] == ["pending", "running"]
    assert len(world.ready) == ready + 1, "parked claims are told"
    with pytest.raises(FleetError, match="stop the trainer"):
        world.beat(running)
    later = world.claim("pi")
    assert later.job_id == running.job_id
    enrol(world, code, TWO)
    assert world.beat(later).cancel is False, "the same exchange asked again takes nothing"
    assert [event.why for event in trail(world, job=running.job_id) if event.action == "release"] == [
        "the worker pi has enrolled again"
    ]


def test_the_holder_of_a_lease_is_known_while_it_lives_and_after(world: World) -> None:
    world.load([entry(1)])
    lease = world.running("pi")
    holder = lambda lease_id: world.do(lambda tx: world.queue.holder(tx, lease_id))  # noqa: E731
    assert holder(lease.lease_id) == "pi"
    world.fail(lease)
    assert holder(lease.lease_id) == "pi"
    assert holder("no-such-lease") is None


# ---- the audit trail


def test_the_trail_holds_jobs_and_identities_in_one_order_newest_first(world: World) -> None:
    world.load([entry(1)])
    enrolled(world)
    lease = world.running("pi")
    found = [(event.actor, event.action, event.job, event.worker, event.to_status) for event in trail(world)]
    assert found == [
        ("worker:pi", "start", lease.job_id, None, "running"),
        ("worker:pi", "claim", lease.job_id, None, "claimed"),
        ("worker:pi", "enrol", None, "pi", None),
        (ALICE, "invite", None, "pi", None),
        ("receiver", "apply", None, None, None),
        ("receiver", "add", lease.job_id, None, "pending"),
    ]
    numbers = [event.id for event in trail(world)]
    assert numbers == sorted(numbers, reverse=True)


def test_the_trail_can_be_read_for_one_job_or_one_worker(world: World) -> None:
    world.load([entry(1), entry(2)])
    enrolled(world)
    lease = world.running("pi")
    other = world.running("tower")
    assert [event.action for event in trail(world, job=lease.job_id)] == ["start", "claim", "add"]
    assert [event.action for event in trail(world, worker="pi")] == ["start", "claim", "enrol", "invite"]
    assert [event.action for event in trail(world, job=other.job_id, worker="pi")] == []
    assert [event.action for event in trail(world, job=other.job_id, worker="tower")] == ["start", "claim"]
    assert trail(world, worker="nobody") == []
    with pytest.raises(NotFoundError):
        trail(world, job="0" * 64)


@pytest.mark.parametrize("window", [1, 2, 5000])
@pytest.mark.parametrize("worker", [None, "pi"])
def test_the_trail_is_whole_whatever_the_size_of_its_pages(
    world: World, window: int, worker: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.fleet.queue.events.WINDOW", window)
    world.load([entry(number) for number in range(4)])
    enrolled(world)
    world.running("pi")
    whole = trail(world, worker=worker)
    assert len(whole) == (4 if worker else 9)
    assert trail(world, worker=worker, limit=1) == whole
    assert trail(world, worker=worker, limit=3) == whole
    job = whole[0].job
    assert job is not None
    assert trail(world, job=job, limit=1) == trail(world, job=job)


def test_an_empty_trail_is_empty(world: World) -> None:
    assert trail(world) == []


def test_a_page_ends_early_when_looking_takes_long_and_names_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.fleet.queue.events.WINDOW", 2)
    monkeypatch.setattr("training.fleet.queue.events.SCAN_S", -1.0)
    world.load([entry(number) for number in range(5)])
    page = world.do(lambda tx: world.queue.history.page(tx, EventFilters(worker="nobody"), None, 10))
    assert (page.events, page.next) == ([], "e5")
    assert [event.id for event in trail(world)] == [6, 5, 4, 3, 2, 1]


def test_a_page_looks_on_as_long_as_there_is_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.fleet.queue.events.WINDOW", 2)
    world.load([entry(number) for number in range(5)])
    page = world.do(lambda tx: world.queue.history.page(tx, EventFilters(worker="nobody"), None, 10))
    assert (page.events, page.next) == ([], None)
    for job in (None, entry(0).id):
        whole = trail(world, job=job)
        asked = functools.partial(world.queue.history.page, filters=EventFilters(job), cursor=None, limit=len(whole))
        page = world.do(asked)
        assert (page.events, page.next) == (whole, None)


@pytest.mark.parametrize("cursor", ["", "e", "s3", "e-1", "ex", "e\xb2", "e\u0663"])
def test_a_cursor_of_another_list_is_refused(world: World, cursor: str) -> None:
    with pytest.raises(InvalidMessageError, match="no cursor"):
        world.do(lambda tx: world.queue.history.page(tx, EventFilters(), cursor, 10))


# ---- the trail in a range of time


def test_the_trail_can_be_bounded_in_time_and_names_the_model(world: World) -> None:
    world.wall = "2026-11-29T10:00:00.000Z"
    world.load([entry(0), entry(1)])
    world.wall = "2026-11-30T10:00:00.000Z"
    world.cancel(entry(0).id)
    for job in (None, entry(0).id):
        for since, until, actions in (
            ("2026-11-30T10:00:00.000Z", None, ["cancel"]),
            (None, "2026-11-30T10:00:00.000Z", ["add"] if job else ["apply", "add", "add"]),
            ("2026-11-30T10:00:00.001Z", None, []),
        ):
            asked = EventFilters(job, since=since, until=until)
            page = world.do(lambda tx, asked=asked: world.queue.history.page(tx, asked, None, 10))
            assert [event.action for event in page.events] == actions
            named = [(event.model, event.mode) for event in page.events if event.action != "apply"]
            assert set(named) <= {("gbt", "realistic")}


def test_looking_for_newer_events_ends_a_day_before_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.fleet.queue.events.WINDOW", 1)
    days = ["2026-11-01", "2026-11-20", "2026-11-30", "2026-11-29", "2026-11-30"]
    world.load([entry(number) for number in range(5)])
    for number, day in enumerate(days):
        world.wall = f"{day}T10:00:00.000Z"
        world.cancel(entry(number).id)

    def page(since: str) -> list[str]:
        asked = EventFilters(since=since)
        found = world.do(lambda tx: world.queue.history.page(tx, asked, None, 100))
        assert found.next is None
        return [event.at[:10] for event in found.events]

    # The clock of the receiver was set back by a day meanwhile: nothing is missed for that.
    assert page("2026-11-30T00:00:00.000Z") == ["2026-11-30", "2026-11-30"]
    assert page("2026-11-25T00:00:00.000Z") == ["2026-11-30", "2026-11-29", "2026-11-30"]
    assert page("2026-02-31T00:00:00.000Z")


def test_who_was_let_in_before_a_revocation_is_refused_after_it(world: World) -> None:
    identity = enrolled(world)
    world.queue.identities.demand_living(identity.id)
    revoke(world)
    with pytest.raises(RevokedError):
        world.queue.identities.demand_living(identity.id)
