"""The tables of a manifest besides its jobs: their keys in normal form, and how a place in them is named to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.fleet.manifest import keys
from training.fleet.manifest.findings import Findings, nearest, short
from training.fleet.manifest.keys import Key, WrongValueError
from training.fleet.manifest.text import Document


def values_of(
    table: Any, known: Mapping[str, Key], name: str, document: Document, findings: Findings
) -> dict[str, Any]:
    """Return every key of a table in normal form, defaults where it is silent or wrong."""
    values = {key: rule.default for key, rule in known.items()}
    if not isinstance(table, dict):
        findings.fault(f"{name}{at(document.table_line(name))}", short(table), f"a table [{name}]")
        return values
    for key, value in table.items():
        if key not in known:
            remedy = nearest(key, known)
            if name == "defaults" and key in keys.JOB:
                remedy = "it belongs to one job; write it in each [[jobs]] table"
            findings.fault(place_of(name, key, document), f"the key {short(key)}", f"a key of [{name}]", remedy)
            continue
        try:
            values[key] = known[key].read(value)
        except WrongValueError:
            findings.fault(place_of(name, key, document), short(value), known[key].expected)
    return values


def place_of(table: str, key: str | None, document: Document) -> str:
    """Return how a key of a table is named to people, with its line."""
    shown = f".{plain(key)}" if key else ""
    return f"{table}{shown}{at(document.table_line(table, key or ''))}"


def plain(key: str) -> str:
    """Return a key as it was written, unless it is too odd to be shown."""
    return key if key.isprintable() and len(key) <= 100 else short(key)


def at(line: int | None) -> str:
    """Return a line behind a place, empty when unknown."""
    return "" if line is None else f" (line {line})"
