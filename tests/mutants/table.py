"""The table of mutants: which guard each takes out, how, and which tests must then fail.

Owns the form of `mutants.toml` and the question whether it still fits the code. A passage is named by its function,
statement or table and a few words in it, so that most changes of the code leave the table as it is.
"""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("mutants.toml")
FLEET = "training/fleet"
PART = re.compile(
    r"^-- (?:name: (\w+)|migration: (\d+))$|^CREATE (?:UNIQUE )?(?:TABLE|TRIGGER|INDEX|VIEW) (\w+)", re.MULTILINE
)
"""Where a statement, a migration or a rule begins in a file of SQL."""


@dataclass(frozen=True)
class Change:
    """One passage of a file that a mutant replaces.

    Attributes:
        file: The file, below the folder of the project.
        place: The function ("Class.name"), statement, table or trigger that holds it; empty for the whole file.
        old: The passage as it stands there, exactly once; any space is like any other, line ends too.
        new: What the mutant has instead.
    """

    file: str
    place: str
    old: str
    new: str

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where the passage stands in the text of its file; it fits where that is one place."""
        start, end = places(self.file, text).get(self.place, (0, 0))
        passage = re.compile(r"\s+".join(map(re.escape, self.old.split())))
        return [match.span() for match in passage.finditer(text, start, end)]


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
            tuple(_change(part) for part in (row, *row.get("also", ()))),
            tuple(row["tests"]),
        )
        for row in rows
    ]


def _change(row: dict[str, str]) -> Change:
    file, _, place = row["where"].partition(" ")
    return Change(f"{FLEET}/{file}", place, row["old"], row["new"])


def places(file: str, text: str) -> dict[str, tuple[int, int]]:
    """Return where each function, statement and table of a file begins and ends, and the file itself as ""."""
    found = {"": (0, len(text))}
    if not file.endswith(".py"):
        marks = list(PART.finditer(text))
        ends = [*(mark.start() for mark in marks[1:]), len(text)]
        return found | {mark[1] or mark[3] or "": (mark.start(), end) for mark, end in zip(marks, ends, strict=True)}
    lines = [0]
    for line in text.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def walk(node: ast.AST, above: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = above
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{above}.{child.name}".lstrip(".")
                assert child.end_lineno is not None
                found[name] = (lines[child.lineno - 1], lines[child.end_lineno])
            walk(child, name)

    walk(ast.parse(text), "")
    return found


def faults(mutants: list[Mutant], root: Path = ROOT) -> list[str]:
    """Return, in words, where the table no longer fits the code."""
    found = []
    for mutant in mutants:
        for change in mutant.changes:
            path = root / change.file
            number = len(change.spans(path.read_text(encoding="utf-8"))) if path.is_file() else 0
            if number != 1:
                where = f"{change.place or 'the whole'} of {change.file}"
                found.append(
                    f"{mutant.name}: {where} holds {change.old!r} {number} times, expected once; correct its row in "
                    f"{TABLE.name}"
                )
    return found


def in_words(test: str) -> str:
    """Return what a test claims, from its name."""
    return test.split("::")[-1].removeprefix("test_").replace("_", " ")
