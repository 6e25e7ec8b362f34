"""Claims about reading telemetry: what is checked, filled, dropped, sorted and refused."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.trainer.data import Columns, Telemetry, column_names, read_rows
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
        ({"host": ["b", None, "a", "b"]}, "column 'host' is empty in 1 rows, expected a value in every row"),
        ({"t": [1, None, 1, 0]}, "column 't' is empty in 1 rows, expected a time in every row"),
        ({"t": [1.0, float("nan"), 1.0, 0.0]}, "column 't' holds NaN or infinity, expected a time in every row"),
        ({"t": ["1", "2", "3", "4"]}, "column 't' holds string, expected numbers or timestamps"),
        ({"t": [1, 1, 1, 0]}, "column 't': host 'a' has more than one row at 1 (1 repeats in all), expected one row"),
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
    with pytest.raises(HostError, match="can't be read"):
        column_names(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(SpecError, match="is not a readable"):
        column_names(tmp_path / name)
    with pytest.raises(SpecError, match=r"found the suffix '.xls', expected .parquet or .csv"):
        column_names(tmp_path / "rows.xls")


def test_a_csv_that_breaks_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("host,x\n" + "a,1\n" * 500_000 + "a,1,2\n")
    with pytest.raises(SpecError, match=r"rows\.csv is not a readable csv file"):
        read_rows(path, Columns(("x",), "host"))


def test_a_parquet_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = bytearray(path.read_bytes())
    content[4:60] = b"\x00" * 56
    path.write_bytes(content)
    with pytest.raises((SpecError, HostError), match=r"rows\.parquet"):
        read_rows(path, WANTED)
