"""Owns the scored test windows of a run: one entry per window, in the order of the data, and their file.

Guarantees: rows of one host stand together and rise; each window was scored by a model that did not see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from training.trainer.data.telemetry import Floats, Ints, Telemetry


@dataclass(frozen=True, slots=True)
class Predictions:
    """The scored test windows, in the order of the data."""

    host: npt.NDArray[np.int32]
    """(n,) index into `hosts`."""
    hosts: tuple[str, ...]
    row: Ints
    """(n,) row of the telemetry that each window ends at; rises, and consecutive rows of a host differ by 1."""
    time: npt.NDArray[Any]
    """(n,) time of each window's last row, as in the data."""
    label: npt.NDArray[np.int8]
    score: Floats
    """(n,) float32, 0 to 1."""
    alarm: npt.NDArray[np.bool_]
    """(n,) whether the score reached its fold's threshold."""
    fold: npt.NDArray[np.int16]
    """(n,) index of the fold whose model gave the score."""
    continues: npt.NDArray[np.bool_]
    """(n,) whether the row before, of the same host, is anomalous and was not tested."""


def continuing(telemetry: Telemetry, rows: Ints) -> npt.NDArray[np.bool_]:
    """Return (n,) whether the row before each tested row, of the same host, is anomalous and was not tested."""
    tested = np.zeros(len(telemetry.host), bool)
    tested[rows] = True
    before = np.maximum(rows - 1, 0)
    same = (rows > 0) & (telemetry.host[before] == telemetry.host[rows])
    found: npt.NDArray[np.bool_] = same & (telemetry.label[before] == 1) & ~tested[before]
    return found


def write_predictions(path: Path, predictions: Predictions, fold_names: Sequence[str]) -> None:
    """Write host, time, label, score, alarm and fold of every window as parquet; the same windows, the same bytes."""
    table = pa.table(
        {
            "host": pa.DictionaryArray.from_arrays(predictions.host, list(predictions.hosts)),
            "time": predictions.time,
            "label": predictions.label,
            "score": predictions.score,
            "alarm": predictions.alarm,
            "fold": pa.DictionaryArray.from_arrays(predictions.fold, list(fold_names)),
        }
    )
    pq.write_table(table, path, compression="zstd", compression_level=9, store_schema=False)
