"""How many wrong one-time codes an address may try.

A code cannot be guessed: it holds 192 random bits. The limit keeps somebody who tries from slowing others down.
Guarantees that an address which has tried no wrong code lately is never refused, whatever others do, so that the right
host can still enrol; that memory stays bounded; and that a refused address learns when to try again. Lives on the event
loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from training.fleet.auth import neighbourhood
from training.fleet.model.errors import TooManyTriesError

WINDOW_S: Final = 60.0
EACH: Final = 5
"""Wrong codes of one address in the window, after which it must wait."""
ALL: Final = 60
"""Wrong codes of all addresses in the window, after which one of an address is enough for it to wait."""
MAX_ADDRESSES: Final = 4096


class Limiter:
    """Wrong codes by address.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wrong: dict[str, list[float]] = {}

    def enter(self, address: str) -> None:
        """Let an address try a code. It counts as wrong until `forgive` takes it back.

        Raises:
            TooManyTriesError: It has to wait.
        """
        self._forget()
        caller, now = neighbourhood(address), self._clock()
        mine = self._wrong.get(caller, [])
        if len(mine) >= EACH or (mine and self._total() >= ALL):
            left_s = math.ceil(mine[0] + WINDOW_S - now)
            raise TooManyTriesError(
                "too many wrong codes came from this address",
                f"look at the code again and try in {left_s} s",
                retry_after_s=left_s,
            )
        self._wrong[caller] = [*mine, now]
        if len(self._wrong) > MAX_ADDRESSES:
            del self._wrong[next(iter(self._wrong))]

    def forgive(self, address: str) -> None:
        """Take the last count of an address back, because its code was not wrong."""
        caller = neighbourhood(address)
        left = self._wrong.pop(caller, [])[:-1]
        if left:
            self._wrong[caller] = left

    def _total(self) -> int:
        return sum(map(len, self._wrong.values()))

    def _forget(self) -> None:
        since = self._clock() - WINDOW_S
        fresh = {address: [at for at in seen if at > since] for address, seen in self._wrong.items()}
        self._wrong = {address: seen for address, seen in fresh.items() if seen}
