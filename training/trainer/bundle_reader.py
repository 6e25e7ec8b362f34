"""Owns reading a stored bundle without trusting it: `bundle.tar.zst` in, the few files a model needs out.

Limits: those of `archive`, and 64 files, 512 MiB per file and 1 GiB in all. Only `model.json` and model files are
written, into a folder the caller gives. Nothing from a bundle is run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.dataset import MAX_WINDOW_ROWS, category_faults
from training.trainer.archive import Limits, extract
from training.trainer.faults import HostError, SpecError

MAX_MEMBERS = 64
MAX_FILE_BYTES = 512 << 20
MAX_TOTAL_BYTES = 1 << 30
MAX_DESCRIPTION_BYTES = 4 << 20
DESCRIPTION = "model.json"
_MODEL_FILES = frozenset({DESCRIPTION, "model.txt", "model.safetensors"})


@dataclass(frozen=True, slots=True)
class Description:
    """What `model.json` says about a stored model."""

    model: str
    """Name in `hyper.MODELS`."""
    columns: tuple[str, ...]
    """Metrics that the model needs, in order."""
    host_column: str | None
    """None when the training data had no host column; all rows then belong to one host."""
    time_column: str | None
    """None when the training data had no time column; rows are then scored in file order."""
    window_rows: int
    history: bool
    threshold: float
    """Score from which an alarm is raised."""
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column of text to its known values; bundles written before text columns existed have none."""
    mode: str = ""
    """What the model was allowed to see in training: "realistic" or "oracle"; for the record."""


def unpacked(bundle: Path, folder: Path) -> Description:
    """Read a bundle, or an artifact folder as it is, and write the model files to a folder.

    Args:
        bundle: A `bundle.tar.zst`, or a folder that holds `model.json`.
        folder: An empty folder to write to.

    Raises:
        SpecError: The bundle is damaged, breaks a limit, or is of an unknown format.
        HostError: It can't be read here.
    """
    try:
        if bundle.is_dir():
            _copy_folder(bundle, folder)
        else:
            _extract(bundle, folder)
    except FileNotFoundError as fault:
        raise HostError(f"{bundle} does not exist; give a bundle.tar.zst or an artifact folder") from fault
    return _description(folder / DESCRIPTION, bundle.name)


def _copy_folder(source: Path, folder: Path) -> None:
    for name in sorted(_MODEL_FILES):
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())


def _extract(bundle: Path, folder: Path) -> None:
    limits = Limits(MAX_MEMBERS, MAX_FILE_BYTES, MAX_TOTAL_BYTES)
    with bundle.open("rb") as stream:
        extract(stream, folder, bundle.name, limits, _MODEL_FILES.__contains__)


def _description(path: Path, name: str) -> Description:
    try:
        if path.stat().st_size > MAX_DESCRIPTION_BYTES:
            raise SpecError(f"{name}: {DESCRIPTION} is larger than {MAX_DESCRIPTION_BYTES >> 20} MiB")
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError as fault:
        raise SpecError(f"{name} holds no {DESCRIPTION}; it is no bundle of this trainer") from fault
    except (ValueError, RecursionError) as fault:
        raise SpecError(f"{name}: {DESCRIPTION} is not JSON: {fault}") from fault
    faults = list(_faults(found))
    if faults:
        raise SpecError(f"{name}: {DESCRIPTION} is not of format 1: {'; '.join(faults)}")
    return Description(
        model=found["model"],
        columns=tuple(found["columns"]),
        host_column=found["host_column"],
        time_column=found["time_column"],
        window_rows=found["window_rows"],
        history=found["history"],
        threshold=float(found["threshold"]),
        categories={column: tuple(values) for column, values in found.get("categories", {}).items()},
        mode=str(found.get("mode", "")),
    )


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _faults(found: Any) -> Iterator[str]:
    if not isinstance(found, dict) or found.get("v") != 1:
        yield f"v: found {found.get('v') if isinstance(found, dict) else found!r}, expected 1"
        return
    rules: dict[str, Callable[[Any], bool]] = {
        "model": lambda value: isinstance(value, str),
        "columns": lambda value: isinstance(value, list),
        "host_column": lambda value: isinstance(value, str | None),
        "time_column": lambda value: isinstance(value, str | None),
        "window_rows": lambda value: type(value) is int and 1 <= value <= MAX_WINDOW_ROWS,
        "history": lambda value: isinstance(value, bool),
        "threshold": lambda value: type(value) in (int, float) and abs(value) <= sys.float_info.max,
    }
    for key, holds in rules.items():
        if key not in found or not holds(found[key]):
            yield f"{key}: found {repr(found.get(key))[:80]}"
    columns = found.get("columns")
    if isinstance(columns, list) and not all(isinstance(name, str) for name in columns):
        yield f"columns: found {columns!r}, expected names"
    elif isinstance(columns, list):
        yield from (str(fault) for fault in category_faults(found.get("categories", {}), columns))
