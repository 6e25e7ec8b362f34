"""Owns reading CSV files: batches with declared types, and faults that name file, row and column.

A file is streamed block by block and never held whole. Text is UTF-8, with or without a byte-order mark, or UTF-16 with
one; lines end as any system ends them. Rows are counted from 1, the header included, blank lines not. Blanks around a
number do not count, and a cell of blanks or of a word such as N/A is a missing number.
"""

from __future__ import annotations

import bisect
import codecs
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from training.trainer.faults import CellError, HostError, SpecError

BLOCK_BYTES = 4 << 20
"""Text parsed at a time; a row must fit in."""
MISSING = (
    "", "-", "--", "?", "N/A", "n/a", "NA", "#N/A", "#NA", "NaN", "nan", "NAN", "-nan", "-NaN",
    "NULL", "Null", "null", "None", "none", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN",
)  # fmt: skip
"""Cells that stand for a number that is not known, as sysstat, typeperf, R, pandas and databases write them."""
_TAIL_BYTES = 1 << 16
_WIDTH = re.compile(r"CSV parse error: (?:Row #(\d+): )?Expected (\d+) columns, got (\d+)(.*)", re.DOTALL)
_TEXT = pa.string()
_HEADER_BYTES = 1 << 16
_SEPARATORS = {b";": "semicolons", b"\t": "tabs", b"|": "bars"}


def csv_names(path: Path) -> list[str]:
    """Return the column names in the header of a CSV file.

    Raises:
        SpecError: The file is empty or not CSV.
        HostError: It can't be read here.
    """
    rows = _Rows(path.name)
    with _faults(path, rows):
        _check_header(path)
        with _stream(path) as stream, _reader(stream) as reader:
            return list(reader.schema.names)


def csv_batches(
    path: Path, types: Mapping[str, pa.DataType], names: Sequence[str] | None = None, shown: str | None = None
) -> Iterator[pa.RecordBatch]:
    """Stream columns of a CSV file.

    Args:
        path: The file.
        types: Column to type, text or a number, in the order wanted.
        names: All column names of a file without a header; None reads the header.
        shown: What messages call the file; None takes its name.

    Yields:
        Batches of at most a few MiB of text.

    Raises:
        SpecError: A cell or a row does not fit, naming row and column.
        HostError: The file can't be read here.
    """
    rows = _Rows(shown or path.name, 1 if names is not None else 2)
    header = list(names) if names is not None else csv_names(path)
    with _faults(path, rows):
        _refuse_open_quote(path, rows.file)
        # Bytes, because a fault in the text must name its row: the reader itself would name the column at most.
        converting = pacsv.ConvertOptions(include_columns=list(types), column_types=dict.fromkeys(header, pa.binary()))
        with _stream(path) as stream, _reader(stream, names, converting) as reader:
            for batch in reader:
                columns = [_typed(rows, name, batch.column(name), kind) for name, kind in types.items()]
                rows.first += batch.num_rows
                yield pa.RecordBatch.from_arrays(columns, names=list(types))


def first_fault(column: pa.Array, fails: Callable[[pa.Array], bool]) -> int:
    """Return the number of the first cell that makes a conversion of the column fail, by halves: few tries are slow."""
    return bisect.bisect_left(range(1, len(column)), True, key=lambda count: fails(column.slice(0, count)))


def unreadable(path: Path, fault: OSError) -> HostError:
    """Return the fault of a file that can't be read on this host."""
    if isinstance(fault, FileNotFoundError):
        return HostError(f"{path.name} does not exist; check the path")
    if isinstance(fault, PermissionError):
        return HostError(f"{path.name} can't be read by this account; give it the right to read the file")
    if isinstance(fault, IsADirectoryError) or path.is_dir():
        return HostError(f"{path.name} is a folder, expected a file; name the file in it")
    return HostError(f"{path.name} can't be read: {fault}; check that the file is whole, its path and its rights")


class _Rows:
    """Where a reading stands, for messages."""

    def __init__(self, file: str, first: int = 2) -> None:
        self.file = file
        self.first = first
        """Number of the first row of the batch at hand."""

    def fault(self, error: pa.ArrowInvalid) -> SpecError:
        """Return the fault behind an error of the reader, which names row and columns in its text alone.

        Its handler of rows with another number of columns would get the numbers, but it can't take a row that is not
        UTF-8 and then writes a traceback.
        """
        found = _WIDTH.search(str(error))
        if found is None:
            return SpecError(f"{self.file} is not a readable csv file: {ascii(str(error))[1:-1]}; write it again")
        row, wanted, got, text = found.groups()
        if "\0" in text:
            return SpecError(f"{self.file}: row {row or '?'}: found NUL bytes, expected text; {_CUT_OFF}")
        return SpecError(
            f"{self.file}: row {row or '?'}: found {got} columns, expected {wanted}; "
            f"{_CUT_OFF}, or put quotes around a cell that holds commas"
        )

    def cell(self, index: int, name: str, found: str | bytes, expected: str) -> CellError:
        """Return the fault of one cell of the batch at hand."""
        return CellError(f"{self.file}: row {self.first + index}", name, found, expected)


_CUT_OFF = "take the row out if the recorder stopped in it"


def _reader(
    stream: pa.NativeFile,
    names: Sequence[str] | None = None,
    converting: pacsv.ConvertOptions | None = None,
) -> pacsv.CSVStreamingReader:
    reading = pacsv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, column_names=names)
    return pacsv.open_csv(stream, reading, convert_options=converting)


def _stream(path: Path) -> pa.NativeFile:
    """Open a file as UTF-8, which UTF-16 with a byte-order mark becomes; the reader takes the mark of UTF-8 off."""
    with path.open("rb") as file:
        begin = file.read(2)
    stream = pa.OSFile(str(path))
    if begin in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return pa.transcoding_input_stream(stream, "utf-16", "utf-8")
    return stream


@contextmanager
def _faults(path: Path, rows: _Rows) -> Iterator[None]:
    """Turn the errors of the reader into those of the trainer."""
    try:
        yield
    except UnicodeError as fault:
        raise SpecError(
            f"{rows.file}: found bytes that are no text ({fault}), expected UTF-8; save it as UTF-8"
        ) from fault
    except OSError as fault:
        raise unreadable(path, fault) from fault
    except pa.ArrowInvalid as fault:
        raise rows.fault(fault) from fault


def _check_header(path: Path) -> None:
    """Refuse a header of another format: the reader would report what that does to a later row."""
    with _stream(path) as stream:
        header = stream.read(_HEADER_BYTES).replace(b"\r", b"\n").lstrip(b"\n").partition(b"\n")[0]
    if b"\0" in header:
        raise SpecError(
            f"{path.name}: found NUL bytes in the header, expected text; it looks like UTF-16 without a byte-order "
            "mark: save it as UTF-8"
        )
    found = [word for sign, word in _SEPARATORS.items() if b"," not in header and sign in header]
    if found:
        raise SpecError(
            f"{path.name}: found columns between {found[0]}, expected commas; "
            "write commas between the columns and points in the numbers"
        )


def _refuse_open_quote(path: Path, file: str) -> None:
    """Refuse a file that was cut off within quotes: the reader would take what stands there for the whole cell."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _TAIL_BYTES))
        tail = stream.read().replace(b"\0", b"").rstrip(b"\r\n")  # in UTF-16 half of the bytes of plain text are 0
    cell = tail[max(tail.rfind(b","), tail.rfind(b"\n"), tail.rfind(b"\r")) + 1 :].lstrip()
    if cell.startswith(b'"') and cell.count(b'"') % 2:
        raise SpecError(f"{file}: found a quote in the last row that is never closed; {_CUT_OFF}")


def _typed(rows: _Rows, name: str, column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Turn the bytes of a column into text or numbers."""
    text = _decoded(rows, name, column)
    if kind == _TEXT:
        return text
    trimmed = pc.utf8_trim_whitespace(text)
    known = pc.if_else(pc.is_in(trimmed, value_set=pa.array(MISSING, _TEXT)), None, trimmed)
    try:
        return pc.cast(known, kind)
    except pa.ArrowInvalid as fault:
        index = first_fault(known, lambda part: _fails(part, kind))
        raise rows.cell(index, name, text[index].as_py(), _expected(name, trimmed[index].as_py())) from fault


def _decoded(rows: _Rows, name: str, column: pa.Array) -> pa.Array:
    try:
        text = pc.cast(column, _TEXT)
    except pa.ArrowInvalid as fault:
        index = first_fault(column, lambda part: _fails(part, _TEXT))
        raise rows.cell(index, name, column[index].as_py(), "text in UTF-8; save the file as UTF-8") from fault
    # A NUL is no part of any text: it comes from a disk that lost its last blocks, and numpy would drop it.
    if b"\0" in memoryview(text.buffers()[2] or b"").tobytes():
        holds = pc.match_substring(text, "\0")
        if pc.any(holds).as_py():
            index = pc.index(holds, True).as_py()
            raise rows.cell(index, name, text[index].as_py(), f"text without NUL bytes; {_CUT_OFF}")
    return text


def _fails(part: pa.Array, kind: pa.DataType) -> bool:
    try:
        pc.cast(part, kind)
    except pa.ArrowInvalid:
        return True
    return False


def _expected(name: str, found: str) -> str:
    """Say what was expected instead of a text, with the fix where the text gives the cause away."""
    if found.lstrip("\ufeff") == name:
        return "a number; this row repeats the header: take it out"
    if "," in found and found.replace(",", "").lstrip("+-").replace(".", "").isdecimal():
        return "a number; write it with a point before its fraction and without commas"
    return "a number"
