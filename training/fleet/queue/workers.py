"""What people and pages see of hosts, and what a worker may know of itself."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Final

from training.fleet import __version__
from training.fleet.auth.identities import Registry
from training.fleet.database import Transaction
from training.fleet.database.queries import CLAIMABLE, KNOWN_TAGS
from training.fleet.model import placement
from training.fleet.queue.in_force import DEFAULT_HOST
from training.fleet.queue.memory import Memory
from training.fleet.wire.names import KnownNames
from training.fleet.wire.people import MAX_PAGE, WorkerPage, WorkerView
from training.fleet.wire.worker import OwnView

MAX_OWN_REQUIREMENTS: Final = 256
"""Requirements that are counted for a worker which asks: the writer's time is bounded by it."""
MAX_OWN_REASONS: Final = 8


class WorkerViews:
    """Hosts as people see them."""

    def __init__(self, memory: Memory, registry: Registry) -> None:
        self._clock = memory.clock
        self._hosts = memory.hosts
        self._leases = memory.leases
        self._waits = memory.waits
        self._registry = registry

    def page(self, cursor: str | None = None, limit: int = 100) -> WorkerPage:
        """Return one page of hosts by name: those that called and those the manifest names. Safe from any thread."""
        limit = max(1, min(limit, MAX_PAGE))
        names = [name for name in self._hosts.names() if cursor is None or name > cursor]
        shown = names[:limit]
        return WorkerPage([self._worker(name) for name in shown], shown[-1] if len(names) > limit else None)

    def last_seen(self, limit: int) -> dict[str, float]:
        """Return seconds since hosts were heard, by name. Safe from any thread.

        Args:
            limit: Most hosts; those that enrolled or that the manifest names come first, then by name.
        """
        known = {name: self._hosts.known(name) for name in self._hosts.names()}
        heard = {name: one.seen_at for name, one in known.items() if one is not None and one.seen_at is not None}
        named = self._hosts.in_force.hosts
        # Else names that anybody calls with could push those that somebody chose out of the limit.
        ordered = sorted(heard, key=lambda name: (name not in named and self._registry.living(name) is None, name))
        now = self._clock.now()
        return {name: max(0.0, now - heard[name]) for name in ordered[:limit]}

    def counts(self) -> dict[str, int]:
        """Return the number of hosts by state: working, idle, away, refused. Safe from any thread."""
        found = {"working": 0, "idle": 0, "away": 0, "refused": 0}
        holders = self._leases.holders()
        for name in self._hosts.names():
            found[self._worker_state(name, name in holders)] += 1
        return found

    def _worker_state(self, name: str, holds: bool) -> str:
        if holds:
            return "working"
        if self._hosts.policy(name) is None:
            return "refused"
        known = self._hosts.known(name)
        return "away" if known is None or self._hosts.away(known) else "idle"

    def names(self, tx: Transaction) -> KnownNames:
        """Return what the filters of lists can name; on the writer thread, where no requirement goes meanwhile."""
        wanted = [self._hosts.requirement(number) for number in self._hosts.requirement_ids()]
        datasets = {one.dataset.name for one in wanted if one.dataset is not None}
        return KnownNames(
            hosts=sorted({*self._hosts.names(), *(one.worker for one in self._registry)}),
            models=sorted({one.model for one in wanted}),
            datasets=sorted(datasets),
            tags=[row.value for row in tx.all(KNOWN_TAGS)],
        )

    def _worker(self, name: str) -> WorkerView:
        known, policy = self._hosts.known(name), self._hosts.policy(name)
        held, enrolled = self._leases.held_by(name), self._registry.newest(name)
        seen = None if known is None or known.seen_at is None else max(0.0, self._clock.now() - known.seen_at)
        drift: list[str] = []
        if known is not None and policy is not None:
            drift = placement.drift(known.capability, policy, self._hosts.in_force.own_contract)
        if known is not None:
            drift = [*drift, *_other_version(known.capability.version)]
        return WorkerView(
            name=name,
            state=self._worker_state(name, bool(held)),
            last_seen_s=seen,
            jobs=[live.job_id for live in held],
            capability=None if known is None else known.offered,
            policy=None if policy is None else asdict(policy),
            drift=drift,
            identity="none" if enrolled is None else enrolled.state,
            alerts=self._alerts(name),
            slots=None if known is None else known.slots,
        )

    def _alerts(self, name: str) -> list[str]:
        left_s, times = self._waits.held_back.left_s(name), self._waits.held_back.repeats(name)
        if failed := self._waits.suspects.jobs_failed(name):
            wait_s = math.ceil(self._waits.held_s(name))
            return [
                f"fails everything: {failed} jobs in a row failed here since its last result; it gets one to try"
                + (f" in {wait_s} s" if wait_s else " now")
                + f"; `cis490-jobs events --worker {name}` lists them"
            ]
        if left_s <= 0:
            return []
        return [
            f"gets no job for {math.ceil(left_s)} s, because it gave back or lost {times} without a result in between; "
            f"`cis490-jobs events --worker {name}` lists them, a reload ends the wait"
        ]

    def own(self, tx: Transaction, name: str, version: str) -> OwnView:
        """Return what a worker may know of itself: its row, the manifest's word on it, and what it could run now.

        Args:
            tx: Where the waiting jobs are counted.
            name: The worker.
            version: Of the receiver.
        """
        row, in_force = self._worker(name), self._hosts.in_force
        waiting, able, reasons = self._prospects(tx, name)
        # A host that is held back gets none of them, whatever it could run.
        if self._waits.held_s(name) > 0:
            able, reasons = 0, row.alerts
        table = "" if row.policy is None else f"hosts.{name if name in in_force.hosts else DEFAULT_HOST}"
        return OwnView(
            worker=name,
            version=version,
            state=row.state,
            identity=row.identity,
            capability=row.capability,
            policy=row.policy,
            table=table,
            contract=in_force.own_contract,
            drift=row.drift,
            alerts=[],
            waiting=waiting,
            able=able,
            reasons=reasons,
        )

    def _prospects(self, tx: Transaction, name: str) -> tuple[int, int, list[str]]:
        """Return how many jobs wait, how many of them a worker could run, and what stands against the others."""
        known, policy = self._hosts.known(name), self._hosts.policy(name)
        waiting = able = 0
        reasons: dict[str, None] = {}
        # Bounded, because each one costs a statement on the writer thread.
        for number in self._hosts.requirement_ids()[:MAX_OWN_REQUIREMENTS]:
            row = tx.one(CLAIMABLE, requirement=number)
            jobs = row.jobs if row else 0
            waiting += jobs
            if not jobs or known is None:
                continue
            verdict = placement.judge(self._hosts.requirement(number), known.offered, policy)
            able += jobs if verdict.eligible else 0
            reasons |= dict.fromkeys(f"{one.constraint} {one.wanted}, found {one.found}" for one in verdict.reasons)
        return waiting, able, list(reasons)[:MAX_OWN_REASONS]


def _other_version(version: str) -> list[str]:
    """Return a line for people about a worker of another version than this receiver, none for the same one."""
    if version in ("", __version__):
        return []
    return [f"the worker is version {version}, the receiver {__version__}; give the host the receiver's worker.pyz"]
