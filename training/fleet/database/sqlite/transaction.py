"""The open batch of changes, and the change that runs in it."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from training.fleet.database import statements as sql
from training.fleet.database.queries import Query

R = TypeVar("R")

_log = logging.getLogger(__name__)
_SQL: Final = sql.statements("sqlite")
_BEGIN, _COMMIT, _ROLLBACK = (_SQL[name].text for name in ("begin", "commit", "rollback"))
_SAVEPOINT, _RELEASE, _ROLLBACK_TO = (_SQL[name].text for name in ("savepoint", "release", "rollback_to"))


class SqliteTransaction:
    """The open batch and the change that runs in it.

    The transaction and the savepoint of a change start at its first write, so a change that only reads costs neither.
    Savepoints cost about a tenth of the throughput, so there are none as long as all changes of the batch may run
    twice: when one of them fails after a write, the batch is undone and run again, `careful` from then on.
    """

    __slots__ = ("_careful", "_connection", "_cursor", "_done", "_marked", "_open", "_repeatable", "_undo", "_undone")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._open = False
        self._marked = False
        self._repeatable = False
        self._careful = False
        self._done: list[Callable[[], None]] = []
        self._undone: list[Callable[[], None]] = []
        self._undo: list[tuple[int, int]] = []

    def all(self, query: Query[R], /, **values: Any) -> list[R]:
        """Run a query and return all rows of its answer."""
        return [query.make(row) for row in self._execute(query.name, values).fetchall()]

    def one(self, query: Query[R], /, **values: Any) -> R | None:
        """Run a query and return the first row of its answer, None when there is none."""
        # All are fetched, because a statement that still has rows would be in the way of the commit.
        rows = self._execute(query.name, values).fetchall()
        return query.make(rows[0]) if rows else None

    def run(self, name: str, /, **values: Any) -> int:
        """Run a named statement and return how many rows it changed."""
        return self._execute(name, values).rowcount

    def many(self, name: str, rows: Iterable[Mapping[str, Any]], /) -> None:
        """Run a named statement once for each row of values."""
        # `executemany` takes no look at what the statement does; it is only used to write.
        self._mark()
        self._cursor.executemany(_SQL[name].text, rows)

    def may_run_twice(self) -> None:
        """Allow this change to be undone and run a second time."""
        self._repeatable = True

    def after_commit(self, callback: Callable[[], None], /) -> None:
        """Call back once the change is durable."""
        self._done.append(callback)

    def after_rollback(self, callback: Callable[[], None], /) -> None:
        """Call back when the change is undone."""
        self._undone.append(callback)

    def _execute(self, name: str, values: Mapping[str, Any]) -> sqlite3.Cursor:
        statement = _SQL[name]
        if statement.writes and not self._marked:
            self._mark()
        return self._cursor.execute(statement.text, values)

    def _mark(self) -> None:
        if not self._open:
            self._cursor.execute(_BEGIN)
            self._open = True
        if not self._marked:
            self._mind_the_change()
            if self._careful:
                self._cursor.execute(_SAVEPOINT)
            self._marked = True

    @property
    def entangled(self) -> bool:
        """Whether the change that runs has written without a savepoint of its own."""
        return self._marked and not self._careful and self._connection.in_transaction

    @property
    def writes(self) -> bool:
        """Whether the batch has written anything, so that it will take a commit."""
        return self._open

    def keep(self) -> None:
        """End the change that ran: it stays in the batch."""
        if self._marked:
            if self._careful:
                self._cursor.execute(_RELEASE)
            self._marked = False
        self._end_change()
        # Where the callbacks of each change end, so that undoing one leaves those before it alone.
        if self._done or self._undone:
            self._undo.append((len(self._done), len(self._undone)))

    def undo(self) -> bool:
        """Undo the change that ran; True when SQLite has dropped the whole batch already."""
        kept_done, kept_undone = self._undo[-1] if self._undo else (0, 0)
        # SQLite rolls the whole transaction back by itself after some errors, a full disk among them.
        lost = self._open and not self._connection.in_transaction
        if self._marked and not lost:
            self._cursor.execute(_ROLLBACK_TO)
            self._cursor.execute(_RELEASE)
        self._marked = False
        self._end_change()
        for callback in reversed(self._undone[kept_undone:]):
            callback()
        del self._done[kept_done:], self._undone[kept_undone:]
        return lost

    def commit(self) -> None:
        """Make the batch durable and call back."""
        if self._open:
            self._cursor.execute(_COMMIT)
            self._open = False
        # Forgotten before they are called: a callback may ask for the next change.
        done = self._done
        self._forget()
        for callback in done:
            try:
                callback()
            except Exception:  # noqa: BLE001 - the writer must live on; the commit stands
                _log.exception("a step after a commit failed")

    def _end_change(self) -> None:
        self._mind_the_change()
        self._repeatable = False

    def _mind_the_change(self) -> None:
        # A change that must not run twice would run again with its batch even when it only reads. So from it on every
        # change gets a savepoint, and no batch that holds it is run again.
        self._careful = self._careful or not self._repeatable

    def begin_again(self) -> None:
        """Undo the whole batch; the changes that follow fail alone, because each has a savepoint."""
        self.abandon()
        self._careful = True

    def abandon(self) -> None:
        """Undo the whole batch and call back."""
        if self._connection.in_transaction:
            self._cursor.execute(_ROLLBACK)
        self._open = self._marked = False
        undone = self._undone
        self._forget()
        # Newest first, because each undoes what was built on those before it.
        for callback in reversed(undone):
            callback()

    def _forget(self) -> None:
        self._careful = self._repeatable = False
        self._done, self._undone, self._undo = [], [], []
