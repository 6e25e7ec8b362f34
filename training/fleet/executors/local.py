"""Runs a trainer as a child of this worker, under the shim.

Owns the start, the orders to stop and the ending of one trainer, and the draining of its output. Guarantees that the
output never blocks the trainer and that nothing of its tree lives once `ended` is set. This is the one place that knows
platforms: the shim serves Linux, another platform gets its own way in here. Leaves judging an ending to the worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from training.fleet.errors import ConfigurationError

SHIM: Final = Path(__file__).with_name("shim.py")
_CHUNK_BYTES = 65536
_MAX_REPORT_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Ending:
    """How a trainer ended.

    Attributes:
        status: Exit status, negative for a signal; None when it never ran or nobody saw it end.
        asked: Why it was stopped: "T" asked to, "A" asked after a dump, "K" killed, "L" its worker died; empty when it
            ended by itself.
        error: Why it could not be started or seen, empty otherwise.
        max_rss_bytes: Largest resident memory of one of its processes, 0 when unknown.
        duration_s: Seconds it ran.
    """

    status: int | None = None
    asked: str = ""
    error: str = ""
    max_rss_bytes: int = 0
    duration_s: float = 0.0


class Training:
    """A trainer, ready to run once it gets its `go`.

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

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        report: Path,
        *,
        grace_s: float,
        log: Callable[[bytes], object],
        wake: Callable[[], object],
    ) -> None:
        if not sys.platform.startswith("linux"):
            raise ConfigurationError(f"trainers cannot be run on {sys.platform} yet; use a Linux host")
        self._report = report
        self._log = log
        self._wake = wake
        self.ended = threading.Event()
        self._shim = subprocess.Popen(  # noqa: S603 - the command is the operator's, no shell is involved
            [sys.executable, "-I", "-S", str(SHIM), f"{grace_s:g}", str(report), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=dict(environ),
            start_new_session=True,
            bufsize=0,
        )
        self._reader = threading.Thread(target=self._drain, name="trainer-output", daemon=True)
        self._reader.start()

    @property
    def identity(self) -> str:
        """Name of the shim's process that a later worker can ask `lives` about."""
        return process_identity(self._shim.pid)

    def go(self) -> None:
        """Start the trainer."""
        self._order(b"G")

    def stop(self) -> None:
        """Ask the tree to end and kill what is left after the grace."""
        self._order(b"T")

    def abort(self) -> None:
        """Let the trainer dump its traceback, then stop it."""
        self._order(b"A")

    def kill(self) -> None:
        """Kill the tree now."""
        self._order(b"K")

    def ending(self) -> Ending:
        """Return how it ended; call it once `ended` is set."""
        return read_ending(self._report) or Ending(error="the shim was killed before it could report")

    def _order(self, order: bytes) -> None:
        assert self._shim.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._shim.stdin.write(order)

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


def read_ending(report: Path) -> Ending | None:
    """Return what the shim reported, None when there is no report to read."""
    try:
        with report.open("rb") as stream:
            found = json.loads(stream.read(_MAX_REPORT_BYTES))
        return Ending(**{name: found[name] for name in Ending.__slots__})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def process_identity(pid: int) -> str:
    """Return "pid:start", which no other process of this boot shares; empty when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    fields = stat.rpartition(b")")[2].split()
    return "" if fields[0] in (b"Z", b"X") else f"{pid}:{int(fields[19])}"


def lives(identity: str) -> bool:
    """Tell whether the process of that identity is still there."""
    pid = identity.partition(":")[0]
    return pid.isdigit() and process_identity(int(pid)) == identity
