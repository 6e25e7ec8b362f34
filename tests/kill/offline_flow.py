"""`restore` and `fsck --repair`: what is done with the receiver's files while it does not run.

The database that is there has answers in its log which no checkpoint has moved yet, as a killed receiver leaves it.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from boundary import Boundary, Ran
from trial import Trial, wrong_answers, wrong_in_files

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from integrity_site import Site

from training.fleet import receiver
from training.fleet.database.sqlite import Sqlite
from training.fleet.maintenance.backup import BackupTask, back_up
from training.fleet.maintenance.report import Report, ignore

PLACES = {"--db": "queue.db", "--store-root": "store", "--incoming-root": "incoming", "--index-path": "index.jsonl"}
LEFTOVER = "0123456789abcdef" * 2 + ".part"


class OfflineFlow:
    """One of the two programs.

    Args:
        boundary: The watcher.
        scratch: Folder for its files.
        what: "restore" or "repair".
    """

    def __init__(self, boundary: Boundary, scratch: Path, what: str) -> None:
        self._boundary = boundary
        self._scratch = scratch
        self._site = Site(scratch / "receiver", fill=False)
        self._before = scratch.with_name("before")
        self._restores = what == "restore"
        self._lead_up()
        self._backup = _files(self._before / "backups")
        self._old = _rows(self._before / "receiver" / "queue.db")
        self._wanted: Any = None
        self.trial()
        self._wanted = self._found()

    def _lead_up(self) -> None:
        site = Site(self._scratch / "receiver")
        database = Sqlite.open(site.db)
        where = self._scratch / "backups"
        manifest = site.db.with_name("manifest.applied.toml")
        manifest.write_text("[manifest]\nschema = 1\n")
        order = BackupTask(where, "one", site.places, manifest, True, "2026-01-01T00:00:00Z", "0.1.0")
        back_up(database, order, Report(), ignore)
        database.submit(lambda tx: tx.run("remember", key="late", value="answered")).result()
        shutil.copytree(self._scratch, self._before)  # with its log, as if it had been killed here
        database.close()
        damaged = Site(self._before / "receiver", fill=False)
        damaged.artifacts = site.artifacts
        damaged.bundle(0).write_bytes(b"another bundle")
        if self._restores:
            shutil.rmtree(damaged.bundle(1).parent)
        damaged.places.index.write_text("no line of an index\n")
        (damaged.incoming / LEFTOVER).write_bytes(b"half an upload")

    def trial(self, at: int = 0, error: int = 0) -> Trial:
        """Disturb one run, run it again, and look at what came of it."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        shutil.copytree(self._before, self._scratch)
        ran = self._boundary.run(self._program, self._scratch, at, error)
        trial = Trial(ran, wrong=_badly_ended(ran, error) + self._nothing_lost())
        if ran.status != 0 or at:
            trial.again = self._boundary.run(self._program, self._scratch, watched=False)
            trial.wrong += self._not_done(trial.again) + self._nothing_lost()
        return trial if self._wanted is None else self._compared(trial)

    def _program(self) -> int:
        flags = [word for flag, name in PLACES.items() for word in (flag, str(self._site.folder / name))]
        if self._restores:
            return receiver.main(["restore", str(self._scratch / "backups" / "one"), "--replace", *flags])
        return receiver.main(["fsck", "--repair", *flags])

    def _not_done(self, again: Ran) -> list[str]:
        """The check finds the artifact that is lost for good, so that it never ends with 0."""
        return [] if again.status == (0 if self._restores else 1) else [f"run again: {again.status} {again.said}"]

    def _nothing_lost(self) -> list[str]:
        wrong = [] if _files(self._scratch / "backups") == self._backup else ["the backup was changed"]
        named = [path for path in self._site.folder.glob("queue.db*") if _is_database(path)]
        if self._old not in [_rows(path) for path in named]:
            wrong.append(f"the database that was there is lost: {sorted(path.name for path in named)}")
        return wrong

    def _found(self) -> Any:
        """What is there at the end, without what an earlier try left beside it."""
        files = _files(self._site.folder)
        kept = {name: data for name, data in files.items() if not re.search(r"queue\.db|^incoming/", name)}
        return kept, wrong_in_files(self._site.db, self._site.places), _rows(self._site.db)

    def _compared(self, trial: Trial) -> Trial:
        found = self._found()
        for what, is_now, should in zip(("files", "findings", "rows"), found, self._wanted, strict=True):
            if is_now != should:
                trial.wrong.append(f"the {what} are not those of an undisturbed run: {_short(is_now, should)}")
        left = [path.name for path in self._site.folder.iterdir() if re.search(r"part|\.fsck-", path.name)]
        return trial if not left else _with(trial, f"left: {left}")


def _badly_ended(ran: Ran, error: int) -> list[str]:
    """A person may be told as well that a file or folder cannot be used, which is status 78."""
    return [] if ran.status == 78 and "Traceback" not in ran.said else wrong_answers(ran, error, [])


def _with(trial: Trial, fault: str) -> Trial:
    trial.wrong.append(fault)
    return trial


def _short(found: Any, should: Any) -> str:
    if isinstance(found, dict):
        return str({name for name in found.keys() | should.keys() if found.get(name) != should.get(name)})
    return str(found)[:500]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _is_database(path: Path) -> bool:
    return bool(re.fullmatch(r"queue\.db(\.replaced-\d{8}T\d{6}Z(-\d+)?)?", path.name))


def _rows(database: Path) -> Any:
    """Return the jobs and the notes of a database with its log, without touching either."""
    copies = database.parent.parent.with_name("looked-at")
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir()
    for path in _with_log(database):
        shutil.copyfile(path, copies / path.name)
    with contextlib.closing(sqlite3.connect(copies / database.name)) as connection:
        jobs = connection.execute("SELECT seq, id, status, artifact FROM job ORDER BY seq").fetchall()
        return jobs, connection.execute("SELECT key, value FROM meta ORDER BY key").fetchall()


def _with_log(database: Path) -> Iterator[Path]:
    yield database
    if (log := database.with_name(f"{database.name}-wal")).exists():
        yield log
