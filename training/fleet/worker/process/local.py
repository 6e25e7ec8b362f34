"""Runs a trainer under the shim.

Owns the start, the orders to stop and the ending of one trainer, and the draining of its output. A worker that is
started again takes over a trainer whose worker died, as long as the shim waits for that. Guarantees that the output
never blocks the trainer and that nothing of its tree lives once `ended` is set. What stands here serves Linux; `launch`
leads to `windows` there, where nothing is ever taken over. Leaves judging an ending to the worker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

from training.fleet.model.errors import ConfigurationError
from training.fleet.worker.process.ending import TrainerEnding, read_ending
from training.fleet.worker.process.training import Training

if sys.platform == "win32":
    from training.fleet.worker.process import windows

SHIM: Final = Path(__file__).with_name("shim.py")
_FROM_SINGLE_FILE: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from training.fleet.worker.process.shim import main; sys.exit(main(sys.argv[1:]))"
)
_CHUNK_BYTES = 65536
_LOOK_S = 0.05
_SWEEPS = 20


class _Shim(Protocol):
    """The process between worker and trainer: a child of this worker, or one that an earlier worker started."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def wait(self) -> object: ...


@dataclass(slots=True)
class _TakenOver:
    """A shim that an earlier worker started. Nobody tells when such a process ends, so `wait` looks."""

    pid: int
    identity: str
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def wait(self) -> None:
        while lives(self.identity):
            time.sleep(_LOOK_S)


class ShimTraining:
    """A trainer under the shim. See `training.Training`."""

    def __init__(
        self, shim: _Shim, report: Path, *, log: Callable[[bytes], object], wake: Callable[[], object]
    ) -> None:
        self._shim = shim
        self._report = report
        self._log = log
        self._wake = wake
        self._asked = ""
        self.identity = process_identity(shim.pid)
        """Name of the shim's process, by which a later worker can take it over."""
        self.ended = threading.Event()
        self._reader = threading.Thread(target=self._drain, name="trainer-output", daemon=True)
        self._reader.start()

    def go(self) -> None:
        """Start the trainer."""
        self._order("G")

    def stop(self) -> None:
        """Ask the tree to end and kill what is left after the grace."""
        self._order("T")

    def abort(self) -> None:
        """Let the trainer dump its traceback, then stop it."""
        self._order("A")

    def kill(self) -> None:
        """Kill the tree now."""
        self._order("K")

    def ending(self) -> TrainerEnding:
        """Return how it ended; call it once `ended` is set."""
        unknown = TrainerEnding(asked=self._asked, error="the shim was killed before it could report")
        return read_ending(self._report) or unknown

    def guarded(self) -> bool:
        """Return True if the shim lives; without it nothing ends the processes that the trainer started."""
        return lives(self.identity)

    def _order(self, order: str) -> None:
        assert self._shim.stdin is not None
        if order != "G":
            self._asked = self._asked or order
        with contextlib.suppress(OSError, ValueError):
            self._shim.stdin.write(order.encode())
            if sys.platform != "win32" and self.guarded():  # somebody may have stopped the tree, to have the machine
                os.kill(self._shim.pid, signal.SIGCONT)

    def _drain(self) -> None:
        """Read until the last process has closed the output, then see the shim off."""
        assert self._shim.stdout is not None
        assert self._shim.stdin is not None
        with self._shim.stdout as output:
            while chunk := os.read(output.fileno(), _CHUNK_BYTES):
                self._log(chunk)
        self._shim.wait()
        self._shim.stdin.close()
        self.ended.set()
        self._wake()


def launch(
    command: Sequence[str],
    folder: Path,
    environ: Mapping[str, str],
    report: Path,
    *,
    grace_s: float,
    log: Callable[[bytes], object],
    wake: Callable[[], object],
) -> Training:
    """Start the shim of a trainer.

    Args:
        command: Argument vector.
        folder: Where it starts.
        environ: Its whole environment.
        report: Where the shim leaves the ending.
        grace_s: Seconds between the wish to stop and the kill.
        log: Gets every chunk of output, in a thread of its own.
        wake: Called once when everything is gone.

    Raises:
        ConfigurationError: This platform has no shim.
        OSError: The shim cannot be started.
    """
    if sys.platform == "win32":
        return windows.launch(command, folder, environ, report, grace_s=grace_s, log=log, wake=wake)
    if not sys.platform.startswith("linux"):
        raise ConfigurationError(f"trainers cannot be run on {sys.platform} yet", "use a Linux or Windows host")
    shim = subprocess.Popen(  # noqa: S603 - the command is the operator's, no shell is involved
        [sys.executable, "-I", "-S", *_shim(), f"{grace_s:g}", str(report), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=dict(environ),
        start_new_session=True,
        bufsize=0,
    )
    return ShimTraining(shim, report, log=log, wake=wake)


def _shim() -> list[str]:
    """Return what Python is to run: the shim's file, or its module where the worker is a single file."""
    return [str(SHIM)] if SHIM.is_file() else ["-c", _FROM_SINGLE_FILE, str(SHIM.parents[4])]


def take_over(
    identity: str, report: Path, *, log: Callable[[bytes], object], wake: Callable[[], object]
) -> Training | None:
    """Hold the life-line of a trainer whose worker died, and read on what it prints.

    The shim's input and output are pipes without a name; the system lets processes of the same user open them again.
    A shim that still waits for its `go` gets it.

    Args:
        identity: Of the shim, as the worker that died has written it down.
        report: Where the shim leaves the ending.
        log: Gets every chunk of output, in a thread of its own.
        wake: Called once when everything is gone.

    Returns:
        The trainer, which may be ending already; None when its shim is gone.

    Source:
        proc_pid_fd(5); pipe(7).
    """
    if sys.platform == "win32" or not lives(identity):
        return None
    pid = identity.partition(":")[0]
    streams: list[IO[bytes]] = []
    try:
        for number, mode in ((0, os.O_WRONLY | os.O_NONBLOCK), (1, os.O_RDONLY)):
            descriptor = os.open(f"/proc/{pid}/fd/{number}", mode)
            streams.append(os.fdopen(descriptor, "rb" if mode == os.O_RDONLY else "wb", buffering=0))
            if not lives(identity) or not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                raise ProcessLookupError(identity)
    except OSError:
        for stream in streams:
            stream.close()
        return None
    training = ShimTraining(_TakenOver(int(pid), identity, *streams), report, log=log, wake=wake)
    training.go()
    return training


def sweep(scratch: Path) -> None:
    """Kill what a trainer started and a shim that was killed left behind, known by its folder for temporary files.

    Args:
        scratch: The folder that stood as TMPDIR in the trainer's environment.
    """
    if sys.platform == "win32":
        return  # a job object leaves nothing behind
    mark = b"TMPDIR=" + os.fsencode(scratch)
    for _ in range(_SWEEPS):
        found = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if mark in _environ(entry)]
        if not found:
            return
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _environ(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def running_s(identity: str) -> float:
    """Return how long the process of an identity has run; 0 when that cannot be told.

    Source: proc_pid_stat(5), starttime; clock_gettime(2), CLOCK_BOOTTIME.
    """
    if sys.platform == "win32":
        return 0.0
    try:
        started_s = int(identity.split(":")[1]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)
    except (AttributeError, IndexError, OSError, ValueError):
        return 0.0


def process_identity(pid: int) -> str:
    """Return "pid:start:boot", which no other process ever shares; empty when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else f"{pid}:{int(fields[19])}:{boot}"


def lives(identity: str) -> bool:
    """Return True if the process of that identity still exists."""
    pid = identity.partition(":")[0]
    return pid.isdigit() and process_identity(int(pid)) == identity
