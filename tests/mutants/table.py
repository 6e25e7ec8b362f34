"""The table of mutants: which guard each takes out, how, and which tests must then fail.

Owns the form of `mutants.toml` and the question whether it still fits the code.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("mutants.toml")


@dataclass(frozen=True)
class Change:
    """One passage of a file that a mutant replaces.

    Attributes:
        file: The file, below the folder of the project.
        old: The passage as it stands there, exactly once.
        new: What the mutant has instead.
    """

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """The code without one of its guards.

    Attributes:
        name: Its name.
        guard: What the guard promises.
        changes: What is replaced; more than one where a second guard stands behind the first.
        tests: The tests of which one must fail, as pytest names them.
    """

    name: str
    guard: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]


def read(path: Path = TABLE) -> list[Mutant]:
    """Return all mutants in the order of the file."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    return [
        Mutant(
            row["name"],
            row["guard"],
            tuple(Change(part["file"], part["old"], part["new"]) for part in (row, *row.get("also", ()))),
            tuple(row["tests"]),
        )
        for row in rows
    ]


def faults(mutants: list[Mutant], root: Path = ROOT) -> list[str]:
    """Return, in words, where the table no longer fits the code."""
    found = []
    for mutant in mutants:
        for change in mutant.changes:
            number = (root / change.file).read_text(encoding="utf-8").count(change.old)
            if number != 1:
                found.append(
                    f"{mutant.name}: {change.file} holds its old text {number} times, expected once; mend its row in "
                    f"{TABLE.name}"
                )
    return found


def in_words(test: str) -> str:
    """Return what a test claims, from its name."""
    return test.split("::")[-1].removeprefix("test_").replace("_", " ")
