"""What SQLite refuses, in words for people, and whether the disk can still be trusted."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from training.fleet.model.errors import ConfigurationError, FleetError, StorageFullError, UnavailableError, passing

_log = logging.getLogger(__name__)


def not_opened(error: OSError, path: Path) -> FleetError:
    """Return what a start says when the system refuses the file."""
    words = f"the database {path} cannot be opened ({error})"
    return passing(error, words, "look at its disk") or ConfigurationError(
        words, "check that its folder exists and may be written"
    )


def refusal(error: sqlite3.Error, path: Path) -> FleetError:
    """Return what a start says when SQLite refuses the file."""
    kind = _primary(error)
    if kind == sqlite3.SQLITE_BUSY:
        return ConfigurationError(f"the database {path} is in use", "stop the other receiver or give --db another file")
    if kind in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return ConfigurationError(
            f"the file {path} is not a sound database ({error})", "restore a backup, or move the file away"
        )
    return unavailable(error)


def explained(error: Exception) -> Exception:
    """Return what the caller of a change gets: its own error, or a refusal by the database in words."""
    if not isinstance(error, sqlite3.Error):
        return error
    if isinstance(error, sqlite3.IntegrityError):
        _log.error("a change broke a rule of the database: %s", error, exc_info=error)
        return FleetError(f"the queue refused to spoil itself ({error})", "please report this")
    refused = unavailable(error)
    refused.__cause__ = error
    return refused


def unavailable(error: sqlite3.Error) -> UnavailableError:
    """Return what the caller of a change gets when it could not be written."""
    if _primary(error) == sqlite3.SQLITE_FULL:
        return StorageFullError(
            "the disk of the database is full; nothing was changed", "make room and try again", retry_after_s=30.0
        )
    return UnavailableError(
        f"the database cannot be written ({error}); nothing was changed", "look at its disk", retry_after_s=10.0
    )


def no_copy(error: OSError) -> FleetError:
    """Return what is said when a copy cannot be made."""
    return UnavailableError(f"the database cannot be copied ({error}); nothing was changed", "look at the disk")


def _primary(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def untrusted(error: sqlite3.Error) -> bool:
    """Return True if nobody knows any more what is on the disk."""
    return _primary(error) in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def closed() -> UnavailableError:
    """Return what the caller gets who comes after the end."""
    return UnavailableError("the receiver is stopping", "try again in a moment", retry_after_s=5.0)
