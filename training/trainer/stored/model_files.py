"""Owns reading a stored bundle without trusting it: `bundle.tar.zst` in, the few files a model needs out.

Limits: those of `archive`, and 64 files, 512 MiB per file and 1 GiB in all. Only `model.json` and model files are
written, into a folder the caller gives. Nothing from a bundle is run.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from training.contracts.dataset import MAX_WINDOW_ROWS, category_faults
from training.trainer.faults import HostError, SpecError
from training.trainer.stored.archive import Limits, extract
from training.trainer.strict_json import parsed

# A bundle of this trainer holds about ten files, and its models are far smaller.
MAX_MEMBERS = 64
MAX_FILE_BYTES = 512 << 20
MAX_TOTAL_BYTES = 1 << 30
MAX_DESCRIPTION_BYTES = 4 << 20
MAX_COLUMNS = 10_000
DESCRIPTION = "model.json"
_MODEL_FILES = frozenset({DESCRIPTION, "model.txt", "model.safetensors"})


@dataclass(frozen=True, slots=True)
class Description:
    """What `model.json` states about a stored model."""

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
    validation_alarm_rate: float | None = None
    """Part of the validation windows that raised an alarm, 0 to 1; None in bundles of older trainers."""
    dataset_digest: str = ""
    """Digest of the dataset that it was trained on; empty in bundles of older trainers."""
    model_bytes: int = 0
    """Size of the model's files; the time that loading and scoring may take grows with it."""


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
    size_bytes = sum(path.stat().st_size for path in folder.iterdir() if path.name != DESCRIPTION)
    return replace(_description(folder / DESCRIPTION, bundle.name), model_bytes=size_bytes)


def foreign(name: str, trainer: str = "") -> SpecError:
    """Return the fault of a bundle that another trainer made, named where the caller knows it."""
    made = f"was made by the trainer {trainer}" if trainer else f"holds no {DESCRIPTION}, so another trainer made it"
    return SpecError(f"{name} {made}; its own program scores with it")


def _copy_folder(source: Path, folder: Path) -> None:
    for name in sorted(_MODEL_FILES):
        path = source / name
        if not path.is_file():
            continue
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SpecError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB, which no model of this trainer is")
        shutil.copyfile(path, folder / name)


def _extract(bundle: Path, folder: Path) -> None:
    limits = Limits(MAX_MEMBERS, MAX_FILE_BYTES, MAX_TOTAL_BYTES)
    with bundle.open("rb") as stream:
        extract(stream, folder, bundle.name, limits, _MODEL_FILES.__contains__)


def _description(path: Path, name: str) -> Description:
    try:
        if path.stat().st_size > MAX_DESCRIPTION_BYTES:
            raise SpecError(f"{name}: {DESCRIPTION} is larger than {MAX_DESCRIPTION_BYTES >> 20} MiB")
        found = parsed(path.read_bytes())
    except FileNotFoundError as fault:
        raise foreign(name) from fault
    except ValueError as fault:
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
        validation_alarm_rate=found.get("validation_alarm_rate"),
        dataset_digest=found.get("dataset_digest", ""),
    )


def _faults(found: Any) -> Iterator[str]:
    if not isinstance(found, dict) or found.get("v") != 1:
        yield f"v: found {found.get('v') if isinstance(found, dict) else found!r}, expected 1"
        return
    rules: dict[str, Callable[[Any], bool]] = {
        "model": lambda value: isinstance(value, str),
        "columns": lambda value: isinstance(value, list) and 1 <= len(value) <= MAX_COLUMNS,
        "host_column": lambda value: isinstance(value, str | None),
        "time_column": lambda value: isinstance(value, str | None),
        "window_rows": lambda value: type(value) is int and 1 <= value <= MAX_WINDOW_ROWS,
        "history": lambda value: isinstance(value, bool),
        "threshold": lambda value: type(value) in (int, float) and abs(value) <= sys.float_info.max,
    }
    for key, holds in rules.items():
        if key not in found or not holds(found[key]):
            yield f"{key}: found {repr(found.get(key))[:80]}"
    later: dict[str, tuple[Any, Callable[[Any], bool]]] = {
        "validation_alarm_rate": (
            None,
            lambda value: value is None or (type(value) in (int, float) and 0 <= value <= 1),
        ),
        "dataset_digest": ("", lambda value: isinstance(value, str)),
    }
    for key, (default, holds) in later.items():
        if not holds(found.get(key, default)):
            yield f"{key}: found {repr(found.get(key))[:80]}"
    columns = found.get("columns")
    if isinstance(columns, list) and not all(isinstance(name, str) for name in columns):
        yield f"columns: found {repr(columns)[:80]}, expected names"
    elif isinstance(columns, list) and len(columns) <= MAX_COLUMNS:
        yield from _category_faults(found.get("categories", {}), columns)


def _category_faults(categories: Any, columns: list[str]) -> Iterator[str]:
    known = set(columns)
    for column in categories if isinstance(categories, dict) else ():
        if column not in known:
            # One fault, without the nearest name: to compare all names with all takes hours for a few MiB.
            yield f"categories.{column[:80]}: found no such feature, expected one of the columns"
            return
    yield from (str(fault) for fault in category_faults(categories, columns))
