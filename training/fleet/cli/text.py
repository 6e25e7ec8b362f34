"""How values look as text on a terminal or in a pipe.

Owns widths, colours, tables, durations and the escaping of what came from elsewhere. Guarantees that no control
character of a host, a trainer or a manifest reaches a terminal. Knows nothing of jobs.
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Final, TextIO

GAP = "  "
INDENT = "  "
"""What the second line of a row begins with."""
LEAST_TEXT = 24
"""Cells that a text gets at least before it moves to the next line."""
_SGR = re.compile("\x1b\\[[0-9;]*m")
_LABEL = re.compile(" {0,2}[^ ]{1,14} {2,12}(?=[^ ])|[a-z]{1,9} [a-z]{1,9} {2,9}(?=[^ ])")
_PIECE = re.compile(" *[^ ]+")
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
        utc: Show times in UTC and not in this machine's zone.
    """

    width: int | None = None
    height: int | None = None
    colour: bool = False
    utc: bool = False

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str], *, utc: bool = False) -> Terminal:
        """Return what a stream can show.

        Args:
            stream: Where the output goes.
            environ: The environment.
            utc: Show times in UTC.

        Source: https://no-color.org for `NO_COLOR`.
        """
        if not stream.isatty():
            return cls(utc=utc)
        size = shutil.get_terminal_size((80, 24))
        return cls(size.columns, size.lines, not environ.get("NO_COLOR") and environ.get("TERM") != "dumb", utc)

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
    """Return rows as lines in which nothing is cut.

    On a terminal: a header and aligned columns; where the line does not fit, spare columns that say the same in every
    row go to a last line of their own, further columns to a second, indented line, and long texts are broken between
    words. In a pipe: no header, every column, and one tab between two values, so that `cut -f` and `awk` can read them.

    Args:
        header: Names of the columns.
        rows: One sequence of values per row, as many as there are names.
        terminal: What the output can show.
        spare: Names of columns that may be left out where they tell no rows apart, the first one first.
    """
    safe = [[clean(value) for value in row] for row in rows]
    if terminal.width is None:
        return ["\t".join(row) for row in safe]
    columns = {name: (name, *values) for name, *values in zip(header, *safe, strict=True)}
    same = _take_equal(columns, spare, terminal.width)
    layout = _layout([_Width.of(column) for column in columns.values()], terminal.width)
    head, *shown = zip(*columns.values(), strict=True)
    lines = [terminal.head(line) for line in _lines(head, layout, Terminal())]
    lines += [line for row in shown for line in _lines(row, layout, terminal)]
    if same:
        lines += wrapped(f"in every row: {', '.join(f'{name} {value}' for name, value in same)}", terminal.width)
    return lines


def arranged(
    header: Sequence[str], rows: Sequence[Sequence[str]], order: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Return columns in another order, those without any value left out."""
    places = [header.index(name) for name in order]
    kept = [place for place in places if not rows or any(row[place] not in ("", "-") for row in rows)]
    return [header[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _take_equal(columns: dict[str, tuple[str, ...]], spare: Sequence[str], total: int) -> list[tuple[str, str]]:
    """Take spare columns out until a row fits into a line; return those that hold one value, with it."""
    taken = []
    for name in spare:
        _, *values = columns.get(name, ("",))
        if _total([_Width.of(column).whole for column in columns.values()]) <= total:
            break
        # Of a single row every column is the same; there it is shown where it belongs.
        if len(values) > 1 and len(set(values)) == 1:
            taken.append((name, values[0]))
            del columns[name]
    return [(name, value) for name, value in taken if value not in ("", "-")]


@dataclass(frozen=True, slots=True)
class _Width:
    """How wide a column is: its widest value, and its widest word."""

    whole: int
    word: int

    @classmethod
    def of(cls, values: Sequence[str]) -> _Width:
        words = (word for value in values for word in value.split(" "))
        return cls(max(map(cells, values)), max(map(cells, words)))


def _layout(columns: Sequence[_Width], total: int) -> list[list[int]]:
    """Return the widths of the columns, line by line."""
    lines: list[list[int]] = [[]]
    left = total
    for column in columns:
        # A text may be broken between words; a narrow stack of single words would be hard to read.
        if lines[-1] and min(column.whole, max(column.word, LEAST_TEXT)) > left:
            lines.append([])
            left = total - len(INDENT)
        lines[-1].append(max(1, min(column.whole, left)))
        left -= lines[-1][-1] + len(GAP)
    return lines


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _lines(row: Sequence[str], layout: Sequence[Sequence[int]], terminal: Terminal) -> list[str]:
    """Return one row as lines: its first columns at the margin, the others indented."""
    lines: list[str] = []
    left = iter(row)
    for number, widths in enumerate(layout):
        own = [next(left) for _ in widths]
        # Further lines without any value would only pull the rows apart.
        if number and not {*own} - {"", "-"}:
            continue
        values = [_broken(value, width) for value, width in zip(own, widths, strict=True)]
        margin = INDENT if number else ""
        found = [margin + _line(parts, widths, terminal) for parts in zip_longest(*values, fillvalue="")]
        lines += [line.rstrip() for line in found]
    return lines


def _broken(text: str, width: int) -> list[str]:
    """Return a value in pieces of at most `width` cells, broken between words and only within one that is longer."""
    return [piece for line in wrapped(text, width) for piece in _chopped(line, width)]


def _chopped(text: str, width: int) -> list[str]:
    pieces = [""]
    for char in text:
        if pieces[-1] and cells(pieces[-1] + char) > width:
            pieces.append("")
        pieces[-1] += char
    return pieces


def _line(parts: Sequence[str], widths: Sequence[int], terminal: Terminal) -> str:
    shown = []
    for text, width in zip(parts, widths, strict=True):
        shown.append(terminal.paint(text, _COLOURS.get(text, "")) + " " * (width - cells(text)))
    return GAP.join(shown).rstrip()


def wrapped(text: str, width: int | None, indent: str = "") -> list[str]:
    """Return a text in lines of at most `width` cells, broken between words; a longer word stays whole.

    Args:
        text: Clean text in one line; colours count for nothing.
        width: Cells in a line, None for one line of any length.
        indent: What further lines begin with.
    """
    if width is None or cells(_SGR.sub("", text)) <= width:
        return [text]
    lines = [""]
    for piece in _PIECE.findall(text):
        if lines[-1].strip() and cells(_SGR.sub("", lines[-1] + piece)) > width:
            lines.append(indent + piece.lstrip(" "))
        else:
            lines[-1] += piece
    return lines


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


def folded(lines: Sequence[str], width: int | None) -> list[str]:
    """Return lines of text for people, those that are too long broken between words and further indented."""
    return [part for line in lines for part in wrapped(line, width, " " * _hanging(line))]


def _hanging(line: str) -> int:
    """Return how far further lines of a text are indented: to its value, for a line such as "status    pending"."""
    label = _LABEL.match(line)
    return len(label[0]) if label else len(line) - len(line.lstrip()) + 4


_SCREEN: Final = Terminal(width=80)


def moment(label: str | None, terminal: Terminal = _SCREEN) -> str:
    """Return an RFC 3339 label in this machine's time, or in UTC where that was asked for; "-" for None.

    On a terminal "2026-11-23 16:10:13", and `zone` belongs beside it; in a pipe, where no header can name the zone,
    "2026-11-23 16:10:13+01:00".
    """
    if not label:
        return "-"
    at = _instant(label, terminal)
    if at is None:
        return clean(label)
    shown = at.isoformat(" ", "seconds")
    return shown if terminal.width is None else shown[:19]


def zone(labels: Iterable[str | None], terminal: Terminal) -> str:
    """Return the zone in which `moment` shows some labels: "CET", "UTC-05:00", or two where summer begins or ends."""
    found = {_zone(at) for label in labels if label and (at := _instant(label, terminal))}
    return "/".join(sorted(found or {_zone(datetime.now(UTC).astimezone(UTC if terminal.utc else None))}))


def dated(label: str | None, terminal: Terminal) -> str:
    """Return a label as `moment` does, with its zone, for a text that has no header."""
    shown = moment(label, terminal)
    return shown if label is None or terminal.width is None else f"{shown} {zone([label], terminal)}"


def _instant(label: str, terminal: Terminal) -> datetime | None:
    try:
        at = datetime.fromisoformat(label)
        return at.astimezone(UTC if terminal.utc or at.tzinfo is None else None)
    except (ValueError, OverflowError, OSError):
        return None


def _zone(at: datetime) -> str:
    name = at.tzname() or ""
    # Windows has long names in the language of the system.
    return name if re.fullmatch("[A-Z]{3,5}", name) else f"UTC{at.isoformat()[-6:]}"


def silence(stream: TextIO) -> None:
    """Send what is still buffered for a closed pipe to the null device, or Python prints an error at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
