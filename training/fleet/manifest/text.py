"""From bytes to tables: the TOML of a manifest, with the lines of its jobs.

Owns decoding, the limits on size and number, and finding the line of a key. Guarantees the same tables as `tomllib`
gives for the whole text: the quick way below is taken only where each line stands for itself, anything else goes
through `tomllib` as a whole. With 100,000 jobs that is four times faster, because most lines repeat.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

from training.fleet.errors import Fault, ManifestError
from training.fleet.manifest.findings import invalid, short

MAX_MANIFEST_BYTES: Final = 32 * 2**20
MAX_JOBS: Final = 200_000

# The comment after a header holds no control character, as TOML demands: the quick way does not look at it again.
HEADER = re.compile(r"^[ \t]*\[\[[ \t]*jobs[ \t]*\]\][ \t]*(?:#[^\x00-\x08\x0a-\x1f\x7f]*)?$", re.MULTILINE)
_NUMBER = re.compile(r"[ \t]*([0-9A-Za-z_-]+)[ \t]*=[ \t]*(-?(?:0|[1-9][0-9]{0,17}))(\.[0-9]+)?[ \t]*")
_FLAT_TABLE = re.compile(r"""[ \t]*([0-9A-Za-z_-]+)[ \t]*=[ \t]*\{([^{}\[\]"'#]+)\}[ \t]*""")
_AT = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)

Pair = tuple[str, Any]
"""A key and its value."""


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
        return [(number, row) for number, row in rows if row.lstrip().startswith("[") and not HEADER.fullmatch(row)]

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
    """Read a manifest's TOML.

    Raises:
        ManifestError: Not text, not TOML, nested too deep, or with too many jobs.
    """
    text = read_text(data)
    starts = [match.start() for match in HEADER.finditer(text)]
    if len(starts) > MAX_JOBS:
        raise _refused("jobs", f"{len(starts)} jobs", f"at most {MAX_JOBS}", "split the work over several receivers")
    try:
        tables, jobs = _quick(text, starts)
    except NotPlainError:
        tables = _whole(text)
        jobs = tables.pop("jobs", [])
    told = isinstance(jobs, list) and len(jobs) == len(starts) and '"""' not in text and "'''" not in text
    return Document(text, tables, jobs, lines_of(text, starts) if told else ())


class NotPlainError(ValueError):
    """The text needs the whole parser."""


class Blocks:
    """Lines that were read before. One `key = value` on a line means the same wherever it stands."""

    def __init__(self) -> None:
        self._seen: dict[str, Pair | None] = {"": None}

    def block(self, body: str) -> dict[str, Any]:
        """Return the table of one job.

        Args:
            body: The text after its header line.

        Raises:
            NotPlainError: The text is not TOML, or holds more than one job.
        """
        try:
            return self._table(body.split("\n"))
        except NotPlainError:
            pass
        try:
            tables = tomllib.loads("[[jobs]]\n" + body)
        except (ValueError, RecursionError) as error:
            raise NotPlainError from error
        if len(tables) != 1 or len(tables["jobs"]) != 1:
            raise NotPlainError
        table: dict[str, Any] = tables["jobs"][0]
        return table

    def _table(self, lines: Sequence[str]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        seen = self._seen
        for line in lines:
            try:
                pair = seen[line]
            except KeyError:
                pair = seen[line] = self._pair(line)
            if pair is not None:
                if pair[0] in table:
                    raise NotPlainError
                table[pair[0]] = pair[1]
        return table

    def _pair(self, line: str) -> Pair | None:
        number = _NUMBER.fullmatch(line)
        if number:
            return number[1], float(number[2] + number[3]) if number[3] else int(number[2])
        flat = _FLAT_TABLE.fullmatch(line)
        if flat:
            parts = flat[2].split(",")
            if all(part.strip() for part in parts):
                return flat[1], self._table(parts)
        return _pair(line)


def _pair(line: str) -> Pair | None:
    if line.lstrip(" \t").startswith("["):
        raise NotPlainError
    try:
        table = tomllib.loads(line)
    except (ValueError, RecursionError) as error:
        raise NotPlainError from error
    return next(iter(table.items()), None)


def _quick(text: str, starts: Sequence[int]) -> tuple[dict[str, Any], list[Any]]:
    """Read the text before the first job, then job by job.

    Sound by induction: each piece is complete TOML by itself, so the next header really is one.
    """
    if not starts:
        raise NotPlainError
    try:
        tables = tomllib.loads(text[: starts[0]])
    except (ValueError, RecursionError) as error:
        raise NotPlainError from error
    if "jobs" in tables:
        raise NotPlainError
    reader = Blocks()
    ends = [*starts[1:], len(text)]
    return tables, [reader.block(body_of(text, start, end)) for start, end in zip(starts, ends, strict=True)]


def body_of(text: str, start: int, end: int) -> str:
    """Return the text of one job without its header line."""
    head = text.find("\n", start, end)
    return "" if head < 0 else text[head + 1 : end]


def lines_of(text: str, starts: Sequence[int]) -> list[int]:
    """Return the line of each offset; the offsets rise."""
    lines, line, last = [], 1, 0
    for start in starts:
        line += text.count("\n", last, start)
        last = start
        lines.append(line)
    return lines


def _whole(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax(text, str(error)) from None
    except RecursionError:
        raise _refused("the file", "tables or lists nested too deep", "at most 8 levels", "flatten them") from None
    except ValueError as error:
        # An integer of thousands of digits passes TOML's grammar and fails Python's own limit.
        raise _refused("the file", str(error), "numbers below 2^53", "") from None


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
