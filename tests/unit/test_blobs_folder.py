"""The folder of blobs: what is synced when, and what each failure of the system leaves behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from training.fleet.blobs import Data
from training.fleet.blobs.disk import System
from training.fleet.blobs.folder import STEP_BYTES, Folder
from training.fleet.model.errors import ConfigurationError, FleetError, StorageFullError, UnavailableError

KEY = "gbt_oracle/" + "a" * 64 + "/bundle.tar.zst"
OTHER = "gbt_oracle/" + "b" * 64 + "/bundle.tar.zst"


class Faulty(System):
    """The real system, with a log of calls and a fault at one of them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fault = ("", 0)
        self.most = 1 << 30
        self.free = 1 << 40

    def _call(self, name: str, what: str) -> None:
        self.calls.append(f"{name} {what}")
        if name == self.fault[0]:
            raise OSError(self.fault[1], os.strerror(self.fault[1]))

    def create(self, path: Path) -> int:
        self._call("create", "part")
        return super().create(path)

    def reserve(self, descriptor: int, start: int, size_bytes: int) -> None:
        self._call("reserve", f"{start} {size_bytes}")
        super().reserve(descriptor, start, size_bytes)

    def write(self, descriptor: int, data: Data) -> int:
        self._call("write", str(len(data)))
        return super().write(descriptor, memoryview(data)[: self.most])

    def sync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        self._call("sync", "part" if path.suffix == ".part" else path.name[:12])
        super().sync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._call("rename", target.name)
        super().rename(source, target)

    def free_bytes(self, folder: Path) -> int:
        return self.free


@pytest.fixture
def system() -> Faulty:
    return Faulty()


@pytest.fixture
def blobs(tmp_path: Path, system: Faulty) -> Folder:
    made = Folder(tmp_path / "store", tmp_path / "incoming", 1000, system)
    made.prepare()
    system.calls.clear()
    return made


def put(blobs: Folder, key: str, data: bytes = b"model") -> bool:
    part = blobs.begin(len(data))
    try:
        part.write(data)
        return part.place(key)
    finally:
        part.discard()


def incoming(blobs: Folder) -> list[str]:
    return sorted(path.name for path in blobs.incoming.iterdir())


def test_the_file_is_synced_before_it_is_named_and_its_folders_after(blobs: Folder, system: Faulty) -> None:
    put(blobs, KEY)
    assert system.calls == [
        "create part",
        "reserve 0 5",
        "write 5",
        "sync part",
        "rename bundle.tar.zst",
        "sync aaaaaaaaaaaa",
        "sync gbt_oracle",
        "sync store",
    ]


def test_the_root_is_synced_once_for_a_model_and_its_folder_each_time(blobs: Folder, system: Faulty) -> None:
    put(blobs, KEY)
    system.calls.clear()
    put(blobs, OTHER)
    assert system.calls[-2:] == ["sync bbbbbbbbbbbb", "sync gbt_oracle"]


def test_a_blob_found_is_synced_before_it_is_vouched_for(blobs: Folder, system: Faulty) -> None:
    put(blobs, KEY)
    system.calls.clear()
    assert blobs.has(KEY)
    assert system.calls == ["sync bundle.tar.z", "sync aaaaaaaaaaaa", "sync gbt_oracle"]


def test_the_second_of_two_equal_uploads_is_synced_too(blobs: Folder, system: Faulty) -> None:
    put(blobs, KEY)
    system.calls.clear()
    assert put(blobs, KEY) is False
    assert system.calls[3:] == ["sync part", "sync bundle.tar.z", "sync aaaaaaaaaaaa", "sync gbt_oracle"]


def test_new_folders_above_the_store_are_synced(tmp_path: Path, system: Faulty) -> None:
    Folder(tmp_path / "new" / "store", tmp_path / "new" / "incoming", 0, system).prepare()
    assert system.calls[:3] == [f"sync {tmp_path.name[:12]}", "sync new", "sync new"]


def test_a_write_that_takes_a_part_is_continued(blobs: Folder, system: Faulty) -> None:
    system.most = 2
    put(blobs, KEY, b"model")
    with blobs.open(KEY) as file:
        assert file.read() == b"model"


@pytest.mark.parametrize("call", ["create", "reserve", "write", "sync", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_507_at_every_step_and_leaves_nothing(
    blobs: Folder, system: Faulty, call: str, number: int
) -> None:
    system.fault = (call, number)
    with pytest.raises(StorageFullError) as caught:
        put(blobs, KEY)
    assert caught.value.status == 507
    assert caught.value.retry_after_s == 60.0
    assert incoming(blobs) == []
    system.fault = ("", 0)
    assert put(blobs, KEY) is True


@pytest.mark.parametrize("call", ["create", "reserve", "write", "sync", "rename"])
def test_an_input_output_error_is_500_at_every_step_and_leaves_no_temporary_file(
    blobs: Folder, system: Faulty, call: str
) -> None:
    system.fault = (call, errno.EIO)
    with pytest.raises(FleetError, match="Input/output error") as caught:
        put(blobs, KEY)
    assert caught.value.status == 500
    assert incoming(blobs) == []


@pytest.mark.parametrize("call", ["sync", "rename"])
def test_a_failed_sync_is_never_tried_again(blobs: Folder, system: Faulty, call: str) -> None:
    said: list[str] = []
    blobs.on_broken = said.append
    put(blobs, OTHER)
    system.fault = (call, errno.EIO)
    with pytest.raises(FleetError):
        put(blobs, KEY)
    system.fault = ("", 0)
    assert said == [blobs.broken]
    assert "Input/output error" in blobs.broken
    with pytest.raises(UnavailableError, match="restart the receiver"):
        blobs.begin(5)
    with pytest.raises(UnavailableError, match="restart the receiver"):
        blobs.has(OTHER)


def test_a_blob_that_cannot_be_synced_is_not_vouched_for(blobs: Folder, system: Faulty) -> None:
    put(blobs, KEY)
    system.fault = ("sync", errno.EIO)
    with pytest.raises(FleetError, match="Input/output error"):
        blobs.has(KEY)
    assert blobs.broken


def test_a_full_disk_does_not_break_the_store(blobs: Folder, system: Faulty) -> None:
    system.fault = ("sync", errno.ENOSPC)
    with pytest.raises(StorageFullError):
        put(blobs, KEY)
    assert blobs.broken == ""


def test_a_temporary_file_that_is_gone_is_a_failed_upload_and_no_failed_disk(blobs: Folder) -> None:
    part = blobs.begin(5)
    part.write(b"model")
    (name,) = incoming(blobs)
    (blobs.incoming / name).unlink()
    with pytest.raises(UnavailableError, match="send the upload again") as caught:
        part.place(KEY)
    assert (caught.value.status, blobs.broken) == (503, "")
    assert put(blobs, KEY) is True


def test_a_folder_that_is_gone_ends_no_receiver(blobs: Folder) -> None:
    blobs.incoming.rmdir()
    with pytest.raises(UnavailableError, match="send the upload again"):
        blobs.begin(5)
    blobs.incoming.mkdir()
    assert put(blobs, KEY) is True
    (blobs.root / "gbt_realistic").write_bytes(b"a file where a folder belongs")
    with pytest.raises(UnavailableError, match="Not a directory"):
        put(blobs, KEY.replace("oracle", "realistic"))
    assert blobs.broken == ""


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM], ids=errno.errorcode.get)
def test_rights_that_somebody_took_end_no_receiver(blobs: Folder, system: Faulty, number: int) -> None:
    """A restore by root leaves folders of root behind; a restart would not change them."""
    system.fault = ("rename", number)
    with pytest.raises(UnavailableError, match="chown -R"):
        put(blobs, KEY)
    assert blobs.broken == ""


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.EMFILE, "try again"), (errno.ENFILE, "try again"), (errno.EROFS, "remount")]
)
def test_what_passes_is_503_with_the_advice(blobs: Folder, system: Faulty, number: int, advice: str) -> None:
    system.fault = ("create", number)
    with pytest.raises(UnavailableError, match=advice) as caught:
        blobs.begin(5)
    assert caught.value.status == 503


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_reserve_works_without(blobs: Folder, system: Faulty, number: int) -> None:
    system.fault = ("reserve", number)
    assert put(blobs, KEY) is True


def test_an_upload_may_reach_the_floor_and_not_pass_it(blobs: Folder, system: Faulty) -> None:
    system.free = 1005
    blobs.begin(5).discard()
    assert blobs.free_bytes() == 5
    system.free = 1004
    with pytest.raises(StorageFullError, match="1004 bytes free"):
        blobs.begin(5)
    system.free = 3
    assert blobs.free_bytes() == 0


def taken(blobs: Folder) -> int:
    """Bytes on the disk that the one upload under way holds."""
    (name,) = incoming(blobs)
    return (blobs.incoming / name).stat().st_blocks * 512


def test_room_is_taken_before_the_first_byte(blobs: Folder) -> None:
    part = blobs.begin(1 << 20)
    assert taken(blobs) >= 1 << 20
    part.discard()
    assert incoming(blobs) == []


def test_an_upload_that_sends_little_holds_little_room_however_much_it_declares(blobs: Folder, system: Faulty) -> None:
    part = blobs.begin(8 << 30)
    part.write(b"x")
    assert taken(blobs) <= STEP_BYTES + 2**16
    part.write(bytes(STEP_BYTES))
    assert STEP_BYTES < taken(blobs) <= 2 * STEP_BYTES + 2**16
    assert [call for call in system.calls if call.startswith("reserve")] == [
        f"reserve 0 {STEP_BYTES}",
        f"reserve {STEP_BYTES} {STEP_BYTES}",
    ]
    part.discard()
    assert incoming(blobs) == []


@pytest.mark.parametrize("size", [STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1, 3 * STEP_BYTES - 5])
@pytest.mark.parametrize("piece", [2**19 + 1, 3 * STEP_BYTES])
def test_a_blob_is_as_long_as_its_bytes_whatever_room_was_taken(blobs: Folder, size: int, piece: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    part = blobs.begin(size)
    for start in range(0, size, piece):
        part.write(data[start : min(size, start + piece)])
    part.place(KEY)
    with blobs.open(KEY) as file:
        assert file.read() == data[:size]


def test_an_upload_stops_at_the_floor_when_others_have_taken_the_room_meanwhile(blobs: Folder, system: Faulty) -> None:
    part = blobs.begin(3 * STEP_BYTES)
    part.write(bytes(STEP_BYTES))
    system.free = STEP_BYTES + 1000
    part.write(bytes(10))
    system.free = STEP_BYTES + 999 - 10
    part.write(bytes(STEP_BYTES - 10))
    with pytest.raises(StorageFullError, match="and 1000 to spare") as caught:
        part.write(b"x")
    assert caught.value.retry_after_s == 60.0
    part.discard()
    assert incoming(blobs) == []


def test_the_real_system_measures_the_free_space(tmp_path: Path) -> None:
    free = System().free_bytes(tmp_path)
    assert 0 < free < 1 << 60


def test_leftovers_are_removed_at_the_start_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / ("0" * 32 + ".part")).write_bytes(b"half")
    (tmp_path / "incoming" / "letter.txt").write_bytes(b"somebody's")
    made = Folder(tmp_path / "store", tmp_path / "incoming")
    made.prepare()
    assert incoming(made) == ["letter.txt"]


def test_two_file_systems_are_refused_at_the_start(tmp_path: Path, system: Faulty) -> None:
    system.fault = ("rename", errno.EXDEV)
    with pytest.raises(ConfigurationError, match="two file systems; expected one") as caught:
        Folder(tmp_path / "store", tmp_path / "incoming", 0, system).prepare()
    assert caught.value.exit_status == 78
    assert list((tmp_path / "incoming").iterdir()) == []


def test_a_root_that_is_a_file_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="correct --store-root and --incoming-root"):
        Folder(tmp_path / "store", tmp_path / "incoming").prepare()


def test_a_start_leaves_no_probe_behind(blobs: Folder) -> None:
    assert list(blobs.root.iterdir()) == []
    assert incoming(blobs) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE], ids=errno.errorcode.get)
def test_a_disk_that_refuses_at_the_start_asks_for_another_start(tmp_path: Path, number: int) -> None:
    system = Faulty()
    system.fault = ("create", number)
    folder = Folder(tmp_path / "store", tmp_path / "incoming", system=system)
    with pytest.raises(UnavailableError, match="cannot use the folders") as caught:
        folder.prepare()
    assert caught.value.exit_status == 75


def test_leftovers_that_cannot_be_listed_are_a_clear_error(blobs: Folder) -> None:
    blobs.incoming.rmdir()
    with pytest.raises(FleetError, match="remove the leftovers of uploads: No such file"):
        blobs.sweep()


def test_too_many_open_files_do_not_end_the_store(tmp_path: Path) -> None:
    system = Faulty()
    folder = Folder(tmp_path / "store", tmp_path / "incoming", system=system)
    folder.prepare()
    part = folder.begin(1)
    part.write(b"x")
    system.fault = ("sync", errno.EMFILE)
    with pytest.raises(UnavailableError, match="too many uploads at once"):
        part.place("a/b/c")
    assert folder.broken == ""
