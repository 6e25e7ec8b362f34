"""What every place for blobs promises. A new one is added to `PLACES` and must pass all of it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from training.fleet.blobs.folder import Folder
from training.fleet.model.errors import UnavailableError

KEY = "gbt_oracle/" + "a" * 64 + "/bundle.tar.zst"
OTHER = "gbt_oracle/" + "b" * 64 + "/bundle.tar.zst"


def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "store", tmp_path / "incoming")


PLACES: dict[str, Callable[[Path], Folder]] = {"folder": folder}


@pytest.fixture(params=sorted(PLACES))
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    made = PLACES[request.param](tmp_path)
    made.open()
    return made


def put(blobs: Folder, key: str, data: bytes) -> bool:
    part = blobs.begin(len(data))
    part.write(data)
    return part.place(key)


def content(blobs: Folder, key: str) -> bytes:
    with blobs.read(key) as file:
        return file.read()


def test_a_placed_blob_reads_back(blobs: Folder) -> None:
    assert put(blobs, KEY, b"model") is True
    assert blobs.has(KEY)
    assert content(blobs, KEY) == b"model"


def test_an_empty_blob_is_a_blob(blobs: Folder) -> None:
    assert put(blobs, KEY, b"") is True
    assert content(blobs, KEY) == b""


def test_a_blob_of_many_writes_is_their_sum(blobs: Folder) -> None:
    chunks = [hashlib.sha256(bytes([n])).digest() * 2000 for n in range(50)]
    part = blobs.begin(sum(map(len, chunks)))
    for number, chunk in enumerate(chunks):
        part.write((bytes, bytearray, memoryview)[number % 3](chunk))
    part.place(KEY)
    assert content(blobs, KEY) == b"".join(chunks)


def test_what_was_never_placed_is_not_there(blobs: Folder) -> None:
    assert not blobs.has(KEY)
    with pytest.raises(FileNotFoundError):
        blobs.read(KEY)


def test_a_part_is_not_a_blob_before_it_is_placed(blobs: Folder) -> None:
    part = blobs.begin(5)
    part.write(b"model")
    assert not blobs.has(KEY)
    part.discard()
    assert not blobs.has(KEY)


def test_a_blob_is_never_overwritten(blobs: Folder) -> None:
    put(blobs, KEY, b"first")
    assert put(blobs, KEY, b"later") is False
    assert content(blobs, KEY) == b"first"


def test_two_keys_are_two_blobs(blobs: Folder) -> None:
    put(blobs, KEY, b"one")
    put(blobs, OTHER, b"two")
    assert (content(blobs, KEY), content(blobs, OTHER)) == (b"one", b"two")


def test_discarding_twice_or_after_placing_is_fine(blobs: Folder) -> None:
    part = blobs.begin(5)
    part.write(b"model")
    part.place(KEY)
    part.discard()
    part.discard()
    assert content(blobs, KEY) == b"model"


def test_a_discarded_part_takes_nothing_more(blobs: Folder) -> None:
    part = blobs.begin(5)
    part.discard()
    with pytest.raises(UnavailableError, match="given up"):
        part.write(b"model")
    with pytest.raises(UnavailableError, match="given up"):
        part.place(KEY)
    assert not blobs.has(KEY)


def test_discarding_one_part_leaves_the_blob_another_one_made(blobs: Folder) -> None:
    aborted, retry = blobs.begin(5), blobs.begin(5)
    aborted.write(b"mod")
    retry.write(b"model")
    retry.place(KEY)
    aborted.discard()
    assert content(blobs, KEY) == b"model"


def test_of_many_equal_uploads_at_once_exactly_one_is_new(blobs: Folder) -> None:
    count, results = 8, []
    together = threading.Barrier(count)

    def upload() -> None:
        part = blobs.begin(5)
        part.write(b"model")
        together.wait()
        results.append(part.place(KEY))

    threads = [threading.Thread(target=upload) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * (count - 1) + [True]
    assert content(blobs, KEY) == b"model"


def test_a_sweep_takes_nothing_that_lives(blobs: Folder) -> None:
    put(blobs, KEY, b"model")
    part = blobs.begin(5)
    assert blobs.sweep() == 0
    part.write(b"other")
    part.place(OTHER)
    assert (content(blobs, KEY), content(blobs, OTHER)) == (b"model", b"other")


def test_opening_again_keeps_every_blob(blobs: Folder) -> None:
    put(blobs, KEY, b"model")
    blobs.open()
    assert content(blobs, KEY) == b"model"
