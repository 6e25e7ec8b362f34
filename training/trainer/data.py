"""Owns the telemetry in memory: a data file read column by column, checked, and sorted by host and time.

Guarantees: rows of one host stand together and rise in time; values are finite; a column the dataset promises exists
and is a number. What a data file may contain and what happens to it:

- A missing value takes the host's last value of that metric before it. Rows before a host's first complete row are
  dropped. A metric that a host never reports is refused, naming column and host.
- Infinite values, labels other than 0 and 1, missing hosts, times or labels, and two rows of one host with the same
  time are refused, naming column and host.
- Constant columns and hosts with one class only are kept: the first carry no information, the second take no part in
  per-host means.
- Unsorted rows are sorted; hosts are ordered by name.

Windows and splits are the business of `windows` and `splits`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from training.dataset import Dataset, PublishedSplit
from training.trainer.faults import HostError, SpecError

BATCH_ROWS = 65536

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns to read, and as what."""

    values: tuple[str, ...]
    """Metrics, read as float32."""
    host: str
    time: str | None = None
    label: str | None = None
    texts: tuple[str, ...] = ()
    """Further columns read as text: group, split marker."""

    def all(self) -> list[str]:
        """Return every column, once, in reading order."""
        roles = [name for name in (self.host, self.time, self.label) if name is not None]
        return list(dict.fromkeys([*roles, *self.texts, *self.values]))


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Rows of all hosts, sorted by host name and time."""

    columns: tuple[str, ...]
    """Names of the metrics."""
    values: Floats
    """(n_rows, n_columns) float32, finite; each metric in its own unit."""
    hosts: tuple[str, ...]
    """Host names, sorted."""
    host: npt.NDArray[np.int32]
    """(n_rows,) index into `hosts`, rising."""
    time: npt.NDArray[Any]
    """(n_rows,) the time column as it stands in the data; row numbers of the host when there is none."""
    label: npt.NDArray[np.int8]
    """(n_rows,) 1 anomalous, 0 normal; all 0 when no label was read."""
    texts: dict[str, npt.NDArray[np.str_]]
    """Column to (n_rows,) text, for group and split marker."""

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
    if isinstance(split, PublishedSplit) and split.column in dataset.features.columns("oracle"):
        raise SpecError(f"the split column {split.column!r} is a feature; take it out of [features]")
    wanted = Columns(dataset.features.columns(mode), roles.host, roles.time, roles.label, texts)
    return read_rows(dataset.data_path, wanted)


def read_rows(path: Path, wanted: Columns) -> Telemetry:
    """Read, check and sort the rows of a parquet or CSV file.

    The file is streamed in batches of 65,536 rows; memory is twice the columns that were asked for.

    Raises:
        SpecError: A column is missing or holds what it must not, naming column and host.
        HostError: The file can't be read here.
    """
    parts: dict[str, list[Any]] = {name: [] for name in wanted.all()}
    values: list[Floats] = []
    try:
        for batch in _batches(path, wanted.all()):
            for name in parts:
                if name not in wanted.values:
                    parts[name].append(batch.column(name))
            values.append(_matrix(batch, wanted.values))
    except OSError as fault:
        raise HostError(f"{path.name} can't be read: {fault}; check that the file is whole and readable") from fault
    except pa.ArrowInvalid as fault:
        raise SpecError(f"{path.name} is not a readable {path.suffix[1:]} file: {fault}; write it again") from fault
    if not values or not sum(len(part) for part in values):
        raise SpecError(f"{path.name} holds no rows, expected telemetry")
    return _assembled(path.name, wanted, parts, np.concatenate(values))


def column_names(path: Path) -> list[str]:
    """Return the column names of a parquet or CSV file.

    Raises:
        SpecError: The suffix is neither .parquet nor .csv, or the file is damaged.
        HostError: The file can't be read.
    """
    try:
        if path.suffix == ".parquet":
            return list(pq.read_schema(path).names)
        if path.suffix == ".csv":
            with pacsv.open_csv(path) as reader:
                return list(reader.schema.names)
    except OSError as fault:
        raise HostError(f"{path.name} can't be read: {fault}; check the path and the rights") from fault
    except pa.ArrowInvalid as fault:
        raise SpecError(f"{path.name} is not a readable {path.suffix[1:]} file: {fault}; write it again") from fault
    raise SpecError(f"{path.name}: found the suffix {path.suffix!r}, expected .parquet or .csv")


def _batches(path: Path, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    present = column_names(path)
    absent = [name for name in wanted if name not in present]
    if absent:
        raise SpecError(f"{path.name} lacks the columns {', '.join(absent)}; it has {', '.join(present)}")
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=list(wanted), use_threads=False)
        return
    options = pacsv.ConvertOptions(include_columns=list(wanted))
    with pacsv.open_csv(path, convert_options=options) as reader:
        yield from reader


def _matrix(batch: pa.RecordBatch, columns: Sequence[str]) -> Floats:
    """Turn the metrics of a batch into (n_rows, n_columns) float32, with NaN for missing values."""
    out = np.empty((batch.num_rows, len(columns)), np.float32)
    for index, name in enumerate(columns):
        column = batch.column(name)
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)):
            raise SpecError(f"column {name!r} holds {column.type}, expected numbers")
        with np.errstate(over="ignore"):
            out[:, index] = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
    return out


def _assembled(name: str, wanted: Columns, parts: dict[str, list[Any]], values: Floats) -> Telemetry:
    host_text = _texts(name, wanted.host, parts[wanted.host])
    hosts, inverse = np.unique(host_text, return_inverse=True)
    host: npt.NDArray[np.int32] = inverse.astype(np.int32)
    time = _times(name, wanted.time, parts, host)
    label = _labels(name, wanted.label, parts, host_text)
    order = np.lexsort((time, host))
    texts = {column: _texts(name, column, parts[column])[order] for column in wanted.texts}
    telemetry = Telemetry(
        columns=wanted.values,
        values=values[order],
        hosts=tuple(str(item) for item in hosts),
        host=host[order],
        time=time[order],
        label=label[order],
        texts=texts,
    )
    _check_times(wanted.time, telemetry)
    return _filled(telemetry)


def _texts(name: str, column: str, chunks: list[Any]) -> npt.NDArray[np.str_]:
    array = pa.chunked_array(chunks)
    if array.null_count:
        raise SpecError(f"{name}: column {column!r} is empty in {array.null_count} rows, expected a value in every row")
    encoded = pc.cast(array, pa.string()).combine_chunks().dictionary_encode()
    names: npt.NDArray[np.str_] = np.asarray(encoded.dictionary.to_pylist(), np.str_)
    index: Ints = np.asarray(encoded.indices.to_numpy(), np.int64)
    return names[index]


def _times(name: str, column: str | None, parts: dict[str, list[Any]], host: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    """Return the time of each row; without a time column the row's number within its host."""
    if column is None:
        order = np.argsort(host, kind="stable")
        starts = np.searchsorted(host[order], np.arange(int(host.max()) + 1))
        out = np.empty(len(host), np.int64)
        out[order] = np.arange(len(host)) - starts[host[order]]
        return out
    array = pa.chunked_array(parts[column])
    if array.null_count:
        raise SpecError(f"{name}: column {column!r} is empty in {array.null_count} rows, expected a time in every row")
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        array = pc.cast(pc.cast(array, pa.timestamp("us")), pa.int64())
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        raise SpecError(f"{name}: column {column!r} holds {array.type}, expected numbers or timestamps")
    out = np.asarray(array.to_numpy())
    if not np.isfinite(out).all():
        raise SpecError(f"{name}: column {column!r} holds NaN or infinity, expected a time in every row")
    return out


def _labels(
    name: str, column: str | None, parts: dict[str, list[Any]], hosts: npt.NDArray[np.str_]
) -> npt.NDArray[np.int8]:
    if column is None:
        return np.zeros(len(hosts), np.int8)
    array = pa.chunked_array(parts[column])
    try:
        found = np.asarray(pc.cast(array, pa.float64()).to_numpy())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as fault:
        raise SpecError(f"{name}: column {column!r} holds {array.type}, expected 0 and 1") from fault
    wrong = ~((found == 0) | (found == 1))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise SpecError(
            f"{name}: column {column!r} of host {str(hosts[first])!r} holds {found[first]}, expected 0 or 1"
        )
    return found.astype(np.int8)


def _check_times(column: str | None, telemetry: Telemetry) -> None:
    same = (np.diff(telemetry.host) == 0) & (np.diff(telemetry.time) == 0)
    if same.any():
        first = int(np.argmax(same))
        host, time = telemetry.hosts[telemetry.host[first]], telemetry.time[first]
        raise SpecError(
            f"column {column!r}: host {host!r} has more than one row at {time} ({int(same.sum())} repeats in all), "
            "expected one row per host and time; remove the repeats"
        )


def _filled(telemetry: Telemetry) -> Telemetry:
    """Fill gaps from each host's past and drop what precedes its first complete row."""
    values = telemetry.values
    if np.isfinite(values).all():
        return telemetry
    keep = np.ones(len(values), bool)
    for index, first, end in telemetry.spans():
        rows = values[first:end]
        _refuse_unusable(telemetry, index, rows)
        known = ~np.isnan(rows)
        source = np.maximum.accumulate(np.where(known, np.arange(len(rows))[:, None], 0), axis=0)
        values[first:end] = np.take_along_axis(rows, source, axis=0)
        keep[first : first + int(known.argmax(axis=0).max())] = False
    texts = {column: text[keep] for column, text in telemetry.texts.items()}
    rest = (telemetry.host[keep], telemetry.time[keep], telemetry.label[keep], texts)
    return Telemetry(telemetry.columns, values[keep], telemetry.hosts, *rest)


def _refuse_unusable(telemetry: Telemetry, index: int, rows: Floats) -> None:
    infinite, absent = np.isinf(rows).any(axis=0), np.isnan(rows).all(axis=0)
    for bad, what in ((infinite, "holds infinite values"), (absent, "has no value at all")):
        if bad.any():
            column, host = telemetry.columns[int(np.argmax(bad))], telemetry.hosts[index]
            raise SpecError(f"column {column!r} of host {host!r} {what}; mend the data or leave that host out")
