"""Owns the time column: cells of any form become numbers that order rows, and the form they came in is kept on request.

Taken are numbers of any unit, dates, and ISO 8601 dates with a time, as text or as typed columns. A column holds one
form: whole numbers may turn to fractions and seconds may get fractions at any row, but numbers, dates without a zone
and dates with a zone do not mix, because no rule would order them. The unit of a number is not needed to order rows;
two units in one column are refused, and `UNITS` says how they are told apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from training.trainer.data.csv_files import MISSING, first_fault
from training.trainer.faults import CellError, SpecError

FIRST_EPOCH_S, LAST_EPOCH_S = 946_684_800, 4_102_444_800
"""Begin of 2000 and of 2100: a number that lies between them in a unit is read as a time in that unit."""
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
"""Unit to how many of it make a second. The ranges of two units never overlap."""

_WHOLE, _FRACTION, _TEXT = pa.int64(), pa.float64(), pa.string()
_PLAIN = (pa.date32(), pa.timestamp("s"), pa.timestamp("ns"))
_ZONED = (pa.timestamp("s", "UTC"), pa.timestamp("ns", "UTC"))
_FAMILIES: tuple[tuple[pa.DataType, ...], ...] = ((_WHOLE, _FRACTION), _PLAIN, _ZONED)
"""Forms that may mix, the coarsest first."""
_SPELLINGS = (
    (r"^(\d{4}-\d\d-\d\d)t", r"\1T"),
    (r",(\d+)", r".\1"),
    (r" ?(?:UTC|z)$", "Z"),
    (r" ([+-]\d\d(?::?\d\d)?)$", r"\1"),
)
"""What others write in an ISO time, and how the parser wants it. Source: RFC 3339, section 5.6; ISO 8601, 4.2.2.4."""
_EXPECTED = "a number, or a date and time such as 2026-10-05T08:00:55.25+02:00"


class TimeForm:
    """The one form of a column of times, found batch by batch, over one file or several.

    Attributes:
        kind: Type that holds all times so far; None before the first.
    """

    def __init__(self, name: str) -> None:
        """Start with no time; `name` is that of the column."""
        self.kind: pa.DataType | None = None
        self._name = name
        self._sample = ""

    def typed(self, column: pa.Array, file: str, first_row: int) -> pa.Array:
        """Return the times of a batch in a type that `converted` turns into the last `kind`.

        Raises:
            SpecError: A cell is no time, or has another form than those before, naming file, row and column.
        """
        where = _Where(file, first_row, self._name)
        texts = plain_texts(column)
        typed = column if texts is None else self._parsed(texts, where)
        if typed.null_count < len(typed):
            self._join(typed, texts, where)
        return typed

    def _parsed(self, texts: pa.Array, where: _Where) -> pa.Array:
        trimmed = pc.utf8_trim_whitespace(texts)
        known = pc.if_else(pc.is_in(trimmed, value_set=pa.array(MISSING, _TEXT)), None, trimmed)
        typed = parsed(known, self.kind)
        if typed is not None:
            return typed
        index = first_fault(known, lambda part: parsed(part) is None)
        found = known[index].as_py()
        if found.lstrip("\ufeff") == self._name:
            raise where.fault(index, found, f"{_EXPECTED}; this row repeats the header: take it out")
        if parsed(known.slice(index, 1)) is None:
            raise where.fault(index, found, f"{_EXPECTED}; write the time so")
        raise where.mixed(index, found, self._sample or known.drop_null()[0].as_py())

    def _join(self, typed: pa.Array, texts: pa.Array | None, where: _Where) -> None:
        """Widen the kind to what a batch holds; the type of a column that is no text never changes."""
        index = pc.index(pc.is_valid(typed), True).as_py()
        found = "" if texts is None else texts[index].as_py()
        kind = typed.type if self.kind is None else common(self.kind, typed.type)
        if kind is None:
            raise where.mixed(index, found, self._sample)
        self.kind = kind
        self._sample = self._sample or found


class TimeColumn:
    """The time column of a file, gathered batch by batch."""

    def __init__(self, file: str, name: str, first_row: int, *, keep: bool = False) -> None:
        """Start with no row.

        Args:
            file: What messages call the file.
            name: Name of the column.
            first_row: Number of its first row, for messages.
            keep: Whether `given` will be asked for.
        """
        self._file, self._name, self._first_row, self._keep = file, name, first_row, keep
        self._form = TimeForm(name)
        self._rows = 0
        self._typed: list[pa.Array] = []
        self._texts: list[pa.Array] = []

    def add(self, column: pa.Array) -> None:
        """Take in the column of a batch.

        Raises:
            SpecError: A cell is no time, or has another form than those before, naming row and column.
        """
        self._typed.append(self._form.typed(column, self._file, self._first_row + self._rows))
        texts = plain_texts(column) if self._keep else None
        if texts is not None:
            self._texts.append(texts)
        self._rows += len(column)

    def column(self) -> pa.ChunkedArray:
        """Return all times in the one type that holds them; missing ones are null."""
        kind = self._form.kind or pa.null()
        return pa.chunked_array([converted(part, kind) for part in self._typed], kind)

    def given(self) -> pa.ChunkedArray:
        """Return the times as the file has them: text as it stands, but whole numbers as numbers."""
        if self._texts and self._form.kind != _WHOLE:
            return pa.chunked_array(self._texts, _TEXT)
        return self.column()

    def numbers(self) -> npt.NDArray[Any]:
        """Return (n_rows,) what orders the rows; all times must be there.

        Numbers stay as they are. Dates and timestamps become int64 microseconds since 1970, or nanoseconds where any
        of them has digits below the microsecond.

        Raises:
            SpecError: The column holds something other than times, or numbers of two units.
        """
        array = self.column()
        if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
            return self._instants(array)
        if pa.types.is_decimal(array.type):
            array = pc.cast(array, _FRACTION)
        if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
            raise SpecError(f"{self._file}: column {self._name!r} holds {array.type}, expected numbers or timestamps")
        found = np.asarray(array.to_numpy())
        self._refuse_two_units(found)
        return found

    def _instants(self, array: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        zone = getattr(array.type, "tz", None)
        for unit in ("us", "ns"):
            try:
                return np.asarray(pc.cast(pc.cast(array, pa.timestamp(unit, zone)), _WHOLE).to_numpy())
            except pa.ArrowInvalid:
                continue  # digits below the microsecond, or years that nanoseconds do not reach
        raise SpecError(
            f"{self._file}: column {self._name!r} holds dates outside of 1677 to 2262, expected dates that "
            "nanoseconds since 1970 can count; correct them"
        )

    def _refuse_two_units(self, found: npt.NDArray[Any]) -> None:
        units = [(found >= FIRST_EPOCH_S * by) & (found < LAST_EPOCH_S * by) for by in UNITS.values()]
        present = [number for number, mask in enumerate(units) if mask.any()]
        if len(present) < 2 or not np.logical_or.reduce(units).all():
            return
        which = np.select(units, range(len(units)))
        index = int(np.argmax(which != which[0]))
        names = list(UNITS)
        expected = f"{names[which[0]]} as in the rows before; write one unit in all rows"
        where = _Where(self._file, self._first_row, self._name)
        raise where.fault(index, f"{found[index]} ({names[which[index]]} since 1970)", expected)


@dataclass(frozen=True, slots=True)
class _Where:
    """A column of a batch, as messages name it."""

    file: str
    first_row: int
    name: str

    def fault(self, index: int, found: str, expected: str) -> SpecError:
        """Return the fault of one cell."""
        return CellError(f"{self.file}: row {self.first_row + index}", self.name, found, expected)

    def mixed(self, index: int, found: str, before: str) -> SpecError:
        """Return the fault of a cell in another form."""
        shown = repr(before)[:60]
        return self.fault(index, found, f"the form of the rows before, such as {shown}; write one form in all rows")


def parsed(texts: pa.Array, likely: pa.DataType | None = None) -> pa.Array | None:
    """Return times of text in the coarsest type that takes all of them, or None when there is none.

    Args:
        texts: The cells, without blanks around them; null is a missing one.
        likely: A type to try first.
    """
    for cells in _spellings(texts):
        for kind in [likely, *itertools.chain(*_FAMILIES)]:
            if kind is None:
                continue
            try:
                return pc.cast(cells, kind)
            except pa.ArrowInvalid:
                continue
    return None


def common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type that takes the times of both, or None for forms that do not mix."""
    if one == other:
        return one
    for family in _FAMILIES:
        if one in family and other in family:
            return family[max(family.index(one), family.index(other))]
    return None


def converted(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return times in a type that `common` gave for them; a whole number above 2^53 becomes the nearest fraction."""
    return pc.cast(array, kind, safe=array.type != _WHOLE)


def _spellings(texts: pa.Array) -> Iterable[pa.Array]:
    yield texts
    for pattern, by in _SPELLINGS:
        texts = pc.replace_substring_regex(texts, pattern, by)
    yield texts


def plain_texts(column: pa.Array) -> pa.Array | None:
    """Return a column of text as plain text; None when it is no text."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column if column.type == _TEXT else pc.cast(column, _TEXT)
    return None
