"""Claims about what a model may know: what only test rows hold never changes a model, a scaler or a threshold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from synthetic import ALL_MODELS, job_document, synthetic_table, write_dataset

from training.trainer import run
from training.trainer.data.windows import Samples
from training.trainer.exchange.checkpoint import FitCheckpoint
from training.trainer.hyper import completed_hyper
from training.trainer.models import Setting, mlp

JobFile = Callable[..., Path]


def changed(rows: np.ndarray) -> pa.Table:
    """Return the synthetic table with other metrics and opposite labels in some rows."""
    table = synthetic_table()
    for name in ("bytes_in", "bytes_out", "cpu"):
        values = table[name].to_numpy()
        values = np.where(rows, values * -1000 + 7, values).astype(np.float32)
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    label = table["label"].to_numpy()
    return table.set_column(
        table.column_names.index("label"), "label", pa.array(np.where(rows, 1 - label, label).astype(np.int8))
    )


def trained(job_file: JobFile, folder: Path, table: pa.Table, model: str, split: str, history: bool) -> Path:
    document = job_document(write_dataset(folder / "data", table), model, "oracle", split)
    document["spec"]["hyper"] = document["spec"]["hyper"] | {"history": history}
    assert run.main(["--job", str(job_file(document)), "--out", str(folder)]) == 0
    return folder / "artifact"


@pytest.mark.parametrize("model", ALL_MODELS)
@pytest.mark.parametrize("history", [True, False])
def test_rows_of_the_test_part_never_reach_model_scaler_or_threshold(
    job_file: JobFile, tmp_path: Path, model: str, history: bool
) -> None:
    """The split by time trains on rows 0 to 155 of each host and tests from row 164 on."""
    table = synthetic_table()
    artifacts = [
        trained(job_file, tmp_path / name, rows, model, "time", history)
        for name, rows in (("plain", table), ("changed", changed(table["t"].to_numpy() >= 156)))
    ]
    plain, other = (json.loads((artifact / "model.json").read_text()) for artifact in artifacts)
    # It names the data and nothing is learned from it.
    assert plain.pop("dataset_digest") != other.pop("dataset_digest")
    assert plain == other
    (file,) = plain["files"]
    assert (artifacts[0] / file).read_bytes() == (artifacts[1] / file).read_bytes()
    assert (artifacts[0] / "predictions.parquet").read_bytes() != (artifacts[1] / "predictions.parquet").read_bytes()


@pytest.mark.parametrize("model", ALL_MODELS)
def test_hosts_of_a_fold_never_reach_its_model_scaler_or_threshold(
    job_file: JobFile, tmp_path: Path, model: str
) -> None:
    table = synthetic_table()
    hosts = np.array(table["host"].to_pylist())
    folds: list[Any] = []
    for name, rows in (("plain", table), ("changed", changed(np.isin(hosts, ["a1", "b1"])))):
        artifact = trained(job_file, tmp_path / name, rows, model, "hosts", True)
        folds.append(json.loads((artifact / "metrics.json").read_text())["folds"])
    assert folds[0][0] == folds[1][0]
    assert folds[0][0]["test_hosts"] == ["a1", "b1"]
    assert folds[0][1]["threshold"] != folds[1][1]["threshold"]


def test_the_scaler_is_fitted_on_training_windows_and_not_on_validation_windows() -> None:
    random = np.random.default_rng(0)
    label = np.tile(np.array([0, 1], np.int8), 50)
    host = np.zeros(100, np.int32)
    train = Samples(random.random((100, 3), np.float32), label, host)
    hyper = completed_hyper("mlp", {"max_epochs": 1})[0]
    checkpoint = FitCheckpoint(None, 0)
    setting = Setting(hyper, ("a", "b", "c"), 0, 1, "cpu", checkpoint, lambda done, numbers=None: None)
    scalers = []
    for factor in (1, 1000):
        model = mlp.fit(train, Samples(train.inputs * factor, label, host), setting)
        scalers.append((model.mean.tolist(), model.spread.tolist()))
    assert scalers[0] == scalers[1]
    np.testing.assert_allclose(scalers[0][0], train.inputs.mean(axis=0))
