"""What never gets into the receiver's process, because nothing there may do what it is for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOADED = """
import sys
import training.fleet.receiver.run
print(*sorted(sys.modules))
"""
ASKING = {"urllib.request", "ftplib", "smtplib", "training.fleet.client"}
UNPACKING = {"tarfile", "training.fleet.bundle", "training.trainer.stored.archive", "training.trainer.unpack"}
READING = {"rtoml"}
MODELS = {"numpy", "lightgbm", "sklearn", "torch", "onnx", "safetensors", "joblib", "pyarrow"}


@pytest.fixture(scope="module")
def loaded(root: Path) -> set[str]:
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=root, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_receiver_asks_no_other_server(loaded: set[str], root: Path) -> None:
    """So nothing that a worker or an operator sends can make it ask one."""
    assert loaded & ASKING == set()
    asking = [
        path.relative_to(root).as_posix()
        for folder in ("api", "queue", "database", "blobs", "receiver")
        for path in (root / "training/fleet" / folder).glob("*.py")
        if "http.client" in path.read_text() or "create_connection" in path.read_text()
    ]
    assert asking == ["training/fleet/receiver/doctor.py"]


def test_a_receiver_leaves_the_reader_of_manifests_to_the_child(loaded: set[str]) -> None:
    """It would keep the memory."""
    assert loaded & READING == set()


def test_a_receiver_unpacks_nothing_and_loads_no_model(loaded: set[str]) -> None:
    assert "training.trainer.hyper" in loaded
    assert loaded & (UNPACKING | MODELS) == set()
