"""One measured figure against its floor and its aim, and the table of them."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """A result.

    Attributes:
        row: The row of the table it belongs to.
        what: What was measured.
        value: The figure.
        unit: Its unit; "x" for a ratio within this run.
        floor: What must hold, None for a figure that only informs.
        aim: What is wanted, None for none.
        larger: Whether more is better.
        note: What stood beside it: the other side of a ratio, the disk's sync time.
    """

    row: str
    what: str
    value: float
    unit: str
    floor: float | None = None
    aim: float | None = None
    larger: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        """`aim`, `floor` or `below`; empty for a figure that only informs."""
        if self.floor is None:
            return ""
        if self.aim is not None and self._reaches(self.aim):
            return "aim"
        return "floor" if self._reaches(self.floor) else "below"

    def _reaches(self, bound: float) -> bool:
        return self.value >= bound if self.larger else self.value <= bound


def table(figures: list[Figure]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| row | what | measured | floor | aim | reached | beside it |", "|---|---|---|---|---|---|---|"]
    for figure in figures:
        bounds = [_number(bound, figure.unit) if bound is not None else "" for bound in (figure.floor, figure.aim)]
        cells = [figure.row, figure.what, _number(figure.value, figure.unit), *bounds, figure.verdict, figure.note]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float, unit: str) -> str:
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".rstrip()


def machine() -> str:
    """Return on what this runs, in one line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}"


def save(figures: list[Figure], path: Path) -> None:
    """Write the figures as JSON."""
    body = {
        "machine": machine(),
        "command": " ".join(["python", "-m", "bench", *sys.argv[1:]]),
        "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in figures],
    }
    path.write_text(json.dumps(body, indent=1) + "\n")


def emit(figures: list[Figure]) -> None:
    """Print the figures for the process that asked for them."""
    print(json.dumps([asdict(figure) for figure in figures]))
