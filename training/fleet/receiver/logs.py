"""The receiver's log on the standard error: JSON for programs, short lines for people.

Owns both forms. Guarantees that no text from outside can break a line or drive a terminal: in JSON everything beyond
printable ASCII is escaped, in text everything that cannot be printed. Leaves secrets to those who log: no token is
ever handed to a logger.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime

MAX_ERROR = 20_000
REPEAT_S = 60.0
"""How long the same trouble is not said again: a full disk would write a line a second on itself."""


class Repeats:
    """Says which repeats of a trouble are worth another line: one a minute for each cause.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}

    def is_due(self, cause: str) -> bool:
        """Return True if the cause was not said within the last minute, and count it as said now."""
        now, before = self._clock(), self._said.get(cause)
        if before is not None and now - before < REPEAT_S:
            return False
        self._said[cause] = now
        return True


class JsonLines(logging.Formatter):
    """Formats a record as one line. `extra={"data": {...}}` adds members."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "source": record.name.removeprefix("training.fleet."),
        }
        line.update(getattr(record, "data", {}))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)[-MAX_ERROR:]
        return json.dumps(line, ensure_ascii=True, default=str).replace("\x7f", "\\u007f")


class TextLines(logging.Formatter):
    """Formats a record for who watches a terminal: time of day, level, event, and its members as `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end; an error's traceback follows in lines of its own."""
        at = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        members = getattr(record, "data", {}).items()
        words = [record.getMessage(), *(f"{name}={_value(value)}" for name, value in members)]
        lines = [f"{at} {record.levelname.lower():7} {printable(' '.join(words))}"]
        if record.exc_info:
            error = self.formatException(record.exc_info)[-MAX_ERROR:]
            lines += [f"    {printable(line)}" for line in error.splitlines()]
        return "\n".join(lines)


def _value(value: object) -> str:
    """Return a member's value; one that is no single word is quoted, so that it is seen where it ends."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) and (" " in text or not text) else text


def printable(text: str) -> str:
    """Return text with everything that a terminal would not print as a character written as Python writes it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def start(level: str, form: str = "json") -> None:
    """Send everything from `level` on to the standard error.

    Args:
        level: Least level that is logged.
        form: `json`, `text`, or `auto`: text on a terminal, JSON elsewhere.
    """
    handler = logging.StreamHandler(sys.stderr)
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler.setFormatter(TextLines() if text else JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.raiseExceptions = False
    # uvicorn tells of its own start and stop at "info", which the receiver says itself, and at "warning" of each
    # request that is none, with which any client could fill the disk.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
