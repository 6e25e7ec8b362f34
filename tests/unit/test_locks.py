"""Locks on a store's folders and on the list of artifacts."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from training.fleet.locks import file_held, folders_held
from training.fleet.model.errors import ConfigurationError, UnavailableError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("store/inner", "incoming", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "index.jsonl").touch()
    return tmp_path


def free(held: AbstractContextManager[None]) -> bool:
    try:
        with held:
            return True
    except ConfigurationError as error:
        assert error.exit_status == 78
        return False


@pytest.mark.parametrize(
    ("mine", "theirs", "both"),
    [
        (["store", "incoming"], ["other"], True),
        (["store", "incoming"], ["store"], False),
        (["store", "incoming"], ["incoming", "other"], False),
        (["store"], ["store/inner"], False),
        (["store/inner"], ["store"], False),
        (["store/inner"], ["."], False),
        (["store", "store/inner"], ["other"], True),
        (["store", "store"], ["other"], True),
        (["not there"], ["not there"], True),
        (["store"], ["other/../store/inner/.."], False),
    ],
)
def test_a_folder_within_anothers_is_taken_too_and_one_beside_it_is_not(
    home: Path, mine: list[str], theirs: list[str], both: bool
) -> None:
    others = [home / name for name in theirs]
    with folders_held(*(home / name for name in mine)):
        assert free(folders_held(*others)) is both
    assert free(folders_held(*others))


def test_a_folder_is_the_same_by_a_link_in_its_path(home: Path) -> None:
    (home / "link").symlink_to(home)
    with folders_held(home / "store"):
        assert not free(folders_held(home / "link/store"))
        assert not free(folders_held(home / "link/store/inner"))
    with folders_held(home / "link/store"):
        assert not free(folders_held(home / "store"))


def test_a_place_that_everybody_may_write_is_left_to_others(home: Path) -> None:
    """Such as /tmp: anybody could hold it, and keep a receiver from its start."""
    home.chmod(0o1777)
    descriptor = os.open(home, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        assert free(folders_held(home / "store"))
    finally:
        os.close(descriptor)


def test_a_folder_above_that_may_not_be_read_is_no_hindrance(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, closed = os.open, str(home)

    def opened(path: Path, *more: int, **others: int) -> int:
        if str(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *more, **others)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != closed)
    assert free(folders_held(home / "store"))


def test_the_list_is_held_until_another_file_has_its_name(home: Path) -> None:
    index = home / "index.jsonl"
    with file_held(index):
        assert not free(file_held(index))
    with file_held(index):
        (home / "new").touch()
        (home / "new").replace(index)
        with file_held(index):
            assert not free(file_held(index))
    assert free(file_held(index))
    assert free(file_held(home / "none"))


def test_a_program_that_is_started_does_not_keep_the_lock(home: Path) -> None:
    with folders_held(home / "store"), file_held(home / "index.jsonl"):
        command = [sys.executable, "-c", "print(flush=True); input()"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert free(folders_held(home / "store"))
        assert free(file_held(home / "index.jsonl"))
    finally:
        child.communicate(b"\n")


@pytest.mark.parametrize(
    ("number", "error", "advice"),
    [
        (errno.EIO, UnavailableError, "look at its disk"),
        (errno.ENOLCK, ConfigurationError, "a file system with locks; correct --store-root"),
        (errno.EBADF, ConfigurationError, "a file system with locks; correct --store-root"),
    ],
)
def test_a_file_system_that_does_not_lock_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception], advice: str
) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(error, match=advice), folders_held(home / "store"):
        pass
