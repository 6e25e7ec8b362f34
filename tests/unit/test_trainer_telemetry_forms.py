"""Claims about telemetry as tools write it: each form is read rightly, or refused with row, column and fix."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.trainer.data import csv_files
from training.trainer.data.csv_files import MISSING
from training.trainer.data.telemetry import Columns, Telemetry, read_rows
from training.trainer.faults import HostError, SpecError

WANTED = Columns(("x",), "host", "t", keep_time=True)
START = 1_700_000_000
NS = START * 10**9


def csv_file(folder: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    path = folder / "rows.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def times(folder: Path, *cells: str) -> Telemetry:
    """Read rows of one host with these times, whose x is their place."""
    return read_rows(csv_file(folder, "host,t,x\n" + "".join(f'a,"{t}",{i}\n' for i, t in enumerate(cells))), WANTED)


def refused(folder: Path, content: str | bytes, wanted: Columns = WANTED) -> str:
    with pytest.raises(SpecError) as caught:
        read_rows(csv_file(folder, content), wanted)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("cells", "order", "numbers"),
    [
        (["3", "1", "2"], [1, 2, 0], [1, 2, 3]),
        (["1700000000000000002", "1700000000000000001"], [1, 0], [1700000000000000001, 1700000000000000002]),
        ([" 9007199254740994", "9007199254740993 "], [1, 0], [9007199254740993, 9007199254740994]),
        (["-5", "-7"], [1, 0], [-7, -5]),
        (["1700000001", "1700000000.25"], [1, 0], [1700000000.25, 1700000001.0]),
        (["1.7e9", "1699999999"], [1, 0], [1699999999.0, 1700000000.0]),
        (["2023-11-14", "2023-11-13"], [1, 0], [1699833600000000, 1699920000000000]),
        (["2023-11-14T22:13:20", "2023-11-14 22:13"], [1, 0], [1699999980000000, 1700000000000000]),
        (["2023-11-14T22:13:20.5", "2023-11-14T22:13:20"], [1, 0], [1700000000000000, 1700000000500000]),
        (
            ["2023-11-14 22:13:20.123456789", "2023-11-14 22:13:20.1"],
            [1, 0],
            [1700000000100000000, 1700000000123456789],
        ),
        (["2023-11-14T23:13:20+01:00", "2023-11-14T22:13:19Z"], [1, 0], [1699999999000000, 1700000000000000]),
        (["2023-11-14 22:13:20 UTC", "2023-11-14t22:13:19z"], [1, 0], [1699999999000000, 1700000000000000]),
        (["2023-11-14 20:43:20.5 -0130", "2023-11-14 23:13:20+01"], [1, 0], [1700000000000000, 1700000000500000]),
        (["2023-11-14 22:13:20,250", "2023-11-14 22:13:20,125"], [1, 0], [1700000000125000, 1700000000250000]),
        (["9999-12-31", "9999-12-30"], [1, 0], [253402128000000000, 253402214400000000]),
    ],
)
def test_times_of_every_form_order_the_rows(
    tmp_path: Path, cells: list[str], order: list[int], numbers: list[float]
) -> None:
    found = times(tmp_path, *cells)
    assert (found.values[:, 0].tolist(), found.time.tolist()) == (order, numbers)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            ["2023-11-14", "noon"],
            "row 3, column 't': found 'noon', expected a number, or a date and time such as 2026-",
        ),
        (
            ["11/14/2023 22:13:20.000"],
            "row 2, column 't': found '11/14/2023 22:13:20.000', expected a number, or a dat",
        ),
        (["2023-11-14", "2023-11-31"], "row 3, column 't': found '2023-11-31', expected a number, or a date and time"),
        (
            ["2023-11-14T22:13:20", "1700000000"],
            "row 3, column 't': found '1700000000', expected the form of the rows before, such as '2023-11-14T22:13:20'"
            "; write one form in all rows",
        ),
        (["1", "2", "2023-11-14"], "row 4, column 't': found '2023-11-14', expected the form of the rows before, such"),
        (
            ["2023-11-14T22:13:20", "2023-11-14T22:13:21Z"],
            "row 3, column 't': found '2023-11-14T22:13:21Z', expected the form of the rows before, such as '2023-11-1",
        ),
        (
            ["1700000000", "1700000001", "1700000002000"],
            "row 4, column 't': found '1700000002000 (milliseconds since 1970)', expected seconds as in the rows before"
            "; write one unit in all rows",
        ),
        (
            ["1700000000000000", "1700000000.5"],
            "row 3, column 't': found '1700000000.5 (seconds since 1970)', expected mi",
        ),
        (
            ["t"],
            "row 2, column 't': found 't', expected a number, or a date and time such as 2026-10-05T08:00:55.25+02",
        ),
        (["1", "t"], "this row repeats the header: take it out"),
        (["1", " ", "2"], "rows.csv: row 3, column 't' of host 'a' is empty (1 rows in all), expected a time in every"),
        (["1", "N/A"], "row 3, column 't' of host 'a' is empty (1 rows in all), expected a time in every row"),
        (["5", "6", "5"], "host 'a' has more than one row at 5 (rows 2 and 4; 1 repeats in all)"),
        (
            ["1700000000.1234567", "1700000000.12345671"],
            "remove the repeats; times that close need whole numbers, such as nanoseconds",
        ),
        (["9999-12-31 00:00:00", "2023-11-14 22:13:20.5"], "row 3, column 't'"),
    ],
)
def test_times_that_do_not_fit_are_refused_with_row_and_fix(tmp_path: Path, cells: list[str], message: str) -> None:
    assert message in refused(tmp_path, "host,t,x\n" + "".join(f'a,"{t}",{i}\n' for i, t in enumerate(cells)))


def test_a_counter_that_passes_the_numbers_of_other_units_is_no_change_of_unit(tmp_path: Path) -> None:
    """Microseconds since the start pass what would be seconds, and after 12 days what would be milliseconds."""
    cells = [str(1_000_000_000 + 50_000_000_000 * step) for step in range(21)]
    assert times(tmp_path, *cells).time.tolist() == [int(cell) for cell in cells]


def test_a_fraction_or_another_form_may_come_after_the_first_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 256)
    stamps = [datetime.datetime(2024, 1, 1) + datetime.timedelta(seconds=i) for i in range(200)]
    cells = [stamp.isoformat() for stamp in stamps]
    assert times(tmp_path, *cells, "2024-01-01T00:03:20.25").time[-1] == 1704067400250000
    assert times(tmp_path, *map(str, range(200)), "200.25").time[-1] == 200.25
    message = refused(tmp_path, "host,t,x\n" + "".join(f"a,{cell},1\n" for cell in cells) + "a,1704067400,1\n")
    assert (
        "row 202, column 't': found '1704067400', expected the form of the rows before, such as '2024-01-01T" in message
    )
    assert "row 202, column 'x': found 'oops', expected a number" in refused(
        tmp_path, "host,t,x\n" + "".join(f"a,{cell},1\n" for cell in cells) + "a,2025-01-01,oops\n"
    )


def test_whole_numbers_too_close_for_fractions_are_refused_when_a_fraction_comes_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 256)
    cells = [*(str(NS + i) for i in range(50)), f"{NS + 10**6}.5"]
    message = refused(tmp_path, "host,t,x\n" + "".join(f"a,{cell},1\n" for cell in cells))
    assert "remove the repeats; times that close need whole numbers" in message


@pytest.mark.parametrize(
    ("column", "numbers"),
    [
        (pa.array([NS + 2, NS + 1]), [NS + 1, NS + 2]),
        (pa.array([2_001, 1], pa.timestamp("ns")), [1, 2_001]),
        (pa.array([2_000, 1_000], pa.timestamp("ns")), [1, 2]),
        (pa.array([2, 1], pa.timestamp("ms", "Europe/Berlin")), [1_000, 2_000]),
        (pa.array([86_400_000, 0], pa.date64()), [0, 86_400_000_000]),
        (pa.array([Decimal("2.5"), Decimal("1.25")]), [1.25, 2.5]),
        (pa.array([2, 1], pa.uint64()), [1, 2]),
        (pa.array(["2", "1.5"]), [1.5, 2.0]),
        (pa.array([str(NS + 2), str(NS + 1)], pa.large_string()), [NS + 1, NS + 2]),
        (pa.array(["2023-11-14 22:13", "2023-11-14 22:12"]).dictionary_encode(), [1699999920000000, 1699999980000000]),
    ],
)  # fmt: skip
def test_times_of_every_type_in_parquet_order_the_rows(tmp_path: Path, column: pa.Array, numbers: list[float]) -> None:
    pq.write_table(pa.table({"host": ["a", "a"], "t": column, "x": [0, 1]}), tmp_path / "rows.parquet")
    found = read_rows(tmp_path / "rows.parquet", WANTED)
    assert (found.values[:, 0].tolist(), found.time.tolist()) == ([1.0, 0.0], numbers)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1, 2], pa.time64("us")), "column 't' holds time64[us], expected numbers or timestamps"),
        (pa.array([[1], [2]]), "column 't' holds list<element: int64>, expected numbers or timestamps"),
        (pa.array(["1", "noon"]), "row 2, column 't': found 'noon', expected a number, or a date and time"),
        (pa.array([2**50, 1], pa.timestamp("s")), "holds dates outside of 1677 to 2262"),
    ],
)
def test_columns_that_are_no_times_are_refused_in_parquet(tmp_path: Path, column: pa.Array, message: str) -> None:
    pq.write_table(pa.table({"host": ["a", "a"], "t": column, "x": [0, 1]}), tmp_path / "rows.parquet")
    with pytest.raises(SpecError) as caught:
        read_rows(tmp_path / "rows.parquet", WANTED)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (pa.array([2**53 + 1, 2**63 - 1]), [2.0**53, 2.0**63]),
        (pa.array([2**64 - 1, 1], pa.uint64()), [2.0**64, 1.0]),
        (pa.array([Decimal("0.5"), Decimal("1.5")]), [0.5, 1.5]),
        (pa.array([True, False]), [1.0, 0.0]),
        (pa.array([0.5, 2.0], pa.float16()), [0.5, 2.0]),
    ],
)
def test_metrics_of_every_type_of_number_are_read_from_parquet(
    tmp_path: Path, column: pa.Array, wanted: list[float]
) -> None:
    pq.write_table(pa.table({"host": ["a", "a"], "t": [0, 1], "x": column}), tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet", WANTED).values[:, 0].tolist() == wanted


@pytest.mark.parametrize("cell", [*MISSING, " ", "   ", " N/A ", "\t"])
def test_a_cell_that_stands_for_no_number_takes_the_last_value(tmp_path: Path, cell: str) -> None:
    assert read_rows(csv_file(tmp_path, f'host,t,x\na,0,7\na,1,"{cell}"\n'), WANTED).values[:, 0].tolist() == [7, 7]


CONTENT = "host,t,x\nwäb,1,2.5\nwäb,0,1e-3\n"


@pytest.mark.parametrize(
    "content",
    [
        CONTENT.encode(),
        CONTENT.encode("utf-8-sig"),
        CONTENT.encode("utf-16"),
        b"\xfe\xff" + CONTENT.encode("utf-16-be"),
        CONTENT.replace("\n", "\r\n").encode(),
        CONTENT.replace("\n", "\r").encode(),
        CONTENT.replace("\n", "\r\n").encode("utf-16"),
        CONTENT.rstrip().encode(),
        CONTENT.replace("\n", "\n\n").encode(),
        CONTENT.replace("host,t,x", '"host","t","x"').encode(),
        CONTENT.replace("2.5", '" 2.5 "').replace("1e-3", "  +0.001").encode(),
    ],
)
def test_one_content_in_every_encoding_is_read_alike(tmp_path: Path, content: bytes) -> None:
    found = read_rows(csv_file(tmp_path, content), WANTED)
    assert (found.hosts, found.time.tolist()) == (("wäb",), [0, 1])
    assert found.values[:, 0].tolist() == [np.float32(0.001), 2.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT.encode("utf-16-le"), "found NUL bytes in the header, expected text; it looks like UTF-16 without a b"),
        (CONTENT.encode("latin-1"), "row 2, column 'host': found b'w\\xe4b', expected text in UTF-8; save the file as"),
        (CONTENT.encode("utf-16")[:-1], "found bytes that are no text"),
        (b"host,t,x\xe4\na,0,1\n", "found bytes that are no text"),
        (b"host,t,x\na,0,1\n\0\0\0\0", "row 3: found NUL bytes, expected text; take the row out if the recorder stopp"),
        (b"host,t,x\na,0,1\na\0,1,2\n", "row 3, column 'host': found 'a\\x00', expected text without NUL bytes; take"),
        (b"host,t,x\na,0,1\na,1,\0\0\n", "row 3, column 'x': found '\\x00\\x00', expected text without NUL bytes"),
        (b"host,t,x\na,0,1\na,1\n", "row 3: found 2 columns, expected 3; take the row out if the recorder stopped in "),
        (b"host,t,x\na,0,1,5\na,1,2\n", "row 2: found 4 columns, expected 3; take the row out if the recorder stopped"),
        (b'host,t,x\na,0,1\na,1,"4', "found a quote in the last row that is never closed; take the row out"),
        (b'host,t,x\na,0,1\na,1,"45\n', "found a quote in the last row that is never closed"),
        (b"host,t,x\na,0,1\nhost,t,x\na,1,2\n", "row 3, column 'x': found 'x', expected a number; this row repeats th"),
        (b"host,x\na,1\n\xef\xbb\xbfhost,x\n", "row 3, column 'x': found 'x', expected a number; this row repeats the"),
        (b'host,t,x\na,0,"0,5"\n', "row 2, column 'x': found '0,5', expected a number; write it with a point before i"),
        (b'host,t,x\na,0,"1.234,5"\n', "expected a number; write it with a point before its fraction and without comm"),
        (b"host;t;x\na;0;0,5\n", "found columns between semicolons, expected commas; write commas between the columns"),
        (b"host\tt\tx\na\t0\t0.5\n", "found columns between tabs, expected commas"),
        (b"host,t,x\na,0,1e\n", "row 2, column 'x': found '1e', expected a number"),
        (b"host,t,x,x\na,0,1,1\n", "rows.csv holds the columns x more than once, expected each name once"),
        (b"host,t,x\na,0,1\n ,1,1\n", "row 3, column 'host' is empty (1 rows in all), expected a host in every row"),
        (b"host,t,x\na,0,inf\na,1,1\n", "row 2, column 'x' of host 'a' holds infinite values"),
        (b"host,t,x\n", "rows.csv holds no rows"),
        (b"host,t,x\na,0,1\nb,0,-\nb,1,N/A\n", "column 'x' of host 'b' has no value at all"),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_refused_in_one_line_with_its_place(
    tmp_path: Path, content: bytes, message: str
) -> None:
    wanted = Columns(("x",), "host") if content.startswith(b"host,x") else WANTED
    assert message in refused(tmp_path, content, wanted)


def test_a_row_longer_than_a_block_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 64)
    assert "is not a readable csv file" in refused(tmp_path, "host,t,x\n" + "a,0,1\n" * 20 + "a,0," + " " * 200 + "1\n")


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").mkdir()
    with pytest.raises(HostError, match=r"rows\.csv is a folder, expected a file"):
        read_rows(tmp_path / "rows.csv", WANTED)


@pytest.mark.parametrize(
    ("cells", "given"),
    [
        (["2023-11-14 22:13:20", "2023-11-14 22:13:19.50"], ["2023-11-14 22:13:19.50", "2023-11-14 22:13:20"]),
        (["1700000000.250", "1700000000"], ["1700000000", "1700000000.250"]),
        (["1700000000123", "1700000000122"], [1700000000122, 1700000000123]),
        (["2023-11-14T23:13:20+01:00", "2023-11-14T22:13:19Z"], ["2023-11-14T22:13:19Z", "2023-11-14T23:13:20+01:00"]),
    ],
)
def test_the_time_is_kept_as_it_stands_in_the_file(tmp_path: Path, cells: list[str], given: list[Any]) -> None:
    found = times(tmp_path, *cells).time_given
    assert found is not None
    assert found.to_pylist() == given


def test_the_kept_time_loses_the_rows_before_a_hosts_first_complete_one(tmp_path: Path) -> None:
    found = read_rows(csv_file(tmp_path, "host,t,x\na,2024-01-01,\na,2024-01-02,5\n"), WANTED)
    assert found.time_given is not None
    assert found.time_given.to_pylist() == ["2024-01-02"]


# Made-up files against a reading row by row.


@dataclass(frozen=True)
class MadeUp:
    """A CSV file and what stands in it."""

    content: bytes
    rows: list[tuple[str, Decimal, float | None]]


def whole(by: int) -> Callable[[int, int], tuple[str, Decimal]]:
    return lambda ns, _: (str((START * 10**9 + ns) * by // 10**9), Decimal((START * 10**9 + ns) * by // 10**9))


def fraction(ns: int, digits: int) -> tuple[str, Decimal]:
    value = Decimal(ns // 10**9) + Decimal(ns // 10**6 % 1000) / 1000
    return (str(int(value)) if value == int(value) and digits % 2 else str(value)), value


def iso(zoned: bool) -> Callable[[int, int], tuple[str, Decimal]]:
    def write(ns: int, draw: int) -> tuple[str, Decimal]:
        hours = draw % 5 - 2 if zoned else 0
        seconds, rest = divmod(ns, 10**9)
        stamp = datetime.datetime(2024, 3, 31) + datetime.timedelta(seconds=seconds, hours=hours)
        text = stamp.isoformat(sep=" " if draw % 3 else "T")
        text += f".{rest:09d}".rstrip("0") if rest else (".0" if draw % 7 == 0 else "")
        zone = "" if not zoned else ("Z", "+00:00")[draw % 2] if hours == 0 else f"{hours:+03d}:00"
        return text + zone, Decimal(ns)

    return write


FORMS: list[Callable[[int, int], tuple[str, Decimal]]] = [
    *(whole(by) for by in (1, 10**3, 10**6, 10**9)), fraction, iso(False), iso(True),
]  # fmt: skip


@st.composite
def made_up(draw: st.DrawFn) -> MadeUp:
    form = draw(st.sampled_from(FORMS))
    instants = draw(st.lists(st.integers(0, 10**12), min_size=1, max_size=25))
    rows: dict[tuple[str, Decimal], tuple[str, str, float | None]] = {}
    for instant in instants:
        cell, number = form(instant, draw(st.integers(0, 1000)))
        value = draw(st.one_of(st.none(), st.floats(-1e9, 1e9), st.integers(-(2**60), 2**60)))
        text = draw(st.sampled_from(MISSING)) if value is None else repr(value)
        pad = " " * draw(st.integers(0, 2))
        host = draw(st.sampled_from(["a", "b", "007"]))
        rows.setdefault((host, number), (cell, pad + text + pad, None if value is None else float(value)))
    quote = '"' if draw(st.booleans()) else ""
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    head = end.join([",".join(f"{quote}{name}{quote}" for name in ("host", "skip", "t", "x")), ""])
    lines = [
        f'{host},"a, ""b""",{quote}{cell}{quote},{quote}{text}{quote}' for (host, _), (cell, text, _) in rows.items()
    ]
    content = (head + end.join(lines) + (end if draw(st.booleans()) else "")).encode(
        draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    )
    return MadeUp(content, [(host, number, value) for (host, number), (_, _, value) in rows.items()])


def straightforward(rows: list[tuple[str, Decimal, float | None]]) -> list[tuple[str, float]] | None:
    """Return host and value of each row that is kept, in order; None where a host has no value at all."""
    out: list[tuple[str, float]] = []
    for host in sorted({row[0] for row in rows}):
        last, count = math.nan, 0
        for _, _, value in sorted((row for row in rows if row[0] == host), key=lambda row: row[1]):
            last = last if value is None else value
            if not math.isnan(last):
                out.append((host, float(np.float32(last))))
                count += 1
        if not count:
            return None
    return out


@given(made=made_up(), block=st.sampled_from([200, 1000, 4 << 20]))
def test_a_made_up_file_is_read_as_a_reading_row_by_row_does(
    tmp_path_factory: pytest.TempPathFactory, made: MadeUp, block: int
) -> None:
    path = csv_file(tmp_path_factory.mktemp("made"), made.content)
    wanted = straightforward(made.rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_files, "BLOCK_BYTES", block)
        if wanted is None:
            with pytest.raises(SpecError, match="has no value at all"):
                read_rows(path, WANTED)
            return
        found = read_rows(path, WANTED)
    got = [(found.hosts[host], value) for host, value in zip(found.host, found.values[:, 0].tolist(), strict=True)]
    assert got == wanted


@given(
    content=st.binary(max_size=200), head=st.sampled_from([b"", b"host,t,x\n", b"\xff\xfe", b"\xef\xbb\xbfhost,t,x\n"])
)
def test_any_bytes_are_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, head: bytes
) -> None:
    path = csv_file(tmp_path_factory.mktemp("bytes"), head + content)
    try:
        read_rows(path, WANTED)
    except SpecError as fault:
        assert "\n" not in str(fault)
        assert str(fault).startswith("rows.csv")
