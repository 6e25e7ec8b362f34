"""A real queue on a real database with clocks that the test moves."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.fleet.database import Database, Transaction
from training.fleet.database.sqlite import Sqlite
from training.fleet.manifest import Header, JobEntry
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.capability import GIB, Capability, Gpu
from training.fleet.model.errors import ConflictError
from training.fleet.model.jobs import Limits, Policy, Requirement, Spec, Terms, Trainer, canonical
from training.fleet.queue import Queue, plan, reload
from training.fleet.wire.people import JobDetail, JobView, Plan
from training.fleet.wire.worker import Claim, Complete, Fail, Heartbeat, Lease, Progress

ARTIFACT = "a" * 64
OTHER = "b" * 64
OPERATOR = "operator:test"
DEFAULT = {"default": Policy()}


def host(name: str, ram_gib: int = 16, vram_gib: int = 0, **more: Any) -> Capability:
    gpus = (Gpu("card", "GPU-1", vram_gib * GIB, vram_gib * GIB, "550"),) if vram_gib else ()
    cuda = vram_gib > 0
    return Capability(name, ram_bytes=ram_gib * GIB, gpus=gpus, cuda_present=cuda, cuda_usable=cuda, **more)


def entry(number: int, requirement: Requirement | None = None, **more: Any) -> JobEntry:
    """Job NUMBER of a manifest; `more` is its limits, mode or dataset."""
    spec = Spec("gbt", more.pop("mode", "realistic"), {"max_iter": number}, dataset=more.pop("dataset", None))
    needs, limits = requirement or Requirement("gbt"), Limits(**more)
    return JobEntry(spec.job_id(), spec.model, spec.mode, canonical(spec.document()).decode(), needs, limits, number)


class _Failures(logging.Handler):
    """Keeps what a database logs of steps after a commit that went wrong."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(f"{record.getMessage()}: {record.exc_info and record.exc_info[1]!r}")


@contextmanager
def every_step_done() -> Iterator[None]:
    """Fail when a step after a commit did: the database only logs it, because its writer must live on."""
    # That of all databases, wherever among its modules the step is made.
    log, failures = logging.getLogger("training.fleet.database"), _Failures()
    log.addHandler(failures)
    try:
        yield
    finally:
        log.removeHandler(failures)
    if failures.found:
        raise AssertionError("; ".join(failures.found))


def repeated(database: Database, change: Callable[[Any], Any]) -> Any:
    """Run a repeatable change in a batch that is undone and run again because a neighbour fails after a write."""
    gate = threading.Event()
    answer: Future[Any] = Future()

    def settle(result: Any, error: BaseException | None) -> None:
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    def fail(tx: Any) -> None:
        tx.may_run_twice()
        tx.run("remember", key="neighbour", value="1")
        raise ConflictError("the neighbour")

    def hold(tx: Any) -> None:
        tx.may_run_twice()
        gate.wait(10)

    database.post(hold, lambda *_: None)
    database.post(change, settle)
    database.post(fail, lambda *_: None)
    with every_step_done():
        gate.set()
        return answer.result(10)


class Ending:
    """Ends a loop from deadline to deadline that goes round on the spot.

    A sweep at a deadline takes it away, or some of what ends then; a fault may leave it, and then no time passes.
    """

    MOST = 100

    def __init__(self) -> None:
        self.deadline: float | None = None
        self.times = 0

    def at(self, deadline: float) -> float:
        """Note the deadline that comes next, and return it."""
        self.times = self.times + 1 if deadline == self.deadline else 0
        self.deadline = deadline
        assert self.times < self.MOST, f"{self.MOST} sweeps at {deadline} and it is still the next deadline"
        return deadline


@dataclass(frozen=True)
class Engine:
    """One database that must pass the suite.

    Attributes:
        name: Its name in the names of tests.
        open: Opens the database of a path, or makes it.
        look: Reads with a statement of the test's own; the rows answer to the names of their columns.
    """

    name: str
    open: Callable[[Path], Database]
    look: Callable[..., list[Any]]


def look_at_sqlite(database: Sqlite, text: str, *values: Any) -> list[sqlite3.Row]:
    """Read with a statement of the test's own."""
    cursor = database._connection.cursor()
    cursor.row_factory = sqlite3.Row  # type: ignore[assignment]
    return cursor.execute(text, values).fetchall()


SQLITE = Engine("sqlite", Sqlite.open, look_at_sqlite)
ENGINES = (SQLITE,)
"""Every database there is. The whole of `tests/conformance` runs on each of them."""


class World:
    def __init__(self, path: Path, terms: Terms | None = None, engine: Engine = SQLITE) -> None:
        self.path = path
        self.engine = engine
        self.terms = terms or Terms()
        self.now = 1000.0
        self.wall = "2026-01-01T00:00:00.000Z"
        self.ready: list[dict[int, int]] = []
        self.numbers = 0
        self.open()

    def open(self) -> None:
        self.database = self.engine.open(self.path)
        self.queue = Queue(lambda: self.now, self.terms, lambda: self.wall, lambda: 1.0)
        self.queue.on_ready(lambda ready: self.ready.append(dict(ready)))
        self.do(self.queue.start)

    def restart(self) -> None:
        self.database.close()
        self.open()

    def do(self, change: Callable[[Transaction], Any]) -> Any:
        with every_step_done():
            return self.database.submit(change).result()

    def header(self, count: int, hosts: Mapping[str, Policy] | None = None, **more: Any) -> Header:
        self.numbers += 1
        digest = more.pop("digest", hashlib.sha256(str(self.numbers).encode()).hexdigest())
        values = {"trainer": Trainer(), "datasets": {}, "warnings": (), "contract": None, **more}
        return Header(digest=digest, hosts=DEFAULT if hosts is None else hosts, count=count, **values)

    def load(
        self,
        entries: Iterable[JobEntry],
        hosts: Mapping[str, Policy] | None = None,
        *,
        allow_shrink: bool = False,
        if_plan: str | None = None,
        **more: Any,
    ) -> Plan:
        jobs = list(entries)
        header = self.header(len(jobs), hosts, **more)
        with every_step_done():
            return reload(self.database, self.queue, header, jobs, allow_shrink=allow_shrink, if_plan=if_plan)

    def plan(self, entries: Iterable[JobEntry], hosts: Mapping[str, Policy] | None = None, **more: Any) -> Plan:
        jobs = list(entries)
        return plan(self.database, self.queue, self.header(len(jobs), hosts, **more), jobs)

    def claim(
        self,
        worker: Capability | str = "pi",
        held: Iterable[str] = (),
        claim_id: str = "",
        *,
        process: str | None = None,
        vouched: bool = False,
    ) -> Any:
        capability = host(worker) if isinstance(worker, str) else worker
        self.numbers += 1
        message = Claim(claim_id or f"claim-{self.numbers:04d}", capability.hostname, capability, list(held), process)
        return repeated(self.database, lambda tx: self.queue.claim(tx, message, vouched=vouched))

    def beat(self, lease: Lease, progress: Progress | None = None, held: Iterable[str] = ()) -> Any:
        message = Heartbeat(lease.lease_id, progress, list(held))
        return self.queue.beat(lease.job_id, message) or repeated(
            self.database, lambda tx: self.queue.heartbeat(tx, lease.job_id, message)
        )

    def running(self, worker: Capability | str = "pi") -> Any:
        lease = self.claim(worker)
        self.beat(lease)
        return lease

    def complete(self, lease: Lease, artifact: str = ARTIFACT, store: bool = True) -> Any:
        if store:
            self.do(
                lambda tx: self.queue.artifacts.add(
                    tx, ArtifactKey(artifact, lease.spec["model"], lease.spec["mode"]), 10
                )
            )
        message = Complete(lease.lease_id, artifact, {"auroc": 0.9}, "sha256:" + "c" * 64, 12.5)
        return repeated(self.database, lambda tx: self.queue.complete(tx, lease.job_id, message))

    def fail(self, lease: Lease, kind: Any = "trainer_error", error: str = "", log_tail: str = "") -> Any:
        message = Fail(lease.lease_id, kind, 1, error, log_tail)
        return self.do(lambda tx: self.queue.fail(tx, lease.job_id, message))

    def cancel(self, job_id: str) -> Any:
        return self.do(lambda tx: self.queue.cancel(tx, job_id, OPERATOR))

    def requeue(self, job_id: str) -> Any:
        return self.do(lambda tx: self.queue.requeue(tx, job_id, OPERATOR))

    def sweep(self) -> None:
        self.do(self.queue.sweep)

    def wait(self, seconds: float) -> None:
        """Let time pass while the sweeper runs whenever it is needed."""
        end, ending = self.now + seconds, Ending()
        while (deadline := self.queue.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, ending.at(deadline))
            self.sweep()
        self.now = end
        self.sweep()

    def job(self, job_id: str) -> JobView:
        detail = self.detail(job_id)
        return detail.job

    def detail(self, job_id: str) -> JobDetail:
        found = self.do(lambda tx: self.queue.job(tx, job_id))
        assert isinstance(found, JobDetail)
        return found

    def status(self, job_id: str) -> str:
        return self.job(job_id).status

    def events(self, job_id: str) -> list[str]:
        return [event.action for event in self.detail(job_id).events]


@contextmanager
def open_world(folder: Path, terms: Terms | None = None, engine: Engine = SQLITE) -> Iterator[World]:
    world = World(folder / "queue.db", terms, engine)
    try:
        yield world
    finally:
        world.database.close()
