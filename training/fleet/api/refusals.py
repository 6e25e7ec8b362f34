"""Uploads that found no room, until one succeeds or there is room again.

Owns what is remembered of the newest refusals. Guarantees that a full store is a problem people see from the refusal
on, even while nothing else is wrong: the disk may have more than its floor free and still too little for the bundle
that waits. Memory is bounded. Lives on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

MAX_REFUSALS: Final = 256
"""Leases that are remembered; the oldest is forgotten first."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An upload that found no room.

    Attributes:
        job: Its job.
        since: Label of the first refusal.
        size_bytes: How long it is.
        by_room: Whether there was too little room then; otherwise a quota or the like refused it.
    """

    job: str
    since: str
    size_bytes: int
    by_room: bool


@dataclass(slots=True)
class Refusals:
    """The refusals that still stand.

    Attributes:
        label: A label of the wall time.
    """

    label: Callable[[], str]
    _found: dict[str, Refusal] = field(default_factory=dict)

    def note(self, lease_id: str, job: str, size_bytes: int, free_bytes: int) -> None:
        """Take in an upload that found no room; the first time counts."""
        if lease_id not in self._found:
            self._found[lease_id] = Refusal(job, self.label(), size_bytes, by_room=free_bytes < size_bytes)
        if len(self._found) > MAX_REFUSALS:
            del self._found[next(iter(self._found))]

    def succeeded(self, lease_id: str, size_bytes: int) -> None:
        """Take in an upload that was stored: what is no longer than it finds room as well."""
        self._found.pop(lease_id, None)
        self._found = {lease: one for lease, one in self._found.items() if one.size_bytes > size_bytes}

    def problems(self, free_bytes: int) -> list[str]:
        """Return what is wrong, for people; refusals for which there is room now are forgotten.

        Args:
            free_bytes: Room that uploads have now, the floor left out.
        """
        self._found = {
            lease: one for lease, one in self._found.items() if not (one.by_room and free_bytes >= one.size_bytes)
        }
        if not self._found:
            return []
        waiting = list(self._found.values())
        first, largest = min(one.since for one in waiting), max(one.size_bytes for one in waiting)
        jobs = ", ".join(sorted({one.job[:12] for one in waiting})[:3])
        return [
            f"uploads are refused since {first}, because the store is full: {free_bytes} bytes are free for uploads, "
            f"{largest} are wanted, of job {jobs}; free disk space on the receiver, or remove old results: "
            "cis490-jobs prune --older-than 30d"
        ]
