"""The faults that a test can ask of a database in its in-line mode."""

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
