"""`cis490-trainer-receiver fsck` and `restore`: what is done with a receiver's files while it does not run.

Owns their command lines and what they print. Leaves the checks to `maintenance`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TextIO

from training.fleet import settings
from training.fleet.blobs import open_blobs
from training.fleet.maintenance.artifacts import CheckOptions, Places
from training.fleet.maintenance.fsck import fsck
from training.fleet.maintenance.report import Report
from training.fleet.maintenance.restore import RestoreTarget, restore
from training.fleet.model.errors import EX_FAILURE, FleetError
from training.fleet.receiver import options
from training.fleet.settings import Settings

PLACES: Final = ("db", "store_root", "incoming_root", "index_path")
MIB: Final = 2**20
_EVERY_S: Final = {True: 0.5, False: 10.0}
"""Seconds between two lines of progress, on a terminal and elsewhere."""


class Meter:
    """Tells on the standard error how far a long reading is, a few times at most.

    Args:
        stream: Where to.
        what: What is done, "hashed".
    """

    def __init__(self, stream: TextIO, what: str) -> None:
        self._stream = stream
        self._what = what
        self._terminal = stream.isatty()
        self._begun = self._told = time.monotonic()

    def __call__(self, done: int, todo: int) -> None:
        """Take note of bytes done and bytes to do."""
        now = time.monotonic()
        if now - self._told < _EVERY_S[self._terminal]:
            return
        self._told = now
        rate = done / (now - self._begun)
        left_s = round((todo - done) / rate) if rate else 0
        line = (
            f"{self._what} {done / MIB:.0f} of {todo / MIB:.0f} MiB ({100 * done // max(1, todo)} %), "
            f"{rate / MIB:.0f} MiB/s, {left_s // 60}:{left_s % 60:02d} left"
        )
        self._stream.write(f"\r{line}\x1b[K" if self._terminal else f"{line}\n")
        self._stream.flush()

    def end(self) -> None:
        """Leave the terminal a clean line."""
        if self._terminal and self._told != self._begun:
            self._stream.write("\r\x1b[K")


def run_fsck(words: Sequence[str]) -> int:
    """Check the receiver's files.

    Args:
        words: Arguments after "fsck".

    Returns:
        0 when nothing is wrong, 1 when something was found, repaired or not.

    Raises:
        FleetError: A receiver runs on them, they cannot be looked at, or the disk refuses.
    """
    parser = _parser("fsck", "Check the database, the store and the index of a receiver that does not run.")
    parser.add_argument("--repair", action="store_true", help="make again what is derived, quarantine what is damaged")
    parser.add_argument("--no-hash", action="store_true", help="do not read the artifacts, only look for them")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    given = vars(parser.parse_args(words))
    chosen = _chosen(given)
    meter = Meter(sys.stderr, "hashed")
    try:
        report = fsck(chosen["db"], _places(chosen), CheckOptions(not given["no_hash"], given["repair"], meter))
    except OSError as error:
        raise FleetError(f"the check came to no end ({error})", "look at the disk and run this again") from error
    meter.end()
    sys.stdout.write(json.dumps(report.document(), indent=2) + "\n" if given["json"] else "".join(_lines(report)))
    return EX_FAILURE if report.findings else 0


def run_restore(words: Sequence[str]) -> int:
    """Bring a backup back.

    Args:
        words: Arguments after "restore".

    Returns:
        0 when it is done.

    Raises:
        FleetError: The backup is not whole, or there is something in its way; nothing was changed.
    """
    parser = _parser("restore", "Bring a backup back, for a receiver that does not run.")
    parser.add_argument("backup", type=Path, metavar="BACKUP", help="folder of the backup")
    parser.add_argument("--replace", action="store_true", help="move a database that is there aside, to a dated name")
    given = vars(parser.parse_args(words))
    chosen = _chosen(given)
    meter = Meter(sys.stderr, "checked")
    done = restore(
        given["backup"], RestoreTarget(chosen["db"], _places(chosen)), replace=given["replace"], progress=meter
    )
    meter.end()
    sys.stdout.write("".join(f"{line}\n" for line in done))
    return 0


def _parser(name: str, about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"cis490-trainer-receiver {name}", description=about, allow_abbrev=False)
    settings.add_flags(parser, (item for item in options.table(os.environ) if item.name in PLACES))
    return parser


def _chosen(given: dict[str, object]) -> Settings:
    """Return the settings; the other settings of a file are judged as well, as at a start."""
    table = options.table(os.environ)
    return settings.read(table, {name: given.get(name) for name in (*PLACES, "config")}, os.environ)


def _places(chosen: Settings) -> Places:
    return Places(open_blobs(chosen["store_root"], chosen["incoming_root"]), chosen["index_path"])


def _lines(report: Report) -> list[str]:
    """Return the report for people: findings, notes, repairs, and one line that sums up."""
    found = [f"{fault}\n" for fault in report.findings]
    notes = [f"note: {fault}\n" for fault in report.notes]
    repaired = [f"repaired: {line}\n" for line in report.repaired]
    checked = report.checked
    verdict = f"{len(report.findings)} found" if report.findings else "clean"
    return [
        *(line.translate(_PLAIN) for line in (*found, *notes, *repaired)),
        f"{verdict}: {checked['jobs']} jobs, {checked['pages']} pages, {checked['artifacts']} artifacts, "
        f"{checked['bytes'] / MIB:.1f} MiB hashed\n",
    ]


_PLAIN: Final = dict.fromkeys((*range(10), *range(11, 32), *range(127, 160)), "?")
"""Damaged rows can hold anything: nothing in them steers a terminal."""
