"""The synthetic dataset as a folder, and job files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import Artifacts, synthetic_table, write_dataset


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the synthetic dataset."""
    return write_dataset(tmp_path_factory.mktemp("data"), synthetic_table())


@pytest.fixture(scope="session")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the same dataset with labels in random order within each host."""
    return write_dataset(tmp_path_factory.mktemp("shuffled"), synthetic_table(shuffled=True))


@pytest.fixture(scope="session")
def artifacts(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """Artifact folders of all models on the synthetic dataset."""
    return Artifacts(synthetic, tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def figures() -> None:
    """Let the runs of a test draw their figures."""


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other runs draw none, as on a host without matplotlib: drawing takes longer than training here."""
    if "figures" not in request.fixturenames:
        monkeypatch.setitem(sys.modules, "training.trainer.artifact.figures", None)  # type: ignore[arg-type]


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a job description to a file and return its path."""

    def write(document: Any) -> Path:
        path = tmp_path / "job.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return write
