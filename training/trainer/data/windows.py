"""Owns samples: windows of one host that end at a row, and what a model sees of them.

A window is `length` consecutive rows of one host; it is named by the row it ends at, and its label is that row's. No
window crosses a border between hosts. Raw rows are never copied per window: sequence models get the rows of all hosts
once and look windows up in them, a batch at a time; statistics are computed for whole hosts at once.

Per metric a window gives four features: the last value, the mean, the standard deviation (population) and the last
value minus the first. With `history` the same four follow for the metric standardised by the host's own past.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from training.trainer.data.telemetry import Floats, Ints, Telemetry

STATISTICS = ("last", "mean", "std", "difference")
HISTORY_LIMIT = 10.0
_FLOOR = 1e-3
_BLOCK_COLUMNS = 8
_BLOCK_WINDOWS = 2048

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WindowSet:
    """All windows of a telemetry, by the row they end at."""

    telemetry: Telemetry
    length: int
    """Rows per window."""
    ends: Ints
    """(n_windows,) rows of the telemetry at which a full window ends, rising."""

    @property
    def label(self) -> npt.NDArray[np.int8]:
        """(n_windows,) label of each window's last row."""
        return self.telemetry.label[self.ends]

    @property
    def host(self) -> npt.NDArray[np.int32]:
        """(n_windows,) host index of each window."""
        return self.telemetry.host[self.ends]


@dataclass(frozen=True, slots=True)
class Sequences:
    """Windows as rows: the rows of all hosts once, and where each window ends.

    Indexing with window numbers gives those windows and copies no row.
    """

    rows: Floats
    """(n_rows, n_channels) float32."""
    ends: Ints
    """(n_windows,) row at which each window ends."""
    length: int
    """Rows per window."""

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, part: Ints | slice) -> Sequences:
        return Sequences(self.rows, self.ends[part], self.length)

    def used_rows(self) -> npt.NDArray[np.bool_]:
        """Return (n_rows,) which rows the windows touch."""
        return touched_rows(len(self.rows), self.ends, self.length)


Inputs = TypeVar("Inputs", bound=Floats | Sequences)


@dataclass(frozen=True, slots=True)
class Samples(Generic[Inputs]):
    """The windows one model is given, with labels."""

    inputs: Inputs
    """Statistics: (n_windows, n_features) float32; or the windows' rows."""
    label: npt.NDArray[np.int8]
    """(n_windows,) 1 anomalous, 0 normal."""
    host: npt.NDArray[np.int32]
    """(n_windows,) host index; for means over hosts, never an input."""

    def __len__(self) -> int:
        return len(self.label)


def touched_rows(count: int, ends: Ints, length: int) -> npt.NDArray[np.bool_]:
    """Return (count,) which rows windows touch, given the row each ends at and its length in rows."""
    edges = np.zeros(count + 1, np.int32)
    np.add.at(edges, ends - length + 1, 1)
    np.add.at(edges, ends + 1, -1)
    touched: npt.NDArray[np.bool_] = np.cumsum(edges[:-1]) > 0
    return touched


def window_set(telemetry: Telemetry, length: int) -> WindowSet:
    """Find every full window of every host; hosts with fewer rows than `length` have none."""
    ends = [np.arange(first + length - 1, end, dtype=np.int64) for _, first, end in telemetry.spans()]
    return WindowSet(telemetry, length, np.concatenate(ends))


def model_inputs(kind: str, windows: WindowSet, history: bool) -> Floats | Sequences:
    """Compute what a kind of model sees of all windows.

    Args:
        kind: "statistics" or "sequences", as in `hyper.ModelDeclaration.inputs`.
        windows: The windows.
        history: Whether to add the metrics standardised by the host's past.
    """
    return feature_matrix(windows, history) if kind == "statistics" else sequences(windows, history)


def input_names(kind: str, columns: Sequence[str], history: bool) -> list[str]:
    """Return the names of the features or channels, in the order of `model_inputs`."""
    return feature_names(columns, history) if kind == "statistics" else channel_names(columns, history)


def channel_names(columns: Sequence[str], history: bool) -> list[str]:
    """Return the channel names of sequences, such as `cpu` and `cpu.history`."""
    return [*columns, *(f"{column}.history" for column in columns)] if history else list(columns)


def sequences(windows: WindowSet, history: bool) -> Sequences:
    """Return the windows as rows.

    Args:
        windows: The windows; memory is 2 * n_columns * n_rows * 4 bytes with `history`, nothing without.
        history: Whether each row also has the metrics standardised by the host's past.

    Returns:
        Windows whose channels stand in the order of `channel_names`.
    """
    telemetry = windows.telemetry
    if not history:
        return Sequences(telemetry.values, windows.ends, windows.length)
    width = len(telemetry.columns)
    rows = np.empty((len(telemetry.values), 2 * width), np.float32)
    rows[:, :width] = telemetry.values
    for _, first, end in telemetry.spans():
        rows[first:end, width:] = standardised(telemetry.values[first:end].astype(np.float64))
    return Sequences(rows, windows.ends, windows.length)


def feature_names(columns: Sequence[str], history: bool) -> list[str]:
    """Return the feature names in the order of the matrix, such as `cpu.mean` and `cpu.history.mean`."""
    names = [f"{column}.{statistic}" for statistic in STATISTICS for column in columns]
    if history:
        names += [f"{column}.history.{statistic}" for statistic in STATISTICS for column in columns]
    return names


def feature_matrix(windows: WindowSet, history: bool) -> Floats:
    """Compute the features of all windows.

    Args:
        windows: The windows; memory is (8 or 4) * n_columns * n_windows * 4 bytes plus the work space of eight columns
            of one host.
        history: Whether to add the features of the metrics standardised by the host's past.

    Returns:
        (n_windows, n_features) float32, rows in the order of `windows.ends`, columns in the order of `feature_names`.
    """
    telemetry, columns = windows.telemetry, len(windows.telemetry.columns)
    width = columns * len(STATISTICS)
    out = np.empty((len(windows.ends), width * (2 if history else 1)), np.float32)
    row = 0
    for _, first, end in telemetry.spans():
        count = max(0, end - first - windows.length + 1)
        for left in range(0, columns if count else 0, _BLOCK_COLUMNS):
            values = telemetry.values[first:end, left : left + _BLOCK_COLUMNS].astype(np.float64)
            _fill(out[row : row + count, :width], values, windows.length, left)
            if history:
                _fill(out[row : row + count, width:], standardised(values), windows.length, left)
        row += count
    return out


def _fill(out: Floats, values: Doubles, length: int, left: int) -> None:
    """Write the statistics of one host's windows, of some columns from column `left` on, among those of all columns.

    A few windows at a time, so that their numbers stay in the processor's cache until they are written.
    """
    columns, own = out.shape[1] // len(STATISTICS), values.shape[1]
    for first in range(0, len(out), _BLOCK_WINDOWS):
        part = out[first : first + _BLOCK_WINDOWS]
        statistics = window_statistics(values[first : first + len(part) + length - 1], length)
        for index, statistic in enumerate(statistics):
            place = index * columns + left
            part[:, place : place + own] = statistic


def window_statistics(values: Doubles, length: int) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """Compute the four statistics of every window of one host.

    Args:
        values: (n_rows, n_columns) float64, rising in time.
        length: Rows per window, at most n_rows.

    Returns:
        Four (n_rows - length + 1, n_columns) float64 in the order of `STATISTICS`; the deviation is that of the
        population.
    """
    count = len(values) - length + 1
    mean, variance = np.zeros((2, count, values.shape[1]))
    for step in range(length):
        mean += values[step : step + count]
    mean /= length
    # Two passes: squares minus squared mean would lose a quiet stretch beside a burst.
    apart = np.empty_like(mean)
    for step in range(length):
        np.subtract(values[step : step + count], mean, out=apart)
        np.multiply(apart, apart, out=apart)
        variance += apart
    variance /= length
    last = values[length - 1 :]
    return last, mean, np.sqrt(variance, out=variance), np.subtract(last, values[:count], out=apart)


def standardised(values: Doubles) -> Doubles:
    """Standardise one host's rows by its own past, each row by the rows up to and including it.

    Only what was known at that moment enters, and no label does, so it may be used on hosts never trained on. The mean
    and the standard deviation run over the whole past. A thousandth of the largest magnitude so far is added to the
    deviation, which keeps noise of a nearly constant metric small. Results are cut at plus and minus 10.

    Args:
        values: (n_rows, n_columns) float64, rising in time.

    Returns:
        (n_rows, n_columns) float64 in standard deviations.
    """
    shifted = values - values[0]
    count = np.arange(1, len(values) + 1)[:, None]
    mean = np.cumsum(shifted, axis=0) / count
    variance = np.maximum(np.cumsum(shifted**2, axis=0) / count - mean**2, 0.0)
    floor = _FLOOR * np.maximum.accumulate(np.abs(values), axis=0) + np.finfo(np.float64).tiny
    scores: Doubles = (shifted - mean) / (np.sqrt(variance) + floor)
    return scores.clip(-HISTORY_LIMIT, HISTORY_LIMIT)
