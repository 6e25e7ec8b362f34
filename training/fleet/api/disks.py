"""What is wrong with the receiver's disks: no room, or no permission to write.

Owns the look at the folders that the receiver writes to. Guarantees that a full or read-only disk is reported before an
upload or a change of the queue fails on it. Nothing is written to find out, so that asking costs nothing and a disk
that is nearly full gets no fuller. A sync that failed is remembered by `store` and `database`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from training.fleet.blobs.disk import System

ROOM_OF = ("db", "incoming_root")
"""Settings whose disks must keep the floor free: the store's is that of `incoming_root`, a rename joins them."""


class Disks:
    """The disks of one receiver.

    Args:
        folders: Folder by the name of the setting that it follows from.
        floor_bytes: Room that must be left for the database.
        system: The operating system.

    Attributes:
        floor_bytes: Room that must be left for the database.
    """

    def __init__(
        self, folders: Mapping[str, Path] | None = None, floor_bytes: int = 0, system: System | None = None
    ) -> None:
        self._folders = dict(folders or {})
        self.floor_bytes = floor_bytes
        self._system = system or System()

    def problems(self) -> list[str]:
        """Return what is wrong now, for people. May wait for a disk."""
        found: dict[Path, str] = {}
        for name, folder in self._folders.items():
            if folder not in found:
                found[folder] = self._fault(name, folder)
        return [fault for fault in found.values() if fault]

    def _fault(self, name: str, folder: Path) -> str:
        """Return what is wrong with one folder, nothing when all is well."""
        if not self._system.writable(folder):
            return (
                f"the folder of {name}, {folder}, cannot be written; remount its disk for writing, or let the "
                "receiver's user write there"
            )
        if name not in ROOM_OF:
            return ""
        try:
            free = self._system.free_bytes(folder)
        except OSError as error:
            return f"the folder of {name}, {folder}, cannot be looked at ({error.strerror}); look at its disk"
        if free > self.floor_bytes:
            return ""
        return (
            f"the disk of {name}, {folder}, has {free} bytes free; expected more than the {self.floor_bytes} that are "
            "kept for the database; free disk space on the receiver"
        )
