"""Bringing a backup back, for a receiver that does not run.

Guarantees that every digest is looked at before anything is touched, that a database which is there is never
overwritten but moved aside under a dated name when told so, that each file appears whole, and that the database comes
last: a restore that is cut off is repeated.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.fleet.blobs import Blobs
from training.fleet.database.sqlite.pages import log_path, sums_path
from training.fleet.database.sqlite.reading import NEWEST_SCHEMA, held, of_copy
from training.fleet.files import make_folder, sync_folder, unused
from training.fleet.locks import file_held
from training.fleet.maintenance.artifacts import Places, artifact_rows
from training.fleet.maintenance.backup import (
    CONTENTS,
    DATABASE,
    FORMAT,
    INDEX,
    MANIFEST,
    STORE,
    Count,
    Entry,
    copied,
    measured,
    poured,
)
from training.fleet.maintenance.report import OnProgress, ignore
from training.fleet.model.artifact import BUNDLE, parse_path
from training.fleet.model.errors import ConfigurationError, Fault, FleetError
from training.fleet.model.parts import is_part_name
from training.fleet.store import quarantine

MAX_CONTENTS_BYTES: Final = 256 * 2**20
_OTHERS: Final = (DATABASE, INDEX, MANIFEST)


@dataclass(frozen=True, slots=True)
class RestoreTarget:
    """Where a backup is brought to.

    Attributes:
        database: The database file.
        places: The receiver's other files.
    """

    database: Path
    places: Places

    @property
    def manifest(self) -> Path:
        """Where the receiver keeps the manifest in force."""
        return self.database.with_name(MANIFEST)


def restore(backup: Path, target: RestoreTarget, *, replace: bool, progress: OnProgress) -> list[str]:
    """Bring a backup back.

    Args:
        backup: Its folder.
        target: Where to.
        replace: Move a database that is there aside.
        progress: Told how many bytes are checked.

    Returns:
        What was done, for people, a line each.

    Raises:
        ConfigurationError: It is no backup this program can read, a receiver runs on the target or on one of its
            places, or a database is there and may not be moved aside. At most empty folders were made.
        FleetError: A file of the backup is not what it was, or the disk refuses.
    """
    files = contents_of(backup)
    demand_whole(backup, files, progress)
    try:
        with held(target.database):
            _demand_free(target, replace=replace)
            places = target.places
            _make(target.database.parent, places.index.parent)
            places.blobs.make()
            with places.blobs.held(), file_held(places.index):
                return [*_bring(backup, files, target), *_missing(target)]
    except OSError as error:
        raise FleetError(f"the backup was not brought back ({error})", "look at the disk and run this again") from error


def contents_of(backup: Path) -> dict[str, Entry]:
    """Return the files of a backup by name."""
    path = backup / CONTENTS
    try:
        with path.open("rb") as file:
            contents = json.loads(file.read(MAX_CONTENTS_BYTES))
        number, schema, files = contents["format"], contents["schema"], contents["files"]
    except OSError as error:
        raise ConfigurationError(
            f"{backup} is no backup: cannot read {path} ({error.strerror})", "give a folder that backup made"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is damaged ({error!r})", "take another backup") from error
    if number != FORMAT:
        raise ConfigurationError(f"{backup} has format {number}, this program reads {FORMAT}", "use the newer version")
    if not isinstance(schema, int) or schema > NEWEST_SCHEMA:
        raise ConfigurationError(
            f"the backup {backup} has schema {schema}, this program knows up to {NEWEST_SCHEMA}",
            "install the newer version",
        )
    return dict(_entries(path, files))


def _entries(path: Path, files: Any) -> Iterator[tuple[str, Entry]]:
    if not isinstance(files, Mapping) or DATABASE not in files:
        raise ConfigurationError(f"{path} is damaged: it names no {DATABASE}", "take another backup")
    for name, entry in files.items():
        # A name leads nowhere else: the backup may come from another machine.
        if not (name in _OTHERS or _stored(name)) or not isinstance(entry, Mapping):
            raise ConfigurationError(f"{path} names {name!a}", "take another backup", expected="files of a backup")
        yield name, Entry(entry.get("size_bytes", -1), entry.get("sha256", ""))


def _stored(name: str) -> str | None:
    """Return the path below a store's root of a file of a backup, None for files that belong elsewhere."""
    path = name.removeprefix(f"{STORE}/")
    _, file = parse_path(path) or (None, "")
    return path if name != path and (file == BUNDLE or is_part_name(file)) else None


def demand_whole(backup: Path, files: Mapping[str, Entry], progress: OnProgress) -> None:
    """Read every file of a backup.

    Raises:
        FleetError: One is missing or not what was written.
    """
    count = Count(progress, sum(entry.size_bytes for entry in files.values()))
    faults: list[Fault] = []
    for name, entry in files.items():
        try:
            found = measured(backup / name, count)
        except OSError as error:
            faults.append(Fault(name, error.strerror or str(error), f"{entry.size_bytes} bytes"))
            continue
        if found != entry:
            words = f"{found.size_bytes} bytes that hash to {found.sha256}"
            faults.append(Fault(name, words, f"{entry.size_bytes} that hash to {entry.sha256}"))
    if faults:
        raise FleetError(
            f"the backup {backup} is damaged in {len(faults)} of {len(files)} files; nothing was changed",
            "take another backup",
            faults=tuple(faults),
        )


def _demand_free(target: RestoreTarget, *, replace: bool) -> None:
    """Refuse where a database is there and stays."""
    if target.database.exists() and not replace:
        raise ConfigurationError(
            f"there is a database {target.database} already and nothing was changed",
            "run this again with --replace, which moves it aside under a dated name",
        )


def _bring(backup: Path, files: Mapping[str, Entry], target: RestoreTarget) -> Iterator[str]:
    paths = {name: path for name in files if (path := _stored(name))}
    blobs, bundles = target.places.blobs, sum(path.endswith(f"/{BUNDLE}") for path in paths.values())
    brought = [path for name, path in paths.items() if _bring_blob(backup / name, files[name], path, blobs)]
    new = sum(path.endswith(f"/{BUNDLE}") for path in brought)
    yield f"artifacts: {new} brought back, {bundles - new} were there"
    if parts := len(paths) - bundles:
        yield f"files beside them: {len(brought) - new} brought back, {parts - len(brought) + new} were there"
    for name, place in ((INDEX, target.places.index), (MANIFEST, target.manifest)):
        if name in files:
            _bring_file(backup / name, files[name], place)
            yield f"{name}: {place}"
    part = target.database.with_name(f"{target.database.name}.restore-part")
    part.unlink(missing_ok=True)
    _copy_sound(backup / DATABASE, files[DATABASE], part)
    part.chmod(0o600)
    aside = _moved_aside(target.database)
    part.replace(target.database)
    sync_folder(target.database.parent)
    if aside is not None:
        yield f"the database that was there: {aside}"
    yield f"database: {target.database}"


def _make(*folders: Path) -> None:
    for folder in folders:
        make_folder(folder)


def _bring_blob(source: Path, entry: Entry, path: str, blobs: Blobs) -> bool:
    """Bring one file of the store back; False when it is there already. A damaged one moves to the quarantine."""
    if blobs.has(path):
        with blobs.open(path) as file:
            if poured(file, ignore) == entry:
                return False
        quarantine(blobs, path, entry.sha256)
    blob = blobs.begin(entry.size_bytes)
    try:
        with source.open("rb", buffering=0) as file:
            _demand_same(source, poured(file, blob.write), entry)
        blob.place(path)
    finally:
        blob.discard()
    return True


def _bring_file(source: Path, entry: Entry, place: Path) -> None:
    part = place.with_name(f"{place.name}.part")
    part.unlink(missing_ok=True)
    _copy_sound(source, entry, part)
    part.replace(place)
    sync_folder(place.parent)


def _copy_sound(source: Path, entry: Entry, target: Path) -> None:
    try:
        with source.open("rb", buffering=0) as file:
            _demand_same(source, copied(file, target, ignore), entry)
    except FleetError:
        target.unlink()
        raise


def _demand_same(source: Path, found: Entry, entry: Entry) -> None:
    if found != entry:
        raise FleetError(f"{source} has changed while it was brought back", "look at its disk and run this again")


def _moved_aside(database: Path) -> Path | None:
    """Move a database with its log and sums to a dated name; a log that stayed would be taken for the new one's.

    All of them have their second name before the first loses its own: a database without its log lacks answers.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = unused(database.with_name(f"{database.name}.replaced-{stamp}"), "-wal", "-sums")
    names: tuple[Callable[[Path], Path], ...] = (Path, log_path, sums_path)
    there = [name for name in names if name(database).exists()]
    for name in there:
        _named_again(name(database), name(aside))
    sync_folder(database.parent)
    for name in there:
        name(database).unlink(missing_ok=True)
    sync_folder(database.parent)
    return aside if Path in there else None


def _named_again(old: Path, new: Path) -> None:
    """Give a file a second name, or a new one where the file system knows only one name a file."""
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        old.rename(new)


def _missing(target: RestoreTarget) -> Iterator[str]:
    """Yield the artifacts that the database names and the store lacks."""
    with of_copy(target.database) as reading:
        for row in artifact_rows(reading):
            blobs, path = target.places.blobs, row.key.path
            if row.gone is None and blobs.stat(path) is None:
                words = "copy it from another backup, `fsck` says which jobs it is the result of"
                yield f"missing: {blobs.address(path)}; {words}"
