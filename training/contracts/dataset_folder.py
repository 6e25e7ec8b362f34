"""Owns reading a dataset folder: its declaration with every fault at once, and the digest of its content.

The digest joins a job's identity. The data file is opened only to hash it: whether its columns exist and what they hold
is the trainer's business. Needs the standard library alone, because both the fleet and the trainer use it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from training.contracts.dataset import (
    MAX_WINDOW_ROWS,
    NEEDED_ROLES,
    SCHEMA,
    SPLIT_RECIPES,
    Dataset,
    DatasetError,
    Fault,
    Features,
    GroupSplit,
    HostsSplit,
    PublishedSplit,
    RandomSplit,
    Roles,
    Split,
    TimeSplit,
    Windows,
    category_faults,
)

DECLARATION = "dataset.toml"
_KINDS = {
    "random": "random_rows",
    "time": "time",
    "hosts": "leave_hosts_out",
    "group": "leave_group_out",
    "published": "column",
}
_SPLIT_KEYS = {
    "random": ("kind", "test_fraction"),
    "time": ("kind", "train_fraction", "gap"),
    "hosts": ("kind", "folds"),
    "group": ("kind", "column"),
    "published": ("kind", "column", "train", "test"),
}
_TABLES = ("schema", "dataset", "roles", "features", "categories", "windows", "splits", "units")
_CHUNK_BYTES = 1 << 20
_DECLARATION_LIMIT_BYTES = 1 << 20


def read_dataset(folder: Path) -> Dataset:
    """Read and check the declaration of a dataset folder.

    Args:
        folder: The folder that holds `dataset.toml`.

    Returns:
        The declaration; its data file exists.

    Raises:
        DatasetError: Something is missing or wrong; all faults are listed.
    """
    reader = _Reader(_parsed(folder))
    dataset = reader.dataset(folder)
    if not reader.faults and not dataset.data_path.is_file():
        raise DatasetError(folder, [_missing_file(dataset.file)], unreadable=True)
    if reader.faults:
        raise DatasetError(folder, reader.faults)
    return dataset


def dataset_digest(folder: Path, cache: Path | None = None) -> str:
    """Compute the digest of a dataset's content.

    The text that is hashed has one line per file, sorted: the sha256 of the file in hex, a space, its name relative to
    the folder. The files are `dataset.toml` and the data file it names.

    Args:
        folder: The dataset folder.
        cache: A small JSON file that remembers file digests by path, size, times and inode; made when missing, and
            ignored when it can't be read. None reads every byte again.

    Returns:
        "sha256:" and 64 hex digits.

    Raises:
        DatasetError: The folder is not a valid dataset, or a file can't be read.
    """
    dataset = read_dataset(folder)
    known = _read_cache(cache)
    fresh = dict(known)
    try:
        lines = sorted(f"{_file_digest(folder / name, fresh)} {name}\n" for name in (DECLARATION, dataset.file))
    except OSError as fault:
        raise DatasetError(folder, [_unreadable(fault)], unreadable=True) from fault
    if cache is not None and fresh != known:
        _write_cache(cache, fresh)
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def _parsed(folder: Path) -> dict[str, Any]:
    try:
        with (folder / DECLARATION).open("rb") as stream:
            text = stream.read(_DECLARATION_LIMIT_BYTES + 1)
    except OSError as fault:
        raise DatasetError(folder, [_unreadable(fault)], unreadable=True) from fault
    if len(text) > _DECLARATION_LIMIT_BYTES:
        raise DatasetError(folder, [Fault(DECLARATION, "more than 1 MiB", "a declaration below 1 MiB")])
    try:
        # Windows' own editors put a byte-order mark in front.
        return tomllib.loads(text.decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise DatasetError(folder, [Fault(DECLARATION, str(fault), "a TOML 1.0 document in UTF-8")]) from fault


def _unreadable(fault: OSError) -> Fault:
    name = Path(fault.filename).name if fault.filename else DECLARATION
    return Fault(name, fault.strerror or "an unreadable file", "a file this account can read")


def _missing_file(name: str) -> Fault:
    return Fault("dataset.file", f"no file {name!r} in the folder", "the data file beside dataset.toml")


def _file_digest(path: Path, known: dict[str, Any]) -> str:
    state = path.stat()
    entry = known.get(str(path.resolve()))
    # Copies that keep times (cp -p, rsync -t, tar) leave size and mtime alone; ctime and inode they cannot keep.
    stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
    if isinstance(entry, list) and len(entry) == 5 and entry[:2] + entry[3:] == stamp and isinstance(entry[2], str):
        return entry[2]
    digest = _read_digest(path)
    known[str(path.resolve())] = [*stamp[:2], digest, *stamp[2:]]
    return digest


def _read_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _read_cache(cache: Path | None) -> dict[str, Any]:
    if cache is None:
        return {}
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_cache(cache: Path, entries: dict[str, Any]) -> None:
    """Replace the cache in one step. One that can't be written is no error: digests are computed again next time."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=cache.parent, prefix=cache.name)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(entries, stream)
        Path(name).replace(cache)
    except OSError:
        return


class _Reader:
    """Reads a parsed declaration and collects all faults, so that a person can correct them in one go."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.faults: list[Fault] = []

    def dataset(self, folder: Path) -> Dataset:
        """Return the declaration; it is valid only if `faults` is empty afterwards."""
        self._known_keys("", self.document, _TABLES)
        if self.document.get("schema") != SCHEMA or isinstance(self.document.get("schema"), bool):
            self._fault("schema", self.document.get("schema"), str(SCHEMA))
        about = self._table("dataset")
        name, file = self._text(about, "dataset", "name"), self._text(about, "dataset", "file")
        self._check_file(file)
        roles, features, categories = self._roles(), self._features(), self.document.get("categories", {})
        self.faults += category_faults(categories, features.columns("oracle"))
        windows, splits = self._windows(), self._splits()
        self._check_overlap(roles, features, splits)
        self._check_needs(roles, splits)
        known = {column: tuple(values) for column, values in categories.items()} if not self.faults else {}
        return Dataset(folder, name, file, roles, features, windows, splits, self._units(), known)

    def _check_file(self, file: str) -> None:
        path = PurePosixPath(file)
        if file and (path.is_absolute() or ".." in path.parts or "\\" in file):
            self._fault("dataset.file", file, "a name inside the dataset folder")
        if file and path.suffix not in (".parquet", ".csv"):
            self._fault("dataset.file", file, "a name that ends in .parquet or .csv")

    def _roles(self) -> Roles:
        table = self._table("roles")
        self._known_keys("roles", table, ("host", "group", "time", "label"))
        return Roles(
            host=self._text(table, "roles", "host") if "host" in table else None,
            label=self._text(table, "roles", "label"),
            group=self._text(table, "roles", "group") if "group" in table else None,
            time=self._text(table, "roles", "time") if "time" in table else None,
        )

    def _features(self) -> Features:
        table = self._table("features")
        self._known_keys("features", table, ("realistic", "oracle_extra", "never"))
        realistic = self._names(table, "features", "realistic")
        if "realistic" in table and not realistic:
            self._fault("features.realistic", table["realistic"], "at least one column")
        extra = self._names(table, "features", "oracle_extra") if "oracle_extra" in table else ()
        never = self._names(table, "features", "never") if "never" in table else ()
        return Features(realistic, extra, never)

    def _windows(self) -> Windows:
        table = self._table("windows")
        self._known_keys("windows", table, ("length", "label"))
        length = table.get("length")
        if not isinstance(length, int) or isinstance(length, bool) or not 1 <= length <= MAX_WINDOW_ROWS:
            self._fault("windows.length", length, f"a whole number of rows from 1 to {MAX_WINDOW_ROWS}")
            length = 1
        if table.get("label", "last") != "last":
            self._fault("windows.label", table["label"], '"last"')
        return Windows(length)

    def _splits(self) -> dict[str, Split]:
        table = self._table("splits")
        self._known_keys("splits", table, SPLIT_RECIPES)
        if "splits" in self.document and not table:
            self._fault("splits", table, f"at least one of {', '.join(SPLIT_RECIPES)}")
        return {recipe: self._split(recipe, table[recipe]) for recipe in SPLIT_RECIPES if recipe in table}

    def _split(self, recipe: str, table: Any) -> Split:
        place = f"splits.{recipe}"
        if not isinstance(table, dict):
            self._fault(place, table, "a table")
            table = {}
        self._known_keys(place, table, _SPLIT_KEYS[recipe])
        if table.get("kind") != _KINDS[recipe]:
            self._fault(f"{place}.kind", table.get("kind"), f'"{_KINDS[recipe]}"')
        if recipe == "random":
            return RandomSplit(self._fraction(table, place, "test_fraction"))
        if recipe == "time":
            return TimeSplit(self._fraction(table, place, "train_fraction"), self._gap(table, place))
        if recipe == "hosts":
            return HostsSplit(self._folds(table, place))
        if recipe == "group":
            return GroupSplit(self._text(table, place, "column"))
        markers = {side: self._text(table, place, side) if side in table else side for side in ("train", "test")}
        return PublishedSplit(self._text(table, place, "column"), markers["train"], markers["test"])

    def _gap(self, table: dict[str, Any], place: str) -> int:
        gap = table.get("gap", 0)
        if not isinstance(gap, int) or isinstance(gap, bool) or gap < 0:
            self._fault(f"{place}.gap", gap, "a whole number of rows, 0 or more")
            return 0
        return gap

    def _fraction(self, table: dict[str, Any], place: str, key: str) -> float:
        value = table.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1:
            self._fault(f"{place}.{key}", value, "a number between 0 and 1")
            return 0.5
        return float(value)

    def _folds(self, table: dict[str, Any], place: str) -> tuple[tuple[str, ...], ...]:
        folds = table.get("folds")
        if not isinstance(folds, list) or len(folds) < 2:
            self._fault(f"{place}.folds", folds, "a list of at least two lists of host names")
            return ()
        found = tuple(self._names({str(i): fold}, f"{place}.folds", str(i)) for i, fold in enumerate(folds))
        hosts = [host for fold in found for host in fold]
        for host in sorted({host for host in hosts if hosts.count(host) > 1}):
            self._fault(f"{place}.folds", host, "each host in one fold only")
        for i, fold in enumerate(found):
            if not fold and isinstance(folds[i], list):
                self._fault(f"{place}.folds.{i}", folds[i], "at least one host name")
        return found

    def _units(self) -> dict[str, str]:
        table = self.document.get("units", {})
        if not isinstance(table, dict):
            self._fault("units", table, "a table of column names and units")
            return {}
        return {column: self._text(table, "units", column) for column in table}

    def _check_overlap(self, roles: Roles, features: Features, splits: Mapping[str, Split]) -> None:
        """Refuse inputs that give the answer away: a role, a marker, or a column named as never an input."""
        markers = [split.column for split in splits.values() if isinstance(split, (GroupSplit, PublishedSplit))]
        banned = {*roles.columns(), *features.never, *markers}
        inputs = features.columns("oracle")
        for column in inputs:
            if column in banned:
                self._fault("features", column, "an input that is no role, no split column and not in features.never")
        for column in sorted({column for column in inputs if inputs.count(column) > 1}):
            self._fault("features", column, "each column in one tier only")
        named = [column for column in roles.columns() if column]
        if len(set(named)) < len(named):
            self._fault("roles", ", ".join(named), "a column of its own for each role")

    def _check_needs(self, roles: Roles, splits: Mapping[str, Split]) -> None:
        """Refuse a split that needs a role the data do not have."""
        for recipe in splits if isinstance(self.document.get("roles"), dict) else ():
            for role in NEEDED_ROLES.get(recipe, ()):
                if getattr(roles, role) is None:
                    expected = f"roles.{role}, which this split needs; name that column or take the split out"
                    self._fault(f"splits.{recipe}", f"a split without roles.{role}", expected, raw=True)

    def _table(self, name: str) -> dict[str, Any]:
        table = self.document.get(name)
        if isinstance(table, dict):
            return table
        self._fault(name, table, "a table")
        return {}

    def _text(self, table: dict[str, Any], place: str, key: str) -> str:
        value = table.get(key)
        if isinstance(value, str) and value.strip():
            return value
        self._fault(f"{place}.{key}", value, "text that is not empty")
        return ""

    def _names(self, table: dict[str, Any], place: str, key: str) -> tuple[str, ...]:
        value = table.get(key)
        if isinstance(value, list) and all(isinstance(item, str) and item for item in value):
            return tuple(value)
        self._fault(f"{place}.{key}", value, "a list of names")
        return ()

    def _known_keys(self, place: str, table: dict[str, Any], known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
                path = f"{place}.{key}" if place else key
                self._fault(path, "an unknown key", f"one of {', '.join(known)}; nearest is {near}", raw=True)

    def _fault(self, place: str, found: Any, expected: str, *, raw: bool = False) -> None:
        table, dot, _ = place.partition(".")
        if dot and not isinstance(self.document.get(table), dict):
            return  # the missing table is a fault already
        text = found if raw else "nothing" if found is None else repr(found)
        self.faults.append(Fault(place, text if len(text) <= 200 else text[:197] + "...", expected))
