"""Claims about importing several CSV files as one dataset, and about showing a dataset folder."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.contracts.dataset import HostsSplit, Roles
from training.contracts.dataset_folder import dataset_digest, read_dataset
from training.trainer import datasets
from training.trainer.data.imports.plain_csv import host_in
from training.trainer.faults import SpecError


def lab(folder: Path, *names: str, header: str = "time,cpu,bad") -> Path:
    """Write a file of 60 rows per name, with the columns in the order of the header."""
    (folder / "lab").mkdir(exist_ok=True)
    for number, name in enumerate(names):
        rows = [
            {"time": f"2026-10-05T08:{i:02d}:00Z", "cpu": str(number + i / 4), "bad": str(int(i % 10 > 7))}
            for i in range(60)
        ]
        lines = [header, *(",".join(row[column] for column in header.split(",")) for row in rows)]
        (folder / "lab" / name).write_text("\n".join(lines) + "\n")
    return folder / "lab"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run the program; return its status and what it wrote last."""
    try:
        status = datasets.main([str(argument) for argument in arguments])
    except SystemExit as ended:
        status = int(ended.code or 0)
    out, err = capsys.readouterr()
    return status, (err or out).strip()


LABEL = ["--label", "bad", "--time", "time", "--window", "5"]


def test_several_files_become_one_dataset_with_hosts_from_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = lab(tmp_path, "web-2026.csv", "db-2026.csv"), tmp_path / "out"
    lab(tmp_path, "db-2027.csv", header="bad,time,cpu")
    text = (folder / "db-2027.csv").read_text()
    (folder / "db-2027.csv").write_text(text.replace("2026-", "2027-"))
    status, said = run(
        capsys, "import", "csv", *sorted(folder.glob("*.csv")), out, *LABEL, "--host-from", "{host}-*.csv"
    )
    assert status == 0, said
    dataset = read_dataset(out)
    assert (dataset.name, dataset.roles) == ("lab", Roles("host", "bad", None, "time"))
    assert dataset.splits["hosts"] == HostsSplit((("db",), ("web",)))
    table = pq.read_table(dataset.data_path)
    assert table.column_names == ["host", "time", "cpu", "bad"]
    assert table["host"].value_counts().to_pylist() == [
        {"values": "db", "counts": 120},
        {"values": "web", "counts": 60},
    ]
    assert table.schema.field("time").type == pa.timestamp("ms", "UTC")


def test_a_name_that_no_file_has_is_a_glob(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = lab(tmp_path, "web.csv", "db.csv")
    status, said = run(
        capsys, "import", "csv", folder / "*.csv", tmp_path / "out", *LABEL, "--host-from", "{host}.csv", "--name", "n"
    )
    assert (status, "rows 120, hosts 2, anomalous 24 (20.00 %)" in said) == (0, True), said
    other = lab(tmp_path, "a*b.csv")
    assert run(capsys, "import", "csv", other / "a*b.csv", tmp_path / "o2", *LABEL)[0] == 0


def test_several_files_may_name_their_hosts_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = lab(tmp_path, "one.csv", "two.csv")
    for name in ("one", "two"):
        lines = (folder / f"{name}.csv").read_text().splitlines()
        (folder / f"{name}.csv").write_text("\n".join([f"box,{lines[0]}", *(f"{name},{line}" for line in lines[1:])]))
    status, said = run(capsys, "import", "csv", folder / "*.csv", tmp_path / "out", *LABEL, "--host", "box")
    assert (status, read_dataset(tmp_path / "out").roles.host) == (0, "box"), said


def test_a_time_that_gets_fractions_or_another_form_in_the_second_file_is_one_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = lab(tmp_path, "a.csv", "b.csv")
    text = (folder / "b.csv").read_text()
    (folder / "b.csv").write_text(text.replace(":00Z", ":00.123456789Z"))
    options = [*LABEL, "--host-from", "{host}.csv"]
    assert run(capsys, "import", "csv", folder / "*.csv", tmp_path / "out", *options)[0] == 0
    assert pq.read_table(tmp_path / "out/lab.parquet").schema.field("time").type == pa.timestamp("ns", "UTC")
    (folder / "b.csv").write_text(text.replace(":00Z", ":00"))
    status, said = run(capsys, "import", "csv", folder / "*.csv", tmp_path / "o2", *options)
    assert status == 78
    assert (
        "b.csv: row 2, column 'time': found '2026-10-05T08:00:00', expected the form of the rows before, such" in said
    )
    assert not (tmp_path / "o2").exists()


@pytest.mark.parametrize(
    ("header", "options", "status", "message"),
    [
        ("time,cpu,bad", [], 2, "several files need --host COL, or --host-from '{host}.csv' when the file names"),
        ("time,cpu,bad", ["--host-from", "*.csv"], 2, "--host-from: found '*.csv', expected {host} in it once, such"),
        ("time,cpu,bad", ["--host-from", "{host}.csv", "--host", "cpu"], 2, "--host and --host-from both name the ho"),
        ("time,cpu,bad", ["--host-from", "x{host}"], 78, "a.csv: found a file name that does not fit --host-from 'x{h"),
        ("time,bad", ["--host-from", "{host}.csv"], 78, "b.csv lacks the columns cpu, expected the columns of a.csv;"),
        ("time,cpu,bad,cpu", ["--host-from", "{host}.csv"], 78, "b.csv has a column more than once, expected the colu"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_together_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    header: str,
    options: list[str],
    status: int,
    message: str,
) -> None:
    folder = lab(tmp_path, "a.csv")
    lab(tmp_path, "b.csv", header=header)
    found = run(capsys, "import", "csv", folder / "a.csv", folder / "b.csv", tmp_path / "out", *LABEL, *options)
    assert (found[0], message in found[1]) == (status, True), found[1]
    assert not (tmp_path / "out").exists()


def test_a_host_column_in_the_files_is_not_hidden_by_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("host,bad\nx,0\nx,1\n")
    status, said = run(
        capsys, "import", "csv", tmp_path / "a.csv", tmp_path / "out", "--label", "bad", "--host-from", "{host}.csv"
    )
    assert (status, "found a column 'host'; name it with --host" in said) == (78, True)


@pytest.mark.parametrize(
    ("name", "pattern", "host"),
    [
        ("web.csv", "{host}.csv", "web"),
        ("lab-web-1-2026.csv", "lab-{host}-*.csv", "web-1"),
        ("a+b(1).csv", "a+{host}(1).csv", "b"),
        ("WEB.CSV", "{host}.csv", None),
        (".csv", "{host}.csv", None),
    ],
)
def test_the_host_is_the_part_of_the_name_that_the_pattern_says(name: str, pattern: str, host: str | None) -> None:
    if host is None:
        with pytest.raises(SpecError, match="does not fit --host-from"):
            host_in(name, pattern)
    else:
        assert host_in(name, pattern) == host


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ([], "it looks like a time: name the column with --time time"),
        (["--time", "seen"], "it looks like a time: name the column with --never time"),
    ],
)
def test_a_column_of_dates_that_nobody_named_is_told_its_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], advice: str
) -> None:
    (tmp_path / "a.csv").write_text("seen,time,bad\n1,2026-10-05 08:00:00,0\n2,2026-10-05 08:00:01,1\n")
    status, said = run(capsys, "import", "csv", tmp_path / "a.csv", tmp_path / "out", "--label", "bad", *options)
    assert (status, said.endswith(advice)) == (78, True), said


@pytest.mark.parametrize("positive", [["scan,worm"], ["scan", "worm"], ["scan,", "worm,scan"]])
def test_values_that_mean_anomalous_are_separated_by_commas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], positive: list[str]
) -> None:
    (tmp_path / "a.csv").write_text("x,kind\n" + "1,ok\n2,scan\n3,worm\n" * 20)
    options = ["--label", "kind", "--positive", *positive]
    status, said = run(capsys, "import", "csv", tmp_path / "a.csv", tmp_path / "out", *options)
    assert (status, "rows 60, hosts 1, anomalous 40 (66.67 %)" in said) == (0, True), said


def test_a_refused_label_lists_the_most_frequent_values_with_their_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("x,kind\n" + "".join(f"1,k{min(i, 11)}\n" for i in range(20)))
    status, said = run(capsys, "import", "csv", tmp_path / "a.csv", tmp_path / "out", "--label", "kind")
    assert (status, "found 'k11' (9 rows), 'k0' (1 rows)" in said, "and 2 more, expected 0 or 1" in said) == (
        78,
        True,
        True,
    )
    (tmp_path / "a.csv").write_text("x,kind\n" + "".join(f"1,{i}\n" for i in range(1001)))
    status, said = run(capsys, "import", "csv", tmp_path / "a.csv", tmp_path / "out", "--label", "kind")
    assert (status, "more than 1000 values" in said, "name another column" in said) == (78, True, True)


def test_a_dataset_is_shown_at_a_glance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = lab(tmp_path, "db.csv")
    run(capsys, "import", "csv", folder / "db.csv", tmp_path / "out", *LABEL, "--host-from", "{host}.csv")
    assert run(capsys, "show", tmp_path / "out") == (
        0,
        "dataset db, file db.parquet\n"
        "rows 60, anomalous 12 (20.00 %); windows of 5 rows\n"
        "time in column time: 2026-10-05 08:00:00.000Z to 2026-10-05 08:59:00.000Z\n"
        "hosts 1\n"
        "  db  rows 60, anomalous 12 (20.00 %)\n"
        "realistic 1: cpu\n"
        "splits random, time\n"
        f"digest {dataset_digest(tmp_path / 'out')}",
    )


def test_a_summary_lists_at_most_fifty_hosts_and_shows_no_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"h\x1b[31m{host:02d},{i},{i % 2}\n" for host in range(60) for i in range(4))
    (tmp_path / "a.csv").write_text("host,x,bad\n" + rows)
    options = ["--label", "bad", "--host", "host", "--window", "2"]
    assert run(capsys, "import", "csv", tmp_path / "a.csv", tmp_path / "out", *options)[0] == 0
    status, said = run(capsys, "show", tmp_path / "out")
    assert (status, "\x1b" in said, r"  h\x1b[31m49  rows 4" in said, "\n  and 10 more\n" in said) == (
        0,
        False,
        True,
        True,
    )


def test_a_folder_that_is_no_dataset_or_holds_wrong_data_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "show", tmp_path / "none")[0] == 75
    folder = lab(tmp_path, "web.csv")
    run(capsys, "import", "csv", folder / "web.csv", tmp_path / "out", *LABEL)
    (tmp_path / "out/web.parquet").write_bytes(b"PAR1")
    status, said = run(capsys, "show", tmp_path / "out")
    assert (status, said.startswith("datasets: web.parquet is not a readable parquet file")) == (78, True)
    (tmp_path / "out/dataset.toml").write_text("schema = 2\n")
    assert run(capsys, "show", tmp_path / "out")[0] == 78
