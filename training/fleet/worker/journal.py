"""What a worker says while it works: one line per event on standard error, without control characters or secrets."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import TextIO


class Journal:
    """The lines a worker writes.

    Args:
        stream: Where they go.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._guard = threading.Lock()
        self._last = ""

    def note(self, event: str, **facts: object) -> None:
        """Write one event: time, what happened, then name=value pairs."""
        self._write(_line(event, facts))

    def note_once(self, event: str, **facts: object) -> None:
        """Write one event unless the very same was the last one; for what repeats while a trouble lasts."""
        line = _line(event, facts)
        if line != self._last:
            self._write(line)

    def _write(self, line: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with self._guard:
            self._last = line
            try:
                self._stream.write(f"{stamp} {line}\n")
                self._stream.flush()
            except (OSError, ValueError):
                return


def _line(event: str, facts: dict[str, object]) -> str:
    return " ".join([event, *(f"{name}={_shown(value)}" for name, value in facts.items() if value is not None)])


def _shown(value: object) -> str:
    text = str(value)
    return text if text.isascii() and text.isprintable() and " " not in text and text else json.dumps(text[:2000])
