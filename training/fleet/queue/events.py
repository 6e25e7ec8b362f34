"""The history of jobs and workers: appending to it, and reading it.

Guarantees that one number orders all events, and that a page is read in a few milliseconds however rare its filter is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from training.fleet.database import Transaction
from training.fleet.database.queries import (
    EVENT_TIME,
    EVENTS_BETWEEN,
    EVENTS_OF_JOB,
    NEWEST_EVENT,
    RECORD,
    FleetEventRow,
)
from training.fleet.model.errors import InvalidMessageError
from training.fleet.queue.clock import FleetClock
from training.fleet.queue.standing import job_state
from training.fleet.queue.tally import Tally
from training.fleet.wire.people import EventPage, FleetEvent

WINDOW: Final = 5000
"""Events looked at in one step when a filter may refuse most of them."""
SCAN_S: Final = 0.005
"""How long one page may look for events, seconds: claims wait that long."""
NEWEST: Final = 2**62


@dataclass(frozen=True, slots=True)
class EventFilters:
    """Which events a page shows; empty shows all.

    Attributes:
        job_id: Only of this job.
        worker: Only those about this worker or by it.
        since: Only from this label on.
        until: Only before this label.
    """

    job_id: str | None = None
    worker: str | None = None
    since: str | None = None
    until: str | None = None

    def values(self) -> dict[str, str | None]:
        """Return what the statements take besides the job."""
        return {"worker": self.worker, "since": self.since, "until": self.until}

    def begins_after(self, tx: Transaction, from_id: int) -> bool:
        """Return True if events before a number are too old, so that nobody has to look at them.

        Labels follow a wall clock, which may have been set back; an event a day older than wanted ends the search.
        """
        if self.since is None:
            return False
        row = tx.one(EVENT_TIME, from_id=from_id)
        return row is not None and row.value < _day_before(self.since)


class History:
    """The events."""

    def __init__(self, clock: FleetClock, tally: Tally) -> None:
        self._clock = clock
        self._tally = tally

    def record(
        self, tx: Transaction, seq: int, actor: str, action: str, before: str | None, after: str, why: str = ""
    ) -> int:
        """Append one change of a job; return its number."""
        at = self._clock.label()
        row = tx.one(RECORD, at=at, actor=actor, job=seq, action=action, from_status=before, to_status=after, why=why)
        assert row is not None
        return row.id

    def note(self, tx: Transaction, actor: str, worker: str, action: str, why: str) -> None:
        """Append an event of a worker."""
        tx.run("record_of_worker", at=self._clock.label(), actor=actor, worker=worker, action=action, why=why)
        tx.after_commit(self._tally.touch)

    def note_manifest(self, tx: Transaction, actor: str, why: str) -> None:
        """Append the event of a manifest that came in force."""
        tx.run("record_of_manifest", at=self._clock.label(), actor=actor, why=why)

    def page(self, tx: Transaction, filters: EventFilters, cursor: str | None, limit: int) -> EventPage:
        """Return one page of events, newest first.

        Args:
            tx: The change.
            filters: Which events.
            cursor: `next` of the page before, None for the first.
            limit: Most events on the page.

        Raises:
            InvalidMessageError: The cursor is not one of this list.
            NotFoundError: There is no such job.
        """
        before = _before(cursor)
        if filters.job_id is not None:
            seq = job_state(tx, filters.job_id).seq
            # One more than a page shows, which tells whether another page follows.
            rows = tx.all(EVENTS_OF_JOB, job=seq, before=before, limit=limit + 1, **filters.values())
            return _page(list(rows), limit, None)
        rows, after = self._scanned(tx, filters, before, limit + 1)
        return _page(rows, limit, after)

    def _scanned(
        self, tx: Transaction, filters: EventFilters, before: int, limit: int
    ) -> tuple[list[FleetEventRow], int | None]:
        """Return events, and where to go on looking when time ran out before the end."""
        newest = tx.one(NEWEST_EVENT)
        before = min(before, ((newest.number if newest else None) or 0) + 1)
        rows: list[FleetEventRow] = []
        until = self._clock.now() + SCAN_S
        # Window by window, because a filter that matches nothing would read the whole history in one step.
        while before > 1 and len(rows) < limit:
            from_id = max(1, before - WINDOW)
            values = filters.values()
            rows += tx.all(EVENTS_BETWEEN, before=before, from_id=from_id, limit=limit - len(rows), **values)
            before = from_id
            if filters.begins_after(tx, from_id):
                return rows, None
            # Looked at after each window, so that at least one is read and every page goes on.
            if self._clock.now() > until:
                break
        return rows, before if before > 1 else None


def _page(rows: list[FleetEventRow], limit: int, after: int | None) -> EventPage:
    shown = [_event(row) for row in rows[:limit]]
    if len(rows) > limit:
        return EventPage(shown, f"e{shown[-1].id}")
    return EventPage(shown, None if after is None else f"e{after}")


def _day_before(label: str) -> str:
    """Return the label of a day before, one before all others for a day that no calendar has."""
    try:
        return (datetime.fromisoformat(label) - timedelta(days=1)).isoformat()
    except (ValueError, OverflowError):
        return ""


def _event(row: FleetEventRow) -> FleetEvent:
    return FleetEvent(**row._asdict())


def _before(cursor: str | None) -> int:
    if cursor is None:
        return NEWEST
    # Eighteen digits always fit the 64 bits of SQLite; `isdecimal` alone takes the digits of other alphabets too.
    place = cursor[1:19]
    if cursor[:1] != "e" or not (place.isascii() and place.isdecimal()):
        raise InvalidMessageError(f"{cursor[:80]!r} is no cursor of this list", "start again without one")
    return int(place)
