"""What `tests/conftest.py` gives to tests, for the Python under Wine, which has no hypothesis."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """Folder of the project."""
    return Path(__file__).resolve().parents[2]
