"""Which events are recorded of those that a caller can cause again and again.

Guarantees that one address causes at most `EACH` events of an action in an hour, whatever names it gives, and all
addresses together at most `ALL`, so that nobody fills the audit trail; and that callers without a credential never use
up the share of those with one. With IPv6 a network of 64 bits counts as one address, because one host may use all of
it. Only recorded events are remembered, so memory is bounded as well. Lives on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from training.fleet.auth import neighbourhood

HOUR_S: Final = 3600.0
EACH: Final = 5
"""Events of one action that one address may cause in an hour."""
ALL: Final = 60
"""Events of one action that all addresses may cause in an hour: so many with a credential, and so many without one."""
AGAIN_S: Final = 300.0
"""How long the same thing from the same address is not written again."""


@dataclass(frozen=True, slots=True)
class _Written:
    """One event.

    Attributes:
        at: When it was written, monotonic seconds.
        caller: The address or network that caused it.
        about: The worker it names, which a caller may choose.
        known: The caller had shown a credential.
    """

    at: float
    caller: str
    about: str
    known: bool


class News:
    """What was written in the last hour.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._written: dict[str, list[_Written]] = {}

    def is_news(self, address: str, action: str, about: str, *, known: bool) -> bool:
        """Return True if an event is to be written, which counts as written from then on.

        Args:
            address: Where the request came from.
            action: The action of the event.
            about: The worker it names.
            known: The caller has shown a credential.
        """
        now, caller = self._clock(), neighbourhood(address)
        written = [one for one in self._written.get(action, ()) if now - one.at < HOUR_S]
        mine = [one for one in written if one.caller == caller]
        repeated = any(one.about == about and now - one.at < AGAIN_S for one in mine)
        full = len(mine) >= EACH or sum(one.known == known for one in written) >= ALL
        if not repeated and not full:
            written.append(_Written(now, caller, about, known))
        self._written[action] = written
        return not repeated and not full
