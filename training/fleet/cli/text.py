"""How values look as text on a terminal or in a pipe.

Owns widths, colours, tables, durations and the escaping of what came from elsewhere. Guarantees that no control
character of a host, a trainer or a manifest reaches a terminal. Knows nothing of jobs.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

GAP = "  "
LEAST_WIDTH = 4
"""Least cells of a column that is cut."""
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_COLOURS = {
    "completed": "32",
    "idle": "32",
    "ok": "32",
    "yes": "32",
    "running": "36",
    "claimed": "36",
    "working": "36",
    "failed": "31",
    "broken": "31",
    "no": "31",
    "degraded": "31",
    "draining": "33",
    "away": "33",
    "cancelled": "2",
}


@dataclass(frozen=True, slots=True)
class Terminal:
    """What the output can show.

    Attributes:
        width: Cells in a line, None when the output is no terminal.
        height: Lines, None when the output is no terminal.
        colour: Whether colours are wanted and can be shown.
    """

    width: int | None = None
    height: int | None = None
    colour: bool = False

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str]) -> Terminal:
        """Return what a stream can show.

        Source: https://no-color.org for `NO_COLOR`.
        """
        if not stream.isatty():
            return cls()
        size = shutil.get_terminal_size((80, 24))
        return cls(size.columns, size.lines, not environ.get("NO_COLOR") and environ.get("TERM") != "dumb")

    def paint(self, text: str, style: str) -> str:
        """Return a text in a colour (an SGR code such as "1" for bold), unchanged without colours."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.colour and style else text

    def head(self, text: str) -> str:
        """Return a heading."""
        return self.paint(text, "1")


def clean(text: str) -> str:
    """Return a text in one line, with everything that could steer a terminal escaped.

    Control and format characters, also those that turn the writing direction, become escapes as Python writes them.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if unicodedata.category(char) not in _UNSAFE else _escape(char) for char in text)


def _escape(char: str) -> str:
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char) or char.encode("unicode_escape").decode("ascii")


def cells(text: str) -> int:
    """Return how many cells a clean text takes on a terminal.

    Source: Unicode Standard Annex 11, East Asian Width.
    """
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


def cut(text: str, width: int) -> str:
    """Return a clean text in at most `width` cells, ending in ".." when something is missing."""
    if cells(text) <= width:
        return text
    while text and cells(text) > width - 2:
        text = text[:-1]
    return (text.rstrip() + "..")[:width]


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], terminal: Terminal, spare: Sequence[str] = ()
) -> list[str]:
    """Return rows as lines.

    On a terminal: a header and aligned columns; where the line does not fit, spare columns are left out and then the
    widest ones cut. In a pipe: no header, every column, values uncut and separated by one tab, so that `cut -f` and
    `awk` can read them.

    Args:
        header: Names of the columns.
        rows: One sequence of values per row, as many as there are names.
        terminal: What the output can show.
        spare: Names of columns that may be left out, the first one first.
    """
    safe = [[clean(value) for value in row] for row in rows]
    if terminal.width is None:
        return ["\t".join(row) for row in safe]
    columns = {name: (name, *values) for name, *values in zip(header, *safe, strict=True)}
    for name in spare:
        if _total([max(map(cells, column)) for column in columns.values()]) > terminal.width:
            del columns[name]
    widths = _fit([max(map(cells, column)) for column in columns.values()], terminal.width)
    head, *lines = zip(*columns.values(), strict=True)
    return [terminal.head(_line(head, widths, Terminal())), *(_line(row, widths, terminal) for row in lines)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _fit(widths: list[int], total: int) -> list[int]:
    while _total(widths) > total and max(widths) > LEAST_WIDTH:
        widths[len(widths) - 1 - widths[::-1].index(max(widths))] -= 1
    return widths


def _line(row: Sequence[str], widths: Sequence[int], terminal: Terminal) -> str:
    shown = []
    for value, width in zip(row, widths, strict=True):
        text = cut(value, width)
        shown.append(terminal.paint(text, _COLOURS.get(value, "")) + " " * (width - cells(text)))
    return GAP.join(shown).rstrip()


def word(text: str, terminal: Terminal) -> str:
    """Return a status word in its colour."""
    return terminal.paint(clean(text), _COLOURS.get(text, ""))


def duration(seconds: float | None) -> str:
    """Return a duration for people: "0.4 s", "12 s", "2 min 05 s", "3 h 07 min", "4 d 02 h"; "-" for None."""
    if seconds is None:
        return "-"
    if 0 <= seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def size(count: float) -> str:
    """Return a number of bytes for people: "512 B", "1.5 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def bar(done: int, total: int, width: int = 12) -> str:
    """Return a progress bar such as "[####........]"; empty when the total is unknown."""
    if total <= 0:
        return ""
    full = min(width, width * done // total)
    return f"[{'#' * full}{'.' * (width - full)}]"


def number(value: float | str | bool | None) -> str:
    """Return a figure for people: four significant digits, integers whole."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return clean(str(value))


def moment(label: str | None) -> str:
    """Return an RFC 3339 label as "2026-11-23 15:10:13"; "-" for None."""
    return clean(label)[:19].replace("T", " ") if label else "-"


def silence(stream: TextIO) -> None:
    """Send what is still buffered for a closed pipe to the null device, or Python prints an error at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
