"""Which changes share a commit, and how long a commit waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from training.fleet.database.queries import REMEMBERED
from training.fleet.database.sqlite import Sqlite, writer

FOR_EVER_S = 60.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Sqlite]:
    opened = Sqlite.open(tmp_path / "queue.db")
    yield opened
    opened.close()


@pytest.fixture
def commits(database: Sqlite) -> list[str]:
    """Every commit from now on."""
    seen: list[str] = []
    database._connection.set_trace_callback(lambda text: seen.append(text) if text.startswith("COMMIT") else None)
    return seen


def remember(key: str) -> Any:
    return lambda tx: tx.run("remember", key=key, value="1")


def wait_for_company(database: Sqlite, expected: int, patience_s: float) -> None:
    """Have the next commit wait as if the disk were slow and so many callers about to ask."""

    def set_up(_tx: Any) -> None:
        database._expected, database._group_wait_s = expected, patience_s

    # The batch of the set-up itself must not measure its own commit, which would undo it.
    database._commit = lambda batch: database._transaction.commit()  # type: ignore[method-assign]
    database.submit(set_up).result(10)


def test_what_comes_while_a_batch_runs_shares_its_commit(database: Sqlite, commits: list[str]) -> None:
    later: list[Future[int]] = []

    def change(tx: Any) -> None:
        tx.run("remember", key="first", value="1")
        later.append(database.submit(remember("second")))

    database.submit(change).result(10)
    later[0].result(10)
    assert len(commits) == 1


def test_on_a_slow_disk_a_commit_waits_for_those_who_asked_before(database: Sqlite, commits: list[str]) -> None:
    wait_for_company(database, 2, FOR_EVER_S)
    first = database.submit(remember("first"))
    with pytest.raises(TimeoutError):
        first.result(0.2)
    second = database.submit(remember("second"))
    assert (first.result(10), second.result(10)) == (1, 1)
    assert len(commits) == 1


def test_a_commit_that_waits_in_vain_is_made(database: Sqlite, commits: list[str]) -> None:
    wait_for_company(database, 2, 0.01)
    database.submit(remember("first")).result(10)
    assert len(commits) == 1


def test_a_full_batch_does_not_wait(database: Sqlite, commits: list[str]) -> None:
    wait_for_company(database, 1, FOR_EVER_S)
    database.submit(remember("first")).result(10)
    assert len(commits) == 1


def test_a_reader_does_not_wait_for_company(database: Sqlite) -> None:
    wait_for_company(database, 2, FOR_EVER_S)
    assert database.submit(lambda tx: tx.one(REMEMBERED, key="first")).result(10) is None


def test_the_end_is_not_kept_waiting(database: Sqlite, commits: list[str]) -> None:
    wait_for_company(database, 2, FOR_EVER_S)
    first = database.submit(remember("first"))
    database.close()
    assert first.result(0) == 1


def test_after_a_fast_commit_nobody_waits(database: Sqlite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SLOW_COMMIT_S", 3600.0)
    database.submit(remember("first")).result(10)
    assert database._group_wait_s == 0.0


def test_after_a_slow_commit_the_wait_is_a_share_of_it_and_bounded(
    database: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SLOW_COMMIT_S", -1.0)
    monkeypatch.setattr(writer, "GROUP_WAIT_SHARE", 1e9)
    database.submit(remember("first")).result(10)
    assert database._group_wait_s == 0.004
    assert database._expected == 1
