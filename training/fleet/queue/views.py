"""What people and pages see of the queue.

Owns the views of jobs, attempts, events, workers and verdicts. Guarantees that a page is bounded, in the order jobs
came and complete when its cursors are followed: with rare filters a page may hold fewer jobs than asked for, even
none, and still name a next one, so that no list ever holds claims up for long.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from training.fleet.database import Transaction
from training.fleet.database.queries import (
    ARTIFACT_ROWS,
    ATTEMPTS,
    COUNT_WITHDRAWN,
    EVENTS,
    HISTORY_LENGTH,
    JOB,
    JOBS_BY_ID,
    JOBS_BY_NAME,
    JOBS_BY_SEQ,
    JOBS_BY_STATUS,
    LOG,
    NEWEST_SEQ,
    PARTS,
    RECENT_FAILURES,
    AttemptRow,
    EventRow,
    FailureRow,
    JobRow,
)
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.errors import InvalidMessageError, NotFoundError
from training.fleet.model.jobs import STATUSES
from training.fleet.model.parts import media_type
from training.fleet.queue.memory import Memory
from training.fleet.queue.waiting import Waiting
from training.fleet.wire.people import (
    MAX_PAGE,
    AttemptView,
    EventView,
    FailureView,
    JobDetail,
    JobPage,
    JobView,
    PartView,
    RecentFailure,
)

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
HYPER_CHARS: Final = 2**20
"""Characters of specifications whose hyper-parameters a page shows before it ends."""
REASONS_S: Final = 0.02
"""How long a page may take to show its jobs, seconds, before it ends: claims wait that long."""
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
        since: Only jobs that changed at this label or later.
        until: Only jobs that changed before this label.
        extras: Not a choice of jobs but what is shown of each as well: `spec`, `hyper`, `reason`.
        tag: Only jobs with this tag.
        name: Only jobs of this name, whatever else is asked: those that the manifest names, others where it names none.
        withdrawn: Withdrawn jobs as well; those whose id or name was asked for are shown anyway.
    """

    statuses: Set[str] = frozenset()
    model: str | None = None
    mode: str | None = None
    host: str | None = None
    id_prefix: str = ""
    tag: str | None = None
    name: str | None = None
    withdrawn: bool = False
    since: str | None = None
    until: str | None = None
    extras: Set[str] = frozenset()

    @property
    def rare(self) -> bool:
        """True if most of the jobs may not match; statuses have an index and do not count."""
        return any((self.model, self.mode, self.host, self.since, self.until, self.tag, not self.withdrawn))

    def values(self) -> dict[str, Any]:
        """Return what the statements of lists take."""
        given = {key: getattr(self, key) for key in ("model", "mode", "host", "tag", "since", "until")}
        # An id that was asked for is shown whatever became of its job.
        return {**given, "withdrawn": int(self.withdrawn or bool(self.id_prefix))}


class JobViews:
    """Jobs as people see them."""

    def __init__(self, memory: Memory) -> None:
        self._clock = memory.clock
        self._hosts = memory.hosts
        self._leases = memory.leases
        self._waiting = Waiting(memory)

    def jobs(
        self, tx: Transaction, filters: Filters | None = None, cursor: str | None = None, limit: int = 100
    ) -> JobPage:
        """Return one page of jobs.

        Args:
            tx: The change.
            filters: Which jobs.
            cursor: `next` of the page before, None for the first.
            limit: Most jobs on the page, 1 to 500; with specifications at most 100.

        Raises:
            InvalidMessageError: The cursor is not one of this list.
        """
        wanted = filters or Filters()
        limit = max(1, min(limit, MAX_SPECS if "spec" in wanted.extras else MAX_PAGE))
        if wanted.name is not None:
            return self._page_of_name(tx, wanted, limit)
        # An index in the order of ids exists; a list in the order of jobs would have to look at all of them.
        if wanted.id_prefix:
            return self._page_by_id(tx, wanted, cursor, limit)
        return self._page_by_seq(tx, wanted, cursor, limit)

    def _page_of_name(self, tx: Transaction, filters: Filters, limit: int) -> JobPage:
        rows = tx.all(JOBS_BY_NAME, name=filters.name, limit=limit)
        # A job that was edited leaves its name behind on the one before; the name means the one that counts.
        shown = [row for row in rows if row.named] or rows
        return self._page(self._shown(shown, filters), None)

    def _page_by_id(self, tx: Transaction, filters: Filters, cursor: str | None, limit: int) -> JobPage:
        rows = tx.all(
            JOBS_BY_ID,
            after=_after(cursor, "i", ""),
            low=filters.id_prefix,
            # Ids are hexadecimal, so nothing that begins with the prefix comes after this.
            high=filters.id_prefix + "g",
            statuses=json.dumps(sorted(filters.statuses)) if filters.statuses else None,
            **filters.values(),
            limit=limit + 1,
        )
        views = self._shown(rows[:limit], filters)
        return self._page(views, f"i{views[-1].id}" if len(rows) > len(views) else None)

    def _page_by_seq(self, tx: Transaction, filters: Filters, cursor: str | None, limit: int) -> JobPage:
        after = int(_after(cursor, "s", "0"))
        newest = tx.one(NEWEST_SEQ)
        end = (newest.number if newest else None) or 0
        # A rare filter could make the database look at every job, and claims wait meanwhile.
        step = WINDOW if filters.rare else MAX_SEQ
        rows: list[JobRow] = []
        until = self._clock.now() + SCAN_S
        # One row more than asked for tells whether there is a next page without counting the rest.
        while after < end and len(rows) <= limit:
            upto = min(end, after + step)
            rows += self._window(tx, filters, after, upto, limit + 1 - len(rows))
            after = upto
            if self._clock.now() > until:
                break
        views = self._shown(rows[:limit], filters)
        if len(rows) > len(views):
            return self._page(views, f"s{rows[len(views) - 1].seq}")
        return self._page(views, f"s{after}" if after < end else None)

    def _page(self, views: list[JobView], following: str | None) -> JobPage:
        return JobPage(views, following, self._hosts.in_force.headline)

    def _shown(self, rows: Sequence[JobRow], filters: Filters) -> list[JobView]:
        """Return the first of these jobs as people see them: at least one, and as many as a page has time and room for.

        Reasons take time where many unlike jobs meet many hosts, and hyper-parameters may take 64 KiB a job.
        """
        views: list[JobView] = []
        until, left = self._clock.now() + REASONS_S, HYPER_CHARS
        reasons = self._waiting.reasons() if "reason" in filters.extras else None
        for row in rows:
            left -= len(row.spec) if "hyper" in filters.extras else 0
            # Never without a row, or the next page would begin where this one did.
            if views and (left < 0 or self._clock.now() > until):
                break
            view = self._view(row, filters.extras)
            views.append(view if reasons is None else replace(view, reason=reasons.of(row)))
        return views

    def _window(self, tx: Transaction, filters: Filters, after: int, upto: int, limit: int) -> list[JobRow]:
        values = {
            "after": after,
            "upto": upto,
            **filters.values(),
            "limit": limit,
        }
        # All statuses are no filter, and one statement is cheaper than six.
        if not filters.statuses or filters.statuses >= set(STATUSES):
            return list(tx.all(JOBS_BY_SEQ, **values))
        # Each status has an index in the order of jobs; the merge of a few short lists is cheap.
        found = [row for status in filters.statuses for row in tx.all(JOBS_BY_STATUS, status=status, **values)]
        return sorted(found, key=_seq)[:limit]

    def job(self, tx: Transaction, job_id: str) -> JobDetail:
        """Return everything about one job, of its history the newest part.

        Raises:
            NotFoundError: There is no such job.
        """
        row = job_row(tx, job_id)
        seq = row.seq
        log, length = tx.one(LOG, job=seq), tx.one(HISTORY_LENGTH, job=seq)
        assert length is not None
        # Newest first, because only the newest part is read; people read it oldest first.
        attempts, events = tx.all(ATTEMPTS, job=seq, limit=MAX_HISTORY), tx.all(EVENTS, job=seq, limit=MAX_HISTORY)
        errors, reasons = _shortened([one.error for one in attempts]), _shortened([one.why for one in events])
        return JobDetail(
            job=self._view(row),
            spec=json.loads(row.spec),
            constraints=self._constraints(row),
            attempts=[_attempt(*one) for one in zip(attempts, errors, strict=True)][::-1],
            events=[_event(*one) for one in zip(events, reasons, strict=True)][::-1],
            log_tail=log.tail if log else "",
            attempts_total=length.attempts,
            events_total=length.events,
            parts=self._parts(tx, row),
            artifact_gone=_gone(tx, row),
        )

    def withdrawn(self, tx: Transaction) -> int:
        """Return how many pending jobs nobody is offered, because the manifest no longer names them."""
        row = tx.one(COUNT_WITHDRAWN)
        return 0 if row is None else row.jobs

    @staticmethod
    def _parts(tx: Transaction, row: JobRow) -> list[PartView]:
        found = tx.all(PARTS, sha256=row.artifact, model=row.model, mode=row.mode) if row.artifact else []
        return [PartView(*part, type=media_type(part.name)) for part in found]

    def recent_failures(self, tx: Transaction, limit: int = 10) -> list[RecentFailure]:
        """Return the newest bad ends of jobs that are not completed since, newest first."""
        shown = []
        for row in tx.all(RECENT_FAILURES, limit=limit):
            failure = _failure(row)
            if failure is not None:
                shown.append(RecentFailure(row.id, row.model, row.mode, row.status, failure))
        return shown

    # ---- shared

    def _constraints(self, row: JobRow) -> dict[str, Any]:
        requirement = asdict(self._hosts.requirement(row.requirement))
        limits = {key: getattr(row, key) for key in ("priority", "timeout_s", "max_attempts")}
        return {**requirement, "allowed_hosts": list(requirement["allowed_hosts"]), **limits}

    def _view(self, row: JobRow, extras: Set[str] = frozenset()) -> JobView:
        spec = json.loads(row.spec)
        live = self._leases.get(row.lease_id)
        artifact = row.artifact
        return JobView(
            id=row.id,
            model=row.model,
            mode=row.mode,
            split=spec["split_recipe"],
            seed=spec["seed"],
            dataset=spec["dataset"]["name"] if "dataset" in spec else None,
            status=row.status,
            priority=row.priority,
            host=row.host,
            attempts_used=row.attempts_used,
            max_attempts=row.max_attempts,
            cancel_requested=bool(row.cancel_requested),
            named=bool(row.named),
            delayed=not row.ready,
            updated_at=row.updated_at,
            claimed_at=row.claimed_at,
            ended_at=row.ended_at,
            progress=None if live is None else live.progress,
            failure=_failure(row),
            artifact=artifact,
            artifact_path=artifact and ArtifactKey(artifact, row.model, row.mode).shown_path,
            metrics=json.loads(row.metrics),
            duration_s=row.duration_s,
            spec=spec if "spec" in extras else None,
            hyper=spec["hyper"] if "hyper" in extras else None,
            withdrawn=bool(row.withdrawn) and row.status == "pending",
            name=row.name,
            tags=json.loads(row.tags),
        )


def _gone(tx: Transaction, row: JobRow) -> str:
    """Return why the files of a job's artifact are not here, and since when; empty while they should be."""
    found = tx.all(ARTIFACT_ROWS, sha256=row.artifact) if row.artifact else []
    gone = (one for one in found if (one.model, one.mode) == (row.model, row.mode) and one.gone is not None)
    return next((f"{one.gone} on {one.gone_at}" for one in gone), "")


def job_row(tx: Transaction, job_id: str) -> JobRow:
    """Return a job with its newest attempt.

    Raises:
        NotFoundError: There is no such job.
    """
    row = tx.one(JOB, id=job_id)
    if row is None:
        raise NotFoundError(f"there is no job {job_id}", "`cis490-jobs list` shows the jobs there are")
    return row


def _after(cursor: str | None, kind: str, start: str) -> str:
    """Return what a cursor of this kind points behind."""
    if cursor is None:
        return start
    place = cursor[1:]
    if cursor[:1] != kind or not (place.isascii() and place.isalnum()) or (kind == "s" and not place.isdecimal()):
        raise InvalidMessageError(f"{cursor[:80]!r} is no cursor of this list", "start again without one")
    # An id has 64 characters, and 18 digits always fit the 64 bits of SQLite.
    return place[:64] if kind == "i" else place[:18]


def _seq(row: JobRow) -> int:
    return row.seq


def _failure(row: JobRow | FailureRow) -> FailureView | None:
    # What was released or cancelled is no failure of the job.
    if row.outcome not in _BAD_ENDS:
        return None
    assert row.host is not None and row.ended_at is not None  # a rule of the table: what has an outcome has ended
    kind = row.kind or row.outcome
    return FailureView(kind, row.error, row.exit_status, row.host, row.ended_at)


def _shortened(newest_first: Sequence[str]) -> list[str]:
    """Return texts, of which the older part is cut once the newer takes enough room."""
    left, texts = WHOLE_CHARS, []
    for text in newest_first:
        left -= len(text)
        texts.append(text if left >= 0 or len(text) <= CUT_CHARS else f"{text[:CUT_CHARS]}…")
    return texts


def _attempt(row: AttemptRow, error: str) -> AttemptView:
    return AttemptView(
        fence=row.fence,
        host=row.worker,
        claimed_at=row.claimed_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        kind=row.kind,
        exit_status=row.exit_status,
        error=error,
    )


def _event(row: EventRow, why: str) -> EventView:
    return EventView(
        id=row.id,
        at=row.at,
        actor=row.actor,
        action=row.action,
        from_status=row.from_status,
        to_status=row.to_status,
        why=why,
    )
