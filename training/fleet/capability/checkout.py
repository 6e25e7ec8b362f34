"""Where the code of this program lies: a checkout, an installed package or the worker's single file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_HOME = Path(__file__).resolve().parents[3]
PACKED: Final = _HOME.is_file()
"""True if the worker runs out of its single file, which holds no trainer."""
CHECKOUT: Final = _HOME.parent if PACKED else _HOME
"""Folder that holds the `training` package, or the folder of the single file."""
