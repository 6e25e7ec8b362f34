"""Owns the layout of the Server Machine Dataset: a folder with a text file per machine, no header, commas.

The labelled half is imported: `test/machine-G-N.txt` holds the metrics of one machine, a row a minute, and
`test_label/machine-G-N.txt` the label of each row. G is the publishers' group. The unlabelled half (`train`) and
`interpretation_label` are not read. The files do not name their metrics.

Source: Su et al., Robust Anomaly Detection for Multivariate Time Series through Stochastic Recurrent Neural Network,
KDD 2019, and the folder ServerMachineDataset that its authors published with their code.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from training.contracts.dataset import Dataset, Features, GroupSplit, RandomSplit, Roles, Split, TimeSplit, Windows
from training.trainer.data.csv_files import csv_batches, unreadable
from training.trainer.data.imports.declaration import dealt
from training.trainer.data.imports.folder import Source
from training.trainer.faults import HostError, SpecError

WINDOW_ROWS = 30
_MACHINE = re.compile(r"machine-(\d{1,6})-(\d{1,6})\.txt")
_ROLE_NAMES = ("host", "group", "t", "label")


def smd_source(folder: Path, machines: Sequence[str], names: Path | None, realistic: Sequence[str]) -> Source:
    """Look at the folder and describe what it holds.

    Args:
        folder: ServerMachineDataset.
        machines: Globs of the machines wanted, such as "machine-1-*"; empty for all.
        names: A text file with one metric name a line; None names them m00, m01 and so on.
        realistic: Metrics that an outsider sees; empty for all of them.

    Raises:
        SpecError: The folder does not fit the layout.
        HostError: It can't be read here.
    """
    wanted = _machines(folder, machines)
    metrics = _metric_names(folder, wanted[0], names)
    unknown = [name for name in realistic if name not in metrics]
    if unknown:
        raise SpecError(f"--realistic: found {', '.join(unknown)}, expected metrics: {', '.join(metrics)}")
    seen = tuple(name for name in metrics if name in realistic) if realistic else metrics
    splits: dict[str, Split | None] = {
        "random": RandomSplit(0.3),
        "time": TimeSplit(0.6, 2 * WINDOW_ROWS),
        "hosts": dealt(wanted),
        "group": GroupSplit("group") if len({_key(name)[0] for name in wanted}) > 1 else None,
    }
    dataset = Dataset(
        folder=folder,
        name="smd",
        file="smd.parquet",
        roles=Roles("host", "label", "group", "t"),
        features=Features(seen, tuple(name for name in metrics if name not in seen), ("host", "group", "t")),
        windows=Windows(WINDOW_ROWS),
        splits={recipe: split for recipe, split in splits.items() if split is not None},
    )
    task = "binary: is this machine anomalous at minute t, given its telemetry up to and including t"
    return Source(folder.name, dataset, task, _batches(folder, wanted, metrics))


def _machines(folder: Path, globs: Sequence[str]) -> list[str]:
    """Return the names of the wanted machines, by group and number."""
    for part in ("test", "test_label"):
        if not (folder / part).is_dir():
            inner = folder / "ServerMachineDataset"
            hint = f"; give {inner}" if inner.is_dir() else ""
            raise HostError(
                f"found no folder {part} in {folder}, expected ServerMachineDataset with test and test_label{hint}"
            )
    present = [path.name for path in (folder / "test").glob("*.txt")]
    odd = sorted(name for name in present if not _MACHINE.fullmatch(name))
    if odd:
        raise SpecError(f"test: found {odd[0]}, expected names such as machine-1-1.txt; take other files away")
    names = sorted((name.removesuffix(".txt") for name in present), key=_key)
    wanted = [name for name in names if not globs or any(fnmatch.fnmatchcase(name, glob) for glob in globs)]
    if not wanted:
        raise SpecError(
            f"--machines {' '.join(globs)}: found {', '.join(names) or 'no machine'}, none of which matches"
        )
    return wanted


def _key(name: str) -> tuple[int, int]:
    _, group, number = name.split("-")
    return int(group), int(number.removesuffix(".txt"))


def _metric_names(folder: Path, machine: str, names: Path | None) -> tuple[str, ...]:
    try:
        with (folder / "test" / f"{machine}.txt").open(encoding="utf-8") as stream:
            count = stream.readline(1 << 20).count(",") + 1
        if names is None:
            return tuple(f"m{index:02d}" for index in range(count))
        found = [line.strip() for line in names.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as fault:
        raise SpecError(f"{(names or folder).name}: found bytes that are no UTF-8: {fault}, expected text") from fault
    except OSError as fault:
        raise unreadable(Path(fault.filename or folder), fault) from fault
    if len(found) != count or len(set(found)) < count or set(found) & set(_ROLE_NAMES):
        raise SpecError(
            f"{names.name}: found {len(found)} names ({len(set(found))} different), expected {count} different ones, "
            f"one a line, none of them {', '.join(_ROLE_NAMES)}"
        )
    return tuple(found)


def _batches(folder: Path, machines: Sequence[str], metrics: Sequence[str]) -> Iterator[pa.RecordBatch]:
    types: Mapping[str, pa.DataType] = dict.fromkeys(metrics, pa.float32())
    for machine in machines:
        label, first = _labels(folder, machine), 0
        shown = f"test/{machine}.txt"
        for batch in csv_batches(folder / shown, types, metrics, shown):
            end = first + batch.num_rows
            if end > len(label):
                raise _uneven(machine, len(label), f"at least {end}")
            roles = [
                pa.repeat(machine, batch.num_rows),
                pa.repeat(str(_key(machine)[0]), batch.num_rows),
                pa.array(np.arange(first, end, dtype=np.int32)),
                pa.array(label[first:end]),
            ]
            yield pa.RecordBatch.from_arrays([*roles, *batch.columns], names=[*_ROLE_NAMES, *metrics])
            first = end
        if first < len(label):
            raise _uneven(machine, len(label), str(first))


def _uneven(machine: str, labels: int, rows: str) -> SpecError:
    return SpecError(
        f"test_label/{machine}.txt: found {labels} rows, expected as many as test/{machine}.txt has, which is {rows}"
    )


def _labels(folder: Path, machine: str) -> npt.NDArray[np.int8]:
    """Return the labels of one machine."""
    shown = f"test_label/{machine}.txt"
    chunks = [
        batch.column("label").to_numpy(zero_copy_only=False)
        for batch in csv_batches(folder / shown, {"label": pa.float32()}, ["label"], shown)
    ]
    found = np.concatenate([np.empty(0, np.float32), *chunks])
    wrong = ~((found == 0) | (found == 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise SpecError(f"{shown}: row {row + 1}: found {found[row]}, expected 0 or 1")
    return found.astype(np.int8)
