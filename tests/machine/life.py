"""Days of fleet life on a virtual clock: the real queue on a real database, and workers that keep the worker's rules.

Hosts of unlike size train jobs of minutes to hours. Workers die and come back, sleep, lose the network; requests and
answers get lost, are delivered twice or twenty minutes late; the receiver restarts, crashes and stalls; the operator
cancels, requeues and reloads. What is checked, and when:

- At every tick, on every new event: I1 (one completion per job), I6 (along the table), I7 (no lease ended before its
  time since the last contact that was answered).
- At every tick, on the trainers: G4 (one trainer per job, among workers told to stop when the receiver is lost) and
  I12 (no trainer of an ended lease 30 s after its worker could reach the receiver).
- Every ten minutes and after each start, on all rows: I2 to I5; at the end also I13.
- At the end: I15 (all jobs end with the faults off, within their budget) and `fsck` of the database's rows.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers.queue_world import look_at_sqlite as look
from tests.machine.fleet import ROOM
from training.fleet.database.sqlite import Sqlite
from training.fleet.database.sqlite.reading import of_receiver
from training.fleet.maintenance.records import check_pages, check_rows, check_structure
from training.fleet.maintenance.report import Report
from training.fleet.manifest import Header, JobEntry
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.capability import GIB, Capability, Gpu
from training.fleet.model.errors import ConflictError, FleetError
from training.fleet.model.jobs import Limits, Policy, Requirement, Spec, Terms, Trainer, canonical
from training.fleet.queue import Queue, reload
from training.fleet.wire.worker import Beat, Claim, Complete, Fail, Heartbeat, JobState, Lease, Progress

TICK_S = 5.0
BEAT_S = 30.0
DAY_S = 86400.0
HOUR_S = 3600.0
LOST_PART = 0.9
"""Part of the lease without contact after which a trainer is stopped, where that is set."""
TERMS = Terms()
JOBS_A_DAY = 200


class LostError(Exception):
    """A request or its answer did not arrive."""


@dataclass
class Run:
    lease: Lease
    left_s: float
    contact_at: float
    training: bool = True
    owes: Callable[[], JobState] | None = None
    """The report that is still to be delivered."""


@dataclass
class Host:
    capability: Capability
    stops_when_lost: bool
    loss: float
    """How often one of its messages is lost."""
    away_until: float = 0.0
    """Asleep or dead until then."""
    cut_until: float = 0.0
    """Without network until then."""
    reachable_since: float = 0.0
    acts_at: float = 0.0
    acted_at: float = 0.0
    claim_id: str = ""
    run: Run | None = None

    @property
    def name(self) -> str:
        return self.capability.hostname


@dataclass
class Seen:
    event: int = 0
    statuses: dict[int, str] = field(default_factory=dict)
    fences: dict[int, int] = field(default_factory=dict)
    completions: Counter[int] = field(default_factory=Counter)
    claims: Counter[int] = field(default_factory=Counter)
    contacts: dict[str, float] = field(default_factory=dict)
    """When each lease was last answered, and when the receiver last started."""
    acknowledged: set[str] = field(default_factory=set)


def hosts(rng: random.Random) -> list[Host]:
    """Ten hosts: boards, servers, two with a card, and a laptop."""
    sizes = [4, 4, 8, 8, 16, 16, 32, 64, 32, 64]
    made = []
    for number, ram_gib in enumerate(sizes):
        cuda = number >= 8
        gpus = (Gpu("card", f"GPU-{number}", 12 * GIB, 12 * GIB, "550"),) if cuda else ()
        host = Capability(f"host-{number}", ram_bytes=ram_gib * GIB, gpus=gpus, cuda_present=cuda, cuda_usable=cuda)
        made.append(Host(host, stops_when_lost=number != 3, loss=rng.choice([0.0, 0.02, 0.1])))
    return made


class Life:
    """A fleet and its days, all of it made from one number."""

    def __init__(self, seed: int, days: float) -> None:
        self.rng = random.Random(seed)
        self.days = days
        self.now = 1000.0
        self.begun_at = self.now
        self.folder = Path(tempfile.mkdtemp(prefix="life-", dir=ROOM))
        self.path = self.folder / "queue.db"
        self.hosts = hosts(self.rng)
        self.faults = True
        self.down_until = 0.0
        self.late: list[tuple[float, Callable[[], object]]] = []
        self.happened: Counter[str] = Counter()
        self.seen = Seen()
        self.numbers = 0
        self.checked_at = 0.0
        self.entries = [self.entry(number) for number in range(int(JOBS_A_DAY * days))]
        self.lengths = {entry.id: self.length() for entry in self.entries}
        self.open()
        self.load()

    def entry(self, number: int) -> JobEntry:
        spec = Spec("gbt", "realistic", {"max_iter": number + 1})
        kind = self.rng.random()
        needs = Requirement("gbt", min_ram_gib=8 if kind < 0.3 else 0, prefer_cuda=kind > 0.8, require_cuda=kind > 0.95)
        limits = Limits(priority=self.rng.randrange(3), max_attempts=3)
        return JobEntry(
            spec.job_id(), spec.model, spec.mode, canonical(spec.document()).decode(), needs, limits, number
        )

    def length(self) -> float:
        """Mostly half an hour, some minutes, some hours."""
        return min(6 * HOUR_S, self.rng.lognormvariate(7.3, 0.9))

    # ---- the receiver

    def open(self) -> None:
        self.database = Sqlite.open(self.path, inline=True)
        assert self.database.damaged == []
        self.queue = Queue(lambda: self.now, TERMS, lambda: "2026-01-01T00:00:00Z", self.rng.random)
        self.do(self.queue.start)
        self.seen.contacts = dict.fromkeys(self.seen.contacts, self.now)

    def do(self, change: Callable[[Any], Any]) -> Any:
        return self.database.submit(change).result()

    def load(self) -> None:
        self.numbers += 1
        digest = hashlib.sha256(str(self.numbers).encode()).hexdigest()
        header = Header(digest, {"default": Policy()}, Trainer(), {}, (), None, len(self.entries))
        reload(self.database, self.queue, header, self.entries, allow_shrink=True)

    def restart(self, crash: bool) -> None:
        copy = self.folder / f"queue-{self.numbers}-{int(self.now)}.db"
        for suffix in ("", "-wal", "-sums"):
            if crash and Path(f"{self.path}{suffix}").exists():
                shutil.copy(f"{self.path}{suffix}", f"{copy}{suffix}")
        self.database.close()
        self.path = copy if crash else self.path
        self.open()
        self.check_rows()

    # ---- messages

    def send(self, host: Host, request: Callable[[], Any]) -> Any:
        """Deliver a request: perhaps never, late, twice, or without its answer coming back.

        Raises:
            LostError: No answer came.
        """
        if self.now < max(host.cut_until, self.down_until):
            raise LostError
        loss = host.loss if self.faults else 0.0
        if self.rng.random() < loss:
            self.happened["request lost"] += 1
            if self.rng.random() < 0.5:
                self.happened["request late"] += 1
                self.late.append((self.now + self.rng.uniform(30, 1200), request))
            raise LostError
        answer = request()
        if self.rng.random() < loss:
            self.happened["request twice"] += 1
            answer = request()
        if self.rng.random() < loss:
            self.happened["answer lost"] += 1
            raise LostError
        return answer

    def deliver_late(self) -> None:
        due = [request for at, request in self.late if at <= self.now]
        self.late = [(at, request) for at, request in self.late if at > self.now]
        for request in due:
            try:
                request()
            except FleetError:
                self.happened["late and refused"] += 1

    def beat(self, host: Host, lease: Lease) -> Beat:
        message = Heartbeat(lease.lease_id, Progress(1, 2), [lease.lease_id])
        beat = self.queue.beat(lease.job_id, message)
        if beat is None:
            beat = self.do(lambda tx: self.queue.heartbeat(tx, lease.job_id, message))
        self.seen.contacts[lease.lease_id] = self.now
        self.seen.acknowledged.add(lease.lease_id)
        return beat

    def claim(self, host: Host) -> Lease | None:
        message = Claim(host.claim_id, host.name, host.capability, [])
        lease: Lease | None = self.do(lambda tx: self.queue.claim(tx, message))
        if lease is not None:
            self.seen.contacts[lease.lease_id] = self.now
        return lease

    def complete(self, lease: Lease) -> JobState:
        artifact = hashlib.sha256(lease.job_id.encode()).hexdigest()
        self.do(lambda tx: self.queue.artifacts.add(tx, ArtifactKey(artifact, "gbt", "realistic"), 10))
        message = Complete(lease.lease_id, artifact, {"auroc": 0.9})
        state: JobState = self.do(lambda tx: self.queue.complete(tx, lease.job_id, message))
        return state

    def fail(self, lease: Lease, kind: Any) -> JobState:
        message = Fail(lease.lease_id, kind, 1, "it broke")
        state: JobState = self.do(lambda tx: self.queue.fail(tx, lease.job_id, message))
        return state

    # ---- workers

    def act(self, host: Host) -> None:
        host.acts_at = self.now + BEAT_S
        try:
            if host.run is None:
                self.look_for_work(host)
            elif host.run.training:
                self.train(host, host.run)
            else:
                self.report(host, host.run)
        except LostError:
            self.mind_silence(host)
        except ConflictError:
            # The lease is over, or the claim was answered with one that is.
            host.run, host.claim_id = None, ""
        host.acted_at = self.now

    def look_for_work(self, host: Host) -> None:
        if not host.claim_id:
            self.numbers += 1
            host.claim_id = f"claim-{self.numbers:08d}"
        lease = self.send(host, lambda: self.claim(host))
        host.claim_id = ""
        if lease is not None:
            host.run = Run(lease, self.lengths[lease.job_id], self.now)
            self.send(host, lambda: self.beat(host, lease))

    def train(self, host: Host, run: Run) -> None:
        run.left_s -= self.now - host.acted_at
        lease = run.lease
        beat = self.send(host, lambda: self.beat(host, lease))
        run.contact_at = self.now
        if beat.cancel or lease.lease_id in beat.stop:
            self.end(host, run, lambda: self.fail(lease, "preempted"))
        elif run.left_s <= 0:
            self.end(host, run, lambda: self.complete(lease))
        elif self.faults and self.rng.random() < 0.0005:
            small = host.capability.ram_bytes <= 16 * GIB
            kind = self.rng.choice(["trainer_error", "trainer_error", "oom_ram" if small else "timeout", "host_fault"])
            self.happened[kind] += 1
            self.end(host, run, lambda: self.fail(lease, kind))

    def end(self, host: Host, run: Run, report: Callable[[], JobState]) -> None:
        run.training, run.owes = False, report
        self.report(host, run)

    def report(self, host: Host, run: Run) -> None:
        assert run.owes is not None
        self.send(host, run.owes)
        host.run = None

    def mind_silence(self, host: Host) -> None:
        """Stop the trainer when the receiver is lost for most of the lease, where that is set."""
        run = host.run
        if run is None or not run.training:
            return
        if run.left_s <= 0:
            run.training, run.owes = False, lambda: self.complete(run.lease)
            return
        term = TERMS.lease_s if run.lease.lease_id in self.seen.acknowledged else TERMS.ack_s
        if host.stops_when_lost and self.now + BEAT_S - run.contact_at >= LOST_PART * term:
            self.happened["stopped when lost"] += 1
            run.training, run.owes = False, lambda: self.fail(run.lease, "lost")

    # ---- trouble

    def trouble(self) -> None:
        """What goes wrong in a tick: each kind so often a day."""
        for name, a_day in (
            ("die", 12),
            ("sleep", 8),
            ("cut", 20),
            ("restart", 3),
            ("crash", 3),
            ("stall", 4),
            ("cancel", 10),
            ("requeue", 8),
            ("reload", 4),
        ):
            if self.rng.random() < a_day * TICK_S / DAY_S:
                self.happened[name] += 1
                getattr(self, f"make_{name}")()

    def make_die(self) -> None:
        """The worker is killed, its trainer with it; what it knew stands in its folder."""
        host = self.rng.choice(self.hosts)
        host.away_until = self.now + self.rng.uniform(15, 2 * HOUR_S)
        if host.run is not None and host.run.training:
            run = host.run
            run.training, run.owes = False, lambda: self.fail(run.lease, "lost")

    def make_sleep(self) -> None:
        """The host sleeps, its trainer with it."""
        host = self.rng.choice(self.hosts)
        host.away_until = self.now + self.rng.uniform(60, 8 * HOUR_S)

    def make_cut(self) -> None:
        host = self.rng.choice(self.hosts)
        host.cut_until = self.now + self.rng.uniform(10, HOUR_S)

    def make_restart(self) -> None:
        self.restart(crash=False)
        self.down_until = self.now + self.rng.uniform(0, 1200)

    def make_crash(self) -> None:
        self.restart(crash=True)
        self.down_until = self.now + self.rng.uniform(0, 1200)

    def make_stall(self) -> None:
        """The receiver hangs: nothing is answered and nothing swept."""
        self.down_until = self.now + self.rng.uniform(10, 3000)

    def make_cancel(self) -> None:
        self.operate(self.queue.cancel)

    def make_requeue(self) -> None:
        over = look(self.database, "SELECT id FROM job WHERE status IN ('failed', 'cancelled')")
        for row in over:
            self.do(lambda tx, row=row: self.queue.requeue(tx, row["id"], "operator:test"))

    def operate(self, change: Callable[[Any, str, str], object]) -> None:
        entry = self.rng.choice(self.entries)
        try:
            self.do(lambda tx: change(tx, entry.id, "operator:test"))
        except ConflictError:
            self.happened["operator refused"] += 1

    def make_reload(self) -> None:
        self.rng.shuffle(self.entries)
        self.load()

    # ---- time

    def live(self) -> None:
        """Let the days go by with faults, then let all work end without."""
        while self.now < self.begun_at + self.days * DAY_S:
            self.trouble()
            self.tick()
        self.faults = False
        self.make_requeue()
        runs_s = sum(3 * (TERMS.lease_s + TERMS.backoff_cap_s + length) for length in self.lengths.values())
        end = self.now + 8 * HOUR_S + runs_s
        while self.now < end and not self.all_over():
            for _ in range(60):
                self.tick()
        assert self.all_over(), "I15: a job did not end"
        self.check_rows()

    def tick(self) -> None:
        self.now += TICK_S
        if self.now >= self.down_until:
            self.do(self.queue.sweep)
            self.deliver_late()
        for host in self.hosts:
            if self.now < host.away_until:
                host.reachable_since = host.acted_at = self.now
            elif self.now >= host.acts_at:
                self.act(host)
            if self.now < max(host.cut_until, self.down_until):
                host.reachable_since = self.now
        self.check_events()
        self.check_trainers()
        if self.now - self.checked_at >= 600:
            self.check_rows()

    def all_over(self) -> bool:
        counts = self.queue.counts()
        return not (counts["pending"] or counts["claimed"] or counts["running"])

    # ---- what must always hold

    def check_events(self) -> None:
        seen = self.seen
        rows = look(self.database, "SELECT * FROM event WHERE id > ? AND job IS NOT NULL ORDER BY id", seen.event)
        for row in rows:
            before, after = seen.statuses.get(row["job"]), row["to_status"]
            assert row["from_status"] == before
            assert before != "completed" or after == "completed", "I6"
            late = before == "failed" and row["action"] in ("adopt", "complete")
            assert before not in ("failed", "cancelled") or after == before or row["action"] == "requeue" or late, "I6"
            seen.completions[row["job"]] += row["action"] == "complete"
            assert seen.completions[row["job"]] <= 1, "I1"
            if row["action"] == "expire" and "asked for another" not in row["why"]:
                term = TERMS.ack_s if before == "claimed" else TERMS.lease_s
                assert self.now - seen.contacts[self.newest_lease(row["job"])] >= term, "I7: ended before its time"
            seen.claims[row["job"]] += row["action"] == "claim"
            seen.statuses[row["job"]], seen.event = after, row["id"]
            self.happened[row["action"]] += 1

    def newest_lease(self, job: int) -> str:
        """Return the newest lease of a job as of the last event that was looked at."""
        find = "SELECT lease_id FROM attempt WHERE job = ? ORDER BY fence LIMIT 1 OFFSET ?"
        (row,) = look(self.database, find, job, self.seen.claims[job] - 1)
        lease_id: str = row["lease_id"]
        return lease_id

    def check_trainers(self) -> None:
        training: dict[str, Host] = {}
        for host in self.hosts:
            run = host.run
            if run is None or not run.training or self.now < host.away_until:
                continue
            if host.stops_when_lost:
                assert training.setdefault(run.lease.job_id, host) is host, "G4: two trainers of one job"
            if self.now - host.reachable_since > BEAT_S and host.loss == 0.0:
                assert self.may_go_on(run.lease.lease_id), "I12: a trainer of an ended lease"

    def may_go_on(self, lease_id: str) -> bool:
        if self.queue._memory.leases.get(lease_id) is not None:
            return True
        (row,) = look(
            self.database,
            "SELECT j.status, j.fence AS newest, a.fence, a.outcome FROM attempt AS a JOIN job AS j ON j.seq = a.job"
            " WHERE a.lease_id = ?",
            lease_id,
        )
        late = row["outcome"] in ("expired", "lost_claim")
        return late and row["status"] in ("pending", "failed") and row["newest"] == row["fence"]

    def check_rows(self) -> None:
        self.checked_at = self.now
        rows = look(self.database, "SELECT * FROM job")
        assert len(rows) == len(self.entries), "I3"
        for row in rows:
            accepted = self.seen.completions[row["seq"]]
            assert (row["status"] == "completed") == (accepted == 1) == (row["artifact"] is not None), "I2"
            assert 0 <= row["attempts_used"] <= row["max_attempts"], "I4"
            assert 0 <= row["refunds"] <= TERMS.refunds, "I4"
            assert row["fence"] >= self.seen.fences.get(row["seq"], 0), "I4"
            assert (row["status"] in ("claimed", "running")) == (row["lease_id"] is not None), "I5"
            self.seen.fences[row["seq"]] = row["fence"]
        held = {row["lease_id"] for row in rows if row["lease_id"]}
        assert held == set(self.queue._memory.leases._live), "I5"

    def close(self) -> None:
        self.database.close()
        report = Report()
        with of_receiver(self.path) as reading:
            check_pages(reading, report)
            assert check_structure(reading, report)
            check_rows(reading, report)
        shutil.rmtree(self.folder)
        assert report.findings == []


def live(seed: int, days: float) -> str:
    """Let a fleet live; return what happened, in a line."""
    begun = time.process_time()
    life = Life(seed, days)
    try:
        life.live()
    finally:
        life.close()
    counts = {status: number for status, number in life.queue.counts().items() if number}
    lived_h = (life.now - life.begun_at) / HOUR_S
    what = ", ".join(f"{name} {number}" for name, number in sorted(life.happened.items()))
    return f"{lived_h:.0f} h of {counts} in {time.process_time() - begun:.1f} s: {what}"
