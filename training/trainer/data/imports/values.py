"""Owns the known values of text columns: gathered from a stream, within the limits of the contract, sorted."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from training.contracts.dataset import MAX_CATEGORY_LENGTH, MAX_CATEGORY_VALUES
from training.trainer.faults import SpecError


class KnownValues:
    """Distinct values per column of text; an empty cell is no value."""

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
