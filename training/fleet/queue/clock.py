"""The queue's clocks: monotonic seconds, the fleet clock, and labels of the wall time.

Guarantees that nothing is decided by a wall clock. Deadlines are on the monotonic clock and end with the receiver. What
must outlive a restart is counted on the fleet clock: the seconds that receivers on this database have lived.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from training.fleet.database import Transaction
from training.fleet.database.queries import REMEMBERED

TICK_KEY: Final = "fleet_clock_s"
TICK_STEP_S: Final = 60
"""How far the fleet clock may be behind after a crash, seconds. Each step costs a write in an idle fleet."""


def wall_label() -> str:
    """Return the wall time as people read it: RFC 3339, UTC, milliseconds. Nothing is decided by it."""
    second, ms = divmod(time.time_ns() // 1_000_000, 1000)
    return f"{_second_label(second)}.{ms:03d}Z"


def label_before(age_s: float) -> str:
    """Return the label of a moment so many seconds ago; the first one there is for a moment before that."""
    second, ms = divmod(max(0, int((time.time() - age_s) * 1000)), 1000)
    return f"{_second_label(second)}.{ms:03d}Z"


# Hundreds of changes a second share a label; formatting one takes longer than the rest of a small change.
@functools.lru_cache(maxsize=2)
def _second_label(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class FleetClock:
    """The clocks of one receiver.

    Args:
        now: Monotonic seconds.
        label: A label of the wall time for people.

    Attributes:
        now: Monotonic seconds.
        label: A label of the wall time for people.
    """

    def __init__(self, now: Callable[[], float], label: Callable[[], str]) -> None:
        self.now = now
        self.label = label
        self._started_at = now()
        self._tick_base = 0
        self._tick_kept = 0

    def tick(self) -> int:
        """Return the fleet clock: whole seconds that receivers on this database have lived."""
        return self._tick_base + int(self.now() - self._started_at)

    def start(self, tx: Transaction) -> None:
        """Go on from where the last receiver was."""
        kept = tx.one(REMEMBERED, key=TICK_KEY)
        self._tick_base = self._tick_kept = int(kept.value) if kept else 0
        self._started_at = self.now()

    def keep(self, tx: Transaction) -> None:
        """Write the fleet clock down when it has gone on far enough."""
        tick = self.tick()
        if tick - self._tick_kept >= TICK_STEP_S:
            tx.run("remember", key=TICK_KEY, value=str(tick))

            def kept() -> None:
                self._tick_kept = tick

            tx.after_commit(kept)
