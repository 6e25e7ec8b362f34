"""Delays that grow with every repeat and fade with time.

Owns who has to wait because of what it did again and again, and for how long. Guarantees that who waits for the end of
its delay repeats it no sooner, and that what happened rarely is forgotten. Deadlines are on the monotonic clock and end
with the receiver. Leaves what is repeated, and what waiting means, to the callers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)

MAX_COUNTED: Final = 16
"""Repeats beyond those that are free which count: the delay has long reached its cap, and all fades within hours."""


class _Entry(NamedTuple):
    level: float
    counted_at: float
    until: float


class Delays(Generic[K]):
    """Who has to wait, and until when. Changed on the writer thread; reading is safe from any thread.

    Args:
        clock: Monotonic seconds.
        pause: Returns the delay, seconds, for a number of repeats and a first delay in seconds.
        fades_s: Seconds in which one repeat less counts.
        free: Repeats that cost no delay.
    """

    def __init__(
        self, clock: Callable[[], float], pause: Callable[[int, float], float], fades_s: float, free: int = 0
    ) -> None:
        self._clock = clock
        self._pause = pause
        self._fades_s = fades_s
        self._free = free
        self._entries: dict[K, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: K, first_s: float, since: float) -> Callable[[], None]:
        """Count one repeat, at once, so that a change in the same batch already waits.

        Args:
            key: Who it was.
            first_s: The first delay, seconds; each further one is twice as long.
            since: From when the delay counts, monotonic seconds.

        Returns:
            What undoes it.
        """
        old, now = self._entries.get(key), self._clock()
        # It fades while nobody looks, so what is left is worked out from when it was last counted.
        level = min(1.0 + (self._left(old, now) if old else 0.0), float(self._free + MAX_COUNTED))
        # Rounded, so that a repeat a moment before the last has wholly faded still counts as one more.
        repeats = round(level) - self._free
        until = since + (self._pause(repeats, first_s) if repeats > 0 else 0.0)
        # A later ending never shortens a wait that goes on.
        self._entries[key] = _Entry(level, now, max(until, old.until) if old else until)

        def undo() -> None:
            if old is None:
                self._entries.pop(key, None)
            else:
                self._entries[key] = old

        return undo

    def left_s(self, key: K) -> float:
        """Return for how many seconds yet somebody has to wait, 0 for nobody and for a delay that is over."""
        entry = self._entries.get(key)
        return 0.0 if entry is None else max(0.0, entry.until - self._clock())

    def repeats(self, key: K) -> int:
        """Return how many repeats count now."""
        entry = self._entries.get(key)
        return 0 if entry is None else round(self._left(entry, self._clock()))

    def waiting(self) -> Iterator[K]:
        """Yield who has to wait now."""
        now = self._clock()
        return (key for key, entry in list(self._entries.items()) if entry.until > now)

    def ended(self, after: float, now: float) -> list[K]:
        """Return whose delay ended after one moment and not after another."""
        return [key for key, entry in self._entries.items() if after < entry.until <= now]

    def next_end(self, after: float) -> float | None:
        """Return when the next delay ends, monotonic seconds; None when none ends after the given moment."""
        return min((entry.until for entry in list(self._entries.values()) if entry.until > after), default=None)

    def fade(self, now: float) -> None:
        """Forget what no longer counts."""
        gone = [key for key, entry in self._entries.items() if entry.until <= now and self._left(entry, now) <= 0.0]
        for key in gone:
            del self._entries[key]

    def forget(self, gone: Callable[[K], bool] = lambda _key: True) -> None:
        """Let nobody wait any more, or only those who are not meant."""
        for key in [key for key in self._entries if gone(key)]:
            del self._entries[key]

    def _left(self, entry: _Entry, now: float) -> float:
        """Return how much of the repeats still counts."""
        # A cap of nothing means no back-off at all, which tests and impatient labs ask for.
        if self._fades_s <= 0.0:
            return 0.0
        return max(0.0, entry.level - (now - entry.counted_at) / self._fades_s)
