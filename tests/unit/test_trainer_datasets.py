"""Claims about importing public data: each layout becomes a dataset folder, or is refused with its place."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.contracts.dataset import (
    Dataset,
    Features,
    GroupSplit,
    HostsSplit,
    PublishedSplit,
    RandomSplit,
    Roles,
    TimeSplit,
    Windows,
)
from training.contracts.dataset_folder import dataset_digest, read_dataset
from training.trainer import datasets
from training.trainer.data.imports import nslkdd
from training.trainer.data.imports.declaration import dealt, declaration_text
from training.trainer.data.telemetry import read_telemetry

Refused = Callable[..., tuple[int, str]]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Import something that must not work; return exit status and message."""

    def run(layout: str, source: Path, *options: str) -> tuple[int, str]:
        out = source.parent / "out"
        before = sorted(source.parent.iterdir())
        status = datasets.main(["import", layout, str(source), str(out), *options])
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.startswith("datasets: ")
        assert sorted(source.parent.iterdir()) == before
        return status, error[len("datasets: ") :].strip()

    return run


def imported(layout: str, source: Path, *options: str) -> Path:
    out = source.parent / "out"
    assert datasets.main(["import", layout, str(source), str(out), *options]) == 0
    assert sorted(path.name for path in source.parent.iterdir() if path.name.startswith(".")) == []
    return out


# The text of a declaration.

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)


@given(
    columns=st.lists(names, min_size=9, max_size=30, unique=True),
    values=st.lists(names, min_size=1, max_size=9, unique=True),
    hosts=st.lists(names, min_size=2, max_size=12, unique=True),
    note=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    bare=st.booleans(),
)
def test_a_written_declaration_reads_back_as_itself(
    tmp_path_factory: pytest.TempPathFactory,
    columns: list[str],
    values: list[str],
    hosts: list[str],
    note: str,
    bare: bool,
) -> None:
    folder = tmp_path_factory.mktemp("d")
    host, group, time, label, part, never, text, metric, *rest = columns
    known = {text: tuple(values)} if not {f"{text}={value}" for value in values} & set(columns) else {}
    wanted = Dataset(
        folder,
        "näme",
        "rows.csv",
        Roles(None, label) if bare else Roles(host, label, group, time),
        Features((text, *rest), (metric,), (never,)),
        Windows(7),
        {"random": RandomSplit(0.25), "published": PublishedSplit(part, "Train", "T\x7f")}
        if bare
        else {"time": TimeSplit(0.5, 3), "hosts": dealt(hosts) or HostsSplit(()), "group": GroupSplit(group)},
        {metric: "1/s"},
        known,
    )
    (folder / "rows.csv").touch()
    (folder / "dataset.toml").write_text(declaration_text(wanted, {"task": note, "rows": 3}), newline="\n")
    assert read_dataset(folder) == wanted
    assert tomllib.loads((folder / "dataset.toml").read_text())["dataset"]["task"] == note


def test_hosts_are_dealt_to_five_folds_in_turn() -> None:
    assert dealt(list("abcdefg")) == HostsSplit((("a", "f"), ("b", "g"), ("c",), ("d",), ("e",)))
    assert dealt(list("ab")) == HostsSplit((("a",), ("b",)))
    assert dealt(["a"]) is None
    assert dealt([str(index) for index in range(5001)]) is None


# Server Machine Dataset.


def machine(folder: Path, name: str, labels: Sequence[object], row: str = "{t},0.5,{label}") -> None:
    for part in ("train", "test", "test_label", "interpretation_label"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rows = [row.format(t=index, label=label) for index, label in enumerate(labels)]
    (folder / "test" / f"{name}.txt").write_text("".join(f"{line}\n" for line in rows))
    (folder / "test_label" / f"{name}.txt").write_text("".join(f"{label}\n" for label in labels))


@pytest.fixture
def smd(tmp_path: Path) -> Path:
    folder = tmp_path / "ServerMachineDataset"
    for name in ("machine-1-10", "machine-1-2", "machine-2-1"):
        machine(folder, name, [0, 1] * 60)
    return folder


def test_smd_becomes_a_dataset_of_its_labelled_half(smd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = imported("smd", smd)
    dataset = read_dataset(out)
    assert dataset.roles == Roles("host", "label", "group", "t")
    assert dataset.features == Features(("m00", "m01", "m02"), (), ("host", "group", "t"))
    assert (dataset.name, dataset.windows.length) == ("smd", 30)
    assert dataset.splits == {
        "random": RandomSplit(0.3),
        "time": TimeSplit(0.6, 60),
        "hosts": HostsSplit((("machine-1-2",), ("machine-1-10",), ("machine-2-1",))),
        "group": GroupSplit("group"),
    }
    table = pq.read_table(out / "smd.parquet")
    assert table.num_rows == 360
    assert table["host"].to_pylist()[::120] == ["machine-1-2", "machine-1-10", "machine-2-1"]
    assert table["group"].to_pylist()[::120] == ["1", "1", "2"]
    assert table["t"].to_pylist() == [*range(120)] * 3
    assert table["label"].to_pylist() == [0, 1] * 180
    assert [str(table[name].type) for name in ("m00", "m01", "m02")] == ["float", "float", "float"]
    assert table["m00"].to_pylist() == [float(value) for value in [*range(120)] * 3]
    assert capsys.readouterr().out.splitlines() == [
        f"wrote {out / 'dataset.toml'} and {out / 'smd.parquet'}",
        "rows 360, hosts 3, anomalous 180 (50.00 %)",
        "inputs realistic 3, oracle 3, of text 0; windows of 30 rows",
        "splits random, time, hosts, group",
        "note: split time can't be trained on as it is: time: no window to test on; the split leaves nothing, "
        "choose another one",
        f"digest {dataset_digest(out)}",
    ]


def test_the_same_source_gives_the_same_digest_wherever_it_lies(smd: Path, tmp_path: Path) -> None:
    one = dataset_digest(imported("smd", smd))
    (tmp_path / "elsewhere").mkdir()
    assert dataset_digest(imported("smd", smd.rename(tmp_path / "elsewhere" / "copy"))) == one


def test_smd_can_be_narrowed_named_and_tiered(smd: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cpu\n\neth_in\n  disk  \n")
    options = ["--machines", "machine-1-*", "--names", str(tmp_path / "names.txt"), "--realistic", "disk,eth_in"]
    out = imported("smd", smd, *options)
    dataset = read_dataset(out)
    assert dataset.features == Features(("eth_in", "disk"), ("cpu",), ("host", "group", "t"))
    assert sorted(dataset.splits) == ["hosts", "random", "time"]
    assert set(pq.read_table(out / "smd.parquet")["host"].to_pylist()) == {"machine-1-2", "machine-1-10"}


def test_one_machine_has_no_hosts_to_leave_out(smd: Path) -> None:
    assert sorted(read_dataset(imported("smd", smd, "--machines", "machine-1-2")).splits) == ["random", "time"]


@pytest.mark.parametrize(
    ("path", "content", "status", "message"),
    [
        ("test/notes.txt", "", 78, "test: found notes.txt, expected names such as machine-1-1.txt; move other files"),
        ("test/machine-1-2.txt", "1,2\n" * 120, 78, "test/machine-1-10.txt: row 1: found 3 columns, expected 2"),
        (
            "test/machine-1-10.txt",
            "1,2,3\n" * 7 + "1,2\n",
            78,
            "test/machine-1-10.txt: row 8: found 2 columns, expected 3",
        ),
        (
            "test/machine-1-10.txt",
            "1,2,3\n1,oops,3\n",
            78,
            "test/machine-1-10.txt: row 2, column 'm01': found 'oops', expected a number",
        ),
        (
            "test/machine-1-10.txt",
            "1,2,3\n" * 119,
            78,
            "test_label/machine-1-10.txt: found 120 rows, expected as many as test/machine-1-10.txt has, which is 119",
        ),
        (
            "test/machine-1-10.txt",
            "1,2,3\n" * 121,
            78,
            "test_label/machine-1-10.txt: found 120 rows, expected as many as test/machine-1-10.txt has, which is at l",
        ),
        ("test_label/machine-2-1.txt", "0\n2\n", 78, "test_label/machine-2-1.txt: row 2: found 2.0, expected 0 or 1"),
        (
            "test_label/machine-2-1.txt",
            "0\nno\n",
            78,
            "test_label/machine-2-1.txt: row 2, column 'label': found 'no', expected a number",
        ),
        (
            "test/machine-1-10.txt",
            "1,2,inf\n" * 120,
            78,
            "ServerMachineDataset, as it was written: smd.parquet: row 121, column 'm02' of host 'machine-1-10' holds ",
        ),
        ("test_label/machine-1-2.txt", None, 75, "machine-1-2.txt does not exist; check the path"),
        ("test/machine-1-2.txt", "", 78, "test/machine-1-2.txt is not a readable csv file: Empty CSV file"),
        ("test/machine-1-2.txt", b"\xff\xfe", 78, "found bytes that are not UTF-8"),
    ],
)
def test_smd_that_does_not_fit_is_refused_with_file_and_row(
    smd: Path, refused: Refused, path: str, content: str | bytes | None, status: int, message: str
) -> None:
    if content is None:
        (smd / path).unlink()
    else:
        (smd / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    found = refused("smd", smd)
    assert (found[0], message in found[1]) == (status, True), found


def test_smd_without_its_folders_or_with_unknown_names_is_refused(smd: Path, tmp_path: Path, refused: Refused) -> None:
    status, error = refused("smd", smd / "test")
    assert (status, "found no folder test in" in error) == (75, True)
    outer = tmp_path / "outer"
    outer.mkdir()
    smd.rename(outer / "ServerMachineDataset")
    status, error = refused("smd", outer)
    assert (status, error.endswith(f"; give {outer / 'ServerMachineDataset'}")) == (75, True)
    smd = outer / "ServerMachineDataset"
    status, error = refused("smd", smd, "--machines", "web-*")
    assert (status, error) == (
        78,
        "--machines web-*: found machine-1-2, machine-1-10, machine-2-1, none of which matches",
    )
    status, error = refused("smd", smd, "--realistic", "m01,cpu")
    assert (status, error) == (78, "--realistic: found cpu, expected metrics: m00, m01, m02")
    names = tmp_path / "names.txt"
    for text, found in (("a\nb\n", "2 names (2 different)"), ("a\nb\na\n", "3 names (2 different)")):
        names.write_text(text)
        status, error = refused("smd", smd, "--names", str(names))
        assert (status, f"names.txt: found {found}, expected 3 different ones" in error) == (78, True)
    names.write_bytes(b"\xff")
    assert refused("smd", smd, "--names", str(names))[0] == 78
    assert refused("smd", smd, "--names", str(tmp_path / "none"))[0] == 75


# NSL-KDD.


def connection(
    attack: str, protocol: str = "tcp", service: str = "http", flag: str = "SF", difficulty: int = 20
) -> str:
    values = ["0"] * 41
    values[1:4] = protocol, service, flag
    values[4] = "1379963888" if attack != "normal" else "181"
    return ",".join([*values, attack, str(difficulty)]) + "\n"


@pytest.fixture
def kdd(tmp_path: Path) -> Path:
    folder = tmp_path / "NSL-KDD"
    folder.mkdir()
    train = [connection("normal"), connection("neptune", service="http_443", flag="S0"), connection("normal", "udp")]
    test = [connection("normal", "icmp"), connection("saint", service="printer")]
    (folder / "KDDTrain+.txt").write_text("".join(train * 4))
    (folder / "KDDTest+.txt").write_text("".join(test * 3))
    return folder


def test_nslkdd_becomes_rows_that_stand_alone_with_the_published_split(kdd: Path) -> None:
    out = imported("nslkdd", kdd)
    dataset = read_dataset(out)
    assert (dataset.roles, dataset.windows.length) == (Roles(None, "label"), 1)
    assert dataset.splits == {"random": RandomSplit(0.3), "published": PublishedSplit("part")}
    assert (len(dataset.features.realistic), len(dataset.features.oracle_extra)) == (28, 13)
    assert dataset.features.realistic[:6] == ("duration", "protocol_type", "service", "flag", "src_bytes", "dst_bytes")
    assert (dataset.features.oracle_extra[0], dataset.features.oracle_extra[-1]) == ("hot", "is_guest_login")
    assert dataset.features.never == ("attack", "difficulty")
    assert dataset.categories == {
        "protocol_type": ("tcp", "udp"),
        "service": ("http", "http_443"),
        "flag": ("S0", "SF"),
    }
    table = pq.read_table(out / "nslkdd.parquet")
    assert table["part"].to_pylist() == ["train"] * 12 + ["test"] * 6
    assert table["label"].to_pylist() == [0, 1, 0] * 4 + [0, 1] * 3
    assert table["attack"].to_pylist()[10:14] == ["neptune", "normal", "normal", "saint"]
    assert table.column_names == ["part", "label", *nslkdd.COLUMNS]
    assert len(set(nslkdd.COLUMNS)) == 43


def test_values_that_only_the_test_file_holds_are_unknown(kdd: Path) -> None:
    found = read_telemetry(read_dataset(imported("nslkdd", kdd)), "realistic", "published")
    protocol = [found.columns.index(f"protocol_type={value}") for value in ("tcp", "udp")]
    assert found.values[12:14, protocol].tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert found.values[1, found.columns.index("service=http_443")] == 1.0
    assert found.hosts == ("all",)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("KDDTrain+.txt", "1,2,3\n", "KDDTrain+.txt: row 13: found 3 columns, expected 43"),
        (
            "KDDTest+.txt",
            connection("normal").replace("181", "many"),
            "KDDTest+.txt: row 7, column 'src_bytes': found 'many', expected a number",
        ),
        (
            "KDDTrain+.txt",
            "".join(connection("normal", service=f"s{index}") for index in range(256)),
            "KDDTrain+.txt: column 'service': found more than 256 values, expected at most 256",
        ),
        (
            "KDDTrain+.txt",
            connection("normal", flag="x" * 101),
            "KDDTrain+.txt: column 'flag': found a value of 101 characters, expected at most 100 characters",
        ),
    ],
)
def test_nslkdd_that_does_not_fit_is_refused_with_file_and_row(
    kdd: Path, refused: Refused, name: str, line: str, message: str
) -> None:
    with (kdd / name).open("a") as stream:
        stream.write(line)
    status, error = refused("nslkdd", kdd)
    assert (status, message in error) == (78, True), error


def test_nslkdd_without_normal_rows_or_without_a_file_is_refused(kdd: Path, refused: Refused) -> None:
    for name in ("KDDTrain+.txt", "KDDTest+.txt"):
        (kdd / name).write_text((kdd / name).read_text().replace("normal", "Normal."))
    status, error = refused("nslkdd", kdd)
    assert (status, "NSL-KDD: found 18 anomalous of 18 rows, expected both classes" in error) == (78, True)
    (kdd / "KDDTest+.txt").unlink()
    status, error = refused("nslkdd", kdd)
    assert (status, "found no KDDTest+.txt in" in error) == (75, True)


# Any CSV file.

HEADER = "time,box,rack,kind,bytes,load,note,proto,side\n"


def rows(count: int = 40) -> list[list[str]]:
    found = []
    for box, rack in (("b", "r1"), ("a", "r2"), ("c", "r1")):
        for index in range(count):
            kind, side = ("scan" if index % 4 == 0 else "ok"), ("train" if index < count - 9 else "test")
            proto = ("tcp", "udp", "")[index % 3] if side == "train" else "gre"
            found.append([str(index), box, rack, kind, str(index * 10), "0.5", "für, uns", proto, side])
    return found


def table_file(folder: Path, lines: Sequence[Sequence[str]] | None = None, header: str = HEADER) -> Path:
    path = folder / "my flows.csv"
    text = "".join(",".join(f'"{cell}"' if "," in cell else cell for cell in line) + "\n" for line in lines or rows())
    path.write_text(header + text, encoding="utf-8")
    return path


FULL = [
    *("--label", "kind", "--host", "box", "--time", "time", "--group", "rack", "--split", "side", "--never", "note"),
    *("--categorical", "proto", "--realistic", "bytes,proto", "--window", "4", "--positive", "scan", "worm"),
]


def test_a_csv_file_with_every_part_becomes_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = imported("csv", table_file(tmp_path), *FULL)
    dataset = read_dataset(out)
    assert (dataset.name, dataset.file, dataset.windows.length) == ("my-flows", "my-flows.parquet", 4)
    assert dataset.roles == Roles("box", "kind", "rack", "time")
    assert dataset.features == Features(("bytes", "proto"), ("load",), ("note",))
    assert dataset.splits == {
        "random": RandomSplit(0.3),
        "time": TimeSplit(0.6, 8),
        "hosts": HostsSplit((("b",), ("c",), ("a",))),
        "group": GroupSplit("rack"),
        "published": PublishedSplit("side"),
    }
    assert dataset.categories == {"proto": ("tcp", "udp")}
    table = pq.read_table(out / "my-flows.parquet")
    assert table.column_names == HEADER.strip().split(",")
    assert table["kind"].to_pylist()[:5] == [1, 0, 0, 0, 1]
    assert table["note"].to_pylist()[0] == "für, uns"
    assert "rows 120, hosts 3, anomalous 30 (25.00 %)" in capsys.readouterr().out


def test_a_csv_file_with_a_label_alone_is_rows_that_stand_alone(tmp_path: Path) -> None:
    lines = [["1", "2.5", "0"], ["3", "", "1"], ["5", "6", "0"]] * 10
    dataset = read_dataset(imported("csv", table_file(tmp_path, lines, "x,y,bad\n"), "--label", "bad"))
    assert dataset.roles == Roles(None, "bad")
    assert (dataset.windows.length, list(dataset.splits)) == (1, ["random"])
    assert dataset.features == Features(("x", "y"))
    assert read_telemetry(dataset, "oracle", "random").values[:3].tolist() == [[1.0, 2.5], [3.0, 2.5], [5.0, 6.0]]


def test_a_csv_file_without_hosts_may_hold_text_and_a_published_split(tmp_path: Path) -> None:
    lines = [["tcp", "train", "0"], ["udp", "train", "1"], ["gre", "test", "1"], ["tcp", "else", "0"]] * 5
    path = table_file(tmp_path, lines, "proto,side,bad\n")
    dataset = read_dataset(imported("csv", path, "--label", "bad", "--split", "side", "--categorical", "proto"))
    assert dataset.categories == {"proto": ("tcp", "udp")}
    assert list(dataset.splits) == ["random", "published"]
    assert read_telemetry(dataset, "realistic", "published").values[:4].tolist() == [[1, 0], [0, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("options", "features"),
    [
        ([], Features(("load", "bytes"), (), ("t",))),
        (["--oracle", "load"], Features(("bytes",), ("load",), ("t",))),
        (["--realistic", "load"], Features(("load",), ("bytes",), ("t",))),
        (["--realistic", "load", "--oracle", "bytes"], Features(("load",), ("bytes",), ("t",))),
    ],
)
def test_a_column_that_nobody_named_goes_to_the_tier_that_was_not_named(
    tmp_path: Path, options: list[str], features: Features
) -> None:
    path = table_file(tmp_path, [["1", "2", "t", "0"], ["1", "2", "t", "1"]] * 9, "load,bytes,t,bad\n")
    assert read_dataset(imported("csv", path, "--label", "bad", "--never", "t", *options)).features == features


def test_columns_beyond_both_named_tiers_are_kept_as_text_and_never_inputs(tmp_path: Path) -> None:
    path = table_file(tmp_path, [["1", "2", "x", "0"], ["1", "2", "y", "1"]] * 9, "load,bytes,id,bad\n")
    out = imported("csv", path, "--label", "bad", "--realistic", "load", "--oracle", "bytes", "--name", "n1")
    assert read_dataset(out).features.never == ("id",)
    assert pq.read_table(out / "n1.parquet")["id"].to_pylist()[:2] == ["x", "y"]


def test_without_a_published_split_all_rows_tell_the_known_values(tmp_path: Path) -> None:
    options = [
        option.replace("note", "note,side")
        for option in FULL
        if option not in ("--split", "side", "--positive", "worm")
    ]
    out = imported("csv", table_file(tmp_path), *(o for o in options if o != "scan"), "--positive", "scan")
    assert read_dataset(out).categories == {"proto": ("gre", "tcp", "udp")}


def edited(column: int, value: str, row: int = 5) -> list[list[str]]:
    found = rows()
    found[row][column] = value
    return found


@pytest.mark.parametrize(
    ("lines", "drop", "add", "message"),
    [
        (edited(4, "many"), [], [], "row 7, column 'bytes': found 'many', expected a number; name a column of text"),
        (rows(), ["--never", "note"], [], "column 'note': found 'für, uns', expected a number; name a column of text"),
        (
            rows(),
            [],
            ["--never", "notes,lod"],
            "found no column 'notes', nearest is 'note'; found no column 'lod', near",
        ),
        (
            rows(),
            ["--positive", "scan", "worm"],
            [],
            "column 'kind': found 'ok' (90 rows), 'scan' (30 rows), expected 0 or 1; na",
        ),
        (edited(3, ""), [], [], "column 'kind': found an empty cell in 1 rows, expected a label in every row"),
        (rows(), ["scan"], [], "found 0 anomalous of 120 rows, expected both classes; check which values mean"),
        (edited(2, "r9"), [], [], "column 'rack': found host 'b' in two groups, expected one"),
        (edited(1, ""), [], [], "row 6, column 'box' is empty (1 rows in all), expected a host"),
        (edited(0, "3"), [], [], "column 'time': host 'b' has more than one row at 3 (rows 4 and 6; 1 repeats in all)"),
        (edited(0, ""), [], [], "column 'time' of host 'b' is empty (1 rows in all)"),
        (
            edited(0, "noon", 0),
            [],
            [],
            "row 2, column 'time': found 'noon', expected a number, or a date and time such",
        ),
        (
            [[*line[:-1], "Train"] for line in rows()],
            [],
            [],
            "column 'side': found the values Train, expected train and",
        ),
        (rows(), [], ["--realistic", "kind,bytes"], "features: found 'kind', expected an input that is no role"),
        (rows(), [], ["--categorical", "proto,note"], "column 'note' is named as text, but it is not an input"),
        ([[*line[:7], "", line[8]] for line in rows()], [], [], "column 'proto': found no value in any training row"),
        ([["0"] * 8], [], [], "row 2: found 8 columns, expected 9"),
    ],
)
def test_a_csv_file_that_does_not_fit_is_refused_with_its_place(
    tmp_path: Path, refused: Refused, lines: list[list[str]], drop: list[str], add: list[str], message: str
) -> None:
    options = [option for option in FULL if option not in drop]
    status, error = refused("csv", table_file(tmp_path, lines), *options, *add)
    assert (status, message in error) == (78, True), error
    assert error.startswith("my flows.csv")


@pytest.mark.parametrize(
    ("header", "message"),
    [("x,x,bad\n", "found the column 'x' more than once"), ("x,,bad\n", "found a column without a name")],
)
def test_a_header_that_is_ambiguous_is_refused(tmp_path: Path, refused: Refused, header: str, message: str) -> None:
    status, error = refused("csv", table_file(tmp_path, [["1", "2", "0"]], header), "--label", "bad")
    assert (status, message in error) == (78, True)


def test_a_csv_file_without_rows_or_without_itself_is_refused(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("x,bad\n")
    assert refused("csv", path, "--label", "bad") == (78, "empty.csv: found no rows, expected telemetry")
    path.write_text("")
    assert refused("csv", path, "--label", "bad")[0] == 78
    path.unlink()
    assert refused("csv", path, "--label", "bad")[0] == 75


# The program.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["import", "csv", "f.csv", "out"], "the following arguments are required: --label"),
        (["import", "csv", "f.csv", "out", "--label", "y", "--group", "g"], "--group needs --host"),
        (["import", "csv", "f.csv", "out", "--label", "y", "--name", "../x"], "--name: found '../x', expected 1 to 64"),
        (
            ["import", "csv", "f.csv", "out", "--label", "y", "--window", "0"],
            "found '0', expected a whole number of row",
        ),
        (["import", "csv", "ä.csv", "out", "--label", "y"], "--name: found ''"),
        (["import", "tar", "x", "out"], "invalid choice: 'tar'"),
        ([], "the following arguments are required: {import,show}"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_was_expected(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        datasets.main(options)
    assert (caught.value.code, message in capsys.readouterr().err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone_and_an_empty_one_is_filled(
    kdd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit) as caught:
        datasets.main(["import", "nslkdd", str(kdd), str(out)])
    assert caught.value.code == 2
    assert "exists and is not an empty folder; name a new one" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    assert sorted(path.name for path in imported("nslkdd", kdd).iterdir()) == ["dataset.toml", "nslkdd.parquet"]


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (KeyboardInterrupt(), 130),
        (MemoryError(), 75),
        (OSError(28, "No space left on device"), 75),
        (ImportError("no pyarrow"), 75),
    ],
)
def test_an_import_that_breaks_off_leaves_nothing(
    kdd: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, fault: BaseException, status: int
) -> None:
    def broken(*arguments: object) -> None:
        raise fault

    monkeypatch.setattr("training.trainer.data.imports.folder.dataset_digest", broken)
    assert refused("nslkdd", kdd)[0] == status
