"""Owns the child process in which libraries load and score a stored model.

A model comes from somewhere else. What Python can check of it is checked first, but numpy, LightGBM, torch and ONNX
Runtime are native code, which a bad number can crash or keep busy for ever. So a program that uses a stored model
starts itself once more: the child does the work with the same arguments and streams, and the parent reports in one line
how it ended. The parent deletes what the child leaves in its temporary folder.

The child writes no core file. While it loads or scores a model, its time is limited, and on Linux also its memory, to
what is free.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from training.contracts.dataset import DatasetError
from training.needs import installing
from training.trainer.faults import HostError, SpecError, TrainerError

if sys.platform != "win32":
    import resource

CHILD: Final = "--as-child"
"""First argument of the child; the rest is the caller's."""
EXIT_CRASHED: Final = 70
"""The model crashed or did not end. Source: sysexits.h, EX_SOFTWARE."""
EXIT_KILLED: Final = 75
"""Somebody ended the child, or the system did because memory ran out. The same as `HostError.exit_status`."""
CLOCK_PER_CPU: Final = 10
"""Seconds on the clock for one of CPU time: a machine that others keep busy gives a process a tenth of itself."""
EXIT_INTERRUPTED: Final = 130
"""Ctrl-C: 128 and the number of SIGINT, as shells report it."""
EXIT_CLOSED: Final = 141
"""The standard output was closed before all was written, as by `head`: 128 and the number of SIGPIPE."""

_OUTSIDE: Final = ("SIGHUP", "SIGINT", "SIGKILL", "SIGTERM")
"""Signals that a process does not bring on itself."""
_SAID_IN_TIME: Final = b"Timeout ("
"""What `faulthandler` writes before it ends a process whose time is over; the status is then 1."""
_INTERPRETER_FLAGS: Final = {
    "isolated": "-I",
    "no_site": "-S",
    "no_user_site": "-s",
    "ignore_environment": "-E",
    "dont_write_bytecode": "-B",
    "safe_path": "-P",
}
_WINDOWS_FAULT: Final = 0xC0000000
"""Statuses from here on are exceptions that Windows ended a process for. Source: Microsoft, NTSTATUS values."""
_PR_SET_PDEATHSIG: Final = 1
_NO_DIALOG: Final = 0x0001 | 0x0002
"""SEM_FAILCRITICALERRORS and SEM_NOGPFAULTERRORBOX: a crash ends the process and asks nobody."""

_confined: list[bool] = []


def run(program: Path, name: str, arguments: Sequence[str], bundle: str) -> int:
    """Run a program of the trainer as a child and report on the standard error output how it ended.

    Args:
        program: Its file.
        name: What its own lines begin with, before a colon.
        arguments: As the caller gave them.
        bundle: What to call the bundle.

    Returns:
        The exit status for the caller.
    """
    flags = [flag for attribute, flag in _INTERPRETER_FLAGS.items() if getattr(sys.flags, attribute)]
    command = [sys.executable, *flags, str(program), CHILD, *arguments]
    try:
        with _unwound_by_signals(), _folder(name) as folder:
            environment = {**os.environ, "TMPDIR": folder}
            # No part of the command comes from inside the bundle: it is this program, and what the caller gave.
            done = subprocess.run(command, stderr=subprocess.PIPE, env=environment, check=False)  # noqa: S603
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    status, line = ending(done.returncode, done.stderr, name, bundle)
    if line:
        sys.stderr.write(f"{name}: {line}\n")
    return status


def _folder(name: str) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=f"{name}-", ignore_cleanup_errors=True)


def ending(status: int, errors: bytes, name: str, bundle: str) -> tuple[int, str]:
    """Return the exit status for the caller and the message for people.

    Args:
        status: How the child ended; negative for a signal.
        errors: What it wrote to its standard error output.
        name: What the program's own lines begin with.
        bundle: What to call the bundle.
    """
    lines = errors.decode(errors="replace").splitlines()
    own = [line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: ")]
    if status < 0:
        return _ended_by(-status, bundle)
    if status >= _WINDOWS_FAULT:
        return _crashed(f"exception {status:#x}", bundle)
    if status == 1 and _SAID_IN_TIME in errors:
        return _endless(bundle)
    if own or not status:
        return status, own[-1] if own else ""
    if status in (2, EXIT_CLOSED):
        return status, ""
    return status, f"ended with status {status} and without a reason: {lines[-1] if lines else 'no message'}"


def _ended_by(number: int, bundle: str) -> tuple[int, str]:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "unknown to Python"
    if name == "SIGXCPU":
        return _endless(bundle)
    if name in _OUTSIDE:
        return EXIT_KILLED, f"was ended by signal {number}, {name}; if memory ran out, score fewer hosts at a time"
    return _crashed(f"signal {number}, {name}", bundle)


def _crashed(how: str, bundle: str) -> tuple[int, str]:
    return EXIT_CRASHED, (
        f"the model of {bundle} crashed while it was loaded or scored ({how}); do not use it, train its job again"
    )


def _endless(bundle: str) -> tuple[int, str]:
    return EXIT_CRASHED, (
        f"the model of {bundle} took more time to load or score than any model needs; "
        "do not use it, train its job again"
    )


@contextlib.contextmanager
def _unwound_by_signals() -> Iterator[None]:
    """Turn the signals that end this process into an exit that first ends the child and deletes its folder."""
    changed = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            changed[number] = signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, before in changed.items():
            signal.signal(number, before)


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def status_of(program: str, work: Callable[[], None], *, extras: str, smaller: str) -> int:
    """Do the work of a program in this process and return its exit status; a fault is told in one line.

    Args:
        program: Its name, at the beginning of that line.
        work: What to do.
        extras: The packages to install where one is missing, as pip takes them.
        smaller: What to do where memory ran out.
    """
    try:
        work()
    except DatasetError as fault:
        return _refused(program, str(fault), HostError.exit_status if fault.unreadable else SpecError.exit_status)
    except TrainerError as fault:
        return _refused(program, str(fault), fault.exit_status)
    except ImportError as fault:
        return _refused(program, f"{fault}; {installing(extras)}", HostError.exit_status)
    except BrokenPipeError:
        return _closed()
    except MemoryError:
        return _refused(program, f"memory ran out; {smaller}", HostError.exit_status)
    except OSError as fault:
        return _refused(program, f"{fault}; check the paths and the free space", HostError.exit_status)
    return 0


def _refused(program: str, message: str, status: int) -> int:
    sys.stderr.write(f"{program}: {message}\n")
    return status


def _closed() -> int:
    """Return the exit status where the reader of the standard output has stopped."""
    # Without this Python would complain when it flushes at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_CLOSED


def confine() -> None:
    """Prepare this process to be the child: no core file, no dialog, silent at Ctrl-C, and ended with its parent."""
    _confined.append(True)
    if sys.platform == "win32":
        import ctypes

        ctypes.windll.kernel32.SetErrorMode(_NO_DIALOG)
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


@contextlib.contextmanager
def limited(limit_s: float) -> Iterator[None]:
    """Limit the time of what runs inside, and on Linux its memory to what is free. Does nothing outside of a child.

    The system limits the CPU time. The clock limits what waits for ever, and Windows: `faulthandler` watches it in a
    thread that needs no lock of Python, so it ends the process even while a library holds that lock.

    Args:
        limit_s: Seconds of CPU time on every core; on the clock it is `CLOCK_PER_CPU` times that.
    """
    if not _confined:
        yield
        return
    before = _set_limits(limit_s)
    faulthandler.dump_traceback_later(CLOCK_PER_CPU * limit_s, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        for kind, pair in before.items():
            resource.setrlimit(kind, pair)


def _set_limits(limit_s: float) -> dict[int, tuple[int, int]]:
    """Set the soft limits of the system; return those before, by kind."""
    if sys.platform == "win32":
        return {}
    wanted: dict[int, Any] = {resource.RLIMIT_CPU: math.ceil(time.process_time() + limit_s * (os.cpu_count() or 1))}
    memory = writable_bytes() if sys.platform == "linux" else None
    if memory is not None:
        wanted[resource.RLIMIT_DATA] = memory
    before = {kind: resource.getrlimit(kind) for kind in wanted}
    for kind, soft in wanted.items():
        hard = before[kind][1]
        resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
    return before


def writable_bytes() -> int | None:
    """Return the private memory that this process may write to and what it can take without another one suffering.

    RLIMIT_DATA counts what is written to. RLIMIT_AS would count what is merely reserved as well, of which a process
    with torch has gigabytes. None where the system does not tell.
    """
    own, machine = _kib("/proc/self/status"), _kib("/proc/meminfo")
    parts = (own.get("VmData"), machine.get("MemAvailable"), machine.get("SwapFree", 0))
    return None if None in parts else sum(part << 10 for part in parts if part is not None)


def _kib(path: str) -> dict[str, int]:
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[2:] == ["kB"]}
