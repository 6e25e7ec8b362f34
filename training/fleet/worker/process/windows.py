"""Runs a trainer on Windows, in a job object.

The trainer is started suspended and put into the job before it can run, so that everything it starts belongs to the job
as well. The worker holds the only handle of the job, and the job kills what is in it when that handle is closed: the
tree ends with the worker however the worker ends, and nothing is left to take over.

Windows has no TERM. To stop, the file that `CIS490_STOP_FILE` names in the trainer's environment appears; after half of
the grace CTRL_BREAK follows, which ends programs that do not look for the file; after the grace the job is terminated.

Source:
    Microsoft, Job Objects; JOBOBJECT_BASIC_LIMIT_INFORMATION; GenerateConsoleCtrlEvent. psutil, Process.resume, for
    NtResumeProcess.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from ctypes import wintypes
from pathlib import Path
from typing import Final

from training.fleet import system
from training.fleet.files import write_whole
from training.fleet.model.errors import TrainerError
from training.fleet.worker.process.ending import TrainerEnding, read_ending

assert sys.platform == "win32"

STOP_FILE: Final = "CIS490_STOP_FILE"
LEFTOVER_GRACE_S: Final = 2.0
_CREATE_SUSPENDED: Final = 0x00000004
_KILL_ON_JOB_CLOSE: Final = 0x00002000
_ACCOUNTING: Final = 1
_EXTENDED_LIMITS: Final = 9
_KILLED: Final = 1
_CHUNK_BYTES: Final = 65536
_POLL_S: Final = 0.02


class _BasicLimits(ctypes.Structure):
    _fields_ = (
        ("process_time", ctypes.c_int64),
        ("job_time", ctypes.c_int64),
        ("flags", wintypes.DWORD),
        ("least_set_bytes", ctypes.c_size_t),
        ("most_set_bytes", ctypes.c_size_t),
        ("processes", wintypes.DWORD),
        ("affinity", ctypes.c_size_t),
        ("priority", wintypes.DWORD),
        ("scheduling", wintypes.DWORD),
    )


class _ExtendedLimits(ctypes.Structure):
    _fields_ = (
        ("basic", _BasicLimits),
        ("io", ctypes.c_uint64 * 6),
        ("process_memory_bytes", ctypes.c_size_t),
        ("job_memory_bytes", ctypes.c_size_t),
        ("peak_process_bytes", ctypes.c_size_t),
        ("peak_job_bytes", ctypes.c_size_t),
    )


class _Accounting(ctypes.Structure):
    _fields_ = (
        ("times", ctypes.c_int64 * 4),
        ("page_faults", wintypes.DWORD),
        ("total", wintypes.DWORD),
        ("active", wintypes.DWORD),
        ("terminated", wintypes.DWORD),
    )


_kernel = ctypes.WinDLL("kernel32", use_last_error=True)
_kernel.CreateJobObjectW.restype = wintypes.HANDLE
_native = ctypes.WinDLL("ntdll")


class JobObject:
    """A job object of this process. Closing it kills what is in it."""

    def __init__(self) -> None:
        self._handle = wintypes.HANDLE(_kernel.CreateJobObjectW(None, None))
        if not self._handle:
            raise ctypes.WinError(ctypes.get_last_error())
        limits = _ExtendedLimits(basic=_BasicLimits(flags=_KILL_ON_JOB_CLOSE))
        size = ctypes.sizeof(limits)
        if not _kernel.SetInformationJobObject(self._handle, _EXTENDED_LIMITS, ctypes.byref(limits), size):
            raise ctypes.WinError(ctypes.get_last_error())
        self._guard = threading.Lock()

    def take(self, process: subprocess.Popen[bytes]) -> None:
        """Put a process that does not run yet into the job.

        Raises:
            OSError: The system refuses; the process is killed.
        """
        if not _kernel.AssignProcessToJobObject(self._handle, _handle_of(process)):
            error = ctypes.WinError(ctypes.get_last_error())
            process.kill()
            raise error

    def alive(self) -> int:
        """Return how many processes are in it."""
        found = _Accounting()
        with self._guard:
            known = self._handle and _kernel.QueryInformationJobObject(
                self._handle, _ACCOUNTING, ctypes.byref(found), ctypes.sizeof(found), None
            )
        return int(found.active) if known else 0

    def peak_bytes(self) -> int:
        """Return the most memory that one of its processes had committed, 0 when unknown."""
        found = _ExtendedLimits()
        with self._guard:
            known = self._handle and _kernel.QueryInformationJobObject(
                self._handle, _EXTENDED_LIMITS, ctypes.byref(found), ctypes.sizeof(found), None
            )
        return int(found.peak_process_bytes) if known else 0

    def terminate(self) -> None:
        """Kill every process in it."""
        with self._guard:
            if self._handle:
                _kernel.TerminateJobObject(self._handle, _KILLED)

    def close(self) -> None:
        """Kill what is left in it and let go of it."""
        with self._guard:
            handle, self._handle = self._handle, wintypes.HANDLE()
        if handle:
            _kernel.CloseHandle(handle)


def _handle_of(process: subprocess.Popen[bytes]) -> wintypes.HANDLE:
    return wintypes.HANDLE(int(process._handle))  # type: ignore[attr-defined]


class JobTraining:
    """A trainer in a job object. See `training.Training`."""

    identity = ""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        job: JobObject,
        report: Path,
        stop_file: Path,
        *,
        grace_s: float,
        log: Callable[[bytes], object],
        wake: Callable[[], object],
    ) -> None:
        self._process, self._job = process, job
        self._report, self._stop_file = report, stop_file
        self._grace_s = grace_s
        self._log, self._wake = log, wake
        self._began_s = time.monotonic()
        self._ran = False
        self._asked = ""
        self._timers: list[threading.Timer] = []
        self.ended = threading.Event()
        self._reader = threading.Thread(target=self._drain, name="trainer-output", daemon=True)
        self._watcher = threading.Thread(target=self._attend, name="trainer-end", daemon=True)
        self._reader.start()
        self._watcher.start()

    def go(self) -> None:
        """Let the trainer run."""
        self._began_s, self._ran = time.monotonic(), True
        _native.NtResumeProcess(_handle_of(self._process))

    def stop(self) -> None:
        """Ask the tree to end and kill what is left after the grace."""
        if not self._asks("T"):
            return
        with contextlib.suppress(OSError):  # a full disk; what follows needs none
            self._stop_file.touch()
        self._later(self._grace_s / 2, self._break_off)
        self._later(self._grace_s, self._job.terminate)

    def abort(self) -> None:
        """Stop it; no signal lets a program on Windows dump its traceback."""
        self.stop()

    def kill(self) -> None:
        """Kill the tree now."""
        self._asks("K")
        self._job.terminate()

    def ending(self) -> TrainerEnding:
        """Return how it ended; call it once `ended` is set."""
        return read_ending(self._report) or self._seen()

    def guarded(self) -> bool:
        """Say yes: the job object is the system's and needs no process."""
        return True

    def _asks(self, order: str) -> bool:
        """Note why it is stopped; False when it is being stopped already or has ended by itself."""
        if self._asked or self._process.poll() is not None:
            return False
        self._asked = order
        return True

    def _later(self, delay_s: float, act: Callable[[], object]) -> None:
        timer = threading.Timer(delay_s, act)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def _break_off(self) -> None:
        """Send CTRL_BREAK, which reaches those that share a console with the sender."""
        if self._process.poll() is not None:
            return
        borrowed = _kernel.AttachConsole(self._process.pid)  # fails where this worker has a console; they share it
        # Not os.kill: where the event cannot be sent, that terminates the process at once.
        _kernel.GenerateConsoleCtrlEvent(int(signal.CTRL_BREAK_EVENT), self._process.pid)
        if borrowed:
            _kernel.FreeConsole()

    def _drain(self) -> None:
        """Read until the last process has closed the output."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while chunk := os.read(output.fileno(), _CHUNK_BYTES):
                self._log(chunk)

    def _attend(self) -> None:
        """Wait for the end of the trainer, clear away what it started, and report."""
        self._process.wait()
        end = time.monotonic() + min(self._grace_s, LEFTOVER_GRACE_S)
        while self._reader.is_alive() and self._job.alive() and time.monotonic() < end:
            time.sleep(_POLL_S)
        for timer in self._timers:
            timer.cancel()
        seen = self._seen()
        self._job.close()
        self._reader.join()
        self._keep(seen)
        self.ended.set()
        self._wake()

    def _seen(self) -> TrainerEnding:
        if not self._ran:
            return TrainerEnding(asked="N")
        duration_s = round(time.monotonic() - self._began_s, 3)
        return TrainerEnding(self._process.returncode, self._asked, "", self._job.peak_bytes(), duration_s)

    def _keep(self, seen: TrainerEnding) -> None:
        """Leave the report for a worker that is started while this one packs the artifact."""
        with contextlib.suppress(OSError):
            write_whole(self._report, json.dumps(dataclasses.asdict(seen)).encode())


def launch(
    command: Sequence[str],
    folder: Path,
    environ: Mapping[str, str],
    report: Path,
    *,
    grace_s: float,
    log: Callable[[bytes], object],
    wake: Callable[[], object],
) -> JobTraining:
    """See `local.launch`."""
    stop_file = report.with_name("stop")
    job = JobObject()
    try:
        process = subprocess.Popen(  # noqa: S603 - the command is the operator's, no shell is involved
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**environ, STOP_FILE: str(stop_file)},
            creationflags=_CREATE_SUSPENDED | subprocess.CREATE_NEW_PROCESS_GROUP | _window(),
            bufsize=0,
        )
        job.take(process)
    except OSError as error:
        job.close()
        raise TrainerError(f"{command[0]} cannot be started: {error.strerror}", kind="trainer_error") from error
    return JobTraining(process, job, report, stop_file, grace_s=grace_s, log=log, wake=wake)


def _window() -> int:
    """Return the flag against a window. Where this worker has a console the trainer shares it, for CTRL_BREAK."""
    return 0 if _kernel.GetConsoleCP() else system.HIDDEN
