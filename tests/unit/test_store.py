"""The store: names, digests, limits, the order of durability, and the index."""

from __future__ import annotations

import errno
import hashlib
import json
import threading
import tracemalloc
from pathlib import Path

import pytest

from training.fleet import store as store_module
from training.fleet.blobs.folder import Folder, System
from training.fleet.model.errors import (
    ConfigurationError,
    DigestMismatchError,
    FleetError,
    InvalidMessageError,
    ShortBodyError,
    StorageFullError,
    TooLargeError,
)
from training.fleet.store import Store, Upload, bundle_path

DATA = b"a bundle"
SHA = "cd98c950d629c66548537b4ecd68dab3e8cf59974ba6e40df5a1a7354b39db5f"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store", tmp_path / "incoming", tmp_path / "index.jsonl", 1 << 30, 0)
    made.open()
    return made


def upload(store: Store, data: bytes = DATA, sha256: str | None = None) -> Upload:
    begun = store.begin(sha256 or hashlib.sha256(data).hexdigest(), "gbt", "oracle", len(data))
    begun.write(data)
    return begun


def row(number: int) -> dict[str, object]:
    return {"sha256": f"{number:064x}", "model": "gbt", "mode": "oracle", "size_bytes": number}


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
    assert not store.has(SHA, "gbt", "oracle")
    begun.finish()
    assert store.has(SHA, "gbt", "oracle")
    assert not store.has(SHA, "gbt", "realistic")
    assert store.path(SHA, "gbt", "oracle").read_bytes() == DATA


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
    assert store.path(SHA, "gbt", "oracle").read_bytes() == DATA
    assert len(leftovers(tmp_path)) == 1
    third.finish()


def test_a_wrong_digest_is_refused_and_nothing_is_kept(store: Store, tmp_path: Path) -> None:
    begun = upload(store, b"tampered", sha256=SHA)
    with pytest.raises(DigestMismatchError, match=f"expected {SHA}"):
        begun.finish()
    assert not store.has(SHA, "gbt", "oracle")
    assert leftovers(tmp_path) == []


def test_a_short_upload_is_refused_and_nothing_is_kept(store: Store, tmp_path: Path) -> None:
    begun = store.begin(SHA, "gbt", "oracle", len(DATA))
    begun.write(DATA[:-1])
    with pytest.raises(ShortBodyError, match=r"found 7 bytes; expected the declared 8"):
        begun.finish()
    assert leftovers(tmp_path) == []


def test_more_bytes_than_declared_are_refused(store: Store, tmp_path: Path) -> None:
    begun = store.begin(SHA, "gbt", "oracle", 4)
    with pytest.raises(TooLargeError, match="more than the declared 4 bytes"):
        begun.write(DATA)
    begun.abort()
    assert leftovers(tmp_path) == []


def test_an_upload_of_the_largest_size_is_taken_and_one_byte_more_refused(tmp_path: Path) -> None:
    small = Store(tmp_path / "s", tmp_path / "i", tmp_path / "x", max_bytes=8, floor_bytes=0)
    small.open()
    small.begin(SHA, "gbt", "oracle", 8).abort()
    with pytest.raises(TooLargeError, match="9 bytes; expected at most 8"):
        small.begin(SHA, "gbt", "oracle", 9)


def test_an_upload_without_room_is_refused_before_a_byte_is_sent(tmp_path: Path) -> None:
    full = Store(tmp_path / "s", tmp_path / "i", tmp_path / "x", floor_bytes=1 << 60)
    full.open()
    assert full.free_bytes() == 0
    with pytest.raises(StorageFullError, match="free disk space on the receiver"):
        full.begin(SHA, "gbt", "oracle", 8)


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
    with pytest.raises(InvalidMessageError, match="expected"):
        bundle_path(sha256, model, mode)
    with pytest.raises(InvalidMessageError):
        store.begin(sha256, model, mode, 8)
    with pytest.raises(InvalidMessageError):
        store.has(sha256, model, mode)


def test_a_start_removes_what_a_killed_receiver_left(store: Store, tmp_path: Path) -> None:
    upload(store)
    again = Store(tmp_path / "store", tmp_path / "incoming", tmp_path / "index.jsonl", floor_bytes=0)
    assert len(leftovers(tmp_path)) == 1
    again.open()
    assert leftovers(tmp_path) == []
    assert again.sweep_incoming() == 0


class Failing(System):
    """A disk whose syncs fail once it is armed."""

    armed = False

    def sync(self, descriptor: int) -> None:
        if self.armed:
            raise OSError(5, "Input/output error")


def on(system: System, tmp_path: Path) -> Store:
    blobs = Folder(tmp_path / "store", tmp_path / "incoming", 0, system)
    store = Store(blobs.root, blobs.incoming, tmp_path / "index.jsonl", blobs=blobs)
    store.open()
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
    begun = store.begin(SHA, "gbt", "oracle", 64 << 20)
    tracemalloc.start()
    for _ in range(64):
        begun.write(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    begun.abort()
    assert peak < 1 << 16


def test_the_index_holds_one_line_for_an_artifact_with_its_path(store: Store, tmp_path: Path) -> None:
    store.append_index(row(1))
    assert [json.loads(line) for line in lines(tmp_path)] == [
        {
            "sha256": "0" * 63 + "1",
            "model": "gbt",
            "mode": "oracle",
            "size_bytes": 1,
            "path": f"gbt_oracle/{'0' * 63}1/bundle.tar.zst",
        }
    ]


def test_an_index_that_is_right_is_left_alone(store: Store, tmp_path: Path) -> None:
    for number in range(3):
        store.append_index(row(number))
    before = (tmp_path / "index.jsonl").stat()
    assert store.rebuild_index(row(number) for number in range(3)) is False
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
def test_a_wrong_index_is_made_whole(store: Store, tmp_path: Path, found: bytes) -> None:
    index = tmp_path / "index.jsonl"
    right = [store_module.index_line(row(number)) for number in range(4)]
    for number, line in enumerate(right):
        found = found.replace(b"{%d}" % number, line)
    index.write_bytes(found)
    assert store.rebuild_index(row(number) for number in range(3)) is True
    assert index.read_bytes() == b"".join(right[:3])
    assert not (tmp_path / "index.jsonl.part").exists()


def test_an_index_longer_than_a_chunk_is_repaired_at_its_end(store: Store, tmp_path: Path) -> None:
    count = 12_000
    right = b"".join(store_module.index_line(row(number)) for number in range(count))
    (tmp_path / "index.jsonl").write_bytes(right[:-1])
    assert store.rebuild_index(row(number) for number in range(count)) is True
    assert (tmp_path / "index.jsonl").read_bytes() == right


def test_a_rebuild_that_fails_leaves_the_old_index(store: Store, tmp_path: Path) -> None:
    store.append_index(row(1))
    before = lines(tmp_path)

    def rows() -> object:
        yield row(0)
        raise RuntimeError("the database went away")

    with pytest.raises(RuntimeError):
        store.rebuild_index(rows())  # type: ignore[arg-type]
    assert lines(tmp_path) == before
    assert not (tmp_path / "index.jsonl.part").exists()


def test_lines_of_many_threads_stay_whole(store: Store, tmp_path: Path) -> None:
    def append(start: int) -> None:
        for number in range(start, start + 50):
            store.append_index(row(number))

    threads = [threading.Thread(target=append, args=(start,)) for start in (0, 50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(json.loads(line)["size_bytes"] for line in lines(tmp_path)) == list(range(200))


def test_a_line_that_could_not_be_written_comes_with_the_next_one(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "index.jsonl"
    index.unlink()
    index.mkdir()
    store.append_index(row(1))
    assert "index not written" in caplog.text
    index.rmdir()
    store.append_index(row(2))
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
def test_a_line_is_written_whole_or_not_at_all(tmp_path: Path, full: bool, expected: bytes) -> None:
    index = store_module._Index(tmp_path / "index.jsonl")
    index._owed = b"a long line\n"
    file = Tight(full)
    try:
        index._add(file)  # type: ignore[arg-type]
    except OSError:
        assert full
    assert bytes(file.data) == expected
    assert index._owed == (b"a long line\n" if full else b"")


@pytest.mark.parametrize(("number", "refusal"), [(errno.ENOSPC, StorageFullError), (errno.EACCES, ConfigurationError)])
def test_an_index_whose_disk_is_full_may_be_tried_again_and_one_that_may_not_be_written_not(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int, refusal: type[FleetError]
) -> None:
    """A service manager repeats a start that ends with the first and gives up at the second."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "the disk refuses")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(FleetError) as caught:
        store.open()
    assert type(caught.value) is refusal
    assert "the disk refuses" in caught.value.message


# ---- what is known of a file


def test_the_length_of_an_artifact_is_that_of_its_file_and_none_has_none(store: Store) -> None:
    assert store.size_bytes(SHA, "gbt", "oracle") is None
    upload(store, sha256=SHA).finish()
    assert store.size_bytes(SHA, "gbt", "oracle") == len(DATA)
    assert store.size_bytes(SHA, "gbt", "realistic") is None
    store.path(SHA, "gbt", "oracle").unlink()
    assert store.size_bytes(SHA, "gbt", "oracle") is None


def test_no_length_is_told_of_a_file_that_may_not_be_on_the_disk(tmp_path: Path) -> None:
    """A receiver that was killed between rename and sync leaves one that a power cut could still take."""
    system = Failing()
    store = on(system, tmp_path)
    upload(store, sha256=SHA).finish()
    system.armed = True
    with pytest.raises(FleetError, match="Input/output error"):
        store.size_bytes(SHA, "gbt", "oracle")


def test_a_file_that_hashes_to_its_name_is_proven_and_stays(store: Store) -> None:
    assert store.proven_bytes(SHA, "gbt", "oracle") is None
    upload(store, sha256=SHA).finish()
    assert store.proven_bytes(SHA, "gbt", "oracle") == len(DATA)
    assert store.path(SHA, "gbt", "oracle").read_bytes() == DATA


def test_files_that_hash_to_something_else_are_put_aside_and_none_takes_the_place_of_another(
    store: Store, tmp_path: Path
) -> None:
    for number in range(3):
        upload(store, sha256=SHA).finish()
        store.path(SHA, "gbt", "oracle").write_bytes(b"bent %d" % number)
        assert store.proven_bytes(SHA, "gbt", "oracle") is None
        assert not store.path(SHA, "gbt", "oracle").exists()
    aside = sorted((tmp_path / "store" / store_module.QUARANTINE).iterdir())
    assert [path.name for path in aside] == [f"{SHA}-1", f"{SHA}-2", f"{SHA}-3"]
    assert [path.read_bytes() for path in aside] == [b"bent 0", b"bent 1", b"bent 2"]


def test_an_index_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "index.jsonl").mkdir()
    with pytest.raises(ConfigurationError, match="correct --index-path"):
        Store(tmp_path / "s", tmp_path / "i", tmp_path / "index.jsonl").open()


def test_an_index_that_went_away_is_named_by_the_rebuild(store: Store, tmp_path: Path) -> None:
    (tmp_path / "index.jsonl").unlink()
    with pytest.raises(ConfigurationError, match="correct --index-path"):
        store.rebuild_index([])
