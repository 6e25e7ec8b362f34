"""The embedded database: one connection on one writer thread that groups commits.

Owns the order of changes and who is answered when. Guarantees that changes run one after the other in the order they
came, that each is whole or undone, and that an answer is given only after the commit that holds it is on the disk: all
changes that wait share one commit. A copy is made while changes go on. Leaves the batch to `transaction`, the first
look at the file to `opening`, the sums of pages to `pages`, and checkpoints, copies and upgrades to `upkeep`.
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
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from training.fleet.database.protocol import Answer, Transaction
from training.fleet.database.sqlite.opening import prepare
from training.fleet.database.sqlite.refusals import (
    closed,
    explained,
    no_copy,
    not_opened,
    refusal,
    unavailable,
    untrusted,
)
from training.fleet.database.sqlite.transaction import SqliteTransaction
from training.fleet.database.sqlite.upkeep import DatabaseFile, copy_database, disk_failed, sync_copy
from training.fleet.model.errors import FleetError, UnavailableError

T = TypeVar("T")

MAX_BATCH: Final = 256
"""Most changes that share a commit: with more of them, the first would wait too long for its answer."""
SLOW_COMMIT_S: Final = 0.001
"""If commits take longer than this, wait briefly so that several changes share one fsync."""
GROUP_WAIT_SHARE: Final = 0.25
"""How long to wait for further changes, as a share of what the last commit took."""
GROUP_WAIT_CAP_S: Final = 0.004
CHECK_PAGES: Final = 256
"""Pages compared with their sums in one go."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    """One change that waits, or was run and waits for its commit.

    Attributes:
        change: What to do in the batch.
        answer: Gets the result.
        posted: Answered through `deliver`.
        alone: What to do between two batches instead of `change`.
        result: What it returned.
        error: What it ended with.
    """

    change: Callable[[Transaction], Any]
    answer: Answer
    posted: bool
    alone: Callable[[], Any] | None = None
    result: Any = None
    error: BaseException | None = None

    def give(self) -> None:
        """Answer the caller."""
        self.answer(self.result, self.error)


class Sqlite:
    """An SQLite file behind its writer thread.

    Attributes:
        deliver: Called on the writer thread after each batch with one callable per change that gives its answer. The
            default calls them at once; an event loop sets it to hand them over in one piece.
        on_broken: Called once when the disk no longer takes writes reliably; the process should end.
        broken: What the disk said then or at the end, None while all is well.
    """

    def __init__(self, connection: sqlite3.Connection, file: DatabaseFile, *, inline: bool = False) -> None:
        self.deliver: Callable[[list[Callable[[], None]]], None] = _answer_all
        self.on_broken: Callable[[UnavailableError], None] = lambda _error: None
        self.broken: UnavailableError | None = None
        self._connection = connection
        self._file = file
        self._transaction = SqliteTransaction(connection)
        self._later: deque[_Entry] = deque()
        self._inbox: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._expected = 1
        self._group_wait_s = 0.0
        self._closed = False
        self._door = threading.Lock()
        self._busy = False
        self._thread: threading.Thread | None = None
        if not inline:
            self._thread = threading.Thread(target=self._serve, name="database", daemon=True)
            self._thread.start()

    @classmethod
    def open(cls, path: Path, copies: Path | None = None, *, inline: bool = False) -> Sqlite:
        """Open or make the file, bring its tables up to date and start the writer.

        Args:
            path: The database file. Its folder must exist.
            copies: Folder for the copy that is made before older tables are brought up to date; the folder of the
                file when left out.
            inline: Start no thread: each change runs in the thread that asks, before `submit` or `post` returns. For
                a program that has one thing to do, and for tests that decide what shares a batch.

        Raises:
            ConfigurationError: Another process has it open, it is damaged, or it is newer than this program.
            UnavailableError: The disk refuses.
        """
        with contextlib.ExitStack() as stack:
            try:
                file = DatabaseFile(path)
                stack.callback(file.close)
                connection = sqlite3.connect(
                    # Transactions are begun by name; Python's own begin would come before the first write only, and
                    # never before a read.
                    path,
                    timeout=0,
                    isolation_level=None,
                    check_same_thread=False,
                    cached_statements=512,
                )
            except OSError as error:
                raise not_opened(error, path) from error
            except sqlite3.Error as error:
                raise refusal(error, path) from error
            stack.callback(connection.close)
            try:
                prepare(connection, file, copies or path.parent)
            except FleetError as error:
                # Closing the connection would let SQLite write once more to a disk that has just lost a write.
                if disk_failed(error.__cause__):
                    stack.pop_all()
                    file.abandon(connection)
                raise
            stack.pop_all()
        return cls(connection, file, inline=inline)

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
            future.set_exception(closed())
        return future

    def post(self, change: Callable[[Transaction], Any], answer: Answer) -> None:
        """Hand a change over; `answer` gets its result or its error, through `deliver`.

        The cheap way for an event loop, which is woken once for a whole batch.

        Args:
            change: What to do.
            answer: Gets the result.
        """
        if not self._put(_Entry(change, answer, posted=True)):
            self.deliver([lambda: answer(None, closed())])

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
            raise no_copy(error) from error

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
            raise closed()
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
        if self._thread is not None:
            self._thread.join()
        elif first:
            self._serve()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Put what is asked meanwhile into one batch that runs at the end; of a database in the in-line mode alone."""
        assert self._thread is None
        self._busy = True
        try:
            yield
        finally:
            self._run_inline()

    def _put(self, entry: _Entry) -> bool:
        with self._door:
            accepted = not self._closed
            if accepted:
                self._inbox.put(entry)
        # A change that asks for another one is still running: the loop that runs it takes the other one up.
        if accepted and self._thread is None and not self._busy:
            self._run_inline()
        return accepted

    def _run_inline(self) -> None:
        """Run what waits, in this thread."""
        self._busy = True
        try:
            while self._later or not self._inbox.empty():
                entry = self._next()
                assert entry is not None
                self._take(entry)
        finally:
            self._busy = False

    def _serve(self) -> None:
        while (entry := self._next()) is not None:
            self._take(entry)
        self._leave()

    def _take(self, entry: _Entry) -> None:
        if entry.alone is None:
            self._group(entry)
        else:
            self._run_alone(entry)
        self._tend()

    def _leave(self) -> None:
        """Empty the log and let go of the file, unless the disk has failed."""
        if self.broken is None:
            try:
                self._file.leave(self._connection)
            except sqlite3.Error as error:
                _log.warning("the log was not emptied at the end: %s", error)
                if untrusted(error):
                    self.broken = unavailable(error)
        # A broken database stays open, so that its locks keep every other program off the file.
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
            entry.error = unavailable(error) if isinstance(error, sqlite3.Error) else no_copy(error)
        except Exception as error:  # noqa: BLE001 - the caller gets it; the writer must live on
            entry.error = error
        entry.give()

    def _breathe(self) -> None:
        """Run one batch of what waits, in the middle of a copy."""
        try:
            entry = self._inbox.get_nowait()
        except queue.Empty:
            return
        # The end waits until the copy is made.
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
                # A broken database takes nothing more, but everybody who waits is told.
                batch.append(entry)
                if lost is None and not self._run(entry):
                    self._run_again(batch)
            self._commit(batch)
        except sqlite3.Error as error:
            lost = self._lose(error)
        if lost is not None:
            for entry in batch:
                entry.result, entry.error = None, lost
        # Threads that wait for a future are let go first: each of them holds something up.
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
            if self._group_wait_s and taken < self._expected and self._transaction.writes:
                # Those answered last are about to ask again. A short wait for them costs less than a second sync.
                deadline = deadline or time.monotonic() + self._group_wait_s
                wait_s = max(0.0, deadline - time.monotonic())
            try:
                entry = self._inbox.get(timeout=wait_s)
            except queue.Empty:
                return
            if entry is None:
                self._inbox.put(None)
                return
            # It must run without an open transaction, so it ends this batch.
            if entry.alone is not None:
                self._later.append(entry)
                return
            yield entry

    def _commit(self, batch: list[_Entry]) -> None:
        begun = time.monotonic()
        self._transaction.commit()
        took_s = time.monotonic() - begun
        # Those who were answered now, and those who came meanwhile, are who the next batch can expect.
        self._expected = len(batch) + self._inbox.qsize()
        self._group_wait_s = min(took_s * GROUP_WAIT_SHARE, GROUP_WAIT_CAP_S) if took_s > SLOW_COMMIT_S else 0.0

    def _run(self, entry: _Entry) -> bool:
        """Run one change; False when it failed after a write and cannot be undone without the rest of its batch.

        Raises:
            sqlite3.Error: The whole batch is lost, because SQLite has rolled it back already.
        """
        transaction = self._transaction
        entry.result = entry.error = None
        try:
            entry.result = entry.change(transaction)
        except Exception as error:
            if transaction.entangled:
                return False
            if transaction.undo() and isinstance(error, sqlite3.Error):
                raise
            entry.error = explained(error)
        else:
            transaction.keep()
        return True

    def _run_again(self, batch: list[_Entry]) -> None:
        """Undo a batch and run it again with a savepoint for each change, so that the one that fails fails alone.

        All of it may run twice: the first change that may not gets a savepoint, and so does every change behind it.
        """
        self._transaction.begin_again()
        # The error of the one that fails is now its own; the results of the others replace those of the first run.
        for entry in batch:
            self._run(entry)

    def _lose(self, error: sqlite3.Error) -> UnavailableError:
        """Give up the batch that failed to commit, and the database when the disk cannot be trusted any more."""
        lost = unavailable(error)
        self._transaction.abandon()
        # After a failed sync the kernel may drop the dirty pages and report success at the next one.
        if untrusted(error):
            self.broken = lost
            self.on_broken(lost)
        return lost


def _answer_all(answers: list[Callable[[], None]]) -> None:
    for answer in answers:
        answer()


def _nothing(*_: object) -> None:
    """Do nothing."""
