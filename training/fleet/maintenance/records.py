"""The checks of the database: its pages, its structure, and the rules that hold between rows.

Guarantees that every page that is not what the receiver wrote is found where the sums of the pages are there, and that
every rule docs/reference/states.md states is checked on the rows. Changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from training.fleet.database import Query
from training.fleet.database.queries import (
    BROKEN_CHAINS,
    BROKEN_FENCES,
    BROKEN_HISTORY,
    BROKEN_LEASES,
    BROKEN_REFUNDS,
    BROKEN_RESULTS,
    HOSTS_MET,
    OPEN_ATTEMPTS,
    REQUIREMENTS,
    RESULTS_WITHOUT_ARTIFACT,
    SPECS,
    BrokenRow,
    SpecRow,
)
from training.fleet.database.sqlite.reading import NEWEST_SCHEMA, Reading
from training.fleet.maintenance.report import UNREADABLE, Report
from training.fleet.model.errors import ConfigurationError
from training.fleet.model.jobs import Terms

RESTORE: Final = "restore a backup: cis490-trainer-receiver restore BACKUP --replace"
REPORT: Final = f"{RESTORE}; report this if the disk is sound"
MAX_LISTED: Final = 100
"""Findings of one kind that are listed."""
_WINDOW: Final = 2000
_RULES: Final = (
    (BROKEN_LEASES, "its lease to be the one of its newest attempt, which goes on"),
    (OPEN_ATTEMPTS, "every attempt to have ended but the one that holds the lease"),
    (BROKEN_RESULTS, "one completed attempt, the newest, exactly when the job is completed"),
    (BROKEN_FENCES, "the newest attempt to be the newest row, at most at the fence"),
    (BROKEN_HISTORY, "the events to lead to the status the job has"),
    (BROKEN_CHAINS, "each event to begin where the one before ended"),
    (RESULTS_WITHOUT_ARTIFACT, "a row for the artifact of every completed job"),
)


def check_pages(reading: Reading, report: Report) -> None:
    """Compare the pages of the file with their sums, those in the log aside, and look at the log."""
    _check_log(reading, report)
    if reading.sums is None:
        report.note(
            str(reading.path),
            "no sums of its pages",
            "the file that ends in -sums",
            "the next start of the receiver writes one; until then a flipped bit in a value is not found",
        )
        return
    in_log = reading.log.pages if reading.log else frozenset()
    report.checked["pages"] = reading.sums.pages
    try:
        found = [page for page in reading.sums.differing() if page not in in_log]
    except OSError as error:
        report.find(str(reading.path), error, "a file that can be read to its end", f"look at the disk; {RESTORE}")
        return
    for page in found[:MAX_LISTED]:
        report.find(
            f"{reading.path}, page {page}",
            "bytes that are not what the receiver wrote",
            "those its sum was made of",
            f"{RESTORE}; or, if the file was changed by hand on purpose, remove {reading.path.name}-sums",
        )
    _count_rest(report, found, str(reading.path), "pages")


def _check_log(reading: Reading, report: Report) -> None:
    log, place = reading.log, f"{reading.path}-wal"
    if log is None:
        return
    if log.headless:
        report.find(place, "a log whose head cannot be read", "a log; what is in it is lost", RESTORE)
    elif log.lost_commits > 1:
        found = f"damage at frame {log.frames + 1}, with {log.lost_commits} commits behind it"
        report.find(place, found, "a log that can be read to its end", RESTORE)
    elif log.lost_commits:
        report.note(
            place,
            "a last commit that cannot be read",
            "nothing, or what a crash cut off before it was answered",
            "nothing is to be done after a power cut; otherwise compare the newest jobs with your backup",
        )


def check_structure(reading: Reading, report: Report) -> bool:
    """Run SQLite's own checks; True when rows can be looked at.

    Raises:
        ConfigurationError: The file has no tables of this program, or newer ones.
    """
    try:
        schema = reading.schema()
    except UNREADABLE as error:
        report.find(str(reading.path), error, "a database", RESTORE)
        return False
    if schema > NEWEST_SCHEMA:
        raise ConfigurationError(
            f"the database {reading.path} has schema {schema}, this program knows up to {NEWEST_SCHEMA}",
            "install the newer version",
        )
    damage = reading.damage()
    for words in damage[:MAX_LISTED]:
        report.find(str(reading.path), words.removeprefix("*** in database main ***\n"), "a sound database", RESTORE)
    _count_rest(report, damage, str(reading.path), "kinds of damage")
    if schema < NEWEST_SCHEMA and not damage:
        raise _too_old(reading, schema)
    return schema == NEWEST_SCHEMA


def _too_old(reading: Reading, schema: int) -> ConfigurationError:
    if schema == 0:
        return ConfigurationError(
            f"the database {reading.path} has no tables of this program",
            "if its first start was cut off, start the receiver once, which makes them, otherwise give --db the "
            "right file",
            expected=f"those of schema {NEWEST_SCHEMA}",
        )
    return ConfigurationError(
        f"the database {reading.path} has schema {schema}, this program checks {NEWEST_SCHEMA}",
        "start the receiver once, which brings it up to date, or use the older version",
    )


def check_rows(reading: Reading, report: Report) -> None:
    """Check every job and the rules between rows."""
    with readable(reading, report, "job"):
        for row in _jobs(reading):
            report.checked["jobs"] += 1
            _check_identity(row, report)
    for rule, expected in _RULES:
        _check_rule(reading, report, rule, expected)
    refunds = Terms().refunds
    _check_rule(reading, report, BROKEN_REFUNDS, f"at most {refunds}", refunds=refunds)
    with readable(reading, report, "requirement"):
        for needs in reading.rows(REQUIREMENTS):
            _check_json(f"requirement {needs.id}", needs.body, report)
    with readable(reading, report, "worker"):
        for host in reading.rows(HOSTS_MET):
            _check_json(f"host {host.name}", host.capability, report)


def _jobs(reading: Reading) -> Iterator[SpecRow]:
    after = 0
    while rows := list(reading.rows(SPECS, after=after, limit=_WINDOW)):
        yield from rows
        after = rows[-1].seq


@contextmanager
def readable(reading: Reading, report: Report, table: str) -> Iterator[None]:
    """Turn what damaged rows raise into a finding."""
    try:
        yield
    except UNREADABLE as error:
        report.find(f"{reading.path}, table {table}", error, "rows that can be read", RESTORE)


def _check_identity(row: SpecRow, report: Report) -> None:
    place = f"job {row.id}"
    made = hashlib.sha256(row.spec.encode()).hexdigest()
    if made != row.id:
        report.find(place, f"a specification of job {made}", "the one its id is made of", RESTORE)
        return
    spec = json.loads(row.spec)
    if (spec["model"], spec["mode"]) != (row.model, row.mode):
        report.find(place, f"{row.model} {row.mode}", f"{spec['model']} {spec['mode']} as specified", RESTORE)


def _check_rule(reading: Reading, report: Report, rule: Query[BrokenRow], expected: str, **values: int) -> None:
    with readable(reading, report, "job"):
        broken = list(reading.rows(rule, **values))
        for row in broken[:MAX_LISTED]:
            report.find(f"job {row.id}", row.found, expected, REPORT)
        _count_rest(report, broken, "jobs", f"of rule {rule.name}")


def _check_json(place: str, text: str, report: Report) -> None:
    try:
        json.loads(text)
    except (TypeError, ValueError) as error:
        report.find(place, f"text that cannot be read ({error})", "JSON", RESTORE)


def _count_rest(report: Report, found: Sequence[object], place: str, what: str) -> None:
    if len(found) > MAX_LISTED:
        report.find(place, f"{len(found) - MAX_LISTED} more {what}", "none", RESTORE)
