"""Runs under the Python of Windows: the installer, with stand-ins for what Wine has not.

These are the scheduler, icacls, and owners of files; all else is real. Arguments: the checkout, a file for the task
that the scheduler keeps, and the words of the installer. Its last line says that it is done: a worker that it started
keeps its output open under Wine.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

CHECKOUT, TASK = Path(sys.argv[1]), Path(sys.argv[2])
sys.path[:0] = [str(CHECKOUT), str(Path(__file__).resolve().parents[1] / "helpers")]

from windows_pc import PcPrograms, Scheduler  # noqa: E402

from training.fleet import system  # noqa: E402
from training.fleet.install.worker import run_installer  # noqa: E402

DONE = "== the installer is done"
SYNCHRONIZE, WAIT_TIMEOUT = 0x00100000, 258


class Background:
    """Starts the program of a task so that it outlives this one."""

    def start(self, command: str, line: str, folder: str) -> int:
        return subprocess.Popen(
            f'"{command}" {line}', cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, creationflags=subprocess.DETACHED_PROCESS,
        ).pid  # fmt: skip

    def is_alive(self, number: int) -> bool:
        kernel = ctypes.WinDLL("kernel32")
        handle = kernel.OpenProcess(SYNCHRONIZE, False, number)
        if not handle:
            return False
        try:
            return bool(kernel.WaitForSingleObject(handle, 0) == WAIT_TIMEOUT)
        finally:
            kernel.CloseHandle(handle)

    def kill(self, number: int) -> None:
        os.kill(number, signal.SIGTERM)


if __name__ == "__main__":
    system.owner = lambda _path: "S-1-5-32-544"
    try:
        status = run_installer(sys.argv[3:], os.environ, PcPrograms(Scheduler(TASK, Background())))
    finally:
        sys.stderr.flush()
        sys.stdout.write(f"{DONE}\n")
        sys.stdout.flush()
    sys.exit(status)
