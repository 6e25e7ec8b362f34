"""What is done with a database file besides changes: checkpoints, copies and upgrades.

Guarantees that the sums of the pages are on the disk before the log may start again, that a copy is of one moment, and
that an upgrade is one transaction after a copy of what was there. Runs on whatever thread owns the connection.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from training.fleet.database import statements as sql
from training.fleet.database.sqlite.pages import PageSums, log_path, sums_path
from training.fleet.files import make_folder, sync_folder, unused
from training.fleet.model.errors import ConfigurationError, passing

CHECKPOINT_CHANGES: Final = 4000
"""Rows changed between two checkpoints at most."""
CHECKPOINT_BYTES: Final = 16 * 2**20
"""Length of the log that brings a checkpoint as well."""
COPY_PAGES: Final = 64
"""Pages copied in one go, after which changes that wait have their turn."""

_log = logging.getLogger(__name__)
_SQL: Final = sql.statements("sqlite")
MIGRATIONS: Final = sql.migrations("sqlite")


class DatabaseFile:
    """The database file besides its connection: its sums, and when they are brought up to date.

    The descriptor stays open as long as the connection, because closing it would drop SQLite's locks.

    Source: https://www.sqlite.org/howtocorrupt.html, section 2.2.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log = log_path(path)
        self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self.sums = PageSums(path, self._descriptor)
        self.damaged: list[int] = []
        self._changes = 0

    def close(self) -> None:
        """Let go of the file, after its connection."""
        os.close(self._descriptor)

    def abandon(self, connection: sqlite3.Connection) -> None:
        """Leave file, log and connection as they are until the process ends, because the disk has failed.

        What a failed sync has left on the disk nobody knows. SQLite would sync the log again when the connection is
        closed, and drop the log when that says all is well. The next start reads it as after a crash.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))

    def take_up(self, connection: sqlite3.Connection) -> None:
        """Take up the sums of the last life, or make new ones, and empty the log that a crash has left."""
        if not self.sums.load():
            if sums_path(self.path).exists():
                _log.warning("the sums of the database's pages cannot be read and are made again")
            self.sums.measure()
        try:
            self.checkpoint(connection)
        except sqlite3.Error as error:
            self._doubt_sums(error)
            raise

    def tend(self, connection: sqlite3.Connection) -> None:
        """Empty the log when it is time.

        Raises:
            sqlite3.Error: The disk can no longer be trusted.
        """
        if connection.total_changes - self._changes >= CHECKPOINT_CHANGES or self._log_bytes() > CHECKPOINT_BYTES:
            try:
                self.checkpoint(connection)
            except sqlite3.Error as error:
                # What a failed write or sync has left on the disk nobody knows; the next one may say all is well.
                if disk_failed(error):
                    raise
                # The log stays and grows; what was answered is in it.
                _log.warning("the log was not moved into the database: %s", error)

    def _log_bytes(self) -> int:
        try:
            return self._log.stat().st_size
        except OSError:
            return 0

    def checkpoint(self, connection: sqlite3.Connection) -> None:
        """Move the log into the file, then write the sums down. Only then may the log start again."""
        _, frames, moved = connection.execute(_SQL["checkpoint"].text).fetchone()
        self._changes = connection.total_changes
        # Somebody reads an older state. The sums must not run ahead of the file.
        if moved < frames:
            _log.warning("only a part of the log was moved into the database; the rest follows later")
            return
        try:
            if frames > 0:
                self.sums.absorb(frames)
            self.sums.keep()
        except OSError as error:
            _log.warning("the sums of the database's pages were not written and are made again: %s", error)
            with contextlib.suppress(OSError):
                self.sums.forget()

    def leave(self, connection: sqlite3.Connection) -> None:
        """Empty the log at the end.

        Raises:
            sqlite3.Error: The disk refuses. What was answered is on it, in the log or in the file.
        """
        try:
            self.checkpoint(connection)
            connection.execute(_SQL["empty_log"].text).fetchall()
        except sqlite3.Error as error:
            self._doubt_sums(error)
            raise

    def _doubt_sums(self, error: sqlite3.Error) -> None:
        """Give the sums up after a failed checkpoint, unless the connection is abandoned.

        SQLite tries once more to move the log into the file when the connection is closed, and the sums are not told.
        """
        if not disk_failed(error):
            with contextlib.suppress(OSError):
                self.sums.forget()


def disk_failed(error: BaseException | None) -> bool:
    """Tell whether a read, a write or a sync failed, so that nobody knows what is on the disk."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR


def migrate(connection: sqlite3.Connection, path: Path, copies: Path) -> None:
    """Bring the tables up to date: all steps in one transaction, after a copy of what was there.

    Args:
        connection: The database, locked.
        path: Its file.
        copies: Folder for the copy.

    Raises:
        ConfigurationError: It is newer than this program, cannot be copied, or a step does not work.
        sqlite3.Error: The disk refuses.
    """
    (number,) = connection.execute(_SQL["schema_number"].text).fetchone()
    newest = max(MIGRATIONS)
    if number > newest:
        raise ConfigurationError(
            f"the database {path} has schema {number}, this program knows up to {newest}", "install the newer version"
        )
    if number == newest:
        return
    # A new file has nothing to lose.
    if number > 0:
        _copy_before(connection, path, copies, number)
    steps = ";".join(MIGRATIONS[step] for step in range(number + 1, newest + 1))
    begin = _SQL["begin"].text
    # A table is made again by renaming, and between the steps rows refer to one that is not there. It cannot be set
    # within a transaction.
    connection.execute(_SQL["ignore_references"].text)
    try:
        connection.executescript(f"{begin}{steps};PRAGMA user_version = {newest};")
        broken = connection.execute(_SQL["broken_references"].text).fetchall()
        if broken:
            why = f"{len(broken)} rows of {broken[0][0]} name rows that are not there"
            raise _not_migrated(path, number, newest, why)
        connection.execute(_SQL["commit"].text)
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT):
            raise _not_migrated(path, number, newest, str(error)) from error
        raise
    finally:
        if connection.in_transaction:
            connection.execute(_SQL["rollback"].text)
        connection.execute(_SQL["check_references"].text)


def _copy_before(connection: sqlite3.Connection, path: Path, copies: Path, number: int) -> None:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = unused(copies / f"{path.name}.schema-{number}.{stamp}")
    part = target.with_name(f"{target.name}.part")
    try:
        make_folder(copies)
        for left in copies.glob(f"{path.name}.schema-*.part"):  # by a start that was killed over it
            left.unlink()
        copy_database(connection, part, _nothing)
        sync_copy(part)
        part.replace(target)
        sync_folder(copies)
    except OSError as error:
        words = f"the database {path} needs newer tables and cannot be copied to {target} first ({error})"
        raise passing(error, words, "make room") or ConfigurationError(
            words, "make room, or correct --backup-root"
        ) from error
    _log.info("copied before its tables are brought up to date", extra={"data": {"copy": str(target)}})


def _not_migrated(path: Path, number: int, newest: int, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the database {path} cannot go from schema {number} to {newest} ({why}); nothing was changed",
        "run fsck, or restore a backup",
    )


def copy_database(connection: sqlite3.Connection, target: Path, breathe: Callable[[], None]) -> None:
    """Copy page by page; what changes meanwhile is copied again, so that the end is one moment.

    Args:
        connection: The database, without an open transaction.
        target: A file that is not there yet.
        breathe: Called after each step; may run changes on the same connection.
    """
    # SQLite itself would open a file that is there and write into it.
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    try:
        with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy:
            # A copy that is cut off is thrown away, and one sync at the end is enough.
            for name in ("journal_never", "sync_never"):
                copy.execute(_SQL[name].text).fetchall()
            connection.backup(copy, pages=COPY_PAGES, progress=lambda *_: breathe())
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def sync_copy(target: Path) -> None:
    """Return when a copy is on the disk; one that cannot be is removed."""
    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _nothing() -> None:
    """Do nothing between two steps of a copy."""
