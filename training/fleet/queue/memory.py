"""What the queue keeps in memory beside its database, and the steps every change shares.

Owns the clocks, the counts, the change counter and the notices of newly claimable jobs. Guarantees that all of it
follows committed changes only. Leaves the changes themselves to the modules beside it.
"""

from __future__ import annotations

import functools
import itertools
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from training.fleet import wire
from training.fleet.auth.identities import Registry
from training.fleet.database import Row, Transaction
from training.fleet.errors import NotFoundError
from training.fleet.jobs import STATUSES, Requirement, Terms, requirement_digest
from training.fleet.queue.delays import Delays
from training.fleet.queue.hosts import Hosts, capability_from, in_force_from, requirement_from, requirement_json
from training.fleet.queue.leases import Leases, LiveLease

TICK_KEY: Final = "fleet_clock_s"
MANIFEST_KEY: Final = "manifest"
HALF_KEY: Final = "manifest_half_written"
"""Set from the first row a reload writes to its last, so that a reload that broke off is noticed."""
FREE_ENDS: Final = 8
"""Attempts without a result that a host may have in a row before it waits for its next job: what a flaky network, or an
owner who comes and goes, brings about in a day."""
TICK_STEP_S: Final = 60
"""How far the fleet clock may be behind after a crash, seconds."""


def wall_label() -> str:
    """Return the wall time as people read it: RFC 3339, UTC, milliseconds. Nothing is decided by it."""
    second, ms = divmod(time.time_ns() // 1_000_000, 1000)
    return f"{_second_label(second)}.{ms:03d}Z"


@functools.lru_cache(maxsize=2)
def _second_label(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class Memory:
    """The part of the queue that is not in the database.

    Args:
        clock: Monotonic seconds.
        terms: The time limits of leases.
        now: A label of the wall time for people.
        jitter: A number from 0 to 1 for each back-off.

    Attributes:
        terms: The time limits of leases.
        revision: Another number after every change that a list can show, progress included; starts anywhere.
        hosts: Workers, policies and requirements.
        leases: The live leases.
        registry: The identities of enrolled workers.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        terms: Terms | None = None,
        now: Callable[[], str] = wall_label,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.terms = terms or Terms()
        self._revisions = itertools.count(secrets.randbits(40))
        self.revision = next(self._revisions)
        self.hosts = Hosts(clock, self.terms)
        self.leases = Leases(clock, self.terms)
        self.registry = Registry()
        self._clock = clock
        self._now = now
        self._jitter = jitter
        self._started_at = clock()
        self._tick_base = 0
        self._tick_kept = 0
        self._counts: Counter[str] = Counter()
        self._delayed: dict[int, float] = {}
        fades_s = self.terms.backoff_cap_s
        self._apart: Delays[tuple[str, int]] = Delays(clock, self._backoff_s, fades_s)
        self._held_back: Delays[str] = Delays(clock, self._backoff_s, fades_s, FREE_ENDS)
        self._forgiven_at = clock()
        self._full: set[str] = set()
        self._half_written = False
        self._totals: list[int] | None = None
        self._on_ready: Callable[[Mapping[int, int]], None] = lambda _ready: None

    def on_ready(self, callback: Callable[[Mapping[int, int]], None]) -> None:
        """Call back on the writer thread, after each commit, with requirement id to number of newly claimable jobs."""
        self._on_ready = callback

    def counts(self) -> dict[str, int]:
        """Return the number of jobs by status; all six are there. Safe from any thread."""
        return {status: self._counts[status] for status in STATUSES}

    def tick(self) -> int:
        """Return the fleet clock: whole seconds that receivers on this database have lived."""
        return self._tick_base + int(self._clock() - self._started_at)

    def start(self, tx: Transaction) -> None:
        """Take up the database after a start: every live lease gets a full fresh term, every back-off is over."""
        kept = tx.one("remembered", key=TICK_KEY)
        self._tick_base = self._tick_kept = int(kept["value"]) if kept else 0
        self._started_at = self._clock()
        for row in tx.all("requirements"):
            self.hosts.learn(row["id"], requirement_from(row["body"]))
        half = tx.one("remembered", key=HALF_KEY)
        self._half_written = half is not None and half["value"] == "yes"
        manifest = tx.one("remembered", key=MANIFEST_KEY)
        if manifest is not None:
            self.hosts.rule(in_force_from(manifest["value"]))
        for row in tx.all("hosts_met"):
            self.hosts.remember(capability_from(row["capability"]))
        tx.run("make_all_ready")
        for row in tx.all("live_leases"):
            self._revive(row)
        self._counts = Counter({row["status"]: row["jobs"] for row in tx.all("counts")})

    def _revive(self, row: Row) -> None:
        self.leases.put(
            row["seq"],
            row["id"],
            row["lease_id"],
            row["host"],
            running=row["status"] == "running",
            cancel=bool(row["cancel_requested"]),
        )

    def _backoff_s(self, failures: int, first_s: float) -> float:
        """Return the delay after so many failures: doubling from the first one, capped, half of it random."""
        full = min(self.terms.backoff_cap_s, first_s * 2.0 ** min(failures - 1, 32))
        return full * (1 + self._jitter()) / 2

    def _granted_at(self, lease_id: str) -> float:
        """Return when a live lease was granted, monotonic seconds; now for one that was granted in this batch."""
        live = self.leases.get(lease_id)
        return self._clock() if live is None else live.granted_at

    def _first_for(self, tx: Transaction, worker: str) -> int | None:
        """Return a requirement of a job that waits and that a worker could run, None without one."""
        waiting = (row["id"] for row in tx.all("requirements_with_ready_jobs"))
        return next((number for number in waiting if self.hosts.eligible(number, worker)), None)

    def _keep_tick(self, tx: Transaction) -> None:
        tick = self.tick()
        if tick - self._tick_kept >= TICK_STEP_S:
            tx.run("remember", key=TICK_KEY, value=str(tick))

            def kept() -> None:
                self._tick_kept = tick

            tx.after_commit(kept)

    def _requirement_id(self, tx: Transaction, requirement: Requirement) -> int:
        """Return the number of a requirement's row, which is made when there is none."""
        known = self.hosts.requirement_id(requirement)
        if known is not None:
            return known
        row = tx.one("add_requirement", digest=requirement_digest(requirement), body=requirement_json(requirement))
        assert row is not None
        number: int = row["id"]
        self.hosts.learn(number, requirement)
        tx.after_rollback(lambda: self.hosts.forget([number]))
        return number

    def _record(
        self, tx: Transaction, seq: int, actor: str, action: str, before: str | None, after: str, why: str = ""
    ) -> None:
        """Append one change to the history."""
        tx.run(
            "record", at=self._now(), actor=actor, job=seq, action=action, from_status=before, to_status=after, why=why
        )

    def _moved(self, tx: Transaction, before: str, after: str, ready: int | None = None) -> None:
        """Let counts, change counter and parked claims follow once the change is durable.

        Args:
            tx: The change.
            before: The status the job had.
            after: The status it has.
            ready: Requirement of the job when it became claimable, else None.
        """

        def follow() -> None:
            self._touch()
            self._counts[before] -= 1
            self._counts[after] += 1
            if ready is not None:
                self._on_ready({ready: 1})

        tx.after_commit(follow)

    def _touch(self) -> None:
        # Beats come from another thread: adding to the number could lose a change, taking the next one cannot.
        self.revision = next(self._revisions)

    def _job_state(self, tx: Transaction, job_id: str) -> Row:
        row = tx.one("job_state", id=job_id)
        if row is None:
            raise NotFoundError(f"there is no job {job_id}", "`cis490-jobs list` shows the jobs there are")
        return row


def state_of(row: Row) -> wire.State:
    """Return where a job stands, as an answer."""
    return wire.State(row["id"], row["status"], bool(row["cancel_requested"]))


def worker_actor(name: str) -> str:
    """Return how the history names a worker."""
    return f"worker:{name}"


__all__ = ["HALF_KEY", "MANIFEST_KEY", "LiveLease", "Memory", "state_of", "wall_label", "worker_actor"]
