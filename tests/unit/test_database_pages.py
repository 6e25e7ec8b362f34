from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from training.fleet.database.sqlite import Sqlite, pages, upkeep
from training.fleet.model.errors import UnavailableError

PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def database(path: Path) -> Iterator[Sqlite]:
    opened = Sqlite.open(path)
    yield opened
    opened.close()


def remember(key: str, value: str = "1") -> Any:
    return lambda tx: tx.run("remember", key=key, value=value)


def fill(database: Sqlite, rows: int, value: str = "x" * 500) -> None:
    database.submit(
        lambda tx: tx.many("remember", [{"key": f"key-{row:06d}", "value": value} for row in range(rows)])
    ).result()


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def differing(path: Path) -> list[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sums = pages.PageSums(path, descriptor)
        assert sums.load()
        return sums.differing()
    finally:
        os.close(descriptor)


def test_the_sums_describe_the_file_once_it_is_closed(path: Path) -> None:
    database = Sqlite.open(path)
    fill(database, 500)
    database.close()
    assert path.stat().st_size > 50 * PAGE
    assert differing(path) == []


def test_every_flipped_bit_is_found_by_its_page(path: Path) -> None:
    database = Sqlite.open(path)
    fill(database, 100)
    database.close()
    chance = random.Random(490)
    for _ in range(200):
        offset = chance.randrange(path.stat().st_size)
        bit = chance.randrange(8)
        flip(path, offset, bit)
        assert differing(path) == [offset // PAGE + 1]
        flip(path, offset, bit)
    assert differing(path) == []


def test_a_file_that_lost_or_gained_pages_is_found(path: Path) -> None:
    database = Sqlite.open(path)
    fill(database, 100)
    database.close()
    size = path.stat().st_size
    os.truncate(path, size - PAGE)
    assert differing(path) == [size // PAGE]
    os.truncate(path, size + PAGE)
    assert differing(path) == [size // PAGE, size // PAGE + 1]


def test_a_running_receiver_finds_what_flips_under_it(
    database: Sqlite, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "CHECKPOINT_CHANGES", 1)
    fill(database, 200)
    assert database.differing_pages() == []
    flip_shared(path, 20 * PAGE + 100)
    assert database.differing_pages() == [21]


def flip_shared(path: Path, offset: int) -> None:
    """Flip a bit from another process: closing the file in this one would drop the database's locks."""
    code = (
        "import sys; f = open(sys.argv[1], 'r+b'); n = int(sys.argv[2]); f.seek(n); b = f.read(1)[0]; f.seek(n); "
        "f.write(bytes([b ^ 1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(path), str(offset)], check=True)


def test_damage_stays_known_while_the_receiver_lives_on(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = Sqlite.open(path)
    fill(database, 200)
    database.close()
    flip(path, 20 * PAGE + 100)
    database = Sqlite.open(path)
    assert "pages of the database are not what they were" in caplog.text
    database.submit(remember("another")).result()
    database.close()
    assert differing(path) == [21]


def test_sums_that_are_not_there_are_made_from_the_file(path: Path) -> None:
    database = Sqlite.open(path)
    fill(database, 200)
    database.close()
    pages.sums_path(path).unlink()
    Sqlite.open(path).close()
    assert differing(path) == []


@pytest.mark.parametrize("data", [b"", b"short", b"x" * 400, b"CIS490 page sums 1" + bytes(62)])
def test_sums_that_cannot_be_read_are_made_from_the_file(path: Path, data: bytes) -> None:
    database = Sqlite.open(path)
    fill(database, 200)
    database.close()
    pages.sums_path(path).write_bytes(data)
    Sqlite.open(path).close()
    assert differing(path) == []
    assert not list(path.parent.glob("*.part"))


def test_sums_that_cannot_be_written_are_forgotten_and_nothing_else_happens(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    database = Sqlite.open(path)

    def refuse(_sums: pages.PageSums) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(upkeep, "CHECKPOINT_CHANGES", 1)
        patch.setattr(pages.PageSums, "keep", refuse)
        fill(database, 200)
        assert database.submit(remember("a")).result() == 1
        database.close()
    assert "sums of the database's pages were not written" in caplog.text
    assert not pages.sums_path(path).exists()
    Sqlite.open(path).close()
    assert differing(path) == []


def test_a_log_that_cannot_be_moved_at_the_start_takes_the_sums_with_it(
    path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Sqlite.open(path)
    fill(database, 200)
    database.close()

    def refuse(_file: upkeep.DatabaseFile, _connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(upkeep.DatabaseFile, "checkpoint", refuse)
        with pytest.raises(UnavailableError, match="disk I/O error"):
            Sqlite.open(path)
    assert not pages.sums_path(path).exists()


def test_a_log_that_cannot_be_moved_later_stays_and_nothing_is_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    database = Sqlite.open(path)
    monkeypatch.setattr(upkeep, "CHECKPOINT_CHANGES", 1)

    def refuse(_file: upkeep.DatabaseFile, _connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(upkeep.DatabaseFile, "checkpoint", refuse)
        assert database.submit(remember("a")).result() == 1
        assert database.submit(remember("b")).result() == 1
    database.close()
    assert "the log was not moved into the database" in caplog.text
    assert keys(path) == {"a", "b"}
    assert differing(path) == []


def test_a_file_that_cannot_be_read_is_a_clear_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_sums: pages.PageSums) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pages.PageSums, "measure", refuse)
    with pytest.raises(UnavailableError, match="cannot be read"):
        Sqlite.open(path)


def test_a_database_whose_disk_failed_is_left_as_after_a_crash(path: Path) -> None:
    database = Sqlite.open(path)
    fill(database, 200)
    before = [file.read_bytes() for file in files_of(path)]
    database.broken = UnavailableError("the disk is gone")
    database.close()
    del database
    gc.collect()
    assert [file.read_bytes() for file in files_of(path)] == before
    later = after_a_crash(path)
    assert keys(later) == {f"key-{row:06d}" for row in range(200)}
    assert differing(later) == []


def test_a_start_that_the_disk_fails_at_leaves_a_crashed_database_as_it_was(
    path: Path, database: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, 200)
    crashed = copied(path, "crashed")
    before = [file.read_bytes() for file in files_of(crashed)]

    def refuse(_file: upkeep.DatabaseFile, _connection: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    with monkeypatch.context() as patch, pytest.raises(UnavailableError, match="disk I/O error"):
        patch.setattr(upkeep.DatabaseFile, "checkpoint", refuse)
        Sqlite.open(crashed)
    gc.collect()
    assert [file.read_bytes() for file in files_of(crashed)] == before


def test_a_log_of_which_only_a_part_was_moved_leaves_the_sums_as_they_were(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = Sqlite.open(path)
    fill(database, 200)
    before = pages.sums_path(path).read_bytes()

    class Partly:
        total_changes = 0

        def execute(self, _text: str) -> Any:
            return self

        def fetchone(self) -> tuple[int, int, int]:
            return 1, 80, 40

    database._file.checkpoint(Partly())  # type: ignore[arg-type]
    assert pages.sums_path(path).read_bytes() == before
    assert "only a part of the log was moved" in caplog.text
    database.close()
    assert differing(path) == []


def test_the_log_is_moved_into_the_file_again_and_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "CHECKPOINT_CHANGES", 100)
    database = Sqlite.open(path)
    for turn in range(40):
        fill(database, 100, f"{turn}" * 300)
    size = pages.log_path(path).stat().st_size
    database.close()
    assert size < 100 * PAGE
    assert differing(path) == []


def test_a_log_of_few_and_large_changes_does_not_grow_without_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "CHECKPOINT_BYTES", 50 * PAGE)
    database = Sqlite.open(path)
    for turn in range(40):
        fill(database, 5, f"{turn:04d}" * 3000)
    size = pages.log_path(path).stat().st_size
    database.close()
    assert size < 100 * PAGE


WRITER = """
import random, sys
from pathlib import Path
from training.fleet.database.sqlite import upkeep, writer
upkeep.CHECKPOINT_CHANGES = 15
database = writer.Sqlite.open(Path(sys.argv[1]))
chance = random.Random(int(sys.argv[2]))
for number in range(int(sys.argv[3])):
    key, value = str(chance.randrange(300)), "y" * chance.randrange(2000)
    database.submit(lambda tx: tx.run("remember", key=key, value=value)).result()
    print(key, flush=True)
database.close()
"""


def test_sums_are_true_after_a_kill_at_any_moment(path: Path, root: Path) -> None:
    chance = random.Random(490)
    for turn in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(turn), "100000"], cwd=root, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        with process.stdout:
            for _ in range(chance.randrange(5, 150)):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        assert pages.log_path(path).stat().st_size > 0
        Sqlite.open(path).close()
        assert differing(path) == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(
    ("calls", "step"),
    [
        ("pwrite64", 37),
        pytest.param("pwrite64", 4, marks=pytest.mark.slow),
        ("fdatasync", 17),
        pytest.param("fdatasync", 2, marks=pytest.mark.slow),
        ("fsync", 2),
        ("ftruncate", 2),
        ("rename", 1),
    ],
)
def test_sums_are_true_and_nothing_answered_is_lost_after_a_kill_at_any_write_or_sync(
    tmp_path: Path, root: Path, calls: str, step: int
) -> None:
    ended = 0
    for when in range(1, 3000, step):
        path = tmp_path / f"{when}.db"
        strace = ["strace", "-f", "-q", "-o", str(tmp_path / "trace"), "-e", f"trace={calls}"]
        inject = f"--inject={calls}:signal=SIGKILL:when={when}"
        words = [*strace, inject, sys.executable, "-c", WRITER, str(path), "1", "60"]
        done = subprocess.run(words, cwd=root, capture_output=True, check=False)
        Sqlite.open(path).close()
        assert differing(path) == []
        assert set(done.stdout.decode().splitlines()) <= keys(path)
        if done.returncode == 0:
            ended = when
            break
    assert ended > 1


# ---- copies


def files_of(path: Path) -> tuple[Path, Path, Path]:
    return path, pages.log_path(path), pages.sums_path(path)


def copied(path: Path, name: str) -> Path:
    """Copy a database with its log and sums into a folder beside it, and return where it is."""
    (folder := path.parent / name).mkdir()
    for file in files_of(path):
        shutil.copy(file, folder)
    return folder / path.name


def after_a_crash(path: Path) -> Path:
    """Copy a database with its log and sums, start and end with it once, and return where it is."""
    later = copied(path, "later")
    Sqlite.open(later).close()
    return later


def keys(path: Path) -> set[str]:
    connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {key for (key,) in connection.execute("SELECT key FROM meta")}
    finally:
        connection.close()


def test_a_copy_holds_what_was_answered_and_is_a_sound_database(database: Sqlite, tmp_path: Path) -> None:
    fill(database, 300)
    database.copy(tmp_path / "copy.db")
    assert len(keys(tmp_path / "copy.db")) == 300


def at_each_step(database: Sqlite, monkeypatch: pytest.MonkeyPatch, change: Callable[[int], Any]) -> list[Any]:
    """Have a change wait at each step of a copy; return the futures."""
    monkeypatch.setattr(upkeep, "COPY_PAGES", 1)
    futures: list[Any] = []
    breathe = database._breathe

    def submit_and_breathe() -> None:
        futures.append(database.submit(change(len(futures))))
        breathe()

    monkeypatch.setattr(database, "_breathe", submit_and_breathe)
    return futures


def test_changes_go_on_during_a_copy_and_the_copy_has_those_answered_before_its_end(
    database: Sqlite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, 500)
    futures = at_each_step(database, monkeypatch, lambda step: remember(f"during-{step:05d}"))
    database.copy(tmp_path / "copy.db")
    assert len(futures) > 50
    assert [future.result() for future in futures] == [1] * len(futures)
    held = sorted(key for key in keys(tmp_path / "copy.db") if key.startswith("during-"))
    assert len(held) >= len(futures) - 2
    assert held == [f"during-{step:05d}" for step in range(len(held))]


def test_a_change_that_is_undone_during_a_copy_is_not_in_it(
    database: Sqlite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(tx: Any) -> None:
        # More than the cache holds, so that pages reach the log before the change is undone.
        tx.many("remember", [{"key": f"bad-{row:06d}", "value": "z" * 4000} for row in range(3000)])
        raise UnavailableError("changed my mind")

    fill(database, 300)
    futures = at_each_step(
        database, monkeypatch, lambda step: spoil if step == 5 else remember("during", "1" if step < 5 else "2")
    )
    database.copy(tmp_path / "copy.db")
    assert isinstance(futures[5].exception(), UnavailableError)
    assert len(keys(tmp_path / "copy.db")) == 301


def test_two_copies_at_once_are_both_whole(database: Sqlite, tmp_path: Path) -> None:
    fill(database, 500)
    threads = [threading.Thread(target=database.copy, args=(tmp_path / f"{name}.db",)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert keys(tmp_path / "a.db") == keys(tmp_path / "b.db")
    assert len(keys(tmp_path / "a.db")) == 500


def test_a_copy_never_overwrites_a_file(database: Sqlite, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_bytes(b"mine")
    with pytest.raises(UnavailableError, match="cannot be copied"):
        database.copy(target)
    assert target.read_bytes() == b"mine"


def test_a_copy_that_the_disk_refuses_leaves_nothing(database: Sqlite, tmp_path: Path) -> None:
    fill(database, 10)
    with pytest.raises(UnavailableError, match="cannot be copied"):
        database.copy(tmp_path / "missing" / "copy.db")
    assert database.submit(remember("a")).result() == 1


def test_a_closed_database_makes_no_copy(path: Path, tmp_path: Path) -> None:
    database = Sqlite.open(path)
    database.close()
    with pytest.raises(UnavailableError, match="is stopping"):
        database.copy(tmp_path / "copy.db")


def test_a_log_that_cannot_be_moved_at_the_end_takes_the_sums_with_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Sqlite.open(path)
    fill(database, 200)

    def refuse(_file: upkeep.DatabaseFile, _connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(upkeep.DatabaseFile, "checkpoint", refuse)
        database.close()
    assert not pages.sums_path(path).exists()
    database = Sqlite.open(path)
    assert database.damaged == []
    database.close()


def test_a_log_that_the_disk_fails_at_later_ends_the_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Sqlite.open(path)
    heard: list[UnavailableError] = []
    database.on_broken = heard.append
    monkeypatch.setattr(upkeep, "CHECKPOINT_CHANGES", 1)

    def refuse(_file: upkeep.DatabaseFile, _connection: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR | 4 << 8
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(upkeep.DatabaseFile, "checkpoint", refuse)
        assert database.submit(remember("a")).result() == 1
        with pytest.raises(UnavailableError, match="cannot be written"):
            database.submit(remember("b")).result()
    database.close()
    assert len(heard) == 1
    assert keys(after_a_crash(path)) == {"a"}
