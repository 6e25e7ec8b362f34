"""Owns scoring telemetry with a stored model, host by host.

Rows come sorted by host name and time, in the order of the file where the model knows no time. Where it knows no host,
all rows belong to one. A text that the model does not know counts as missing. The first rows of a host, which have no
full window yet, get no score. Data that lack columns of the model are refused, naming all of them. Memory holds the
model's columns of the file once, twice where rows are not in order, and the windows of one host.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from training.contracts.dataset import expanded_columns
from training.trainer.data.telemetry import Columns, Floats, Telemetry, read_rows
from training.trainer.data.windows import Sequences, WindowSet, input_names, model_inputs, window_set
from training.trainer.faults import SpecError, lacking
from training.trainer.files import partial_of
from training.trainer.hyper import MODELS, missing_libraries
from training.trainer.models import Fitted, InputShape, model_module
from training.trainer.stored.child import limited
from training.trainer.stored.explaining import column_weights, explanations
from training.trainer.stored.model_files import Description, unpacked

_PARQUET_MAGIC = b"PAR1"
"""First bytes of every parquet file. Source: Apache Parquet, file format."""
_CHUNK_BYTES = 1 << 20
# These limits are for a model that never ends: they allow far more than an honest one takes.
MIN_LIMIT_S = 60.0
LOAD_BYTES_PER_S = 1 << 19
WINDOW_S = 0.01
SCORE_BYTES_PER_S = 1e8
"""A gbt of 360 KB takes 10 microseconds a window; this and the line above allow 120,000 (30 rows)."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller wants of the scores."""

    threshold: float | None = None
    """Score from which an alarm is raised; None takes the model's."""
    explain: int = 0
    """Columns to name behind each alarm; 0 for no such text."""


@dataclass(slots=True)
class ScoreTally:
    """What was scored, for the line that people read."""

    description: Description
    threshold: float
    short: int
    """Hosts without a full window."""
    hosts: int = 0
    windows: int = 0
    alarms: int = 0

    def count(self, batch: pa.RecordBatch) -> None:
        """Add the scores of one host."""
        self.hosts += 1
        self.windows += batch.num_rows
        self.alarms += pc.sum(batch.column("alarm")).as_py()

    def line(self) -> str:
        """Return the tally as one line, with the rate of alarms beside that of the validation windows."""
        own, expected = self.description.threshold, self.description.validation_alarm_rate
        rate = f"{100 * self.alarms / self.windows:.1f} %"
        if self.threshold != own:
            rate += f" at the threshold {self.threshold:g}; the model's is {own:g}"
        elif expected is not None:
            rate += f"; {100 * expected:.1f} % on the validation windows"
        short = ""
        if self.short:
            hosts = "1 host has" if self.short == 1 else f"{self.short} hosts have"
            short = f"; {hosts} fewer than {self.description.window_rows} rows and no score"
        hosts = "1 host" if self.hosts == 1 else f"{self.hosts} hosts"
        return f"{self.windows:,} windows of {hosts}, {self.alarms:,} alarms ({rate}){short}"


def predict(bundle: Path, data: Path | None, out: Path | None, wish: Wish) -> ScoreTally:
    """Score telemetry with a stored model.

    Args:
        bundle: A `bundle.tar.zst` or an artifact folder.
        data: Telemetry in parquet or CSV, with the model's columns, its host column and its time column; None reads
            the standard input, which goes to a temporary file first.
        out: Where the scores go, .parquet or .csv; None writes CSV to the standard output.
        wish: What else the caller wants.

    Raises:
        SpecError: Bundle or data are wrong; columns that don't fit are named.
        HostError: A file or a library is missing here.
    """
    if out is not None and out.suffix not in (".parquet", ".csv"):
        raise SpecError(f"{out.name}: found the suffix {out.suffix!r}, expected .parquet or .csv")
    with tempfile.TemporaryDirectory() as folder:
        model, description = load_bundle(bundle, Path(folder))
    telemetry = read_for(description, data)
    threshold = description.threshold if wish.threshold is None else wish.threshold
    short = sum(end - first < description.window_rows for _, first, end in telemetry.spans())
    tally = ScoreTally(description, threshold, short)
    batches = scored_batches(model, description, telemetry, threshold, wish.explain)
    _written(batches, pa.schema(_fields(telemetry, explained=wish.explain > 0)), out, tally)
    return tally


def load_bundle(bundle: Path, folder: Path) -> tuple[Fitted, Description]:
    """Read a stored model.

    Args:
        bundle: A `bundle.tar.zst` or an artifact folder.
        folder: An empty folder, where the model's files go; they are needed no longer than this call.

    Raises:
        SpecError: The bundle is damaged or of a model that this trainer does not know.
        HostError: The bundle or a library is missing here.
    """
    description = unpacked(bundle, folder)
    return _loaded(description, folder), description


def read_for(description: Description, data: Path | None) -> Telemetry:
    """Read the telemetry that a model needs from a file, or from the standard input when there is none.

    Raises:
        SpecError: The data don't fit; columns are named.
        HostError: They can't be read here.
    """
    host, time, categories = description.host_column, description.time_column, description.categories
    wanted = Columns(description.columns, host, time, categories=categories, keep_time=True)
    if data is not None:
        return read_rows(data, wanted)
    with tempfile.TemporaryDirectory() as folder:
        return read_rows(_spooled(sys.stdin.buffer, Path(folder)), wanted)


def _spooled(stream: IO[bytes], folder: Path) -> Path:
    """Write a stream to a file, because parquet is read from its end and the header of CSV twice."""
    begin = stream.read(len(_PARQUET_MAGIC))
    path = folder / ("stdin.parquet" if begin == _PARQUET_MAGIC else "stdin.csv")
    with path.open("wb") as file:
        file.write(begin)
        shutil.copyfileobj(stream, file, _CHUNK_BYTES)
    return path


def scored_batches(
    model: Fitted, description: Description, telemetry: Telemetry, threshold: float, explain: int = 0
) -> Iterator[pa.RecordBatch]:
    """Score one host after the other; a host with fewer rows than a window gives no batch."""
    for host, windows in host_windows(description, telemetry):
        inputs = model_inputs(MODELS[description.model].inputs, windows, description.history)
        score = scores(model, description, inputs)
        alarm = score >= threshold
        names = pa.array([host] * len(score), pa.string())
        columns = [names, _given(windows.telemetry).take(windows.ends), pa.array(score), pa.array(alarm)]
        if explain:
            weights = column_weights(model, description, inputs, score, np.flatnonzero(alarm), scores)
            columns.append(explanations(description, weights, alarm, explain))
        yield pa.RecordBatch.from_arrays(columns, schema=pa.schema(_fields(telemetry, explained=explain > 0)))


def _given(telemetry: Telemetry) -> pa.Array:
    """Return the time as it stands in the data; row numbers where there is none."""
    return pa.array(telemetry.time) if telemetry.time_given is None else telemetry.time_given


def scores(model: Fitted, description: Description, inputs: Floats | Sequences) -> Floats:
    """Score windows within the CPU time that they may take.

    Raises:
        SpecError: The model can't be computed, or gives something other than numbers.
    """
    try:
        with limited(score_limit_s(description, len(inputs))):
            found = model.score(inputs)
    except MemoryError:
        raise
    except Exception as fault:
        # Each library raises its own error for what it can't compute, torch also where memory runs out.
        raise SpecError(
            f"the model of the bundle can't be scored: {_shown(fault)}; if memory ran out, score fewer hosts at a time"
        ) from fault
    if not np.isfinite(found).all():
        raise SpecError("the model of the bundle gives scores that are not numbers; do not use it, train its job again")
    return found


def load_limit_s(description: Description) -> float:
    """Return the CPU time that loading may take, in seconds; a text is checked at 8 MiB a second on a desktop."""
    return MIN_LIMIT_S + description.model_bytes / LOAD_BYTES_PER_S


def score_limit_s(description: Description, windows: int) -> float:
    """Return the CPU time of scoring, in seconds: as if each window read all of the model in every row."""
    work = description.model_bytes * description.window_rows
    return MIN_LIMIT_S + windows * (WINDOW_S + work / SCORE_BYTES_PER_S)


def _shown(fault: Exception) -> str:
    """Return the first line of a library's error that is not empty; torch writes pages."""
    lines = [line for line in str(fault).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(fault).__name__


def host_windows(description: Description, telemetry: Telemetry) -> Iterator[tuple[str, WindowSet]]:
    """Yield the windows of one host after the other; hosts with fewer rows than a window are left out."""
    for index, first, end in telemetry.spans():
        if end - first < description.window_rows:
            continue
        one = Telemetry(
            telemetry.columns,
            telemetry.values[first:end],
            (telemetry.hosts[index],),
            np.zeros(end - first, np.int32),
            telemetry.time[first:end],
            telemetry.label[first:end],
            {},
            None if telemetry.time_given is None else telemetry.time_given.slice(first, end - first),
        )
        yield telemetry.hosts[index], window_set(one, description.window_rows)


def _fields(telemetry: Telemetry, *, explained: bool) -> list[tuple[str, pa.DataType]]:
    names = ("host", "time", "score", "alarm", "explanation")[: 5 if explained else 4]
    types = {"host": pa.string(), "time": _given(telemetry).type, "score": pa.float32(), "alarm": pa.bool_()}
    return [(name, types.get(name, pa.string())) for name in names]


def _loaded(description: Description, folder: Path) -> Fitted:
    if description.model not in MODELS:
        raise SpecError(f"the bundle holds the model {description.model!r}, this trainer knows {', '.join(MODELS)}")
    missing = missing_libraries(description.model)
    if missing:
        raise lacking(description.model, missing)
    module, shape = model_module(description.model), _input_shape(description)
    try:
        with limited(load_limit_s(description)):
            return module.load(folder, shape)
    except MemoryError:
        raise
    except Exception as fault:
        # Each library raises its own error for a file that it can't read.
        raise SpecError(
            f"the model file of the bundle can't be loaded: {_shown(fault)}; fetch the bundle again"
        ) from fault


def _input_shape(description: Description) -> InputShape:
    columns = expanded_columns(description.columns, description.categories)
    names = input_names(MODELS[description.model].inputs, columns, description.history)
    return InputShape(description.model, len(names), description.window_rows)


def _written(batches: Iterator[pa.RecordBatch], schema: pa.Schema, out: Path | None, tally: ScoreTally) -> None:
    if out is None:
        with pacsv.CSVWriter(pa.PythonFile(sys.stdout.buffer, mode="w"), schema) as writer:
            _copied(batches, writer.write_batch, tally)
        return
    partial = partial_of(out)
    try:
        opened = pq.ParquetWriter(partial, schema) if out.suffix == ".parquet" else pacsv.CSVWriter(partial, schema)
        with opened as writer:
            _copied(batches, writer.write_batch, tally)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _copied(batches: Iterator[pa.RecordBatch], write: Callable[[pa.RecordBatch], None], tally: ScoreTally) -> None:
    for batch in batches:
        write(batch)
        tally.count(batch)
    if not tally.windows:
        raise SpecError("no host has enough rows for one window; give longer telemetry")
