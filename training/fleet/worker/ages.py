"""How long a folder has not been used, on a host whose clock may be wrong.

A host without a battery clock starts in 1970 and jumps to the present when the network time arrives; a clock that was
set wrong jumps years ahead and back. Guarantees that a jump of the clock does not make a folder look old: after a jump
ages are counted from the jump, and the age of a folder that was written before it from the moment somebody looked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from training.fleet.worker.beats import clock_s

KNOWN_S: Final = 1_704_067_200.0
"""2024-01-01; a wall clock before it has not been set yet."""
JUMP_S: Final = 3600.0
"""By how much the wall clock must leave the clock that only counts for it to have jumped."""


class Ages:
    """The ages of folders.

    Args:
        wall: Seconds since the epoch, as the host believes.
        steady: Seconds that only go on.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = clock_s) -> None:
        self._wall = wall
        self._steady = steady
        self._offset_s = wall() - steady()
        self._jumped_s: float | None = None

    def of(self, folder: Path) -> float:
        """Return how many seconds ago a folder was last written, as far as that is sure.

        Raises:
            OSError: It is not there.
        """
        changed_s, wall_s, steady_s = folder.stat().st_mtime, self._wall(), self._steady()
        if abs(wall_s - steady_s - self._offset_s) > JUMP_S:
            self._offset_s, self._jumped_s = wall_s - steady_s, steady_s
        if min(changed_s, wall_s) < KNOWN_S:
            if changed_s < KNOWN_S:
                os.utime(folder, (wall_s, wall_s))
            return 0.0
        age_s = wall_s - changed_s
        return age_s if self._jumped_s is None else min(age_s, steady_s - self._jumped_s)
