"""Claims about the resume folder."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.trainer.exchange import checkpoint
from training.trainer.exchange.checkpoint import Checkpoints, FitCheckpoint, checkpoint_key
from training.trainer.exchange.job import Job, parsed_job

WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([7], np.uint8)}


def a_job(**changes: Any) -> Job:
    document = {
        "v": 1,
        "spec": {"model": "gru", "mode": "oracle", "split_recipe": "hosts", "seed": 1},
        "dataset": {"name": "lab", "path": "data"},
        "threads": 2,
    }
    return dataclasses.replace(parsed_job(document), **changes)


def save_model(folder: Path) -> list[str]:
    (folder / "model.txt").write_text("trees")
    return ["model.txt"]


def finish(checkpoints: Checkpoints, index: int = 0) -> None:
    checkpoints.finish(index, save_model, {"name": "fold 1/5"}, np.array([0.25, 0.5], np.float32))


def test_a_finished_fit_is_found_again(tmp_path: Path) -> None:
    finish(Checkpoints(tmp_path / "resume", "k", 60))
    found = Checkpoints(tmp_path / "resume", "k", 60).finished(0)
    assert found is not None
    folder, record, score = found
    assert (folder / "model.txt").read_text() == "trees"
    assert record == {"name": "fold 1/5"}
    assert score.tolist() == [0.25, 0.5]
    assert Checkpoints(tmp_path / "resume", "k", 60).finished(1) is None


@pytest.mark.parametrize(
    "changed",
    ["trainer/run.py", "trainer/data/splits.py", "trainer/models/gbt.py", "contracts/dataset_folder.py"],
)
def test_another_code_of_the_trainer_is_another_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Wherever in its folders the code differs: a fit that goes on under other code would be the fit of neither."""
    copied = tmp_path / "training"
    shutil.copytree(root / "training", copied, ignore=shutil.ignore_patterns("fleet", "__pycache__"))
    before = checkpoint_key(a_job(), "sha256:1", {})
    monkeypatch.setattr(checkpoint, "__file__", str(copied / "trainer/exchange/checkpoint.py"))
    assert checkpoint_key(a_job(), "sha256:1", {}) == before
    with (copied / changed).open("a") as file:
        file.write("# changed\n")
    assert checkpoint_key(a_job(), "sha256:1", {}) != before


def test_checkpoints_of_another_run_are_deleted(tmp_path: Path) -> None:
    finish(Checkpoints(tmp_path, "old", 60))
    assert Checkpoints(tmp_path, "new", 60).finished(0) is None
    assert [path.name for path in tmp_path.iterdir()] == ["key.json"]


@pytest.mark.parametrize("torn", ["record.json", "score.npy"])
def test_a_torn_finished_fit_is_not_believed(tmp_path: Path, torn: str) -> None:
    checkpoints = Checkpoints(tmp_path, "k", 60)
    finish(checkpoints)
    path = tmp_path / "part-00" / torn
    path.write_bytes(path.read_bytes()[:-5])
    assert checkpoints.finished(0) is None
    finish(checkpoints)
    assert checkpoints.finished(0) is not None


def test_a_folder_that_was_cut_off_is_replaced(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "k", 60)
    (tmp_path / "part-00.partial").mkdir()
    (tmp_path / "part-00.partial" / "rubbish").touch()
    finish(checkpoints)
    assert sorted(path.name for path in (tmp_path / "part-00").iterdir()) == ["model.txt", "record.json", "score.npy"]


def test_a_fit_under_way_is_found_again_and_gone_when_it_is_finished(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "k", 60)
    checkpoints.fit(0).save(WEIGHTS, {"epochs": 3, "curve": [{"step": 1.0}]})
    found = checkpoints.fit(0).load()
    assert found is not None
    tensors, state = found
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"a": [[0, 1, 2], [3, 4, 5]], "b": [7]}
    assert state == {"epochs": 3, "curve": [{"step": 1.0}]}
    assert checkpoints.fit(1).load() is None
    finish(checkpoints)
    assert checkpoints.fit(0).load() is None


@pytest.mark.parametrize("length", [0, 4, 8, 40, -1])
def test_a_torn_fit_under_way_is_dropped(tmp_path: Path, length: int) -> None:
    checkpoint = Checkpoints(tmp_path, "k", 60).fit(0)
    checkpoint.save(WEIGHTS, {"epochs": 3})
    path = tmp_path / "part-00.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert checkpoint.load() is None
    assert not path.exists()


def test_a_checkpoint_is_due_after_its_interval_and_not_at_once(tmp_path: Path) -> None:
    now = [100.0]
    checkpoint = FitCheckpoint(tmp_path / "one", 30, lambda: now[0])
    found = []
    for now[0] in (100.0, 129.9, 130.0):
        found.append(checkpoint.due())
    assert found == [False, False, True]
    checkpoint.save(WEIGHTS, {})
    now[0] = 159.0
    assert not checkpoint.due()


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(None, "k", 0)
    finish(checkpoints)
    checkpoint = checkpoints.fit(0)
    checkpoint.save(WEIGHTS, {})
    assert (checkpoints.finished(0), checkpoint.load(), checkpoint.due()) == (None, None, False)
    checkpoints.clear()


def test_a_done_run_leaves_an_empty_folder(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "k", 60)
    finish(checkpoints)
    checkpoints.fit(1).save(WEIGHTS, {})
    checkpoints.clear()
    assert list(tmp_path.iterdir()) == []


def test_the_key_changes_with_all_that_decides_the_bytes_and_with_nothing_else() -> None:
    key = checkpoint_key(a_job(), "sha256:1", {"blas": "x"})
    others = [
        checkpoint_key(a_job(seed=2), "sha256:1", {"blas": "x"}),
        checkpoint_key(a_job(device="cuda"), "sha256:1", {"blas": "x"}),
        checkpoint_key(a_job(hyper=dict(a_job().hyper) | {"hidden": 8}), "sha256:1", {"blas": "x"}),
        checkpoint_key(a_job(), "sha256:2", {"blas": "x"}),
        checkpoint_key(a_job(), "sha256:1", {"blas": "y"}),
    ]
    assert len({key, *others}) == 6
    assert checkpoint_key(a_job(resume_folder=Path("x"), checkpoint_s=1), "sha256:1", {"blas": "x"}) == key
