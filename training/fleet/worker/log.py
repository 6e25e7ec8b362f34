"""The log of one training: head and tail of everything it printed, on disk, within a bound.

Guarantees that taking a chunk never fails and never waits for anything but the disk, that at most `HEAD_BYTES` and two
segments of `SEGMENT_BYTES` are kept, and that what people see has no control characters.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path
from typing import BinaryIO, Final

from training.fleet import system
from training.fleet.worker.files import open_regular

HEAD_BYTES: Final = 2**20
SEGMENT_BYTES: Final = 2**20
UNWRITTEN_BYTES: Final = 2**14
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Log:
    """What a trainer printed.

    Args:
        folder: Where the files `log.head`, `log.tail` and `log.tail.old` lie.
    """

    def __init__(self, folder: Path) -> None:
        self._head, self._tail, self._old = (folder / f"log.{name}" for name in ("head", "tail", "tail.old"))
        self._stream: BinaryIO | None = None
        self._room = 0
        self._begun = False
        self._unwritten = b""
        self._closed = False
        self._guard = threading.Lock()
        self.size_bytes = 0
        """How much was printed in all, whatever was kept."""

    def take(self, chunk: bytes) -> None:
        """Add some output. Of what a full disk does not hold only the end is kept: the trainer must not wait for it.

        What comes after `close` is dropped: a process that not even KILL has ended may go on printing.
        """
        self.size_bytes += len(chunk)
        with self._guard:
            if not self._closed:
                self._add(chunk)

    def _add(self, chunk: bytes) -> None:
        try:
            while chunk:
                if self._room == 0:
                    self._next_segment()
                assert self._stream is not None
                written = self._stream.write(chunk[: self._room])
                self._room -= written
                chunk = chunk[written:]
        except OSError:
            self._unwritten = (self._unwritten + chunk)[-UNWRITTEN_BYTES:]

    def close(self) -> None:
        """Let go of the files."""
        with self._guard:
            self._closed = True
            self._let_go()

    def _let_go(self) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()

    def tail(self, size_bytes: int) -> str:
        """Return the end of the output as text for people.

        Args:
            size_bytes: How much to return at most.
        """
        found = self._unwritten
        for path in (self._tail, self._old, self._head):
            if len(found) < size_bytes:
                found = _end(path, size_bytes - len(found)) + found
        return plain(found[-size_bytes:].decode("utf-8", "replace"))

    def go_on(self) -> None:
        """Continue the files of an earlier worker instead of beginning new ones."""
        for path, limit in ((self._tail, SEGMENT_BYTES), (self._head, HEAD_BYTES)):
            with contextlib.suppress(OSError):
                room = limit - path.stat().st_size
                if room > 0:
                    self._stream = path.open("ab", buffering=0)
                self._room = max(0, room)
                self._begun = True
                return

    def _next_segment(self) -> None:
        self._let_go()
        if self._begun and self._tail.exists():
            system.replace(self._tail, self._old)
        self._stream = (self._tail if self._begun else self._head).open("wb", buffering=0)
        self._room = SEGMENT_BYTES if self._begun else HEAD_BYTES
        self._begun = True


def plain(text: str) -> str:
    """Return text without control characters other than line feeds and tabs; carriage returns become line feeds."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def _end(path: Path, size_bytes: int) -> bytes:
    try:
        with open_regular(path) as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - size_bytes))
            return stream.read(size_bytes)
    except OSError:
        return b""
