"""One check of everything: database, store and index against each other.

Owns the order: pages and structure first, because rows of a damaged database prove nothing; then rows, artifacts,
index, leftovers.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from training.fleet.database import Database
from training.fleet.database.sqlite import Sqlite
from training.fleet.database.sqlite.reading import Reading, of_copy, of_receiver
from training.fleet.locks import file_held
from training.fleet.maintenance import records
from training.fleet.maintenance.artifacts import (
    CheckOptions,
    Places,
    check_artifacts,
    check_index,
    check_leftovers,
    listed,
)
from training.fleet.maintenance.report import Report
from training.fleet.model.errors import ConfigurationError
from training.fleet.store import Index, index_lines

UPLOAD_S: Final = 60.0
"""How long the row of an artifact may follow its last byte."""


def fsck(database: Path, places: Places, options: CheckOptions) -> Report:
    """Check the files of a receiver that does not run.

    Args:
        database: The database file.
        places: The other files.
        options: How much to do.

    Returns:
        What was found and done.

    Raises:
        ConfigurationError: A receiver runs on the database or on one of the places, or a file cannot be looked at at
            all.
    """
    report = Report()
    with (
        of_receiver(database) as reading,
        places.blobs.held(),
        file_held(places.index),
    ):
        records.check_pages(reading, report)
        if records.check_structure(reading, report):
            records.check_rows(reading, report)
            _check_files(reading, places, report, options)
        check_leftovers(places.blobs, report, repair=options.repair)
    if options.repair and report.lengths:
        _correct_lengths(database, places, report)
    return report


def fsck_running(source: Database, copy: Path, places: Places, options: CheckOptions, report: Report) -> None:
    """Check the files of a receiver that runs, without holding it up: rows are looked at in a copy.

    Leftovers of uploads are left out, because uploads go on.

    Args:
        source: The running database.
        copy: Where the copy goes; it is removed at the end.
        places: The other files.
        options: How much to do. Nothing is repaired.
        report: Gets what was found.

    Raises:
        FleetError: The copy cannot be made.
    """
    report.checked["pages"] = source.pages
    for page in source.differing_pages()[: records.MAX_LISTED]:
        report.find(
            f"the database, page {page}", "bytes that the receiver did not write", "those it wrote", records.RESTORE
        )
    copy.unlink(missing_ok=True)
    before = time.time() - UPLOAD_S
    source.copy(copy)
    try:
        with of_copy(copy) as reading:
            if records.check_structure(reading, report):
                records.check_rows(reading, report)
                with records.readable(reading, report, "artifact"):
                    check_artifacts(reading, places.blobs, report, replace(options, before=before))
                    _check_growing_index(reading, places.index, report)
    finally:
        copy.unlink(missing_ok=True)


def _check_growing_index(reading: Reading, index: Path, report: Report) -> None:
    """Check the index while artifacts are added: a line follows its row within moments."""
    for wait_s in (0.1, 1.0):
        if check_index(reading, index, Report(), surplus=True):
            return
        time.sleep(wait_s)
    check_index(reading, index, report, surplus=True)


def _check_files(reading: Reading, places: Places, report: Report, options: CheckOptions) -> None:
    sound = not report.findings
    # A row that a flipped bit changed must not send a good file to the quarantine or into the index.
    with records.readable(reading, report, "artifact"):
        check_artifacts(reading, places.blobs, report, replace(options, repair=options.repair and sound))
    with records.readable(reading, report, "artifact"):
        if not check_index(reading, places.index, report) and options.repair and sound:
            _repair_index(reading, places, report)
    if not sound:
        report.lengths.clear()
    if options.repair and not sound:
        report.note(str(reading.path), "damage", "a sound database before store or index are repaired", records.RESTORE)


def _correct_lengths(database: Path, places: Places, report: Report) -> None:
    """Give rows the lengths of their files, which hash to their names; then the index, which is made of the rows."""
    opened = Sqlite.open(database, inline=True)
    try:
        opened.submit(lambda tx: tx.many("correct_length", report.lengths)).result()
    finally:
        opened.close()
    if opened.broken is not None:
        raise opened.broken
    report.repaired += [f"artifact {row['sha256']}: its row says {row['size_bytes']} bytes" for row in report.lengths]
    with of_receiver(database) as reading, file_held(places.index):
        _repair_index(reading, places, report)


def _repair_index(reading: Reading, places: Places, report: Report) -> None:
    try:
        places.index.touch()
        Index(places.index).rebuild(index_lines(listed(reading)))
    except (ConfigurationError, OSError) as error:
        report.note(str(places.index), error, "a file that can be written", "look at the disk")
    else:
        report.repaired.append(f"{places.index}: written again from the database")
