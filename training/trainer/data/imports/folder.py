"""Owns an imported dataset's folder: written whole from a stream of rows, read back as the trainer would, summed up.

The folder appears under its name only when everything in it is written, synced and checked. The same source, written by
the same version of the libraries, gives the same digest. Memory holds one batch while it is written and the inputs as
float32 while it is checked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from training.contracts.dataset import Dataset, DatasetError
from training.contracts.dataset_folder import DECLARATION, dataset_digest, read_dataset
from training.trainer.data.imports.declaration import declaration_text
from training.trainer.data.splits import final_fold, folds_of
from training.trainer.data.telemetry import Columns, Telemetry, read_rows
from training.trainer.data.windows import window_set
from training.trainer.faults import SpecError
from training.trainer.files import sync

_SEED = 0
"""Seed of the trial cut of each split: whether a split can be trained on depends on the data, hardly on the draw."""


@dataclass(frozen=True, slots=True)
class Source:
    """What an importer found."""

    name: str
    """Name of the file or folder, for messages."""
    dataset: Dataset
    """The declaration; its folder does not matter."""
    task: str
    """What the label means, one sentence for people."""
    batches: Iterator[pa.RecordBatch]
    """The rows, with the columns of the declaration; labels are 0 and 1."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A dataset folder that was written and read back."""

    folder: Path
    digest: str
    dataset: Dataset
    rows: int
    hosts: int
    positives: int
    unusable: Mapping[str, str]
    """Declared split to the reason why it can't be used as it is; empty when all can."""

    def lines(self) -> list[str]:
        """Return the summary for people."""
        features, count = self.dataset.features, len(self.dataset.splits)
        share = 100 * self.positives / self.rows
        return [
            f"wrote {self.folder / DECLARATION} and {self.folder / self.dataset.file}",
            f"rows {self.rows}, hosts {self.hosts}, anomalous {self.positives} ({share:.2f} %)",
            f"inputs realistic {len(features.columns('realistic'))}, oracle {len(features.columns('oracle'))}, "
            f"of text {len(self.dataset.categories)}; windows of {self.dataset.windows.length} rows",
            f"split{'s' if count > 1 else ''} {', '.join(self.dataset.splits)}",
            *(f"note: split {recipe} can't be trained on as it is: {why}" for recipe, why in self.unusable.items()),
            f"digest {self.digest}",
        ]


def is_free(out: Path) -> bool:
    """Return True if a folder may be written: it does not exist, or it is empty."""
    return not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir()))


def write_folder(source: Source, out: Path) -> Imported:
    """Write a dataset folder.

    Args:
        source: What to write.
        out: A folder that does not exist or is empty.

    Raises:
        SpecError: The rows or the declaration break the dataset contract.
        HostError: A source file can't be read here.
        OSError: The folder can't be written.
    """
    with _appearing(out) as partial:
        facts: dict[str, str | int] = {"task": source.task}
        _declare(partial, source, facts)
        _check_declaration(partial, source)
        rows, positives = _write_rows(partial / source.dataset.file, source)
        dataset, telemetry = _read_back(partial, source)
        facts |= {"rows": rows, "hosts": len(telemetry.hosts), "positives": positives}
        _declare(partial, source, facts)
        for name in (DECLARATION, source.dataset.file):
            sync(partial / name)
        digest = dataset_digest(partial)
        unusable = dict(_unusable(dataset, telemetry))
    return Imported(out, digest, dataset, rows, len(telemetry.hosts), positives, unusable)


@contextlib.contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside the wanted one; rename it at the end, or delete it when something fails."""
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _declare(folder: Path, source: Source, facts: Mapping[str, str | int]) -> None:
    (folder / DECLARATION).write_text(declaration_text(source.dataset, facts), encoding="utf-8", newline="\n")


def _check_declaration(folder: Path, source: Source) -> None:
    """Refuse a declaration that breaks the contract before any row is written."""
    (folder / source.dataset.file).touch()
    try:
        read_dataset(folder)
    except DatasetError as fault:
        raise SpecError(f"{source.name}: {'; '.join(str(one) for one in fault.faults)}") from fault


def _write_rows(path: Path, source: Source) -> tuple[int, int]:
    """Write all batches and return how many rows and how many anomalous rows they hold."""
    rows = positives = 0
    writer: pq.ParquetWriter | None = None
    try:
        for batch in source.batches:
            if writer is None:
                writer = pq.ParquetWriter(path, batch.schema, compression="zstd", compression_level=9)
            writer.write_batch(batch)
            rows += batch.num_rows
            positives += pc.sum(batch.column(source.dataset.roles.label)).as_py() or 0
    finally:
        if writer is not None:
            writer.close()
    if not rows:
        raise SpecError(f"{source.name}: found no rows, expected telemetry")
    if positives in (0, rows):
        raise SpecError(
            f"{source.name}: found {positives} anomalous of {rows} rows, expected both classes; "
            "check which values mean anomalous"
        )
    return rows, positives


def _read_back(folder: Path, source: Source) -> tuple[Dataset, Telemetry]:
    """Read what was written as the trainer would, with every column that any split needs."""
    dataset = read_dataset(folder)
    roles, columns = dataset.roles, dataset.features.columns("oracle")
    markers = tuple({split.column: None for split in dataset.splits.values() if hasattr(split, "column")})
    wanted = Columns(columns, roles.host, roles.time, roles.label, markers, dataset.categories)
    try:
        return dataset, read_rows(dataset.data_path, wanted)
    except SpecError as fault:
        raise SpecError(f"{source.name}, as it was written: {fault}") from fault


def _unusable(dataset: Dataset, telemetry: Telemetry) -> Iterator[tuple[str, str]]:
    windows = window_set(telemetry, dataset.windows.length)
    for recipe in dataset.splits:
        try:
            if len(folds_of(windows, dataset, recipe, ["*"], _SEED)) > 1:
                final_fold(windows, ["*"], _SEED)
        except SpecError as fault:
            yield recipe, str(fault)
