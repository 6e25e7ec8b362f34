"""What a check found, and how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from training.fleet.database.sqlite.reading import DatabaseError
from training.fleet.model.errors import Fault, InvalidMessageError

UNREADABLE: Final = (*DatabaseError, InvalidMessageError, TypeError, ValueError, AttributeError)
"""What looking at damaged rows can raise: a flipped bit can turn a text into a number, a blob or nothing."""

OnProgress = Callable[[int, int], None]
"""Takes bytes done and bytes to do."""


@dataclass(slots=True)
class Report:
    """What a check found.

    Attributes:
        findings: What is wrong.
        notes: What is not wrong and may be looked at.
        repaired: What was done about it, for people.
        checked: How much was looked at: `jobs`, `pages`, `artifacts`, `bytes`.
        removed: Names of older backups that were removed.
        lengths: Artifacts whose file is sound and has another length than its row says: the values of `correct_length`.
    """

    findings: list[Fault] = field(default_factory=list)
    notes: list[Fault] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)
    removed: list[str] = field(default_factory=list)
    lengths: list[dict[str, Any]] = field(default_factory=list)

    def find(self, place: str, found: object, expected: str, remedy: str) -> None:
        """Add something that is wrong."""
        self.findings.append(Fault(place, str(found), expected, remedy))

    def note(self, place: str, found: object, expected: str, remedy: str) -> None:
        """Add something worth knowing."""
        self.notes.append(Fault(place, str(found), expected, remedy))

    def document(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "findings": [asdict(fault) for fault in self.findings],
            "notes": [asdict(fault) for fault in self.notes],
            "repaired": list(self.repaired),
            "checked": dict(sorted(self.checked.items())),
        }


def ignore(*_: object) -> None:
    """Take no notice of progress."""
