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
ASKING = {"ftplib", "smtplib", "training.fleet.client"}
"""prometheus_client brings `urllib.request` for pushing metrics, which nothing here does; see the search below."""
ASKS = ("http.client", "create_connection", "urllib.request", "push_to_gateway", "pushadd_to_gateway")
UNPACKING = {"tarfile", "training.fleet.bundle", "training.trainer.stored.archive", "training.trainer.unpack"}
READING = {"rtoml"}
MODELS = {"numpy", "lightgbm", "sklearn", "torch", "onnx", "safetensors", "joblib", "pyarrow"}


@pytest.fixture(scope="module")
def loaded(root: Path) -> set[str]:
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=root, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def our_text(loaded: set[str], root: Path) -> str:
    names = [name.replace(".", "/") for name in loaded if name.startswith("training.")]
    paths = [path for name in names for path in (root / f"{name}.py", root / name / "__init__.py")]
    return "".join(path.read_text() for path in paths if path.exists())


def test_a_receiver_asks_no_other_server(loaded: set[str], root: Path) -> None:
    """So nothing that a worker or an operator sends can make it ask one."""
    assert loaded & ASKING == set()
    asking = [
        path.relative_to(root).as_posix()
        for folder in ("api", "queue", "database", "blobs", "receiver")
        for path in (root / "training/fleet" / folder).rglob("*.py")
        if any(word in path.read_text() for word in ASKS)
    ]
    assert asking == ["training/fleet/receiver/doctor.py"]


def test_nothing_of_ours_in_a_receiver_uses_the_client_that_a_package_brings(our_text: str) -> None:
    assert "class Fleet" in our_text
    assert [word for word in ("urllib.request", "push_to_gateway", "pushadd_to_gateway") if word in our_text] == []


def test_a_receiver_leaves_the_reader_of_manifests_to_the_child(loaded: set[str]) -> None:
    """It would keep the memory."""
    assert loaded & READING == set()


def test_a_receiver_unpacks_nothing_and_loads_no_model(loaded: set[str]) -> None:
    assert "training.trainer.hyper" in loaded
    assert loaded & (UNPACKING | MODELS) == set()
