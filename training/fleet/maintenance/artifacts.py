"""The checks of the store and of the index against the rows.

Guarantees that every artifact with a row is there in its length and hashes to its name, that a file without a row is
told apart from damage, and that nothing damaged is ever deleted: it moves to `<store-root>/quarantine`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from training.fleet.database.queries import ARTIFACT_ROWS, ARTIFACT_TOTALS, ARTIFACTS, JOB_IDS_OF_ARTIFACT, ArtifactRow
from training.fleet.database.sqlite.reading import Reading
from training.fleet.maintenance.report import OnProgress, Report, ignore
from training.fleet.model.errors import FleetError
from training.fleet.model.names import is_sha256
from training.fleet.store import BUNDLE, QUARANTINE, bundle_path, index_line, index_row, quarantined

LOST: Final = (
    "copy the bundle back from a backup (BACKUP/store has the same folders) and run fsck again; without one the result "
    "is lost: the job stays completed, so train it again as a new job with another seed"
)
_FOLDER: Final = re.compile(r"(?P<model>[0-9A-Za-z][0-9A-Za-z_.-]{0,63})_(?P<mode>realistic|oracle)")
_TEMPORARY: Final = re.compile(r"[0-9a-f]{32}\.part")
_CHUNK_BYTES: Final = 2**20
_WINDOW: Final = 2000


@dataclass(frozen=True, slots=True)
class Places:
    """Where a receiver keeps its files.

    Attributes:
        store: Folder of the artifacts.
        incoming: Folder of uploads under way.
        index: The list of the artifacts.
    """

    store: Path
    incoming: Path
    index: Path


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """How much a check of the artifacts does.

    Attributes:
        hashes: Read every artifact; without it only presence and length are looked at.
        repair: Move what is damaged to the quarantine.
        progress: Told how many bytes are hashed.
        before: Seconds since the epoch; a file without a row that is as new or newer is left out, because its row may
            be newer than the rows that are looked at. None leaves nothing out.
    """

    hashes: bool = True
    repair: bool = False
    progress: OnProgress = ignore
    before: float | None = None


def artifact_rows(reading: Reading) -> Iterator[ArtifactRow]:
    """Yield every artifact in the order they came."""
    after = 0
    while rows := list(reading.rows(ARTIFACTS, after=after, limit=_WINDOW)):
        yield from rows
        after = rows[-1].seq


def index_lines(reading: Reading) -> Iterator[bytes]:
    """Yield the lines that the index should have."""
    for row in artifact_rows(reading):
        yield index_line(index_row(row._asdict()))


def check_artifacts(reading: Reading, store: Path, report: Report, options: CheckOptions) -> None:
    """Check every row against its file, then every file against the rows."""
    (totals,) = reading.rows(ARTIFACT_TOTALS)
    hashing = _Hashing(options, totals.size_bytes)
    for row in artifact_rows(reading):
        report.checked["artifacts"] += 1
        _check_one(reading, store, row, report, hashing)
    _check_files(reading, store, report, hashing)
    report.checked["bytes"] += hashing.done


class _Hashing:
    """Reads files and tells how far it is."""

    def __init__(self, options: CheckOptions, todo: int) -> None:
        self.options = options
        self.done = 0
        self._todo = todo

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file in hex."""
        found = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while data := file.read(_CHUNK_BYTES):
                found.update(data)
                self.done += len(data)
                self.options.progress(self.done, max(self._todo, self.done))
        return found.hexdigest()


def _check_one(reading: Reading, store: Path, row: ArtifactRow, report: Report, hashing: _Hashing) -> None:
    path = store / bundle_path(row.sha256, row.model, row.mode)
    wanted = row.size_bytes
    try:
        size = path.stat().st_size
        digest = hashing.digest(path) if hashing.options.hashes else None
    except FileNotFoundError:
        report.find(_place(reading, row), f"no file at {path}", f"a bundle of {wanted} bytes", LOST)
    except OSError as error:
        found = f"a file that cannot be read ({error})"
        report.find(_place(reading, row), found, "a readable bundle", f"look at the disk; {LOST}")
    else:
        if digest is not None and digest != row.sha256:
            place, found = _place(reading, row), f"{size} bytes that hash to {digest}"
            report.find(place, found, f"{wanted} that hash to its name", LOST)
            _put_aside(store, path, row.sha256, report, hashing.options)
        elif size != wanted:
            remedy = "the bundle is whole, its row is not: restore a backup" if digest else "run fsck without --no-hash"
            report.find(_place(reading, row), f"{size} bytes", f"{wanted} bytes as its row says", remedy)
            if digest:
                report.lengths.append({"sha256": row.sha256, "model": row.model, "mode": row.mode, "size_bytes": size})


def _place(reading: Reading, row: ArtifactRow) -> str:
    """Return how people name an artifact: with the jobs whose result it is. Looks through all jobs."""
    jobs = reading.rows(JOB_IDS_OF_ARTIFACT, sha256=row.sha256, model=row.model, mode=row.mode)
    names = ", ".join(job.id for job in jobs)
    return f"artifact {row.sha256} ({f'result of job {names}' if names else 'result of no job'})"


def _put_aside(store: Path, path: Path, sha256: str, report: Report, options: CheckOptions) -> None:
    if options.repair:
        report.repaired.append(f"artifact {sha256}: moved to {quarantined(store, path, sha256)}")


def _check_files(reading: Reading, store: Path, report: Report, hashing: _Hashing) -> None:
    """Look at each file of the store for its row."""
    for path in _files(store):
        parts = path.relative_to(store).parts
        folder = _FOLDER.fullmatch(parts[0]) if len(parts) == 3 else None
        if folder is None or parts[2] != BUNDLE or not is_sha256(parts[1]):
            report.note(str(path), "a file that is no artifact", "bundles only", "move it elsewhere")
            continue
        rows = reading.rows(ARTIFACT_ROWS, sha256=parts[1])
        if not any((row.model, row.mode) == (folder["model"], folder["mode"]) for row in rows):
            _check_unreferenced(store, path, parts[1], report, hashing)


@contextlib.contextmanager
def _listing(folder: Path) -> Iterator[None]:
    """Take a folder that is not there for an empty one, and say clearly which one cannot be looked into."""
    try:
        yield
    except FileNotFoundError:
        return
    except OSError as error:
        raise FleetError(
            f"cannot look into {error.filename or folder} ({error.strerror})", "look at its disk and run this again"
        ) from error


def _files(store: Path) -> Iterator[Path]:
    todo = [store]
    while todo:
        folder = todo.pop()
        with _listing(folder):
            for path in sorted(folder.iterdir()):
                if path.is_dir() and not path.is_symlink():
                    if path != store / QUARANTINE:
                        todo.append(path)
                else:
                    yield path


def _check_unreferenced(store: Path, path: Path, sha256: str, report: Report, hashing: _Hashing) -> None:
    """Tell a whole bundle that no row names from a damaged one, which a repeated upload would be taken for."""
    before = hashing.options.before
    if before is not None and path.stat().st_mtime >= before:
        return
    if hashing.options.hashes and (digest := hashing.digest(path)) != sha256:
        found = f"bytes that hash to {digest}"
        report.find(f"unreferenced artifact {sha256}", found, "those that hash to its name", "nothing refers to it")
        _put_aside(store, path, sha256, report, hashing.options)
        return
    report.note(
        str(path),
        "an artifact without a row",
        "a row for each",
        "an upload that was cut off before it was answered leaves one; its repetition finds it, and it may be removed",
    )


def check_index(reading: Reading, index: Path, report: Report, *, surplus: bool = False) -> bool:
    """Compare the index with the rows; True when they agree.

    Args:
        reading: The rows.
        index: The file.
        report: Where a difference goes.
        surplus: Whether further lines may follow, because a receiver goes on writing them.
    """
    number = _first_difference(index_lines(reading), index, surplus=surplus)
    if number:
        report.find(
            f"{index}, line {number}",
            "another line than the database says",
            "one line for each artifact in the order of the database",
            "nothing is lost: the next start of the receiver writes it again, and so does fsck --repair",
        )
    return not number


def _first_difference(lines: Iterable[bytes], index: Path, *, surplus: bool) -> int:
    """Return the number of the first line that differs, 0 when none does."""
    number = 0
    try:
        with index.open("rb") as file:
            for line in lines:
                number += 1
                if file.readline(len(line) + 1) != line:
                    return number
            return 0 if surplus or not file.read(1) else number + 1
    except FileNotFoundError:
        return 1 if any(True for _ in lines) else 0


def check_incoming(incoming: Path, report: Report, *, repair: bool) -> None:
    """List what uploads have left; with `repair` remove it."""
    with _listing(incoming):
        for path in sorted(incoming.iterdir()):
            if not _TEMPORARY.fullmatch(path.name):
                report.note(str(path), "a file that no upload made", "temporary files only", "move it elsewhere")
            elif repair:
                path.unlink(missing_ok=True)
                report.repaired.append(f"{path}: leftover of an upload removed")
            else:
                report.note(str(path), "the leftover of an upload", "none", "the next start of the receiver removes it")
