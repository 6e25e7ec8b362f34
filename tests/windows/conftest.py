"""The tests of the worker under Wine; they run where `scripts/test-windows.sh` starts them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "e2e")]

from wine import PREFIX  # noqa: E402  - lies beside this file


@pytest.fixture(autouse=True)
def _wine() -> None:
    if not PREFIX:
        pytest.skip("a long version; run scripts/test-windows.sh")
