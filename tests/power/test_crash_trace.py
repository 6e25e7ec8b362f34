"""What the log of a watched program means when its threads overtake each other, and when a kill cuts a call off."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash_disk import Disk
from crash_trace import Step, steps


def quoted(path: Path | bytes) -> str:
    data = path if isinstance(path, bytes) else str(path).encode()
    return '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'


def opened(path: Path) -> str:
    return "<" + "".join(f"\\x{byte:02x}" for byte in str(path).encode()) + ">"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


def read(site: Path, *lines: str) -> list[Step]:
    log = site.with_name("trace")
    log.write_text("".join(f"{line}\n" for line in lines))
    return steps(log, site)


def test_a_name_that_another_thread_saw_was_there_before_the_log_has_its_return(site: Path) -> None:
    part, folder, bundle = site / "a.part", site / "gbt", site / "gbt" / "bundle"
    found = read(
        site,
        f"7 openat(AT_FDCWD</>, {quoted(part)}, O_WRONLY|O_CREAT|O_EXCL, 0644) = 5{opened(part)}",
        f"6 mkdir({quoted(folder)}, 0777 <unfinished ...>",
        f"7 mkdir({quoted(folder)}, 0777) = -1 EEXIST (File exists)",
        f"7 rename({quoted(part)}, {quoted(bundle)}) = 0",
        "6 <... mkdir resumed>) = 0",
    )
    assert found == [Step("make", "a.part"), Step("folder", "gbt"), Step("rename", "a.part", "gbt/bundle")]
    disk = Disk()
    for step in found:
        disk.do(step)
    assert disk.loose()


def test_a_call_that_began_first_may_have_waited_for_one_that_began_later(site: Path) -> None:
    outer, inner = site / "gbt", site / "gbt" / "abc"
    found = read(
        site,
        f"6 mkdir({quoted(inner)}, 0777 <unfinished ...>",
        f"7 mkdir({quoted(inner)}, 0777) = -1 ENOENT (No such file or directory)",
        f"7 mkdir({quoted(outer)}, 0777) = 0",
        f"7 mkdir({quoted(inner)}, 0777) = -1 EEXIST (File exists)",
        f"7 openat(AT_FDCWD</>, {quoted(inner / 'bundle')}, O_WRONLY|O_CREAT, 0644) = 5{opened(inner / 'bundle')}",
        "6 <... mkdir resumed>) = 0",
    )
    assert found == [Step("folder", "gbt"), Step("folder", "gbt/abc"), Step("make", "gbt/abc/bundle")]


def test_a_sync_counts_for_a_name_only_if_its_call_had_returned_or_was_seen(site: Path) -> None:
    folder = site / "gbt"
    found = read(
        site,
        f"6 mkdir({quoted(folder)}, 0777 <unfinished ...>",
        f"7 fsync(4{opened(site)}) = 0",
        "6 <... mkdir resumed>) = 0",
    )
    assert [step.kind for step in found] == ["begin-sync", "end-sync", "folder"]


def test_a_name_that_another_thread_removes_is_there_before_it_goes(site: Path) -> None:
    path = site / "part"
    found = read(
        site,
        f"6 openat(AT_FDCWD</>, {quoted(path)}, O_WRONLY|O_CREAT, 0644 <unfinished ...>",
        f"7 unlink({quoted(path)}) = 0",
        f"6 <... openat resumed>) = 5{opened(path)}",
    )
    assert found == [Step("make", "part"), Step("remove", "part")]


def test_a_call_that_failed_changes_no_name_wherever_its_return_stands(site: Path) -> None:
    assert not read(
        site,
        f"6 mkdir({quoted(site / 'a')}, 0777 <unfinished ...>",
        f"7 unlink({quoted(site / 'b')}) = -1 ENOENT (No such file or directory)",
        "6 <... mkdir resumed>) = -1 EEXIST (File exists)",
    )


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_of_a_name_that_a_kill_cut_off_the_folder_tells_whether_it_came(site: Path, *, done: bool) -> None:
    if done:
        (site / "made").mkdir()
        (site / "new").touch()
        (site / "written").touch()
    else:
        (site / "gone").touch()
        (site / "old").touch()
    found = read(
        site,
        f"6 mkdir({quoted(site / 'made')}, 0777 <unfinished ...>",
        f"7 rename({quoted(site / 'old')}, {quoted(site / 'new')} <unfinished ...>",
        f"8 unlink({quoted(site / 'gone')} <unfinished ...>",
        f"9 openat(AT_FDCWD</>, {quoted(site / 'written')}, O_WRONLY|O_CREAT, 0644 <unfinished ...>",
        "6 <... mkdir resumed> <unfinished ...>) = ?",
        "7 +++ killed by SIGKILL +++",
        "8 <... unlink resumed>) = ?",
    )
    came = [Step("folder", "made"), Step("rename", "old", "new"), Step("remove", "gone"), Step("make", "written")]
    assert found == (came if done else [])


def test_writes_that_a_kill_cut_off_are_taken_from_the_folder(site: Path) -> None:
    (site / "log").write_bytes(b"a" * 512 + b"b" * 300)
    disk = Disk()
    disk.do(Step("make", "log"))
    disk.do(Step("write", "log", start=0, data=b"a" * 512 + b"-" * 600))
    missing = disk.unseen(site)
    assert missing == [Step("write", "log", start=512, data=b"b" * 300), Step("cut", "log", start=812)]
    for step in missing:
        disk.do(step)
    assert not disk.unseen(site)


def test_steps_that_are_not_what_lies_in_the_folder_are_noticed(site: Path) -> None:
    (site / "there").touch()
    disk = Disk()
    disk.do(Step("make", "elsewhere"))
    with pytest.raises(AssertionError, match=r"elsewhere.*there"):
        disk.unseen(site)
