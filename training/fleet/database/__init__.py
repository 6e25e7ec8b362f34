"""The database of the fleet: one protocol, and one folder for each database that fulfils it.

`protocol` says what a database must do, `queries` which rows its statements answer with. Who works with a database
imports from here and knows no dialect; `open_database` chooses one.
"""

from __future__ import annotations

from pathlib import Path

from training.fleet.database.protocol import Answer, Database, Transaction
from training.fleet.database.queries import Query
from training.fleet.database.sqlite import Sqlite

__all__ = ["Answer", "Database", "Query", "Transaction", "open_database"]


def open_database(path: Path, copies: Path | None = None) -> Database:
    """Open or make the database and bring its tables up to date.

    Args:
        path: The database file. Its folder must exist.
        copies: Folder for the copy that is made before older tables are brought up to date; the folder of the file
            when left out.

    Raises:
        ConfigurationError: Another process has it open, it is damaged, or it is newer than this program.
        UnavailableError: The disk refuses.
    """
    return Sqlite.open(path, copies)
