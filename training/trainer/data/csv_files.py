"""Owns reading CSV files: batches with declared types, and faults that name file, row and column.

A file is streamed block by block and never held whole. Rows are counted from 1, the header included, blank lines not.
Text is UTF-8. Where a column is declared as a number, an empty cell is a missing value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from training.trainer.faults import HostError, SpecError

BLOCK_BYTES = 4 << 20
_CONVERSION = re.compile(
    r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to ([^:]+): (?:invalid value '(.*)'|(.*))", re.DOTALL
)
_WIDTH = re.compile(r"CSV parse error: (?:Row #(\d+): )?Expected (\d+) columns, got (\d+)")
_KINDS = {"double": "a number", "float": "a number", "string": "text in UTF-8"}


def csv_names(path: Path) -> list[str]:
    """Return the column names in the header of a CSV file.

    Raises:
        SpecError: The file is empty or no CSV.
        HostError: It can't be read here.
    """
    try:
        with pacsv.open_csv(path, read_options=pacsv.ReadOptions(use_threads=False)) as reader:
            return list(reader.schema.names)
    except OSError as fault:
        raise unreadable(path, fault) from fault
    except pa.ArrowInvalid as fault:
        raise csv_fault(path.name, [], fault) from fault


def csv_batches(
    path: Path,
    types: Mapping[str, pa.DataType | None],
    names: Sequence[str] | None = None,
    shown: str | None = None,
) -> Iterator[pa.RecordBatch]:
    """Stream columns of a CSV file.

    Args:
        path: The file.
        types: Column to type, in the order wanted; None lets the first block decide.
        names: All column names of a file without a header; None reads the header.
        shown: What messages call the file; None takes its name.

    Yields:
        Batches of at most a few MiB of text.

    Raises:
        SpecError: A cell or a row does not fit, naming row and column.
        HostError: The file can't be read here.
    """
    reading = pacsv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, column_names=names)
    declared = {name: kind for name, kind in types.items() if kind is not None}
    converting = pacsv.ConvertOptions(include_columns=list(types), column_types=declared)
    try:
        header = names if names is not None else csv_names(path)
        with pacsv.open_csv(path, read_options=reading, convert_options=converting) as reader:
            yield from reader
    except OSError as fault:
        raise unreadable(path, fault) from fault
    except pa.ArrowInvalid as fault:
        raise csv_fault(shown or path.name, header, fault) from fault


def csv_fault(file: str, names: Sequence[str], fault: Exception) -> SpecError:
    """Turn a fault of the CSV reader into one that names file, row, column, what was found and what was expected."""
    text = str(fault)
    cell = _CONVERSION.search(text)
    if cell:
        index, row, kind, value, reason = cell.groups()
        name = names[int(index)] if int(index) < len(names) else f"number {int(index) + 1}"
        found = repr(value)[:200] if value is not None else reason
        where = f"row {row}, column {name!r}" if row else f"column {name!r}"
        return SpecError(f"{file}: {where}: found {found}, expected {_KINDS.get(kind, kind)}")
    width = _WIDTH.search(text)
    if width:
        row, wanted, got = width.groups()
        return SpecError(f"{file}: row {row or '?'}: found {got} columns, expected {wanted}")
    return SpecError(f"{file} is not a readable csv file: {text}; write it again")


def unreadable(path: Path, fault: OSError) -> HostError:
    """Return the fault of a file that can't be read on this host."""
    return HostError(f"{path.name} can't be read: {fault}; check that the file is whole, its path and its rights")
