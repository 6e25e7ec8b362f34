"""Owns the data contract: what a dataset folder declares about itself, and the digest of its content.

A dataset is a folder with a `dataset.toml` and one data file that it names. This module reads the declaration, reports
every fault of it at once with its place, and computes the digest that joins a job's identity. It needs the standard
library alone, because both the fleet and the trainer use it. It never opens the data file except to hash it: whether
the columns exist and what they hold is the trainer's business.
"""

from __future__ import annotations

import collections
import difflib
import hashlib
import json
import os
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

DECLARATION = "dataset.toml"
SCHEMA = 1
MODES = ("realistic", "oracle")
SPLIT_RECIPES = ("random", "time", "hosts", "group", "published")
SINGLE_HOST = "all"
MAX_CATEGORY_VALUES = 256
MAX_CATEGORY_LENGTH = 100

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
_NEEDS = {"time": ("time",), "hosts": ("host",), "group": ("host",)}
_TABLES = ("schema", "dataset", "roles", "features", "categories", "windows", "splits", "units")
_CHUNK_BYTES = 1 << 20
_DECLARATION_LIMIT_BYTES = 1 << 20
MAX_WINDOW_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a declaration."""

    place: str
    """Where: the key path inside dataset.toml, or the file."""
    found: str
    """What stands there now."""
    expected: str
    """What must stand there, with the nearest valid name when a name is wrong."""

    def __str__(self) -> str:
        return f"{self.place}: found {self.found}, expected {self.expected}"


class DatasetError(Exception):
    """A dataset folder that can't be used, with every fault found.

    Attributes:
        faults: All faults, in file order.
        unreadable: True when the folder or a file could not be read at all, so another host may fare better.
    """

    def __init__(self, folder: Path, faults: Iterable[Fault], *, unreadable: bool = False) -> None:
        self.faults = tuple(faults)
        self.unreadable = unreadable
        lines = "; ".join(str(fault) for fault in self.faults)
        super().__init__(f"dataset folder {folder}: {lines}")


@dataclass(frozen=True, slots=True)
class Roles:
    """Which column plays which part."""

    host: str | None
    """Column that names the host of a row; text. None means that all rows belong to one host named `SINGLE_HOST`."""
    label: str
    """Column with 1 for anomalous and 0 for normal."""
    group: str | None = None
    """Column that names the group of a host; None when hosts are not grouped."""
    time: str | None = None
    """Column that orders the rows of one host; None means that file order is time order."""

    def columns(self) -> tuple[str, ...]:
        """Return the role columns that exist, host first."""
        return tuple(name for name in (self.host, self.group, self.time, self.label) if name is not None)


@dataclass(frozen=True, slots=True)
class Features:
    """Which metrics each mode may see."""

    realistic: tuple[str, ...]
    """What somebody outside the host can measure."""
    oracle_extra: tuple[str, ...] = ()
    """What only an agent on the host can read, in addition."""
    never: tuple[str, ...] = ()
    """Columns that are inputs in neither mode."""

    def columns(self, mode: str) -> tuple[str, ...]:
        """Return the input columns of a mode, in declared order.

        Args:
            mode: One of `MODES`.

        Raises:
            ValueError: The mode is unknown.
        """
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is unknown, expected one of {', '.join(MODES)}")
        return self.realistic if mode == "realistic" else self.realistic + self.oracle_extra


@dataclass(frozen=True, slots=True)
class Windows:
    """What one sample is."""

    length: int
    """Rows of one host that end at the scored row; 1 to 100,000. 1 means that each row stands alone."""
    label: str = "last"
    """Which row of the window gives the label; only "last" exists."""


@dataclass(frozen=True, slots=True)
class RandomSplit:
    """Rows at random. Leaks: neighbouring rows of one incident fall on both sides."""

    test_fraction: float
    """Part of the rows that tests, between 0 and 1."""


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """The first part of every host trains, the last part tests."""

    train_fraction: float
    """Part of each host's rows that trains, between 0 and 1."""
    gap: int
    """Rows dropped between the two parts."""


@dataclass(frozen=True, slots=True)
class HostsSplit:
    """Fixed folds of hosts; each fold is scored by a model that never saw its hosts."""

    folds: tuple[tuple[str, ...], ...]
    """Host names per fold; every host of the data is in exactly one."""


@dataclass(frozen=True, slots=True)
class GroupSplit:
    """Each group is scored by a model that never saw it."""

    column: str
    """Column that names the group of a row."""


@dataclass(frozen=True, slots=True)
class PublishedSplit:
    """The split its publishers declared, as a marker column."""

    column: str
    """Column that says which side a row is on."""
    train: str = "train"
    """Marker of training rows; compared as text."""
    test: str = "test"
    """Marker of test rows; rows with any other marker are used on neither side."""


Split = RandomSplit | TimeSplit | HostsSplit | GroupSplit | PublishedSplit


@dataclass(frozen=True, slots=True)
class Dataset:
    """A valid declaration of a dataset folder."""

    folder: Path
    """The folder it was read from."""
    name: str
    """Short name, as manifests use it."""
    file: str
    """Name of the data file, relative to the folder."""
    roles: Roles
    features: Features
    windows: Windows
    splits: Mapping[str, Split]
    """Recipe name to recipe; a recipe that is missing is refused by name when a job asks for it."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Column to unit, as text for people; empty when the publishers gave none."""
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Feature column that holds text, to its known values; any other feature column holds numbers."""

    @property
    def data_path(self) -> Path:
        """Path of the data file."""
        return self.folder / self.file

    def categories_of(self, mode: str) -> dict[str, list[str]]:
        """Return the known values of the columns of text that a mode sees, in declared order of the columns."""
        return {name: list(self.categories[name]) for name in self.features.columns(mode) if name in self.categories}

    def missing_split(self, recipe: str) -> str:
        """Say why a recipe that is not declared can't be used, naming the role it needs when that is missing."""
        has = ", ".join(self.splits) or "none"
        lacking = [f"roles.{role}" for role in _NEEDS.get(recipe, ()) if getattr(self.roles, role) is None]
        why = f"; that split needs {', '.join(lacking)}, which this dataset does not have" if lacking else ""
        return f"dataset {self.name!r} declares no split {recipe!r}; it has {has}{why}"


def expanded_columns(columns: Iterable[str], categories: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Return the names of the columns in memory.

    A column of numbers keeps its name; a column of text becomes one 0/1 column `column=value` per known value, in its
    place.
    """
    return tuple(
        name
        for column in columns
        for name in ([f"{column}={value}" for value in categories[column]] if column in categories else [column])
    )


def category_faults(categories: object, columns: Iterable[str]) -> list[Fault]:
    """List what is wrong with a table of categories.

    Args:
        categories: Column name to a list of values, as parsed from TOML or JSON.
        columns: The feature columns.

    Returns:
        Faults with places such as `categories.service`; empty when all is well.
    """
    if not isinstance(categories, dict):
        return [Fault("categories", repr(categories)[:200], "a table of column names and lists of values")]
    names = list(dict.fromkeys(columns))
    faults = []
    for column, values in categories.items():
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1, cutoff=0.0)
            hint = f"; nearest is {near[0]}" if near else ""
            faults.append(Fault(f"categories.{column}", "no such feature", f"a column of [features]{hint}"))
        faults += _value_faults(f"categories.{column}", values)
    if not faults:
        counts = collections.Counter(expanded_columns(names, categories))
        twice = [name for name, count in counts.items() if count > 1]
        faults += [Fault("categories", repr(name), "names column=value that no other input has") for name in twice]
    return faults


def _value_faults(place: str, values: object) -> list[Fault]:
    if not isinstance(values, list) or not values:
        return [Fault(place, repr(values)[:200], "a list of at least one value")]
    if len(values) > MAX_CATEGORY_VALUES:
        return [Fault(place, f"{len(values)} values", f"at most {MAX_CATEGORY_VALUES} values")]
    wrong = [value for value in values if not isinstance(value, str) or not 0 < len(value) <= MAX_CATEGORY_LENGTH]
    if wrong:
        text = repr(wrong[0])
        shown = text if len(text) <= 200 else text[:197] + "..."
        return [Fault(place, shown, f"text of 1 to {MAX_CATEGORY_LENGTH} characters")]
    counts = collections.Counter(values)
    return [Fault(place, repr(value), "each value once") for value, count in counts.items() if count > 1]


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
        cache: A small JSON file that remembers file digests by path, size and mtime; made when missing, and ignored
            when it can't be read. None reads every byte again.

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
        return tomllib.loads(text.decode())
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
    stamp = [state.st_size, state.st_mtime_ns]
    if isinstance(entry, list) and entry[:2] == stamp and len(entry) == 3 and isinstance(entry[2], str):
        return entry[2]
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    known[str(path.resolve())] = [*stamp, digest.hexdigest()]
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
    """Replace the cache in one step; a cache that can't be written costs time, not correctness."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=cache.parent, prefix=cache.name)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(entries, stream)
        Path(name).replace(cache)
    except OSError:
        return


class _Reader:
    """Walks a parsed declaration and gathers faults instead of stopping at the first."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.faults: list[Fault] = []

    def dataset(self, folder: Path) -> Dataset:
        """Build the declaration; it is meaningful only when no fault was gathered."""
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
            for role in _NEEDS.get(recipe, ()):
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
            return  # one fault for a missing table is enough
        text = found if raw else "nothing" if found is None else repr(found)
        self.faults.append(Fault(place, text if len(text) <= 200 else text[:197] + "...", expected))
