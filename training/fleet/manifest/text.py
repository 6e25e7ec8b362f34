"""From bytes to tables: the TOML of a manifest, with the lines of its jobs.

Owns decoding, the limits on size, number and depth, and finding the line of a key. There are two readers: Python's
own, which decides what is TOML, and rtoml, which reads 100,000 jobs six times faster. Guarantees that a manifest
without faults is the same from both; with a fault it is read again by Python's own, so that what people are told does
not depend on what is installed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

from training.fleet.manifest.findings import invalid, short
from training.fleet.model.errors import Fault, ManifestError
from training.fleet.model.jobs import MAX_MANIFEST_BYTES

MAX_JOBS: Final = 200_000

MAX_KEY_PARTS: Final = 16
"""Parts of a dotted key. The reader's memory grows with their square: a key of 100,000 parts would take 40 GB."""

_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*jobs[ \t]*\]\][ \t]*(?:#.*)?$", re.MULTILINE)
_AT = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_PART = r"""\.[ \t]*+(?:[0-9A-Za-z_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+"""
# Its first part stands outside the group, because a search for a pattern that begins with a letter is 25 times faster.
_LONG_KEY = re.compile(rf"{_PART}(?:{_PART}){{{MAX_KEY_PARTS - 1}}}")

# In these two, and in inline tables over several lines or with a comma at their end, rtoml takes TOML 1.1: a valid text
# of 1.0 it reads alike. Texts over several lines count too: without them, each line says by itself where a text in it
# begins and ends.
_DOUBTFUL = ("\\", '"""', "'''")
_WITH_BRACES = re.compile(r"^.*[{}].*$", re.MULTILINE)
_CLOSED = re.compile(r"""(?:[^{}"'#]|"[^"]*+"|'[^']*+'|\{(?:[^{}"'#]|"[^"]*+"|'[^']*+')*+\})*+(?:\#.*)?""")
_COMMA_AT_END = re.compile(r",[ \t]*\}")


class Document:
    """A manifest as tables, unchecked.

    Attributes:
        tables: Everything but the jobs.
        jobs: The `[[jobs]]` tables; whatever else stands under that name.
        lines: Line of each job's header, empty when they cannot be told from the text alone.
    """

    def __init__(self, text: str, tables: dict[str, Any], jobs: Any, lines: Sequence[int]) -> None:
        self._text = text
        self.tables = tables
        self.jobs = jobs
        self.lines = lines

    @cached_property
    def _rows(self) -> list[str]:
        return self._text.split("\n")

    def line(self, position: int, key: str = "") -> int | None:
        """Return the line of a key of a job, else of its header, None when unknown.

        Args:
            position: The job, the first is 1.
            key: A key of the job, "hyper.max_iter" for one of its hyper-parameters; empty for the header.
        """
        if not 0 < position <= len(self.lines):
            return None
        first = self.lines[position - 1]
        last = self.lines[position] - 1 if position < len(self.lines) else len(self._rows)
        table, _, inner = key.partition(".")
        return self._find(inner, first, last) or self._find(table, first, last) or first

    def table_line(self, table: str, key: str = "") -> int | None:
        """Return the line of a key of a table, else of its header, None when it is written another way.

        Args:
            table: "hosts.pi"; empty for the top of the file.
            key: A key of the table, empty for the header.
        """
        own = self._header(f"{table}.{key}") if table and key else None
        start = self._header(table) or 0
        end = next((at for at in range(start, len(self._rows)) if self._rows[at].lstrip().startswith("[")), None)
        inside = (
            self._find(key, start, end or len(self._rows))
            if start or not table
            else self._find(table, 0, end or len(self._rows))
        )
        return own or inside or start or None

    @cached_property
    def _headers(self) -> list[tuple[int, str]]:
        rows = enumerate(self._rows, 1)
        return [(number, row) for number, row in rows if row.lstrip().startswith("[") and not _HEADER.fullmatch(row)]

    def _header(self, table: str) -> int | None:
        header = re.compile(rf"\s*\[{_loose(table)}\]\s*(#.*)?")
        return next((number for number, row in self._headers if header.fullmatch(row)), None)

    def _find(self, key: str, start: int, end: int) -> int | None:
        """Return the line between two others that sets a key or opens a table of that name."""
        if not key:
            return None
        wanted = re.compile(rf"""\s*(?:\[+\s*[\w.-]*\.)?["']?{re.escape(key)}["']?\s*[=.\]].*""")
        return next((at + 1 for at in range(start, end) if wanted.fullmatch(self._rows[at])), None)


def read_text(data: bytes) -> str:
    """Decode a manifest.

    Raises:
        ManifestError: Too large, not UTF-8, or with a byte-order mark.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise too_large(len(data))
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"the byte 0x{data[error.start]:02x} at offset {error.start}"
        raise _refused(f"line {line}", found, "UTF-8 text", "save the file as UTF-8") from None
    if text.startswith("\ufeff"):
        raise _refused("line 1", "a byte-order mark", "UTF-8 without one", "save the file as UTF-8 without BOM")
    return text.replace("\r\n", "\n")


def too_large(size_bytes: int) -> ManifestError:
    """Return the error for a file over the size limit."""
    limit = f"at most {MAX_MANIFEST_BYTES} bytes"
    return _refused("the file", f"{size_bytes} bytes", limit, "split the work over several receivers")


def read_document(data: bytes) -> Document:
    """Read a manifest's TOML with Python's own reader, whose words say where a text is wrong.

    Raises:
        ManifestError: Not text, not TOML, nested too deep, or with too many jobs.
    """
    text = read_text(data)
    starts = _starts(text)
    if len(starts) > MAX_JOBS:
        raise _refused("jobs", f"{len(starts)} jobs", f"at most {MAX_JOBS}", "split the work over several receivers")
    long_key = _LONG_KEY.search(text)
    if long_key:
        raise _too_deep(f"line {text.count(chr(10), 0, long_key.start()) + 1}")
    try:
        return _document(text, starts, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise _syntax(text, str(error)) from None
    except RecursionError:
        raise _too_deep("the file") from None
    except ValueError as error:
        # An integer of thousands of digits passes TOML's grammar and fails Python's own limit.
        raise _refused("the file", str(error), "numbers below 2^53", "") from None


def read_quickly(data: bytes) -> Document | None:
    """Read a manifest's TOML with rtoml.

    Returns:
        What `read_document` returns, except that dates are of other types, that times may lack seconds, and that keys
        may stand in another order: nothing of this can be in a manifest without faults, or matters there. None when
        rtoml is absent or refuses the text, or when the text holds something that it takes and Python does not.
    """
    try:
        # Here, because the receiver imports this module and never reads TOML itself: it would keep the memory.
        import rtoml

        text = read_text(data)
        starts = _starts(text)
        if len(starts) > MAX_JOBS or _is_doubtful(text):
            return None
        return _document(text, starts, rtoml.loads(text))
    except (ImportError, ValueError, ManifestError):
        return None


def _is_doubtful(text: str) -> bool:
    if any(sign in text for sign in _DOUBTFUL):
        return True
    lines = set(_WITH_BRACES.findall(text))
    return any(_COMMA_AT_END.search(line) or not _CLOSED.fullmatch(line) for line in lines)


def _starts(text: str) -> list[int]:
    return [match.start() for match in _HEADER.finditer(text)]


def _document(text: str, starts: Sequence[int], tables: dict[str, Any]) -> Document:
    jobs = tables.pop("jobs", [])
    # Else some line that looks like a header stands within a text, or some job was written another way.
    told = isinstance(jobs, list) and len(jobs) == len(starts) and '"""' not in text and "'''" not in text
    return Document(text, tables, jobs, _lines_of(text, starts) if told else ())


def _lines_of(text: str, starts: Sequence[int]) -> list[int]:
    """Return the line of each offset; the offsets rise."""
    lines, line, last = [], 1, 0
    for start in starts:
        line += text.count("\n", last, start)
        last = start
        lines.append(line)
    return lines


def _too_deep(place: str) -> ManifestError:
    return _refused(place, "tables or lists nested too deep", "at most 8 levels", "flatten them")


def _syntax(text: str, message: str) -> ManifestError:
    at = _AT.fullmatch(message)
    what = at[1] if at else message
    lines = text.split("\n")
    number = int(at[2]) if at and at[2] else len(lines)
    place = f"line {number}, column {at[3]}" if at and at[2] else f"the end of the file (line {number})"
    found = short(lines[number - 1].strip()[:200]) if 0 < number <= len(lines) else "nothing"
    return _refused(place, found, f"valid TOML ({what.lower()})", "is the file whole?" if not (at and at[2]) else "")


def _refused(place: str, found: str, expected: str, remedy: str) -> ManifestError:
    return invalid((Fault(place, found, expected, remedy),))


def _loose(table: str) -> str:
    return r"\s*\.\s*".join(rf"""["']?{re.escape(part)}["']?""" for part in table.split(".", 1))
