"""Owns importing any CSV file whose columns the caller names.

The file is read twice: once for hosts, groups, markers and the values of text columns, once for the rows. Columns that
nobody named are inputs. Values of text are gathered from training rows alone where there is a published split.
"""

from __future__ import annotations

import collections
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from training.contracts.dataset import (
    Dataset,
    Features,
    GroupSplit,
    PublishedSplit,
    RandomSplit,
    Roles,
    Split,
    TimeSplit,
    Windows,
)
from training.trainer.data.csv_files import csv_batches, csv_names
from training.trainer.data.imports.declaration import dealt
from training.trainer.data.imports.folder import Source
from training.trainer.data.imports.values import KnownValues
from training.trainer.faults import SpecError

WINDOW_ROWS = 30
_TRAIN, _TEST = "train", "test"
_SHOWN_VALUES = 10


@dataclass(frozen=True, slots=True)
class Request:
    """Which column of a CSV file plays which part, as the caller named them."""

    name: str
    """Name of the dataset."""
    label: str
    host: str | None = None
    time: str | None = None
    group: str | None = None
    split: str | None = None
    """Column whose values are train and test; other values are used on neither side."""
    realistic: tuple[str, ...] = ()
    oracle: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    """Values of the label that mean anomalous; empty when the label is 0 and 1."""
    window: int | None = None
    """Rows per window; None takes 30, and 1 where neither host nor time is there."""

    def roles(self) -> tuple[str, ...]:
        """Return the columns that are no inputs by their part."""
        return tuple(name for name in (self.host, self.group, self.time, self.label, self.split) if name is not None)


@dataclass(frozen=True, slots=True)
class _Survey:
    """What the first pass found."""

    hosts: tuple[str, ...]
    """Host names by group and name; empty without a host column."""
    groups: frozenset[str]
    categories: dict[str, tuple[str, ...]]


def csv_source(path: Path, request: Request) -> Source:
    """Look at a CSV file and describe what it holds.

    Raises:
        SpecError: The file and the request do not fit.
        HostError: The file can't be read here.
    """
    columns = csv_names(path)
    _check_names(path.name, columns, request)
    features = _features(columns, request)
    survey = _surveyed(path, request)
    window = request.window or (1 if request.host is None and request.time is None else WINDOW_ROWS)
    dataset = Dataset(
        folder=path.parent,
        name=request.name,
        file=f"{request.name}.parquet",
        roles=Roles(request.host, request.label, request.group, request.time),
        features=features,
        windows=Windows(window),
        splits=_splits(request, survey, window),
        categories=survey.categories,
    )
    task = f"binary: is the last row of this window anomalous, as column {request.label} says"
    return Source(path.name, dataset, task, _batches(path, columns, request, features))


def _check_names(file: str, columns: Sequence[str], request: Request) -> None:
    """Refuse names that the header does not have or has twice, all at once."""
    named = [*request.roles(), *request.realistic, *request.oracle, *request.never, *request.categorical]
    faults = []
    for name in dict.fromkeys(named):
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1, cutoff=0.0)
            faults.append(f"found no column {name!r}, nearest is {near[0]!r}")
    faults += [
        f"found the column {name!r} more than once" for name in dict.fromkeys(columns) if columns.count(name) > 1
    ]
    faults += ["found a column without a name" for name in columns if not name.strip()][:1]
    inputs = {*request.roles(), *request.never}
    faults += [f"column {name!r} is named as text but is no input" for name in request.categorical if name in inputs]
    if faults:
        raise SpecError(f"{file}: {'; '.join(faults)}; it has {', '.join(columns)}")


def _features(columns: Sequence[str], request: Request) -> Features:
    """Put every column into a tier; one that nobody named goes to the tier that was not named, or to none."""
    taken = {*request.roles(), *request.realistic, *request.oracle, *request.never}
    rest = tuple(name for name in columns if name not in taken)
    realistic, oracle, never = request.realistic, request.oracle, request.never
    if not realistic:
        realistic = rest
    elif not oracle:
        oracle = rest
    else:
        never += rest
    return Features(realistic, oracle, never)


def _splits(request: Request, survey: _Survey, window: int) -> dict[str, Split]:
    splits: dict[str, Split | None] = {
        "random": RandomSplit(0.3),
        "time": TimeSplit(0.6, 2 * window) if request.time is not None else None,
        "hosts": dealt(survey.hosts),
        "group": GroupSplit(request.group) if request.group is not None and len(survey.groups) > 1 else None,
        "published": PublishedSplit(request.split, _TRAIN, _TEST) if request.split is not None else None,
    }
    return {recipe: split for recipe, split in splits.items() if split is not None}


def _surveyed(path: Path, request: Request) -> _Survey:
    """Stream the columns of text once."""
    wanted = [name for name in (request.host, request.group, request.split) if name is not None]
    known = KnownValues(path.name, request.categorical)
    pairs: set[tuple[str, str]] = set()
    markers: set[str] = set()
    if not wanted and not request.categorical:
        return _Survey((), frozenset(), {})
    for batch in csv_batches(path, dict.fromkeys([*wanted, *request.categorical], pa.string())):
        pairs.update(_pairs(batch, request))
        if request.split is not None:
            markers.update(pc.unique(batch.column(request.split)).to_pylist())
            batch = batch.filter(pc.equal(batch.column(request.split), _TRAIN))  # noqa: PLW2901
        known.add(batch)
    if request.split is not None and not {_TRAIN, _TEST} <= markers:
        shown = ", ".join(sorted(markers)[:_SHOWN_VALUES])
        raise SpecError(f"{path.name}: column {request.split!r}: found the values {shown}, expected train and test")
    hosts = tuple(host for _, host in sorted(pairs) if host)
    if len(set(hosts)) < len(hosts):
        twice = collections.Counter(hosts).most_common(1)[0][0]
        raise SpecError(f"{path.name}: column {request.group!r}: found host {twice!r} in two groups, expected one")
    return _Survey(hosts, frozenset(group for group, _ in pairs), known.sorted())


def _pairs(batch: pa.RecordBatch, request: Request) -> set[tuple[str, str]]:
    """Return the distinct pairs of group and host in a batch; the group is empty without such a column."""
    if request.host is None:
        return set()
    names = [request.host] if request.group is None else [request.group, request.host]
    found = pa.Table.from_batches([batch.select(names)]).group_by(names).aggregate([])
    hosts = found[request.host].to_pylist()
    groups = [""] * len(hosts) if request.group is None else found[request.group].to_pylist()
    return set(zip(groups, hosts, strict=True))


def _batches(path: Path, columns: Sequence[str], request: Request, features: Features) -> Iterator[pa.RecordBatch]:
    types: dict[str, pa.DataType | None] = dict.fromkeys(columns, pa.float32())
    parts = [name for name in (request.host, request.group, request.label, request.split) if name is not None]
    types |= dict.fromkeys([*parts, *features.never, *request.categorical], pa.string())
    if request.time is not None:
        types[request.time] = None
    place = columns.index(request.label)
    try:
        for batch in csv_batches(path, types):
            label = _labels(path.name, batch.column(request.label), request)
            yield batch.set_column(place, request.label, label)
    except SpecError as fault:
        hint = "; name a column of text with --categorical or --never" if str(fault).endswith("a number") else ""
        raise SpecError(f"{fault}{hint}") from fault


def _labels(file: str, column: pa.Array, request: Request) -> pa.Array:
    """Turn the label into 0 and 1."""
    if request.positive:
        if pc.any(pc.equal(column, "")).as_py():
            raise SpecError(f"{file}: column {request.label!r}: found an empty cell, expected a label in every row")
        return pc.cast(pc.is_in(column, value_set=pa.array(request.positive, pa.string())), pa.int8())
    wrong = pc.filter(column, pc.invert(pc.is_in(column, value_set=pa.array(["0", "1"], pa.string()))))
    if len(wrong):
        raise SpecError(
            f"{file}: column {request.label!r}: found {wrong[0].as_py()!r}, expected 0 or 1; "
            "name the values that mean anomalous with --positive"
        )
    return pc.cast(column, pa.int8())
