"""Owns `progress.jsonl`: how far a run is, one JSON object a line, written through at once.

Steps are thousandths of the whole job and never fall, so a reader can compute the time left from any two lines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from training.trainer.exchange.stop import stop_asked, stopped

STEPS = 1000


class Progress:
    """Appends progress lines to a file."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("w", encoding="utf-8")
        self._step = 0
        self._low, self._high, self._phase = 0, STEPS, "start"
        self.report(0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def phase(self, name: str, low: float, high: float) -> None:
        """Begin a phase that takes the job from one part done to another, both 0 to 1."""
        self._phase, self._low, self._high = name, round(low * STEPS), round(high * STEPS)
        self.report(0.0)

    def report(self, done: float, metrics: Mapping[str, float] | None = None) -> None:
        """Write one line.

        Args:
            done: Part of the current phase that is done, 0 to 1.
            metrics: Numbers worth showing now, such as the validation AUPRC.

        Raises:
            HostError: The run is asked to stop.
        """
        step = self._low + int((self._high - self._low) * min(1.0, max(0.0, done)))
        self._step = max(self._step, step)
        line = {"step": self._step, "steps": STEPS, "phase": self._phase, "metrics": dict(metrics or {})}
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()
        if stop_asked():
            raise stopped()
