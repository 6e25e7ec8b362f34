"""The bundle: canonical, whole, and readable by any zstd."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest
from backports import zstd

from training.fleet import bundle
from training.fleet.model.errors import TrainerError

# The tar of {"a.txt": "one\n", "sub/b.txt": ""}; fixed here so that no platform or version may move it.
TWO_FILES = "sha256:9809f2eeb7ddb73009f17fae9a0e47f130b226538e5f19916d1cadbefcffdc2d"


def two_files(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"one\n")
    (folder / "sub" / "b.txt").write_bytes(b"")
    return folder


def refused(folder: Path, tmp_path: Path) -> TrainerError:
    target = tmp_path / "out.tar.zst"
    with pytest.raises(TrainerError) as caught:
        bundle.pack(folder, target)
    assert not target.exists()
    assert not (tmp_path / "out.tar.zst.part").exists()
    return caught.value


@pytest.fixture(params=["zstd", "plain"])
def compressor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways a host may write the frame."""
    if request.param == "plain":

        def absent(name: str) -> None:
            raise ImportError(name)

        monkeypatch.setattr(bundle.importlib, "import_module", absent)
    return str(request.param)


def test_the_content_digest_is_the_same_everywhere(tmp_path: Path, compressor: str) -> None:
    packed = bundle.pack(two_files(tmp_path / "art"), tmp_path / "out")
    assert packed.content_digest == TWO_FILES


def test_the_bundle_is_the_tar_that_the_standard_library_would_write(tmp_path: Path, compressor: str) -> None:
    folder = two_files(tmp_path / "art")
    (folder / "model.bin").write_bytes(bytes(range(256)) * 9000)
    packed = bundle.pack(folder, tmp_path / "out")
    data = zstd.decompress((tmp_path / "out").read_bytes())
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("a.txt", "model.bin", "sub/b.txt"):
            info = tarfile.TarInfo(name)
            content = (folder / name).read_bytes()
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
    assert data == expected.getvalue()
    assert packed.content_digest == "sha256:" + hashlib.sha256(data).hexdigest()


def test_the_digest_and_length_are_those_of_the_file(tmp_path: Path, compressor: str) -> None:
    packed = bundle.pack(two_files(tmp_path / "art"), tmp_path / "out")
    written = (tmp_path / "out").read_bytes()
    assert packed.sha256 == hashlib.sha256(written).hexdigest()
    assert packed.size_bytes == len(written)
    assert not (tmp_path / "out.part").exists()


def test_times_owners_rights_and_order_do_not_count(tmp_path: Path, compressor: str) -> None:
    first = bundle.pack(two_files(tmp_path / "one"), tmp_path / "out1")
    other = tmp_path / "two"
    (other / "sub").mkdir(parents=True)
    (other / "sub" / "b.txt").write_bytes(b"")
    (other / "empty").mkdir()
    (other / "a.txt").write_bytes(b"one\n")
    (other / "a.txt").chmod(0o755)
    os.utime(other / "a.txt", (1, 1))
    second = bundle.pack(other, tmp_path / "out2")
    assert first == second


@pytest.mark.parametrize("size", [0, 1, 511, 512, 2**17 - 512, 2**20 - 512, 2**20, 3 * 2**20 + 7])
def test_every_size_comes_back(tmp_path: Path, compressor: str, size: int) -> None:
    (tmp_path / "art").mkdir()
    content = (hashlib.sha256(b"x").digest() * (size // 32 + 1))[:size]
    (tmp_path / "art" / "f").write_bytes(content)
    bundle.pack(tmp_path / "art", tmp_path / "out")
    with tarfile.open(fileobj=io.BytesIO(zstd.decompress((tmp_path / "out").read_bytes()))) as tar:
        member = tar.extractfile("f")
        assert member is not None
        assert member.read() == content


def test_bytes_that_do_not_shrink_grow_by_less_than_a_thousandth(tmp_path: Path, compressor: str) -> None:
    (tmp_path / "art").mkdir()
    (tmp_path / "art" / "noise").write_bytes(os.urandom(4 * 2**20))
    packed = bundle.pack(tmp_path / "art", tmp_path / "out")
    assert packed.size_bytes < 4 * 2**20 + 10240 + 4096


def test_the_frame_says_how_long_the_tar_is(tmp_path: Path, compressor: str) -> None:
    bundle.pack(two_files(tmp_path / "art"), tmp_path / "out")
    assert zstd.get_frame_info((tmp_path / "out").read_bytes()).decompressed_size == 10240


def test_an_older_bundle_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    packed = bundle.pack(two_files(tmp_path / "art"), tmp_path / "out")
    assert (tmp_path / "out").stat().st_size == packed.size_bytes


def test_a_missing_folder_is_no_artifact(tmp_path: Path) -> None:
    error = refused(tmp_path / "nowhere", tmp_path)
    assert error.kind == "no_artifact"
    assert "the trainer must leave its files there" in str(error)


def test_an_empty_folder_is_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "art").mkdir()
    assert refused(tmp_path / "art", tmp_path).kind == "no_artifact"


def test_a_link_is_refused_wherever_it_points(tmp_path: Path) -> None:
    folder = two_files(tmp_path / "art")
    (folder / "link").symlink_to("a.txt")
    error = refused(folder, tmp_path)
    assert error.kind == "no_artifact"
    assert "'link', a link; expected a regular file" in str(error)


def test_a_link_in_place_of_the_artifact_is_not_followed(tmp_path: Path) -> None:
    two_files(tmp_path / "elsewhere")
    (tmp_path / "art").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert f"found a link at {tmp_path / 'art'}" in str(refused(tmp_path / "art", tmp_path))


def test_a_file_in_place_of_the_artifact_is_refused(tmp_path: Path) -> None:
    (tmp_path / "art").write_text("model")
    assert f"found a file at {tmp_path / 'art'}" in str(refused(tmp_path / "art", tmp_path))


@pytest.mark.parametrize(("name", "kind"), [("art/a.txt", "no_artifact"), ("art.tar.part", "host_fault")])
def test_what_may_not_be_read_is_the_trainers_fault_and_what_may_not_be_written_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    folder = two_files(tmp_path / "art")

    def forbidden(*args: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / name))

    monkeypatch.setattr(bundle.os, "open", forbidden)
    assert refused(folder, tmp_path).kind == kind


def test_a_linked_folder_is_not_followed(tmp_path: Path) -> None:
    folder = two_files(tmp_path / "art")
    (folder / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
    assert "'elsewhere', a link" in str(refused(folder, tmp_path))


def test_a_pipe_is_refused_without_opening_it(tmp_path: Path) -> None:
    folder = two_files(tmp_path / "art")
    os.mkfifo(folder / "pipe")
    assert "'pipe', a pipe" in str(refused(folder, tmp_path))


def test_a_windows_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Junction:
        name, path = "junction", str(tmp_path / "art" / "junction")

        def stat(self, *, follow_symlinks: bool) -> object:
            return type("Stat", (), {"st_reparse_tag": 0xA0000003, "st_mode": 0o040755})

    class Entries(list[Junction]):
        def __enter__(self) -> Entries:
            return self

        def __exit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(bundle.os, "scandir", lambda folder: Entries([Junction()]))
    assert "found the link 'junction'" in str(refused(tmp_path / "art", tmp_path))


@pytest.mark.parametrize(
    "name",
    ["a\nb", "a:b", "a\\b", "tail.", "tail ", " head", "-rf", "CON", "nul.txt", "nul .txt", "é", "x" * 101, "\x1b[31m"],
)
def test_an_odd_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "art").mkdir()
    (tmp_path / "art" / name).write_bytes(b"x")
    error = refused(tmp_path / "art", tmp_path)
    assert error.kind == "no_artifact"
    assert "found the name" in str(error)


def test_two_names_that_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    (tmp_path / "art").mkdir()
    for name in ("Model", "model"):
        (tmp_path / "art" / name).write_bytes(b"x")
    assert "'Model' and 'model'" in str(refused(tmp_path / "art", tmp_path))


def test_two_folders_whose_names_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    for name in ("Fold/a", "fold/b"):
        (tmp_path / "art" / name).parent.mkdir(parents=True)
        (tmp_path / "art" / name).write_bytes(b"x")
    assert "'Fold' and 'fold'" in str(refused(tmp_path / "art", tmp_path))


def test_a_path_too_long_for_a_tar_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / "art" / ("d" * 90) / ("e" * 90) / ("f" * 90)
    deep.mkdir(parents=True)
    (deep / "x").write_bytes(b"x")
    assert "expected a shorter one" in str(refused(tmp_path / "art", tmp_path))


def test_folders_nested_too_deep_are_refused(tmp_path: Path) -> None:
    deep = tmp_path / "art" / "/".join("d" * 17)
    deep.mkdir(parents=True)
    assert "nested deeper than 16" in str(refused(tmp_path / "art", tmp_path))


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_FILES", 1)
    assert "found more than 1 files" in str(refused(two_files(tmp_path / "art"), tmp_path))


def test_too_many_bytes_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "art").mkdir()
    with (tmp_path / "art" / "huge").open("wb") as file:
        file.truncate(8 * 2**30)
    assert "at most 8589934591" in str(refused(tmp_path / "art", tmp_path))


@pytest.mark.parametrize("change", [b"", b"one\ntwo\n"])
def test_a_file_that_changes_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: bytes
) -> None:
    folder = two_files(tmp_path / "art")
    header = bundle._header

    def changing(member: bundle._Member) -> bytes:
        member.path.write_bytes(change)
        return header(member)

    monkeypatch.setattr(bundle, "_header", changing)
    assert "changed while it was packed" in str(refused(folder, tmp_path))


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.EIO, "host_fault")]
)
def test_a_disk_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: str) -> None:
    folder = two_files(tmp_path / "art")

    def failing(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(bundle.os, "fsync", failing)
    error = refused(folder, tmp_path)
    assert error.kind == kind
    assert os.strerror(number) in str(error)


def test_a_failing_write_ends_the_packing(tmp_path: Path) -> None:
    (tmp_path / "art").mkdir()
    (tmp_path / "art" / "noise").write_bytes(os.urandom(8 * 2**20))
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        bundle._write(bundle._members(tmp_path / "art"), full)
