"""A backup: a consistent copy of everything a receiver needs to go on, in one folder.

Owns the form of a backup. Guarantees that it is of one moment, that it appears whole under its name or not at all,
that all of it is on the disk by then, and that `backup.json` names the length and digest of every other file. The
database is copied by its own writer while changes go on; index and artifacts follow from that copy, so they can't
disagree with it. Leaves who may ask to the caller.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

from training.fleet.blobs import Blobs
from training.fleet.database import Database
from training.fleet.database.queries import ARTIFACT_TOTALS, PARTS, REMEMBERED
from training.fleet.database.sqlite.reading import Reading, of_copy
from training.fleet.files import make_folder, sync_folder
from training.fleet.locks import folder_held, is_held
from training.fleet.maintenance.artifacts import LOST, PART_LOST, Places, artifact_rows, listed
from training.fleet.maintenance.records import MAX_LISTED, RESTORE
from training.fleet.maintenance.report import UNREADABLE, OnProgress, Report, ignore
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.errors import ConflictError, FleetError, StorageFullError
from training.fleet.queue.load import MANIFEST_KEY
from training.fleet.store import index_lines

FORMAT: Final = 1
DATABASE: Final = "queue.db"
INDEX: Final = "index.jsonl"
MANIFEST: Final = "manifest.applied.toml"
STORE: Final = "store"
CONTENTS: Final = "backup.json"
CHUNK_BYTES: Final = 2**20
_PART: Final = re.compile(r"\.[0-9A-Za-z-]+\.part")


@dataclass(frozen=True, slots=True)
class BackupTask:
    """What to back up, and where to.

    Attributes:
        root: Folder of all backups.
        name: Name of this one, of letters, digits and dashes.
        places: The receiver's files.
        manifest: The manifest in force, as it was applied.
        artifacts: Whether the artifacts are wanted as well.
        made_at: When it was asked for, RFC 3339, UTC.
        version: Of the receiver.
    """

    root: Path
    name: str
    places: Places
    manifest: Path
    artifacts: bool
    made_at: str
    version: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a backup.

    Attributes:
        size_bytes: Its length.
        sha256: Its digest, hex.
    """

    size_bytes: int
    sha256: str


def back_up(source: Database, order: BackupTask, report: Report, progress: OnProgress) -> Path:
    """Make a backup. Takes its time; not for the event loop or the writer thread.

    Args:
        source: The running database.
        order: What and where.
        report: Gets what is damaged; the backup holds everything else.
        progress: Told how many bytes of artifacts are read.

    Returns:
        Its folder.

    Raises:
        ConflictError: There is one with that name.
        StorageFullError: There is no room for it; nothing of it is left.
        FleetError: The disk refuses; nothing of it is left.
    """
    final = order.root / order.name
    part = order.root / f".{order.name}.part"
    try:
        make_folder(order.root)
        _remove_leftovers(order.root)
        _make_new(part, final)
        _made(source, order, part, report, progress)
    except OSError as error:
        raise _refused(order.root, error) from error
    return final


def _make_new(part: Path, final: Path) -> None:
    if not final.exists():
        with contextlib.suppress(FileExistsError):
            part.mkdir(mode=0o750)
            return
    raise ConflictError(f"there is a backup {final.name} already", "ask again, or give another label")


def _made(source: Database, order: BackupTask, part: Path, report: Report, progress: OnProgress) -> None:
    """Fill the folder and give it its name; nothing of it is left when that fails."""
    try:
        # Held, so that another receiver with the same folder of backups takes it for no leftover.
        with folder_held(part):
            _fill(source, order, part, report, progress)
            part.rename(order.root / order.name)
        sync_folder(order.root)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _remove_leftovers(root: Path) -> None:
    """Remove what a receiver that was killed has left of a backup; one that is being made is held."""
    for path in root.iterdir():
        if _PART.fullmatch(path.name) and path.is_dir() and not is_held(path):
            shutil.rmtree(path)


def _refused(root: Path, error: OSError) -> FleetError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(f"no room for a backup below {root} ({error}); nothing is left of it", "make room")
    return FleetError(f"cannot make a backup below {root} ({error})", "look at --backup-root and its disk")


def _fill(source: Database, order: BackupTask, part: Path, report: Report, progress: OnProgress) -> None:
    if pages := source.differing_pages():
        shown = ", ".join(map(str, pages[:MAX_LISTED]))
        report.find("the database", f"damaged pages: {shown}", "pages as they were written", RESTORE)
    source.copy(part / DATABASE)
    files = {DATABASE: measured(part / DATABASE)}
    with of_copy(part / DATABASE) as reading:
        for words in reading.damage():
            report.find("the database", words, "a sound database", RESTORE)
        schema = reading.schema()
        try:
            files |= _parts(reading, order, part, report, progress)
        except UNREADABLE as error:
            raise FleetError(f"the database is damaged ({error})", "stop the receiver and run fsck") from error
    contents = {
        "format": FORMAT,
        "made_at": order.made_at,
        "version": order.version,
        "schema": schema,
        "artifacts": order.artifacts,
        "index": str(order.places.index.absolute()),
        "files": {name: asdict(entry) for name, entry in files.items()},
    }
    _written(part / CONTENTS, [json.dumps(contents, indent=1).encode() + b"\n"])
    sync_folder(part)


def _parts(reading: Reading, order: BackupTask, part: Path, report: Report, progress: OnProgress) -> dict[str, Entry]:
    """Write what belongs to the copy of the database."""
    files = {INDEX: _written(part / INDEX, index_lines(listed(reading)))}
    manifest = _manifest(reading, order.manifest)
    if manifest is None:
        report.note("the manifest in force", "not at hand", f"its bytes in {order.manifest}", "keep a copy of your own")
    else:
        files[MANIFEST] = _written(part / MANIFEST, [manifest])
    if order.artifacts:
        files.update(_artifacts(reading, order, part, report, progress))
    return files


def _manifest(reading: Reading, path: Path) -> bytes | None:
    """Return the bytes of the manifest that is in force in the copy, None where they are not at hand."""
    for row in reading.rows(REMEMBERED, key=MANIFEST_KEY):
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == json.loads(row.value)["digest"]:
                return data
    return None


def _artifacts(
    reading: Reading, order: BackupTask, part: Path, report: Report, progress: OnProgress
) -> Iterator[tuple[str, Entry]]:
    (totals,) = reading.rows(ARTIFACT_TOTALS)
    count = Count(progress, totals.size_bytes)
    for row in (row for row in artifact_rows(reading) if row.gone is None):
        key = row.key.path
        target = part / STORE / key
        target.parent.mkdir(parents=True)
        place = f"artifact {row.sha256}"
        try:
            entry = _shared(order.places.blobs, key, target, count)
        except FileNotFoundError:
            report.find(place, "no file", f"a bundle of {row.size_bytes} bytes", LOST)
            continue
        if entry != Entry(row.size_bytes, row.sha256):
            target.unlink()
            report.find(place, f"bytes that hash to {entry.sha256}", "those that hash to its name", LOST)
            continue
        yield f"{STORE}/{key}", entry
        yield from _part_files(reading, row.key, order, part, report)
    _sync_folders(part / STORE)


def _part_files(
    reading: Reading, key: ArtifactKey, order: BackupTask, folder: Path, report: Report
) -> Iterator[tuple[str, Entry]]:
    """Take the small files of an artifact along, as far as they are sound."""
    for part in reading.rows(PARTS, **asdict(key)):
        path = key.file(part.name)
        target, place = folder / STORE / path, f"{part.name} of artifact {key.sha256}"
        try:
            entry = _shared(order.places.blobs, path, target, ignore)
        except FileNotFoundError:
            report.find(place, "no file", f"{part.size_bytes} bytes", PART_LOST)
            continue
        if entry != Entry(part.size_bytes, part.sha256):
            target.unlink()
            report.find(place, f"bytes that hash to {entry.sha256}", f"those that hash to {part.sha256}", PART_LOST)
            continue
        yield f"{STORE}/{path}", entry


class Count:
    """Adds up what is read and tells it.

    Args:
        progress: Told bytes done and bytes to do.
        todo: Bytes to do.
    """

    def __init__(self, progress: OnProgress, todo: int) -> None:
        self._progress = progress
        self._todo = todo
        self._done = 0

    def __call__(self, size_bytes: int) -> None:
        """Take note of bytes that were read."""
        self._done += size_bytes
        self._progress(self._done, max(self._todo, self._done))


def _shared(blobs: Blobs, key: str, target: Path, count: Callable[[int], None]) -> Entry:
    """Give a bundle a second name, or copy it where that is not possible; either way it is read once."""
    if blobs.share(key, target):
        return measured(target, count)
    with blobs.open(key) as source:
        return copied(source, target, count)


def copied(source: BinaryIO, target: Path, count: Callable[[int], None]) -> Entry:
    """Copy a file durably and return what was copied. The target must not be there."""
    with target.open("xb", buffering=0) as new:

        def write(data: bytes) -> None:
            view = memoryview(data)
            while view:
                view = view[new.write(view) :]

        entry = poured(source, write, count)
        os.fsync(new.fileno())
    return entry


def poured(source: BinaryIO, write: Callable[[bytes], object], count: Callable[[int], None] = ignore) -> Entry:
    """Read an open file to its end, hand each piece on, and return length and digest of them all."""
    found, size = hashlib.sha256(), 0
    while data := source.read(CHUNK_BYTES):
        found.update(data)
        size += len(data)
        write(data)
        count(len(data))
    return Entry(size, found.hexdigest())


def measured(path: Path, count: Callable[[int], None] = ignore) -> Entry:
    """Return length and digest of a file."""
    with path.open("rb", buffering=0) as file:
        return poured(file, ignore, count)


def _written(path: Path, pieces: Iterable[bytes]) -> Entry:
    found, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for piece in pieces:
            found.update(piece)
            size += file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return Entry(size, found.hexdigest())


def _sync_folders(folder: Path) -> None:
    """Sync a folder and all below it, innermost first."""
    if folder.is_dir():
        for path, _, _ in os.walk(folder, topdown=False):
            sync_folder(Path(path))
