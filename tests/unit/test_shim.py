"""The shim as a real process; the nasty trees are in the worker's integration tests as well."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from training.fleet.model.errors import ConfigurationError
from training.fleet.worker.process import local, shim
from training.fleet.worker.process.local import (
    TrainerEnding,
    Training,
    lives,
    process_identity,
    read_ending,
    running_s,
    take_over,
)

STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
sys.stdout.write("ready"); sys.stdout.flush()
time.sleep(600)
"""


class Started:
    """Trainings of one test, with what they printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = b""
        self.told = threading.Event()
        self.trainings: list[Training] = []

    def __call__(
        self, code: str, *, grace_s: float = 0.5, command: list[str] | None = None, go: bool = True
    ) -> Training:
        training = local.launch(
            command or [sys.executable, "-I", "-S", "-c", code],
            self.folder,
            {"PATH": os.environ["PATH"]},
            self.folder / "exit.json",
            grace_s=grace_s,
            log=self.take,
            wake=self.told.set,
        )
        self.trainings.append(training)
        if go:
            training.go()
        return training

    def by_a_worker_that_is_killed(self, code: str, *, go: bool = True, grace_s: float = 0.5) -> str:
        """Start a trainer from a process that is killed once it runs, and return the identity of its shim."""
        ready = self.folder / "ready"

        def work() -> None:
            training = self(code, go=go, grace_s=grace_s)
            end = time.monotonic() + 15
            while go and not ready.exists() and time.monotonic() < end:
                time.sleep(0.01)
            (self.folder / "identity").write_text(training.identity)
            os.kill(os.getpid(), signal.SIGKILL)

        worker = os.fork()
        if worker == 0:
            try:
                work()
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -9
        return (self.folder / "identity").read_text()

    def taken_over(self, identity: str) -> Training:
        training = take_over(identity, self.folder / "exit.json", log=self.take, wake=self.told.set)
        assert training is not None
        self.trainings.append(training)
        return training

    def take(self, chunk: bytes) -> None:
        self.output += chunk

    def ending(self) -> TrainerEnding:
        assert self.told.wait(15)
        return self.trainings[-1].ending()

    def until_it_says(self, text: bytes) -> None:
        end = time.monotonic() + 15
        while text not in self.output:
            assert time.monotonic() < end
            time.sleep(0.01)

    def trainer(self) -> int:
        """The process below the shim, once there is one."""
        pid = self.trainings[-1]._shim.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        end = time.monotonic() + 15
        while not children.read_text().split():
            assert time.monotonic() < end
            time.sleep(0.01)
        return int(children.read_text().split()[0])

    def until_its_status_says(self, pid: int, field: str, holds: Callable[[str], bool]) -> None:
        end = time.monotonic() + 15
        with contextlib.suppress(OSError, StopIteration):  # it is gone
            while not holds(next(line.split()[1] for line in self.status(pid) if line.startswith(f"{field}:"))):
                assert time.monotonic() < end
                time.sleep(0.01)

    def status(self, pid: int) -> list[str]:
        return Path(f"/proc/{pid}/status").read_text().splitlines()

    def until_stopped(self, pid: int) -> None:
        self.until_its_status_says(pid, "State", lambda state: state == "T")

    def until_aborted(self, pid: int) -> None:
        """Wait until the abort waits for the process, or something has ended it."""
        self.until_its_status_says(pid, "ShdPnd", lambda pending: int(pending, 16) >> 5 & 1 == 1)

    def processes(self) -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "cwd").readlink() == self.folder:
                    found.append(entry.name)
        return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Started]:
    it = Started(tmp_path)
    yield it
    for training in it.trainings:
        training.kill()
        assert training.ended.wait(15)


def test_nothing_starts_without_a_go(start: Started) -> None:
    training = start("open('started', 'w')", go=False)
    training.kill()
    assert start.ending().status is None
    assert not (start.folder / "started").exists()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", 0),
        ("raise SystemExit(7)", 7),
        ("import os; os.kill(os.getpid(), 11)", -11),
        ("import os; os.kill(os.getpid(), 9)", -9),
    ],
)
def test_the_ending_is_reported_as_it_was(start: Started, code: str, status: int) -> None:
    start(code)
    ending = start.ending()
    assert (ending.status, ending.asked, ending.error) == (status, "", "")
    assert ending.max_rss_bytes > 2**20
    assert ending.duration_s < 15


def test_a_command_that_cannot_be_started_says_why(start: Started) -> None:
    start("", command=["/no/such/trainer"])
    assert start.ending().error == "/no/such/trainer cannot be started: No such file or directory"
    assert start.ending().status is None


def test_a_polite_trainer_may_use_its_grace(start: Started) -> None:
    code = (
        "import signal, sys, time\n"
        "def stop(*_):\n    time.sleep(0.3); sys.exit(5)\n"
        "signal.signal(signal.SIGTERM, stop); sys.stdout.write('ready'); sys.stdout.flush(); time.sleep(600)"
    )
    training = start(code, grace_s=30)
    start.until_it_says(b"ready")
    training.stop()
    assert (start.ending().status, start.ending().asked) == (5, "T")


def test_a_tree_that_ignores_every_wish_is_gone_after_the_grace(start: Started) -> None:
    training = start(STUBBORN)
    start.until_it_says(b"ready")
    began = time.monotonic()
    training.stop()
    assert (start.ending().status, start.ending().asked) == (-9, "T")
    assert 0.4 < time.monotonic() - began < 3
    assert start.processes() == []


def test_a_kill_does_not_wait_for_the_grace_and_can_hurry_a_stop(start: Started) -> None:
    training = start(STUBBORN, grace_s=600)
    start.until_it_says(b"ready")
    training.stop()
    training.kill()
    assert start.ending().asked == "T"
    assert start.processes() == []


@pytest.mark.parametrize("wish", ["stop", "kill"])
def test_a_tree_that_somebody_has_stopped_with_its_shim_ends_all_the_same(start: Started, wish: str) -> None:
    training = start(STUBBORN)
    start.until_it_says(b"ready")
    tree = [int(training.identity.partition(":")[0]), start.trainer()]
    for process in tree:
        os.kill(process, signal.SIGSTOP)
    getattr(training, wish)()
    assert start.ending().status == -signal.SIGKILL
    assert not any(Path(f"/proc/{process}").exists() for process in tree)


def test_an_abort_dumps_before_it_stops(start: Started) -> None:
    ready = "sys.stdout.write('ready'); sys.stdout.flush(); time.sleep(600)"
    training = start(f"import faulthandler, sys, time; faulthandler.enable(); {ready}")
    start.until_it_says(b"ready")
    training.abort()
    assert (start.ending().status, start.ending().asked) == (-6, "A")
    assert b"Fatal Python error: Aborted" in start.output


def test_a_term_does_not_overtake_the_dump_of_an_abort(start: Started) -> None:
    """A stopped process stands for one that gets no time on a busy machine: both signals would wait for it."""
    ready = "sys.stdout.write('ready'); sys.stdout.flush(); time.sleep(600)"
    training = start(f"import faulthandler, os, sys, time; faulthandler.enable(); os.kill(os.getpid(), 19); {ready}")
    trainer = start.trainer()
    start.until_stopped(trainer)
    training.abort()
    start.until_aborted(trainer)
    os.kill(trainer, signal.SIGCONT)
    assert (start.ending().status, start.ending().asked) == (-6, "A")
    assert b"Fatal Python error: Aborted" in start.output


def test_a_trainer_that_survives_its_abort_is_stopped_all_the_same(start: Started) -> None:
    ignoring = "import signal, sys, time; signal.signal(6, signal.SIG_IGN)"
    training = start(f"{ignoring}; sys.stdout.write('ready'); sys.stdout.flush(); time.sleep(600)")
    start.until_it_says(b"ready")
    began = time.monotonic()
    training.abort()
    assert (start.ending().status, start.ending().asked) == (-15, "A")
    assert time.monotonic() - began >= shim.DUMP_S


def test_what_an_aborted_trainer_leaves_behind_is_cleared(start: Started) -> None:
    training = start(STUBBORN)
    start.until_it_says(b"ready")
    training.abort()
    assert (start.ending().status, start.ending().asked) == (-6, "A")
    assert start.processes() == []


def test_a_stop_does_not_wait_for_the_dump_of_an_abort(start: Started) -> None:
    ignoring = "import signal, sys, time; signal.signal(6, signal.SIG_IGN)"
    training = start(f"{ignoring}; sys.stdout.write('ready'); sys.stdout.flush(); time.sleep(600)")
    start.until_it_says(b"ready")
    began = time.monotonic()
    training.abort()
    training.stop()
    assert (start.ending().status, start.ending().asked) == (-15, "A")
    assert time.monotonic() - began < shim.DUMP_S


def test_the_end_of_the_life_line_ends_the_tree(start: Started) -> None:
    training = start(STUBBORN)
    start.until_it_says(b"ready")
    assert training._shim.stdin is not None
    training._shim.stdin.close()
    training._shim.wait()
    assert json.loads((start.folder / "exit.json").read_text())["asked"] == "L"
    assert start.processes() == []


PATIENT = """
import os, sys, time
open("ready", "w").close()
while not os.path.exists("go"):
    time.sleep(0.01)
sys.stdout.write("x" * 200_000 + "done"); sys.stdout.flush()
raise SystemExit(7)
"""


def test_a_training_whose_worker_was_killed_is_taken_over_and_goes_on(start: Started) -> None:
    start.taken_over(start.by_a_worker_that_is_killed(PATIENT))
    (start.folder / "go").touch()
    ending = start.ending()
    assert (ending.status, ending.asked) == (7, "")
    assert start.output == b"x" * 200_000 + b"done"


def test_what_was_printed_while_no_worker_lived_is_not_lost(start: Started) -> None:
    """The shim holds the output open, so the trainer waits for a reader and is not broken off."""
    identity = start.by_a_worker_that_is_killed(PATIENT)
    (start.folder / "go").touch()
    start.until_its_status_says(int(identity.partition(":")[0]), "State", lambda state: state == "S")
    start.taken_over(identity)
    assert start.ending().status == 7
    assert start.output == b"x" * 200_000 + b"done"


def test_the_end_of_what_was_printed_stands_in_the_report_when_nobody_takes_over(start: Started) -> None:
    identity = start.by_a_worker_that_is_killed(PATIENT.replace("200_000", "50_000"))
    (start.folder / "go").touch()
    until_gone(identity)
    report = json.loads((start.folder / "exit.json").read_text())
    assert (report["status"], report["rest"]) == (7, "x" * 16380 + "done")


def test_the_report_has_its_room_before_a_trainer_can_fill_the_disk(tmp_path: Path) -> None:
    report = shim.ReportFile(str(tmp_path / "exit.json"))
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("exit.json.new", shim.REPORT_BYTES)]
    report.write("{}")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("exit.json", "{}")]


def test_a_report_without_room_may_still_fit_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    shim.ReportFile(str(tmp_path / "exit.json")).write("{}")
    assert (tmp_path / "exit.json").read_text() == "{}"


def test_a_training_that_was_taken_over_can_be_stopped(start: Started) -> None:
    training = start.taken_over(start.by_a_worker_that_is_killed(PATIENT))
    training.stop()
    assert (start.ending().status, start.ending().asked) == (-15, "T")
    assert start.processes() == []


def test_a_training_is_taken_over_as_often_as_its_worker_dies(start: Started) -> None:
    identity = start.by_a_worker_that_is_killed(PATIENT)
    for _ in range(2):
        worker = os.fork()
        if worker == 0:
            try:
                held = take_over(identity, start.folder / "exit.json", log=start.take, wake=start.told.set)
                os.kill(os.getpid(), signal.SIGKILL if held else signal.SIGTERM)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -9
    start.taken_over(identity)
    (start.folder / "go").touch()
    assert start.ending().status == 7


def test_a_training_nobody_takes_over_is_ended_whatever_its_grace(start: Started) -> None:
    """6 s to be taken over, 2 s of grace at most, and the kill: within the 10 s that are promised."""
    code = STUBBORN.replace("sys.stdout.write", 'open("ready", "w").close(); sys.stdout.write')
    identity = start.by_a_worker_that_is_killed(code, grace_s=600)
    until_gone(identity)
    assert json.loads((start.folder / "exit.json").read_text())["asked"] == "L"
    assert start.processes() == []
    assert take_over(identity, start.folder / "exit.json", log=start.take, wake=start.told.set) is None
    assert shim.ADOPT_S + shim.ORPHAN_GRACE_S <= 8


def test_a_shim_whose_worker_died_before_the_go_says_that_nothing_ran(start: Started) -> None:
    until_gone(start.by_a_worker_that_is_killed("open('started', 'w')", go=False))
    report = json.loads((start.folder / "exit.json").read_text())
    assert (report["asked"], report["status"]) == ("N", None)
    assert not (start.folder / "started").exists()


@pytest.mark.parametrize(
    "identity",
    ["", "nobody", "0:0:x", f"{os.getpid()}:1:x", process_identity(os.getpid())],
    ids=["none", "no identity", "no process", "another start", "no shim"],
)
def test_only_a_shim_that_lives_is_taken_over(start: Started, identity: str) -> None:
    assert take_over(identity, start.folder / "exit.json", log=start.take, wake=start.told.set) is None


def test_a_process_knows_how_long_it_has_run() -> None:
    began = running_s(process_identity(os.getpid()))
    assert 0 < began < running_s(process_identity(1)) + 1
    assert running_s("") == 0.0


def until_gone(identity: str) -> None:
    end = time.monotonic() + 15
    while lives(identity):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_term_to_the_shim_itself_stops_the_tree(start: Started) -> None:
    training = start(STUBBORN)
    start.until_it_says(b"ready")
    os.kill(training._shim.pid, signal.SIGTERM)
    assert start.ending().asked == "T"
    assert start.processes() == []


def test_what_a_finished_trainer_leaves_behind_is_cleared(start: Started) -> None:
    start(STUBBORN.replace('time.sleep(600)\n"""', "").rsplit("time.sleep(600)", 1)[0])
    ending = start.ending()
    assert (ending.status, ending.asked) == (0, "")
    assert start.processes() == []


def test_a_shim_that_was_killed_takes_its_trainer_along_and_is_reported(start: Started) -> None:
    training = start("import sys, time; sys.stdout.write('ready'); sys.stdout.flush(); time.sleep(600)")
    start.until_it_says(b"ready")
    os.kill(training._shim.pid, signal.SIGKILL)
    assert start.ending() == TrainerEnding(error="the shim was killed before it could report")
    assert start.processes() == []


def test_a_wish_after_the_end_is_passed_over(start: Started) -> None:
    training = start("pass")
    start.ending()
    training.stop()
    training.kill()


def test_a_trainer_ignores_no_signal(start: Started) -> None:
    """A shell pipeline in a trainer relies on SIGPIPE, which Python ignores."""
    start("", command=["grep", "SigIgn", "/proc/self/status"])
    start.ending()
    assert start.output == b"SigIgn:\t0000000000000000\n"


def test_a_trainer_has_an_empty_input_and_a_session_of_its_own(start: Started) -> None:
    start("import os, sys; sys.stdout.write(repr((os.read(0, 1), os.getsid(0) == os.getpid())))")
    start.ending()
    assert start.output == b"(b'', True)"


def test_the_system_kills_a_trainer_before_its_worker_when_memory_runs_out(start: Started) -> None:
    start("", command=["cat", "/proc/self/oom_score_adj"])
    start.ending()
    assert start.output == b"500\n"


def test_another_platform_is_refused_with_what_to_do(start: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "sunos5")
    with pytest.raises(ConfigurationError, match="cannot be run on sunos5 yet; use a Linux or Windows host"):
        start("pass")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"status": 0}'])
def test_a_report_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "exit.json").write_text(text)
    assert read_ending(tmp_path / "exit.json") is None
    assert read_ending(tmp_path / "missing") is None


def test_a_process_is_known_by_pid_and_start() -> None:
    me = process_identity(os.getpid())
    assert lives(me)
    assert not lives(f"{os.getpid()}:1")
    assert not lives("")
    assert process_identity(2**22 + 5) == ""


def in_child(work: Callable[[], Any]) -> Any:
    """Run code of the shim in a fork, where its signals and children disturb nobody; return what it returned."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        data = stream.read()
    os.waitpid(child, 0)
    return json.loads(data)


def test_descendants_are_found_over_all_generations() -> None:
    def work() -> list[int]:
        read, write = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                os.write(write, b"x")
                time.sleep(60)
            time.sleep(60)
        os.read(read, 1)
        before = len(shim.descendants())
        shim.signal_all(9)
        end = time.monotonic() + 10
        while shim.descendants() and time.monotonic() < end:
            time.sleep(0.01)
        return [before, len(shim.descendants())]

    assert in_child(work) == [2, 0]


def test_a_fork_bomb_at_its_limit_of_processes_is_ended(start: Started) -> None:
    """Each process that dies makes room for a newborn."""
    bomb = (
        "import os, resource\n"
        "if os.getuid() == 0:\n    os.setresuid(54321, 54321, 54321)\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (300, 300))\n"
        "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    )
    training = start(bomb)
    end = time.monotonic() + 15
    while len(start.processes()) < 100:
        assert time.monotonic() < end
    training.kill()
    assert start.ending().asked == "K"
    assert start.processes() == []


def test_the_shim_is_found_beside_its_module() -> None:
    assert local.SHIM.is_file()
