"""Which events are written that a caller can bring about again and again.

Guarantees that one address brings about at most `EACH` events of an action in an hour, whatever names it gives, and all
addresses together at most `ALL`, so that nobody fills the audit trail; and that callers without a credential never use
up what is left for those with one. With IPv6 a network of 64 bits counts as one address, because one host may use all
of it. What is remembered is what was written, so it is bounded as well. Lives on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from training.fleet.auth import neighbourhood

HOUR_S: Final = 3600.0
EACH: Final = 5
"""Events of one action that one address may bring about in an hour."""
ALL: Final = 60
"""Events of one action that all addresses may bring about in an hour, with a credential, and again without one."""
AGAIN_S: Final = 300.0
"""How long the same thing from the same address is not written again."""


@dataclass(frozen=True, slots=True)
class _Written:
    """One event.

    Attributes:
        at: When it was written, monotonic seconds.
        caller: The address or network that brought it about.
        about: The worker it names, which a caller may choose.
        known: Whether the caller had shown a credential.
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
        told = any(one.about == about and now - one.at < AGAIN_S for one in mine)
        full = len(mine) >= EACH or sum(one.known == known for one in written) >= ALL
        if not told and not full:
            written.append(_Written(now, caller, about, known))
        self._written[action] = written
        return not told and not full
