"""What a disturbed run came to, and what is looked at after every one."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from boundary import Ran

from training.fleet.maintenance.artifacts import CheckOptions, Places
from training.fleet.maintenance.backup import Entry, measured
from training.fleet.maintenance.fsck import fsck


@dataclass
class Trial:
    """One disturbed run with what followed.

    Attributes:
        ran: The disturbed run.
        heard: Errors that were answered in it: request, status, code.
        step: How many steps had been answered when it ended.
        again: The run after it, None when none was needed.
        refused: What was refused for good, empty otherwise.
        wrong: What must not be, empty when all is well.
    """

    ran: Ran
    heard: list[tuple[str, int, str]] = field(default_factory=list)
    step: int = 0
    again: Ran | None = None
    refused: str = ""
    wrong: list[str] = field(default_factory=list)


ANSWERS = {
    errno.ENOSPC: {507, 503},
    errno.EIO: {500, 503},
    errno.EROFS: {503},
    errno.EMFILE: {503},
}
"""What a request may be answered with after each error. A sync that finds the disk full is 503, as any failed sync."""
ENDS = {0, 1, 75}
"""How a program may end after an error: it lived on, it failed, or it asks for another start."""


def wrong_answers(ran: Ran, error: int, heard: list[tuple[str, int, str]]) -> list[str]:
    """Check how a program has taken an error of the system."""
    wrong = [f"answered {answer}" for answer in heard if error and answer[1] not in ANSWERS[error] | {0}]
    if error and ran.status not in ENDS:
        wrong.append(f"ended with {ran.status}: {ran.said}")
    if "Traceback" in ran.said:
        wrong.append(f"a traceback: {ran.said}")
    return wrong


def wrong_after_failed_sync(ran: Ran, at: int, places: str) -> list[str]:
    """After a failed sync nobody knows what is on the disk: the program fails and never syncs that file again."""
    call = ran.calls[at - 1] if 0 < at <= len(ran.calls) else None
    if call is None or call.name not in ("fsync", "fdatasync"):
        return []
    if not re.fullmatch(places, call.place):
        return []
    again = [other for other in ran.calls[at:] if other == call]
    wrong = [f"{len(again)} more syncs of {call.place}"] if again else []
    return wrong if ran.status else [*wrong, f"a failed sync of {call.place} and yet status 0"]


def wrong_in_files(database: Path, places: Places) -> list[str]:
    """Check everything against everything."""
    return [str(fault) for fault in fsck(database, places, CheckOptions()).findings]


def sound_backup(folder: Path) -> list[str]:
    """Check a backup against its own list."""
    try:
        files = json.loads((folder / "backup.json").read_text())["files"]
    except (OSError, ValueError) as error:
        return [f"the backup {folder.name} is not whole: {error}"]
    return [
        f"the backup {folder.name} has another {name}"
        for name, entry in files.items()
        if measured(folder / name) != Entry(**entry)
    ]
