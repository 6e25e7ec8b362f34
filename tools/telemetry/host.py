"""The program that is one host of the lab: process 1 of its namespaces, it starts the work of its plan on time.

Its standard input is its life-line: when that closes, the host empties its home folder and ends, and the kernel ends
every process of its PID namespace with it. It gives up root before any work. Standard output carries one JSON object
per piece of work that ended: `{"track", "work", "start_s", "end_s"}`, seconds since the start of the recording.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - http.client wants it later, when files of root may be out of reach
import json
import os
import random
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.telemetry.activities import ACTIVITIES, Site, prepare
from tools.telemetry.schedule import IDLE
from tools.telemetry.services import answer_names, serve_http

NOBODY = 65534
_NICENESS = 10


@dataclass
class _Task:
    """A piece of work under way."""

    track: str
    work: str
    start_s: float


def main() -> int:
    """Wait for the order on standard input, play the host, clean up.

    Returns:
        Exit status, 0 always.
    """
    order = json.loads(sys.stdin.readline())
    home = Path(order["home"])
    home.mkdir(parents=True)
    os.nice(_NICENESS)
    if os.getuid() == 0:
        os.chown(home, NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    os.environ["TMPDIR"] = str(home)  # the compiler's temporary files
    prepare(home, random.Random(order["name"]))  # noqa: S311 - filler
    _say({"ready": order["name"]})
    start = json.loads(sys.stdin.readline() or "null")
    if start is not None:
        _Host(order, home, float(start["at"])).run()
    shutil.rmtree(home, ignore_errors=True)  # a process that is just ending may still hold a file
    return 0


class _Host:
    """Starts processes when the plan says so and reaps them."""

    def __init__(self, order: dict[str, Any], home: Path, origin: float) -> None:
        self._order = order
        self._home = home
        self._origin = origin
        self._tasks: dict[int, _Task] = {}
        self._rng = random.Random(f"{order['seed']}:{order['name']}:work")  # noqa: S311 - filler

    def run(self) -> None:
        """Run until standard input closes."""
        end = self._origin + self._order["seconds"]
        _spawn(lambda: serve_http(""))  # every address of this namespace, loopback too
        _spawn(lambda: answer_names(self._order["address"]))
        self._begin("always", "chatter", end, 0.6)
        waiting = list(self._order["phases"])
        while not select.select([sys.stdin], [], [], 0.1)[0]:
            now = time.monotonic() - self._origin
            while waiting and waiting[0]["start_s"] <= now:
                self._begin_phase(waiting.pop(0))
            self._reap()
        if os.getpid() == 1:  # in its own PID namespace, so this reaches the host's processes alone
            os.kill(-1, signal.SIGKILL)
        for task in self._tasks.values():  # cut off, but it did run until now
            self._tell_end(task, None)

    def _begin_phase(self, phase: dict[str, Any]) -> None:
        # An idle host has no process for it; else their number would tell how much of the plan is hostile.
        if phase["work"] != IDLE:
            self._begin(phase["track"], phase["work"], self._origin + phase["end_s"], phase["intensity"])

    def _begin(self, track: str, work: str, deadline: float, intensity: float) -> None:
        peers = tuple(self._order["peers"])
        site = Site(self._home, peers, deadline, intensity, random.Random(self._rng.random()))  # noqa: S311 - filler
        pid = _spawn(lambda: ACTIVITIES[work](site))
        self._tasks[pid] = _Task(track, work, time.monotonic() - self._origin)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            task = self._tasks.pop(pid, None)
            if task is not None:
                self._ended(task, status)

    def _ended(self, task: _Task, status: int) -> None:
        self._tell_end(task, status)
        if task.work == "encrypt":
            self._begin("second", "restore", time.monotonic() + 30, self._rng.uniform(0.5, 1.0))

    def _tell_end(self, task: _Task, status: int | None) -> None:
        now = time.monotonic() - self._origin
        _say({"track": task.track, "work": task.work, "start_s": task.start_s, "end_s": now, "status": status})


def _spawn(work: Callable[[], None]) -> int:
    """Run a function in a forked process; its fault is told on standard error and ends only that process."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except Exception as fault:  # noqa: BLE001 - top of a process; the fault must be told before it ends
        sys.stderr.write(f"{type(fault).__name__}: {fault}\n")
    finally:
        sys.stderr.flush()
        os._exit(status)


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
