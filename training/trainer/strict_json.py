"""Owns reading JSON that came in a bundle: plain JSON alone, each name once."""

from __future__ import annotations

import json
from typing import Any


def parsed(text: bytes) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: It is no JSON in UTF-8, nests too deeply, holds NaN or infinity, or names a key twice. Of two equal
            keys one reader takes the first and another the last, so a text with both says two things.
    """
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except RecursionError as fault:
        raise ValueError(str(fault)) from fault


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{ascii(twice)[:80]} is named twice")
    return found
