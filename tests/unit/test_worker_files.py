"""The worker's log, progress, run folder and journal."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from training.fleet import system
from training.fleet.wire.worker import Fail, Lease, Progress
from training.fleet.worker import files
from training.fleet.worker import folder as folder_module
from training.fleet.worker import log as log_module
from training.fleet.worker.files import delete_tree, open_regular
from training.fleet.worker.folder import RunFolder, RunState, read_object, unfinished
from training.fleet.worker.held import ByPath, Held
from training.fleet.worker.journal import Journal
from training.fleet.worker.log import Log, plain
from training.fleet.worker.progress import ProgressFile, flat_metrics, left_s
from training.fleet.worker.verdict import Failure

LEASE = Lease("a" * 64, "lease-0001", 1, 90.0, 600.0, 30.0, {"model": "x"}, 60, ["x"])


def test_a_short_log_is_kept_whole(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.take(b"one\n")
    log.take(b"two\n")
    log.close()
    assert log.tail(100) == "one\ntwo\n"
    assert log.tail(5) == "\ntwo\n"
    assert log.size_bytes == 8


def test_a_long_log_keeps_its_head_and_its_tail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "HEAD_BYTES", 10)
    monkeypatch.setattr(log_module, "SEGMENT_BYTES", 10)
    log = Log(tmp_path)
    text = b"".join(b"%03d," % number for number in range(100))
    for start in range(0, len(text), 7):
        log.take(text[start : start + 7])
    log.close()
    assert (tmp_path / "log.head").read_bytes() == b"000,001,00"
    assert text.decode().endswith(log.tail(12))
    assert len(log.tail(12)) == 12
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 30


def test_a_log_nobody_wrote_to_is_empty(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.close()
    assert log.tail(10) == ""


def test_a_log_that_cannot_be_written_never_stops_the_trainer(tmp_path: Path) -> None:
    log = Log(tmp_path / "gone")
    log.take(b"x" * 30_000)
    log.take(b"y" * 100)
    assert log.size_bytes == 30_100
    assert log.tail(200) == "x" * 100 + "y" * 100
    (tmp_path / "gone").mkdir()
    log.take(b"z")
    log.close()
    assert (tmp_path / "gone" / "log.head").read_bytes() == b"z"


@pytest.mark.parametrize("before", [b"", b"before"])
def test_what_is_printed_after_the_end_is_dropped(tmp_path: Path, before: bytes) -> None:
    log = Log(tmp_path)
    log.take(before)
    log.close()
    log.take(b"after")
    assert log.tail(100) == before.decode()


@pytest.mark.parametrize(
    ("before", "head", "tail"), [(3, "aaaxyz", ""), (10, "a" * 10, "xyz"), (14, "a" * 10, "aaaaxyz")]
)
def test_the_log_of_an_earlier_worker_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, head: str, tail: str
) -> None:
    monkeypatch.setattr(log_module, "HEAD_BYTES", 10)
    monkeypatch.setattr(log_module, "SEGMENT_BYTES", 10)
    first, second = Log(tmp_path), Log(tmp_path)
    first.take(b"a" * before)
    first.close()
    second.go_on()
    second.take(b"xyz")
    second.close()
    assert (tmp_path / "log.head").read_text() == head
    assert second.tail(100) == head + tail


def test_a_log_that_was_never_begun_begins(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.go_on()
    log.take(b"x")
    log.close()
    assert (tmp_path / "log.head").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\x1b[31mred\x1b[0m", "ared"),
        ("10%\r20%\r\n", "10%\n20%\n"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("bell\x07 nul\x00 csi\x9b31m", "bell nul csi31m"),
        ("\x1b]0;title\x07", "]0;title"),
    ],
)
def test_people_never_see_control_characters(raw: str, shown: str) -> None:
    assert plain(raw) == shown


def progress_of(tmp_path: Path, data: bytes) -> ProgressFile:
    (tmp_path / "progress.jsonl").write_bytes(data)
    progress = ProgressFile(tmp_path / "progress.jsonl")
    progress.poll(10.0)
    return progress


def test_the_newest_progress_counts(tmp_path: Path) -> None:
    lines = (
        b'{"step":1,"steps":4,"phase":"a","metrics":{"m":1}}\n{"step":2,"steps":4,"phase":"b","metrics":{"m":2.5}}\n'
    )
    found = progress_of(tmp_path, lines).report(12.0)
    assert found == Progress(2, 4, "b", {"m": 2.5}, 12.0, 8.0)


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    progress = progress_of(tmp_path, b'{"step":1,"steps":2}\n{"step":2,"st')
    assert progress.report(1.0).step == 1
    with (tmp_path / "progress.jsonl").open("ab") as stream:
        stream.write(b'eps":2}\n')
    assert progress.poll(2.0) is True
    assert progress.report(2.0).step == 2
    assert progress.poll(3.0) is False


def test_a_progress_file_that_starts_again_is_read_again(tmp_path: Path) -> None:
    progress = progress_of(tmp_path, b'{"step":7,"steps":9}\n{"step":8,"steps":9}\n')
    (tmp_path / "progress.jsonl").write_bytes(b'{"step":1,"steps":9}\n')
    progress.poll(1.0)
    assert progress.report(1.0).step == 1


@pytest.mark.parametrize(
    "line",
    [
        b"rubbish",
        b"[1]",
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"step":-1,"steps":"x","phase":null,"metrics":7}',
        b'{"step":true}',
    ],
    ids=["no json", "no object", "no utf-8", "deep", "wrong types", "a truth as number"],
)
def test_what_is_no_progress_is_passed_over(tmp_path: Path, line: bytes) -> None:
    assert progress_of(tmp_path, line + b"\n").report(1.0) == Progress(elapsed_s=1.0)


def test_a_line_without_end_takes_bounded_memory(tmp_path: Path) -> None:
    progress = progress_of(tmp_path, b"x" * 3_000_000)
    while progress.poll(1.0):
        pass
    assert len(progress._rest) <= 65536


def test_without_a_file_there_is_no_progress(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path / "none")
    assert progress.poll(1.0) is False
    assert progress.report(2.0) == Progress(elapsed_s=2.0)


@pytest.mark.parametrize(
    ("step", "steps", "step_s", "elapsed_s", "left"),
    [(1, 4, 10, 10, 30.0), (2, 4, 10, 15, 5.0), (4, 4, 10, 20, 0.0), (0, 4, 0, 9, None), (5, 4, 9, 9, None)],
)
def test_the_time_left_follows_from_the_steps(
    step: int, steps: int, step_s: float, elapsed_s: float, left: float | None
) -> None:
    assert left_s(step, steps, step_s, elapsed_s) == left


def test_only_flat_finite_figures_are_kept() -> None:
    raw = {
        "a": 1,
        "b": 0.5,
        "c": "x",
        "d": True,
        "e": None,
        "f": float("nan"),
        "g": {},
        "h": "x" * 999,
        "i": 2**60,
        5: 1,
    }
    assert flat_metrics(raw) == {"a": 1, "b": 0.5, "c": "x", "d": True, "e": None}
    assert flat_metrics([1]) == {}
    assert len(flat_metrics({str(number): 1 for number in range(999)})) == 256


def test_metrics_hold_nothing_that_the_receiver_would_refuse() -> None:
    """A heartbeat that is refused for its metrics would let the lease run out."""
    raw = {"a\0": 1, "\ud800": 2, "n" * 201: 3, "line\nfeed": 4, "text": "\0", "fine": "ü"}
    assert flat_metrics(raw) == {"fine": "ü"}
    long = flat_metrics({f"{number:03}" + "ü" * 100: "ü" * 100 for number in range(256)})
    assert 0 < len(json.dumps(long, ensure_ascii=False).encode()) < 40_000


def test_what_is_no_regular_file_is_not_read_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/hostname")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "link", "zero", "missing"):
        assert read_object(tmp_path / name) == {}
        assert ProgressFile(tmp_path / name).poll(1.0) is False
    with pytest.raises(OSError, match="is no regular file"):
        open_regular(Path("/dev/null"))


WALKS = tuple(dict.fromkeys((ByPath, Held)))
"""Both ways through a tree; Windows has one."""


def precious_in(folder: Path) -> Path:
    """Return a file that must outlive every deletion beside it."""
    (folder / "precious").mkdir()
    (folder / "precious" / "file").write_text("x")
    return folder / "precious" / "file"


def deepen(top: Path, levels: int) -> None:
    """Make folders in each other, deeper than any path may be long."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("deeper", dir_fd=here)
        inner = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


@pytest.mark.parametrize("walk", WALKS)
def test_a_tree_is_deleted_whatever_its_depth_its_rights_and_its_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walk: type
) -> None:
    monkeypatch.setattr(files, "Held", walk)
    precious = precious_in(tmp_path)
    top = tmp_path / "top"
    (top / "wide" / "inner").mkdir(parents=True)
    (top / "wide" / "link").symlink_to(precious.parent, target_is_directory=True)
    (top / "broken").symlink_to(tmp_path / "missing")
    os.mkfifo(top / "wide" / "inner" / "pipe")
    (top / "wide").chmod(0)
    deepen(top, 2000)
    delete_tree(top)
    delete_tree(tmp_path / "missing")
    delete_tree(tmp_path / "missing" / "in it")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    assert precious.exists()


@pytest.mark.parametrize("walk", [walk.__name__ for walk in WALKS])
def test_folders_without_rights_are_deleted_by_who_owns_them(tmp_path: Path, root: Path, walk: str) -> None:
    """In a process of its own, which gives up the rights of root where it has them: to root every folder is open."""
    lines = [
        "import os, pathlib, sys",
        "from training.fleet.worker import files, held",
        f"files.Held = held.{walk}",
        "os.chdir(sys.argv[1])",
        "if hasattr(os, 'geteuid') and os.geteuid() == 0:",
        "    os.chown('.', 65534, 65534), os.setgroups([]), os.setgid(65534), os.setuid(65534)",
        "top = pathlib.Path('top')",
        "(top / 'a' / 'b' / 'c').mkdir(parents=True)",
        "(top / 'a' / 'b' / 'c' / 'file').write_text('x')",
        "for name in ('a/b/c', 'a/b', 'a', '.'): (top / name).chmod(0)",
        "files.delete_tree(top)",
        "assert not top.exists()",
    ]
    command = [sys.executable, "-c", "\n".join(lines), str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("kind", ["folder", "file", "missing"])
def test_a_link_at_the_top_of_a_tree_is_deleted_and_what_it_leads_to_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walk: type, kind: str
) -> None:
    monkeypatch.setattr(files, "Held", walk)
    precious = precious_in(tmp_path)
    target = {"folder": precious.parent, "file": precious, "missing": tmp_path / "missing"}[kind]
    top = tmp_path / "top"
    top.symlink_to(target)
    delete_tree(top)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    assert precious.exists()


@pytest.mark.parametrize("walk", WALKS)
def test_nothing_is_deleted_through_a_link_that_stands_for_the_folder_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walk: type
) -> None:
    monkeypatch.setattr(files, "Held", walk)
    precious = precious_in(tmp_path)
    (tmp_path / "run").symlink_to(tmp_path)
    delete_tree(tmp_path / "run" / "precious")
    assert precious.exists()


def test_a_file_in_place_of_a_tree_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "scratch").write_text("x")
    delete_tree(tmp_path / "scratch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("victim", ["top", "one", "a moved one"])
@pytest.mark.parametrize("moment", ["open", "chmod"])
def test_a_folder_swapped_for_a_link_while_its_tree_is_deleted_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str, moment: str
) -> None:
    """The moment is the last one before the walk enters the folder, right after it was seen to be one."""
    precious = precious_in(tmp_path)
    precious.parent.chmod(0o500)
    (tmp_path / "top" / "one" / "two" / "three").mkdir(parents=True)
    real, refused, swapped = os.open, [], []

    def late(name: str | Path, flags: int, *more: int, dir_fd: int | None = None) -> int:
        if str(name) == victim or (victim == "a moved one" and str(name)[0] == "."):
            if moment == "chmod" and not refused:  # as for a folder without rights
                refused.append(name)
                raise PermissionError(name)
            if not swapped:
                swapped.append(name)
                os.rename(name, "aside", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
                os.symlink(precious.parent, name, dir_fd=dir_fd)
        return real(name, flags, *more, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", late)
    delete_tree(tmp_path / "top")
    assert swapped
    assert precious.exists()
    assert precious.parent.stat().st_mode & 0o777 == 0o500
    assert not os.path.lexists(tmp_path / "top")


def test_what_a_worker_was_killed_over_is_known_by_its_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run-1")
    (tmp_path / "run-1.new" / "out").mkdir(parents=True)
    folder.make(RunState("claimed", LEASE))
    assert [path.name for path in tmp_path.iterdir()] == ["run-1"]
    assert (unfinished(tmp_path / "run-1.new"), unfinished(tmp_path / "run-1.gone")) == (True, True)
    assert not unfinished(folder.path)
    folder.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("owner", "call"), [(system, "replace"), (folder_module, "sync_folder")])
def test_a_run_folder_that_cannot_be_made_whole_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: ModuleType, call: str
) -> None:
    real = getattr(owner, call)

    def refuse(*paths: Path) -> None:
        if tmp_path / "run-1" in paths or paths == (tmp_path,):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*paths)

    monkeypatch.setattr(owner, call, refuse)
    with pytest.raises(OSError, match="No space left"):
        RunFolder(tmp_path / "run-1").make(RunState("claimed", LEASE))
    assert list(tmp_path.iterdir()) == []


def test_room_is_made_without_the_log_and_the_state(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run-1")
    folder.make(RunState("claimed", LEASE))
    for path in (folder.out / "junk", folder.scratch / "junk", folder.bundle, folder.path / "log.head"):
        path.write_text("x")
    folder.make_room()
    assert sorted(path.name for path in folder.path.iterdir()) == ["log.head", "state.json"]


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.make(RunState("claimed", LEASE))
    failure = Fail("lease-0001", "stalled", -9, "e", "tail")
    stopped = Failure("timeout", "stopped")
    for state in (
        RunState("claimed", LEASE, "0" * 32),
        RunState("training", LEASE, shim="1:2:x", stopped=stopped),
        RunState("failed", LEASE, failure=failure, metrics={"a": 0.5}),
    ):
        folder.save(state)
        assert folder.load() == state


@pytest.mark.parametrize("part", ["scratch", "out", "artifact", "path"])
def test_a_folder_of_a_run_that_its_trainer_made_a_link_is_dropped_without_what_it_leads_to(
    tmp_path: Path, part: str
) -> None:
    precious = precious_in(tmp_path)
    folder = RunFolder(tmp_path / "runs" / "run-1")
    folder.path.parent.mkdir()
    folder.make(RunState("claimed", LEASE))
    link = getattr(folder, part)
    if link.exists():
        link.rename(tmp_path / "aside")
    link.symlink_to(precious.parent)
    for drop in (folder.shrink, folder.make_room, folder.remove):
        drop()
    assert list(folder.path.parent.iterdir()) == []
    assert precious.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"v":1,"step":"claimed","lease":{},"failure":null}',
        '{"v":1,"step":"x","lease":7,"failure":1}',
    ],
)
def test_a_state_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert RunFolder(tmp_path).load() is None


def test_an_unknown_step_is_no_state(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save(RunState("of a later version", LEASE))  # type: ignore[arg-type]
    assert folder.load() is None


def test_a_state_with_a_number_for_a_text_is_none(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save(RunState("claimed", LEASE, shim=7))  # type: ignore[arg-type]
    assert folder.load() is None


def test_an_artifact_needs_a_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.make(RunState("claimed", LEASE))
    assert not folder.has_artifact()
    (folder.artifact / "deep").mkdir(parents=True)
    assert not folder.has_artifact()
    (folder.artifact / "deep" / "model").write_text("x")
    assert folder.has_artifact()


def test_what_cannot_be_looked_into_counts_as_an_artifact_so_that_packing_can_say_why(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.make(RunState("claimed", LEASE))
    folder.artifact.write_text("a file")
    assert folder.has_artifact()


def test_a_huge_result_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"a": "x" * 2**20}))
    assert read_object(tmp_path / "result.json") == {}


def test_a_journal_line_has_no_control_characters_and_no_news_twice() -> None:
    stream = io.StringIO()
    journal = Journal(stream)
    journal.note("run ended", job="abc", why='a "b"\n\x1b[31m', nothing=None)
    journal.note_once("away", why="x")
    journal.note_once("away", why="x")
    lines = [line.partition(" ")[2] for line in stream.getvalue().splitlines()]
    assert lines == ['run ended job=abc why="a \\"b\\"\\n\\u001b[31m"', "away why=x"]


def test_a_journal_whose_stream_is_gone_is_silent() -> None:
    stream = io.StringIO()
    stream.close()
    Journal(stream).note("x")
