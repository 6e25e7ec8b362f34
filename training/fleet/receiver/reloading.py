"""Reloads that a signal asks for, and `cis490-trainer-receiver reload`, which waits for the end of one.

Owns the file that tells how they ended. A signal has no answer, so a service manager that sends one cannot know that
the manifest was refused; the command sends it, waits, and ends with what the receiver said. Guarantees that it never
takes the end of an earlier reload for its own: a reload is begun in the file before it reads the manifest.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from training.fleet import settings
from training.fleet.files import write_whole
from training.fleet.model.errors import EX_FAILURE, ConfigurationError, FleetError, UnavailableError
from training.fleet.receiver import options

WAIT_S: Final = 170.0
"""How long a reload is waited for: a little less than the service manager waits for the command."""
LOOK_S: Final = 0.05
"""Seconds between two looks at the file."""


@dataclass(frozen=True, slots=True)
class ReloadState:
    """What the file says.

    Attributes:
        begun: Number of the newest reload that has begun, 0 before the first.
        done: Number of the newest one that has ended.
        faults: Why it was refused, empty when it was not.
    """

    begun: int = 0
    done: int = 0
    faults: tuple[str, ...] = ()


def state_file(db: Path) -> Path:
    """Return the file for a receiver with this database."""
    return db.with_name("reload.json")


class ReloadFile:
    """The file as the receiver writes it. A disk that refuses costs the command its answer and nothing else.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = ReloadState()
        self._turn = threading.Lock()  # two signals may come while one reload is under way

    def start(self) -> None:
        """Forget what a receiver before said."""
        with self._turn:
            self._write(ReloadState())

    def begin(self) -> int:
        """Note that a reload begins; return its number."""
        with self._turn:
            self._write(ReloadState(self._state.begun + 1, self._state.done, self._state.faults))
            return self._state.begun

    def end(self, number: int, faults: Sequence[str]) -> None:
        """Note how a reload ended."""
        with self._turn:
            self._write(ReloadState(self._state.begun, max(number, self._state.done), tuple(faults)))

    def _write(self, state: ReloadState) -> None:
        self._state = state
        try:
            write_whole(self._path, json.dumps(asdict(state)).encode(), private=True)
        except OSError as error:
            sys.stderr.write(f"{self._path} cannot be written: {error.strerror}\n")


def read_state(path: Path) -> ReloadState:
    """Return what a file says.

    Raises:
        UnavailableError: It is not there or cannot be read: no receiver with this database was started.
    """
    try:
        body = json.loads(path.read_bytes())
        return ReloadState(int(body["begun"]), int(body["done"]), tuple(map(str, body["faults"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnavailableError(
            f"{path} cannot be read ({error})", "check --db, and that the receiver runs in this version"
        ) from None


def run_reload(
    words: Sequence[str], wait: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> int:
    """Let a running receiver read its manifest and operators again, and say how that ended.

    Args:
        words: Arguments after "reload".
        wait: Waits a number of seconds.
        clock: Monotonic seconds.

    Returns:
        0 when they are in force, 1 when something was refused.

    Raises:
        FleetError: No receiver runs there, or it did not answer in time.
    """
    parser = argparse.ArgumentParser(
        prog="cis490-trainer-receiver reload",
        description="Let a running receiver read its manifest and its operators again, and wait until it has.",
        allow_abbrev=False,
    )
    settings.add_flags(parser, (item for item in options.table(os.environ) if item.name == "db"))
    parser.add_argument("--pid", type=int, metavar="PID", help="process of the receiver [$MAINPID]")
    given = vars(parser.parse_args(words))
    chosen = settings.read(options.table(os.environ), {name: given.get(name) for name in ("db", "config")}, os.environ)
    path, process = state_file(chosen["db"]), _process(given["pid"])
    wanted = read_state(path).begun + 1
    _hang_up(process)
    until = clock() + WAIT_S
    while (state := read_state(path)).done < wanted:
        if clock() > until:
            raise UnavailableError(f"the receiver was not done after {WAIT_S:g} s", "look at its log")
        _demand_alive(process)
        wait(LOOK_S)
    for line in state.faults:
        sys.stderr.write(f"{line}\n")
    return EX_FAILURE if state.faults else 0


def _process(given: int | None) -> int:
    told = given if given is not None else int(os.environ.get("MAINPID", "0") or 0)
    if told <= 1:
        raise ConfigurationError("found no process to tell", "give --pid, or set MAINPID", expected="a process number")
    return told


def _hang_up(process: int) -> None:
    if sys.platform == "win32":
        raise ConfigurationError("Windows has no signal for this", "use `cis490-jobs reload`")
    try:
        os.kill(process, signal.SIGHUP)
    except OSError as error:
        raise FleetError(
            f"the process {process} cannot be told ({error.strerror})", "is the receiver running?"
        ) from None


def _demand_alive(process: int) -> None:
    try:
        os.kill(process, 0)
    except OSError:
        raise FleetError(f"the receiver (process {process}) ended meanwhile", "look at its log") from None
