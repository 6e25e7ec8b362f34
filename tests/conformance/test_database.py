"""What every database must do: see `database.protocol`."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.queue_world import Engine
from training.fleet.database import Database, queries
from training.fleet.database import statements as sql
from training.fleet.database.queries import REMEMBERED
from training.fleet.model.errors import ConflictError, FleetError, UnavailableError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def database(path: Path, engine: Engine) -> Iterator[Database]:
    opened = engine.open(path)
    yield opened
    opened.close()


def remember(key: str, value: str = "1") -> Any:
    return lambda tx: tx.run("remember", key=key, value=value)


def remembered(database: Database, key: str) -> str | None:
    row = database.submit(lambda tx: tx.one(REMEMBERED, key=key)).result()
    return None if row is None else row.value


def together(database: Database, *changes: Any) -> list[Any]:
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


def twice(change: Any) -> Any:
    """Return a change that may run twice."""

    def marked(tx: Any) -> Any:
        tx.may_run_twice()
        return change(tx)

    return marked


def answered(database: Database, *changes: Any) -> list[Any]:
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


def test_an_answer_is_durable(database: Database, path: Path, engine: Engine) -> None:
    assert database.submit(remember("a")).result() == 1
    database.close()
    again = engine.open(path)
    assert remembered(again, "a") == "1"
    again.close()


def test_a_change_that_raises_undoes_itself_only(database: Database) -> None:
    def change_my_mind(tx: Any) -> None:
        tx.run("remember", key="bad", value="1")
        raise ConflictError("no")

    good, bad, also_good = together(database, remember("a"), change_my_mind, remember("b"))
    assert isinstance(bad.exception(), ConflictError)
    assert (good.result(), also_good.result()) == (1, 1)
    assert [remembered(database, key) for key in ("a", "bad", "b")] == ["1", None, "1"]


def test_a_change_that_raises_before_it_writes_is_harmless(database: Database) -> None:
    def refuse(_tx: Any) -> None:
        raise ConflictError("no")

    (bad,) = together(database, refuse)
    assert isinstance(bad.exception(), ConflictError)


def test_a_change_that_breaks_a_rule_of_the_schema_is_an_error_for_its_caller_alone(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = together(database, remember("a"), remember("b", None))  # type: ignore[arg-type]
    assert good.result() == 1
    assert type(bad.exception()) is FleetError
    assert "please report" in str(bad.exception())
    assert "broke a rule" in caplog.text


def test_a_change_that_raises_calls_back_what_it_undoes_newest_first(database: Database) -> None:
    seen: list[str] = []

    def fine(tx: Any) -> None:
        tx.run("remember", key="a", value="1")
        tx.after_commit(lambda: seen.append("kept"))
        tx.after_rollback(lambda: seen.append("wrong"))

    def bad(tx: Any) -> None:
        tx.after_commit(lambda: seen.append("wrong"))
        tx.after_rollback(lambda: seen.append("first"))
        tx.after_rollback(lambda: seen.append("second"))
        raise ConflictError("no")

    together(database, fine, bad)
    assert seen == ["second", "first", "kept"]


def test_a_callback_that_fails_stops_nothing(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    def change(tx: Any) -> str:
        tx.run("remember", key="a", value="1")
        tx.after_commit(lambda: 1 // 0)
        return "done"

    assert database.submit(change).result() == "done"
    assert remembered(database, "a") == "1"
    assert "a step after a commit failed" in caplog.text


def test_many_rows_go_in_one_call(database: Database) -> None:
    def change(tx: Any) -> None:
        tx.many("remember", [{"key": str(number), "value": "1"} for number in range(3)])
        tx.many("remember", [{"key": "9", "value": "1"}])

    database.submit(change).result()
    assert [remembered(database, key) for key in ("0", "2", "9")] == ["1", "1", "1"]


def test_a_change_that_may_not_run_twice_runs_once(database: Database) -> None:
    runs: list[str] = []

    def once(tx: Any) -> int:
        runs.append("once")
        return int(tx.run("remember", key="once", value="1"))

    def change_my_mind(tx: Any) -> None:
        runs.append("mind")
        tx.run("remember", key="bad", value="1")
        raise ConflictError("no")

    changes = [twice(remember("a")), once, twice(change_my_mind), twice(remember("b"))]
    assert answered(database, *changes) == [1, 1, ConflictError, 1]
    assert runs == ["once", "mind"]
    assert [remembered(database, key) for key in ("a", "once", "bad", "b")] == ["1", "1", None, "1"]


def test_answers_of_a_batch_are_delivered_in_one_piece(database: Database) -> None:
    pieces: list[int] = []
    seen: list[tuple[Any, Any]] = []
    done = threading.Event()

    def deliver(answers: list[Any]) -> None:
        pieces.append(len(answers))
        for answer in answers:
            answer()

    database.deliver = deliver
    gate = threading.Event()
    database.submit(lambda _tx: gate.wait(10))

    def raise_(_tx: Any) -> None:
        raise ConflictError("no")

    database.post(remember("a"), lambda result, error: seen.append((result, error)))
    database.post(raise_, lambda result, error: seen.append((result, type(error))))
    database.submit(lambda _tx: None)
    database.post(remember("b"), lambda result, error: (seen.append((result, error)), done.set()))
    gate.set()
    assert done.wait(10)
    assert seen == [(1, None), (None, ConflictError), (1, None)]
    assert pieces == [3]


def test_without_an_event_loop_answers_are_given_at_once(database: Database) -> None:
    done = threading.Event()
    database.post(remember("a"), lambda _result, _error: done.set())
    assert done.wait(10)


def test_what_was_handed_over_before_the_end_is_still_done(database: Database) -> None:
    futures = [database.submit(remember(str(number))) for number in range(700)]
    database.close()
    database.close()
    assert all(future.result() == 1 for future in futures)


def test_after_the_end_everything_is_refused(database: Database) -> None:
    database.close()
    seen: list[Any] = []
    database.post(remember("a"), lambda _result, error: seen.append(error))
    with pytest.raises(UnavailableError, match="is stopping"):
        database.submit(remember("a")).result()
    assert isinstance(seen[0], UnavailableError)


def test_each_query_answers_with_the_fields_of_its_row_in_their_order(database: Database, engine: Engine) -> None:
    found, expected = {}, {}
    for query in (value for value in vars(queries).values() if isinstance(value, queries.Query)):
        text = sql.statements("sqlite")[query.name].text
        expected[query.name] = list(query.make.__self__._fields)  # type: ignore[attr-defined]
        if text.startswith("SELECT"):
            values = dict.fromkeys(re.findall(r":([a-z_0-9]+)", text), 0) | {"ids": "[]", "seqs": "[]"}
            values |= {"requirements": "[]"}
            cursor = database._connection.execute(text, values)
            found[query.name] = [column[0] for column in cursor.description]
            cursor.close()
        else:
            found[query.name] = text.partition("RETURNING ")[2].rstrip(";").split(", ")
    assert found == expected


def test_a_neighbour_of_a_change_that_fails_counts_once_however_often_it_ran(database: Database) -> None:
    seen: list[str] = []

    def fine(tx: Any) -> int:
        tx.after_commit(lambda: seen.append("kept"))
        tx.after_rollback(lambda: seen.append("undone"))
        return int(tx.run("remember", key="a", value="1"))

    def change_my_mind(tx: Any) -> None:
        tx.run("remember", key="bad", value="1")
        raise ConflictError("no")

    assert answered(database, twice(fine), twice(change_my_mind)) == [1, ConflictError]
    assert [remembered(database, key) for key in ("a", "bad")] == ["1", None]
    assert seen in (["kept"], ["undone", "kept"])


def test_a_copy_holds_what_was_answered_and_is_a_database_of_its_own(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    database.submit(remember("a")).result()
    database.copy(tmp_path / "copy.db")
    database.submit(remember("b")).result()
    copy = engine.open(tmp_path / "copy.db")
    assert [remembered(copy, key) for key in ("a", "b")] == ["1", None]
    copy.close()
