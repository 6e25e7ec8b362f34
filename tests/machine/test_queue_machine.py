"""Random histories against the queue and a small model of it, on a real database.

Workers claim, beat, complete, fail; messages get lost, come late or twice; operators cancel, requeue and reload; the
receiver restarts, crashes, stalls, and its disk refuses commits; the wall clock jumps. After every step the queue must
stand where the model says, and the invariants I1 to I7, I11 and I13 must hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.machine.fleet_model import Model
from tests.queue_world import repeated
from training.fleet import wire
from training.fleet.capability import GIB, Capability, Gpu
from training.fleet.database.reading import of_receiver
from training.fleet.database.sqlite import Sqlite
from training.fleet.errors import (
    ArtifactMissingError,
    ConflictError,
    FleetError,
    OtherResultError,
    StaleLeaseError,
    StorageFullError,
)
from training.fleet.integrity.records import check_pages, check_rows, check_structure
from training.fleet.integrity.report import Report
from training.fleet.jobs import FAIL_KINDS, Limits, Policy, Requirement, Spec, Terms, Trainer, canonical
from training.fleet.manifest import Header, JobEntry
from training.fleet.queue import Queue, reload

TERMS = Terms(prefer_wait_s=100.0)
GPU = Gpu("card", "GPU-1", 12 * GIB, 12 * GIB, "550")
WORKERS = {
    "pi": Capability("pi", ram_bytes=4 * GIB),
    "server": Capability("server", ram_bytes=64 * GIB),
    "tower": Capability("tower", ram_bytes=32 * GIB, gpus=(GPU,), cuda_present=True, cuda_usable=True),
}
POLICIES = {"pi": Policy(), "server": Policy(slots=2), "tower": Policy()}
SPECS = [Spec("gbt", mode, {"max_iter": 100 + number}) for number in range(2) for mode in ("realistic", "oracle")]
ENTRIES = {spec.job_id(): spec for spec in SPECS}
REQUIREMENTS = [
    Requirement("gbt"),
    Requirement("gbt", min_ram_gib=8),
    Requirement("gbt", prefer_cuda=True),
    Requirement("gbt", require_cuda=True),
]
ARTIFACTS = ["a" * 64, "b" * 64]
ROOM = "/dev/shm" if Path("/dev/shm").is_dir() else None


class RefusingCursor:
    """A cursor whose next commit fails as a full disk makes it fail."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self.cursor = cursor
        self.refuse = False

    def execute(self, text: str, *values: Any) -> sqlite3.Cursor:
        if self.refuse and text.startswith("COMMIT"):
            self.refuse = False
            self.cursor.execute("ROLLBACK")
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self.cursor.execute(text, *values)

    def executemany(self, text: str, rows: Any) -> sqlite3.Cursor:
        return self.cursor.executemany(text, rows)


class FleetMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="queue-", dir=ROOM))
        self.path = self.folder / "queue.db"
        self.model = Model(TERMS, policies=dict(POLICIES))
        self.claims: dict[str, tuple[str, str | None]] = {}
        self.numbers = 0
        self.wall = "2026-01-01T00:00:00Z"
        self.answered: dict[tuple[str, ...], Any] = {}
        self.fences: dict[str, int] = {}
        self.open()

    def open(self) -> None:
        self.database = Sqlite.open(self.path)
        self.cursor = RefusingCursor(self.database._transaction._cursor)
        self.database._transaction._cursor = self.cursor
        self.queue = Queue(lambda: self.model.now, TERMS, lambda: self.wall, lambda: 1.0)
        self.do(self.queue.start)

    def do(self, change: Any) -> Any:
        return self.database.submit(change).result()

    def teardown(self) -> None:
        self.database.close()
        report = Report()
        with of_receiver(self.path) as reading:
            check_pages(reading, report)
            assert check_structure(reading, report)
            check_rows(reading, report)
        shutil.rmtree(self.folder)
        assert report.findings == []

    # ---- the operator

    @initialize()
    def first_manifest(self) -> None:
        self.apply(
            {job_id: (REQUIREMENTS[number % 4], Limits(max_attempts=2)) for number, job_id in enumerate(ENTRIES)}
        )

    @rule(data=st.data())
    def reload_manifest(self, data: st.DataObject) -> None:
        ids = data.draw(st.permutations(list(ENTRIES)))[: data.draw(st.integers(2, len(ENTRIES)))]
        limits = st.builds(Limits, priority=st.integers(0, 2), max_attempts=st.integers(1, 3))
        self.apply({job_id: (data.draw(st.sampled_from(REQUIREMENTS)), data.draw(limits)) for job_id in ids})

    def apply(self, wanted: dict[str, tuple[Requirement, Limits]]) -> None:
        entries = [
            JobEntry(job_id, ENTRIES[job_id], canonical(ENTRIES[job_id].document()).decode(), needs, limits, number)
            for number, (job_id, (needs, limits)) in enumerate(wanted.items(), 1)
        ]
        self.numbers += 1
        digest = hashlib.sha256(str(self.numbers).encode()).hexdigest()
        header = Header(digest, POLICIES, Trainer(), {}, (), None, len(entries))
        first = reload(self.database, self.queue, header, entries, allow_shrink=True)
        again = reload(self.database, self.queue, header, entries, allow_shrink=True)
        assert again.counts == {**first.counts, **dict.fromkeys(("added", "changed", "dropped", "stranded"), 0)} | {
            "unchanged": len(entries)
        }
        self.model.reloaded(wanted)

    @rule(job_id=st.sampled_from(list(ENTRIES)))
    def cancel(self, job_id: str) -> None:
        job = self.model.jobs[job_id]
        if job.status in ("completed", "failed"):
            with pytest.raises(ConflictError):
                self.do(lambda tx: self.queue.cancel(tx, job_id, "operator:test"))
            return
        state = self.do(lambda tx: self.queue.cancel(tx, job_id, "operator:test"))
        if job.status == "pending":
            job.status, job.ready_at = "cancelled", 0.0
        elif job.status in ("claimed", "running"):
            job.cancel = True
        assert state == wire.State(job_id, job.status, job.cancel)

    @rule(job_id=st.sampled_from(list(ENTRIES)))
    def requeue(self, job_id: str) -> None:
        job = self.model.jobs[job_id]
        if job.status in ("failed", "cancelled"):
            self.model.requeued(job_id)
        elif job.status != "pending":
            with pytest.raises(ConflictError):
                self.do(lambda tx: self.queue.requeue(tx, job_id, "operator:test"))
            return
        assert self.do(lambda tx: self.queue.requeue(tx, job_id, "operator:test")).status == "pending"

    # ---- workers

    @rule(name=st.sampled_from(list(WORKERS)), forget=st.booleans(), lost=st.booleans())
    def claim(self, name: str, forget: bool, lost: bool) -> None:
        """`forget`: the worker has lost what it held. `lost`: the answer never arrives."""
        self.numbers += 1
        claim_id = f"claim-{self.numbers:06d}"
        held = [] if forget else self.model.held_by(name)
        for lease in self.model.held_by(name):
            if lease not in held:
                self.model.lapse(lease)
        lease = self.ask(name, claim_id, held)
        if lease is None:
            full = len(held) >= POLICIES[name].slots
            assert full or not self.model.could_have(WORKERS[name]), "a job was kept from a worker that could have it"
            return
        assert len(held) < POLICIES[name].slots
        self.check_choice(name, lease)
        self.model.granted(name, claim_id, lease.job_id, lease.lease_id)
        self.claims[name] = (claim_id, lease.lease_id)
        if not lost:
            self.answered["claim", claim_id] = lease

    def recent(self) -> list[str]:
        """The leases that messages are about: the newest ones, over or not."""
        return list(self.model.attempts)[-8:]

    @rule(name=st.sampled_from(list(WORKERS)), times=st.integers(1, 5), acknowledged=st.booleans())
    def worker_keeps_dying(self, name: str, times: int, acknowledged: bool) -> None:
        """It takes a job and is never heard again, several times in a row."""
        for _ in range(times):
            self.claim(name, True, True)
            for lease_id in self.model.held_by(name) if acknowledged else ():
                message = wire.Heartbeat(lease_id)
                job_id = self.model.attempts[lease_id].job
                self.do(lambda tx, job_id=job_id, message=message: self.queue.heartbeat(tx, job_id, message))
                self.model.heard(lease_id)
            self.time_passes(605 if acknowledged else 95)

    def ask(self, name: str, claim_id: str, held: list[str]) -> wire.Lease | None:
        message = wire.Claim(claim_id, name, WORKERS[name], held)
        answer = repeated(self.database, lambda tx: self.queue.claim(tx, message))
        assert answer is None or isinstance(answer, wire.Lease)
        return answer

    def check_choice(self, name: str, lease: wire.Lease) -> None:
        model, worker = self.model, WORKERS[name]
        assert lease.lease_id not in model.attempts
        assert model.may_have(worker, lease.job_id), "a job was given to a worker that may not have it"
        assert lease.fence == model.jobs[lease.job_id].fence + 1
        if model.jobs[lease.job_id].named:  # the manifest gives the others no place
            mine = model.order(worker, lease.job_id)
            others = [other for other in model.could_have(worker) if model.jobs[other].named]
            assert all(mine <= model.order(worker, other) for other in others), "out of order"

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def claim_again(self, data: st.DataObject) -> None:
        """The answer was lost, or the proxy sent the request twice."""
        name = data.draw(st.sampled_from(sorted(self.claims)))
        claim_id, lease_id = self.claims[name]
        if not self.model.live(lease_id):
            with pytest.raises(ConflictError):
                self.ask(name, claim_id, self.model.held_by(name))
            return
        lease = self.ask(name, claim_id, self.model.held_by(name))
        assert lease is not None
        assert lease.lease_id == lease_id
        assert lease.stop == []
        before = self.answered.setdefault(("claim", claim_id), lease)
        assert before == lease or before.timeout_s != lease.timeout_s
        self.model.contacts[lease_id].at = self.model.now
        self.model.contacts[lease_id].unwatched = 0.0

    @precondition(lambda self: self.model.attempts)
    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        lease_id = data.draw(st.sampled_from(self.recent()))
        believed = data.draw(st.lists(st.sampled_from(self.recent()), max_size=2, unique=True))
        attempt = self.model.attempts[lease_id]
        message = wire.Heartbeat(lease_id, wire.Progress(1, 2), believed)
        go = self.model.live(lease_id) or self.model.adoptable(lease_id)
        beat = self.queue.beat(attempt.job, message)
        if not go:
            assert beat is None
            with pytest.raises(StaleLeaseError):
                self.do(lambda tx: self.queue.heartbeat(tx, attempt.job, message))
            return
        if beat is None:
            beat = repeated(self.database, lambda tx: self.queue.heartbeat(tx, attempt.job, message))
        self.model.heard(lease_id)
        assert beat.cancel == self.model.jobs[attempt.job].cancel
        gone = [lease for lease in believed if not (self.model.live(lease) or self.model.adoptable(lease))]
        assert [lease for lease in beat.stop if self.model.attempts[lease].worker == attempt.worker] == [
            lease for lease in gone if self.model.attempts[lease].worker == attempt.worker
        ]

    @precondition(lambda self: self.model.attempts)
    @rule(data=st.data(), artifact=st.sampled_from(ARTIFACTS), stored=st.sampled_from([True, True, True, False]))
    def complete(self, data: st.DataObject, artifact: str, stored: bool) -> None:
        lease_id = data.draw(st.sampled_from(self.recent()))
        attempt = self.model.attempts[lease_id]
        job = self.model.jobs[attempt.job]
        if not stored:
            artifact = "c" * 64
        else:
            mode = ENTRIES[attempt.job].mode
            self.do(lambda tx: self.queue.add_artifact(tx, artifact, 10, "gbt", mode))
        message = wire.Complete(lease_id, artifact, {"auroc": 0.5})

        def ask() -> Any:
            return repeated(self.database, lambda tx: self.queue.complete(tx, attempt.job, message))

        if attempt.outcome == "completed":
            if job.artifact == artifact:
                assert ask().status == "completed"
            else:
                with pytest.raises(OtherResultError):
                    ask()
        elif not (self.model.live(lease_id) or self.model.adoptable(lease_id)):
            with pytest.raises(StaleLeaseError):
                ask()
        elif not stored:
            with pytest.raises(ArtifactMissingError):
                ask()
        else:
            self.model.completed(lease_id, artifact)
            assert ask() == ask() == wire.State(attempt.job, "completed")

    @precondition(lambda self: self.model.attempts)
    @rule(data=st.data(), kind=st.sampled_from(FAIL_KINDS))
    def fail(self, data: st.DataObject, kind: Any) -> None:
        lease_id = data.draw(st.sampled_from(self.recent()))
        attempt = self.model.attempts[lease_id]
        message = wire.Fail(lease_id, kind, 1, "it broke")

        def ask() -> Any:
            return self.do(lambda tx: self.queue.fail(tx, attempt.job, message))

        if self.model.live(lease_id):
            self.model.failed(lease_id, kind, WORKERS[attempt.worker])
        elif attempt.outcome not in ("failed", "released", "cancelled"):
            with pytest.raises(StaleLeaseError):
                ask()
            return
        job = self.model.jobs[attempt.job]
        assert ask() == ask() == wire.State(attempt.job, job.status, job.cancel)

    @rule(job_id=st.sampled_from(list(ENTRIES)), lease_id=st.sampled_from(["no-such-lease", ""]))
    def forge(self, job_id: str, lease_id: str) -> None:
        for ask in (
            lambda tx: self.queue.heartbeat(tx, job_id, wire.Heartbeat(lease_id)),
            lambda tx: self.queue.complete(tx, job_id, wire.Complete(lease_id, "a" * 64)),
            lambda tx: self.queue.fail(tx, job_id, wire.Fail(lease_id, "lost")),
        ):
            with pytest.raises(StaleLeaseError):
                self.do(ask)

    # ---- time and trouble

    @rule(seconds=st.sampled_from([1, 20, 95, 605, 2000]))
    def time_passes(self, seconds: int) -> None:
        """The sweeper runs whenever it is needed."""
        end = self.model.now + seconds
        while (deadline := self.queue.next_deadline()) is not None and deadline <= end:
            self.model.now = max(self.model.now, deadline)
            self.sweep()
        self.model.now = end
        self.sweep()

    @rule(seconds=st.sampled_from([3, 30, 700, 100000]))
    def receiver_stalls(self, seconds: int) -> None:
        self.model.now += seconds
        self.sweep()

    @precondition(lambda self: self.queue.next_deadline() is None)
    @rule(seconds=st.sampled_from([10, 10000]))
    def nothing_happens(self, seconds: int) -> None:
        """Nothing waits for time, so nobody sweeps."""
        self.model.now += seconds

    def sweep(self) -> None:
        self.model.swept()
        self.do(self.queue.sweep)

    @rule(wall=st.sampled_from(["1970-01-01T00:00:00Z", "2036-01-01T00:00:00Z", "2026-06-01T00:00:00Z"]))
    def wall_clock_jumps(self, wall: str) -> None:
        self.wall = wall

    @rule()
    def receiver_restarts(self) -> None:
        self.database.close()
        self.open()
        self.model.restarted()

    @rule()
    def receiver_crashes(self) -> None:
        """What is on the disk at this moment is all that is left."""
        copy = self.folder / f"copy-{self.numbers}-{os.urandom(4).hex()}.db"
        for suffix in ("", "-wal"):
            if Path(f"{self.path}{suffix}").exists():
                shutil.copy(f"{self.path}{suffix}", f"{copy}{suffix}")
        self.database.close()
        self.path = copy
        self.open()
        self.model.restarted()

    @rule(data=st.data(), name=st.sampled_from(list(WORKERS)), job_id=st.sampled_from(list(ENTRIES)))
    def disk_refuses(self, data: st.DataObject, name: str, job_id: str) -> None:
        """Whatever is asked while the commit fails has no effect."""
        lease_id = data.draw(st.sampled_from(self.recent() or ["no-such-lease"]))
        claim = wire.Claim("claim-refused", name, WORKERS[name], self.model.held_by(name))
        asked = [
            lambda tx: self.queue.claim(tx, claim),
            lambda tx: self.queue.cancel(tx, job_id, "operator:test"),
            lambda tx: self.queue.requeue(tx, job_id, "operator:test"),
            lambda tx: self.queue.fail(tx, job_id, wire.Fail(lease_id, "oom_ram")),
        ]
        self.cursor.refuse = True
        with contextlib.suppress(FleetError):
            self.do(data.draw(st.sampled_from(asked)))
        self.cursor.refuse = False

    @rule()
    def disk_refuses_the_sweep(self) -> None:
        """Leases whose end did not become durable get a full term again."""
        over = self.model.watch()
        self.cursor.refuse = True
        try:
            self.do(self.queue.sweep)
            assert not over
        except StorageFullError:
            for lease in over:
                self.model.fresh(lease)
        self.cursor.refuse = False

    # ---- what must always hold

    def rows(self) -> list[Any]:
        return list(
            self.do(lambda tx: tx.all("jobs_by_seq", after=0, upto=10**6, model=None, mode=None, host=None, limit=1000))
        )

    @invariant()
    def the_queue_stands_where_the_model_says(self) -> None:
        rows = self.rows()
        assert {row["id"] for row in rows} == set(self.model.jobs)
        for row in rows:
            job = self.model.jobs[row["id"]]
            found = {key: row[key] for key in ("status", "fence", "lease_id", "artifact", "refunds")}
            assert found == {
                "status": job.status,
                "fence": job.fence,
                "lease_id": job.lease,
                "artifact": job.artifact,
                "refunds": job.refunds,
            }
            assert (row["attempts_used"], bool(row["cancel_requested"]), bool(row["named"])) == (
                job.used,
                job.cancel,
                job.named,
            )
            assert self.queue.hosts.requirement(row["requirement"]) == job.requirement

    @invariant()
    def what_must_always_hold_holds(self) -> None:
        for row in self.rows():
            attempts = [item for item in self.model.attempts.values() if item.job == row["id"]]
            accepted = [item for item in attempts if item.outcome == "completed"]
            assert len(accepted) == (row["status"] == "completed")  # I1, I2
            assert 0 <= row["attempts_used"] <= row["max_attempts"]  # I4
            assert 0 <= row["refunds"] <= TERMS.refunds
            assert row["fence"] >= self.fences.get(row["id"], 0)
            self.fences[row["id"]] = row["fence"]
            assert (row["status"] in ("claimed", "running")) == (row["lease_id"] is not None)  # I5
            assert hashlib.sha256(row["spec"].encode()).hexdigest() == row["id"]  # I13

    @invariant()
    def memory_follows_the_database(self) -> None:
        rows = self.rows()
        assert {row["lease_id"] for row in rows if row["lease_id"]} == set(self.queue.leases._live)
        counts = self.queue.counts()
        assert counts == {status: sum(row["status"] == status for row in rows) for status in counts}
        for lease_id, contact in self.model.contacts.items():
            live = self.queue.leases.get(lease_id)
            assert live is not None
            assert live.deadline == pytest.approx(contact.at + contact.term + contact.unwatched)

    @invariant()
    def every_change_is_in_the_history(self) -> None:
        for row in self.rows():
            events = self.do(lambda tx, seq=row["seq"]: tx.all("events", job=seq, limit=100000))
            status = None
            for event in reversed(events):
                assert event["from_status"] == status
                status = event["to_status"]
            assert status == row["status"]


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        FleetMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


def test_random_histories_never_break_the_queue() -> None:
    run(60, 50)


@pytest.mark.slow
def test_many_long_random_histories_never_break_the_queue() -> None:
    run(3000, 60)
