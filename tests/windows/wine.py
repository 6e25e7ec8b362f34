"""Runs programs with the Python of Windows under Wine; `scripts/test-windows.sh` makes both."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PREFIX, PYTHON = os.environ.get("CIS490_WINE_PREFIX", ""), os.environ.get("CIS490_WINE_PYTHON", "")


def windows_path(path: Path) -> str:
    """Return how a program under Wine names a file of this machine."""
    return "Z:" + str(path).replace("/", "\\")


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a program under Wine."""
    own = {"WINEPREFIX": PREFIX, "WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree=d;mshtml=d"}
    quiet = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **own, **quiet, **(more or {})}


def until(what: str, met: Callable[[], Any], limit_s: float = 40.0) -> Any:
    end = time.monotonic() + limit_s
    while not (found := met()):
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.05)
    return found


class Program:
    """A Python program under Wine. It dies without a standard input and a pipe for its output, so it gets both."""

    def __init__(self, *arguments: str | Path, environ: Mapping[str, str] | None = None) -> None:
        told = [windows_path(item) if isinstance(item, Path) else item for item in arguments]
        self.process = subprocess.Popen(
            ["wine", PYTHON, *told], env=environment(environ), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.output += line.decode("utf-8", "replace").replace("\r\n", "\n")

    def wait(self, limit_s: float = 60.0) -> int:
        """Return its exit status; what it printed is whole then."""
        status = self.process.wait(limit_s)
        self._reader.join(10)
        return status

    def kill(self) -> None:
        """Kill it as a power cut would: it can do nothing more."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(20)


def processes_with(mark: str) -> list[int]:
    """Return the processes whose command line holds a word."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found
