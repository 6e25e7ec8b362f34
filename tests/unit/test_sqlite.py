from __future__ import annotations

import logging
import os
import re
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from training.fleet.database import statements as sql
from training.fleet.database.queries import RECORD, REMEMBERED
from training.fleet.database.sqlite import Sqlite, opening, writer
from training.fleet.model.errors import (
    ConfigurationError,
    ConflictError,
    StorageFullError,
    UnavailableError,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def database(path: Path) -> Iterator[Sqlite]:
    opened = Sqlite.open(path)
    yield opened
    opened.close()


class Failing:
    """A cursor that refuses statements as a disk does."""

    def __init__(self, database: Sqlite) -> None:
        self.cursor = database._transaction._cursor
        self.errors: dict[str, tuple[int, bool]] = {}
        self.commits = 0
        database._transaction._cursor = self  # type: ignore[assignment]

    def refuse(self, start: str, code: int, *, rolled_back: bool = False) -> None:
        self.errors[start] = (code, rolled_back)

    def execute(self, text: str, *values: Any) -> sqlite3.Cursor:
        self.commits += text.startswith("COMMIT")
        for start, (code, rolled_back) in self.errors.items():
            if text.startswith(start):
                if rolled_back:
                    self.cursor.execute("ROLLBACK")
                error = sqlite3.OperationalError("disk trouble")
                error.sqlite_errorcode = code
                raise error
        return self.cursor.execute(text, *values)


def remember(key: str, value: str = "1") -> Any:
    return lambda tx: tx.run("remember", key=key, value=value)


def remembered(database: Sqlite, key: str) -> str | None:
    row = database.submit(lambda tx: tx.one(REMEMBERED, key=key)).result()
    return None if row is None else row.value


def together(database: Sqlite, *changes: Any) -> list[Any]:
    """Run changes in one batch; return their futures."""
    gate, waiting = threading.Event(), threading.Event()

    def hold(_tx: Any) -> None:
        waiting.set()
        gate.wait(10)

    database.submit(hold)
    assert waiting.wait(10)
    futures = [database.submit(change) for change in changes]
    gate.set()
    for future in futures:
        future.exception(10)
    return futures


# ---- settings


def test_the_connection_is_exclusive_and_syncs_fully(path: Path) -> None:
    database = Sqlite.open(path)
    settings = {}
    for name in ("locking_mode", "journal_mode", "synchronous", "foreign_keys"):
        (settings[name],) = database._connection.execute(f"PRAGMA {name}").fetchone()
    database.close()
    assert settings == {"locking_mode": "exclusive", "journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_references_are_enforced_at_every_start(path: Path) -> None:
    Sqlite.open(path).close()
    database = Sqlite.open(path)
    (enforced,) = database._connection.execute("PRAGMA foreign_keys").fetchone()
    database.close()
    assert enforced == 1


def test_nobody_else_can_read_the_file(database: Sqlite, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_receiver_is_refused(database: Sqlite, path: Path) -> None:
    code = "import sys; from pathlib import Path; from training.fleet.database.sqlite import Sqlite; " + (
        "Sqlite.open(Path(sys.argv[1]))"
    )
    root = str(Path(writer.__file__).parents[4])
    words = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "is in use; stop the other receiver" in done.stderr


def test_a_newer_database_is_refused(path: Path) -> None:
    Sqlite.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigurationError, match="has schema 99, this program knows up to 6"):
        Sqlite.open(path)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"this is not a database, but it is long enough to look like one" * 100)
    with pytest.raises(ConfigurationError, match="not a sound database"):
        Sqlite.open(path)


def test_a_damaged_database_is_refused(path: Path) -> None:
    database = Sqlite.open(path)
    for number in range(2000):
        database.submit(remember(f"key-{number:05d}"))
    database.close()
    data = bytearray(path.read_bytes())
    for page in range(30, len(data) // 4096):
        data[page * 4096 : page * 4096 + 512] = os.urandom(512)
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=r"damaged|not a sound"):
        Sqlite.open(path)


def test_a_large_database_is_not_checked_at_every_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Sqlite.open(path).close()
    monkeypatch.setattr(opening, "QUICK_CHECK_BYTES", 0)
    monkeypatch.setattr(opening, "check", lambda *_: pytest.fail("it was checked"))
    Sqlite.open(path).close()


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="check that its folder exists"):
        Sqlite.open(tmp_path / "missing" / "queue.db")


def test_a_disk_that_refuses_at_the_start_is_a_clear_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_connection: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    monkeypatch.setattr(opening, "settle", refuse)
    with pytest.raises(UnavailableError, match="disk I/O error"):
        Sqlite.open(path)


# ---- changes


def test_changes_that_wait_share_one_commit(database: Sqlite) -> None:
    cursor = Failing(database)
    together(database, *(remember(str(number)) for number in range(20)))
    assert cursor.commits == 1
    assert remembered(database, "19") == "1"


def test_a_batch_that_only_reads_needs_no_commit(database: Sqlite) -> None:
    cursor = Failing(database)
    assert remembered(database, "a") is None
    assert cursor.commits == 0


def test_a_batch_is_bounded(database: Sqlite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_BATCH", 5)
    cursor = Failing(database)
    together(database, *(remember(str(number)) for number in range(20)))
    assert cursor.commits >= 4


def test_callbacks_run_after_the_commit_and_before_the_answer(database: Sqlite) -> None:
    seen: list[str] = []
    cursor = Failing(database)

    def change(tx: Any) -> None:
        tx.run("remember", key="a", value="1")
        tx.after_commit(lambda: seen.append(f"commits {cursor.commits}"))
        tx.after_rollback(lambda: seen.append("undone"))

    future = database.submit(change)
    future.add_done_callback(lambda _: seen.append("answered"))
    future.result()
    database.close()
    assert seen == ["commits 1", "answered"]


# ---- trouble


def test_a_full_disk_at_the_commit_fails_the_whole_batch_and_passes(database: Sqlite) -> None:
    seen: list[str] = []
    cursor = Failing(database)
    cursor.refuse("COMMIT", sqlite3.SQLITE_FULL, rolled_back=True)

    def change(tx: Any) -> None:
        tx.run("remember", key="a", value="1")
        tx.after_commit(lambda: seen.append("wrong"))
        tx.after_rollback(lambda: seen.append("undone"))

    futures = together(database, change, remember("b"))
    assert all(isinstance(future.exception(), StorageFullError) for future in futures)
    assert seen == ["undone"]
    cursor.errors.clear()
    assert remembered(database, "b") is None
    assert database.submit(remember("c")).result() == 1
    assert database.broken is None


def test_a_full_disk_within_a_change_fails_that_change_only(database: Sqlite) -> None:
    cursor = Failing(database)
    cursor.refuse("INSERT INTO event", sqlite3.SQLITE_FULL)
    event = {"at": "", "actor": "", "job": 1, "action": "add", "from_status": None, "to_status": "pending", "why": ""}
    good, bad = together(database, remember("a"), lambda tx: tx.one(RECORD, **event))
    assert good.result() == 1
    assert isinstance(bad.exception(), StorageFullError)


def test_what_ran_in_a_batch_that_sqlite_dropped_fails_as_a_whole(database: Sqlite) -> None:
    cursor = Failing(database)
    cursor.refuse("INSERT INTO event", sqlite3.SQLITE_FULL, rolled_back=True)
    event = {"at": "", "actor": "", "job": 1, "action": "add", "from_status": None, "to_status": "pending", "why": ""}
    futures = together(database, remember("a"), lambda tx: tx.one(RECORD, **event))
    assert all(isinstance(future.exception(), StorageFullError) for future in futures)
    cursor.errors.clear()
    assert remembered(database, "a") is None
    assert database.submit(remember("c")).result() == 1


def test_a_read_only_disk_is_unavailable_and_passes(database: Sqlite) -> None:
    cursor = Failing(database)
    cursor.refuse("BEGIN", sqlite3.SQLITE_READONLY)
    with pytest.raises(UnavailableError, match="nothing was changed") as refused:
        database.submit(remember("a")).result()
    assert (refused.value.found.endswith("nothing was changed"), refused.value.remedy) == (True, "look at its disk")
    cursor.errors.clear()
    assert database.submit(remember("a")).result() == 1


def test_after_a_failed_sync_nothing_is_written_any_more(database: Sqlite) -> None:
    told: list[UnavailableError] = []
    database.on_broken = told.append
    cursor = Failing(database)
    cursor.refuse("COMMIT", sqlite3.SQLITE_IOERR_FSYNC)
    with pytest.raises(UnavailableError):
        database.submit(remember("a")).result()
    cursor.errors.clear()
    ran: list[int] = []
    with pytest.raises(UnavailableError):
        database.submit(lambda _tx: ran.append(1)).result()
    assert (ran, told, database.broken) == ([], [database.broken], told[0])


def test_the_default_for_a_broken_disk_is_to_refuse_quietly(database: Sqlite) -> None:
    cursor = Failing(database)
    cursor.refuse("COMMIT", sqlite3.SQLITE_IOERR_FSYNC)
    with pytest.raises(UnavailableError):
        database.submit(remember("a")).result()
    assert database.broken is not None


# ---- answers


def twice(change: Any) -> Any:
    """Return a change that may run twice."""

    def marked(tx: Any) -> Any:
        tx.may_run_twice()
        return change(tx)

    return marked


def answered(database: Sqlite, *changes: Any) -> list[Any]:
    """Run changes in one batch; return what each was answered."""
    gate, waiting, done = threading.Event(), threading.Event(), threading.Event()
    answers: list[Any] = []

    def hold(_tx: Any) -> None:
        waiting.set()
        gate.wait(10)

    def answer(result: Any, error: BaseException | None) -> None:
        answers.append(type(error) if error else result)
        if len(answers) == len(changes):
            done.set()

    database.post(twice(hold), lambda _result, _error: None)
    assert waiting.wait(10)
    for change in changes:
        database.post(change, answer)
    gate.set()
    assert done.wait(10)
    return answers


def test_changes_that_may_run_twice_share_a_batch_without_savepoints(database: Sqlite) -> None:
    cursor = Failing(database)
    cursor.refuse("SAVEPOINT", sqlite3.SQLITE_ERROR)
    assert answered(database, twice(remember("a")), twice(remember("b"))) == [1, 1]
    assert cursor.commits == 1


def test_a_change_that_may_run_twice_and_fails_after_a_write_fails_alone(database: Sqlite) -> None:
    seen: list[str] = []

    def fine(tx: Any) -> int:
        tx.after_commit(lambda: seen.append("kept"))
        tx.after_rollback(lambda: seen.append("undone"))
        return int(tx.run("remember", key="a", value="1"))

    def change_my_mind(tx: Any) -> None:
        tx.run("remember", key="bad", value="1")
        raise ConflictError("no")

    changes = [twice(fine), twice(change_my_mind), twice(remember("b")), remember("c")]
    assert answered(database, *changes) == [1, ConflictError, 1, 1]
    assert [remembered(database, key) for key in ("a", "bad", "b", "c")] == ["1", None, "1", "1"]
    assert seen == ["undone", "kept"]


def test_closing_empties_the_log(path: Path) -> None:
    database = Sqlite.open(path)
    database.submit(remember("a")).result()
    database.close()
    wal = Path(f"{path}-wal")
    assert not wal.exists() or wal.stat().st_size == 0


def test_a_log_that_cannot_be_emptied_is_only_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = Sqlite.open(path)

    class Refusing:
        def execute(self, _text: str) -> Any:
            raise sqlite3.OperationalError("no")

        def close(self) -> None:
            connection.close()

    connection = database._connection
    database._connection = Refusing()  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        database.close()
    assert "the log was not emptied" in caplog.text
    assert database.broken is None


def test_a_disk_that_fails_while_the_log_is_emptied_at_the_end_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Sqlite.open(path)

    def failing(_connection: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    monkeypatch.setattr(database._file, "leave", failing)
    database.close()
    assert database.broken is not None
    assert "disk I/O error" in database.broken.message


# ---- the SQL files and the schema's own rules


def test_every_statement_compiles(database: Sqlite) -> None:
    for statement in sql.statements("sqlite").values():
        if statement.text.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            values = dict.fromkeys(re.findall(r":([a-z_0-9]+)", statement.text))
            database.submit(
                lambda _tx, text=statement.text, values=values: database._connection.execute(
                    f"EXPLAIN {text}", values
                ).fetchall()
            ).result()


def test_every_statement_is_used() -> None:
    code = "".join(path.read_text() for path in Path(writer.__file__).parents[2].rglob("*.py"))
    unused = [name for name in sql.statements("sqlite") if f'"{name}"' not in code]
    assert unused == []


WRITTEN = {
    "job": "INSERT INTO job (seq, id, spec, model, mode, requirement, priority, position, timeout_s, max_attempts,"
    " updated_at) VALUES",
    "attempt": "INSERT INTO attempt (job, fence, lease_id, worker, claim_id, claimed_at, outcome, ended_at, refunded)"
    " VALUES",
    "artifact": "INSERT INTO artifact (seq, sha256, model, mode, size_bytes, stored_at) VALUES",
    "identity": "INSERT INTO identity (id, worker, digest, next_digest, rotate, created_at) VALUES",
    "good": "9" * 64,
    "short": "9" * 63,
    "odd": "9" * 63 + "G",
}
"""How a table of statements writes rows, and digests that are right and wrong."""


@pytest.fixture
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """The tables without the code in front of them, with one pending job, one completed and one failed.

    A lease of jobs 4 to 7 ran out: 4 has failed with it, 5 was cancelled, 6 was requeued and failed again, 7 has an
    attempt after it that failed. No lease of job 8 ran out: its only attempt failed.
    """
    Sqlite.open(path).close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("INSERT INTO requirement VALUES (1, 'x', '{}')")
    for seq, status, artifact in ((1, "pending", None), (2, "completed", "b" * 64), (3, "failed", None)):
        connection.execute(
            "INSERT INTO job (seq, id, spec, model, mode, requirement, priority, position, timeout_s, max_attempts,"
            " status, artifact, fence, updated_at) VALUES (?, ?, '{}', 'gbt', 'oracle', 1, 0, 1, 60, 3, ?, ?, 5, '')",
            (seq, f"{seq}" * 64, status, artifact),
        )
    connection.execute(
        "INSERT INTO attempt (job, fence, lease_id, worker, claim_id, claimed_at, outcome, ended_at)"
        " VALUES (2, 5, 'lease', 'pi', 'claim', '', 'completed', '')"
    )
    for seq, status, fence, attempt in (
        (4, "failed", 5, 5),
        (5, "cancelled", 5, 5),
        (6, "failed", 6, 5),
        (7, "failed", 6, 6),
        (8, "failed", 5, 5),
    ):
        connection.execute(
            "INSERT INTO job (seq, id, spec, model, mode, requirement, priority, position, timeout_s, max_attempts,"
            " status, fence, attempt, updated_at) VALUES (?, ?, '{}', 'gbt', 'oracle', 1, 0, 1, 60, 3, ?, ?, ?, '')",
            (seq, f"{seq}" * 64, status, fence, attempt),
        )
        connection.execute(
            "INSERT INTO attempt (job, fence, lease_id, worker, claim_id, claimed_at, outcome, ended_at)"
            " VALUES (?, 5, ?, 'pi', ?, '', ?, '')",
            (seq, f"lease-{seq}", f"claim-{seq}", "failed" if seq == 8 else "expired"),
        )
    connection.execute(
        "INSERT INTO attempt (job, fence, lease_id, worker, claim_id, claimed_at, outcome, ended_at)"
        " VALUES (7, 6, 'newest', 'pi', 'newest', '', 'failed', '')"
    )
    connection.execute("INSERT INTO event VALUES (1, '', '', 1, NULL, 'add', NULL, 'pending', '')")
    yield connection
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE job SET status = 'lost' WHERE seq = 1",
        "UPDATE job SET status = 'claimed' WHERE seq = 1",
        "UPDATE job SET lease_id = 'x' WHERE seq = 1",
        "UPDATE job SET status = 'completed' WHERE seq = 1",
        "UPDATE job SET artifact = 'x' WHERE seq = 1",
        "UPDATE job SET attempts_used = 3 WHERE seq = 1",
        "UPDATE job SET attempts_used = 4 WHERE seq = 3",
        "UPDATE job SET attempts_used = -1 WHERE seq = 1",
        "UPDATE job SET refunds = -1 WHERE seq = 1",
        "UPDATE job SET cancel_requested = 1 WHERE seq = 1",
        "UPDATE job SET ready = 0 WHERE seq = 3",
        "UPDATE job SET fence = 4 WHERE seq = 1",
        "UPDATE job SET attempt = 6 WHERE seq = 1",
        "UPDATE job SET status = 'pending', artifact = NULL WHERE seq = 2",
        "UPDATE job SET artifact = 'c' WHERE seq = 2",
        "UPDATE job SET status = 'running', lease_id = 'x' WHERE seq = 3",
        "UPDATE job SET status = 'cancelled' WHERE seq = 3",
        "UPDATE job SET status = 'running', lease_id = 'x', fence = 6 WHERE seq = 4",
        "UPDATE job SET status = 'claimed', lease_id = 'x' WHERE seq = 4",
        "UPDATE job SET status = 'running', lease_id = 'x' WHERE seq = 5",
        "UPDATE job SET status = 'running', lease_id = 'x' WHERE seq = 6",
        "UPDATE job SET status = 'running', lease_id = 'x' WHERE seq = 7",
        "UPDATE job SET status = 'running', lease_id = 'x' WHERE seq = 8",
        "UPDATE job SET spec = 'x' WHERE seq = 1",
        "UPDATE job SET requirement = 7 WHERE seq = 1",
        "UPDATE job SET timeout_s = 0 WHERE seq = 1",
        "UPDATE job SET priority = 'high' WHERE seq = 1",
        "DELETE FROM job WHERE seq = 3",
        "UPDATE attempt SET lease_id = 'other' WHERE job = 2",
        "UPDATE attempt SET outcome = 'expired' WHERE job = 2",
        "UPDATE attempt SET ended_at = NULL WHERE job = 2",
        "INSERT INTO attempt (job, fence, lease_id, worker, claim_id, claimed_at)"
        " VALUES (1, 1, 'l', 'pi', 'claim', '')",
        "INSERT INTO attempt (job, fence, lease_id, worker, claim_id, claimed_at) VALUES (1, 1, 'lease', 'b', 'c', '')",
        "UPDATE event SET why = 'other'",
        "INSERT INTO event VALUES (2, '', '', 1, NULL, 'explode', NULL, 'pending', '')",
        "{artifact} (1, 'short', 'gbt', 'oracle', 1, '')",
        "{artifact} (1, '{short}', 'gbt', 'oracle', 1, '')",
        "{artifact} (1, '{odd}', 'gbt', 'oracle', 1, '')",
        "{artifact} (1, '{good}', 'gbt', 'oracle', -1, '')",
        "{job} (9, '{short}', '{{}}', 'gbt', 'oracle', 1, 0, 1, 60, 3, '')",
        "{job} (9, '{odd}', '{{}}', 'gbt', 'oracle', 1, 0, 1, 60, 3, '')",
        "{job} (9, '{good}', '{{}}', 'gbt', 'another', 1, 0, 1, 60, 3, '')",
        "UPDATE job SET max_attempts = 0 WHERE seq = 3",
        "UPDATE job SET named = 2 WHERE seq = 1",
        "UPDATE job SET ready = 2 WHERE seq = 1",
        "UPDATE job SET cancel_requested = 2, status = 'claimed', lease_id = 'x' WHERE seq = 1",
        "{attempt} (1, 0, 'l', 'b', 'c', '', NULL, NULL, 0)",
        "{attempt} (1, 1, 'l', 'b', 'c', '', 'forgotten', '', 0)",
        "{attempt} (1, 1, 'l', 'b', 'c', '', NULL, NULL, 2)",
        "{identity} ('i', 'b', '{short}', NULL, 0, '')",
        "{identity} ('i', 'b', '{odd}', NULL, 0, '')",
        "{identity} ('i', 'b', '{good}', '{short}', 0, '')",
        "{identity} ('i', 'b', '{good}', '{odd}', 0, '')",
        "{identity} ('i', 'b', '{good}', NULL, 2, '')",
        "INSERT INTO invite VALUES ('{short}', 'b', '', '', 0, NULL)",
        "INSERT INTO invite VALUES ('{odd}', 'b', '', '', 0, NULL)",
        "INSERT INTO event VALUES (2, '', '', 1, NULL, 'add', NULL, NULL, '')",
        "INSERT INTO event VALUES (2, '', '', NULL, 'pi', 'invite', NULL, 'pending', '')",
        "INSERT INTO event VALUES (2, '', '', 1, 'pi', 'add', NULL, 'pending', '')",
        "INSERT INTO event VALUES (2, '', '', NULL, NULL, 'invite', NULL, NULL, '')",
    ],
)
def test_what_must_never_be_true_cannot_be_written(raw: sqlite3.Connection, statement: str) -> None:
    raw.execute("PRAGMA foreign_keys = ON")
    with pytest.raises(sqlite3.IntegrityError):
        raw.execute(statement.format(**WRITTEN))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE job SET status = 'claimed', lease_id = 'x', fence = 6, attempts_used = 3 WHERE seq = 1",
        "UPDATE job SET status = 'pending', fence = 6 WHERE seq = 3",
        "UPDATE job SET status = 'pending', fence = 5 WHERE seq = 3",
        "UPDATE job SET status = 'failed' WHERE seq = 3",
        "UPDATE job SET status = 'running', lease_id = 'lease-4' WHERE seq = 4",
        "UPDATE job SET named = 0, priority = 4 WHERE seq = 2",
        "UPDATE job SET status = 'completed', artifact = '{good}' WHERE seq = 1",
        "UPDATE job SET status = 'completed' WHERE seq = 2",
        "UPDATE job SET timeout_s = 1, max_attempts = 1, ready = 0, attempt = 5 WHERE seq = 1",
        "UPDATE attempt SET outcome = 'completed', exit_status = 1 WHERE job = 2",
        "{artifact} (1, '{good}', 'gbt', 'oracle', 0, '')",
        "{job} (9, '{good}', '{{}}', 'gbt', 'realistic', 1, 0, 1, 60, 3, '')",
        "{attempt} (1, 1, 'l', 'b', 'c', '', 'expired', '', 1)",
        "{attempt} (1, 1, 'l', 'b', 'c', '', NULL, NULL, 0)",
        "{identity} ('i', 'b', '{good}', '{good}', 1, '')",
        "INSERT INTO invite VALUES ('{good}', 'b', '', '', 0, NULL)",
        "INSERT INTO event VALUES (2, '', '', 1, NULL, 'add', NULL, 'pending', '')",
        "INSERT INTO event VALUES (2, '', '', NULL, 'pi', 'invite', NULL, NULL, '')",
    ],
)
def test_what_may_be_true_can_be_written(raw: sqlite3.Connection, statement: str) -> None:
    raw.execute(statement.format(**WRITTEN))
