"""Times as people type them: `yesterday`, `8h`, `14:00`, `2026-11-30`, and the labels that the receiver compares.

Guarantees that what is sent is UTC, whatever zone the words were meant in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from training.fleet.model.errors import ConfigurationError

FORMS: Final = "yesterday, 8h, 14:00, 2026-11-30 or 2026-11-30T14:00"
_AGO: Final = re.compile(r"([0-9]{1,5})(min|m|h|d|w)")
_UNITS: Final = {"min": 60, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DAY: Final = timedelta(days=1)


def is_instant(text: str) -> bool:
    """Return True if a text names a time."""
    return _meant(text, datetime.now(UTC), utc=True) is not None


def as_range(
    since: str | None,
    until: str | None,
    *,
    utc: bool = False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dict[str, str]:
    """Return what `--since` and `--until` ask for, as the query of a list.

    A day as an end is meant with all its hours: `--since yesterday --until yesterday` is the whole of yesterday.

    Args:
        since: The words of `--since`, None without it.
        until: The words of `--until`, None without it.
        utc: The words are meant in UTC and not in this machine's zone.
        now: Returns the present time, with a zone.

    Raises:
        ConfigurationError: The end comes before the beginning, or a time lies beyond all calendars.
    """
    present = now()
    found = {
        name: _edge(text, present, utc=utc, end=name == "until")
        for name, text in (("since", since), ("until", until))
        if text is not None
    }
    if len(found) == 2 and found["since"] >= found["until"]:
        raise ConfigurationError(f"--since {since} is not before --until {until}", f"exchange them; times are {FORMS}")
    return {name: at.isoformat(timespec="milliseconds").replace("+00:00", "Z") for name, at in found.items()}


def _edge(text: str, present: datetime, *, utc: bool, end: bool) -> datetime:
    """Return the beginning of what a text names, or its end, in UTC."""
    try:
        meant = _meant(text, present, utc=utc)
        # The length is added to the wall time: a day in which a clock changes has 23 or 25 hours.
        at = None if meant is None else meant[0] + (meant[1] if end else timedelta())
        found = None if at is None else _in_utc(at, utc=utc)
    except (OverflowError, ValueError, OSError):
        found = None
    if found is None:
        raise ConfigurationError(f"found {text!r} as a time", expected=FORMS)
    return found


def _in_utc(at: datetime, *, utc: bool) -> datetime:
    return at.replace(tzinfo=UTC) if utc and at.tzinfo is None else at.astimezone(UTC)


def _meant(text: str, present: datetime, *, utc: bool) -> tuple[datetime, timedelta] | None:
    """Return when what a text names begins and how long it is, None for other words; wall times have no zone."""
    wall = present.astimezone(UTC if utc else None).replace(tzinfo=None)
    midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0)
    if text in ("today", "yesterday"):
        return (midnight if text == "today" else midnight - _DAY), _DAY
    if ago := _AGO.fullmatch(text):
        return present - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]]), timedelta()
    if clock := re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", text):
        at = midnight.replace(hour=int(clock[1]), minute=int(clock[2]))
        return (at if at <= wall else at - _DAY), timedelta()
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at, _DAY if re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else timedelta()
