"""Owns reading a `model.safetensors` that nobody trusts, in Python alone.

Taken is what the trainer writes: tensors of float32 that stand one behind the other and fill the file, each with a
number in every place. Whether they are those of a model is checked by the model's module, before it builds anything.

Source: safetensors, section "Format" of its README.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from training.trainer.data.telemetry import Floats
from training.trainer.faults import SpecError
from training.trainer.strict_json import parsed

MAX_HEADER_BYTES: Final = 1 << 20
"""The largest network of the trainer has 300 tensors of 150 bytes each here."""
MAX_DIMENSIONS: Final = 4
MAX_SIZE: Final = 2**31 - 1
_LENGTH_BYTES: Final = 8
_METADATA: Final = "__metadata__"


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read(path: Path) -> tuple[dict[str, str], dict[str, Floats]]:
    """Read a file of tensors.

    Returns:
        The texts beside the tensors, and the tensors by name, each float32 in memory of its own.

    Raises:
        SpecError: The file is damaged, or of another form than the trainer writes.
    """
    content = path.read_bytes()
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    first = _LENGTH_BYTES + length
    if not 0 < length <= MAX_HEADER_BYTES or first > len(content):
        raise SpecError(f"its header of {length} bytes is none, beyond {MAX_HEADER_BYTES}, or beyond the file's end")
    try:
        header = parsed(content[_LENGTH_BYTES:first])
    except ValueError as fault:
        raise SpecError(f"its header is not JSON: {fault}") from fault
    if not isinstance(header, dict):
        raise SpecError("its header is no table of tensors")
    texts = header.pop(_METADATA, {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise SpecError(f"{_METADATA} is no table of texts")
    places = sorted((_tensor(name, entry) for name, entry in header.items()), key=lambda place: place.begin)
    _demand_whole(places, len(content) - first)
    return texts, {place.name: _values(content, first, place) for place in places}


def demand_shapes(found: Mapping[str, Floats], wanted: Mapping[str, Sequence[int]]) -> None:
    """Refuse tensors that are not exactly those of a model, by name and shape.

    Raises:
        SpecError: One is missing, too much, or of another shape.
    """
    for name in sorted({*found, *wanted}):
        shapes = [tuple(side[name]) if name in side else None for side in (_shapes(found), wanted)]
        if shapes[0] != shapes[1]:
            raise SpecError(f"tensor {ascii(name)[:80]}: found the shape {shapes[0]}, expected {shapes[1]}")


def _shapes(tensors: Mapping[str, Floats]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _tensor(name: str, entry: Any) -> _Tensor:
    shown = f"tensor {ascii(name)[:80]}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise SpecError(f"{shown} is not described by dtype, shape and data_offsets alone")
    if entry["dtype"] != "F32":
        raise SpecError(f"{shown} has the type {ascii(entry['dtype'])[:80]}, expected F32")
    shape, offsets = (_sizes(entry[key], shown, key) for key in ("shape", "data_offsets"))
    if not shape or len(shape) > MAX_DIMENSIONS or 0 in shape or len(offsets) != 2:
        raise SpecError(f"{shown} has an empty shape, more than {MAX_DIMENSIONS} dimensions or no two offsets")
    if offsets[1] - offsets[0] != np.dtype(np.float32).itemsize * math.prod(shape):
        raise SpecError(f"{shown} of shape {shape} does not fill the bytes from {offsets[0]} to {offsets[1]}")
    return _Tensor(name, shape, *offsets)


def _sizes(value: Any, shown: str, key: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(size) is int and 0 <= size <= MAX_SIZE for size in value):
        raise SpecError(f"{shown} has the {key} {ascii(value)[:80]}, expected whole numbers up to {MAX_SIZE}")
    return tuple(value)


def _demand_whole(places: Sequence[_Tensor], size_bytes: int) -> None:
    end = 0
    for place in places:
        if place.begin != end:
            raise SpecError(f"tensor {ascii(place.name)[:80]} begins at byte {place.begin}, expected {end}")
        end = place.end
    if end != size_bytes:
        raise SpecError(f"its tensors take {end} bytes, the file holds {size_bytes}")


def _values(content: bytes, first: int, place: _Tensor) -> Floats:
    values = np.frombuffer(content, "<f4", math.prod(place.shape), first + place.begin)
    if not np.isfinite(values).all():
        raise SpecError(f"tensor {ascii(place.name)[:80]} holds NaN or infinity")
    return values.reshape(place.shape).astype(np.float32)
