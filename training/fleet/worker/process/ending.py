"""How a trainer ended, and the report that tells it to a worker that did not see it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_MAX_REPORT_BYTES = 2**18


@dataclass(frozen=True, slots=True)
class TrainerEnding:
    """How a trainer ended.

    Attributes:
        status: Exit status, negative for a signal; None when it never ran or nobody saw it end.
        asked: Why it was stopped: "T" asked to, "A" asked after a dump, "K" killed, "L" its worker died, "N" that was
            before it ran; empty when it ended by itself.
        error: Why it could not be started or seen, empty otherwise.
        unstartable: Whether `error` says why the system could not start the trainer's command.
        max_rss_bytes: Largest resident memory of one of its processes, 0 when unknown.
        duration_s: Seconds it ran.
        rest: The end of what it printed while no worker lived, one character a byte.
    """

    status: int | None = None
    asked: str = ""
    error: str = ""
    max_rss_bytes: int = 0
    duration_s: float = 0.0
    rest: str = ""
    unstartable: bool = False


def read_ending(report: Path) -> TrainerEnding | None:
    """Return the ending that the shim reported, None if there is no readable report."""
    try:
        with report.open("rb") as stream:
            found = json.loads(stream.read(_MAX_REPORT_BYTES))
        found.setdefault("unstartable", False)  # a shim that was started by an older worker does not say it
        return TrainerEnding(**{name: found[name] for name in TrainerEnding.__slots__})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
