"""Owns what a dataset folder declares about itself: roles, features, windows, splits, and the limits of each.

A dataset is a folder with a `dataset.toml` and one data file that it names. `dataset_folder` reads such a folder; here
are the values that come out, and what follows from them. Needs the standard library alone, because both the fleet and
the trainer use it.
"""

from __future__ import annotations

import collections
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SCHEMA = 1
MODES = ("realistic", "oracle")
SPLIT_RECIPES = ("random", "time", "hosts", "group", "published")
SINGLE_HOST = "all"
MAX_CATEGORY_VALUES = 256
MAX_CATEGORY_LENGTH = 100

NEEDED_ROLES = {"time": ("time",), "hosts": ("host",), "group": ("host",)}
"""Split recipe to the roles without which it means nothing."""
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
        lacking = [f"roles.{role}" for role in NEEDED_ROLES.get(recipe, ()) if getattr(self.roles, role) is None]
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
