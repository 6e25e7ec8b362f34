"""The windows that the rows about the trainer work on."""

from __future__ import annotations

import os
from pathlib import Path

from bench.stage import ROOT
from training.contracts.dataset_folder import read_dataset
from training.trainer.data.telemetry import read_telemetry
from training.trainer.data.windows import WindowSet, window_set

MODE, SPLIT = "oracle", "hosts"
SHIPPED = ROOT / "data" / "lab"


def dataset_folder() -> Path:
    """Return the folder of smd19 where this machine has it, else that of the shipped data."""
    named = os.environ.get("CIS490_DATA")
    found = Path(named) if named else ROOT.parent / "shared" / "data" / "smd19"
    return found if (found / "dataset.toml").is_file() else SHIPPED


def windows() -> WindowSet:
    """Read every window of the dataset, with the metrics of the mode that has most."""
    dataset = read_dataset(dataset_folder())
    return window_set(read_telemetry(dataset, MODE, SPLIT), dataset.windows.length)


def described(found: WindowSet) -> str:
    """Say which windows these are, in a few words."""
    columns = len(found.telemetry.columns)
    return f"{dataset_folder().name}, {len(found.ends):,} windows of {found.length} rows of {columns} metrics"
