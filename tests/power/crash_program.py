"""The programs whose disk is watched: the receiver as it is, with checkpoints that come early.

python crash_program.py receiver ARGUMENTS     the receiver, `restore` included
python crash_program.py upgrade DATABASE COPIES    opens a database with steps that are yet to come
python crash_program.py forget DATABASE        gives up the sums of a database
"""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from typing import Final

from training.fleet.database import statements as sql
from training.fleet.database.sqlite import Sqlite, opening, upkeep
from training.fleet.database.sqlite.pages import PageSums
from training.fleet.receiver import main

CHECKPOINT_CHANGES: Final = 30
NEWEST: Final = max(sql.migrations("sqlite"))
LATER: Final = {
    **sql.migrations("sqlite"),
    NEWEST + 1: "ALTER TABLE job ADD COLUMN note TEXT NOT NULL DEFAULT ''; CREATE INDEX job_noted ON job (note)",
    NEWEST + 2: "CREATE TABLE note (job INTEGER NOT NULL REFERENCES job (seq)) STRICT; "
    "INSERT INTO note SELECT seq FROM job;",
}


def weaken(level: str) -> None:
    """Have commits wait for less than they do: the receiver itself checks that they don't."""
    settle = opening.settle

    def settled(connection: sqlite3.Connection) -> None:
        settle(connection)
        connection.execute(f"PRAGMA synchronous = {level}")

    opening.settle = settled


def upgrade(database: Path, copies: Path) -> None:
    """Open and close a database with migrations of the future."""
    upkeep.MIGRATIONS = LATER
    Sqlite.open(database, copies).close()


def forget(database: Path) -> None:
    """Give up the sums of a database, as a receiver does whose disk fails."""
    descriptor = os.open(database, os.O_RDONLY)
    PageSums(database, descriptor).forget()
    os.close(descriptor)


if __name__ == "__main__":
    name, *words = sys.argv[1:]
    sys.modules["uvloop"] = None  # type: ignore[assignment]  # its calls read sockets and files alike
    upkeep.CHECKPOINT_CHANGES = CHECKPOINT_CHANGES
    if level := os.environ.get("WEAKER_SYNCHRONOUS"):
        weaken(level)
    if name == "receiver":
        sys.exit(main(words))
    {"upgrade": upgrade, "forget": forget}[name](*map(Path, words))
