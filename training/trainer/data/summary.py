"""Owns the summary of a dataset folder for people: hosts, rows, columns, labels, splits and digest at a glance."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from training.contracts.dataset import Dataset
from training.contracts.dataset_folder import dataset_digest, read_dataset
from training.trainer.data.telemetry import Columns, Telemetry, read_rows

MAX_SHOWN_HOSTS = 50
_WIDTH = 79


def summary_lines(folder: Path) -> Iterator[str]:
    """Read a dataset folder as the trainer would and yield its summary.

    Raises:
        DatasetError: The declaration is wrong.
        SpecError: The data break the contract.
        HostError: They can't be read here.
    """
    dataset = read_dataset(folder)
    roles = dataset.roles
    markers = tuple({split.column: None for split in dataset.splits.values() if hasattr(split, "column")})
    columns = Columns(
        dataset.features.columns("oracle"), roles.host, roles.time, roles.label, markers, dataset.categories, True
    )
    telemetry = read_rows(dataset.data_path, columns)
    yield from _head(dataset, telemetry)
    yield from _hosts(telemetry)
    yield from _inputs(dataset)
    yield f"splits {', '.join(dataset.splits)}"
    yield f"digest {dataset_digest(folder)}"


def _head(dataset: Dataset, telemetry: Telemetry) -> Iterator[str]:
    rows = len(telemetry.label)
    yield f"dataset {dataset.name}, file {dataset.file}"
    yield f"{_counted(rows, telemetry.label)}; windows of {dataset.windows.length} rows"
    if telemetry.time_given is not None:
        first, last = np.argmin(telemetry.time), np.argmax(telemetry.time)
        shown = pc.cast(telemetry.time_given.take([int(first), int(last)]), pa.string()).to_pylist()
        yield f"time in column {_plain(dataset.roles.time or '')}: {shown[0]} to {shown[1]}"


def _hosts(telemetry: Telemetry) -> Iterator[str]:
    yield f"hosts {len(telemetry.hosts)}"
    width = max(len(_plain(name)) for name in telemetry.hosts[:MAX_SHOWN_HOSTS])
    for index, first, end in telemetry.spans():
        if index == MAX_SHOWN_HOSTS:
            yield f"  and {len(telemetry.hosts) - index} more"
            return
        yield f"  {_plain(telemetry.hosts[index]):<{width}}  {_counted(end - first, telemetry.label[first:end])}"


def _inputs(dataset: Dataset) -> Iterator[str]:
    features = dataset.features
    tiers = {"realistic": features.realistic, "oracle also": features.oracle_extra, "never": features.never}
    for tier, names in tiers.items():
        if names:
            shown = (_plain(_named(dataset, name)) for name in names)
            yield from textwrap.wrap(f"{tier} {len(names)}: {', '.join(shown)}", _WIDTH, subsequent_indent="  ")


def _named(dataset: Dataset, name: str) -> str:
    values = dataset.categories.get(name)
    return name if values is None else f"{name} (text, {len(values)} values)"


def _counted(rows: int, label: np.ndarray) -> str:
    bad = int(label.sum())
    return f"rows {rows}, anomalous {bad} ({100 * bad / max(1, rows):.2f} %)"


def _plain(text: str) -> str:
    """Return text from outside with its control characters made visible."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
