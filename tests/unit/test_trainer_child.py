"""Claims about the child process in which a stored model is used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.trainer.stored import child

PROGRAM = """\
import sys, os, signal, time, resource, tempfile
from pathlib import Path
from training.trainer.stored import child
if sys.argv[1:2] != [child.CHILD]:
    sys.exit(child.run(Path(__file__).resolve(), "score", sys.argv[1:], "b.tar.zst"))
child.confine()
what = sys.argv[2]
Path(tempfile.gettempdir(), "left").write_text("behind")
def ready():
    Path(os.environ["READY"]).write_text(f"{os.getpid()} {tempfile.gettempdir()}")
if what == "crash":
    os.write(2, b"free(): invalid pointer\\n")
    os.kill(os.getpid(), signal.SIGSEGV)
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "endless":
    with child.limited(0.2):
        while True:
            pass
if what == "stuck":
    with child.limited(0.2):
        time.sleep(600)
if what == "greedy":
    free = child.writable_bytes()
    with child.limited(600):
        try:
            block = bytearray(free)
        except MemoryError:
            print("refused")
            sys.exit(0)
if what == "waiting":
    ready()
    time.sleep(600)
if what == "limits":
    with child.limited(1000):
        print(resource.getrlimit(resource.RLIMIT_CORE))
        print(resource.getrlimit(resource.RLIMIT_CPU)[0] >= 1000)
    print(resource.getrlimit(resource.RLIMIT_CPU)[0] == resource.RLIM_INFINITY)
if what == "streams":
    sys.stdout.write(sys.stdin.read().upper())
    sys.stderr.write("a warning\\nscore: no host has rows\\n")
    sys.exit(78)
if what == "broken":
    raise ZeroDivisionError("by accident")
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    (tmp_path / "tmp").mkdir()
    return path


def environment(root: Path, program: Path) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    folder = program.parent
    return plain | {"PYTHONPATH": str(root), "TMPDIR": str(folder / "tmp"), "READY": str(folder / "ready")}


def done(root: Path, program: Path, what: str, **more: object) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        [sys.executable, program, what],
        env=environment(root, program),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **more,  # type: ignore[call-overload]
    )
    assert list((program.parent / "tmp").iterdir()) == []
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("what", "status", "error"),
    [
        (
            "crash",
            70,
            "score: the model of b.tar.zst crashed while it was loaded or scored (signal 11, SIGSEGV); "
            "do not use it, train its job again\n",
        ),
        (
            "killed",
            75,
            "score: was ended by signal 9, SIGKILL; if memory ran out, score fewer hosts at a time\n",
        ),
        (
            "endless",
            70,
            "score: the model of b.tar.zst took more time to load or score than any model needs; "
            "do not use it, train its job again\n",
        ),
        (
            "stuck",
            70,
            "score: the model of b.tar.zst took more time to load or score than any model needs; "
            "do not use it, train its job again\n",
        ),
        ("broken", 1, "score: ended with status 1 and without a reason: ZeroDivisionError: by accident\n"),
    ],
)
def test_each_end_of_a_child_is_one_line_and_leaves_nothing(
    root: Path, program: Path, what: str, status: int, error: str
) -> None:
    found = done(root, program, what)
    assert (found.returncode, found.stdout, found.stderr) == (status, "", error)


def test_the_streams_and_the_status_are_the_childs(root: Path, program: Path) -> None:
    found = done(root, program, "streams", input="rows")
    assert (found.returncode, found.stdout, found.stderr) == (78, "ROWS", "score: no host has rows\n")


def test_a_child_writes_no_core_file_and_has_its_limits_only_while_a_model_is_used(root: Path, program: Path) -> None:
    assert done(root, program, "limits").stdout == "(0, 0)\nTrue\nTrue\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a process may write to")
def test_a_child_gets_no_more_memory_than_is_free(root: Path, program: Path) -> None:
    assert done(root, program, "greedy").stdout == "refused\n"


def waiting(root: Path, program: Path) -> tuple[subprocess.Popen[str], int]:
    """Start a program whose child waits; return it and the child's number."""
    process = subprocess.Popen(
        [sys.executable, program, "waiting"],
        env=environment(root, program),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    ready = program.parent / "ready"
    until = time.monotonic() + 60
    while not (ready.is_file() and ready.read_text().count(" ")):
        assert time.monotonic() < until
        time.sleep(0.01)
    return process, int(ready.read_text().split()[0])


def wait_for_end(number: int) -> None:
    until = time.monotonic() + 60
    while Path(f"/proc/{number}/stat").exists() and " Z " not in Path(f"/proc/{number}/stat").read_text():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the child in /proc")
@pytest.mark.parametrize(
    ("number", "to_all", "status"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143), (signal.SIGHUP, False, 129)],
    ids=["Ctrl-C", "told to stop", "the terminal closes"],
)
def test_a_signal_ends_parent_and_child_without_a_word(
    root: Path, program: Path, number: signal.Signals, to_all: bool, status: int
) -> None:
    process, inner = waiting(root, program)
    if to_all:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == status
    wait_for_end(inner)
    assert list((program.parent / "tmp").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_parent_that_is_killed_takes_its_child_along(root: Path, program: Path) -> None:
    process, inner = waiting(root, program)
    process.kill()
    process.communicate(timeout=60)
    wait_for_end(inner)


@pytest.mark.parametrize(
    ("status", "errors", "expected"),
    [
        (0, b"", (0, "")),
        (0, b"UserWarning: old\n", (0, "")),
        (2, b"usage: score\n", (2, "")),
        (141, b"", (141, "")),
        (75, b"score: no torch\n", (75, "no torch")),
        (1, b"score: the scores differ\n", (1, "the scores differ")),
        (0xC0000005, b"", (70, "the model of b crashed while it was loaded or scored (exception 0xc0000005); ")),
        (-24, b"", (70, "the model of b took more time to load or score than any model needs; ")),
        (-6, b"score: half\n", (70, "the model of b crashed while it was loaded or scored (signal 6, SIGABRT); ")),
        (-63, b"", (70, "the model of b crashed while it was loaded or scored (signal 63, ")),
        (3, b"", (3, "ended with status 3 and without a reason: no message")),
    ],
)
def test_the_end_of_a_child_says_what_to_do(status: int, errors: bytes, expected: tuple[int, str]) -> None:
    found, line = child.ending(status, errors, "score", "b")
    assert found == expected[0]
    assert line.startswith(expected[1])
    assert bool(line) is bool(expected[1])


def test_in_a_process_that_is_no_child_nothing_is_limited() -> None:
    with child.limited(0.0):
        assert child._confined == []
