"""Receivers with databases of their own on one store: the second is refused, the first goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from integrity_site import Site
from live_receiver import manifest
from test_receiver_process import Running, environment, refused, started

from training.fleet.database.sqlite import Sqlite
from training.fleet.maintenance.backup import BackupTask, back_up
from training.fleet.maintenance.report import Report, ignore


def flags(folder: Path, **places: Path) -> list[str]:
    """Return the flags of a receiver whose database is its own, in `folder`."""
    chosen = {
        "store_root": folder / "store",
        "incoming_root": folder / "incoming",
        "index_path": folder / "index.jsonl",
    }
    chosen |= places
    named = {"--db": folder / "queue.db", **{f"--{name.replace('_', '-')}": path for name, path in chosen.items()}}
    return [word for name, path in named.items() for word in (name, str(path))]


def linked(folder: Path) -> Path:
    folder.with_name("link").symlink_to(folder)
    return folder.with_name("link")


Chosen = Callable[[Path], dict[str, Path]]

SHARED: dict[str, tuple[Chosen, str]] = {
    "the same store": (lambda one: {"store_root": one / "store"}, "store"),
    "the same incoming": (lambda one: {"incoming_root": one / "incoming"}, "incoming"),
    "the store by a link": (lambda one: {"store_root": linked(one / "store")}, "store"),
    "the store by a detour": (lambda one: {"store_root": one / "store" / ".." / "store"}, "store"),
    "a store that is the other's incoming": (lambda one: {"store_root": one / "incoming"}, "incoming"),
    "an incoming that is the other's store": (lambda one: {"incoming_root": one / "store"}, "store"),
    "a store within the other's": (lambda one: {"store_root": one / "store" / "mine"}, "store"),
    "an incoming deep within the other's store": (lambda one: {"incoming_root": one / "store/a/b"}, "store"),
    "a store around the other's": (lambda one: {"store_root": one}, "one"),
    "the same list of artifacts": (lambda one: {"index_path": one / "index.jsonl"}, "index.jsonl"),
}


@pytest.fixture
def first(tmp_path: Path) -> Path:
    folder = tmp_path / "one"
    folder.mkdir()
    return folder


def survives(running: Running, part: Path, line: bytes, index: Path) -> None:
    assert part.read_bytes() == b"under way"
    assert index.read_bytes() == line
    assert running.get("/healthz")
    assert running.end() == 0


@pytest.mark.parametrize("shared", SHARED)
def test_a_second_receiver_on_the_files_of_a_first_is_refused(tmp_path: Path, first: Path, shared: str) -> None:
    choose, name = SHARED[shared]
    second = tmp_path / "two"
    second.mkdir()
    (second / "manifest.toml").write_text(manifest(1))
    with started(first, *flags(first), text=manifest(1)) as running:
        part, index = first / "incoming" / ("0" * 32 + ".part"), first / "index.jsonl"
        part.write_bytes(b"under way")
        index.write_bytes(b"a line of the first\n")
        said = refused(second, *flags(second, **choose(first)))
        assert "is in use" in said
        assert (name if name != "one" else "/one ") in said
        assert "fuser -v" in said
        survives(running, part, b"a line of the first\n", index)


@pytest.mark.parametrize("shared", ["the same store", "the same list of artifacts"])
def test_a_receiver_that_was_killed_leaves_no_lock(tmp_path: Path, first: Path, shared: str) -> None:
    second = tmp_path / "two"
    second.mkdir()
    with started(first, *flags(first), text=manifest(1)) as running:
        running.process.kill()
        running.process.wait(20)
    with started(second, *flags(second, **SHARED[shared][0](first)), text=manifest(1)) as running:
        assert running.end() == 0


def test_two_receivers_with_folders_side_by_side_both_run(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.toml").write_text(manifest(1))
    with (
        started(tmp_path / "one", *flags(tmp_path / "one")) as one,
        started(tmp_path / "two", *flags(tmp_path / "two")),
    ):
        assert one.get("/healthz")


def test_a_receiver_may_keep_its_uploads_within_its_own_store(first: Path) -> None:
    with started(first, *flags(first, incoming_root=first / "store/incoming"), text=manifest(1)) as running:
        assert running.end() == 0


@pytest.mark.parametrize("words", [["fsck"], ["fsck", "--repair"], ["restore", "--replace"]])
@pytest.mark.parametrize("shared", ["the same store", "the same incoming", "the same list of artifacts"])
def test_what_is_done_offline_leaves_the_files_of_a_running_receiver_alone(
    tmp_path: Path, first: Path, words: list[str], shared: str
) -> None:
    """The database is another one than the receiver's, so its lock says nothing."""
    site = Site(tmp_path / "two")
    order = BackupTask(tmp_path / "backups", "one", site.places, site.db, artifacts=True, made_at="", version="0")
    database = Sqlite.open(site.db)
    backup = str(back_up(database, order, Report(), ignore))
    database.close()
    kept = site.db.read_bytes()
    with started(first, *flags(first), text=manifest(1)) as running:
        part, index = first / "incoming" / ("0" * 32 + ".part"), first / "index.jsonl"
        part.write_bytes(b"under way")
        index.write_bytes(b"a line of the first\n")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "training.fleet.receiver", *words),
                *flags(site.folder, **SHARED[shared][0](first)),
                *([backup] if "restore" in words else []),
            ],
            env=environment(site.folder),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stdout) == (78, "")
        assert "is in use" in done.stderr
        assert "Traceback" not in done.stderr
        survives(running, part, b"a line of the first\n", index)
    assert site.db.read_bytes() == kept
    assert list(site.folder.glob("queue.db.*")) == []


def test_no_file_is_left_for_the_lock(first: Path) -> None:
    with started(first, *flags(first), text=manifest(1)) as running:
        assert [*(first / "store").iterdir(), *(first / "incoming").iterdir()] == []
        assert running.end() == 0
    assert sorted(path.name for path in first.iterdir() if "lock" in path.name) == []
