"""A small synthetic dataset with a known signal, and jobs on it."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.fleet import bundle
from training.trainer import run
from training.trainer.hyper import MODELS

HOSTS = ("a1", "a2", "a3", "b1", "b2", "b3")
ROWS = 260

DECLARATION = """
schema = 1
[dataset]
name = "synthetic"
file = "synthetic.parquet"
[roles]
host = "host"
group = "group"
time = "t"
label = "label"
[features]
realistic = ["bytes_in", "bytes_out"]
oracle_extra = ["cpu", "constant"]
never = ["host", "group", "t", "part"]
[windows]
length = 6
label = "last"
[splits.random]
kind = "random_rows"
test_fraction = 0.3
[splits.time]
kind = "time"
train_fraction = 0.6
gap = 8
[splits.hosts]
kind = "leave_hosts_out"
folds = [["a1", "b1"], ["a2", "b2"], ["a3", "b3"]]
[splits.group]
kind = "leave_group_out"
column = "group"
[splits.published]
kind = "column"
column = "part"
[units]
bytes_in = "bytes per second"
bytes_out = "bytes per second"
cpu = "cores"
"""


def synthetic_table(shuffled: bool = False) -> pa.Table:
    """Return 6 hosts in 2 groups with 10 anomalous stretches of 5 rows each; cpu tells clearly, bytes_out a little."""
    random = np.random.default_rng(7)
    columns: dict[str, list[Any]] = {name: [] for name in ("host", "group", "t", "part", "label")}
    values: list[np.ndarray] = []
    for number, host in enumerate(HOSTS):
        label = np.zeros(ROWS, np.int8)
        for start in range(10 + number, ROWS - 10, 25):
            label[start : start + 5] = 1
        noise = random.standard_normal((ROWS, 3))
        cpu = 0.2 + 0.05 * number + 0.4 * label + 0.1 * noise[:, 0]
        out = 1000 * (1 + number) + 150.0 * label + 100 * noise[:, 1]
        values.append(np.stack([1000 + 100 * noise[:, 2], out, cpu, np.full(ROWS, 3.0)], 1).astype(np.float32))
        columns["host"] += [host] * ROWS
        columns["group"] += [host[0]] * ROWS
        columns["t"] += range(ROWS)
        columns["part"] += ["train" if row < 150 else "test" for row in range(ROWS)]
        columns["label"] += (random.permutation(label) if shuffled else label).tolist()
    matrix = np.concatenate(values)
    metrics = {name: matrix[:, index] for index, name in enumerate(("bytes_in", "bytes_out", "cpu", "constant"))}
    return pa.table(columns | metrics)


def write_dataset(folder: Path, table: pa.Table, declaration: str = DECLARATION) -> Path:
    """Write a dataset folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.toml").write_text(declaration)
    pq.write_table(table, folder / "synthetic.parquet")
    return folder


SEQUENCE_MODELS = tuple(name for name, model in MODELS.items() if model.inputs == "sequences")
NEEDS_TORCH = pytest.mark.needs_torch
ALL_MODELS = [pytest.param(name, marks=NEEDS_TORCH) if name in SEQUENCE_MODELS else name for name in MODELS]
"""Every model, for `parametrize`."""

QUICK: dict[str, dict[str, Any]] = {
    "gbt": {"max_iter": 20, "learning_rate": 0.2, "min_leaf_rows": 5, "feature_fraction": 1.0},
    "mlp": {"hidden": 16, "max_epochs": 4, "batch_rows": 32},
    **{name: {"max_epochs": 1, "epoch_windows": 300, "batch_rows": 32} for name in SEQUENCE_MODELS},
}


def job_document(folder: Path, model: str = "gbt", mode: str = "oracle", split: str = "hosts", **spec: Any) -> Any:
    """Return a job description as a worker writes it; keywords replace keys of the spec."""
    return {
        "v": 1,
        "job_id": "ab" * 32,
        "spec": {
            "model": model,
            "mode": mode,
            "hyper": QUICK.get(model, {}),
            "split_recipe": split,
            "train_hosts": ["*"],
            "seed": 490,
        }
        | spec,
        "dataset": {"name": "synthetic", "path": str(folder), "digest": None},
        "threads": 1,
        "device": "cpu",
        "resume": None,
    }


class Artifacts(dict[str, Path]):
    """Artifact folder of each model, trained when first asked for; the split is by time: the stored model is scored."""

    def __init__(self, dataset: Path, folder: Path) -> None:
        super().__init__()
        self.dataset, self.folder = dataset, folder

    def __missing__(self, model: str) -> Path:
        out = self.folder / model
        out.mkdir()
        (out / "job.json").write_text(json.dumps(job_document(self.dataset, model, "oracle", "time")))
        # Any test may be the first to ask, and what the training says is no part of its claim.
        with contextlib.redirect_stderr(io.StringIO()):
            assert run.main(["--job", str(out / "job.json"), "--out", str(out)]) == 0
        self[model] = out / "artifact"
        return self[model]


def packed(artifact: Path, path: Path) -> Path:
    """Pack an artifact folder as a bundle."""
    bundle.pack(artifact, path)
    return path
