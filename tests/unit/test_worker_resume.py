from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from training.fleet.worker import resume
from training.fleet.worker.journal import Journal
from training.fleet.worker.resume import ResumeFolders

FIRST, SECOND, THIRD = "a" * 64, "b" * 64, "c" * 64
DAY_S = 86400


class Shelf:
    """Resume folders below one root, and what was said about them."""

    def __init__(self, work: Path, min_free_bytes: int = 0) -> None:
        self.root = work / "resume"
        self.words = io.StringIO()
        self.folders = ResumeFolders(self.root, min_free_bytes, Journal(self.words))

    def left(self, job_id: str, days: float) -> Path:
        """A checkpoint that an attempt left so many days ago."""
        path = self.root / job_id
        path.mkdir(parents=True)
        (path / "checkpoint").write_text("x")
        os.utime(path, (time.time() - days * DAY_S,) * 2)
        return path

    def names(self) -> list[str]:
        return sorted(path.name[0] for path in self.root.iterdir())


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_the_next_attempt_finds_what_the_last_one_left(shelf: Shelf) -> None:
    path = shelf.folders.take(FIRST)
    assert path == shelf.root / FIRST
    assert path.stat().st_mode & 0o777 == 0o700
    (path / "checkpoint").write_text("step 7")
    shelf.folders.give_back(path, done_here=False)
    assert shelf.folders.take(FIRST) == path
    assert (path / "checkpoint").read_text() == "step 7"


def test_the_folder_of_a_job_that_is_done_here_is_deleted(shelf: Shelf) -> None:
    path = shelf.folders.take(FIRST)
    assert path is not None
    (path / "checkpoint").write_text("step 7")
    shelf.folders.give_back(path, done_here=True)
    assert list(shelf.root.iterdir()) == []


def test_a_folder_in_which_nothing_was_left_is_not_kept(shelf: Shelf) -> None:
    shelf.folders.give_back(shelf.folders.take(FIRST), done_here=False)
    assert list(shelf.root.iterdir()) == []


def precious_for(shelf: Shelf, days: float = 9.0) -> Path:
    """A folder of somebody else beside the worker's own."""
    path = shelf.root.parent / "precious"
    path.mkdir()
    (path / "file").write_text("x")
    os.utime(path, (time.time() - days * DAY_S,) * 2)
    return path


@pytest.mark.parametrize("done_here", [True, False])
def test_what_a_link_in_place_of_a_folder_leads_to_is_neither_emptied_nor_dated(shelf: Shelf, done_here: bool) -> None:
    precious = precious_for(shelf)
    before = precious.stat().st_mtime
    path = shelf.folders.take(FIRST)
    assert path is not None
    path.rmdir()
    path.symlink_to(precious)
    shelf.folders.give_back(path, done_here=done_here)
    assert list(shelf.root.iterdir()) == []
    assert (precious / "file").exists()
    assert precious.stat().st_mtime == before


def test_an_attempt_gets_a_folder_and_never_what_a_link_in_its_place_leads_to(shelf: Shelf) -> None:
    precious = precious_for(shelf)
    shelf.root.mkdir()
    (shelf.root / FIRST).symlink_to(precious)
    path = shelf.folders.take(FIRST)
    assert path is not None
    assert list(path.iterdir()) == []
    assert not path.is_symlink()


def test_room_is_made_by_no_link(shelf: Shelf) -> None:
    precious = precious_for(shelf)
    shelf.root.mkdir()
    (shelf.root / FIRST).symlink_to(precious)
    shelf.folders.make_room()
    assert (precious / "file").exists()
    assert shelf.words.getvalue() == ""


@pytest.mark.parametrize("done_here", [True, False])
def test_a_trainer_may_delete_its_folder(shelf: Shelf, done_here: bool) -> None:
    path = shelf.folders.take(FIRST)
    assert path is not None
    path.rmdir()
    shelf.folders.give_back(path, done_here=done_here)
    assert shelf.folders.take(FIRST) == path
    assert path.is_dir()


def test_two_attempts_never_share_a_folder(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "LEAVING_S", 0.01)
    path = shelf.folders.take(FIRST)
    assert path is not None
    (path / "checkpoint").write_text("step 7")
    assert shelf.folders.take(FIRST) is None
    assert "another attempt at the job still ends here" in shelf.words.getvalue()
    shelf.folders.give_back(None, done_here=True)
    assert (path / "checkpoint").read_text() == "step 7"
    assert shelf.folders.take(SECOND) == shelf.root / SECOND


def test_an_attempt_waits_for_the_one_that_ends(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "LEAVING_S", 60.0)
    path = shelf.folders.take(FIRST)
    leaving = threading.Timer(0.05, shelf.folders.give_back, [path], {"done_here": False})
    taken: list[Path | None] = []
    coming = threading.Thread(target=lambda: taken.append(shelf.folders.take(FIRST)), daemon=True)
    coming.start()
    leaving.start()
    coming.join(10)
    leaving.join()
    assert taken == [path]


def test_a_folder_that_cannot_be_made_costs_no_training(shelf: Shelf) -> None:
    shelf.root.write_text("a file where the folders should lie")
    assert shelf.folders.take(FIRST) is None
    assert 'why="File exists"' in shelf.words.getvalue() or 'why="Not a directory"' in shelf.words.getvalue()
    shelf.folders.make_room()


def test_a_folder_not_used_for_seven_days_is_dropped(shelf: Shelf) -> None:
    shelf.folders.make_room()
    shelf.left(FIRST, days=7.1)
    shelf.left(SECOND, days=6.9)
    shelf.folders.make_room()
    assert shelf.names() == ["b"]
    assert 'checkpoint dropped job=aaaaaaaaaaaa why="not used for 7 days"' in shelf.words.getvalue()


def test_the_time_of_a_folder_begins_anew_with_each_use(shelf: Shelf) -> None:
    path = shelf.left(FIRST, days=8)
    taken = shelf.folders.take(FIRST)
    os.utime(path, (1, 1))
    shelf.folders.give_back(taken, done_here=False)
    shelf.folders.make_room()
    assert shelf.names() == ["a"]


def test_a_folder_in_use_is_never_dropped(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, min_free_bytes=2**62)
    path = shelf.left(FIRST, days=0)
    assert shelf.folders.take(FIRST) == path
    os.utime(path, (1, 1))
    shelf.folders.make_room()
    assert (path / "checkpoint").exists()


def test_on_a_full_disk_the_oldest_folders_go_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tmp_path, min_free_bytes=2)
    for job_id, days in ((FIRST, 1), (SECOND, 3), (THIRD, 2)):
        shelf.left(job_id, days)
    monkeypatch.setattr(resume.shutil, "disk_usage", lambda path: SimpleNamespace(free=3 - len(shelf.names())))
    shelf.folders.make_room()
    assert shelf.names() == ["a"]
    assert shelf.words.getvalue().index("job=bbbb") < shelf.words.getvalue().index("job=cccc")
