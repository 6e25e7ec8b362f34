"""The store: names, digests, limits, and the index."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from training.fleet.blobs import open_blobs
from training.fleet.blobs.disk import System
from training.fleet.blobs.folder import Folder
from training.fleet.model.artifact import ArtifactKey, parse_path
from training.fleet.model.errors import (
    ConfigurationError,
    DigestMismatchError,
    FleetError,
    InvalidMessageError,
    ShortBodyError,
    StorageFullError,
    TooLargeError,
    UnavailableError,
)
from training.fleet.store import QUARANTINE, Index, Store, Upload, index_line
from training.fleet.store.index import append

DATA = b"a bundle"
SHA = "cd98c950d629c66548537b4ecd68dab3e8cf59974ba6e40df5a1a7354b39db5f"
KEY = ArtifactKey(SHA, "gbt", "oracle")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    blobs = open_blobs(tmp_path / "store", tmp_path / "incoming")
    blobs.prepare()
    return Store(blobs, 1 << 30)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    made = Index(tmp_path / "index.jsonl")
    made.open()
    return made


def upload(store: Store, data: bytes = DATA, sha256: str | None = None) -> Upload:
    begun = store.begin(ArtifactKey(sha256 or hashlib.sha256(data).hexdigest(), "gbt", "oracle"), len(data))
    begun.write(data)
    return begun


def content(store: Store) -> bytes:
    with store.blobs.open(KEY.path) as file:
        return file.read()


def line(number: int) -> bytes:
    return index_line(ArtifactKey(f"{number:064x}", "gbt", "oracle"), number)


def write(index: Index, *numbers: int) -> None:
    for number in numbers:
        index.owe(line(number))
        index.pay()


def bundle(tmp_path: Path) -> Path:
    return tmp_path / "store" / KEY.path


def lines(tmp_path: Path) -> list[str]:
    return (tmp_path / "index.jsonl").read_text().splitlines()


def leftovers(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "incoming").iterdir())


def test_an_artifact_lies_under_model_mode_and_digest(store: Store, tmp_path: Path) -> None:
    begun = upload(store, sha256=SHA)
    assert begun.finish() == f"gbt_oracle/{SHA}/bundle.tar.zst"
    assert begun.new
    assert (tmp_path / "store" / "gbt_oracle" / SHA / "bundle.tar.zst").read_bytes() == DATA
    assert leftovers(tmp_path) == []


def test_an_artifact_is_there_once_it_is_finished_and_not_before(store: Store) -> None:
    begun = upload(store, sha256=SHA)
    assert not store.has(KEY)
    begun.finish()
    assert store.has(KEY)
    assert not store.has(ArtifactKey(SHA, "gbt", "realistic"))
    assert content(store) == DATA


def test_the_second_upload_of_an_artifact_succeeds_and_is_not_new(store: Store) -> None:
    first, second = upload(store), upload(store)
    assert first.finish() == second.finish()
    assert (first.new, second.new) == (True, False)


def test_an_aborted_upload_removes_its_own_file_only(store: Store, tmp_path: Path) -> None:
    aborted, other = upload(store), upload(store)
    other.finish()
    third = upload(store, b"third")
    aborted.abort()
    aborted.abort()
    assert content(store) == DATA
    assert len(leftovers(tmp_path)) == 1
    third.finish()


def test_a_wrong_digest_is_refused_and_nothing_is_kept(store: Store, tmp_path: Path) -> None:
    begun = upload(store, b"tampered", sha256=SHA)
    with pytest.raises(DigestMismatchError, match=f"expected {SHA}"):
        begun.finish()
    assert not store.has(KEY)
    assert leftovers(tmp_path) == []


def test_a_short_upload_is_refused_and_nothing_is_kept(store: Store, tmp_path: Path) -> None:
    begun = store.begin(KEY, len(DATA))
    begun.write(DATA[:-1])
    with pytest.raises(ShortBodyError, match=r"found 7 bytes; expected the declared 8"):
        begun.finish()
    assert leftovers(tmp_path) == []


def test_more_bytes_than_declared_are_refused(store: Store, tmp_path: Path) -> None:
    begun = store.begin(KEY, 4)
    with pytest.raises(TooLargeError, match="more than the declared 4 bytes"):
        begun.write(DATA)
    begun.abort()
    assert leftovers(tmp_path) == []


def test_an_upload_of_the_largest_size_is_taken_and_one_byte_more_refused(tmp_path: Path) -> None:
    small = Store(open_blobs(tmp_path / "s", tmp_path / "i"), max_bytes=8)
    small.blobs.prepare()
    small.begin(KEY, 8).abort()
    with pytest.raises(TooLargeError, match="9 bytes; expected at most 8"):
        small.begin(KEY, 9)


def test_an_upload_without_room_is_refused_before_a_byte_is_sent(tmp_path: Path) -> None:
    full = Store(open_blobs(tmp_path / "s", tmp_path / "i", 1 << 60))
    full.blobs.prepare()
    assert full.free_bytes() == 0
    with pytest.raises(StorageFullError, match="free disk space on the receiver"):
        full.begin(KEY, 8)


@pytest.mark.parametrize(
    ("sha256", "model", "mode"),
    [
        (SHA.upper(), "gbt", "oracle"),
        (SHA + "\n", "gbt", "oracle"),
        (SHA[:-1], "gbt", "oracle"),
        ("../" + SHA[3:], "gbt", "oracle"),
        (SHA, "", "oracle"),
        (SHA, "..", "oracle"),
        (SHA, "../gbt", "oracle"),
        (SHA, "a/b", "oracle"),
        (SHA, "gbt\n", "oracle"),
        (SHA, "gbt\0", "oracle"),
        (SHA, "é", "oracle"),
        (SHA, "x" * 65, "oracle"),
        (SHA, "gbt", "oracle/.."),
        (SHA, "gbt", ""),
    ],
)
def test_a_name_that_could_leave_the_store_is_refused(store: Store, sha256: str, model: str, mode: str) -> None:
    key = ArtifactKey(sha256, model, mode)
    with pytest.raises(InvalidMessageError, match="expected"):
        key.path  # noqa: B018
    with pytest.raises(InvalidMessageError):
        store.begin(key, 8)
    with pytest.raises(InvalidMessageError):
        store.has(key)
    assert parse_path(key.shown_path) is None


def test_a_start_removes_what_a_killed_receiver_left(store: Store, tmp_path: Path) -> None:
    upload(store)
    again = open_blobs(tmp_path / "store", tmp_path / "incoming")
    assert len(leftovers(tmp_path)) == 1
    again.prepare()
    assert leftovers(tmp_path) == []
    assert again.sweep() == 0


class Failing(System):
    """A disk whose syncs fail once it is armed."""

    armed = False

    def sync(self, descriptor: int) -> None:
        if self.armed:
            raise OSError(5, "Input/output error")


def on(system: System, tmp_path: Path) -> Store:
    blobs = Folder(tmp_path / "store", tmp_path / "incoming", 0, system)
    store = Store(blobs)
    blobs.prepare()
    return store


def test_a_disk_that_fails_once_ends_all_uploads(tmp_path: Path) -> None:
    system = Failing()
    store = on(system, tmp_path)
    assert store.broken == ""
    begun = upload(store)
    system.armed = True
    with pytest.raises(FleetError, match="Input/output error"):
        begun.finish()
    assert "Input/output error" in store.broken
    assert leftovers(tmp_path) == []


def test_memory_does_not_grow_with_the_upload(store: Store) -> None:
    chunk = bytes(1 << 20)
    begun = store.begin(KEY, 64 << 20)
    tracemalloc.start()
    for _ in range(64):
        begun.write(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    begun.abort()
    assert peak < 1 << 16


def test_the_index_holds_one_line_for_an_artifact_with_its_path(index: Index, tmp_path: Path) -> None:
    write(index, 1)
    assert [json.loads(line) for line in lines(tmp_path)] == [
        {
            "sha256": "0" * 63 + "1",
            "model": "gbt",
            "mode": "oracle",
            "size_bytes": 1,
            "path": f"gbt_oracle/{'0' * 63}1/bundle.tar.zst",
        }
    ]


def test_an_index_that_is_right_is_left_alone(index: Index, tmp_path: Path) -> None:
    write(index, 0, 1, 2)
    before = (tmp_path / "index.jsonl").stat()
    assert index.rebuild(line(number) for number in range(3)) is False
    assert (tmp_path / "index.jsonl").stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    "found",
    [
        b"",
        b'{"sha256":"00',
        b"{0}",
        b"{0}{1}",
        b'{0}{1}{2}{"torn',
        b"{0}{1}{2}{3}",
        b"{1}{2}",
        b"{0}{2}{1}",
        b"\xff\xfe nonsense\n",
        b"x" * 3000000,
    ],
    ids=[
        "empty",
        "torn first",
        "short",
        "missing last",
        "torn last",
        "surplus",
        "missing first",
        "order",
        "odd",
        "long",
    ],
)
def test_a_wrong_index_is_made_whole(index: Index, tmp_path: Path, found: bytes) -> None:
    file = tmp_path / "index.jsonl"
    right = [line(number) for number in range(4)]
    for number, text in enumerate(right):
        found = found.replace(b"{%d}" % number, text)
    file.write_bytes(found)
    assert index.rebuild(line(number) for number in range(3)) is True
    assert file.read_bytes() == b"".join(right[:3])
    assert not (tmp_path / "index.jsonl.part").exists()


def test_an_index_longer_than_a_chunk_is_repaired_at_its_end(index: Index, tmp_path: Path) -> None:
    count = 12_000
    right = b"".join(line(number) for number in range(count))
    (tmp_path / "index.jsonl").write_bytes(right[:-1])
    assert index.rebuild(line(number) for number in range(count)) is True
    assert (tmp_path / "index.jsonl").read_bytes() == right


def test_a_rebuild_that_fails_leaves_the_old_index(index: Index, tmp_path: Path) -> None:
    write(index, 1)
    before = lines(tmp_path)

    def broken() -> Iterator[bytes]:
        yield line(0)
        raise RuntimeError("the database went away")

    with pytest.raises(RuntimeError):
        index.rebuild(broken())
    assert lines(tmp_path) == before
    assert not (tmp_path / "index.jsonl.part").exists()


def test_lines_of_many_threads_stay_whole(index: Index, tmp_path: Path) -> None:
    def append(start: int) -> None:
        for number in range(start, start + 50):
            write(index, number)

    threads = [threading.Thread(target=append, args=(start,)) for start in (0, 50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(json.loads(line)["size_bytes"] for line in lines(tmp_path)) == list(range(200))


def test_a_line_that_could_not_be_written_comes_with_the_next_one(
    index: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "index.jsonl"
    file.unlink()
    file.mkdir()
    write(index, 1)
    assert "index not written" in caplog.text
    file.rmdir()
    write(index, 2)
    assert [json.loads(line)["size_bytes"] for line in lines(tmp_path)] == [1, 2]


class Tight:
    """A file on a disk with little room: writes take three bytes at most, and all but the first fail when `full`."""

    def __init__(self, full: bool) -> None:
        self.full = full
        self.data = bytearray(b"before\n")
        self.calls = 0

    def seek(self, offset: int, whence: int) -> int:
        return len(self.data)

    def write(self, data: bytes) -> int:
        self.calls += 1
        if self.calls > 1 and self.full:
            raise OSError(28, "No space left on device")
        self.data += data[:3]
        return len(data[:3])

    def truncate(self, size: int) -> None:
        del self.data[size:]


@pytest.mark.parametrize(("full", "expected"), [(False, b"before\na long line\n"), (True, b"before\n")])
def test_a_line_is_written_whole_or_not_at_all(full: bool, expected: bytes) -> None:
    file = Tight(full)
    try:
        append(file, b"a long line\n")  # type: ignore[arg-type]
    except OSError:
        assert full
    assert bytes(file.data) == expected


# ---- what is known of a file


def test_the_length_of_an_artifact_is_that_of_its_file_and_none_has_none(store: Store, tmp_path: Path) -> None:
    assert store.size_bytes(KEY) is None
    upload(store, sha256=SHA).finish()
    assert store.size_bytes(KEY) == len(DATA)
    assert store.size_bytes(ArtifactKey(SHA, "gbt", "realistic")) is None
    bundle(tmp_path).unlink()
    assert store.size_bytes(KEY) is None


def test_no_length_is_told_of_a_file_that_may_not_be_on_the_disk(tmp_path: Path) -> None:
    """A receiver that was killed between rename and sync leaves one that a power cut could still take."""
    system = Failing()
    store = on(system, tmp_path)
    upload(store, sha256=SHA).finish()
    system.armed = True
    with pytest.raises(FleetError, match="Input/output error"):
        store.size_bytes(KEY)


def test_a_file_that_hashes_to_its_name_is_proven_and_stays(store: Store, tmp_path: Path) -> None:
    assert store.proven_bytes(KEY) is None
    upload(store, sha256=SHA).finish()
    assert store.proven_bytes(KEY) == len(DATA)
    assert bundle(tmp_path).read_bytes() == DATA


def test_files_that_hash_to_something_else_are_put_aside_and_none_takes_the_place_of_another(
    store: Store, tmp_path: Path
) -> None:
    for number in range(3):
        upload(store, sha256=SHA).finish()
        bundle(tmp_path).write_bytes(b"bent %d" % number)
        assert store.proven_bytes(KEY) is None
        assert not bundle(tmp_path).exists()
    aside = sorted((tmp_path / "store" / QUARANTINE).iterdir())
    assert [path.name for path in aside] == [f"{SHA}-1", f"{SHA}-2", f"{SHA}-3"]
    assert [path.read_bytes() for path in aside] == [b"bent 0", b"bent 1", b"bent 2"]


def test_an_index_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "index.jsonl").mkdir()
    with pytest.raises(ConfigurationError, match="correct --index-path"):
        Index(tmp_path / "index.jsonl").open()


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ENOSPC], ids=errno.errorcode.get)
def test_an_index_whose_disk_refuses_for_now_asks_for_another_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A restart helps then, and other settings do not: the status must be another one than 78."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnavailableError, match="look at its disk") as caught:
        Index(tmp_path / "index.jsonl").open()
    assert caught.value.exit_status == 75


def test_an_index_that_went_away_is_named_by_the_rebuild(index: Index, tmp_path: Path) -> None:
    (tmp_path / "index.jsonl").unlink()
    with pytest.raises(ConfigurationError, match="correct --index-path"):
        index.rebuild([])


def test_lines_have_the_order_in_which_they_were_owed_whoever_writes_them(index: Index, tmp_path: Path) -> None:
    index.owe(line(2))
    index.owe(line(1))
    index.pay()
    index.pay()
    assert (tmp_path / "index.jsonl").read_bytes() == line(2) + line(1)
