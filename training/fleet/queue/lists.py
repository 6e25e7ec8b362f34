"""What people and pages see of the queue.

Owns the views of jobs, attempts, events, workers and verdicts. Guarantees that a page is bounded, in the order jobs
came and complete when its cursors are followed: with rare filters a page may hold fewer jobs than asked for, even
none, and still name a next one, so that no list ever holds claims up for long.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any, Final

from training.fleet import __version__, placement, wire
from training.fleet.capability import Capability
from training.fleet.database import Row, Transaction
from training.fleet.errors import InvalidMessageError, NotFoundError
from training.fleet.jobs import STATUSES, Policy, Requirement
from training.fleet.queue.endings import first_line
from training.fleet.queue.hosts import DEFAULT_HOST
from training.fleet.queue.memory import Memory

BUNDLE: Final = "{model}_{mode}/{sha256}/bundle.tar.zst"
"""Where an artifact lies below the store root."""
MAX_SEQ: Final = 2**62
WINDOW: Final = 2000
"""Jobs looked at in one step when filters may refuse most of them."""
SCAN_S: Final = 0.005
"""How long one page may look for matching jobs, seconds."""
MAX_HISTORY: Final = 200
"""Attempts, and events, that are shown of one job: the newest."""
WHOLE_CHARS: Final = 32768
"""Characters of errors, and of reasons, that are shown of one job before older ones are cut."""
CUT_CHARS: Final = 120
MAX_SPECS: Final = 100
"""Jobs on a page with their specifications, each of which may take 64 KiB."""
MAX_OWN_REQUIREMENTS: Final = 256
MAX_OWN_REASONS: Final = 8
_BAD_ENDS: Final = frozenset({"failed", "expired", "lost_claim"})


@dataclass(frozen=True, slots=True)
class Filters:
    """Which jobs a list shows; empty shows all.

    Attributes:
        statuses: Only these statuses.
        model: Only this model.
        mode: Only this mode.
        host: Only jobs that run or ran last on this host.
        id_prefix: Only ids that start with this; the page is ordered by id then.
        with_spec: Not a choice of jobs: show each one's specification as well.
    """

    statuses: Set[str] = frozenset()
    model: str | None = None
    mode: str | None = None
    host: str | None = None
    id_prefix: str = ""
    with_spec: bool = False


class Lists(Memory):
    """The reading side of the queue."""

    def jobs(
        self, tx: Transaction, filters: Filters | None = None, cursor: str | None = None, limit: int = 100
    ) -> wire.JobPage:
        """Return one page of jobs.

        Args:
            tx: The change.
            filters: Which jobs.
            cursor: `next` of the page before, None for the first.
            limit: At most so many jobs, 1 to 500; with specifications 100 are the most.

        Raises:
            InvalidMessageError: The cursor is not one of this list.
        """
        wanted = filters or Filters()
        limit = max(1, min(limit, MAX_SPECS if wanted.with_spec else wire.MAX_PAGE))
        if wanted.id_prefix:
            return self._page_by_id(tx, wanted, cursor, limit)
        return self._page_by_seq(tx, wanted, cursor, limit)

    def _page_by_id(self, tx: Transaction, filters: Filters, cursor: str | None, limit: int) -> wire.JobPage:
        rows = tx.all(
            "jobs_by_id",
            after=_after(cursor, "i", ""),
            low=filters.id_prefix,
            high=filters.id_prefix + "g",
            statuses=json.dumps(sorted(filters.statuses)) if filters.statuses else None,
            model=filters.model,
            mode=filters.mode,
            host=filters.host,
            limit=limit + 1,
        )
        shown = rows[:limit]
        views = [self._view(row, with_spec=filters.with_spec) for row in shown]
        return wire.JobPage(views, f"i{shown[-1]['id']}" if len(rows) > limit else None)

    def _page_by_seq(self, tx: Transaction, filters: Filters, cursor: str | None, limit: int) -> wire.JobPage:
        after = int(_after(cursor, "s", "0"))
        newest = tx.one("newest_seq")
        end = (newest["seq"] if newest else None) or 0
        step = WINDOW if filters.model or filters.mode or filters.host else MAX_SEQ
        rows: list[Row] = []
        until = self._clock() + SCAN_S
        while after < end and len(rows) <= limit:
            upto = min(end, after + step)
            rows += self._window(tx, filters, after, upto, limit + 1 - len(rows))
            after = upto
            if self._clock() > until:
                break
        views = [self._view(row, with_spec=filters.with_spec) for row in rows[:limit]]
        if len(rows) > limit:
            return wire.JobPage(views, f"s{rows[limit - 1]['seq']}")
        return wire.JobPage(views, f"s{after}" if after < end else None)

    def _window(self, tx: Transaction, filters: Filters, after: int, upto: int, limit: int) -> list[Row]:
        values = {
            "after": after,
            "upto": upto,
            "model": filters.model,
            "mode": filters.mode,
            "host": filters.host,
            "limit": limit,
        }
        if not filters.statuses or filters.statuses >= set(STATUSES):
            return list(tx.all("jobs_by_seq", **values))
        found = [row for status in filters.statuses for row in tx.all("jobs_by_status", status=status, **values)]
        return sorted(found, key=_seq)[:limit]

    def job(self, tx: Transaction, job_id: str) -> wire.JobDetail:
        """Return everything about one job, of its history the newest part.

        Raises:
            NotFoundError: There is no such job.
        """
        row = self._job_row(tx, job_id)
        seq = row["seq"]
        log, length = tx.one("log", job=seq), tx.one("history_length", job=seq)
        assert length is not None
        attempts, events = (tx.all(name, job=seq, limit=MAX_HISTORY) for name in ("attempts", "events"))
        errors, reasons = _shortened(attempts, "error"), _shortened(events, "why")
        return wire.JobDetail(
            job=self._view(row),
            spec=json.loads(row["spec"]),
            constraints=self._constraints(row),
            attempts=[_attempt(*one) for one in zip(attempts, errors, strict=True)][::-1],
            events=[_event(*one) for one in zip(events, reasons, strict=True)][::-1],
            log_tail=log["tail"] if log else "",
            attempts_total=length["attempts"],
            events_total=length["events"],
        )

    def recent_failures(self, tx: Transaction, limit: int = 10) -> list[wire.RecentFailure]:
        """Return the newest bad ends of jobs that are not completed since, newest first."""
        shown = []
        for row in tx.all("recent_failures", limit=limit):
            failure = _failure(row)
            if failure is not None:
                shown.append(wire.RecentFailure(row["id"], row["model"], row["mode"], row["status"], failure))
        return shown

    def artifacts(self, tx: Transaction, after: int = 0, limit: int = 500) -> list[Row]:
        """Return stored artifacts in the order they came: seq, sha256, model, mode, size_bytes, stored_at."""
        return list(tx.all("artifacts", after=after, limit=limit))

    def artifact_totals(self, tx: Transaction) -> tuple[int, int]:
        """Return how many artifacts are stored and their bytes together."""
        if self._totals is None:
            row = tx.one("artifact_totals")
            assert row is not None
            self._totals = [row["artifacts"], row["size_bytes"]]
        return self._totals[0], self._totals[1]

    # ---- workers

    def workers(self, cursor: str | None = None, limit: int = 100) -> wire.WorkerPage:
        """Return one page of hosts by name: those that called and those the manifest names. Safe from any thread."""
        limit = max(1, min(limit, wire.MAX_PAGE))
        names = [name for name in self.hosts.names() if cursor is None or name > cursor]
        shown = names[:limit]
        return wire.WorkerPage([self._worker(name) for name in shown], shown[-1] if len(names) > limit else None)

    def worker_counts(self) -> dict[str, int]:
        """Return the number of hosts by state: working, idle, away. Safe from any thread."""
        found = {"working": 0, "idle": 0, "away": 0}
        holders = self.leases.holders()
        for name in self.hosts.names():
            found[self._worker_state(name, name in holders)] += 1
        return found

    def _worker_state(self, name: str, holds: bool) -> str:
        if holds:
            return "working"
        known = self.hosts.known(name)
        return "away" if known is None or self.hosts.away(known) else "idle"

    def _worker(self, name: str) -> wire.WorkerView:
        known, policy = self.hosts.known(name), self.hosts.policy(name)
        held, enrolled = self.leases.held_by(name), self.registry.newest(name)
        seen = None if known is None or known.seen_at is None else max(0.0, self._clock() - known.seen_at)
        drift: list[str] = []
        if known is not None and policy is not None:
            drift = placement.drift(known.capability, policy, self.hosts.in_force.own_contract)
        if known is not None:
            drift = [*drift, *_other_version(known.capability.version)]
        return wire.WorkerView(
            name=name,
            state=self._worker_state(name, bool(held)),
            last_seen_s=seen,
            jobs=[live.job_id for live in held],
            capability=None if known is None else known.capability,
            policy=None if policy is None else asdict(policy),
            drift=drift,
            identity="none" if enrolled is None else enrolled.state,
            alerts=self._alerts(name),
        )

    def _alerts(self, name: str) -> list[str]:
        left_s, times = self._held_back.left_s(name), self._held_back.repeats(name)
        if left_s <= 0:
            return []
        return [
            f"gets no job for {math.ceil(left_s)} s, because it gave back or lost {times} without a result in between; "
            f"`cis490-jobs events --worker {name}` lists them, a reload ends the wait"
        ]

    def own(self, tx: Transaction, name: str, version: str) -> wire.OwnView:
        """Return what a worker may know of itself: its row, the manifest's word on it, and what it could run now.

        Args:
            tx: Where the waiting jobs are counted.
            name: The worker.
            version: Of the receiver.
        """
        row, in_force = self._worker(name), self.hosts.in_force
        waiting, able, reasons = self._prospects(tx, name)
        if row.alerts:
            able, reasons = 0, row.alerts
        table = "" if row.policy is None else f"hosts.{name if name in in_force.hosts else DEFAULT_HOST}"
        return wire.OwnView(
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
        known, policy = self.hosts.known(name), self.hosts.policy(name)
        waiting = able = 0
        reasons: dict[str, None] = {}
        for number in self.hosts.requirement_ids()[:MAX_OWN_REQUIREMENTS]:
            row = tx.one("claimable", requirement=number)
            jobs = row["jobs"] if row else 0
            waiting += jobs
            if not jobs or known is None:
                continue
            verdict = placement.judge(self.hosts.requirement(number), known.capability, policy)
            able += jobs if verdict.eligible else 0
            reasons |= dict.fromkeys(f"{one.constraint} {one.wanted}, found {one.found}" for one in verdict.reasons)
        return waiting, able, list(reasons)[:MAX_OWN_REASONS]

    # ---- why

    def why(self, tx: Transaction, job_id: str) -> wire.Why:
        """Say for every known host whether it could run a job, and what would let it.

        Raises:
            NotFoundError: There is no such job.
        """
        row = self._job_row(tx, job_id)
        requirement = self.hosts.requirement(row["requirement"])
        hosts = list(self._verdicts(requirement))
        able = [host.host for host in hosts if host.eligible]
        change = "" if able else placement.smallest_change_among(requirement, self._judged())
        return wire.Why(job_id, row["status"], self._summary(tx, row, able, change), hosts, change)

    def _judged(self) -> Iterator[tuple[Capability, Policy | None]]:
        return ((capability, policy) for _, capability, policy, _ in self.hosts.all())

    def _verdicts(self, requirement: Requirement) -> Iterator[wire.HostVerdict]:
        for name, capability, policy, seen in self.hosts.all():
            reasons = placement.judge(requirement, capability, policy).reasons
            change = placement.smallest_change(requirement, capability, policy) if reasons else ""
            shown = [wire.ReasonView(reason.constraint, reason.wanted, reason.found) for reason in reasons]
            yield wire.HostVerdict(name, not reasons, shown, seen, change)

    def _summary(self, tx: Transaction, row: Row, able: list[str], change: str) -> str:
        status, host = row["status"], row["host"]
        if status != "pending":
            return f"the job is {status}" + (f" on {host}" if status in ("claimed", "running", "completed") else "")
        rejected = self._rejected(tx, row)
        if not able:
            waits = f"no known host can run it: {change}" if change else "no host is known that could run it"
        elif not row["ready"]:
            waits = f"it waits for the back-off after its last failure; then {_names(able)} can run it"
        else:
            waits = self._next_try(row["seq"], able)
        return f"{rejected}; {waits}" if rejected else waits

    def _next_try(self, seq: int, able: list[str]) -> str:
        kept = {host: left_s for host in able if (left_s := self._kept_away_s(host, seq)) > 0}
        if len(kept) < len(able):
            return f"it waits for a free slot on {_names([host for host in able if host not in kept])}"
        return (
            f"{_names(able)} gave back or could not run this job, or one after the other (`cis490-jobs show` and "
            f"`cis490-jobs workers` say why); the next try is due in {math.ceil(min(kept.values()))} s"
        )

    def _rejected(self, tx: Transaction, row: Row) -> str:
        """Return who rejected a job that waits, and what ends that; empty when nobody did."""
        hosts = [found["worker"] for found in tx.all("rejections", job=row["seq"])]
        if not hosts:
            return ""
        error = f" ({first_line(row['error'])})" if row["kind"] == "spec_rejected" and row["error"] else ""
        return (
            f"{_names(hosts)} rejected its specification{error}; it fails for good when a second host does, or after "
            f"{row['max_attempts']} times when no other host that is heard could run it; cancel it if it is wrong"
        )

    def _kept_away_s(self, host: str, seq: int) -> float:
        """Return for how many seconds yet a host is not offered a job that it gave back, or any job."""
        return max(self._apart.left_s((host, seq)), self._held_back.left_s(host))

    # ---- shared

    def _job_row(self, tx: Transaction, job_id: str) -> Row:
        row = tx.one("job", id=job_id)
        if row is None:
            raise NotFoundError(f"there is no job {job_id}", "`cis490-jobs list` shows the jobs there are")
        return row

    def _constraints(self, row: Row) -> dict[str, Any]:
        requirement = asdict(self.hosts.requirement(row["requirement"]))
        limits = {key: row[key] for key in ("priority", "timeout_s", "max_attempts")}
        return {**requirement, "allowed_hosts": list(requirement["allowed_hosts"]), **limits}

    def _view(self, row: Row, *, with_spec: bool = False) -> wire.JobView:
        spec = json.loads(row["spec"])
        live = self.leases.get(row["lease_id"])
        artifact = row["artifact"]
        return wire.JobView(
            id=row["id"],
            model=row["model"],
            mode=row["mode"],
            split=spec["split_recipe"],
            seed=spec["seed"],
            dataset=spec["dataset"]["name"] if "dataset" in spec else None,
            status=row["status"],
            priority=row["priority"],
            host=row["host"],
            attempts_used=row["attempts_used"],
            max_attempts=row["max_attempts"],
            cancel_requested=bool(row["cancel_requested"]),
            named=bool(row["named"]),
            delayed=not row["ready"],
            updated_at=row["updated_at"],
            claimed_at=row["claimed_at"],
            ended_at=row["ended_at"],
            progress=None if live is None else live.progress,
            failure=_failure(row),
            artifact=artifact,
            artifact_path=artifact and BUNDLE.format(model=row["model"], mode=row["mode"], sha256=artifact),
            metrics=json.loads(row["metrics"]),
            duration_s=row["duration_s"],
            spec=spec if with_spec else None,
        )


def _after(cursor: str | None, kind: str, start: str) -> str:
    """Return what a cursor of this kind points behind."""
    if cursor is None:
        return start
    place = cursor[1:]
    if cursor[:1] != kind or not (place.isascii() and place.isalnum()) or (kind == "s" and not place.isdecimal()):
        raise InvalidMessageError(f"{cursor[:80]!r} is no cursor of this list", "start again without one")
    return place[:64] if kind == "i" else place[:18]


def _seq(row: Row) -> int:
    seq: int = row["seq"]
    return seq


def _other_version(version: str) -> list[str]:
    """Return a line for people about a worker of another version than this receiver, none for the same one."""
    if version in ("", __version__):
        return []
    return [f"the worker is version {version}, the receiver {__version__}; give the host the receiver's worker.pyz"]


def _failure(row: Row) -> wire.Failure | None:
    if row["outcome"] not in _BAD_ENDS:
        return None
    kind = row["kind"] or row["outcome"]
    return wire.Failure(kind, row["error"], row["exit_status"], row["host"], row["ended_at"])


def _shortened(newest_first: Sequence[Row], column: str) -> list[str]:
    """Return a column of text, of which the older part is cut once the newer takes enough room."""
    left, texts = WHOLE_CHARS, []
    for row in newest_first:
        text: str = row[column]
        left -= len(text)
        texts.append(text if left >= 0 or len(text) <= CUT_CHARS else f"{text[:CUT_CHARS]}…")
    return texts


def _attempt(row: Row, error: str) -> wire.AttemptView:
    return wire.AttemptView(
        fence=row["fence"],
        host=row["worker"],
        claimed_at=row["claimed_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        outcome=row["outcome"],
        kind=row["kind"],
        exit_status=row["exit_status"],
        error=error,
    )


def _event(row: Row, why: str) -> wire.EventView:
    return wire.EventView(
        id=row["id"],
        at=row["at"],
        actor=row["actor"],
        action=row["action"],
        from_status=row["from_status"],
        to_status=row["to_status"],
        why=why,
    )


def _names(hosts: list[str]) -> str:
    shown = ", ".join(hosts[:5])
    return shown if len(hosts) <= 5 else f"{shown} and {len(hosts) - 5} more"
