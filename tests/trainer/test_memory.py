"""Claims about memory: what a job or an import holds at its peak, measured on a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import NEEDS_TORCH, SEQUENCE_MODELS

SHORTEST: dict[str, dict[str, int]] = {
    "gbt": {"max_iter": 1},
    "mlp": {"max_epochs": 1},
    **{name: {"max_epochs": 1, "epoch_windows": 2000} for name in SEQUENCE_MODELS},
}
ORDINARY = ("gbt", "tcn")
"""The others hold about as much, and take over a minute of processor time together."""
EACH_MODEL = [
    pytest.param(
        name,
        marks=[NEEDS_TORCH] * (name in SEQUENCE_MODELS) + [pytest.mark.slow] * (name not in ORDINARY),
    )
    for name in SHORTEST
]


def peak_mib(command: list[str], root: Path, log: Path) -> float:
    """Run a command to its good end and return the most memory that was resident at once, in MiB."""
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, *command], cwd=root, stdout=stream, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, log.read_text()
    return usage.ru_maxrss / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs")
@pytest.mark.parametrize("model", EACH_MODEL)
def test_training_on_the_larger_dataset_stays_below_2_gib(root: Path, smd19: Path, tmp_path: Path, model: str) -> None:
    """Oracle, 38 metrics, windows of 30 rows: every window is read, made into features and scored."""
    spec = {"model": model, "mode": "oracle", "split_recipe": "time", "seed": 0}
    document = {
        "v": 1,
        "spec": spec | {"hyper": SHORTEST[model]},
        "dataset": {"name": "smd19", "path": str(smd19)},
        "threads": 1,
    }
    (tmp_path / "job.json").write_text(json.dumps(document))
    command = ["-m", "training.trainer.run", "--job", str(tmp_path / "job.json"), "--out", str(tmp_path / "out")]
    assert peak_mib(command, root, tmp_path / "log.txt") < 2048
    assert json.loads((tmp_path / "out/result.json").read_text())["status"] == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs")
def test_importing_holds_batches_and_not_the_file(root: Path, tmp_path: Path) -> None:
    """A file of 300 MiB with 2,000 characters of text in a row takes some batches and their buffers, not itself."""
    peaks = []
    for count in (4_000, 160_000):
        path = tmp_path / f"rows{count}.csv"
        with path.open("w") as stream:
            stream.write("x,note,label\n")
            stream.writelines(f"{index},{index:02000d},{index % 2}\n" for index in range(count))
        options = [str(path), str(tmp_path / str(count)), "--label", "label", "--never", "note"]
        command = ["-m", "training.trainer.datasets", "import", "csv", *options]
        peaks.append(peak_mib(command, root, tmp_path / "log.txt"))
        size_mib = path.stat().st_size / 2**20
    assert size_mib > 300
    assert peaks[1] - peaks[0] < 0.7 * size_mib
