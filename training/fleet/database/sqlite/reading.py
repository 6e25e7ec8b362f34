"""A database file that is looked at and never changed.

Owns the way to read the file of a receiver that does not run, and copies. Guarantees that not a byte of the file or
its log changes, that a receiver which runs is noticed, and that none can start meanwhile. Reads damaged files as far
as they can be read. Leaves what the rows mean to the caller.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from training.fleet.database import statements as sql
from training.fleet.database.queries import Query
from training.fleet.database.sqlite.pages import LogState, PageSums, log_path, read_log
from training.fleet.model.errors import ConfigurationError

R = TypeVar("R")

LOCKED_FROM: Final = 0x40000000
"""First of the bytes that SQLite locks: pending, reserved and 510 shared ones."""
# The whole range, so that neither a reader nor a writer of SQLite can begin.
LOCKED_BYTES: Final = 512

DatabaseError: Final = (sqlite3.Error, UnicodeDecodeError)
"""What reading a damaged file can raise; the second comes from messages that quote the damage."""


class Reading:
    """A database open for reading; `of_receiver` and `of_copy` make one.

    Attributes:
        path: The file.
        sums: The sums of its pages; None for a copy and where there are none.
        log: The log beside it; None when it is empty or not there.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        sums: PageSums | None = None,
        log: LogState | None = None,
    ) -> None:
        self.path = path
        self.sums = sums
        self.log = log
        self._connection = connection
        # One damaged text must not keep all other rows from being read.
        connection.text_factory = _readable

    def rows(self, query: Query[R], **values: Any) -> Iterator[R]:
        """Yield the answer of a query.

        Raises:
            DatabaseError: The file is damaged there.
        """
        for row in self._connection.execute(_SQL[query.name].text, values):
            yield query.make(row)

    def schema(self) -> int:
        """Return the number of the newest migration that the file holds.

        Raises:
            DatabaseError: The file is no database.
        """
        (number,) = self._connection.execute(_SQL["schema_number"].text).fetchone()
        return int(number)

    def damage(self) -> list[str]:
        """Return what SQLite's own checks find, in its words; empty when they find nothing."""
        found: list[str] = []
        for name in ("check_wholly", "broken_references"):
            try:
                rows = self._connection.execute(_SQL[name].text).fetchall()
            except DatabaseError as error:
                found.append(str(error))
            else:
                found += [" ".join(map(str, row)) for row in rows if tuple(row) != ("ok",)]
        return found


NEWEST_SCHEMA: Final = max(sql.migrations("sqlite"))


@contextmanager
def of_receiver(path: Path) -> Iterator[Reading]:
    """Open the file of a receiver that does not run, and keep one from starting meanwhile.

    Raises:
        ConfigurationError: There is no such file, it cannot be opened, or a receiver has it open.
    """
    with contextlib.ExitStack() as stack:
        descriptor = _locked(path, stack)
        for left in path.parent.glob(f"{path.name}.fsck-*"):  # an earlier check was killed over its copy
            shutil.rmtree(left, ignore_errors=True)
        log = read_log(path)
        sums = PageSums(path, descriptor)
        known = sums if sums.load() else None
        # SQLite would merge a log into the file, and nothing may change here; so that is done with a copy.
        quiet = not log_path(path).exists()
        connection = stack.enter_context(_connected(path if quiet else _merged(path, stack), quiet=quiet))
        yield Reading(path, connection, known, log)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep a receiver from starting on a file; a file that is not there needs no keeping.

    Raises:
        ConfigurationError: A receiver has it open.
    """
    with contextlib.ExitStack() as stack:
        if path.exists():
            _locked(path, stack)
        yield


@contextmanager
def of_copy(path: Path) -> Iterator[Reading]:
    """Open a copy that nobody writes."""
    with _connected(path, quiet=True) as connection:
        yield Reading(path, connection)


def _locked(path: Path, stack: contextlib.ExitStack) -> int:
    """Return a descriptor that holds all of SQLite's locks on the file."""
    for mode, kind in ((os.O_RDWR, fcntl.LOCK_EX), (os.O_RDONLY, fcntl.LOCK_SH)):
        try:
            descriptor = os.open(path, mode | os.O_CLOEXEC)
        except PermissionError:
            continue
        except OSError as error:
            if mode == os.O_RDWR and not isinstance(error, FileNotFoundError):
                continue
            raise ConfigurationError(
                f"cannot read the database {path} ({error.strerror})", "give the receiver's own file with --db"
            ) from error
        stack.callback(os.close, descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigurationError(f"{path} is no file", "give the receiver's own database with --db")
        try:
            fcntl.lockf(descriptor, kind | fcntl.LOCK_NB, LOCKED_BYTES, LOCKED_FROM)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise ConfigurationError(f"cannot lock the database {path} ({error})", "look at its disk") from error
            raise ConfigurationError(
                f"the database {path} is in use", "stop the receiver first, or ask it: cis490-jobs fsck"
            ) from error
        return descriptor
    raise ConfigurationError(f"cannot read the database {path} (permission denied)", "run this as the receiver's user")


def _merged(path: Path, stack: contextlib.ExitStack) -> Path:
    """Return a copy beside the file that SQLite may merge the log into."""
    try:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{path.name}.fsck-", dir=path.parent)))
        shutil.copyfile(path, folder / path.name)
        shutil.copyfile(log_path(path), log_path(folder / path.name))
    except OSError as error:
        raise ConfigurationError(
            f"the database {path} has a log from a receiver that was killed, and cannot be copied to look at both "
            f"({error})",
            "make room beside it",
        ) from error
    return folder / path.name


@contextmanager
def _connected(path: Path, *, quiet: bool) -> Iterator[sqlite3.Connection]:
    """Open a file; a quiet one has no log, and SQLite takes no locks on it, because they would replace ours.

    It is opened for writing although nothing is written: on a file that it may only read, SQLite does not look at
    the rules of single rows. Where it may not write, those are left out.
    """
    name = path.resolve().as_uri()
    connection = _opened(f"{name}?vfs=unix-none" if quiet else name)
    if connection is None:
        connection = sqlite3.connect(f"{name}?mode=ro&immutable=1", uri=True, isolation_level=None)
    with contextlib.closing(connection):
        yield connection


def _readable(data: bytes) -> str:
    """Return text with what is no UTF-8 replaced, so that one damaged value hides no other."""
    return data.decode(errors="replace")


def _opened(name: str) -> sqlite3.Connection | None:
    """Return a connection that can read, None when there can be none."""
    try:
        connection = sqlite3.connect(name, uri=True, isolation_level=None)
    except sqlite3.Error:
        return None
    try:
        for statement in ("lock_exclusively", "schema_number"):
            connection.execute(_SQL[statement].text).fetchall()
    except DatabaseError:
        connection.close()
        return None
    return connection


_SQL: Final = sql.statements("sqlite")
