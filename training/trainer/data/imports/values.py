"""Owns the values of columns of text, gathered from a stream: those of inputs, and those of a label with counts."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from training.contracts.dataset import MAX_CATEGORY_LENGTH, MAX_CATEGORY_VALUES
from training.trainer.faults import SpecError

MAX_LABELS = 1000
"""Values of a label that are counted; a column with more is no label."""
SHOWN_LABELS = 10


class KnownValues:
    """Distinct values per column of text; an empty cell does not count as a value."""

    def __init__(self, file: str, columns: Sequence[str]) -> None:
        self._file = file
        self._values: dict[str, set[str]] = {column: set() for column in columns}

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in the rows of a batch.

        Raises:
            SpecError: A column holds more or longer values than the contract allows.
        """
        for column, values in self._values.items():
            values.update(pc.unique(batch.column(column)).to_pylist())
            values.discard("")
            if len(values) > MAX_CATEGORY_VALUES:
                raise self._fault(column, f"more than {MAX_CATEGORY_VALUES} values", f"at most {MAX_CATEGORY_VALUES}")
            longest = max(values, key=len, default="")
            if len(longest) > MAX_CATEGORY_LENGTH:
                raise self._fault(
                    column, f"a value of {len(longest)} characters", f"at most {MAX_CATEGORY_LENGTH} characters"
                )

    def sorted(self) -> dict[str, tuple[str, ...]]:
        """Return the values of every column.

        Raises:
            SpecError: A column has none.
        """
        for column, values in self._values.items():
            if not values:
                raise self._fault(column, "no value in any training row", "at least one")
        return {column: tuple(sorted(values)) for column, values in self._values.items()}

    def _fault(self, column: str, found: str, expected: str) -> SpecError:
        return SpecError(
            f"{self._file}: column {column!r}: found {found}, expected {expected} for an input of text; "
            "leave the column out of the inputs"
        )


class LabelCounts:
    """How many rows hold each value of the label, so that a refusal can list what there is."""

    def __init__(self, file: str, column: str) -> None:
        self._file, self._column = file, column
        self._counts: collections.Counter[str] = collections.Counter()

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in the rows of a batch.

        Raises:
            SpecError: The column holds so many values that it is no label.
        """
        for entry in pc.value_counts(batch.column(self._column)).to_pylist():
            self._counts[entry["values"]] += entry["counts"]
        if len(self._counts) > MAX_LABELS:
            raise self._fault(f"more than {MAX_LABELS} values, such as {self._shown()}", "a label; name another column")

    def check(self, positive: Sequence[str]) -> None:
        """Refuse labels that do not tell both classes apart.

        Args:
            positive: Values that mean anomalous; empty when the label is 0 and 1.

        Raises:
            SpecError: Naming the values that were found and how many rows hold each.
        """
        if not self._counts:
            return  # a file without rows is refused where it is written
        if self._counts[""]:
            empty = self._counts[""]
            raise self._fault(f"an empty cell in {empty} rows", "a label in every row; take the others out")
        if not positive and not set(self._counts) <= {"0", "1"}:
            raise self._fault(
                self._shown(), "0 or 1; name the values that mean anomalous with --positive, separated by commas"
            )
        hits = sum(self._counts[value] for value in positive or ("1",))
        rows = self._counts.total()
        if hits in (0, rows):
            raise SpecError(
                f"{self._file}: found {hits} anomalous of {rows} rows, expected both classes; "
                f"check which values mean anomalous: column {self._column!r} holds {self._shown()}"
            )

    def _shown(self) -> str:
        found = [f"{repr(value)[:60]} ({count} rows)" for value, count in self._counts.most_common(SHOWN_LABELS)]
        more = len(self._counts) - len(found)
        return ", ".join(found) + (f" and {more} more" if more > 0 else "")

    def _fault(self, found: str, expected: str) -> SpecError:
        return SpecError(f"{self._file}: column {self._column!r}: found {found}, expected {expected}")
