"""The faults that a test can ask of a database in its in-line mode, and a look at its rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from training.fleet.database.sqlite import Sqlite


class Faults:
    """Stands before the writer's cursor: does something before the next commit, or refuses it as a full disk does."""

    def __init__(self, database: Sqlite) -> None:
        self._cursor = database._transaction._cursor
        self.refuse = False
        self.before_commit: Callable[[], None] | None = None
        database._transaction._cursor = self  # type: ignore[assignment]

    def execute(self, text: str, *values: Any) -> sqlite3.Cursor:
        if text.startswith("COMMIT"):
            self._commit()
        return self._cursor.execute(text, *values)

    def executemany(self, text: str, rows: Any) -> sqlite3.Cursor:
        return self._cursor.executemany(text, rows)

    def _commit(self) -> None:
        if self.refuse:
            self.refuse = False
            self._cursor.execute("ROLLBACK")
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        if self.before_commit is not None:
            do, self.before_commit = self.before_commit, None
            do()


def look(database: Sqlite, text: str, *values: Any) -> list[sqlite3.Row]:
    """Read with a statement of the test's own."""
    cursor = database._connection.cursor()
    cursor.row_factory = sqlite3.Row  # type: ignore[assignment]
    return cursor.execute(text, values).fetchall()
