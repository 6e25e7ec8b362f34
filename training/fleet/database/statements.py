"""The SQL files of a database, and how they are read.

Owns the form of the files. Guarantees that each statement's name stands once in all files of a dialect. Leaves running
the statements to the folder of the dialect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

_NAME: Final = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)
_COMMENT: Final = re.compile(r"^--.*$\n?", re.MULTILINE)
_READS: Final = ("SELECT", "PRAGMA")


@dataclass(frozen=True, slots=True)
class Statement:
    """One named statement.

    Attributes:
        name: The name by which it is run.
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
    found = {}
    for file in _sql_files(dialect):
        parts = _NAME.split(read(dialect, file))
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            # Comments go, because SQLite keeps the text of every prepared statement as the key of its cache.
            text = _COMMENT.sub("", body).strip()
            # A second one would silently take the place of the first.
            assert name not in found, f"the statement {name} stands there twice"
            found[name] = Statement(name, text, not text.startswith(_READS))
    return found


def migrations(dialect: str) -> dict[int, str]:
    """Return the migrations of a dialect by number, oldest first. They go forward only; a released one never changes.

    Args:
        dialect: Name of the folder: "sqlite".
    """
    names = _sql_files(dialect, "migrations")
    return {int(name.partition("_")[0]): read(dialect, f"migrations/{name}") for name in names}


def read(dialect: str, name: str) -> str:
    """Return the text of one file below the folder of a dialect."""
    return (files(__package__) / dialect / name).read_text(encoding="utf-8")


def _sql_files(dialect: str, folder: str = "") -> list[str]:
    place = files(__package__) / dialect / folder if folder else files(__package__) / dialect
    return sorted(file.name for file in place.iterdir() if file.name.endswith(".sql"))
