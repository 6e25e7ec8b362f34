"""Runs a program in a fork of this process and kills it at a chosen system call, or lets that call fail.

A fork of a process that has imported everything costs milliseconds where a new Python costs a third of a second.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("boundary.c")
ERRORS = ("ENOSPC", "EIO", "EROFS", "EMFILE")
_NAMES = (
    (re.compile(r"\.fsck-[0-9a-z_]{8}\b"), ".fsck-T"),
    (re.compile(r"\d{8}T\d{6}Z"), "TIME"),
    (re.compile(r"/[0-9a-f]{12}-(\d+)\b"), r"/JOB-\1"),
    (re.compile(r"[0-9a-f]{16,}"), "HEX"),
)


@dataclass(frozen=True)
class Call:
    """One system call on a file of the program.

    Attributes:
        name: Its name; "openat-look" for one that opens without making or cutting off anything.
        place: The file, below the folder, with digests and times taken out of its name; two for a rename.
    """

    name: str
    place: str

    @property
    def changes(self) -> bool:
        return not self.name.endswith("-look")


@dataclass(frozen=True)
class Ran:
    """How a program ran.

    Attributes:
        status: Exit status, negative for a signal.
        calls: Its system calls, in order.
        said: What it wrote on its standard error.
    """

    status: int
    calls: list[Call]
    said: str


def build(folder: Path) -> ctypes.CDLL:
    """Compile the watcher and load it."""
    library = folder / "boundary.so"
    flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    subprocess.run(["gcc", *flags, "-o", str(library), str(SOURCE)], check=True)
    return ctypes.CDLL(str(library))


class Boundary:
    """The watcher.

    Args:
        scratch: Folder for its own files, outside of what programs write to.
    """

    def __init__(self, scratch: Path) -> None:
        self._library = build(scratch)
        self._log = scratch / "calls"
        self._said = scratch / "said"

    def run(
        self,
        program: Callable[[], int],
        folder: Path,
        at: int = 0,
        error: int = 0,
        beside: Callable[[int, threading.Event], None] | None = None,
        *,
        watched: bool = True,
    ) -> Ran:
        """Run a program to its end.

        Args:
            program: What to do; returns its exit status.
            folder: Only calls on files below it count.
            at: Number of the call at which something happens, from 1; 0 for an undisturbed run.
            error: Number of the error that call fails with; 0 kills the program before it.
            beside: What this process does meanwhile, in a thread; gets the program's process id and what is set when
                it has ended.
            watched: Whether calls are counted at all, which takes time.
        """
        child = os.fork()
        if child == 0:
            os._exit(self._program(program, watched=watched))
        ended = threading.Event()
        thread = threading.Thread(target=beside or _nothing, args=(child, ended))
        with self._log.open("w+b") as log:
            thread.start()
            if watched:
                status = self._library.watch(child, os.fsencode(folder), at, error, log.fileno())
            else:
                _, status = os.waitpid(child, 0)
            ended.set()
            thread.join()
            log.seek(0)
            calls = [_call(line, folder) for line in log.read().decode(errors="replace").splitlines()]
        return Ran(os.waitstatus_to_exitcode(status), calls, self._said.read_text(errors="replace"))

    def _program(self, program: Callable[[], int], *, watched: bool) -> int:
        out = os.open(self._said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.close(out)
        try:
            if watched:
                self._library.be_watched()
            status = program()
            sys.stdout.flush()
        except BaseException:  # noqa: BLE001 - whatever it is, it is part of what the program said
            traceback.print_exc()
            return 99
        return status


def _nothing(_process: int, _ended: threading.Event) -> None:
    """Do nothing beside the program."""


def _call(line: str, folder: Path) -> Call:
    name, *paths = line.rstrip("\t").split("\t")
    return Call(name, " > ".join(_shown(path.removesuffix(" (deleted)"), folder) for path in paths))


def _shown(path: str, folder: Path) -> str:
    shown = path.removeprefix(str(folder)) or "/"
    for pattern, name in _NAMES:
        shown = pattern.sub(name, shown)
    return shown
