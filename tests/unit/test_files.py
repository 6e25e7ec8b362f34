"""Files that appear whole: in which order, with which rights, and what is left when the disk refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from training.fleet import files, system
from training.fleet.files import make_folder, replace_shared, sync_folder, unused, whole, write_new, write_whole

Write = Callable[[Path, bytes], object]
WRITERS: dict[str, Write] = {
    "whole": write_whole,
    "private": lambda path, data: write_whole(path, data, private=True),
    "shared": replace_shared,
    "new": write_new,
}


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_synced_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    steps: list[str] = []
    sync, rename, link = os.fsync, system.replace, os.link

    def synced(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("sync folder" if folder else f"sync {os.fstat(descriptor).st_size} bytes")
        sync(descriptor)

    def named(call: Callable[..., object]) -> Callable[..., object]:
        return lambda *paths: (steps.append("name"), call(*paths))[1]

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(system, "replace", named(rename))
    monkeypatch.setattr(os, "link", named(link))
    WRITERS[name](tmp_path / "x", b"12345")
    assert steps == ["sync 5 bytes", "name", "sync folder"]
    assert (tmp_path / "x").read_bytes() == b"12345"


@pytest.mark.parametrize("name", ["whole", "private", "shared"])
def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path, name: str) -> None:
    for text in (b"a long text", b"short"):
        WRITERS[name](tmp_path / "x", text)
    assert (tmp_path / "x").read_bytes() == b"short"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize(("name", "rights"), [("whole", 0o644), ("private", 0o600), ("shared", 0o600), ("new", 0o600)])
def test_a_private_file_is_so_under_any_umask(tmp_path: Path, name: str, rights: int) -> None:
    for mask in (0, 0o22):
        with umask(mask):
            WRITERS[name](tmp_path / f"{mask}", b"x")
    assert (mode(tmp_path / "18"), mode(tmp_path / "0") & 0o700) == (rights, 0o600)
    assert rights == 0o644 or mode(tmp_path / "0") == 0o600


def test_a_private_file_takes_the_place_of_an_open_one_and_of_its_own_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    (tmp_path / "file.part").write_text("left over")
    (tmp_path / "file.part").chmod(0o644)
    write_whole(path, b"new", private=True)
    assert (path.read_text(), mode(path)) == ("new", 0o600)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("private", [False, True])
def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path: Path, private: bool) -> None:
    (tmp_path / "other").write_text("keep")
    (tmp_path / "x.part").symlink_to("other")
    with contextlib.suppress(OSError):
        write_whole(tmp_path / "x", b"new", private=private)
    assert (tmp_path / "other").read_text() == "keep"
    write_whole(tmp_path / "x", b"new", private=private)
    assert names(tmp_path) in (["other", "x"], ["x", "other"])


def test_what_a_killed_program_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "x.part").write_text("a long half of a file")
    write_whole(tmp_path / "x", b"new")
    assert ((tmp_path / "x").read_text(), names(tmp_path)) == ("new", ["x"])


def test_a_new_file_is_never_written_over_another(tmp_path: Path) -> None:
    write_new(tmp_path / "key", b"first")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "key", b"second")
    assert (tmp_path / "key").read_bytes() == b"first"
    assert names(tmp_path) == ["key"]


@pytest.mark.parametrize("name", ["whole", "private", "shared"])
@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (system, "replace")])
def test_a_disk_that_refuses_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, owner: Any, call: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr(owner, call, refuse)
    with pytest.raises(OSError, match="No space left"):
        WRITERS[name](tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


def test_a_block_that_fails_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(KeyError), whole(tmp_path / "x") as file:
        file.write(b"half")
        raise KeyError("x")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("number", "raised"), [(errno.EINVAL, False), (errno.EOPNOTSUPP, False), (errno.EIO, True), (errno.ENOSPC, True)]
)
def test_only_a_file_system_that_cannot_sync_folders_may_leave_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raised: bool
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=os.strerror(number)) if raised else contextlib.nullcontext():
        sync_folder(tmp_path)


def test_each_new_folder_has_its_name_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a")
    assert synced == [tmp_path, tmp_path / "a"]
    assert mode(tmp_path / "a") & 0o007 == 0


def test_a_free_path_is_free_together_with_its_companions(tmp_path: Path) -> None:
    (tmp_path / "copy").touch()
    (tmp_path / "copy-2.log").touch()
    assert unused(tmp_path / "copy", ".log") == tmp_path / "copy-3"
    assert unused(tmp_path / "copy") == tmp_path / "copy-2"
