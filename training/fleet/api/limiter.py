"""How many wrong one-time codes are looked at.

A code cannot be guessed: it holds 192 random bits. The limit keeps somebody who tries from filling the audit trail and
from holding others up. Guarantees that an address which has shown no wrong code lately is always looked at, whatever
others do, so that the right host can still enrol; that what is remembered stays bounded; and that a refused address is
told when to come back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from training.fleet.auth import neighbourhood
from training.fleet.errors import TooManyTriesError

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

    def demand(self, address: str) -> None:
        """Refuse an address with too many wrong codes.

        Raises:
            TooManyTriesError: It has to wait.
        """
        self._forget()
        mine = self._wrong.get(neighbourhood(address), [])
        busy = sum(map(len, self._wrong.values())) >= ALL
        if len(mine) >= EACH or (busy and mine):
            left_s = math.ceil(mine[0] + WINDOW_S - self._clock())
            raise TooManyTriesError(
                f"too many wrong codes came from this address; look at the code again and try in {left_s} s",
                retry_after_s=left_s,
            )

    def wrong(self, address: str) -> bool:
        """Count a wrong code; False when there are so many that they are no news."""
        self._forget()
        seen = self._wrong.setdefault(neighbourhood(address), [])
        seen.append(self._clock())
        while len(self._wrong) > MAX_ADDRESSES:
            del self._wrong[next(iter(self._wrong))]
        return sum(map(len, self._wrong.values())) <= ALL

    def _forget(self) -> None:
        since = self._clock() - WINDOW_S
        fresh = {address: [at for at in seen if at > since] for address, seen in self._wrong.items()}
        self._wrong = {address: seen for address, seen in fresh.items() if seen}
