"""How far a training is, read from the file it appends to.

Follows `progress.jsonl` with bounded reads. Guarantees that nothing a trainer writes there can stop the worker: lines
that are no progress are passed over.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from training.fleet.wire.limits import Metrics
from training.fleet.wire.worker import Progress
from training.fleet.worker.files import open_regular
from training.fleet.worker.log import plain

MAX_READ_BYTES: Final = 2**20
MAX_LINE_BYTES: Final = 65536
MAX_METRICS: Final = 256
MAX_METRICS_CHARS: Final = 12_000
"""Bounds the metrics of one message: with four bytes a character they stay well below what the receiver reads."""
_FIGURE_CHARS = 25
_MAX_STEP = 2**53 - 1
_MAX_TEXT = 200


class ProgressFile:
    """The newest progress of one training.

    Args:
        path: The file, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self._newest: Mapping[str, Any] | None = None
        self._newest_s = 0.0

    def poll(self, elapsed_s: float) -> bool:
        """Read what is new.

        Args:
            elapsed_s: Seconds since the trainer started.

        Returns:
            Whether anything was appended.
        """
        chunk = self._read()
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()[-MAX_LINE_BYTES:]
        for line in lines:
            found = _parsed(line)
            if found is not None:
                self._newest, self._newest_s = found, elapsed_s
        return bool(chunk)

    def report(self, elapsed_s: float) -> Progress:
        """Return the newest progress as the receiver takes it, with the time left."""
        found = self._newest or {}
        step, steps = _whole(found.get("step")), _whole(found.get("steps"))
        return Progress(
            step=step,
            steps=max(step, steps) if steps else 0,
            phase=plain(str(found.get("phase") or ""))[:_MAX_TEXT],
            metrics=flat_metrics(found.get("metrics")),
            elapsed_s=round(elapsed_s, 3),
            left_s=left_s(step, steps, self._newest_s, elapsed_s),
        )

    def _read(self) -> bytes:
        try:
            with open_regular(self._path) as stream:
                if os.fstat(stream.fileno()).st_size < self._offset:
                    self._offset, self._rest = 0, b""
                stream.seek(self._offset)
                chunk = stream.read(MAX_READ_BYTES)
        except OSError:
            return b""
        self._offset += len(chunk)
        return chunk


def left_s(step: int, steps: int, step_s: float, elapsed_s: float) -> float | None:
    """Return the seconds still to go, None while they cannot be told.

    Args:
        step: Steps done.
        steps: Steps in all.
        step_s: When that step was done, seconds after the start.
        elapsed_s: Seconds since the start.
    """
    if not 0 < step <= steps or step_s <= 0:
        return None
    return round(max(0.0, step_s / step * steps - elapsed_s), 1)


def flat_metrics(found: object) -> Metrics:
    """Return the flat figures among a trainer's metrics; what is nested, unprintable or too long is left out."""
    kept: Metrics = {}
    room = MAX_METRICS_CHARS
    for name, value in found.items() if isinstance(found, dict) else ():
        size = len(str(name)) + (len(value) if isinstance(value, str) else _FIGURE_CHARS)
        if _text(name) and _flat(value) and len(kept) < MAX_METRICS and size <= room:
            kept[name] = value
            room -= size
    return kept


def _text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_TEXT and value.isprintable()


def _flat(value: object) -> bool:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) <= _MAX_STEP)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_STEP else 0
