"""The embedded database: one connection on one writer thread that groups commits.

Owns the file, the thread and the settings of SQLite. Guarantees that changes run one after the other in the order they
came, that each is whole or undone, and that an answer is given only after the commit that holds it is on the disk: all
changes that wait share one commit. Nothing else can open the file meanwhile. A copy is made while changes go on, and a
file with an older schema is copied before it is brought up to date. Leaves the statements to the SQL files and their
meaning to the caller, the sums of pages to `pages`, and checkpoints, copies and upgrades to `upkeep`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from training.fleet import sql
from training.fleet.database import Row, Transaction
from training.fleet.database.upkeep import DatabaseFile, copy_database, disk_failed, migrate, sync_copy
from training.fleet.errors import ConfigurationError, FleetError, StorageFullError, UnavailableError, passing

T = TypeVar("T")
Answer = Callable[[Any, BaseException | None], None]
"""Takes the result of a change, or the error it ended with."""

MAX_BATCH: Final = 256
"""Changes that share a commit at most."""
SLOW_COMMIT_S: Final = 0.001
"""A commit that takes longer is worth waiting a little for company."""
PATIENCE: Final = 0.25
"""How long to wait for it, as a share of what the last commit took."""
PATIENCE_CAP_S: Final = 0.004
QUICK_CHECK_BYTES: Final = 32 * 2**20
"""Files up to this size are checked for damage at every start."""
CHECK_PAGES: Final = 256
"""Pages compared with their sums in one go."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    """One change that waits, or was run and waits for its commit.

    Attributes:
        change: What to do in the batch.
        answer: Who gets the result.
        posted: Answered through `deliver`.
        repeatable: May be undone and run a second time.
        alone: What to do between two batches instead of `change`.
        result: What it returned.
        error: What it ended with.
    """

    change: Callable[[Transaction], Any]
    answer: Answer
    posted: bool
    repeatable: bool = False
    alone: Callable[[], Any] | None = None
    result: Any = None
    error: BaseException | None = None

    def give(self) -> None:
        """Tell the caller."""
        self.answer(self.result, self.error)


class Sqlite:
    """An SQLite file behind its writer thread.

    Attributes:
        deliver: Called on the writer thread after each batch with one callable per change that gives its answer. The
            default calls them at once; an event loop sets it to hand them over in one piece.
        on_broken: Called once when the disk no longer takes writes reliably; the process should end.
        broken: What the disk said then or at the end, None while all is well.
    """

    def __init__(self, connection: sqlite3.Connection, file: DatabaseFile) -> None:
        self.deliver: Callable[[list[Callable[[], None]]], None] = _answer_all
        self.on_broken: Callable[[UnavailableError], None] = lambda _error: None
        self.broken: UnavailableError | None = None
        self._connection = connection
        self._file = file
        self._transaction = _SqliteTransaction(connection)
        self._later: deque[_Entry] = deque()
        self._inbox: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._expected = 1
        self._patience_s = 0.0
        self._closed = False
        self._door = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="database", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: Path, copies: Path | None = None) -> Sqlite:
        """Open or make the file, bring its tables up to date and start the writer.

        Args:
            path: The database file. Its folder must exist.
            copies: Folder for the copy that is made before older tables are brought up to date; the folder of the
                file when left out.

        Raises:
            ConfigurationError: Another process has it open, it is damaged, or it is newer than this program.
            UnavailableError: The disk refuses.
        """
        with contextlib.ExitStack() as stack:
            try:
                file = DatabaseFile(path)
                stack.callback(file.close)
                connection = sqlite3.connect(
                    path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=512
                )
            except OSError as error:
                raise _not_opened(error, path) from error
            except sqlite3.Error as error:
                raise _refusal(error, path) from error
            stack.callback(connection.close)
            try:
                _prepare(connection, file, copies or path.parent)
            except FleetError as error:
                if disk_failed(error.__cause__):
                    stack.pop_all()
                    file.abandon(connection)
                raise
            stack.pop_all()
        return cls(connection, file)

    def submit(self, change: Callable[[Transaction], T]) -> Future[T]:
        """Hand a change over; the future holds its answer once it is durable.

        Safe from every thread. The future is resolved on the writer thread.
        """
        future: Future[T] = Future()

        def answer(result: Any, error: BaseException | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        if not self._put(_Entry(change, answer, posted=False)):
            future.set_exception(_closed())
        return future

    def post(self, change: Callable[[Transaction], Any], answer: Answer, *, repeatable: bool = False) -> None:
        """Hand a change over; `answer` gets its result or its error, through `deliver`.

        The cheap way for an event loop, which is woken once for a whole batch.

        Args:
            change: What to do.
            answer: Who gets the result.
            repeatable: The change may be undone and run a second time before it is answered: whatever it does beside
                the database waits for `after_commit`, is undone by `after_rollback`, or does no harm twice. Such
                changes share a batch without a savepoint each.
        """
        if not self._put(_Entry(change, answer, posted=True, repeatable=repeatable)):
            self.deliver([lambda: answer(None, _closed())])

    def copy(self, target: Path) -> None:
        """Write a consistent copy of the database to a new file, durably, while changes go on.

        The copy holds every change that was answered before this returns. Waits; not for the event loop.

        Args:
            target: A file that is not there yet.

        Raises:
            UnavailableError: The disk refuses; no file is left.
        """
        self._between_batches(lambda: copy_database(self._connection, target, self._breathe))
        try:
            # Here and not on the writer thread: a slow disk takes seconds for a large copy.
            sync_copy(target)
        except OSError as error:
            raise _no_copy(error) from error

    @property
    def damaged(self) -> list[int]:
        """The pages that were not what they were when the file was opened."""
        return self._file.damaged

    @property
    def pages(self) -> int:
        """How many pages the file has, as of the last checkpoint."""
        return self._file.sums.pages

    def differing_pages(self) -> list[int]:
        """Return the pages of the file that are not what their sums say. Changes go on; not for the event loop."""
        sums, found = self._file.sums, list[int]()
        first, last = 1, self._between_batches(lambda: sums.span)
        while first <= last:
            look = functools.partial(sums.differing, first, CHECK_PAGES)
            found += self._between_batches(look)
            first += CHECK_PAGES
        return found

    def _between_batches(self, work: Callable[[], T]) -> T:
        """Have something done on the writer thread while no batch is open, and wait for it."""
        future: Future[T] = Future()

        def answer(result: Any, error: BaseException | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        if not self._put(_Entry(_nothing, answer, posted=False, alone=work)):
            raise _closed()
        return future.result()

    def close(self) -> None:
        """Run what was handed over, empty the log into the file and let go of it. Safe to repeat.

        What the disk said when the log could not be emptied stands in `broken` afterwards. A database that is broken
        is left as it is, and stays locked until the process ends.
        """
        with self._door:
            first, self._closed = not self._closed, True
            if first:
                self._inbox.put(None)
        self._thread.join()

    def _put(self, entry: _Entry) -> bool:
        with self._door:
            if not self._closed:
                self._inbox.put(entry)
            return not self._closed

    def _serve(self) -> None:
        while (entry := self._next()) is not None:
            if entry.alone is None:
                self._group(entry)
            else:
                self._run_alone(entry)
            self._tend()
        self._leave()

    def _leave(self) -> None:
        """Empty the log and let go of the file, unless the disk has failed."""
        if self.broken is None:
            try:
                self._file.leave(self._connection)
            except sqlite3.Error as error:
                _log.warning("the log was not emptied at the end: %s", error)
                if _untrusted(error):
                    self.broken = _unavailable(error)
        if self.broken is None:
            self._connection.close()
            self._file.close()
        else:
            self._file.abandon(self._connection)

    def _tend(self) -> None:
        """Empty the log when it is time, unless the disk has failed."""
        if self.broken is None:
            try:
                self._file.tend(self._connection)
            except sqlite3.Error as error:
                self._lose(error)

    def _next(self) -> _Entry | None:
        return self._later.popleft() if self._later else self._inbox.get()

    def _run_alone(self, entry: _Entry) -> None:
        assert entry.alone is not None
        try:
            entry.result = entry.alone()
        except (sqlite3.Error, OSError) as error:
            entry.error = _unavailable(error) if isinstance(error, sqlite3.Error) else _no_copy(error)
        except Exception as error:  # noqa: BLE001 - the caller gets it; the writer must live on
            entry.error = error
        entry.give()

    def _breathe(self) -> None:
        """Run one batch of what waits, in the middle of a copy."""
        try:
            entry = self._inbox.get_nowait()
        except queue.Empty:
            return
        if entry is None:
            self._inbox.put(None)
        elif entry.alone is not None:
            self._later.append(entry)
        else:
            self._group(entry)

    def _group(self, first: _Entry) -> None:
        """Run a batch, commit once, then answer all of it."""
        batch: list[_Entry] = []
        lost = self.broken
        try:
            for entry in self._arriving(first):
                batch.append(entry)
                if lost is None and not self._run(entry):
                    self._run_again(batch)
            self._commit(batch)
        except sqlite3.Error as error:
            lost = self._lose(error)
        if lost is not None:
            for entry in batch:
                entry.result, entry.error = None, lost
        for entry in batch:
            if not entry.posted:
                entry.give()
        if posted := [entry.give for entry in batch if entry.posted]:
            self.deliver(posted)

    def _arriving(self, first: _Entry) -> Iterator[_Entry]:
        """Yield what waits, and what comes while that is run: it shares the commit instead of waiting for the next."""
        yield first
        deadline = 0.0
        for taken in range(1, MAX_BATCH):
            wait_s = 0.0
            if self._patience_s and taken < self._expected and self._transaction.writes:
                # Those answered last are about to ask again. A short wait for them costs less than a second sync.
                deadline = deadline or time.monotonic() + self._patience_s
                wait_s = max(0.0, deadline - time.monotonic())
            try:
                entry = self._inbox.get(timeout=wait_s)
            except queue.Empty:
                return
            if entry is None:
                self._inbox.put(None)
                return
            if entry.alone is not None:
                self._later.append(entry)
                return
            yield entry

    def _commit(self, batch: list[_Entry]) -> None:
        begun = time.monotonic()
        self._transaction.commit()
        took_s = time.monotonic() - begun
        self._expected = len(batch) + self._inbox.qsize()
        self._patience_s = min(took_s * PATIENCE, PATIENCE_CAP_S) if took_s > SLOW_COMMIT_S else 0.0

    def _run(self, entry: _Entry) -> bool:
        """Run one change; False when it failed after a write and cannot be undone without the rest of its batch.

        Raises:
            sqlite3.Error: The whole batch is lost, because SQLite has rolled it back already.
        """
        transaction = self._transaction
        transaction.careful = transaction.careful or not entry.repeatable
        entry.result = entry.error = None
        try:
            entry.result = entry.change(transaction)
        except Exception as error:
            if transaction.entangled:
                return False
            if transaction.undo() and isinstance(error, sqlite3.Error):
                raise
            entry.error = _explained(error)
        else:
            transaction.keep()
        return True

    def _run_again(self, batch: list[_Entry]) -> None:
        """Undo a batch and run it anew with a savepoint for each change, so that the one that fails fails alone.

        All of it is repeatable: the first change that is not gets a savepoint, and so does every change behind it.
        """
        self._transaction.abandon()
        self._transaction.careful = True
        for entry in batch:
            self._run(entry)

    def _lose(self, error: sqlite3.Error) -> UnavailableError:
        """Give up the batch that failed to commit, and the database when the disk cannot be trusted any more."""
        explained = _unavailable(error)
        self._transaction.abandon()
        if _untrusted(error):
            self.broken = explained
            self.on_broken(explained)
        return explained


def _answer_all(answers: list[Callable[[], None]]) -> None:
    for answer in answers:
        answer()


class _SqliteTransaction:
    """The open batch and the change that runs in it.

    The transaction and the savepoint of a change start at its first write, so a change that only reads costs neither.
    Savepoints cost about a tenth of the throughput, so there are none until the batch has to be `careful`.
    """

    __slots__ = ("_connection", "_cursor", "_done", "_marked", "_open", "_undo", "_undone", "careful")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._open = False
        self._marked = False
        self.careful = False
        self._done: list[Callable[[], None]] = []
        self._undone: list[Callable[[], None]] = []
        self._undo: list[tuple[int, int]] = []

    def all(self, name: str, /, **values: Any) -> Sequence[Row]:
        """Run a named statement and return all rows of its answer."""
        return cast(Sequence[Row], self._execute(name, values).fetchall())

    def one(self, name: str, /, **values: Any) -> Row | None:
        """Run a named statement and return the first row of its answer, None when there is none."""
        rows = self._execute(name, values).fetchall()
        return cast(Row, rows[0]) if rows else None

    def run(self, name: str, /, **values: Any) -> int:
        """Run a named statement and return how many rows it changed."""
        return self._execute(name, values).rowcount

    def many(self, name: str, rows: Iterable[Mapping[str, Any]], /) -> None:
        """Run a named statement once for each row of values."""
        self._mark()
        self._cursor.executemany(_SQL[name].text, rows)

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
            if self.careful:
                self._cursor.execute(_SAVEPOINT)
            self._marked = True

    @property
    def entangled(self) -> bool:
        """Whether the change that runs has written without a savepoint of its own."""
        return self._marked and not self.careful and self._connection.in_transaction

    @property
    def writes(self) -> bool:
        """Whether the batch has written anything, so that it will take a commit."""
        return self._open

    def keep(self) -> None:
        """End the change that ran: it stays in the batch."""
        if self._marked:
            if self.careful:
                self._cursor.execute(_RELEASE)
            self._marked = False
        if self._done or self._undone:
            self._undo.append((len(self._done), len(self._undone)))

    def undo(self) -> bool:
        """Undo the change that ran; True when SQLite has dropped the whole batch already."""
        kept_done, kept_undone = self._undo[-1] if self._undo else (0, 0)
        lost = self._open and not self._connection.in_transaction
        if self._marked and not lost:
            self._cursor.execute(_ROLLBACK_TO)
            self._cursor.execute(_RELEASE)
        self._marked = False
        for callback in reversed(self._undone[kept_undone:]):
            callback()
        del self._done[kept_done:], self._undone[kept_undone:]
        return lost

    def commit(self) -> None:
        """Make the batch durable and call back."""
        if self._open:
            self._cursor.execute(_COMMIT)
            self._open = False
        done = self._done
        self._forget()
        for callback in done:
            try:
                callback()
            except Exception:  # noqa: BLE001 - the writer must live on; the commit stands
                _log.exception("a step after a commit failed")

    def abandon(self) -> None:
        """Undo the whole batch and call back."""
        if self._connection.in_transaction:
            self._cursor.execute(_ROLLBACK)
        self._open = self._marked = False
        undone = self._undone
        self._forget()
        for callback in reversed(undone):
            callback()

    def _forget(self) -> None:
        self.careful = False
        self._done, self._undone, self._undo = [], [], []


def _prepare(connection: sqlite3.Connection, file: DatabaseFile, copies: Path) -> None:
    """Set the connection up, check the file and bring its tables up to date."""
    path = file.path
    try:
        _settle(connection)
        file.take_up(connection)
        if path.stat().st_size <= QUICK_CHECK_BYTES:
            _check(connection, file)
        migrate(connection, path, copies)
    except sqlite3.Error as error:
        raise _refusal(error, path) from error
    except OSError as error:
        raise UnavailableError(f"the database {path} cannot be read ({error})", "look at its disk") from error
    connection.row_factory = sqlite3.Row


def _settle(connection: sqlite3.Connection) -> None:
    for name in (
        "lock_exclusively",
        "journal_ahead",
        "sync_fully",
        "bound_journal",
        "bound_cache",
        "sort_in_memory",
        "checkpoint_when_told",
    ):
        connection.execute(_SQL[name].text).fetchall()
    connection.execute(_SQL["check_references"].text)
    connection.execute(_BEGIN)
    connection.execute(_COMMIT)
    (level,) = connection.execute(_SQL["synchronous"].text).fetchone()
    assert level == 2, f"SQLite synchronous is {level}, expected 2 (FULL)"


def _check(connection: sqlite3.Connection, file: DatabaseFile) -> None:
    (verdict,) = connection.execute(_SQL["check_quickly"].text).fetchone()
    if verdict != "ok":
        raise ConfigurationError(
            f"the database {file.path} is damaged ({verdict})",
            "restore a backup, or move the file away to start afresh",
        )
    file.damaged = file.sums.differing()
    if file.damaged:
        # Whether it matters, fsck can say; a database that was mended by hand must not keep a fleet from working.
        data = {"database": str(file.path), "pages": file.damaged[:20]}
        _log.error("pages of the database are not what they were; stop the receiver and run fsck", extra={"data": data})


def _not_opened(error: OSError, path: Path) -> FleetError:
    words = f"the database {path} cannot be opened ({error})"
    return passing(error, words, "look at its disk") or ConfigurationError(
        words, "check that its folder exists and may be written"
    )


def _refusal(error: sqlite3.Error, path: Path) -> FleetError:
    kind = _primary(error)
    if kind == sqlite3.SQLITE_BUSY:
        return ConfigurationError(f"the database {path} is in use", "stop the other receiver or give --db another file")
    if kind in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return ConfigurationError(
            f"the file {path} is not a sound database ({error})", "restore a backup, or move the file away"
        )
    return _unavailable(error)


def _explained(error: Exception) -> Exception:
    """Return what the caller of a change gets: its own error, or a refusal by the database in words."""
    if not isinstance(error, sqlite3.Error):
        return error
    if isinstance(error, sqlite3.IntegrityError):
        _log.error("a change broke a rule of the database: %s", error, exc_info=error)
        return FleetError(f"the queue refused to spoil itself ({error})", "please report this")
    explained = _unavailable(error)
    explained.__cause__ = error
    return explained


def _unavailable(error: sqlite3.Error) -> UnavailableError:
    if _primary(error) == sqlite3.SQLITE_FULL:
        return StorageFullError(
            "the disk of the database is full; nothing was changed", "make room and try again", retry_after_s=30.0
        )
    return UnavailableError(
        f"the database cannot be written ({error}); nothing was changed", "look at its disk", retry_after_s=10.0
    )


def _no_copy(error: OSError) -> FleetError:
    return UnavailableError(f"the database cannot be copied ({error}); nothing was changed", "look at the disk")


def _nothing(*_: object) -> None:
    """Do nothing."""


def _primary(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _untrusted(error: sqlite3.Error) -> bool:
    """Tell whether nobody knows any more what is on the disk."""
    return _primary(error) in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _closed() -> UnavailableError:
    return UnavailableError("the receiver is stopping", "try again in a moment", retry_after_s=5.0)


_SQL: Final = sql.statements("sqlite")
_BEGIN, _COMMIT, _ROLLBACK = (_SQL[name].text for name in ("begin", "commit", "rollback"))
_SAVEPOINT, _RELEASE, _ROLLBACK_TO = (_SQL[name].text for name in ("savepoint", "release", "rollback_to"))
