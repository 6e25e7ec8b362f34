"""What every place for blobs promises. A new kind gets a row in `PLACES` and must pass all of it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from training.fleet.blobs import Blobs, NewBlob
from training.fleet.blobs.folder import Folder
from training.fleet.model.errors import ConfigurationError, FleetError, UnavailableError

KEY = "gbt_oracle/" + "a" * 64 + "/bundle.tar.zst"
OTHER = "gbt_oracle/" + "b" * 64 + "/bundle.tar.zst"


PLACES: dict[str, Callable[[Path], Blobs]] = {
    "folder": lambda path: Folder(path / "store", path / "incoming"),
}
"""Each kind of place, opened on a path of its own; the same path again is the same place."""


@pytest.fixture(params=sorted(PLACES))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Blobs]:
    return lambda: PLACES[request.param](tmp_path)


@pytest.fixture
def blobs(opened: Callable[[], Blobs]) -> Blobs:
    made = opened()
    made.prepare()
    return made


def put(blobs: Blobs, key: str, data: bytes) -> bool:
    new: NewBlob = blobs.begin(len(data))
    new.write(data)
    return new.place(key)


def content(blobs: Blobs, key: str) -> bytes:
    with blobs.open(key) as file:
        return file.read()


def keys(blobs: Blobs, prefix: str = "") -> list[str]:
    return [blob.key for blob in blobs.list(prefix)]


def test_a_placed_blob_reads_back(blobs: Blobs) -> None:
    assert put(blobs, KEY, b"model") is True
    assert blobs.has(KEY)
    assert content(blobs, KEY) == b"model"


def test_an_empty_blob_is_a_blob(blobs: Blobs) -> None:
    assert put(blobs, KEY, b"") is True
    assert content(blobs, KEY) == b""


def test_a_blob_of_many_writes_is_their_sum(blobs: Blobs) -> None:
    chunks = [hashlib.sha256(bytes([n])).digest() * 2000 for n in range(50)]
    part = blobs.begin(sum(map(len, chunks)))
    for number, chunk in enumerate(chunks):
        part.write((bytes, bytearray, memoryview)[number % 3](chunk))
    part.place(KEY)
    assert content(blobs, KEY) == b"".join(chunks)


def test_what_was_never_placed_is_not_there(blobs: Blobs) -> None:
    assert not blobs.has(KEY)
    with pytest.raises(FileNotFoundError):
        blobs.open(KEY)


def test_a_part_is_not_a_blob_before_it_is_placed(blobs: Blobs) -> None:
    part = blobs.begin(5)
    part.write(b"model")
    assert not blobs.has(KEY)
    part.discard()
    assert not blobs.has(KEY)


def test_a_blob_is_never_overwritten(blobs: Blobs) -> None:
    put(blobs, KEY, b"first")
    assert put(blobs, KEY, b"later") is False
    assert content(blobs, KEY) == b"first"


def test_two_keys_are_two_blobs(blobs: Blobs) -> None:
    put(blobs, KEY, b"one")
    put(blobs, OTHER, b"two")
    assert (content(blobs, KEY), content(blobs, OTHER)) == (b"one", b"two")


def test_discarding_twice_or_after_placing_is_fine(blobs: Blobs) -> None:
    part = blobs.begin(5)
    part.write(b"model")
    part.place(KEY)
    part.discard()
    part.discard()
    assert content(blobs, KEY) == b"model"


def test_a_discarded_part_takes_nothing_more(blobs: Blobs) -> None:
    part = blobs.begin(5)
    part.discard()
    with pytest.raises(UnavailableError, match="given up"):
        part.write(b"model")
    with pytest.raises(UnavailableError, match="given up"):
        part.place(KEY)
    assert not blobs.has(KEY)


def test_discarding_one_part_leaves_the_blob_another_one_made(blobs: Blobs) -> None:
    aborted, retry = blobs.begin(5), blobs.begin(5)
    aborted.write(b"mod")
    retry.write(b"model")
    retry.place(KEY)
    aborted.discard()
    assert content(blobs, KEY) == b"model"


def test_of_many_equal_uploads_at_once_exactly_one_is_new(blobs: Blobs) -> None:
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


def test_a_sweep_takes_nothing_that_lives(blobs: Blobs) -> None:
    put(blobs, KEY, b"model")
    part = blobs.begin(5)
    assert blobs.sweep() == 0
    part.write(b"other")
    part.place(OTHER)
    assert (content(blobs, KEY), content(blobs, OTHER)) == (b"model", b"other")


def test_opening_again_keeps_every_blob(blobs: Blobs) -> None:
    put(blobs, KEY, b"model")
    blobs.prepare()
    assert content(blobs, KEY) == b"model"


# ---- looking, moving, removing


def test_a_blob_is_described_by_its_length_and_the_time_of_its_bytes(blobs: Blobs) -> None:
    before = time.time()
    put(blobs, KEY, b"model")
    found = blobs.stat(KEY)
    assert found is not None
    assert (found.key, found.size_bytes) == (KEY, 5)
    assert before - 2 <= found.modified_at <= time.time() + 2
    assert (blobs.stat(OTHER), blobs.stat(f"{KEY}/below")) == (None, None)


def test_a_blob_can_be_read_from_its_middle(blobs: Blobs) -> None:
    put(blobs, KEY, b"a model")
    with blobs.open(KEY) as file:
        file.seek(2)
        assert file.read(3) == b"mod"
        assert file.read() == b"el"


def test_a_list_names_each_blob_once_by_key_and_only_those_below_its_prefix(blobs: Blobs) -> None:
    assert keys(blobs) == []
    put(blobs, OTHER, b"two")
    put(blobs, KEY, b"one")
    put(blobs, "mlp_oracle/x/y", b"three")
    blobs.begin(5).write(b"model")
    assert [(blob.key, blob.size_bytes) for blob in blobs.list()] == [(KEY, 3), (OTHER, 3), ("mlp_oracle/x/y", 5)]
    assert keys(blobs, "gbt_oracle/") == [KEY, OTHER]
    assert keys(blobs, "tcn_oracle/") == []


def test_a_moved_blob_is_at_its_new_key_alone(blobs: Blobs) -> None:
    put(blobs, KEY, b"model")
    blobs.move(KEY, "quarantine/a-1")
    assert (keys(blobs), content(blobs, "quarantine/a-1")) == (["quarantine/a-1"], b"model")
    assert put(blobs, KEY, b"again") is True


def test_a_move_overwrites_nothing(blobs: Blobs) -> None:
    put(blobs, KEY, b"one")
    put(blobs, OTHER, b"two")
    with pytest.raises(FileExistsError):
        blobs.move(KEY, OTHER)
    assert (content(blobs, KEY), content(blobs, OTHER)) == (b"one", b"two")
    with pytest.raises(FileNotFoundError):
        blobs.move("gbt_oracle/c/d", "quarantine/a-1")
    assert keys(blobs) == [KEY, OTHER]


def test_a_deleted_blob_is_gone_and_the_second_time_is_fine(blobs: Blobs) -> None:
    put(blobs, KEY, b"one")
    put(blobs, OTHER, b"two")
    blobs.delete(KEY)
    blobs.delete(KEY)
    blobs.delete("never/was/there")
    assert (keys(blobs), blobs.has(KEY)) == ([OTHER], False)
    assert put(blobs, KEY, b"again") is True


def test_a_shared_blob_has_its_bytes_and_outlives_the_blob(blobs: Blobs, tmp_path: Path) -> None:
    """A place that cannot share says so, and the caller copies."""
    put(blobs, KEY, b"model")
    target = tmp_path / "copy"
    shared = blobs.share(KEY, target)
    assert shared is target.exists()
    if shared:
        blobs.delete(KEY)
        assert target.read_bytes() == b"model"
    with pytest.raises(FileNotFoundError):
        blobs.share(OTHER, tmp_path / "other")


def test_an_address_names_the_blob_to_people_whether_it_is_there_or_not(blobs: Blobs) -> None:
    assert blobs.address(KEY).endswith(KEY)


# ---- uploads that nobody brings any more


def test_what_a_killed_upload_left_is_listed_and_swept_at_the_next_start(
    blobs: Blobs, opened: Callable[[], Blobs]
) -> None:
    put(blobs, KEY, b"model")
    lost = blobs.begin(5)
    lost.write(b"mod")
    assert list(blobs.leftovers()) == []
    after = opened()
    assert [leftover.own for leftover in after.leftovers()] == [True]
    after.prepare()
    assert (list(after.leftovers()), after.sweep(), content(after, KEY)) == ([], 0, b"model")
    with pytest.raises(FleetError):
        lost.place(OTHER)
    assert keys(after) == [KEY]


def test_a_place_that_is_made_again_keeps_what_is_in_it(blobs: Blobs) -> None:
    put(blobs, KEY, b"model")
    blobs.make()
    assert content(blobs, KEY) == b"model"


def test_one_program_holds_a_place_at_a_time(blobs: Blobs, opened: Callable[[], Blobs]) -> None:
    with blobs.held(), pytest.raises(ConfigurationError, match="in use"), opened().held():
        pass
    with opened().held():
        pass


def test_a_refusal_of_the_system_becomes_an_error_with_advice(blobs: Blobs) -> None:
    error = blobs.fault("read it", OSError(28, "No space left on device"))
    assert (error.status, error.found) == (507, "the store could not read it: No space left on device")
    assert error.remedy


def test_a_sound_place_has_room_and_is_not_broken(blobs: Blobs) -> None:
    assert blobs.broken == ""
    assert blobs.free_bytes() > 0
