"""What the worker asks of a trainer's processes, whatever system keeps them together."""

from __future__ import annotations

import threading
from typing import Protocol

from training.fleet.worker.process.ending import TrainerEnding


class Training(Protocol):
    """A trainer, ready to run once it gets its `go`; made by `launch` and `take_over`.

    Attributes:
        identity: Name by which a later worker can take it over, empty where that is not possible.
        ended: Set once no process of it lives.
    """

    identity: str
    ended: threading.Event

    def go(self) -> None:
        """Start the trainer."""

    def stop(self) -> None:
        """Ask the tree to end and kill what is left after the grace."""

    def abort(self) -> None:
        """Let the trainer dump its traceback where the system can, then stop it."""

    def kill(self) -> None:
        """Kill the tree now."""

    def ending(self) -> TrainerEnding:
        """Return how it ended; call it once `ended` is set."""

    def guarded(self) -> bool:
        """Return True if its tree still ends with this worker."""
