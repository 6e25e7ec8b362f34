"""How a connection is set up before the first change: settings, damage, older tables.

Guarantees that nobody else has the file, that a commit returns only once it is on the disk, and that the tables are
those of this program.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Final

from training.fleet.database import statements as sql
from training.fleet.database.sqlite.refusals import refusal
from training.fleet.database.sqlite.upkeep import DatabaseFile, migrate
from training.fleet.model.errors import ConfigurationError, UnavailableError

QUICK_CHECK_BYTES: Final = 32 * 2**20
"""Files up to this size are checked for damage at every start."""

_log = logging.getLogger(__name__)
_SQL: Final = sql.statements("sqlite")


def prepare(connection: sqlite3.Connection, file: DatabaseFile, copies: Path) -> None:
    """Set the connection up, check the file and bring its tables up to date."""
    path = file.path
    try:
        settle(connection)
        file.take_up(connection)
        # The check reads the whole file: a second for 100 MiB, and a start after a crash should be short.
        if path.stat().st_size <= QUICK_CHECK_BYTES:
            check(connection, file)
        migrate(connection, path, copies)
    except sqlite3.Error as error:
        raise refusal(error, path) from error
    except OSError as error:
        raise UnavailableError(f"the database {path} cannot be read ({error})", "look at its disk") from error


def settle(connection: sqlite3.Connection) -> None:
    """Take the file for this connection alone, and have commits return once they are on the disk."""
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
    # The lock is taken by the first transaction and not by the setting, so that a second receiver is refused here.
    connection.execute(_SQL["begin"].text)
    connection.execute(_SQL["commit"].text)
    (level,) = connection.execute(_SQL["synchronous"].text).fetchone()
    assert level == 2, f"SQLite synchronous is {level}, expected 2 (FULL)"


def check(connection: sqlite3.Connection, file: DatabaseFile) -> None:
    """Look for damage: structure first, then each page against its sum."""
    (verdict,) = connection.execute(_SQL["check_quickly"].text).fetchone()
    if verdict != "ok":
        raise ConfigurationError(
            f"the database {file.path} is damaged ({verdict})",
            "restore a backup, or move the file away to start afresh",
        )
    file.damaged = file.sums.differing()
    if file.damaged:
        # Whether it matters, fsck can say; a database that was repaired by hand must not keep a fleet from working.
        data = {"database": str(file.path), "pages": file.damaged[:20]}
        _log.error("pages of the database are not what they were; stop the receiver and run fsck", extra={"data": data})
