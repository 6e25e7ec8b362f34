"""The checks of the store and of the index against the rows.

Guarantees that every artifact with a row is there in its length and hashes to its name, that a file without a row is
told apart from damage, and that nothing damaged is ever deleted: it moves to `<store-root>/quarantine`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from training.fleet.blobs import Blob, Blobs
from training.fleet.database.queries import (
    ARTIFACT_ROWS,
    ARTIFACT_TOTALS,
    ARTIFACTS,
    JOB_IDS_OF_ARTIFACT,
    PARTS,
    ArtifactLengthRow,
    ArtifactRow,
)
from training.fleet.database.sqlite.reading import Reading
from training.fleet.maintenance.report import OnProgress, Report, ignore
from training.fleet.model.artifact import BUNDLE, ArtifactKey, parse_path
from training.fleet.model.parts import is_part_name
from training.fleet.queue.artifacts import listed as as_listed
from training.fleet.store import QUARANTINE, index_lines, quarantine

LOST: Final = (
    "copy the bundle back from a backup (BACKUP/store has the same folders) and run fsck again; without one the result "
    "is lost: `cis490-jobs requeue JOB` trains its job again with its own seed"
)
PART_LOST: Final = "copy the file back from a backup; the bundle has it as well, under the same name"
_CHUNK_BYTES: Final = 2**20
_WINDOW: Final = 2000


@dataclass(frozen=True, slots=True)
class Places:
    """Where a receiver keeps its files.

    Attributes:
        blobs: The artifacts and the uploads under way.
        index: The list of the artifacts.
    """

    blobs: Blobs
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


def listed(reading: Reading) -> Iterator[tuple[ArtifactKey, int, str | None]]:
    """Yield every artifact in the order they came: key, length, and when it was pruned."""
    return map(as_listed, artifact_rows(reading))


def artifact_rows(reading: Reading) -> Iterator[ArtifactRow]:
    """Yield every artifact in the order they came."""
    after = 0
    while rows := list(reading.rows(ARTIFACTS, after=after, limit=_WINDOW)):
        yield from rows
        after = rows[-1].seq


def check_artifacts(reading: Reading, blobs: Blobs, report: Report, options: CheckOptions) -> None:
    """Check every row against its file, then every file against the rows."""
    (totals,) = reading.rows(ARTIFACT_TOTALS)
    check = _Check(reading, blobs, report, options, totals.size_bytes)
    for row in artifact_rows(reading):
        if row.gone == "pruned":
            report.checked["pruned"] += 1
            check.pruned(row.key)
        elif row.gone is None or check.has_jobs(row.key):
            report.checked["artifacts"] += 1
            check.row(row)
            check.parts(row.key)
    check.files()
    report.checked["bytes"] += check.hashed


class _Check:
    """One check of the artifacts, and how far it is.

    Args:
        reading: The rows.
        blobs: The files.
        report: Gets what is found.
        options: How much to do.
        todo: Bytes that the rows name.
    """

    def __init__(self, reading: Reading, blobs: Blobs, report: Report, options: CheckOptions, todo: int) -> None:
        self.hashed = 0
        self._reading = reading
        self._blobs = blobs
        self._report = report
        self._options = options
        self._todo = todo

    def row(self, row: ArtifactRow) -> None:
        """Check a row against its file."""
        key, wanted, find = row.key, row.size_bytes, self._report.find
        try:
            blob = self._blobs.stat(key.path)
            digest = self._digest(key.path) if blob and self._options.hashes else None
        except OSError as error:
            found = f"a file that cannot be read ({error})"
            find(self._named(key), found, "a readable bundle", f"look at the disk; {LOST}")
            return
        if blob is None:
            find(self._named(key), f"no file at {self._blobs.address(key.path)}", f"a bundle of {wanted} bytes", LOST)
        elif digest is not None and digest != key.sha256:
            found = f"{blob.size_bytes} bytes that hash to {digest}"
            find(self._named(key), found, f"{wanted} that hash to its name", LOST)
            self._put_aside(key)
        elif blob.size_bytes != wanted:
            remedy = "the bundle is whole, its row is not: restore a backup" if digest else "run fsck without --no-hash"
            find(self._named(key), f"{blob.size_bytes} bytes", f"{wanted} bytes as its row says", remedy)
            if digest:
                self._report.lengths.append({**asdict(key), "size_bytes": blob.size_bytes})

    def has_jobs(self, key: ArtifactKey) -> bool:
        """Return True if an artifact is the result of a job. Looks through all jobs."""
        return any(True for _ in self._reading.rows(JOB_IDS_OF_ARTIFACT, **asdict(key)))

    def pruned(self, key: ArtifactKey) -> None:
        """Look for files that a prune has left; a row that says "pruned" promises none, so they are no damage."""
        with contextlib.suppress(OSError):
            blob = self._blobs.stat(key.path)
            if blob is not None:
                place = self._blobs.address(key.path)
                self._report.note(place, "a pruned artifact", "no file", "the next start of the receiver removes it")

    def parts(self, key: ArtifactKey) -> None:
        """Check the small files of an artifact. They are read whatever the options: all of one are 2 MiB at most."""
        for part in self._reading.rows(PARTS, **asdict(key)):
            path, wanted = key.file(part.name), f"{part.size_bytes} bytes that hash to {part.sha256}"
            try:
                found = f"bytes that hash to {self._digest(path)}"
            except OSError as error:
                found = f"no file that can be read ({error})"
            if found != f"bytes that hash to {part.sha256}":
                self._report.find(f"{part.name} of {self._named(key)}", found, wanted, PART_LOST)

    def _digest(self, path: str) -> str:
        """Return the SHA-256 of a file in hex."""
        found = hashlib.sha256()
        with self._blobs.open(path) as file:
            while data := file.read(_CHUNK_BYTES):
                found.update(data)
                self.hashed += len(data)
                self._options.progress(self.hashed, max(self._todo, self.hashed))
        return found.hexdigest()

    def _named(self, key: ArtifactKey) -> str:
        """Return how people name an artifact: with the jobs whose result it is. Looks through all jobs."""
        jobs = self._reading.rows(JOB_IDS_OF_ARTIFACT, **asdict(key))
        names = ", ".join(job.id for job in jobs)
        return f"artifact {key.sha256} ({f'result of job {names}' if names else 'result of no job'})"

    def _put_aside(self, key: ArtifactKey) -> None:
        if self._options.repair:
            self._report.repaired.append(
                f"artifact {key.sha256}: moved to {quarantine(self._blobs, key.path, key.sha256)}"
            )

    def files(self) -> None:
        """Look at each file of the store for its row."""
        for blob in self._blobs.list():
            if blob.key.startswith(f"{QUARANTINE}/"):
                continue
            key, name = parse_path(blob.key) or (None, "")
            if key is None or not (name == BUNDLE or is_part_name(name)):
                place = self._blobs.address(blob.key)
                self._report.note(place, "a file that is no artifact", "bundles and their parts", "move it elsewhere")
            elif name != BUNDLE:
                self._unlisted_part(blob, key, name)
            elif not any(_is_of(row, key) for row in self._reading.rows(ARTIFACT_ROWS, sha256=key.sha256)):
                self._unreferenced(blob, key)

    def _unlisted_part(self, blob: Blob, key: ArtifactKey, name: str) -> None:
        if not (self._is_new(blob) or any(part.name == name for part in self._reading.rows(PARTS, **asdict(key)))):
            remedy = "an upload that was cut off leaves one; it may be removed"
            self._report.note(self._blobs.address(blob.key), "a part without a row", "a row for each", remedy)

    def _is_new(self, blob: Blob) -> bool:
        before = self._options.before
        return before is not None and blob.modified_at >= before

    def _unreferenced(self, blob: Blob, key: ArtifactKey) -> None:
        """Tell a whole bundle that no row names from a damaged one, which a repeated upload would be taken for."""
        if self._is_new(blob):
            return
        if self._options.hashes and (digest := self._digest(blob.key)) != key.sha256:
            place, found = f"unreferenced artifact {key.sha256}", f"bytes that hash to {digest}"
            self._report.find(place, found, "those that hash to its name", "nothing refers to it")
            self._put_aside(key)
            return
        self._report.note(
            self._blobs.address(blob.key),
            "an artifact without a row",
            "a row for each",
            "an upload that was cut off before it was answered leaves one; its repetition finds it, and it may be "
            "removed",
        )


def _is_of(row: ArtifactLengthRow, key: ArtifactKey) -> bool:
    return (row.model, row.mode) == (key.model, key.mode)


def check_index(reading: Reading, index: Path, report: Report, *, surplus: bool = False) -> bool:
    """Compare the index with the rows; True when they agree.

    Args:
        reading: The rows.
        index: The file.
        report: Where a difference goes.
        surplus: Whether further lines may follow, because a receiver goes on writing them.
    """
    number = _first_difference(index_lines(listed(reading)), index, surplus=surplus)
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


def check_leftovers(blobs: Blobs, report: Report, *, repair: bool) -> None:
    """List what uploads have left; with `repair` remove it."""
    for leftover in blobs.leftovers():
        if not leftover.own:
            report.note(leftover.address, "a file that no upload made", "temporary files only", "move it elsewhere")
        elif repair:
            report.repaired.append(f"{leftover.address}: leftover of an upload removed")
        else:
            report.note(
                leftover.address, "the leftover of an upload", "none", "the next start of the receiver removes it"
            )
    if repair:
        blobs.sweep()
