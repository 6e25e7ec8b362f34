"""What the look at the disks tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.fleet.api.disks import Disks
from training.fleet.blobs.disk import System

FLOOR = 1000


class Odd(System):
    """The real system, with the free space and the closed folders that a test names."""

    def __init__(self) -> None:
        self.free: dict[str, int | OSError] = {}
        self.closed: set[str] = set()

    def free_bytes(self, folder: Path) -> int:
        found = self.free.get(folder.name, 1 << 40)
        if isinstance(found, OSError):
            raise found
        return found

    def writable(self, folder: Path) -> bool:
        return folder.name not in self.closed and super().writable(folder)


@pytest.fixture
def system() -> Odd:
    return Odd()


@pytest.fixture
def disks(tmp_path: Path, system: Odd) -> Disks:
    names = {"db": "state", "store_root": "store", "incoming_root": "incoming", "index_path": "state"}
    for name in names.values():
        (tmp_path / name).mkdir(exist_ok=True)
    return Disks({setting: tmp_path / name for setting, name in names.items()}, FLOOR, system)


def test_disks_with_room_are_no_problem(disks: Disks) -> None:
    assert disks.problems() == []


@pytest.mark.parametrize(("folder", "setting"), [("state", "db"), ("incoming", "incoming_root")])
@pytest.mark.parametrize("free", [0, FLOOR - 1, FLOOR])
def test_a_disk_without_room_above_the_floor_is_told(
    disks: Disks, system: Odd, folder: str, setting: str, free: int
) -> None:
    system.free[folder] = free
    (told,) = disks.problems()
    assert f"the disk of {setting}, " in told
    assert f"has {free} bytes free; expected more than the 1000 " in told
    system.free[folder] = FLOOR + 1
    assert disks.problems() == []


@pytest.mark.parametrize(
    ("folder", "setting"), [("state", "db"), ("store", "store_root"), ("incoming", "incoming_root")]
)
def test_a_folder_that_cannot_be_written_is_told_once(disks: Disks, system: Odd, folder: str, setting: str) -> None:
    system.closed.add(folder)
    system.free[folder] = 0
    (told,) = disks.problems()
    assert told.startswith(f"the folder of {setting}, ")
    assert "cannot be written; remount its disk for writing" in told


def test_a_folder_that_is_gone_is_told(disks: Disks, tmp_path: Path) -> None:
    (tmp_path / "store").rmdir()
    (told,) = disks.problems()
    assert f"the folder of store_root, {tmp_path / 'store'}, cannot be written" in told


def test_a_disk_that_does_not_answer_is_told(disks: Disks, system: Odd) -> None:
    system.free["state"] = OSError(5, "Input/output error")
    (told,) = disks.problems()
    assert "cannot be looked at (Input/output error)" in told


def test_of_a_disk_from_which_nothing_but_finished_files_is_read_no_room_is_asked(disks: Disks, system: Odd) -> None:
    """Uploads need room in `incoming_root`; the store's own disk is that one, because files are renamed into it."""
    system.free["store"] = 0
    assert disks.problems() == []
