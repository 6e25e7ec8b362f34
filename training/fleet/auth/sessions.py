"""Which machine uses an identity now.

Owns the rule that one identity is used in one place at a time, or in as many as the manifest gives it, so that two
machines from one disk image do not take each other's jobs, and so that a secret alone takes nothing from the worker it
belongs to. A worker names its session
with every request: the place it runs in and its start, both random to others. A worker that is started again in the
same place takes over at once, because its folder is locked by one process at a time; from another place it must wait
until the first has been silent for a while. Other programs of the same host, such as `doctor`, name a visit: it may
look, it neither holds nor takes the identity, and beside a worker that lives it counts only on that worker's own host.
Who names nothing is refused, and beside a worker that lives counts as another machine.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from training.fleet.model.errors import IdentityInUseError, RequestError

HEADER: Final = "X-Worker-Session"
PLACE_DIGITS: Final = 32
HOST_DIGITS: Final = 16
"""How many digits of a place, from its first on, are the same for everything on one host."""
FORM: Final = re.compile(rf"([0-9a-f]{{{PLACE_DIGITS}}})\.([0-9a-f]{{32}})")
VISIT: Final = re.compile(rf"([0-9a-f]{{{HOST_DIGITS}}})\.visit")
MAX_RETIRED: Final = 8
SILENT_S: Final = 90.0
"""How long a machine must be silent before another one may use its identity, unless the lease is shorter."""
NEWS_S: Final = 300.0
"""How long a clash is shown to people."""


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
    """The live sessions of every identity.

    Args:
        clock: Monotonic seconds.
        silent_s: How long a session must be silent before one from another place may follow.
    """

    def __init__(self, clock: Callable[[], float], silent_s: float = SILENT_S) -> None:
        self._clock = clock
        self._silent_s = silent_s
        self._live: dict[str, list[_Session]] = {}
        self._clashes: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def present(self, worker: str, given: str, *, looks: bool = False, places: int = 1) -> Iterator[str]:
        """Hold the identity of a worker while a request of it is answered.

        Args:
            worker: Its name.
            given: What the request says of its session; empty where it says nothing.
            looks: The request changes nothing.
            places: How many places may use the identity at once.

        Yields:
            The place that holds the identity; empty for a visit.

        Raises:
            IdentityInUseError: Other machines use the identity, as many as may.
            RequestError: The request names no session, or more than looks in a visit.
        """
        session = self._enter(worker, given, looks=looks, places=places)
        try:
            yield "" if session is None else session.place
        finally:
            if session is not None:
                with self._lock:
                    session.calls -= 1
                    session.seen_at = self._clock()

    def _enter(self, worker: str, given: str, *, looks: bool, places: int) -> _Session | None:
        now = self._clock()
        match = FORM.fullmatch(given)
        visit = None if match else VISIT.fullmatch(given)
        with self._lock:
            living = [session for session in self._live.get(worker, ()) if self._lives(session, now)]
            if match is None:
                own = visit is not None and any(session.place.startswith(visit[1]) for session in living)
                if len(living) >= places and not own:
                    raise self._clash(worker, now, places, named=visit is not None)
                _demand_look(worker, given, looks=looks and visit is not None)
                return None
            session = self._followed(worker, match[1], match[2], living, places)
            if session is None:
                raise self._clash(worker, now, places)
            session.calls += 1
            session.seen_at = now
            return session

    def _clash(self, worker: str, now: float, places: int, *, named: bool = True) -> IdentityInUseError:
        self._clashes[worker] = now
        if places > 1:
            return IdentityInUseError(
                f"{places} worker programs use the identity of {worker} already",
                f"wait until one has been silent for {self._silent_s:g} s, or raise `sessions` in [hosts.{worker}] "
                "and reload",
                expected=f"at most {places}, as the manifest says",
                retry_after_s=15.0,
            )
        unnamed = "" if named else f" from a place that this request does not name (expected: {HEADER})"
        return IdentityInUseError(
            f"another machine uses the identity of worker {worker}{unnamed}",
            "if this one is a copy of its disk, enrol it under a name of its own: `cis490-jobs invite NAME`; if it "
            "was moved here, or this machine was started again, wait until the other has been silent for "
            f"{self._silent_s:g} s",
            retry_after_s=15.0,
        )

    def _lives(self, session: _Session, now: float) -> bool:
        return session.calls > 0 or now - session.seen_at <= self._silent_s

    def _followed(self, worker: str, place: str, start: str, living: list[_Session], places: int) -> _Session | None:
        """Return the caller's session, None when the identity is not the caller's.

        Args:
            worker: The name.
            place: Where the caller runs.
            start: Which start of the worker there.
            living: The sessions that are not silent, earliest first.
            places: How many of them there may be.
        """
        session = next((known for known in self._live.get(worker, ()) if known.place == place), None)
        # Those before it in the list came earlier. After a reload there may be more than the manifest now gives.
        earlier = living[: living.index(session)] if session in living else living
        if len(earlier) >= places or (session is not None and start in session.retired):
            return None
        if session is None:
            session = _Session(place, start, 0.0)
            self._live[worker] = [*living, session]
        elif session.start != start:
            session.retired.append(session.start)
            session.start = start
        return session

    def remember(self, worker: str, place: str) -> None:
        """Take in where an identity was used before the receiver started, as if it had been heard just now."""
        self._live[worker] = [_Session(place, "", self._clock())]

    def forget(self, worker: str) -> None:
        """Let the next place hold a name, because its identity has changed."""
        with self._lock:
            self._live.pop(worker, None)
            self._clashes.pop(worker, None)

    def clashed_s(self, worker: str) -> float | None:
        """Return for how many seconds nobody else has tried to use an identity, None when that is long ago."""
        at = self._clashes.get(worker)
        since = None if at is None else self._clock() - at
        return since if since is not None and since < NEWS_S else None

    def clashed(self) -> list[str]:
        """Return the workers whose identity another machine has tried to use in the last minutes."""
        return sorted(worker for worker in list(self._clashes) if self.clashed_s(worker) is not None)


def _demand_look(worker: str, given: str, *, looks: bool) -> None:
    if not looks:
        found = ascii(given)[:80] if given else "none"
        raise RequestError(
            f"the request shows the secret of worker {worker} and does not say where it runs: found {found} in "
            f"{HEADER}",
            "use the worker's own programs, of this receiver's version",
            expected=(
                "PLACE.START, 32 hex digits each, or, to look only, what `cis490-training-worker session` prints on "
                "the worker's host"
            ),
        )
