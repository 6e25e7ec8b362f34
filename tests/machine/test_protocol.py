"""Every state the protocol of one job can get into, and the real queue walked along the same ways."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.queue_world import Ending
from tests.helpers.queue_world import look_at_sqlite as look
from tests.machine import protocol
from tests.machine.protocol import Event, Protocol, Search
from training.fleet.database.sqlite import Sqlite
from training.fleet.manifest import Header, JobEntry
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.capability import GIB, Capability
from training.fleet.model.errors import ConflictError, OtherResultError, StaleLeaseError
from training.fleet.model.jobs import Limits, Policy, Requirement, Spec, Terms, Trainer, canonical
from training.fleet.queue import Queue, reload
from training.fleet.wire.worker import Claim, Complete, Fail, Heartbeat

ALL = Protocol(alike=True)
SMALL = Protocol(claims=2)
ARTIFACTS = ["a" * 64, "b" * 64]
KINDS: list[Any] = ["trainer_error", "preempted"]
TERMS = Terms(backoff_s=0.0)


@pytest.mark.parametrize(
    ("rules", "states"),
    [
        pytest.param(replace(SMALL, alike=True), 15_112, id="two claims"),
        pytest.param(replace(ALL, requeues=0), 38_072, id="no requeue"),
        pytest.param(ALL, 610_384, id="all", marks=pytest.mark.slow),
    ],
)
def test_no_state_of_the_protocol_breaks_a_rule(rules: Protocol, states: int, record_property: Any) -> None:
    search = Search.run(rules)
    record_property("states", len(search.found))
    assert (search.wrong, search.path) == ("", None)
    assert len(search.found) == states


@pytest.mark.slow
def test_no_state_of_the_protocol_with_two_requeues_breaks_a_rule() -> None:
    search = Search.run(Protocol(requeues=2, alike=True))
    assert search.wrong == ""
    assert len(search.found) > 1_000_000


@pytest.mark.parametrize(
    ("switch", "rule"),
    [
        ("nofence", "a complete of a lease that is over changed the job"),
        ("nofencefail", "a fail of a lease that is over changed the job"),
        ("nofencebeat", "a beat of a lease that is over was answered"),
        ("nobump", "a beat of a lease that is over was answered"),
        ("noidemclaim", "I11"),
        ("byname", "a beat of a lease that is over was answered"),
        ("norefundlimit", "I4: more refunds"),
        ("offbyone", "I4: more attempts"),
        ("adoptscancelled", "a beat of a lease that is over was answered"),
        ("noprocess", "a claim ended the lease of another worker"),
    ],
)
def test_the_search_finds_what_goes_wrong_without_a_guard(switch: str, rule: str) -> None:
    refunds = 0 if switch == "nobump" else 3  # else a count below 0 shows it first
    search = Search.run(Protocol(without=switch, refunds=refunds))
    assert search.wrong.startswith(rule)
    assert search.path is not None
    assert len(search.path) <= 6


class RealJob:
    """One job in a real queue, led along a way of the protocol."""

    def __init__(self, rules: Protocol, folder: Path) -> None:
        self.rules = rules
        self.now = 1000.0
        self.leases: dict[int, str] = {}
        self.database = Sqlite.open(folder / "queue.db", inline=True)
        self.queue = Queue(lambda: self.now, TERMS, lambda: "2026-01-01T00:00:00Z", lambda: 1.0)
        self.do(self.queue.start)
        spec = Spec("gbt", "realistic")
        self.id = spec.job_id()
        document = canonical(spec.document()).decode()
        entry = JobEntry(
            self.id, spec.model, spec.mode, document, Requirement("gbt"), Limits(max_attempts=rules.attempts), 1
        )
        header = Header(
            "d" * 64, {"default": Policy(sessions=rules.workers if rules.one_name else 1)}, Trainer(), {}, (), None, 1
        )
        reload(self.database, self.queue, header, [entry])
        for artifact in ARTIFACTS:
            self.do(
                lambda tx, artifact=artifact: self.queue.artifacts.add(tx, ArtifactKey(artifact, "gbt", "realistic"), 1)
            )

    def do(self, change: Callable[[Any], Any]) -> Any:
        return self.database.submit(change).result()

    def apply(self, event: Event) -> str:
        name, slot, detail = event
        try:
            return str(getattr(self, name)(slot, detail))
        except StaleLeaseError:
            return "stale"
        except OtherResultError:
            return "other"
        except ConflictError:
            return "conflict"

    def claim(self, slot: int, holds: int) -> str:
        worker, claim = divmod(slot, self.rules.claims)
        name, process = ("name", f"process-{worker}") if self.rules.one_name else (f"worker-{worker}", None)
        capability = Capability(name, ram_bytes=GIB)
        held = [lease for of, lease in self.leases.items() if of // self.rules.claims == worker] if holds else []
        message = Claim(f"claim-{worker}-{claim:04d}", name, capability, held, process)
        lease = self.do(lambda tx: self.queue.claim(tx, message))
        if lease is None:
            return "none"
        assert self.leases.setdefault(slot, lease.lease_id) == lease.lease_id
        return "lease"

    def beat(self, slot: int, _: int) -> str:
        message = Heartbeat(self.leases[slot])
        if self.queue.beat(self.id, message) is None:
            self.do(lambda tx: self.queue.heartbeat(tx, self.id, message))
        return "go on"

    def complete(self, slot: int, artifact: int) -> str:
        message = Complete(self.leases[slot], ARTIFACTS[artifact])
        return str(self.do(lambda tx: self.queue.complete(tx, self.id, message)).status)

    def fail(self, slot: int, released: int) -> str:
        self.do(lambda tx: self.queue.fail(tx, self.id, Fail(self.leases[slot], KINDS[released])))
        return "noted"

    def expire(self, _slot: int, _: int) -> str:
        ending = Ending()
        while (due := self.queue.next_deadline()) is not None and len(self.queue._memory.leases):
            self.now = ending.at(due)
            self.do(self.queue.sweep)
        return ""

    def cancel(self, _slot: int, _: int) -> str:
        self.do(lambda tx: self.queue.cancel(tx, self.id, "operator:test"))
        return "state"

    def requeue(self, _slot: int, _: int) -> str:
        self.do(lambda tx: self.queue.requeue(tx, self.id, "operator:test"))
        return "state"

    def stands(self) -> tuple[Any, ...]:
        """Return where the job and its attempts stand, by slots."""
        (job,) = look(self.database, "SELECT * FROM job")
        slots = {lease: slot for slot, lease in self.leases.items()}
        attempts = {
            slots[row["lease_id"]]: (row["fence"], row["outcome"], row["refunded"])
            for row in look(self.database, "SELECT * FROM attempt")
        }
        return (
            job["status"],
            job["fence"],
            job["attempts_used"],
            job["refunds"],
            slots.get(job["lease_id"]),
            job["cancel_requested"],
            job["artifact"],
            attempts,
        )


def expected(state: bytes, rules: Protocol) -> tuple[Any, ...]:
    attempts = {}
    for slot in range(rules.workers * rules.claims):
        fence, outcome, refunded, _ = state[protocol.SLOTS + 4 * slot : protocol.SLOTS + 4 * slot + 4]
        if fence:
            attempts[slot] = (fence, protocol.OUTCOMES[outcome], refunded)
    lease, artifact = state[protocol.LEASE], state[protocol.ARTIFACT]
    return (
        protocol.STATUSES[state[protocol.STATUS]],
        state[protocol.FENCE],
        state[protocol.USED],
        state[protocol.REFUNDS],
        None if lease == protocol.NONE else lease,
        state[protocol.CANCEL],
        None if artifact == protocol.NONE else ARTIFACTS[artifact],
        attempts,
    )


def kind(state: bytes, event: Event, answer: str) -> tuple[Any, ...]:
    """What makes a change one of its sort: the event, where the job and the attempt stand, and the answer."""
    name, slot, detail = event
    outcome = state[protocol.SLOTS + 4 * slot + 1] if name in ("claim", "beat", "complete", "fail") else None
    mine = state[protocol.LEASE] == slot
    return name, detail, state[protocol.STATUS], state[protocol.CANCEL], outcome, mine, answer


def ways(search: Search) -> list[list[Event]]:
    """Return ways that see every kind of change at least once, those that change nothing included."""
    rules, seen, chosen = search.rules, set(), []
    for state in search.found:
        fresh = []
        for event in rules.events(state):
            this = kind(state, event, rules.apply(state, event)[1])
            if this not in seen:
                seen.add(this)
                fresh.append(event)
        if fresh:
            way = search.way_to(state)
            chosen += [[*way, event] for event in fresh]
    return chosen


def random_ways(rules: Protocol, count: int, length: int) -> list[list[Event]]:
    rng = random.Random(1)
    chosen = []
    for _ in range(count):
        state, way = rules.start(), []
        for _ in range(length):
            way.append(rng.choice(list(rules.events(state))))
            state = rules.apply(state, way[-1])[0]
        chosen.append(way)
    return chosen


def walk(way: list[Event], rules: Protocol, folder: Path) -> None:
    folder.mkdir()
    real, state = RealJob(rules, folder), rules.start()
    try:
        for event in way:
            state, answer = rules.apply(state, event)
            assert (real.apply(event), real.stands()) == (answer, expected(state, rules)), (event, way)
    finally:
        real.database.close()


@pytest.mark.parametrize("one_name", [False, True])
def test_the_queue_goes_every_kind_of_way_the_protocol_goes(tmp_path: Path, one_name: bool) -> None:
    rules = replace(SMALL, one_name=one_name)
    chosen = ways(Search.run(rules))
    assert len(chosen) > 100
    for number, way in enumerate(chosen):
        walk(way, rules, tmp_path / str(number))


@pytest.mark.parametrize("one_name", [False, True])
def test_the_queue_goes_random_ways_as_the_protocol_does(tmp_path: Path, one_name: bool) -> None:
    rules = replace(ALL, one_name=one_name)
    for number, way in enumerate(random_ways(rules, 100, 40)):
        walk(way, rules, tmp_path / str(number))
