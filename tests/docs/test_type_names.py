"""A type name has one meaning in the whole project."""

from __future__ import annotations

import ast
import importlib
import re
from collections import defaultdict
from pathlib import Path

STILL_TWICE = {
    "Answer", "Fault", "Limits", "Progress", "Request", "Setting", "TrainerError",
}  # fmt: skip
"""Names whose second meaning still waits for a name of its own. None may be added."""


def types_in(path: Path) -> set[str]:
    """Return the public classes of a module, and what the fleet calls other types."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and "fleet" in path.parts:
            found.add(node.targets[0].id)
    return {name for name in found if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name)}


def test_no_type_name_has_two_meanings(root: Path) -> None:
    places = defaultdict(set)
    for path in (*(root / "training").rglob("*.py"), *(root / "tools").rglob("*.py")):
        for name in types_in(path):
            places[name].add(path.relative_to(root).as_posix())
    assert {name: sorted(found) for name, found in places.items() if len(found) > 1 and name not in STILL_TWICE} == {}


def test_the_glossary_names_types_that_exist(root: Path) -> None:
    page = (root / "docs/reference/glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|", page, re.MULTILINE)
    assert len(rows) > 30
    for name, module in rows:
        if module != "worker.process.shim":  # Linux only
            assert hasattr(importlib.import_module(f"training.fleet.{module}"), name), f"{module}.{name}"
