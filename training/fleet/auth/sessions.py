"""Which machine uses an identity now.

Owns the rule that one identity is used in one place at a time, so that two machines from one disk image do not take
each other's jobs. A worker names its session with every request: the place it runs in and its start, both random to
others. A worker that is started again in the same place takes over at once, because its folder is locked by one process
at a time; from another place it must wait until the first has been silent for a while.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from training.fleet.errors import IdentityInUseError

HEADER: Final = "X-Worker-Session"
FORM: Final = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{32})")
MAX_RETIRED: Final = 8
SILENT_S: Final = 90.0
"""How long a machine must be silent before another one may use its identity, unless the lease is shorter."""
NEWS_S: Final = 300.0
"""How often one clash is told."""


@dataclass(slots=True)
class _Session:
    """Who uses an identity.

    Attributes:
        place: Where it runs.
        start: Which start of the worker there.
        seen_at: When it was last heard, monotonic seconds.
        calls: Requests of it that are being answered.
        retired: Earlier starts in the same place.
    """

    place: str
    start: str
    seen_at: float
    calls: int = 0
    retired: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_RETIRED))


class Sessions:
    """The live session of every identity.

    Args:
        clock: Monotonic seconds.
        silent_s: How long a session must be silent before one from another place may follow.
    """

    def __init__(self, clock: Callable[[], float], silent_s: float = SILENT_S) -> None:
        self._clock = clock
        self._silent_s = silent_s
        self._live: dict[str, _Session] = {}
        self._clashes: dict[str, float] = {}
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def present(self, worker: str, given: str | None) -> Iterator[None]:
        """Hold the identity of a worker while a request of it is answered.

        Args:
            worker: Its name.
            given: What it says of its session; None for a worker that says nothing, which is let pass.

        Raises:
            IdentityInUseError: Another machine uses the identity.
        """
        session = self._enter(worker, given)
        try:
            yield
        finally:
            if session is not None:
                with self._lock:
                    session.calls -= 1
                    session.seen_at = self._clock()

    def _enter(self, worker: str, given: str | None) -> _Session | None:
        match = FORM.fullmatch(given or "")
        if match is None:
            return None
        now = self._clock()
        with self._lock:
            session = self._followed(self._live.get(worker), match[1], match[2], now)
            if session is None:
                self._clashes[worker] = now
                raise IdentityInUseError(
                    f"another machine uses the identity of worker {worker}; if this one is a copy of its disk, enrol "
                    f"it under a name of its own: `cis490-jobs invite NAME`; if it was moved here, wait "
                    f"{self._silent_s:g} s after the other has stopped",
                    retry_after_s=15.0,
                )
            session.calls += 1
            session.seen_at = now
            self._live[worker] = session
            return session

    def _followed(self, old: _Session | None, place: str, start: str, now: float) -> _Session | None:
        """Return the session that holds the identity now, None when it is not the caller's."""
        if old is None:
            return _Session(place, start, now)
        if old.place != place:
            silent = not old.calls and now - old.seen_at > self._silent_s
            return _Session(place, start, now) if silent else None
        if old.start != start:
            if start in old.retired:
                return None
            old.retired.append(old.start)
            old.start = start
        return old

    def remember(self, worker: str, place: str) -> None:
        """Take in where an identity was used before the receiver started, as if it had been heard just now."""
        self._live[worker] = _Session(place, "", self._clock())

    def place(self, worker: str) -> str:
        """Return where an identity is used, empty when that is not known."""
        session = self._live.get(worker)
        return "" if session is None else session.place

    def forget(self, worker: str) -> None:
        """Let anybody begin anew under a name, because its identity has changed."""
        with self._lock:
            self._live.pop(worker, None)
            self._clashes.pop(worker, None)

    def clashed_s(self, worker: str) -> float | None:
        """Return for how many seconds nobody else has tried to use an identity, None when that is long ago."""
        at = self._clashes.get(worker)
        since = None if at is None else self._clock() - at
        return since if since is not None and since < NEWS_S else None

    def is_news(self, subject: str) -> bool:
        """Say whether something was not told for some minutes; the answer is no until then."""
        now = self._clock()
        with self._lock:
            self._told = {name: at for name, at in self._told.items() if now - at < NEWS_S}
            if subject in self._told:
                return False
            self._told[subject] = now
            return True
