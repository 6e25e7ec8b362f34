"""Runs under the Python of Windows: what `system.windows` and `worker.process.windows` promise."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from ctypes import wintypes
from pathlib import Path
from typing import Any

import pytest

from training.fleet import bundle, system
from training.fleet.model.errors import ConfigurationError, TrainerError
from training.fleet.worker import program
from training.fleet.worker.files import delete_tree, has_files
from training.fleet.worker.process import local
from training.fleet.worker.process.ending import TrainerEnding, read_ending
from training.fleet.worker.work_folder import make_work_folder

PYTHON = sys.executable
TREE = """
import subprocess, sys, time
child = "import time; print('grandchild', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child])
print("trainer", flush=True)
time.sleep(600)
"""


def until(met: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := met()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


# ---- files


def test_a_file_that_something_holds_open_for_a_moment_is_replaced_in_the_end(tmp_path: Path) -> None:
    source, target = tmp_path / "new", tmp_path / "old"
    source.write_text("new")
    target.write_text("old")
    holder = target.open()
    threading.Timer(0.3, holder.close).start()
    with pytest.raises(PermissionError):
        source.replace(target)
    system.replace(source, target)
    assert target.read_text() == "new"


def test_a_file_that_stays_open_is_an_error_in_the_end(tmp_path: Path) -> None:
    source, target = tmp_path / "new", tmp_path / "old"
    source.write_text("new")
    target.write_text("old")
    with target.open(), pytest.raises(PermissionError):
        system.replace(source, target)


def test_a_tree_with_read_only_files_and_paths_beyond_the_limit_is_deleted(tmp_path: Path) -> None:
    top = tmp_path / "top"
    deep = system.long_path(top)
    for _ in range(8):
        deep = deep / ("d" * 60)
    deep.mkdir(parents=True)
    (deep / "model.txt").write_text("x")
    (top / "fixed.txt").write_text("x")
    (top / "fixed.txt").chmod(0o400)
    assert len(str(deep)) > 400
    assert has_files(top)
    delete_tree(top)
    assert not top.exists()


def test_a_tree_that_something_holds_open_for_a_moment_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    holder = (tmp_path / "top" / "log").open("w")
    threading.Timer(0.2, holder.close).start()
    delete_tree(tmp_path / "top")
    assert not (tmp_path / "top").exists()


def test_an_artifact_below_a_long_path_gives_the_same_bundle(tmp_path: Path) -> None:
    made = []
    for folder in (tmp_path / "short", tmp_path / ("l" * 120) / ("m" * 120)):
        system.long_path(folder / "artifact").mkdir(parents=True)
        system.long_path(folder / "artifact" / "model.txt").write_bytes(b"model")
        made.append(bundle.pack(folder / "artifact", tmp_path / "bundle").content_digest)
    # The same digest as on Linux, for one file "model.txt" with the content "model".
    assert made == [os.environ["EXPECTED_DIGEST"]] * 2


def test_a_work_folder_with_a_long_path_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"expected at most 120.*--work-dir"):
        make_work_folder(tmp_path / ("w" * 130))


def test_a_file_made_private_is_read_by_its_owner_and_no_longer_by_everybody(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("s")
    assert system.everybody_can_read(path)  # Wine's own folders are open
    system.private(path)
    assert not system.everybody_can_read(path)
    assert path.read_text() == "s"


def test_whom_a_file_belongs_to_is_told_by_number_and_who_runs_this_may_install(tmp_path: Path) -> None:
    assert system.owner(tmp_path).startswith("S-1-5-")
    assert system.owner(tmp_path / "none") == ""
    assert system.is_administrator()


# ---- the host


def test_memory_cores_and_the_state_folder_are_found() -> None:
    assert system.ram_bytes() > 2**28
    assert system.cores() >= 1
    assert system.state_folder({"LOCALAPPDATA": "C:\\Users\\x\\AppData\\Local"}) == Path(
        "C:\\Users\\x\\AppData\\Local\\cis490"
    )
    service = {
        "LOCALAPPDATA": "C:\\Windows\\system32\\config\\systemprofile\\AppData\\Local",
        "SYSTEMROOT": "C:\\Windows",
        "PROGRAMDATA": "C:\\ProgramData",
    }
    assert system.state_folder(service) == Path("C:\\ProgramData\\cis490")
    assert system.state_folder({"STATE_DIRECTORY": "D:\\fleet"}) == Path("D:\\fleet")


def test_the_driver_tool_is_found_where_older_drivers_leave_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert system.gpu_tool() is None
    monkeypatch.setenv("PROGRAMFILES", str(tmp_path))
    tool = tmp_path / "NVIDIA Corporation" / "NVSMI" / "nvidia-smi.exe"
    tool.parent.mkdir(parents=True)
    tool.touch()
    assert system.gpu_tool() == str(tool)


def test_a_second_worker_in_the_folder_is_refused(tmp_path: Path) -> None:
    held = program._locked(tmp_path)
    code = f"import pathlib, training.fleet.worker.program as p; p._locked(pathlib.Path({str(tmp_path)!r}))"
    other = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    assert "another worker uses" in other.stderr
    held.close()
    program._locked(tmp_path).close()


def test_the_pc_is_kept_awake_by_the_thread_inside_and_only_there() -> None:
    tell = ctypes.WinDLL("kernel32").SetThreadExecutionState
    tell.restype = wintypes.DWORD  # what held before
    with system.awake():
        assert tell(wintypes.DWORD(0x80000001)) == 0x80000001
    assert tell(wintypes.DWORD(0x80000000)) == 0x80000000


# ---- trainers


class Started:
    def __init__(self, folder: Path) -> None:
        self.folder, self.output, self.news = folder, b"", threading.Event()

    def __call__(self, code: str, grace_s: float = 20.0) -> local.Training:
        def log(chunk: bytes) -> None:
            self.output += chunk

        (self.folder / "scratch").mkdir(exist_ok=True)
        self.training = local.launch(
            [PYTHON, "-c", code], self.folder / "scratch", dict(os.environ), self.folder / "exit.json",
            grace_s=grace_s, log=log, wake=self.news.set,
        )  # fmt: skip
        return self.training

    def says(self, text: bytes) -> None:
        until(lambda: text in self.output)

    def ending(self) -> TrainerEnding:
        assert self.training.ended.wait(20)
        assert self.news.is_set()
        return self.training.ending()


@pytest.fixture
def start(tmp_path: Path) -> Started:
    return Started(tmp_path)


def test_a_trainer_runs_once_it_gets_its_go_and_its_status_and_output_are_told(start: Started) -> None:
    training = start("import sys; print('hello'); sys.exit(75)")
    time.sleep(0.5)
    assert start.output == b""
    training.go()
    ending = start.ending()
    assert (ending.status, ending.asked, ending.error) == (75, "", "")
    assert start.output == b"hello\r\n"
    assert read_ending(start.folder / "exit.json") == ending


def test_a_trainer_without_its_go_never_runs(start: Started) -> None:
    start("print('ran')").kill()
    assert start.ending().asked == "N"
    assert start.output == b""


def test_a_kill_ends_the_whole_tree(start: Started) -> None:
    start(TREE).go()
    start.says(b"trainer")
    start.says(b"grandchild")
    start.training.kill()
    assert start.ending().asked == "K"


def test_a_stop_appears_as_a_file_and_a_trainer_that_heeds_it_ends_by_itself(start: Started) -> None:
    code = (
        "import os, sys, time\nprint('up', flush=True)\n"
        "while not os.path.exists(os.environ['CIS490_STOP_FILE']): time.sleep(0.05)\nsys.exit(75)"
    )
    start(code).go()
    start.says(b"up")
    start.training.stop()
    ending = start.ending()
    assert (ending.status, ending.asked) == (75, "T")


def test_a_trainer_that_heeds_nothing_is_killed_after_its_grace_with_all_it_started(start: Started) -> None:
    start(TREE, grace_s=0.6).go()
    start.says(b"grandchild")
    start.training.stop()
    assert start.ending().asked == "T"


def test_what_a_trainer_leaves_behind_is_killed(start: Started) -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    start(code, grace_s=0.2).go()
    assert start.ending().status == 0


def test_a_program_that_is_not_there_is_the_trainers_error(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="cannot be started") as refused:
        local.launch(
            ["no-such-program"], tmp_path, dict(os.environ), tmp_path / "exit.json",
            grace_s=1, log=lambda _: None, wake=lambda: None,
        )  # fmt: skip
    assert refused.value.kind == "trainer_error"


def test_nothing_is_taken_over(tmp_path: Path) -> None:
    assert local.take_over("", tmp_path / "exit.json", log=lambda _: None, wake=lambda: None) is None
    local.sweep(tmp_path)
    assert local.running_s("") == 0.0


def test_a_torn_report_is_no_ending(tmp_path: Path) -> None:
    (tmp_path / "exit.json").write_text(json.dumps({"status": 0})[:5])
    assert read_ending(tmp_path / "exit.json") is None
    with contextlib.suppress(FileNotFoundError):
        (tmp_path / "exit.json.part").unlink()
