"""Owns reading a stored bundle without trusting it: `bundle.tar.zst` in, the few files a model needs out.

Limits: 64 members, plain names, regular files only, no name twice, 512 MiB per file and 1 GiB in all, whatever the
archive claims. Only `model.json` and model files are written, into a folder the caller gives. Nothing from a bundle is
run.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from training.dataset import category_faults
from training.trainer.faults import HostError, SpecError

MAX_MEMBERS = 64
MAX_FILE_BYTES = 512 << 20
MAX_TOTAL_BYTES = 1 << 30
DESCRIPTION = "model.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_MODEL_FILES = frozenset({DESCRIPTION, "model.txt", "model.safetensors"})
_CHUNK_BYTES = 1 << 20


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
    except (tarfile.TarError, EOFError, _zstd_error()) as fault:
        raise SpecError(f"{bundle.name} is not a whole bundle.tar.zst: {fault}; fetch it again") from fault
    return _description(folder / DESCRIPTION, bundle.name)


def _copy_folder(source: Path, folder: Path) -> None:
    for name in sorted(_MODEL_FILES):
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())


def _extract(bundle: Path, folder: Path) -> None:
    seen: set[str] = set()
    with _decompressed(bundle) as stream, tarfile.open(fileobj=_Limited(stream), mode="r|") as archive:
        for member in archive:
            _check_member(member, seen)
            content = archive.extractfile(member) if member.name in _MODEL_FILES else None
            if content is not None:
                _write(content, folder / member.name)


def _check_member(member: tarfile.TarInfo, seen: set[str]) -> None:
    if not member.isreg():
        raise SpecError(f"the bundle's member {member.name!r} is no regular file")
    if not _NAME.fullmatch(member.name):
        raise SpecError(f"the bundle's member {member.name!r} is no plain file name")
    if member.name in seen:
        raise SpecError(f"the bundle holds {member.name!r} twice")
    if member.size > MAX_FILE_BYTES:
        raise SpecError(f"the bundle's member {member.name!r} is larger than {MAX_FILE_BYTES >> 20} MiB")
    seen.add(member.name)
    if len(seen) > MAX_MEMBERS:
        raise SpecError(f"the bundle holds more than {MAX_MEMBERS} files")


class _Limited(io.RawIOBase):
    """Passes a stream on until the limit, so that a small file can't unfold without end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = MAX_TOTAL_BYTES

    def read(self, size: int = -1) -> bytes:
        """Read on, or refuse when more than the limit was unfolded."""
        found = self._stream.read(size)
        self._left -= len(found)
        if self._left < 0:
            raise SpecError(f"the bundle unfolds to more than {MAX_TOTAL_BYTES >> 20} MiB")
        return found


def _write(content: IO[bytes], path: Path) -> None:
    with path.open("wb") as stream:
        while chunk := content.read(_CHUNK_BYTES):
            stream.write(chunk)


def _zstd() -> Any:
    """Return the zstd module: Python's own from 3.14 on, `backports.zstd` before."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as fault:
        raise HostError("reading a bundle needs backports.zstd; install the project with its trainer extra") from fault
    return zstd


def _zstd_error() -> type[Exception]:
    error: type[Exception] = _zstd().ZstdError
    return error


def _decompressed(bundle: Path) -> IO[bytes]:
    stream: IO[bytes] = _zstd().open(bundle, "rb")
    return stream


def _description(path: Path, name: str) -> Description:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as fault:
        raise SpecError(f"{name} holds no {DESCRIPTION}; it is no bundle of this trainer") from fault
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
    )


def _faults(found: Any) -> Iterator[str]:
    if not isinstance(found, dict) or found.get("v") != 1:
        yield f"v: found {found.get('v') if isinstance(found, dict) else found!r}, expected 1"
        return
    kinds: dict[str, type | tuple[type, ...]] = {
        "model": str,
        "columns": list,
        "host_column": (str, type(None)),
        "time_column": (str, type(None)),
        "window_rows": int,
        "history": bool,
        "threshold": (int, float),
    }
    for key, kind in kinds.items():
        if key not in found or not isinstance(found[key], kind):
            yield f"{key}: found {found.get(key)!r}"
    columns = found.get("columns")
    if isinstance(columns, list) and not all(isinstance(name, str) for name in columns):
        yield f"columns: found {columns!r}, expected names"
    elif isinstance(columns, list):
        yield from (str(fault) for fault in category_faults(found.get("categories", {}), columns))
