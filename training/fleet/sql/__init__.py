"""The statements of the fleet, one folder per dialect, and how they are read.

Owns the form of the SQL files. Guarantees that each name stands once. Leaves running the statements to `database`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

_NAME: Final = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)
_MIGRATION: Final = re.compile(r"^-- migration: ([0-9]+)$", re.MULTILINE)
_COMMENT: Final = re.compile(r"^--.*$\n?", re.MULTILINE)
_READS: Final = ("SELECT", "PRAGMA")


@dataclass(frozen=True, slots=True)
class Statement:
    """One named statement.

    Attributes:
        name: The name of the method that runs it.
        text: The statement, without its comments.
        writes: Whether it changes the database.
    """

    name: str
    text: str
    writes: bool


def statements(dialect: str) -> dict[str, Statement]:
    """Return the named statements of a dialect.

    Args:
        dialect: Name of the folder: "sqlite".
    """
    parts = _NAME.split(_read(dialect, "queries.sql"))
    found = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        text = _COMMENT.sub("", body).strip()
        assert name not in found, f"the statement {name} stands there twice"
        found[name] = Statement(name, text, not text.startswith(_READS))
    return found


def migrations(dialect: str) -> dict[int, str]:
    """Return the migrations of a dialect by number, oldest first.

    Args:
        dialect: Name of the folder: "sqlite".
    """
    parts = _MIGRATION.split(_read(dialect, "schema.sql"))
    return {int(number): body for number, body in zip(parts[1::2], parts[2::2], strict=True)}


def _read(dialect: str, name: str) -> str:
    return (files(__name__) / dialect / name).read_text(encoding="utf-8")
