"""Claims about the data contract: what a declaration may say, and what its digest covers."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from training.contracts.dataset import (
    DatasetError,
    GroupSplit,
    HostsSplit,
    PublishedSplit,
    RandomSplit,
    TimeSplit,
    expanded_columns,
)
from training.contracts.dataset_folder import dataset_digest, read_dataset

WHOLE = """
schema = 1
[dataset]
name = "tiny"
file = "tiny.csv"
rows = 4
[roles]
host = "host"
group = "group"
time = "t"
label = "label"
[features]
realistic = ["bytes_in", "bytes_out"]
oracle_extra = ["cpu"]
never = ["host", "group", "t"]
[windows]
length = 3
label = "last"
[splits.random]
kind = "random_rows"
test_fraction = 0.3
[splits.time]
kind = "time"
train_fraction = 0.6
gap = 5
[splits.hosts]
kind = "leave_hosts_out"
folds = [["a"], ["b", "c"]]
[splits.group]
kind = "leave_group_out"
column = "group"
[splits.published]
kind = "column"
column = "side"
train = "learn"
test = "exam"
[units]
bytes_in = "bytes per second"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dataset.toml").write_text(WHOLE)
    (tmp_path / "tiny.csv").write_text("host,group,t,label\n")
    return tmp_path


def test_a_whole_declaration_is_read_field_by_field(folder: Path) -> None:
    dataset = read_dataset(folder)
    assert (dataset.name, dataset.file, dataset.data_path) == ("tiny", "tiny.csv", folder / "tiny.csv")
    assert dataset.roles.columns() == ("host", "group", "t", "label")
    assert dataset.features.columns("realistic") == ("bytes_in", "bytes_out")
    assert dataset.features.columns("oracle") == ("bytes_in", "bytes_out", "cpu")
    assert dataset.windows.length == 3
    assert dataset.splits == {
        "random": RandomSplit(0.3),
        "time": TimeSplit(0.6, 5),
        "hosts": HostsSplit((("a",), ("b", "c"))),
        "group": GroupSplit("group"),
        "published": PublishedSplit("side", "learn", "exam"),
    }
    assert dataset.units == {"bytes_in": "bytes per second"}


def test_group_time_oracle_and_units_may_be_left_out(folder: Path) -> None:
    (folder / "dataset.toml").write_text(
        'schema = 1\n[dataset]\nname = "x"\nfile = "tiny.csv"\n[roles]\nhost = "host"\nlabel = "y"\n'
        '[features]\nrealistic = ["a"]\n[windows]\nlength = 2\n'
        '[splits.random]\nkind = "random_rows"\ntest_fraction = 0.5\n'
        '[splits.published]\nkind = "column"\ncolumn = "side"\n'
    )
    dataset = read_dataset(folder)
    assert dataset.roles.columns() == ("host", "y")
    assert dataset.features.columns("oracle") == ("a",)
    assert dataset.splits == {"random": RandomSplit(0.5), "published": PublishedSplit("side", "train", "test")}
    assert (dataset.units, dataset.categories) == ({}, {})


def test_host_may_be_left_out_and_text_columns_be_declared(folder: Path) -> None:
    (folder / "dataset.toml").write_text(
        'schema = 1\n[dataset]\nname = "x"\nfile = "tiny.csv"\n[roles]\nlabel = "y"\n'
        '[features]\nrealistic = ["a", "proto"]\noracle_extra = ["b"]\n[categories]\nproto = ["tcp", "ö, \\"x\\""]\n'
        '[windows]\nlength = 1\n[splits.random]\nkind = "random_rows"\ntest_fraction = 0.5\n'
    )
    dataset = read_dataset(folder)
    assert (dataset.roles.host, dataset.roles.columns(), dataset.windows.length) == (None, ("y",), 1)
    assert dataset.categories == {"proto": ("tcp", 'ö, "x"')}
    names = expanded_columns(dataset.features.columns("oracle"), dataset.categories)
    assert names == ("a", "proto=tcp", 'proto=ö, "x"', "b")


@pytest.mark.parametrize(("recipe", "role"), [("hosts", "roles.host"), ("group", "roles.host"), ("time", "roles.time")])
def test_a_split_that_needs_a_missing_role_is_explained_by_that_role(folder: Path, recipe: str, role: str) -> None:
    text = WHOLE.split("[splits.time]")[0].replace('host = "host"\n', "").replace('time = "t"\n', "")
    (folder / "dataset.toml").write_text(text)
    assert read_dataset(folder).missing_split(recipe) == (
        f"dataset 'tiny' declares no split '{recipe}'; it has random; "
        f"that split needs {role}, which this dataset does not have"
    )


def test_a_split_that_is_only_not_declared_is_named_with_those_that_are(folder: Path) -> None:
    (folder / "dataset.toml").write_text(WHOLE.split("[splits.hosts]")[0])
    assert (
        read_dataset(folder).missing_split("hosts") == "dataset 'tiny' declares no split 'hosts'; it has random, time"
    )


def test_an_unknown_mode_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="mode 'sideways' is unknown, expected one of realistic, oracle"):
        read_dataset(folder).features.columns("sideways")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("schema = 1", "schema = 2", "schema: found 2, expected 1"),
        ("schema = 1", "schema = true", "schema: found True, expected 1"),
        ('name = "tiny"', "name = 3", "dataset.name: found 3, expected text that is not empty"),
        ('"tiny.csv"', '"../tiny.csv"', "dataset.file: found '../tiny.csv', expected a name inside the dataset folder"),
        ('"tiny.csv"', '"/etc/x.csv"', "dataset.file: found '/etc/x.csv', expected a name inside the dataset folder"),
        ('"tiny.csv"', '"tiny.xls"', "dataset.file: found 'tiny.xls', expected a name that ends in .parquet or .csv"),
        (
            'host = "host"',
            'hots = "host"',
            "roles.hots: found an unknown key, expected one of host, group, time, label;",
        ),
        ('label = "label"', 'label = "host"', "roles: found 'host, group, t, host', expected a column of its own"),
        ('["cpu"]', '["label"]', "features: found 'label', expected an input that is no role, no split column"),
        ('["cpu"]', '["side"]', "features: found 'side', expected an input that is no role, no split column"),
        ('["cpu"]', '["bytes_in"]', "features: found 'bytes_in', expected each column in one tier only"),
        ('["cpu"]', "3", "features.oracle_extra: found 3, expected a list of names"),
        ('["bytes_in", "bytes_out"]', "[]", "features.realistic: found [], expected at least one column"),
        ("length = 3", "length = 0", "windows.length: found 0, expected a whole number of rows from 1 to 100000"),
        (
            'host = "host"\n',
            "",
            "splits.hosts: found a split without roles.host, expected roles.host, which this split needs; name that",
        ),
        ('host = "host"\n', "", "splits.group: found a split without roles.host, expected roles.host"),
        ('time = "t"\n', "", "splits.time: found a split without roles.time, expected roles.time"),
        (
            "[units]",
            "[categories]\ncpus = ['a']\n[units]",
            "categories.cpus: found no such feature, expected a column of [features]; nearest is cpu",
        ),
        (
            "[units]",
            "[categories]\ncpu = []\n[units]",
            "categories.cpu: found [], expected a list of at least one value",
        ),
        ("[units]", "[categories]\ncpu = 'a'\n[units]", "categories.cpu: found 'a', expected a list of at least one"),
        (
            "[units]",
            "[categories]\ncpu = [1]\n[units]",
            "categories.cpu: found 1, expected text of 1 to 100 characters",
        ),
        ("[units]", "[categories]\ncpu = ['']\n[units]", "categories.cpu: found '', expected text of 1 to 100 charact"),
        ("[units]", f"[categories]\ncpu = ['{'x' * 101}']\n[units]", "xxx', expected text of 1 to 100 characters"),
        (
            "[units]",
            "[categories]\ncpu = ['b', 'a', 'b']\n[units]",
            "categories.cpu: found 'b', expected each value once",
        ),
        (
            "[units]",
            f"[categories]\ncpu = {[str(i) for i in range(257)]}\n[units]",
            "categories.cpu: found 257 values, expected at most 256 values",
        ),
        (
            '["cpu"]\nnever = ["host", "group", "t"]',
            "['cpu', 'cpu=a']\n[categories]\ncpu = ['a']",
            "categories: found 'cpu=a', expected names column=value that no other input has",
        ),
        ('label = "last"', 'label = "any"', "windows.label: found 'any', expected \"last\""),
        (
            "test_fraction = 0.3",
            "test_fraction = 1.0",
            "splits.random.test_fraction: found 1.0, expected a number betw",
        ),
        ("gap = 5", "gap = -1", "splits.time.gap: found -1, expected a whole number of rows, 0 or more"),
        ('kind = "time"', 'kind = "clock"', "splits.time.kind: found 'clock', expected \"time\""),
        ('[["a"], ["b", "c"]]', '[["a"]]', "splits.hosts.folds: found [['a']], expected a list of at least two lists"),
        ('[["a"], ["b", "c"]]', '[["a"], ["a"]]', "splits.hosts.folds: found 'a', expected each host in one fold only"),
        ('[["a"], ["b", "c"]]', '[["a"], []]', "splits.hosts.folds.1: found [], expected at least one host name"),
        ('[["a"], ["b", "c"]]', '[["a"], 7]', "splits.hosts.folds.1: found 7, expected a list of names"),
        ("[splits.group]", "[splits.grupo]", "splits.grupo: found an unknown key, expected one of random, time, hosts"),
        ('"bytes per second"', "7", "units.bytes_in: found 7, expected text that is not empty"),
        ("[units]", "[unit]", "unit: found an unknown key"),
        ("schema = 1", "schema = 1\nunits = 3", None),
    ],
)
def test_each_fault_names_place_found_and_expected(folder: Path, old: str, new: str, line: str | None) -> None:
    text = WHOLE.replace(old, new, 1)
    if line is None:
        text, line = text.replace('[units]\nbytes_in = "bytes per second"\n', ""), "units: found 3, expected a table"
    (folder / "dataset.toml").write_text(text)
    with pytest.raises(DatasetError) as caught:
        read_dataset(folder)
    assert line in str(caught.value)
    assert caught.value.unreadable is False


def test_an_unknown_key_is_answered_with_the_nearest_valid_name(folder: Path) -> None:
    (folder / "dataset.toml").write_text(WHOLE.replace("oracle_extra", "oracle_extras"))
    with pytest.raises(DatasetError, match="nearest is oracle_extra"):
        read_dataset(folder)


def test_all_faults_are_reported_at_once(folder: Path) -> None:
    (folder / "dataset.toml").write_text("schema = 9\n[dataset]\nname = ''\n[splits]\nrandom = 3\n")
    with pytest.raises(DatasetError) as caught:
        read_dataset(folder)
    assert [fault.place for fault in caught.value.faults] == [
        "schema",
        "dataset.name",
        "dataset.file",
        "roles",
        "features",
        "windows",
        "splits.random",
        "splits.random.kind",
        "splits.random.test_fraction",
    ]


def test_a_declaration_without_splits_is_refused(folder: Path) -> None:
    (folder / "dataset.toml").write_text(WHOLE.split("[splits.random]")[0] + "[splits]\n")
    with pytest.raises(DatasetError, match=r"splits: found \{\}, expected at least one of random, time, hosts"):
        read_dataset(folder)


def test_a_long_found_value_is_shortened(folder: Path) -> None:
    (folder / "dataset.toml").write_text(WHOLE.replace("length = 3", f'length = "{"x" * 500}"'))
    with pytest.raises(DatasetError) as caught:
        read_dataset(folder)
    assert len(caught.value.faults[0].found) == 200


@pytest.mark.parametrize("content", [b"schema = ", b"\xff\xfe", b"x" * ((1 << 20) + 1)])
def test_a_broken_declaration_is_a_fault_of_the_dataset(folder: Path, content: bytes) -> None:
    (folder / "dataset.toml").write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        read_dataset(folder)
    assert caught.value.faults[0].place == "dataset.toml"
    assert caught.value.unreadable is False


def test_a_missing_folder_or_data_file_is_the_hosts_trouble(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset.toml: found No such file or directory") as caught:
        read_dataset(tmp_path / "nowhere")
    assert caught.value.unreadable is True
    (folder / "tiny.csv").unlink()
    with pytest.raises(DatasetError, match=r"no file 'tiny\.csv' in the folder") as caught:
        read_dataset(folder)
    assert caught.value.unreadable is True


def test_the_digest_covers_declaration_and_data_and_nothing_else(folder: Path) -> None:
    toml = hashlib.sha256(WHOLE.encode()).hexdigest()
    data = hashlib.sha256(b"host,group,t,label\n").hexdigest()
    text = "".join(sorted([f"{toml} dataset.toml\n", f"{data} tiny.csv\n"]))
    digest = dataset_digest(folder)
    assert digest == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    (folder / "README.md").write_text("other")
    assert dataset_digest(folder) == digest
    (folder / "tiny.csv").write_text("host,group,t,label\na,1,0,0\n")
    assert dataset_digest(folder) != digest


def test_the_cache_spares_reading_until_size_or_time_changes(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "state" / "digests.json"
    digest = dataset_digest(folder, cache)
    entries = json.loads(cache.read_text())
    assert sorted(Path(name).name for name in entries) == ["dataset.toml", "tiny.csv"]
    entries[str((folder / "tiny.csv").resolve())][2] = "0" * 64
    cache.write_text(json.dumps(entries))
    assert dataset_digest(folder, cache) != digest
    os.utime(folder / "tiny.csv", ns=(1, 1))
    assert dataset_digest(folder, cache) == digest


@pytest.mark.parametrize("name", ["dataset.toml", "tiny.csv"])
def test_a_file_replaced_with_its_size_and_time_kept_is_read_again(folder: Path, tmp_path: Path, name: str) -> None:
    cache, path = tmp_path / "digests.json", folder / name
    digest = dataset_digest(folder, cache)
    before, text = path.stat(), path.read_text()
    other = tmp_path / "other"
    other.write_text(text[:-1] + " ")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    assert path.stat().st_size == before.st_size
    assert dataset_digest(folder, cache) == dataset_digest(folder) != digest


@pytest.mark.parametrize("content", [b"not json", b"[1]", b"\xff"])
def test_a_damaged_cache_is_ignored_and_replaced(folder: Path, tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "digests.json"
    cache.write_bytes(content)
    assert dataset_digest(folder, cache) == dataset_digest(folder)
    assert len(json.loads(cache.read_text())) == 2


def test_a_cache_that_cannot_be_written_costs_time_only(folder: Path, tmp_path: Path) -> None:
    assert dataset_digest(folder, folder / "tiny.csv" / "digests.json") == dataset_digest(folder)


def test_a_data_file_that_cannot_be_hashed_is_the_hosts_trouble(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_open = Path.open

    def refuse(path: Path, mode: str = "r", **options: object) -> object:
        if path.name == "tiny.csv":
            raise PermissionError(13, "Permission denied", str(path))
        return read_open(path, mode)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DatasetError, match=r"tiny\.csv: found Permission denied") as caught:
        dataset_digest(folder)
    assert caught.value.unreadable is True
