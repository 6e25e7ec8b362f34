"""A fleet of random events: the real queue, database and store beside the small model.

Workers claim, beat, upload, complete, fail; messages get lost, come late or twice; operators cancel, requeue and
reload; the receiver restarts, crashes before and after a commit, stalls, and its disk refuses commits; the wall clock
jumps. Every choice is asked of `choose`, so that a seed, or Hypothesis, can stand behind it.

Where the invariants of docs/explanation/reliability.md are checked:

- I1 to I6, I13: after every step, on all rows (`check`), against the model and against themselves.
- I7: after every step, as the deadline of each live lease must be the one that the model computes.
- I8: after every step that touched the store, for what is new; for all of it, bytes included, at the end.
- I9: the index against the artifacts after every start of the receiver, and as a part of them whenever it grew.
- I10: a crash leaves the copy of database, log and sums of that moment; the receiver goes on with the copy, and it
  must stand where the model says, which knows only what was answered.
- I11: claims, completions, failures, cancels, requeues, uploads and reloads are repeated, at once or later, and a third
  of the workers' requests run in a batch that is undone and run again.
- I14: as far as the queue goes: no lease id and no claim id, which are what a thief could use, stands in an event, and
  none in what lists show. Logs, arguments and environments are looked at elsewhere.
- I15: at the end of each history, with the faults off.
- I12 is not here, because there are no trainers here: `life.py` has them, and the tests of the worker have real ones.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.helpers.queue_world import Ending
from tests.helpers.queue_world import look_at_sqlite as look
from tests.machine.faults import Faults
from tests.machine.fleet_model import SWEEP_S, Model
from training.fleet.blobs import open_blobs
from training.fleet.database.sqlite import Sqlite
from training.fleet.database.sqlite.pages import sums_path
from training.fleet.maintenance.artifacts import CheckOptions, Places
from training.fleet.maintenance.fsck import fsck
from training.fleet.manifest import Header, JobEntry
from training.fleet.model import placement
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.capability import GIB, Capability, Gpu
from training.fleet.model.errors import (
    ArtifactMissingError,
    ConflictError,
    DigestMismatchError,
    FleetError,
    OtherResultError,
    ShortBodyError,
    StaleLeaseError,
    StorageFullError,
)
from training.fleet.model.jobs import FAIL_KINDS, Limits, Policy, Requirement, Spec, Terms, Trainer, canonical
from training.fleet.queue import Queue, reload
from training.fleet.store import Index, Store, index_line
from training.fleet.wire.worker import Claim, Complete, Fail, Heartbeat, JobState, Lease, Progress

T = TypeVar("T")
TERMS = Terms(prefer_wait_s=100.0)
GPU = Gpu("card", "GPU-1", 12 * GIB, 12 * GIB, "550")
WORKERS = {
    "pi": Capability("pi", ram_bytes=4 * GIB),
    "server": Capability("server", ram_bytes=64 * GIB),
    "tower": Capability("tower", ram_bytes=32 * GIB, gpus=(GPU,), cuda_present=True, cuda_usable=True),
}
PROCESSES = {"server": "process-of-server", "tower": "process-of-tower"}
"""What workers call their process; the others are of an older version."""
POLICIES = {"pi": Policy(), "server": Policy(slots=2), "tower": Policy()}
SPECS = [Spec("gbt", mode, {"max_iter": 100 + number}) for number in range(2) for mode in ("realistic", "oracle")]
ENTRIES = {spec.job_id(): spec for spec in SPECS}
DOCUMENTS = {job_id: canonical(spec.document()).decode() for job_id, spec in ENTRIES.items()}
REQUIREMENTS = [
    Requirement("gbt"),
    Requirement("gbt", min_ram_gib=8),
    Requirement("gbt", prefer_cuda=True),
    Requirement("gbt", require_cuda=True),
]
BUNDLES = {hashlib.sha256(body).hexdigest(): body for body in (b"a small model", b"another small model")}
NEVER_STORED = "c" * 64
RUN_S = 1100.0
"""How long an attempt takes once the faults are off."""
STEP_S = 550.0
"""How often workers act then: sooner than a lease runs out."""
ROOM = "/dev/shm" if Path("/dev/shm").is_dir() else None

EVENTS: dict[str, Event] = {}


@dataclass(frozen=True)
class Event:
    """Something that can happen: how often beside the others, and when it can."""

    name: str
    weight: int
    when: Callable[[Fleet], Any]


def event(weight: int = 1, when: Callable[[Fleet], Any] = lambda fleet: True) -> Callable[[T], T]:
    def note(function: Any) -> Any:
        EVENTS[function.__name__] = Event(function.__name__, weight, when)
        return function

    return note


@dataclass
class Seen:
    """What the checks remember from one step to the next."""

    event: int = 0
    statuses: dict[int, str] = field(default_factory=dict)
    fences: dict[str, int] = field(default_factory=dict)
    ends: dict[str, Any] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)


_templates: dict[str, Path] = {}


def template() -> Path:
    """Return an empty database of the present schema, made once: a copy is cheaper than making the tables."""
    if "made" not in _templates:
        path = Path(tempfile.mkdtemp(prefix="template-", dir=ROOM)) / "queue.db"
        Sqlite.open(path, inline=True).close()
        _templates["made"] = path
        atexit.register(forget_template)
    return _templates["made"]


def forget_template() -> None:
    if "made" in _templates:
        shutil.rmtree(_templates.pop("made").parent)


class Fleet:
    """One history.

    Args:
        choose: Gives a number from 0 to N - 1.
    """

    def __init__(self, choose: Callable[[int], int]) -> None:
        self.choose = choose
        self.folder = Path(tempfile.mkdtemp(prefix="queue-", dir=ROOM))
        self.path = self.folder / "queue.db"
        for path in (template(), sums_path(template())):
            shutil.copy(path, self.folder / path.name)
        self.root = self.folder / "store"
        self.places = Places(open_blobs(self.root, self.folder / "incoming"), self.folder / "index.jsonl")
        self.model = Model(TERMS, policies=dict(POLICIES))
        self.artifacts: set[tuple[str, str]] = set()
        self.unchecked: set[tuple[str, str]] = set()
        self.claims: dict[str, tuple[str, str]] = {}
        self.answered: dict[str, Lease] = {}
        self.numbers = 0
        self.wall = "2026-01-01T00:00:00Z"
        self.seen = Seen()
        self.open()
        self.apply({job_id: (REQUIREMENTS[at % 4], Limits(max_attempts=2)) for at, job_id in enumerate(ENTRIES)})
        self.check()

    def open(self) -> None:
        self.database = Sqlite.open(self.path, inline=True)
        self.faults = Faults(self.database)
        assert self.database.damaged == []
        self.queue = Queue(lambda: self.model.now, TERMS, lambda: self.wall, lambda: 1.0)
        self.do(self.queue.start)
        self.store, self.index = Store(self.places.blobs), Index(self.places.index)
        self.places.blobs.prepare()
        self.index.open()
        self.listed = self.artifact_lines()
        self.index.rebuild(self.listed)
        assert self.places.index.read_bytes() == b"".join(self.listed)  # I9

    def do(self, change: Callable[[Any], T]) -> T:
        return self.database.submit(change).result()

    def ask(self, change: Callable[[Any], T]) -> T:
        """Run a worker's request, a third of the time in a batch that is undone and run again as a neighbour fails."""
        return self.do(change) if self.choose(3) else self.in_bad_company(change)

    def in_bad_company(self, change: Callable[[Any], T]) -> T:
        answer: Future[T] = Future()

        def settle(result: Any, error: BaseException | None) -> None:
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        def fail(tx: Any) -> None:
            tx.may_run_twice()
            tx.run("remember", key="neighbour", value="1")
            raise ConflictError("the neighbour")

        with self.database.together():
            self.database.post(change, settle)
            self.database.post(fail, lambda *_: None)
        return answer.result(0)

    def pick(self, options: Sequence[T]) -> T:
        return options[self.choose(len(options))]

    def job_id(self) -> str:
        return self.pick(list(ENTRIES))

    # ---- the operator

    @event()
    def reload_manifest(self) -> None:
        ids = list(ENTRIES)
        for at in range(len(ids) - 1):
            other = at + self.choose(len(ids) - at)
            ids[at], ids[other] = ids[other], ids[at]
        wanted = {}
        for job_id in ids[: 2 + self.choose(len(ids) - 1)]:
            limits = Limits(priority=self.choose(3), max_attempts=1 + self.choose(3))
            wanted[job_id] = (self.pick(REQUIREMENTS), limits)
        self.apply(wanted, keep=not self.choose(3))

    def apply(self, wanted: dict[str, tuple[Requirement, Limits]], *, keep: bool = False) -> None:
        entries = [
            JobEntry(job_id, ENTRIES[job_id].model, ENTRIES[job_id].mode, DOCUMENTS[job_id], needs, limits, number)
            for number, (job_id, (needs, limits)) in enumerate(wanted.items(), 1)
        ]
        self.numbers += 1
        digest = hashlib.sha256(str(self.numbers).encode()).hexdigest()
        header = Header(digest, POLICIES, Trainer(), {}, (), None, len(entries))
        first = reload(self.database, self.queue, header, entries, allow_shrink=True, keep_dropped=keep)
        again = reload(self.database, self.queue, header, entries, allow_shrink=True, keep_dropped=keep)
        nothing = dict.fromkeys(("added", "changed", "dropped", "stranded"), 0)
        assert again.counts == {**first.counts, **nothing} | {"unchanged": len(entries)}
        self.model.reloaded(wanted, keep=keep)

    @event(2)
    def cancel(self) -> None:
        job_id = self.job_id()
        job = self.model.jobs[job_id]

        def ask() -> JobState:
            return self.do(lambda tx: self.queue.cancel(tx, job_id, "operator:test"))

        if job.status in ("completed", "failed"):
            with pytest.raises(ConflictError):
                ask()
            return
        if job.status == "pending":
            job.status, job.ready_at = "cancelled", 0.0
        elif job.status in ("claimed", "running"):
            job.cancel = True
        assert ask() == ask() == JobState(job_id, job.status, job.cancel)

    @event(2)
    def requeue(self) -> None:
        job_id = self.job_id()
        job = self.model.jobs[job_id]

        def ask() -> JobState:
            return self.do(lambda tx: self.queue.requeue(tx, job_id, "operator:test"))

        if job.status in ("failed", "cancelled"):
            self.model.requeued(job_id)
        elif job.status != "pending":
            with pytest.raises(ConflictError):
                ask()
            return
        job.withdrawn = False
        assert ask() == ask() == JobState(job_id, "pending")

    # ---- workers

    @event(6)
    def claim(self) -> None:
        """The worker may have lost what it held, and the answer may never arrive."""
        self.claims_a_job(self.pick(list(WORKERS)), forget=not self.choose(3), lost=not self.choose(3))

    def claims_a_job(self, name: str, *, forget: bool, lost: bool) -> Lease | None:
        self.numbers += 1
        claim_id = f"claim-{self.numbers:06d}"
        held = [] if forget else self.model.held_by(name)
        if self.model.held_back(name):
            assert self.asks_for_a_job(name, claim_id, held) is None
            return None
        for lease_id in self.model.held_by(name):
            if lease_id not in held:
                self.model.lapse(lease_id)
        # What ended just now may have been one too many, but this claim was let in before.
        lease = self.asks_for_a_job(name, claim_id, held)
        if lease is None:
            full = len(held) >= POLICIES[name].slots or bool(name in self.model.suspects and held)
            assert full or not self.model.could_have(WORKERS[name]), "a job was kept from a worker that could have it"
            return None
        assert len(held) < POLICIES[name].slots
        self.check_choice(name, lease)
        self.model.grants(name, claim_id, lease.job_id, lease.lease_id)
        self.claims[name] = (claim_id, lease.lease_id)
        if not lost:
            self.answered[claim_id] = lease
        return lease

    def asks_for_a_job(self, name: str, claim_id: str, held: list[str]) -> Lease | None:
        message = Claim(claim_id, name, WORKERS[name], held, PROCESSES.get(name))
        answer = self.ask(lambda tx: self.queue.claim(tx, message))
        assert answer is None or isinstance(answer, Lease)
        return answer

    def check_choice(self, name: str, lease: Lease) -> None:
        model, worker = self.model, WORKERS[name]
        assert lease.lease_id not in model.attempts
        assert model.may_have(worker, lease.job_id), "a job was given to a worker that may not have it"
        assert lease.fence == model.jobs[lease.job_id].fence + 1
        if model.jobs[lease.job_id].named:  # the manifest gives the others no place
            mine = model.order(worker, lease.job_id)
            others = [other for other in model.could_have(worker) if model.jobs[other].named]
            assert all(mine <= model.order(worker, other) for other in others), "out of order"

    @event(2, lambda fleet: fleet.claims)
    def claim_again(self) -> None:
        """The answer was lost, or the proxy sent the request twice."""
        name = self.pick(sorted(self.claims))
        claim_id, lease_id = self.claims[name]
        if not self.model.live(lease_id):
            with pytest.raises(ConflictError):
                self.asks_for_a_job(name, claim_id, self.model.held_by(name))
            return
        lease = self.asks_for_a_job(name, claim_id, self.model.held_by(name))
        assert lease is not None
        assert lease.lease_id == lease_id
        assert lease.stop == []
        before = self.answered.setdefault(claim_id, lease)
        assert before == lease or before.timeout_s != lease.timeout_s
        self.model.contacts[lease_id].at = self.model.now
        self.model.contacts[lease_id].unwatched = 0.0

    def recent(self) -> list[str]:
        """The leases that messages are about: the newest ones, over or not."""
        return list(self.model.attempts)[-8:]

    @event(2)
    def worker_keeps_dying(self) -> None:
        """It takes a job and is never heard again, several times in a row."""
        name, acknowledged = self.pick(list(WORKERS)), self.choose(2)
        for _ in range(1 + self.choose(5)):
            self.claims_a_job(name, forget=True, lost=True)
            for lease_id in self.model.held_by(name) if acknowledged else ():
                self.beats(lease_id, [])
            self.passes(605 if acknowledged else 95)

    @event(2)
    def worker_gives_all_back(self) -> None:
        """It takes one job after the other and gives each back at once."""
        name = self.pick(list(WORKERS))
        for _ in range(4 + self.choose(12)):
            lease = self.claims_a_job(name, forget=False, lost=False)
            if lease is None:
                self.passes(self.pick([3, 35, 70]))
                continue
            self.model.failed(lease.lease_id, "preempted", WORKERS[name])
            message = Fail(lease.lease_id, "preempted")
            self.do(lambda tx, lease=lease, message=message: self.queue.fail(tx, lease.job_id, message))

    @event(6, lambda fleet: fleet.model.attempts)
    def beat(self) -> None:
        recent = self.recent()
        believed = {self.pick(recent) for _ in range(self.choose(3))}
        self.beats(self.pick(recent), sorted(believed))

    def beats(self, lease_id: str, believed: list[str]) -> None:
        attempt = self.model.attempts[lease_id]
        message = Heartbeat(lease_id, Progress(1, 2), believed)
        go = self.model.live(lease_id) or self.model.adoptable(lease_id)
        beat = self.queue.beat(attempt.job, message)
        if not go:
            assert beat is None
            with pytest.raises(StaleLeaseError):
                self.ask(lambda tx: self.queue.heartbeat(tx, attempt.job, message))
            return
        if beat is None:
            beat = self.ask(lambda tx: self.queue.heartbeat(tx, attempt.job, message))
        self.model.heard(lease_id)
        assert beat.cancel == self.model.jobs[attempt.job].cancel
        mine = [lease for lease in believed if self.model.attempts[lease].worker == attempt.worker]
        gone = [lease for lease in mine if not (self.model.live(lease) or self.model.adoptable(lease))]
        assert [lease for lease in beat.stop if lease in mine] == gone

    @event(4, lambda fleet: fleet.model.attempts)
    def upload(self) -> None:
        """It is whole, cut short, or not what it says."""
        lease_id, sha256 = self.pick(self.recent()), self.pick(list(BUNDLES))
        attempt = self.model.attempts[lease_id]
        live, done = self.model.live(lease_id) or self.model.adoptable(lease_id), attempt.outcome == "completed"
        if not (self.model.jobs[attempt.job].artifact == sha256 if done else live):
            with pytest.raises(OtherResultError if done else StaleLeaseError):
                self.do(lambda tx: self.queue.artifacts.lease_for_upload(tx, lease_id, sha256))
            return
        job_id, key = self.do(lambda tx: self.queue.artifacts.lease_for_upload(tx, lease_id, sha256))
        assert (job_id, key.sha256, key.mode) == (attempt.job, sha256, ENTRIES[attempt.job].mode)
        self.bring(key, self.pick(["whole", "whole", "whole", "cut", "wrong"]), self.choose(8))

    def bring(self, artifact: ArtifactKey, fate: str = "whole", step: int = 7) -> None:
        """Send a bundle. At step 0 the receiver dies before the row, at step 1 before the line of the index."""
        body = BUNDLES[artifact.sha256]
        sending = self.store.begin(artifact, len(body))
        if fate != "whole":
            sending.write(body[:-1] if fate == "cut" else body[::-1])
            with pytest.raises(ShortBodyError if fate == "cut" else DigestMismatchError):
                sending.finish()
            return None
        sending.write(body)
        assert sending.finish() == artifact.path
        if step == 0:
            return self.receiver_crashes()
        key = (artifact.sha256, artifact.mode)
        new = self.do(lambda tx: self.queue.artifacts.add(tx, artifact, len(body)))
        assert new == (key not in self.artifacts)
        self.artifacts.add(key)
        self.unchecked.add(key)
        if step == 1:
            return self.receiver_crashes()
        if new:
            self.index.owe(index_line(artifact, len(body)))
            self.index.pay()
            self.listed = self.artifact_lines()
        return None

    @event(6, lambda fleet: fleet.model.attempts)
    def complete(self) -> None:
        lease_id = self.pick(self.recent())
        artifact = self.pick([*BUNDLES, *BUNDLES, NEVER_STORED])
        attempt = self.model.attempts[lease_id]
        if artifact in BUNDLES and self.choose(4):
            self.bring(ArtifactKey(artifact, "gbt", ENTRIES[attempt.job].mode))
        self.completes(lease_id, artifact)

    def completes(self, lease_id: str, artifact: str) -> None:
        attempt = self.model.attempts[lease_id]
        job = self.model.jobs[attempt.job]
        message = Complete(lease_id, artifact, {"auroc": 0.5})

        def ask() -> JobState:
            return self.ask(lambda tx: self.queue.complete(tx, attempt.job, message))

        refusal: type[FleetError] | None = None
        if attempt.outcome == "completed":
            refusal = None if job.artifact == artifact else OtherResultError
        elif not (self.model.live(lease_id) or self.model.adoptable(lease_id)):
            refusal = StaleLeaseError
        elif (artifact, ENTRIES[attempt.job].mode) not in self.artifacts:
            refusal = ArtifactMissingError
        else:
            self.model.completed(lease_id, artifact)
        if refusal is None:
            assert ask() == ask() == JobState(attempt.job, "completed")
        else:
            with pytest.raises(refusal):
                ask()

    @event(4, lambda fleet: fleet.model.attempts)
    def fail(self) -> None:
        lease_id, kind = self.pick(self.recent()), self.pick(FAIL_KINDS)
        attempt = self.model.attempts[lease_id]
        message = Fail(lease_id, kind, 1, "it broke")

        def ask() -> JobState:
            return self.do(lambda tx: self.queue.fail(tx, attempt.job, message))

        if self.model.live(lease_id):
            needs = self.model.jobs[attempt.job].requirement
            able = [
                name
                for name in WORKERS
                if name != attempt.worker
                and (known := self.queue._memory.hosts.known(name)) is not None
                and not self.queue._memory.hosts.away(known)
                and placement.judge(needs, WORKERS[name], POLICIES[name]).eligible
            ]
            self.model.failed(lease_id, kind, WORKERS[attempt.worker], may_others=bool(able))
        elif attempt.outcome not in ("failed", "released", "cancelled"):
            with pytest.raises(StaleLeaseError):
                ask()
            return
        job = self.model.jobs[attempt.job]
        assert ask() == ask() == JobState(attempt.job, job.status, job.cancel)

    @event()
    def forge(self) -> None:
        job_id, lease_id = self.job_id(), self.pick(["no-such-lease", "", *self.recent()])
        if lease_id in self.model.attempts and self.model.attempts[lease_id].job == job_id:
            lease_id = "no-such-lease"
        for ask in (
            lambda tx: self.queue.heartbeat(tx, job_id, Heartbeat(lease_id)),
            lambda tx: self.queue.complete(tx, job_id, Complete(lease_id, next(iter(BUNDLES)))),
            lambda tx: self.queue.fail(tx, job_id, Fail(lease_id, "lost")),
        ):
            with pytest.raises(StaleLeaseError):
                self.do(ask)

    # ---- time and trouble

    @event(5)
    def time_passes(self) -> None:
        self.passes(self.pick([1, 20, 95, 605, 2000]))

    def passes(self, seconds: float) -> None:
        """The sweeper runs whenever it is needed."""
        end, ending = self.model.now + seconds, Ending()
        every_time = not self.choose(8)
        while True:
            if not every_time:
                self.skip_idle_sweeps(end)
            deadline = self.queue.next_deadline()
            if deadline is None or deadline > end:
                break
            self.model.now = max(self.model.now, ending.at(deadline))
            self.sweep()
        self.model.now = end
        self.sweep()

    def skip_idle_sweeps(self, end: float) -> None:
        """Note the sweeps at which nothing is over as done, most times: they are nine of ten, and only look."""
        leases = self.queue._memory.leases
        swept_at, leases._swept_at = leases._swept_at, float("inf")
        due = self.queue.next_deadline()
        leases._swept_at = swept_at
        idle = (min(end, end if due is None else due) - swept_at) // SWEEP_S
        if len(leases) and idle > 0:
            self.model.swept_at = leases._swept_at = swept_at + idle * SWEEP_S

    @event(2)
    def receiver_stalls(self) -> None:
        self.model.now += self.pick([3, 30, 700, 100000])
        self.sweep()

    @event(1, lambda fleet: fleet.queue.next_deadline() is None)
    def nothing_happens(self) -> None:
        """Nothing waits for time, so nobody sweeps."""
        self.model.now += self.pick([10, 10000])

    def sweep(self) -> None:
        self.model.swept()
        self.do(self.queue.sweep)

    @event()
    def wall_clock_jumps(self) -> None:
        self.wall = self.pick(["1970-01-01T00:00:00Z", "2036-01-01T00:00:00Z", "2026-06-01T00:00:00Z"])

    @event()
    def receiver_restarts(self) -> None:
        self.database.close()
        self.open()
        self.model.restarted()

    @event()
    def receiver_crashes(self) -> None:
        """What is on the disk at this moment is all that is left."""
        self.go_on_with(self.copy())

    def copy(self) -> Path:
        self.numbers += 1
        copy = self.folder / f"queue-{self.numbers}.db"
        for suffix in ("", "-wal", "-sums"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(f"{self.path}{suffix}", f"{copy}{suffix}")
        return copy

    def go_on_with(self, copy: Path) -> None:
        self.database.close()
        for suffix in ("", "-wal", "-sums"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        self.path = copy
        self.open()
        self.model.restarted()

    def some_request(self) -> Callable[[Any], Any]:
        """Something that changes a job, most of the time."""
        name, job_id = self.pick(list(WORKERS)), self.job_id()
        lease_id = self.pick(self.recent() or ["no-such-lease"])
        own_job = self.model.attempts[lease_id].job if lease_id in self.model.attempts else job_id
        claim = Claim("claim-refused", name, WORKERS[name], self.model.held_by(name))
        asked: list[Callable[[Any], Any]] = [
            lambda tx: self.queue.claim(tx, claim),
            lambda tx: self.queue.cancel(tx, job_id, "operator:test"),
            lambda tx: self.queue.requeue(tx, job_id, "operator:test"),
            lambda tx: self.queue.fail(tx, own_job, Fail(lease_id, "oom_ram")),
            lambda tx: self.queue.complete(tx, own_job, Complete(lease_id, next(iter(BUNDLES)))),
        ]
        return self.pick(asked)

    @event()
    def receiver_crashes_before_a_commit(self) -> None:
        """What was asked and not answered has no effect."""
        copies: list[Path] = []
        self.faults.before_commit = lambda: copies.append(self.copy())
        with contextlib.suppress(FleetError):
            self.do(self.some_request())
        self.faults.before_commit = None
        self.go_on_with(copies[0] if copies else self.copy())

    @event()
    def disk_refuses(self) -> None:
        """Whatever is asked while the commit fails has no effect."""
        asked = self.some_request()
        self.faults.refuse = True
        with contextlib.suppress(FleetError):
            self.do(asked)
        self.faults.refuse = False

    @event()
    def disk_refuses_the_sweep(self) -> None:
        """Leases whose end did not become durable get a full term again."""
        if self.model.contacts and self.choose(4):
            due = min(contact.at + contact.term + contact.unwatched for contact in self.model.contacts.values())
            self.passes(max(0.0, due - self.model.now - 1.0))
            self.model.now = max(self.model.now, due)
        over = self.model.watch()
        self.faults.refuse = True
        try:
            self.do(self.queue.sweep)
            assert not over
        except StorageFullError:
            for lease in over:
                self.model.fresh(lease)
        self.faults.refuse = False

    # ---- what must always hold

    def check(self) -> None:
        rows = look(self.database, "SELECT * FROM job ORDER BY seq")
        self.check_model(rows)
        self.check_rules(rows)
        self.check_memory(rows)
        self.check_history(rows)
        if self.unchecked:
            self.check_artifacts()

    def check_model(self, rows: list[Any]) -> None:
        assert {row["id"] for row in rows} == set(self.model.jobs)  # I3
        for row in rows:
            job = self.model.jobs[row["id"]]
            found = (row["status"], row["fence"], row["lease_id"], row["artifact"], row["refunds"])
            assert found == (job.status, job.fence, job.lease, job.artifact, job.refunds), row["id"]
            more = (row["attempts_used"], bool(row["cancel_requested"]), bool(row["named"]))
            assert more == (job.used, job.cancel, job.named), row["id"]
            assert bool(row["withdrawn"]) == job.withdrawn, row["id"]
            assert self.queue._memory.hosts.requirement(row["requirement"]) == job.requirement

    def check_rules(self, rows: list[Any]) -> None:
        seen = self.seen
        accepted = {
            attempt.job: lease for lease, attempt in self.model.attempts.items() if attempt.outcome == "completed"
        }
        leases = [row["lease_id"] for row in rows if row["lease_id"]]
        assert len(set(leases)) == len(leases)  # I5
        for row in rows:
            assert (row["id"] in accepted) == (row["status"] == "completed")  # I2
            if row["id"] in accepted:
                end = (accepted[row["id"]], row["artifact"], row["fence"])
                assert seen.ends.setdefault(row["id"], end) == end  # I1
            assert 0 <= row["attempts_used"] <= row["max_attempts"]  # I4
            assert 0 <= row["refunds"] <= TERMS.refunds
            assert row["fence"] >= seen.fences.get(row["id"], 0)
            seen.fences[row["id"]] = row["fence"]
            assert (row["status"] in ("claimed", "running")) == (row["lease_id"] is not None)  # I5
            if row["id"] not in seen.ids:
                assert hashlib.sha256(row["spec"].encode()).hexdigest() == row["id"]  # I13; a trigger keeps it so
                seen.ids.add(row["id"])

    def check_memory(self, rows: list[Any]) -> None:
        assert {row["lease_id"] for row in rows if row["lease_id"]} == set(self.queue._memory.leases._live)
        counts = self.queue.counts()
        assert counts == {status: sum(row["status"] == status for row in rows) for status in counts}
        for lease_id, contact in self.model.contacts.items():  # I7
            live = self.queue._memory.leases.get(lease_id)
            assert live is not None
            assert live.cancel == self.model.jobs[live.job_id].cancel
            assert abs(live.deadline - (contact.at + contact.term + contact.unwatched)) < 1e-6

    def check_history(self, rows: list[Any]) -> None:
        """Every change stands in the history, which leads from status to status and only along the table."""
        seen = self.seen
        for row in look(self.database, "SELECT * FROM event WHERE id > ? AND job IS NOT NULL ORDER BY id", seen.event):
            before = seen.statuses.get(row["job"])
            assert row["from_status"] == before
            if row["to_status"] != before:
                assert before != "completed"  # I6
                late = before == "failed" and row["action"] in ("adopt", "complete")
                assert before not in ("failed", "cancelled") or row["action"] == "requeue" or late
            seen.statuses[row["job"]], seen.event = row["to_status"], row["id"]
        assert seen.statuses == {row["seq"]: row["status"] for row in rows}

    def artifact_rows(self) -> list[Any]:
        return look(self.database, "SELECT * FROM artifact ORDER BY seq")

    def artifact_lines(self) -> list[bytes]:
        rows = self.artifact_rows()
        return [index_line(ArtifactKey(row["sha256"], row["model"], row["mode"]), row["size_bytes"]) for row in rows]

    def check_artifacts(self) -> None:
        rows = self.artifact_rows()
        assert {(row["sha256"], row["mode"]) for row in rows} == self.artifacts
        for row in rows:
            if (row["sha256"], row["mode"]) in self.unchecked:
                key = ArtifactKey(row["sha256"], row["model"], row["mode"])
                body = (self.root / key.path).read_bytes()  # I8
                assert hashlib.sha256(body).hexdigest() == row["sha256"]
                assert len(body) == row["size_bytes"]
        assert self.places.index.read_bytes() == b"".join(self.listed)
        self.unchecked.clear()

    # ---- the end

    def finish(self) -> None:
        """Let every job end with the faults off, then look at everything once more as `fsck` does."""
        self.settle()
        self.check()
        self.check_secrets()
        self.database.close()
        self.open()
        self.database.close()
        self.tidy_uploads()
        assert fsck(self.path, self.places, CheckOptions()).findings == []

    def settle(self) -> None:
        """I15: every job that some worker may have ends within its budget of leases and runs."""
        budget = sum(job.limits.max_attempts * (TERMS.lease_s + RUN_S) for job in self.model.jobs.values())
        end = self.model.now + budget + TERMS.backoff_cap_s + TERMS.prefer_wait_s
        busy: dict[str, tuple[str, float]] = {}
        while self.model.now < end and not self.settled():
            for name in WORKERS:
                self.works_well(name, busy)
            self.passes(STEP_S)
        assert self.settled(), "a job did not end though workers could have run it"

    def settled(self) -> bool:
        """Whether each job ended, or waits for a worker that there is not."""
        return all(
            job.status in ("completed", "failed", "cancelled")
            or (job.status == "pending" and not any(self.model.could_ever(WORKERS[name], job_id) for name in WORKERS))
            for job_id, job in self.model.jobs.items()
        )

    def works_well(self, name: str, busy: dict[str, tuple[str, float]]) -> None:
        """One worker with one slot: claim, beat, complete after the run or confirm a cancel."""
        lease_id, done_at = busy.get(name, ("", 0.0))
        if lease_id and self.model.live(lease_id):
            attempt = self.model.attempts[lease_id]
            self.beats(lease_id, [lease_id])
            if self.model.jobs[attempt.job].cancel:
                self.model.failed(lease_id, "preempted", WORKERS[name])
                self.do(lambda tx: self.queue.fail(tx, attempt.job, Fail(lease_id, "preempted")))
            elif self.model.now >= done_at:
                sha256 = next(iter(BUNDLES))
                self.bring(ArtifactKey(sha256, "gbt", ENTRIES[attempt.job].mode))
                self.completes(lease_id, sha256)
            return
        lease = self.claims_a_job(name, forget=True, lost=False)
        if lease is not None:
            busy[name] = (lease.lease_id, self.model.now + RUN_S)
            self.beats(lease.lease_id, [])

    def check_secrets(self) -> None:
        """I14: what would let a stranger speak for a worker is in no event and in nothing that lists show."""
        secrets = [*self.model.attempts, *(attempt.claim_id for attempt in self.model.attempts.values())]
        shown = json.dumps([tuple(row) for row in look(self.database, "SELECT * FROM event")])
        for job_id in self.model.jobs:
            shown += repr(self.do(lambda tx, job_id=job_id: self.queue.job(tx, job_id)))
        assert [secret for secret in secrets if secret in shown] == []

    def tidy_uploads(self) -> None:
        """Bundles whose row was lost in a crash may stay until they are sent again; `fsck` tells of them."""
        kept = {self.root / ArtifactKey(sha256, "gbt", mode).path for sha256, mode in self.artifacts}
        for path in self.root.glob("*/*/*"):
            if path not in kept:
                path.unlink()
                path.parent.rmdir()

    def close(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder)
