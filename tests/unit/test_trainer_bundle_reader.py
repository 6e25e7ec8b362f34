"""Claims about reading a bundle without trusting it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from training.trainer.faults import HostError, SpecError
from training.trainer.stored import archive
from training.trainer.stored import model_files as bundle_reader
from training.trainer.stored.model_files import Description, unpacked

zstd = archive.zstd_module()

WHOLE: dict[str, Any] = {
    "v": 1,
    "model": "gbt",
    "mode": "oracle",
    "files": ["model.txt"],
    "columns": ["x", "y"],
    "host_column": "host",
    "time_column": None,
    "window_rows": 30,
    "history": True,
    "features": [],
    "threshold": 0.5,
}


def bundle(folder: Path, *members: tuple[str, bytes] | tarfile.TarInfo, description: Any = WHOLE) -> Path:
    path = folder / "bundle.tar.zst"
    listed: list[tuple[str, bytes] | tarfile.TarInfo] = list(members)
    if description is not None:
        listed.append(("model.json", json.dumps(description).encode()))
    with zstd.open(path, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        for member in listed:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return path


def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_model_files_come_out_and_the_rest_stays_in(tmp_path: Path) -> None:
    path = bundle(tmp_path, ("metrics.json", b"{}"), ("model.txt", b"tree"))
    folder = out(tmp_path)
    wanted = Description("gbt", ("x", "y"), "host", None, 30, True, 0.5, mode="oracle", model_bytes=4)
    assert unpacked(path, folder) == wanted
    assert sorted(item.name for item in folder.iterdir()) == ["model.json", "model.txt"]
    assert (folder / "model.txt").read_bytes() == b"tree"


def test_a_bundle_may_know_no_host_and_list_the_values_of_its_text_columns(tmp_path: Path) -> None:
    text = WHOLE | {"host_column": None, "categories": {"y": ["tcp", "udp"]}}
    found = unpacked(bundle(tmp_path, ("model.txt", b""), description=text), out(tmp_path))
    assert (found.host_column, found.categories) == (None, {"y": ("tcp", "udp")})


def test_an_artifact_folder_is_read_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "artifact"
    source.mkdir()
    (source / "model.json").write_text(json.dumps(WHOLE))
    (source / "model.txt").write_text("tree")
    (source / "model_card.md").write_text("card")
    folder = out(tmp_path)
    assert unpacked(source, folder).model == "gbt"
    assert sorted(item.name for item in folder.iterdir()) == ["model.json", "model.txt"]


def link(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([link("model.txt")], "the bundle's member 'model.txt' is not a regular file"),
        ([("../model.txt", b"")], "the bundle's member '../model.txt' is not a plain file name"),
        ([("/etc/x", b"")], "is not a plain file name"),
        ([("model.txt", b""), ("model.txt", b"")], "the bundle holds 'model.txt' twice"),
        ([(f"f{i}", b"") for i in range(65)], "the bundle holds more than 64 files"),
    ],
)
def test_a_bundle_that_breaks_a_rule_is_refused(tmp_path: Path, members: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        unpacked(bundle(tmp_path, *members), out(tmp_path))
    assert message in str(caught.value)


def test_files_in_folders_and_hidden_ones_stay_in(tmp_path: Path) -> None:
    folder = out(tmp_path)
    unpacked(bundle(tmp_path, (".hidden", b""), ("a/model.txt", b"other"), ("model.txt", b"tree")), folder)
    assert sorted(str(item.relative_to(folder)) for item in folder.rglob("*")) == ["model.json", "model.txt"]


def test_a_member_over_its_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_reader, "MAX_FILE_BYTES", 10)
    with pytest.raises(SpecError, match=r"member 'model\.txt' is larger than"):
        unpacked(bundle(tmp_path, ("model.txt", b"x" * 11)), out(tmp_path))


def test_a_bundle_that_unfolds_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_reader, "MAX_TOTAL_BYTES", 1 << 20)
    with pytest.raises(SpecError, match="unfolds to more than 1 MiB"):
        unpacked(bundle(tmp_path, ("metrics.json", bytes(2 << 20))), out(tmp_path))


def test_a_damaged_or_cut_bundle_is_refused(tmp_path: Path) -> None:
    path = bundle(tmp_path, ("model.txt", bytes(range(256)) * 100))
    content = path.read_bytes()
    for index, bad in enumerate((b"", b"not a bundle", content[: len(content) // 2])):
        path.write_bytes(bad)
        folder = tmp_path / str(index)
        folder.mkdir()
        with pytest.raises(SpecError, match=r"bundle\.tar\.zst is not a whole bundle|holds no model\.json"):
            unpacked(path, folder)


def test_a_missing_bundle_is_the_hosts_trouble(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="does not exist; give a bundle"):
        unpacked(tmp_path / "nothing", out(tmp_path))


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (None, "holds no model.json, so another trainer made it; its own program scores with it"),
        ([], r"v: found \[\], expected 1"),
        (WHOLE | {"v": 2}, "v: found 2, expected 1"),
        (
            {"v": 1},
            "model: found None; columns: found None; host_column: found None; time_column: found None",
        ),
        (WHOLE | {"history": 3}, "history: found 3"),
        (WHOLE | {"window_rows": True}, "window_rows: found True"),
        (WHOLE | {"window_rows": 0}, "window_rows: found 0"),
        (WHOLE | {"window_rows": 10**9}, "window_rows: found 1000000000"),
        (WHOLE | {"threshold": True}, "threshold: found True"),
        (WHOLE | {"threshold": 10**400}, "threshold: found 1000"),
        (WHOLE | {"categories": []}, r"categories: found \[\], expected a table of column names"),
        (WHOLE | {"categories": {"q": ["a"]}}, "categories.q: found no such feature"),
        (WHOLE | {"categories": {"x": ["a", 3]}}, "categories.x: found 3, expected text of 1 to 100 characters"),
        (WHOLE | {"columns": []}, r"columns: found \[\]"),
        (WHOLE | {"columns": [f"c{index}" for index in range(10_001)]}, r"columns: found \['c0', 'c1'"),
        (WHOLE | {"columns": [[], {}]}, r"columns: found \[\[\], \{\}\], expected names"),
    ],
)
def test_a_description_of_another_format_is_refused(tmp_path: Path, description: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        unpacked(bundle(tmp_path, ("model.txt", b""), description=description), out(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"",
        b"\xff",
        b'{"v": 2, "v": 1}',
        b'{"v": NaN}',
        b'{"v": -Infinity}',
        b"[" * 100_000,
        b'{"v": ' + b"9" * 5000 + b"}",
    ],
    ids=["cut", "empty", "no UTF-8", "a name twice", "NaN", "infinity", "100,000 brackets", "5000 digits"],
)
def test_a_description_that_is_not_json_is_refused(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(SpecError, match=r"model\.json is not JSON"):
        unpacked(bundle(tmp_path, ("model.json", text), description=None), out(tmp_path))


def test_a_description_of_megabytes_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"model\.json is larger than 4 MiB"):
        unpacked(bundle(tmp_path, ("model.json", b" " * (4 << 20) + b"{}"), description=None), out(tmp_path))


def test_thousands_of_values_for_columns_that_are_not_there_are_refused_at_once(tmp_path: Path) -> None:
    """Each was compared with every column to name the nearest, which took hours."""
    text = WHOLE | {
        "columns": [f"column-{index:05}" for index in range(10_000)],
        "categories": {f"calumn-{index:05}": ["a"] for index in range(100_000)},
    }
    with pytest.raises(SpecError, match=r"categories\.calumn-00000: found no such feature") as caught:
        unpacked(bundle(tmp_path, ("model.txt", b""), description=text), out(tmp_path))
    assert len(str(caught.value)) < 300


def test_a_file_of_an_artifact_folder_over_its_limit_is_refused_uncopied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_reader, "MAX_FILE_BYTES", 1000)
    source = tmp_path / "artifact"
    source.mkdir()
    (source / "model.txt").write_bytes(b"x" * 1001)
    with pytest.raises(SpecError, match=r"model\.txt is larger than"):
        unpacked(source, out(tmp_path))
    assert list((tmp_path / "out").iterdir()) == []


def test_without_a_zstd_library_the_host_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "backports", None)
    monkeypatch.setitem(__import__("sys").modules, "compression", None)
    (tmp_path / "bundle.tar.zst").write_bytes(b"")
    with pytest.raises(HostError, match=r"needs backports\.zstd"):
        unpacked(tmp_path / "bundle.tar.zst", tmp_path)
