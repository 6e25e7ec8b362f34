"""What reading a manifest finds: faults and warnings, collected until the end.

Owns how a value, a place and a likely name are shown to people. Guarantees that control characters never reach a
terminal and that a huge file with a fault in every line gives a bounded answer.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable

from training.fleet.model.errors import Fault, ManifestError

MAX_LISTED = 1000

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2
_SHORT.maxdict = _SHORT.maxlist = 3


class Findings:
    """Faults and warnings of one manifest, in the order they were found."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._warnings: list[str] = []
        self._warning_count = 0

    def fault(self, place: str, found: str, expected: str, remedy: str = "") -> None:
        """Add a fault; beyond the first 1,000 they are left out."""
        if not self.full:
            self.faults.append(Fault(place, found, expected, remedy))

    def warn(self, text: str) -> None:
        """Add a warning; beyond the first 1,000 they are only counted."""
        self._warning_count += 1
        if len(self._warnings) < MAX_LISTED:
            self._warnings.append(text)

    @property
    def full(self) -> bool:
        """True when further faults would not be listed."""
        return len(self.faults) == MAX_LISTED

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings, with a last line for those that are not listed."""
        more = self._warning_count - len(self._warnings)
        return (*self._warnings, *((f"and {more} more warnings",) if more else ()))

    def check(self) -> None:
        """Raise what was found.

        Raises:
            ManifestError: There is at least one fault.
        """
        if self.faults:
            raise invalid(tuple(self.faults))


def invalid(faults: tuple[Fault, ...]) -> ManifestError:
    """Return the error for a manifest with faults, of which there is at least one."""
    many = "1 fault" if len(faults) == 1 else f"{len(faults)}{' or more' * (len(faults) == MAX_LISTED)} faults"
    return ManifestError(
        f"the manifest has {many}, nothing of it was applied", "correct the file and try again", faults=faults
    )


def short(value: object) -> str:
    """Return a value as people wrote it, at most about 60 characters, control characters escaped."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return f"a table with the keys {', '.join(map(short, list(value)[:3]))}" if value else "an empty table"
    try:
        return _SHORT.repr(value)
    except ValueError:
        return "a number of thousands of digits"


def nearest(name: object, valid: Iterable[str]) -> str:
    """Return the remedy for an unknown name: the nearest valid one, else all of them."""
    names = sorted(valid)
    near = difflib.get_close_matches(str(name)[:100], names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}?"
    return f"known: {', '.join(names[:20])}" if names else ""
