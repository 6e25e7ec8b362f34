"""Old tables become new ones: whole, after a copy, or not at all."""

from __future__ import annotations

import logging
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from queue_world import World

from training.fleet.database import statements as sql
from training.fleet.database.sqlite import Sqlite, upkeep
from training.fleet.model.errors import ConfigurationError

NEWEST = max(sql.migrations("sqlite"))
OLD = sorted((Path(__file__).parents[1] / "vectors" / "schemas").glob("*.sql"))
LATER = {
    **sql.migrations("sqlite"),
    NEWEST + 1: "ALTER TABLE job ADD COLUMN note TEXT NOT NULL DEFAULT ''; CREATE INDEX job_noted ON job (note)",
    NEWEST + 2: "CREATE TABLE note (job INTEGER NOT NULL REFERENCES job (seq)) STRICT; "
    "INSERT INTO note SELECT seq FROM job; UPDATE worker SET seen_at = 'later';",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


def old_database(text: Path, path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(text.read_text())
    connection.close()


def ask(path: Path, statement: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def tables(path: Path) -> list[tuple[object, ...]]:
    """Return what the database says of its own tables, however a step has laid out its words."""
    rows = ask(path, "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")
    return [(*row[:3], re.sub(r"\s+", " ", str(row[3]))) for row in rows]


def number(path: Path) -> object:
    return ask(path, "PRAGMA user_version")[0][0]


def jobs(path: Path) -> list[tuple[object, ...]]:
    return ask(path, "SELECT id, status, lease_id, artifact FROM job ORDER BY seq")


def test_there_is_an_old_database_for_every_schema_that_was_released() -> None:
    numbers = {int(re.findall(r"PRAGMA user_version = (\d+)", text.read_text())[0]) for text in OLD}
    assert numbers >= {1, *range(1, NEWEST)}


@pytest.mark.parametrize("steps", [sql.migrations("sqlite"), LATER], ids=["released", "with-steps-to-come"])
@pytest.mark.parametrize("text", OLD, ids=lambda text: text.stem)
def test_every_old_database_ends_with_the_tables_of_a_new_one(
    text: Path, steps: dict[int, str], path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "MIGRATIONS", steps)
    old_database(text, path)
    before = jobs(path)
    Sqlite.open(path).close()
    Sqlite.open(tmp_path / "new.db").close()
    assert tables(path) == tables(tmp_path / "new.db")
    assert number(path) == max(steps)
    assert jobs(path) == before
    assert [status for _, status, *_ in before] == [
        "completed", "failed", "running", "claimed", "pending", "pending", "cancelled",
    ]  # fmt: skip


@pytest.mark.parametrize("text", OLD, ids=lambda text: text.stem)
def test_the_queue_works_on_with_an_old_database(text: Path, path: Path) -> None:
    old_database(text, path)
    (job,) = ask(path, "SELECT id FROM job WHERE status = 'running'")
    world = World(path)
    try:
        assert world.claim("another").fence == 2
        assert world.status(str(job[0])) == "running"
    finally:
        world.database.close()


def test_an_upgrade_keeps_each_error_once_and_with_the_attempts_that_ended_with_it(path: Path) -> None:
    old_database(OLD[0], path)
    connection = sqlite3.connect(path)
    connection.executescript("""
        UPDATE job SET fence = 3, attempt = 3 WHERE seq = 2;
        INSERT INTO attempt VALUES (2, 2, 'l2', 'pi', 'c2', '', '', '', 'failed', 0, 'host_fault', 1, 'card is gone');
        INSERT INTO attempt VALUES (2, 3, 'l3', 'pi', 'c3', '', '', '', 'failed', 0, 'spec_rejected', 1, 'no such key');
        UPDATE attempt SET error = 'all is full' WHERE job = 5 AND fence = 1;
    """)
    connection.close()
    Sqlite.open(path).close()
    assert ask(path, "SELECT id, text FROM error ORDER BY id") == [
        (1, "no such key"), (2, "card is gone"), (3, "all is full"),
    ]  # fmt: skip
    assert ask(path, "SELECT job, fence, error_id FROM attempt ORDER BY job, fence") == [
        (1, 1, None), (2, 1, 1), (2, 2, 2), (2, 3, 1), (3, 1, None), (4, 1, None), (4, 2, None), (5, 1, 3),
    ]  # fmt: skip


def test_a_database_is_copied_before_its_tables_change(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old_database(OLD[0], path)
    before = tables(path), jobs(path)
    monkeypatch.setattr(upkeep, "MIGRATIONS", LATER)
    with caplog.at_level(logging.INFO):
        Sqlite.open(path, tmp_path / "backups").close()
    (copy,) = (tmp_path / "backups").iterdir()
    assert re.fullmatch(r"queue\.db\.schema-1\.\d{8}T\d{6}Z", copy.name)
    assert (tables(copy), jobs(copy)) == before
    assert number(copy) == 1
    assert "copied before its tables" in caplog.text


def test_two_copies_made_in_one_second_are_both_kept(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host without a battery clock lives through the same seconds of 1970 at every start."""
    monkeypatch.setattr(upkeep, "MIGRATIONS", LATER)
    monkeypatch.setattr(upkeep.time, "gmtime", lambda: time.struct_time((1970, 1, 1, 0, 0, 9, 3, 1, 0)))
    for _ in range(2):
        path.unlink(missing_ok=True)
        old_database(OLD[0], path)
        Sqlite.open(path, tmp_path / "backups").close()
    assert sorted(copy.name for copy in (tmp_path / "backups").iterdir()) == [
        "queue.db.schema-1.19700101T000009Z",
        "queue.db.schema-1.19700101T000009Z-2",
    ]


def test_half_copies_of_starts_that_were_killed_are_removed_by_the_next_copy(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_database(OLD[0], path)
    copies = tmp_path / "backups"
    copies.mkdir()
    for name in ("queue.db.schema-1.20260101T000000Z.part", "another.part"):
        (copies / name).write_text("half")
    monkeypatch.setattr(upkeep, "MIGRATIONS", LATER)
    monkeypatch.setattr(upkeep.time, "gmtime", lambda: time.struct_time((2026, 1, 1, 0, 0, 9, 3, 1, 0)))
    Sqlite.open(path, copies).close()
    assert sorted(left.name for left in copies.iterdir()) == ["another.part", "queue.db.schema-1.20260101T000009Z"]


@pytest.mark.parametrize("made", [False, True], ids=["a-new-database", "one-that-is-up-to-date"])
def test_nothing_is_copied_without_need(path: Path, made: bool) -> None:
    if made:
        Sqlite.open(path).close()
    Sqlite.open(path).close()
    assert sorted(found.name for found in path.parent.iterdir()) == ["queue.db", "queue.db-sums"]


def test_a_database_that_cannot_be_copied_keeps_its_tables(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_database(OLD[0], path)
    before = tables(path)
    (tmp_path / "backups").write_text("a file where the folder should be")
    monkeypatch.setattr(upkeep, "MIGRATIONS", LATER)
    with pytest.raises(ConfigurationError, match=r"cannot be copied .* correct --backup-root"):
        Sqlite.open(path, tmp_path / "backups")
    assert (tables(path), number(path)) == (before, 1)


def test_a_step_that_fails_undoes_those_before_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_database(OLD[0], path)
    before = tables(path)
    monkeypatch.setattr(upkeep, "MIGRATIONS", {**LATER, NEWEST + 3: "INSERT INTO nowhere VALUES (1)"})
    with pytest.raises(
        ConfigurationError, match=rf"from schema 1 to {NEWEST + 3} \(no such table: nowhere\); nothing was changed"
    ):
        Sqlite.open(path)
    assert (tables(path), number(path)) == (before, 1)


def test_a_step_that_leaves_rows_without_their_job_is_undone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_database(OLD[0], path)
    monkeypatch.setattr(
        upkeep, "MIGRATIONS", {**LATER, NEWEST + 3: "DROP TRIGGER job_is_never_deleted; DELETE FROM job WHERE seq = 1"}
    )
    with pytest.raises(ConfigurationError, match=rf"from schema 1 to {NEWEST + 3} \(\d+ rows of \w+ name rows"):
        Sqlite.open(path)
    assert number(path) == 1


def test_references_are_enforced_after_an_upgrade(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_database(OLD[0], path)
    monkeypatch.setattr(upkeep, "MIGRATIONS", LATER)
    database = Sqlite.open(path)
    (enforced,) = database._connection.execute("PRAGMA foreign_keys").fetchone()
    database.close()
    assert enforced == 1


# ---- killed half way

UPGRADE = """
import os, signal, sqlite3, sys
from pathlib import Path
from training.fleet.database.sqlite import opening, upkeep, writer

path, die_at = Path(sys.argv[1]), int(sys.argv[2])
upkeep.MIGRATIONS = eval(sys.stdin.read())
seen, migrate = [], opening.migrate

def count(_statement):
    seen.append(1)
    if len(seen) == die_at:
        os.kill(os.getpid(), signal.SIGKILL)

def traced(connection, *rest):
    connection.set_trace_callback(count)
    migrate(connection, *rest)
    connection.set_trace_callback(None)

opening.migrate = traced
database = writer.Sqlite.open(path)
print(len(seen))
database.close()
"""


def upgrade(root: Path, path: Path, *before: str, die_at: int = 0) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-c", UPGRADE, str(path), str(die_at)]
    return subprocess.run(command, cwd=root, input=repr(LATER), capture_output=True, text=True, timeout=60, check=False)


def old_or_new(old: Path, new: Path) -> Callable[[Path], int]:
    """Return what says which of the two a database is; anything between fails."""
    both = {1: (tables(old), jobs(old)), NEWEST + 2: (tables(new), jobs(new))}

    def which(path: Path) -> int:
        found = number(path)
        assert isinstance(found, int)
        assert (tables(path), jobs(path)) == both[found]
        assert ask(path, "PRAGMA integrity_check") == [("ok",)]
        return found

    return which


@pytest.fixture
def which(root: Path, tmp_path: Path) -> Callable[[Path], int]:
    old_database(OLD[0], tmp_path / "old.db")
    shutil.copy(tmp_path / "old.db", tmp_path / "new.db")
    assert upgrade(root, tmp_path / "new.db").returncode == 0
    return old_or_new(tmp_path / "old.db", tmp_path / "new.db")


def test_a_kill_at_any_statement_of_an_upgrade_leaves_the_old_tables_or_the_new_ones(
    root: Path, tmp_path: Path, which: Callable[[Path], int]
) -> None:
    found = []
    for die_at in range(1, 140):
        path = tmp_path / f"{die_at}.db"
        shutil.copy(tmp_path / "old.db", path)
        done = upgrade(root, path, die_at=die_at)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        found.append(which(path))
    assert len(found) > 10
    assert set(found) == {1, NEWEST + 2}
    assert found == sorted(found)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(
    ("call", "step"),
    [
        ("pwrite64", 9),
        pytest.param("pwrite64", 1, marks=pytest.mark.slow),
        ("fdatasync", 1),
        pytest.param("unlink,rename,ftruncate,fsync", 1, id="others"),
    ],
)
def test_a_kill_at_any_write_or_sync_of_an_upgrade_leaves_the_old_tables_or_the_new_ones(
    root: Path, tmp_path: Path, which: Callable[[Path], int], call: str, step: int
) -> None:
    found = []
    for when in range(1, 400, step):
        path = tmp_path / f"{when}.db"
        shutil.copy(tmp_path / "old.db", path)
        inject = [f"--inject={name}:signal=SIGKILL:when={when}" for name in call.split(",")]
        done = upgrade(root, path, "strace", "-f", "-q", "-o", str(tmp_path / "trace"), "-e", f"trace={call}", *inject)
        if done.returncode == 0:
            break
        found.append(which(path))
    assert len(found) >= 2
    assert found == sorted(found)
