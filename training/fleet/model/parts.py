"""The parts of an artifact: small files that lie beside its bundle, so that people can look at a result at once.

Owns which files of a trainer's artifact folder they are, and their limits, for the worker that uploads them and for the
receiver that judges them. The receiver never opens a bundle; so what people look at comes a second time, by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from training.contracts.bundle import is_plain_name

MAX_PARTS: Final = 32
"""Most parts of one artifact."""
MAX_PARTS_BYTES: Final = 2 * 2**20
"""Most bytes of all parts of one artifact together."""
PART_NAME: Final = r"[0-9A-Za-z][0-9A-Za-z_.-]{0,59}\.(?:md|svg|png|json)"
RESULT_KINDS: Final = ("card", "figures", "metrics", "model")
"""What a result is made of; the model is the bundle, all others are parts."""

_TYPES: Final = {
    "md": "text/markdown; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    "png": "image/png",
}
_KINDS: Final = {"md": "card", "json": "metrics", "svg": "figures", "png": "figures"}
_METRICS: Final = "metrics.json"


def is_part_name(name: str) -> bool:
    """Return True if a part may have this name, on every system that may fetch it."""
    return re.fullmatch(PART_NAME, name) is not None and is_plain_name(name)


def media_type(name: str) -> str:
    """Return the media type of a part, by the end of its name."""
    return _TYPES[name.rpartition(".")[2]]


def kind_of(name: str) -> str:
    """Return which of `RESULT_KINDS` a part is, by the end of its name."""
    return _KINDS[name.rpartition(".")[2]]


def chosen_parts(sizes: Iterable[tuple[str, int]]) -> tuple[list[str], list[str]]:
    """Choose the parts among the files at the top of an artifact folder.

    The metrics come first, then texts, then figures, each by name, as far as the limits allow: a card without its
    figures still says something. Of other JSON files none is taken, because those are parts of the model.

    Args:
        sizes: Name and length in bytes of each file.

    Returns:
        The names to upload, in order, and those that would be parts and do not fit.
    """
    found = {name: size for name, size in sizes if is_part_name(name) and (name == _METRICS or name[-5:] != ".json")}
    taken: list[str] = []
    left: list[str] = []
    room = MAX_PARTS_BYTES
    for name in sorted(found, key=_rank):
        if len(taken) < MAX_PARTS and found[name] <= room:
            taken.append(name)
            room -= found[name]
        else:
            left.append(name)
    return taken, left


def _rank(name: str) -> tuple[bool, bool, str]:
    return name != _METRICS, not name.endswith(".md"), name
