"""A database of version 0.1.0 that is brought up to date: the copy before, the steps, the sums of pages, the start."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from boundary import Boundary
from trial import Trial, wrong_answers

from training.fleet.database.sqlite import Sqlite
from training.fleet.database.sqlite.pages import PageSums
from training.fleet.model.errors import EX_FAILURE, FleetError
from training.fleet.queue import Queue

OLD = Path(__file__).parents[1] / "vectors" / "schemas" / "0.1.0.sql"


class UpgradeFlow:
    """The upgrade.

    Args:
        boundary: The watcher.
        scratch: Folder for its files.
    """

    def __init__(self, boundary: Boundary, scratch: Path) -> None:
        self._boundary = boundary
        self._folder = scratch / "upgrade"
        self._before = scratch / "before"
        self._before.mkdir(parents=True)
        with closing(sqlite3.connect(self._before / "queue.db")) as connection:
            connection.executescript(OLD.read_text())
        # What an earlier start was killed over must not lie there for ever.
        (self._before / "backups").mkdir()
        (self._before / "backups" / "queue.db.schema-1.20260101T000000Z.part").write_bytes(b"half a copy")
        self._old = _look(self._before / "queue.db")
        self._new: Any = None
        self.trial()
        self._new = _look(self._folder / "queue.db")

    def trial(self, at: int = 0, error: int = 0) -> Trial:
        """Disturb one upgrade, start again, and look at tables, rows, sums and copies."""
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._before, self._folder)
        ran = self._boundary.run(self._program, self._folder, at, error)
        trial = Trial(ran, wrong=wrong_answers(ran, error, []))
        if ran.status != 0:
            trial.wrong += self._between()
            trial.again = self._boundary.run(self._program, self._folder, watched=False)
            if trial.again.status != 0:
                trial.wrong.append(f"started again: {trial.again}")
        trial.wrong += self._at_the_end()
        return trial

    def _program(self) -> int:
        try:
            database = Sqlite.open(self._folder / "queue.db", self._folder / "backups")
        except FleetError as error:
            sys.stderr.write(f"{error.message}\n")
            return error.exit_status
        try:
            database.submit(Queue().start).result()
        except FleetError as error:
            sys.stderr.write(f"{error.message}\n")
            return error.exit_status
        finally:
            database.close()
        return 0 if database.broken is None else EX_FAILURE

    def _between(self) -> list[str]:
        """The tables are the old ones or the new ones, each whole."""
        other = self._folder.with_name("looked-at")
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(self._folder, other)
        found = _look(other / "queue.db")
        return [] if found in (self._old, self._new) else [f"neither old nor new tables: {found}"]

    def _at_the_end(self) -> list[str]:
        wrong = [] if self._new in (None, _look(self._folder / "queue.db")) else ["the rows are not the new ones"]
        copies = sorted((self._folder / "backups").iterdir())
        wrong += [f"{path.name} is no copy of what was there" for path in copies if not self._copy_of_old(path)]
        if not copies:
            wrong.append("there is no copy of what was there")
        expected = ["backups", "queue.db", "queue.db-sums"]
        if (files := sorted(path.name for path in self._folder.iterdir())) not in (expected, expected[:2]):
            wrong.append(f"files left: {files}")
        return wrong + _differing(self._folder / "queue.db")

    def _copy_of_old(self, path: Path) -> bool:
        return bool(re.fullmatch(r"queue\.db\.schema-1\.\d{8}T\d{6}Z(-\d+)?", path.name)) and _look(path) == self._old


_TABLES = "SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2"


def _look(database: Path) -> Any:
    """Return number, soundness, tables and rows of a database, without what the start writes down of itself."""
    with closing(sqlite3.connect(database)) as connection:

        def asked(statement: str) -> list[Any]:
            return connection.execute(statement).fetchall()

        return (
            asked("PRAGMA user_version"),
            asked("PRAGMA integrity_check"),
            [(kind, name, re.sub(r"\s+", " ", str(words))) for kind, name, words in asked(_TABLES)],
            asked("SELECT seq, id, status, lease_id, artifact, fence FROM job ORDER BY seq"),
            asked("SELECT count(*) FROM attempt"),
            asked("SELECT id, at, actor, job, action, from_status, to_status, why FROM event ORDER BY id"),
        )


def _differing(database: Path) -> list[str]:
    descriptor = os.open(database, os.O_RDONLY)
    try:
        sums = PageSums(database, descriptor)
        pages = sums.differing() if sums.load() else []
    finally:
        os.close(descriptor)
    return [f"pages {pages} are not what their sums say"] if pages else []
