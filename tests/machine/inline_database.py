"""The real database without its thread, and the faults that a test can ask of it.

Every change runs in the thread that asks, at once; `together` gathers some into one batch, as the writer thread does
under load. Everything else is the product's code: statements, savepoints, batches, commits, sums of pages.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from training.fleet.database.sqlite import Sqlite


class FaultyCursor:
    """A cursor that can do something before the next commit, or let it fail as a full disk makes it fail."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor
        self.refuse = False
        self.before_commit: Callable[[], None] | None = None

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


class NoThread:
    """Stands in for the writer thread; a `Mock` would take a tenth of the time of a history."""

    def __init__(self, **_: object) -> None:
        pass

    def start(self) -> None:
        pass

    join = start


class InlineSqlite(Sqlite):
    def __init__(self, *values: Any) -> None:
        self.held = False
        with mock.patch("training.fleet.database.sqlite.writer.threading.Thread", NoThread):
            super().__init__(*values)
        self.faults = FaultyCursor(self._transaction._cursor)
        self._transaction._cursor = self.faults  # type: ignore[assignment]

    def _put(self, entry: Any) -> bool:
        accepted = super()._put(entry)
        if accepted and not self.held:
            self._work()
        return accepted

    def _work(self) -> None:
        while self._later or not self._inbox.empty():
            entry = self._next()
            assert entry is not None
            if entry.alone is None:
                self._group(entry)
            else:
                self._run_alone(entry)
            self._file.tend(self._connection)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Put what is asked meanwhile into one batch, answered at the end."""
        self.held = True
        try:
            yield
        finally:
            self.held = False
            self._work()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._inbox.put(None)
            self._serve()

    def look(self, text: str, *values: Any) -> list[Any]:
        """Read with a statement of the test's own."""
        return self._connection.execute(text, values).fetchall()
