"""Owns the telemetry in memory: a data file read column by column, checked, and sorted by host and time.

Guarantees: rows of one host stand together and rise in time; values are finite; a column the dataset promises exists
and is a number, or text where the dataset lists its values. What a data file may contain and what happens to it:

- A missing value takes the host's last value of that metric before it. Rows before a host's first complete row are
  dropped. A metric that a host never reports is refused, naming column and host.
- A column of text becomes one 0/1 column per known value. A missing or unknown value is 0 in all of them.
- Infinite values, labels other than 0 and 1, missing hosts, times or labels, and two rows of one host with the same
  time are refused, naming column and host.
- Constant columns and hosts with one class only are kept: the first carry no information, the second take no part in
  per-host means.
- Unsorted rows are sorted; hosts are ordered by name. Without a host column all rows belong to one host; without a
  time column rows keep the order of the file, and equal rows can't be told from repeats and are kept.

Windows and splits are the business of `windows` and `splits`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from training.contracts.dataset import SINGLE_HOST, Dataset, expanded_columns
from training.trainer.data.csv_files import csv_batches, csv_names, unreadable
from training.trainer.data.times import TimeColumn
from training.trainer.faults import SpecError

BATCH_ROWS = 65536
MAX_TEXT_LENGTH = 200
"""Characters of a host, group or marker. numpy gives every text the room of the longest one."""
_NUMBERS = (
    pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null,
)  # fmt: skip
"""Types of a metric in parquet; a flag counts as 0 and 1."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
HostIndex = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file, as messages name it."""

    name: str
    first_row: int
    """Number of its first row of data: 2 in CSV, where the header is row 1."""

    def cell(self, index: int, column: str) -> str:
        """Name the cell of a column in a row, given by its place in the file."""
        return f"{self.name}: row {self.first_row + index}, column {column!r}"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns to read, and as what."""

    values: tuple[str, ...]
    """Metrics, read as float32, and columns of text that `categories` lists."""
    host: str | None
    """None puts all rows under one host."""
    time: str | None = None
    label: str | None = None
    texts: tuple[str, ...] = ()
    """Further columns read as text: group, split marker."""
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column of text to its known values; may name columns that are not read."""
    keep_time: bool = False
    """Whether the time is also kept as it stands in the file, for output that people join with it."""

    def rest(self) -> list[str]:
        """Return the columns that are no metrics, once."""
        roles = [name for name in (self.host, self.time, self.label) if name is not None]
        return list(dict.fromkeys([*roles, *self.texts]))

    def all(self) -> list[str]:
        """Return every column, once, in reading order."""
        return list(dict.fromkeys([*self.rest(), *self.values]))

    def types(self) -> dict[str, pa.DataType]:
        """Return the type in which each column is read from CSV."""
        texts = [*self.texts, *(name for name in self.values if name in self.categories)]
        texts += [name for name in (self.host, self.time) if name is not None]
        return dict.fromkeys(self.all(), pa.float64()) | dict.fromkeys(texts, pa.string())


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Rows of all hosts, sorted by host name and time."""

    columns: tuple[str, ...]
    """Names of the metrics; a column of text stands as `column=value` for each known value."""
    values: Floats
    """(n_rows, n_columns) float32, finite; each metric in its own unit, 0 or 1 for a value of text."""
    hosts: tuple[str, ...]
    """Host names, sorted; one name when the data have no host column."""
    host: npt.NDArray[np.int32]
    """(n_rows,) index into `hosts`, rising."""
    time: npt.NDArray[Any]
    """(n_rows,) numbers that rise with time, as `times.TimeColumn.numbers` makes them; row numbers of the host where
    there is no time column."""
    label: npt.NDArray[np.int8]
    """(n_rows,) 1 anomalous, 0 normal; all 0 when no label was read."""
    texts: dict[str, npt.NDArray[np.str_]]
    """Column to (n_rows,) text, for group and split marker."""
    time_given: pa.Array | None = None
    """(n_rows,) the time as it stands in the file, where that was asked for."""

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """Yield (host index, first row, row after the last) of every host."""
        edges = np.searchsorted(self.host, np.arange(len(self.hosts) + 1))
        for index in range(len(self.hosts)):
            yield index, int(edges[index]), int(edges[index + 1])


def read_telemetry(dataset: Dataset, mode: str, split_recipe: str) -> Telemetry:
    """Read the rows of a dataset for one mode.

    Args:
        dataset: The declaration.
        mode: "realistic" or "oracle"; decides which metrics are read at all.
        split_recipe: Decides which marker column is read beside the roles.

    Raises:
        SpecError: The data break the contract, naming column and host.
        HostError: The file can't be read here.
    """
    roles = dataset.roles
    split = dataset.splits.get(split_recipe)
    texts = (split.column,) if split is not None and hasattr(split, "column") else ()
    values = dataset.features.columns(mode)
    return read_rows(dataset.data_path, Columns(values, roles.host, roles.time, roles.label, texts, dataset.categories))


def read_rows(path: Path, wanted: Columns) -> Telemetry:
    """Read, check and sort the rows of a parquet or CSV file.

    The file is streamed in batches; memory is at most twice the columns that were asked for, as float32.

    Raises:
        SpecError: A column is missing or holds what it must not, naming column and host.
        HostError: The file can't be read here.
    """
    file = DataFile(path.name, 2 if path.suffix == ".csv" else 1)
    parts: dict[str, list[Any]] = {name: [] for name in wanted.rest() if name != wanted.time}
    time = TimeColumn(file.name, wanted.time or "", file.first_row, keep=wanted.keep_time)
    values: list[Floats] = []
    for batch in _batches(path, wanted):
        for name, chunks in parts.items():
            chunks.append(batch.column(name))
        if wanted.time is not None:
            time.add(batch.column(wanted.time))
        values.append(_matrix(path.name, batch, wanted))
    if not sum(len(part) for part in values):
        raise SpecError(f"{path.name} holds no rows, expected telemetry; check how it was written")
    return _assembled(file, wanted, parts, time, values)


def column_names(path: Path) -> list[str]:
    """Return the column names of a parquet or CSV file.

    Raises:
        SpecError: The suffix is neither .parquet nor .csv, or the file is damaged.
        HostError: The file can't be read.
    """
    if path.suffix == ".csv":
        return csv_names(path)
    if path.suffix != ".parquet":
        raise SpecError(f"{path.name}: found the suffix {path.suffix!r}, expected .parquet or .csv")
    try:
        return list(pq.read_schema(path).names)
    except OSError as fault:
        raise unreadable(path, fault) from fault
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as fault:
        raise _damaged(path, fault) from fault


def _damaged(path: Path, fault: Exception) -> SpecError:
    return SpecError(f"{path.name} is not a readable parquet file: {fault}; write it again")


def _batches(path: Path, wanted: Columns) -> Iterator[pa.RecordBatch]:
    present = column_names(path)
    absent = [name for name in wanted.all() if name not in present]
    if absent:
        shown = (name + _look_alikes(name, present) for name in absent)
        raise SpecError(f"{path.name} lacks the columns {', '.join(shown)}; it has {', '.join(present)}")
    twice = [name for name in wanted.all() if present.count(name) > 1]
    if twice:
        raise SpecError(f"{path.name} holds the columns {', '.join(twice)} more than once, expected each name once")
    return csv_batches(path, wanted.types()) if path.suffix == ".csv" else _parquet_batches(path, wanted.all())


def _look_alikes(name: str, present: Sequence[str]) -> str:
    """Name the columns that differ from a missing one in case, dashes, blanks and the like alone."""
    found = [other for other in present if _letters(other) == _letters(name)]
    return f" (found {', '.join(repr(other) for other in found)} instead)" if found else ""


def _letters(name: str) -> str:
    return "".join(sign for sign in name.casefold() if sign.isalnum())


def _parquet_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns), use_threads=False)
    except OSError as fault:
        raise unreadable(path, fault) from fault
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as fault:
        raise _damaged(path, fault) from fault


def _matrix(file: str, batch: pa.RecordBatch, wanted: Columns) -> Floats:
    """Turn the metrics of a batch into (n_rows, n_columns) float32, NaN for missing numbers, zeros for unknown text."""
    out = np.zeros((batch.num_rows, len(expanded_columns(wanted.values, wanted.categories))), np.float32)
    place = 0
    for name in wanted.values:
        column, known = batch.column(name), wanted.categories.get(name)
        if known is None:
            with np.errstate(over="ignore"):
                out[:, place] = _numbers(file, name, column)
        else:
            index = pc.index_in(_as_text(file, name, column), value_set=pa.array(known, pa.string()))
            rows = np.flatnonzero(np.asarray(pc.is_valid(index)))
            out[rows, place + np.asarray(index.drop_null())] = 1
        place += 1 if known is None else len(known)
    return out


def _numbers(file: str, name: str, column: pa.Array) -> npt.NDArray[np.float64]:
    kind = column.type
    if not any(holds(kind) for holds in _NUMBERS):
        raise SpecError(f"{file}: column {name!r} holds {kind}, expected numbers; text needs an entry in [categories]")
    # Not safe: a whole number above 2^53 becomes the nearest fraction, as it does in CSV.
    return np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def _as_text(file: str, name: str, column: Any) -> Any:
    try:
        return pc.cast(column, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as fault:
        raise SpecError(f"{file}: column {name!r} holds {column.type}, expected text: {fault}") from fault


def _assembled(
    file: DataFile, wanted: Columns, parts: dict[str, list[Any]], times: TimeColumn, values: list[Floats]
) -> Telemetry:
    hosts, host = _hosts(file, wanted.host, parts, sum(len(part) for part in values))
    time = _times(file, wanted.time, times, hosts, host)
    label = _labels(file, wanted.label, parts, hosts, host)
    order = np.lexsort((time, host))  # by host, then time; equal rows keep the order of the file
    texts = {column: _texts(file, column, parts[column], hosts, host)[order] for column in wanted.texts}
    telemetry = Telemetry(
        columns=expanded_columns(wanted.values, wanted.categories),
        values=_ordered(values, order),
        hosts=hosts,
        host=host[order],
        time=time[order],
        label=label[order],
        texts=texts,
        time_given=times.given().combine_chunks().take(order) if wanted.keep_time and wanted.time else None,
    )
    _check_times(file, wanted.time, telemetry, order)
    return _filled(file, telemetry, order)


def _ordered(chunks: list[Floats], order: Ints) -> Floats:
    """Move rows to their places, and drop each chunk once it is moved, so that memory does not hold all rows twice."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    out = np.empty((len(order), chunks[0].shape[1]), np.float32)
    chunks.reverse()
    first = 0
    while chunks:
        chunk = chunks.pop()
        out[place[first : first + len(chunk)]] = chunk
        first += len(chunk)
    return out


def _hosts(
    file: DataFile, column: str | None, parts: dict[str, list[Any]], rows: int
) -> tuple[tuple[str, ...], HostIndex]:
    """Return the host names, sorted, and (n_rows,) which of them each row belongs to."""
    if column is None:
        return (SINGLE_HOST,), np.zeros(rows, np.int32)
    array = _as_text(file.name, column, pa.chunked_array(parts[column]))
    empty = _empty(array)
    if empty.any():
        where = file.cell(int(np.argmax(empty)), column)
        raise SpecError(f"{where} is empty ({int(empty.sum())} rows in all), expected a host in every row")
    names, codes = _encoded(file, column, array)
    hosts, inverse = np.unique(names, return_inverse=True)
    return tuple(str(item) for item in hosts), inverse.astype(np.int32)[codes]


def _texts(
    file: DataFile, column: str, chunks: list[Any], hosts: Sequence[str], host: HostIndex
) -> npt.NDArray[np.str_]:
    array = _as_text(file.name, column, pa.chunked_array(chunks))
    _refuse_empty(file, column, _empty(array), hosts, host, "a value")
    names, codes = _encoded(file, column, array)
    return names[codes]


def _empty(array: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Return (n_rows,) which texts are missing or hold no more than blanks."""
    return np.asarray(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(array), ""), fill_value=True))


def _encoded(file: DataFile, column: str, array: pa.ChunkedArray) -> tuple[npt.NDArray[np.str_], Ints]:
    """Return the distinct texts and (n_rows,) which of them each row holds."""
    encoded = array.combine_chunks().dictionary_encode()
    try:
        texts = encoded.dictionary.to_pylist()
    except UnicodeDecodeError as fault:
        raise SpecError(f"{file.name}: column {column!r} holds {fault.object!r}, expected text in UTF-8") from fault
    longest = max(texts, key=len)
    if len(longest) > MAX_TEXT_LENGTH:
        raise SpecError(
            f"{file.name}: column {column!r} holds a text of {len(longest)} characters, "
            f"expected at most {MAX_TEXT_LENGTH}"
        )
    nul = [text for text in texts if "\0" in text]
    if nul:
        # numpy drops them at the end of a text, which would make two hosts one.
        raise SpecError(f"{file.name}: column {column!r} holds {nul[0]!r}, expected text without NUL; write it again")
    return np.asarray(texts, np.str_), np.asarray(encoded.indices.to_numpy(), np.int64)


def _refuse_empty(
    file: DataFile, column: str, empty: npt.NDArray[np.bool_], hosts: Sequence[str], host: HostIndex, expected: str
) -> None:
    if empty.any():
        first = int(np.argmax(empty))
        raise SpecError(
            f"{file.cell(first, column)} of host {hosts[host[first]]!r} is empty ({int(empty.sum())} rows in all), "
            f"expected {expected} in every row"
        )


def _times(
    file: DataFile, column: str | None, times: TimeColumn, hosts: Sequence[str], host: HostIndex
) -> npt.NDArray[Any]:
    """Return the time of each row; without a time column the row's number within its host."""
    if column is None:
        order = np.argsort(host, kind="stable")
        starts = np.searchsorted(host[order], np.arange(len(hosts)))
        out = np.empty(len(host), np.int64)
        out[order] = np.arange(len(host)) - starts[host[order]]
        return out
    _refuse_empty(file, column, np.asarray(pc.is_null(times.column(), nan_is_null=True)), hosts, host, "a time")
    out = times.numbers()
    infinite = np.isinf(out)
    if infinite.any():
        first = int(np.argmax(infinite))
        where = f"{file.cell(first, column)} of host {hosts[host[first]]!r}"
        raise SpecError(f"{where} holds infinity, expected a time in every row")
    return out


def _labels(
    file: DataFile, column: str | None, parts: dict[str, list[Any]], hosts: Sequence[str], host: HostIndex
) -> npt.NDArray[np.int8]:
    if column is None:
        return np.zeros(len(host), np.int8)
    array = pa.chunked_array(parts[column])
    try:
        found = np.asarray(pc.cast(array, pa.float64()).to_numpy())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as fault:
        raise SpecError(f"{file.name}: column {column!r} holds {array.type}, expected 0 and 1") from fault
    wrong = ~((found == 0) | (found == 1))
    if wrong.any():
        first = int(np.argmax(wrong))
        where = f"{file.cell(first, column)} of host {hosts[host[first]]!r}"
        raise SpecError(f"{where} holds {found[first]}, expected 0 or 1; correct it or take the row out")
    return found.astype(np.int8)


def _check_times(file: DataFile, column: str | None, telemetry: Telemetry, order: Ints) -> None:
    same = (np.diff(telemetry.host) == 0) & (np.diff(telemetry.time) == 0)
    if same.any():
        first = int(np.argmax(same))
        host, time = telemetry.hosts[telemetry.host[first]], telemetry.time[first]
        rows = f"rows {file.first_row + order[first]} and {file.first_row + order[first + 1]}"
        finer = "" if telemetry.time.dtype.kind != "f" else "; times that close need whole numbers, such as nanoseconds"
        raise SpecError(
            f"{file.name}: column {column!r}: host {host!r} has more than one row at {time} ({rows}; "
            f"{int(same.sum())} repeats in all), expected one row per host and time; remove the repeats{finer}"
        )


def _filled(file: DataFile, telemetry: Telemetry, order: Ints) -> Telemetry:
    """Fill gaps from each host's past and drop what precedes its first complete row."""
    values = telemetry.values
    # Most data have no gap; the work below would copy all of them.
    if np.isfinite(values).all():
        return telemetry
    keep = np.ones(len(values), bool)
    for index, first, end in telemetry.spans():
        rows = values[first:end]
        _refuse_unusable(file, telemetry, index, rows, order[first:end])
        known = ~np.isnan(rows)
        source = np.maximum.accumulate(np.where(known, np.arange(len(rows))[:, None], 0), axis=0)
        values[first:end] = np.take_along_axis(rows, source, axis=0)
        keep[first : first + int(known.argmax(axis=0).max())] = False
    if keep.all():
        return telemetry
    given = telemetry.time_given
    return replace(
        telemetry,
        values=values[keep],
        host=telemetry.host[keep],
        time=telemetry.time[keep],
        label=telemetry.label[keep],
        texts={column: text[keep] for column, text in telemetry.texts.items()},
        time_given=None if given is None else given.filter(pa.array(keep)),
    )


def _refuse_unusable(file: DataFile, telemetry: Telemetry, index: int, rows: Floats, order: Ints) -> None:
    host = telemetry.hosts[index]
    infinite = np.isinf(rows)
    if infinite.any():
        column = int(np.argmax(infinite.any(axis=0)))
        where = file.cell(int(order[np.argmax(infinite[:, column])]), telemetry.columns[column])
        raise SpecError(f"{where} of host {host!r} holds infinite values; correct the data or leave that host out")
    absent = np.isnan(rows).all(axis=0)
    if absent.any():
        where = f"{file.name}: column {telemetry.columns[int(np.argmax(absent))]!r} of host {host!r}"
        raise SpecError(f"{where} has no value at all; correct the data or leave that host out")
