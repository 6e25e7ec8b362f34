"""Claims about the wish to stop that comes as a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.trainer.exchange import stop
from training.trainer.exchange.checkpoint import FitCheckpoint
from training.trainer.exchange.progress import Progress
from training.trainer.faults import HostError

WEIGHTS = {"w": np.ones(3, np.float32)}


@pytest.fixture
def stop_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIS490_STOP_FILE", str(tmp_path / "stop"))
    monkeypatch.setattr(stop, "LOOK_S", 0.0)
    return tmp_path / "stop"


def test_nothing_stops_without_the_file(stop_file: Path, tmp_path: Path) -> None:
    with Progress(tmp_path / "progress.jsonl") as progress:
        progress.report(0.5)
    assert not FitCheckpoint(tmp_path / "one", 30).due()


def test_a_fit_under_way_is_saved_first_and_ends_with_75(stop_file: Path, tmp_path: Path) -> None:
    checkpoint = FitCheckpoint(tmp_path / "one", 3600)
    assert not checkpoint.due()
    stop_file.touch()
    assert checkpoint.due()
    with pytest.raises(HostError, match="goes on from the last checkpoint") as stopped:
        checkpoint.save(WEIGHTS, {"step": 7})
    assert (stopped.value.exit_status, stopped.value.kind) == (75, "host_fault")
    found = FitCheckpoint(tmp_path / "one", 3600).load()
    assert found is not None
    assert found[1] == {"step": 7}


def test_a_fit_that_keeps_nothing_ends_at_once(stop_file: Path) -> None:
    stop_file.touch()
    with pytest.raises(HostError):
        FitCheckpoint(None, 3600).due()


def test_a_model_without_checkpoints_ends_at_its_next_report(stop_file: Path, tmp_path: Path) -> None:
    with Progress(tmp_path / "progress.jsonl") as progress:
        stop_file.touch()
        with pytest.raises(HostError):
            progress.report(0.5)
    assert len((tmp_path / "progress.jsonl").read_text().splitlines()) == 2


def test_the_file_is_looked_for_a_few_times_a_second_at_most(stop_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "LOOK_S", 3600.0)
    monkeypatch.setattr(stop, "_looked_s", -1e9)
    assert not stop.stop_asked()
    stop_file.touch()
    assert not stop.stop_asked()
    monkeypatch.setattr(stop, "_looked_s", -1e9)
    assert stop.stop_asked()
    assert stop.stop_asked()
