"""Claims about reading telemetry: what is checked, filled, dropped, sorted and refused."""

from __future__ import annotations

import datetime
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.trainer.data.telemetry import Columns, Telemetry, column_names, read_rows
from training.trainer.faults import HostError, SpecError

WANTED = Columns(("x", "z"), "host", "t", "label", ("side",))


def write(folder: Path, **columns: Any) -> Path:
    base: dict[str, Any] = {
        "host": ["b", "a", "a", "b"],
        "t": [1, 2, 1, 0],
        "label": [0, 1, 0, 1],
        "side": ["test", "train", "train", "test"],
        "x": [10.0, 20.0, 30.0, 40.0],
        "z": [1, 2, 3, 4],
    }
    path = folder / "rows.parquet"
    pq.write_table(pa.table({k: v for k, v in (base | columns).items() if v is not None}), path)
    return path


def test_rows_are_sorted_by_host_and_time(tmp_path: Path) -> None:
    found = read_rows(write(tmp_path), WANTED)
    assert found.hosts == ("a", "b")
    assert found.host.tolist() == [0, 0, 1, 1]
    assert found.time.tolist() == [1, 2, 0, 1]
    assert found.values.tolist() == [[30.0, 3.0], [20.0, 2.0], [40.0, 4.0], [10.0, 1.0]]
    assert found.values.dtype == np.float32
    assert found.label.tolist() == [0, 1, 1, 0]
    assert found.texts["side"].tolist() == ["train", "train", "test", "test"]
    assert list(found.spans()) == [(0, 0, 2), (1, 2, 4)]


def test_csv_gives_the_same_rows_as_parquet(tmp_path: Path) -> None:
    parquet = read_rows(write(tmp_path), WANTED)
    path = tmp_path / "rows.csv"
    path.write_text("host,t,label,side,x,z\nb,1,0,test,10,1\na,2,1,train,20,2\na,1,0,train,30,3\nb,0,1,test,40,4\n")
    csv = read_rows(path, WANTED)
    assert csv.values.tolist() == parquet.values.tolist()
    assert (csv.hosts, csv.time.tolist(), csv.label.tolist()) == (("a", "b"), [1, 2, 0, 1], [0, 1, 1, 0])
    assert column_names(path) == ["host", "t", "label", "side", "x", "z"]


def test_without_a_time_column_file_order_is_time_order(tmp_path: Path) -> None:
    found = read_rows(write(tmp_path), Columns(("x",), "host"))
    assert found.time.tolist() == [0, 1, 0, 1]
    assert found.values[:, 0].tolist() == [20.0, 30.0, 10.0, 40.0]
    assert found.label.tolist() == [0, 0, 0, 0]


def test_timestamps_order_rows_as_numbers_do(tmp_path: Path) -> None:
    days = [datetime.datetime(2026, 1, day, tzinfo=datetime.UTC) for day in (2, 3, 1, 1)]
    found = read_rows(write(tmp_path, t=days), Columns(("x",), "host", "t"))
    assert found.values[:, 0].tolist() == [30.0, 20.0, 40.0, 10.0]
    dates = [datetime.date(2026, 1, day) for day in (2, 3, 1, 1)]
    found = read_rows(write(tmp_path, t=dates), Columns(("x",), "host", "t"))
    assert found.values[:, 0].tolist() == [30.0, 20.0, 40.0, 10.0]


def test_a_host_in_csv_is_text_however_much_it_looks_like_a_number(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("host,t,x\n007,1,10\n7,1,20\n")
    found = read_rows(tmp_path / "rows.csv", Columns(("x",), "host", "t"))
    assert found.hosts == ("007", "7")


def test_host_and_group_may_be_numbers(tmp_path: Path) -> None:
    found = read_rows(write(tmp_path, host=[2, 1, 1, 2], side=[1, 1, 2, 2]), WANTED)
    assert found.hosts == ("1", "2")
    assert found.texts["side"].tolist() == ["2", "1", "2", "1"]


def filled(folder: Path, x: list[float | None]) -> Telemetry:
    return read_rows(write(folder, host=["a", "a", "a", "b"], t=[0, 1, 2, 0], x=x), WANTED)


def test_a_gap_takes_the_hosts_last_value(tmp_path: Path) -> None:
    found = filled(tmp_path, [5.0, None, float("nan"), 7.0])
    assert found.values[:, 0].tolist() == [5.0, 5.0, 5.0, 7.0]


def test_rows_before_a_hosts_first_complete_row_are_dropped(tmp_path: Path) -> None:
    found = filled(tmp_path, [None, None, 6.0, 7.0])
    assert found.values[:, 0].tolist() == [6.0, 7.0]
    assert (found.host.tolist(), found.time.tolist(), found.label.tolist()) == ([0, 1], [2, 0], [0, 1])
    assert found.texts["side"].tolist() == ["train", "test"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [1.0, None, None, 2.0]}, "column 'x' of host 'a' has no value at all"),
        ({"x": [1.0, float("inf"), 3.0, 2.0]}, "column 'x' of host 'a' holds infinite values"),
        ({"x": [1e300, 1.0, 1.0, 1.0]}, "column 'x' of host 'b' holds infinite values"),
        ({"x": ["1", "2", "3", "4"]}, "column 'x' holds string, expected numbers"),
        ({"x": None, "z": None}, "rows.parquet lacks the columns x, z; it has host, t, label, side"),
        ({"label": [0, 2, 0, 1]}, "column 'label' of host 'a' holds 2.0, expected 0 or 1"),
        ({"label": [0, None, 0, 1]}, "column 'label' of host 'a' holds nan, expected 0 or 1"),
        ({"label": ["no", "yes", "no", "no"]}, "column 'label' holds string, expected 0 and 1"),
        (
            {"host": ["b", None, "a", ""]},
            "rows.parquet: row 2, column 'host' is empty (2 rows in all), expected a host in every row",
        ),
        ({"host": ["b", "a" * 201, "a", "b"]}, "column 'host' holds a text of 201 characters, expected at most 200"),
        ({"host": [["b"]] * 4}, "column 'host' holds list<element: string>, expected text"),
        (
            {"side": ["x", "x", None, "x"]},
            "column 'side' of host 'a' is empty (1 rows in all), expected a value in every",
        ),
        ({"t": [1, None, 1, 0]}, "column 't' of host 'a' is empty (1 rows in all), expected a time in every row"),
        (
            {"t": [1.0, float("nan"), 1.0, 0.0]},
            "column 't' of host 'a' is empty (1 rows in all), expected a time in ev",
        ),
        ({"t": [1.0, 2.0, 1.0, float("inf")]}, "column 't' of host 'b' holds infinity, expected a time in every row"),
        ({"t": [True, False, True, False]}, "column 't' holds bool, expected numbers or timestamps"),
        ({"t": [1, 1, 1, 0]}, "column 't': host 'a' has more than one row at 1 (rows 2 and 3; 1 repeats in all)"),
    ],
)
def test_unusable_data_is_refused_naming_column_and_host(tmp_path: Path, columns: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_rows(write(tmp_path, **columns), WANTED)
    assert message in str(caught.value)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"host": pa.array([], pa.string()), "x": pa.array([], pa.float32())}), path)
    with pytest.raises(SpecError, match="holds no rows"):
        read_rows(path, Columns(("x",), "host"))


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv"])
def test_a_damaged_file_is_refused_and_a_missing_one_is_the_hosts_trouble(tmp_path: Path, name: str) -> None:
    with pytest.raises(HostError, match=f"^{name} does not exist; check the path$"):
        column_names(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(SpecError, match="is not a readable"):
        column_names(tmp_path / name)
    with pytest.raises(SpecError, match=r"found the suffix '.xls', expected .parquet or .csv"):
        column_names(tmp_path / "rows.xls")


def test_a_csv_that_breaks_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("host,x\n" + "a,1\n" * 500_000 + "a,1,2\n")
    with pytest.raises(SpecError, match=r"rows\.csv: row 500002: found 3 columns, expected 2"):
        read_rows(path, Columns(("x",), "host"))


def test_a_parquet_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = bytearray(path.read_bytes())
    content[4:60] = b"\x00" * 56
    path.write_bytes(content)
    with pytest.raises((SpecError, HostError), match=r"rows\.parquet"):
        read_rows(path, WANTED)


CSV = "host,t,label,side,x,z\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,0,0,s,1,2\na,1,0,s,oops,2\n", "rows.csv: row 3, column 'x': found 'oops', expected a number"),
        ("a,0,0,s,1,2\na,1,maybe,s,1,2\n", "rows.csv: row 3, column 'label': found 'maybe', expected a number"),
        ("a,0,0,s,1,2\na,1,0,s,1\n", "rows.csv: row 3: found 5 columns, expected 6"),
        ("a,0,0,s,1,2\n,1,0,s,1,2\n", "rows.csv: row 3, column 'host' is empty (1 rows in all), expected a host"),
        ("a,0,0,s,1,2\na,1,0,,1,2\n", "rows.csv: row 3, column 'side' of host 'a' is empty (1 rows in all)"),
        ("a,0,0,s,1,2\na,,0,s,1,2\n", "rows.csv: row 3, column 't' of host 'a' is empty (1 rows in all)"),
    ],
)
def test_csv_that_does_not_fit_is_refused_naming_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(CSV + text)
    with pytest.raises(SpecError) as caught:
        read_rows(path, WANTED)
    assert message in str(caught.value)


def test_csv_text_that_is_not_utf_8_is_refused_naming_row_and_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes((CSV + "a,0,0,s,1,2\n\xe4,0,0,s,1,2\n").encode("latin-1"))
    with pytest.raises(SpecError, match=r"row 3, column 'host': found b'\\xe4', expected text in UTF-8"):
        read_rows(path, WANTED)


def test_a_metric_of_whole_numbers_may_turn_to_fractions_late_in_a_csv(tmp_path: Path) -> None:
    """The type that the first block suggests must not decide."""
    path = tmp_path / "rows.csv"
    path.write_text("host,x\n" + "007,1\n" * 800_000 + "007,1.5\n")
    found = read_rows(path, Columns(("x",), "host"))
    assert (found.hosts, found.values[-1, 0]) == (("007",), 1.5)


def test_a_column_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("host,x,x\na,1,2\n")
    with pytest.raises(SpecError, match=r"rows\.csv holds the columns x more than once, expected each name once"):
        read_rows(path, Columns(("x",), "host"))


TEXTS = Columns(("x", "proto", "z"), "host", categories={"proto": ("tcp", "udp", "7"), "absent": ("a",)})


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_column_of_text_becomes_one_column_per_known_value(tmp_path: Path, form: str) -> None:
    path = write(tmp_path, proto=["udp", "7", "icmp", None])
    if form == "csv":
        path = tmp_path / "rows.csv"
        path.write_text("host,x,proto,z\nb,10,udp,1\na,20,7,2\na,30,icmp,3\nb,40,,4\n")
    found = read_rows(path, TEXTS)
    assert found.columns == ("x", "proto=tcp", "proto=udp", "proto=7", "z")
    assert found.values.tolist() == [
        [20.0, 0.0, 0.0, 1.0, 2.0],
        [30.0, 0.0, 0.0, 0.0, 3.0],
        [10.0, 0.0, 1.0, 0.0, 1.0],
        [40.0, 0.0, 0.0, 0.0, 4.0],
    ]


def test_numbers_may_be_categories(tmp_path: Path) -> None:
    found = read_rows(write(tmp_path, proto=[7, 8, 7, None]), TEXTS)
    assert found.values[:, 3].tolist() == [0.0, 1.0, 1.0, 0.0]


def test_text_that_is_not_declared_is_refused_naming_the_table_it_needs(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"column 'proto' holds string, expected numbers; text needs an entry in \[cat"):
        read_rows(write(tmp_path, proto=["a"] * 4), Columns(("proto",), "host"))


def test_without_a_host_column_all_rows_belong_to_one_host(tmp_path: Path) -> None:
    found = read_rows(write(tmp_path), Columns(("x",), None, None, "label"))
    assert (found.hosts, found.host.tolist(), found.time.tolist()) == (("all",), [0, 0, 0, 0], [0, 1, 2, 3])
    assert found.values[:, 0].tolist() == [10.0, 20.0, 30.0, 40.0]
    assert found.label.tolist() == [0, 1, 0, 1]
    with pytest.raises(SpecError, match="column 't': host 'all' has more than one row at 1"):
        read_rows(write(tmp_path), Columns(("x",), None, "t", "label"))


def test_the_host_column_may_be_the_group_column_too(tmp_path: Path) -> None:
    found = read_rows(write(tmp_path), Columns(("x",), "host", "t", "label", ("host",)))
    assert found.texts["host"].tolist() == ["a", "a", "b", "b"]


def test_equal_rows_are_kept_where_no_time_tells_them_from_repeats(tmp_path: Path) -> None:
    path = write(tmp_path, host=["a"] * 4, x=[1.0] * 4, z=[2] * 4, label=[0] * 4)
    assert read_rows(path, Columns(("x", "z"), "host")).values.tolist() == [[1.0, 2.0]] * 4


def test_a_constant_column_and_a_host_of_one_class_are_kept(tmp_path: Path) -> None:
    found = read_rows(write(tmp_path, z=[3, 3, 3, 3], label=[0, 1, 0, 0]), WANTED)
    assert found.values[:, 1].tolist() == [3.0] * 4
    assert found.label.tolist() == [0, 1, 0, 0]


def test_reading_holds_no_more_than_twice_the_columns(tmp_path: Path) -> None:
    rows, columns = 400_000, 20
    names = [f"c{i}" for i in range(columns)]
    path = tmp_path / "rows.parquet"
    values = np.arange(rows, dtype=np.float32)
    pq.write_table(
        pa.table(
            {"host": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int8), ["a"])} | dict.fromkeys(names, values)
        ),
        path,
        row_group_size=50_000,
    )
    tracemalloc.start()
    read_rows(path, Columns(tuple(names), "host"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * rows * columns * 4
