"""Structured logs: one JSON object a line on the standard error.

Owns the form. Guarantees that no text from outside can break a line or drive a terminal: everything beyond printable
ASCII is escaped. Leaves secrets to those who log: no token is ever handed to a logger.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

MAX_ERROR = 20_000


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


def start(level: str) -> None:
    """Send everything from `level` on to the standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.raiseExceptions = False
    # uvicorn tells of its own start and stop at "info", which the receiver says itself, and at "warning" of each
    # request that is none, with which any client could fill the disk.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
