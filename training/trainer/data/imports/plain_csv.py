"""Owns importing CSV files whose columns the caller names.

Several files become one dataset: they have the same columns, and the host is a column or a part of the file's name. The
files are read twice: once for hosts, groups, markers, labels, the form of the time and the values of text columns, once
for the rows. Columns that nobody named are inputs. Values of text are gathered from training rows alone where there is
a published split.
"""

from __future__ import annotations

import collections
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from training.trainer.data.imports.values import KnownValues, LabelCounts
from training.trainer.data.times import TimeForm, converted, parsed
from training.trainer.faults import CellError, SpecError

WINDOW_ROWS = 30
"""Rows per window unless the caller says otherwise: half an hour of telemetry by the minute."""
HOST_COLUMN = "host"
"""Name of the column that gets the part of the file's name."""
_TRAIN, _TEST = "train", "test"
_SHOWN_VALUES = 10


@dataclass(frozen=True, slots=True)
class Request:
    """Which column of a CSV file plays which part, as the caller named them."""

    name: str
    """Name of the dataset."""
    label: str
    host: str | None = None
    host_from: str | None = None
    """Pattern of the file names, with `{host}` for the part that names the host; excludes `host`."""
    time: str | None = None
    group: str | None = None
    split: str | None = None
    """Column whose values are train and test; rows with other values are not used."""
    realistic: tuple[str, ...] = ()
    oracle: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    """Values of the label that mean anomalous; empty when the label is 0 and 1."""
    window: int | None = None
    """Rows per window; None takes 30, and 1 where neither host nor time is there."""

    @property
    def host_column(self) -> str | None:
        """Column of the dataset that names the host; None when all rows are of one."""
        return HOST_COLUMN if self.host_from is not None else self.host

    def roles(self) -> tuple[str, ...]:
        """Return the columns that can't be inputs because of the part they play."""
        named = (self.host_column, self.group, self.time, self.label, self.split)
        return tuple(name for name in named if name is not None)


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of an import, with the host of each where its name tells it."""

    paths: tuple[Path, ...]
    columns: tuple[str, ...]
    """Columns of every file, in the order of the first."""
    hosts: Mapping[Path, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What messages call all of them."""
        return self.paths[0].name if len(self.paths) == 1 else f"{self.paths[0].name} and {len(self.paths) - 1} more"

    def batches(self, types: Mapping[str, pa.DataType]) -> Iterator[tuple[Path, int, pa.RecordBatch]]:
        """Stream columns of all files, each batch with its file and the number of its first row."""
        read = {name: kind for name, kind in types.items() if name in self.columns}
        for path in self.paths:
            row = 2
            for batch in csv_batches(path, read):
                columns = [
                    batch.column(name) if name in read else pa.repeat(self.hosts[path], batch.num_rows)
                    for name in types
                ]
                yield path, row, pa.RecordBatch.from_arrays(columns, names=list(types))
                row += batch.num_rows


@dataclass(frozen=True, slots=True)
class _Survey:
    """What the first pass found."""

    hosts: tuple[str, ...]
    """Host names by group and name; empty without a host column."""
    groups: frozenset[str]
    categories: dict[str, tuple[str, ...]]
    time: pa.DataType | None
    """Type that holds all times; None without a time column."""


def csv_source(paths: Sequence[Path], request: Request) -> Source:
    """Look at CSV files and describe what they hold.

    Raises:
        SpecError: The files and the request do not fit.
        HostError: A file can't be read here.
    """
    files = _opened(paths, request)
    features = _features(files.columns, request)
    survey = _surveyed(files, request)
    window = request.window or (1 if request.host_column is None and request.time is None else WINDOW_ROWS)
    dataset = Dataset(
        folder=paths[0].parent,
        name=request.name,
        file=f"{request.name}.parquet",
        roles=Roles(request.host_column, request.label, request.group, request.time),
        features=features,
        windows=Windows(window),
        splits=_splits(request, survey, window),
        categories=survey.categories,
    )
    task = f"binary: is the last row of this window anomalous, as column {request.label} says"
    return Source(files.name, dataset, task, _batches(files, request, features, survey.time))


def _opened(paths: Sequence[Path], request: Request) -> _Files:
    """Read the headers, and the host in each file's name where the caller wants that."""
    columns = csv_names(paths[0])
    for path in paths[1:]:
        _check_same(path, csv_names(path), paths[0].name, columns)
    hosts = {} if request.host_from is None else {path: host_in(path.name, request.host_from) for path in paths}
    if request.host_from is not None and HOST_COLUMN in columns:
        raise SpecError(f"{paths[0].name}: found a column {HOST_COLUMN!r}; name it with --host, or rename it")
    _check_names(paths[0].name, [*columns, *([HOST_COLUMN] if hosts else [])], request)
    return _Files(tuple(paths), tuple(columns), hosts)


def host_in(name: str, pattern: str) -> str:
    """Return the part of a file name that stands where the pattern has `{host}`; `*` fits anything.

    Raises:
        SpecError: The name does not fit the pattern.
    """
    parts = {"{host}": "(.+)", "*": ".*"}
    expression = "".join(parts.get(part, re.escape(part)) for part in re.split(r"(\{host\}|\*)", pattern))
    found = re.fullmatch(expression, name)
    if found is None:
        raise SpecError(f"{name}: found a file name that does not fit --host-from {pattern!r}, expected one that does")
    return found[1]


def _check_same(path: Path, found: Sequence[str], first: str, columns: Sequence[str]) -> None:
    lacks = [name for name in columns if name not in found]
    more = [name for name in found if name not in columns]
    if lacks or more or len(found) != len(columns):
        what = [f"lacks the columns {', '.join(lacks)}"] if lacks else []
        what += [f"has the columns {', '.join(more)} besides"] if more else []
        told = " and ".join(what) or "has a column more than once"
        raise SpecError(f"{path.name} {told}, expected the columns of {first}; import it into a dataset of its own")


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
    faults += [
        f"column {name!r} is named as text, but it is not an input" for name in request.categorical if name in inputs
    ]
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


def _surveyed(files: _Files, request: Request) -> _Survey:
    """Stream the columns of text once."""
    known, labels = KnownValues(files.name, request.categorical), LabelCounts(files.name, request.label)
    form = None if request.time is None else TimeForm(request.time)
    pairs: set[tuple[str, str]] = set()
    markers: set[str] = set()
    for path, row, batch in files.batches(dict.fromkeys([*request.roles(), *request.categorical], pa.string())):
        labels.add(batch)
        pairs.update(_pairs(batch, request))
        if form is not None:
            form.typed(batch.column(request.time), path.name, row)
        trains = batch
        if request.split is not None:
            markers.update(pc.unique(batch.column(request.split)).to_pylist())
            trains = batch.filter(pc.equal(batch.column(request.split), _TRAIN))
        known.add(trains)
    labels.check(request.positive)
    if request.split is not None and not {_TRAIN, _TEST} <= markers:
        shown = ", ".join(sorted(markers)[:_SHOWN_VALUES])
        raise SpecError(f"{files.name}: column {request.split!r}: found the values {shown}, expected train and test")
    hosts = tuple(host for _, host in sorted(pairs) if host)
    if len(set(hosts)) < len(hosts):
        twice = collections.Counter(hosts).most_common(1)[0][0]
        raise SpecError(f"{files.name}: column {request.group!r}: found host {twice!r} in two groups, expected one")
    groups = frozenset(group for group, _ in pairs)
    return _Survey(hosts, groups, known.sorted(), None if form is None else form.kind)


def _pairs(batch: pa.RecordBatch, request: Request) -> set[tuple[str, str]]:
    """Return the distinct pairs of group and host in a batch; the group is empty without such a column."""
    if request.host_column is None:
        return set()
    names = [request.host_column] if request.group is None else [request.group, request.host_column]
    found = pa.Table.from_batches([batch.select(names)]).group_by(names).aggregate([])
    hosts = found[request.host_column].to_pylist()
    groups = [""] * len(hosts) if request.group is None else found[request.group].to_pylist()
    return set(zip(groups, hosts, strict=True))


def _batches(files: _Files, request: Request, features: Features, time: pa.DataType | None) -> Iterator[pa.RecordBatch]:
    columns = [*([HOST_COLUMN] if files.hosts else []), *files.columns]
    types: dict[str, pa.DataType] = dict.fromkeys(columns, pa.float32())
    types |= dict.fromkeys([*request.roles(), *features.never, *request.categorical], pa.string())
    form = TimeForm(request.time or "")
    try:
        for path, row, batch in files.batches(types):
            label = _labels(batch.column(request.label), request)
            out = batch.set_column(columns.index(request.label), request.label, label)
            if request.time is not None and time is not None:
                instants = converted(form.typed(batch.column(request.time), path.name, row), time)
                out = out.set_column(columns.index(request.time), request.time, instants)
            yield out
    except CellError as fault:
        if types.get(fault.column) != pa.float32():
            raise
        raise SpecError(f"{fault}; {_advice(fault, request)}") from fault


def _advice(fault: CellError, request: Request) -> str:
    """Say how to name a column that was taken for an input and holds text."""
    if isinstance(fault.found, str) and parsed(pa.array([fault.found.strip()])) is not None:
        option = "--time" if request.time is None else "--never"
        return f"it looks like a time: name the column with {option} {fault.column}"
    return "name a column of text with --categorical or --never"


def _labels(column: pa.Array, request: Request) -> pa.Array:
    """Turn the label, which was checked in the first pass, into 0 and 1."""
    return pc.cast(pc.is_in(column, value_set=pa.array(request.positive or ("1",), pa.string())), pa.int8())
