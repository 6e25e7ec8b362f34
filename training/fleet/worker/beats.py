"""Keeps one lease alive, from a thread and a connection of its own, whatever else the worker does.

Guarantees a first heartbeat at once (it acknowledges the lease), one every `heartbeat_s`, and more frequent tries with
jitter while the receiver is away. Time since the last contact counts the machine's sleep as well.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from training.fleet.client import Client
from training.fleet.model.errors import ConflictError, FleetError, NotFoundError, RevokedError
from training.fleet.wire.worker import Beat, Heartbeat, Lease, Progress

FIRST_RETRY_S: Final = 1.0
LEAST_PAUSE_S: Final = 0.05
GAP_PART: Final = 0.5
"""Part of the lease without contact after which it may be somebody else's."""


def clock_s() -> float:
    """Return seconds that go on while the machine sleeps, where the system counts them.

    Source: clock_gettime(2), CLOCK_BOOTTIME.
    """
    which = getattr(time, "CLOCK_BOOTTIME", None)
    if sys.platform == "win32" or which is None:
        return time.monotonic()
    return time.clock_gettime(which)


@dataclass(frozen=True, slots=True)
class Listener:
    """What a run tells its heartbeats and hears from them. All are called in the heartbeats' thread.

    Attributes:
        progress: Returns how far the run is.
        held: Returns the ids of all leases this worker holds.
        listen: Gets each answer.
        lose: Gets the reason once the lease is somebody else's.
        silence: Gets the part of the lease that has gone by without contact, after each vain try, and why.
    """

    progress: Callable[[], Progress | None]
    held: Callable[[], list[str]]
    listen: Callable[[Beat], object]
    lose: Callable[[str], object]
    silence: Callable[[float, str], object]


class Beats:
    """The heartbeats of one lease."""

    def __init__(self, client: Client, lease: Lease, listener: Listener) -> None:
        self._client = client
        self._lease = lease
        self._listener = listener
        self._lease_s = lease.lease_s
        self._contact_s = clock_s()
        self._over = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"beats-{lease.job_id[:12]}", daemon=True)

    def start(self) -> None:
        """Begin, unless it has begun already."""
        if not self._thread.is_alive() and not self._over.is_set():
            self._thread.start()

    def stop(self) -> None:
        """Send no further heartbeat."""
        self._over.set()
        self._wake.set()

    def hasten(self) -> None:
        """Send the next heartbeat now."""
        self._wake.set()

    def ask_after_gap(self) -> None:
        """Send a heartbeat if there was no contact for long, as after the machine has slept."""
        if clock_s() - self._contact_s > self._lease_s * GAP_PART:
            self.beat()

    def beat(self) -> bool:
        """Send one heartbeat from the calling thread and listen to the answer; False when none came."""
        message = Heartbeat(self._lease.lease_id, self._listener.progress(), self._listener.held())
        try:
            answer = self._client.heartbeat(self._lease.job_id, message, deadline_s=0)
        except (ConflictError, NotFoundError, RevokedError) as error:
            self._over.set()
            self._listener.lose(error.message)
            return False
        except FleetError as error:
            self._listener.silence((clock_s() - self._contact_s) / max(self._lease_s, 1.0), error.message)
            return False
        self._contact_s, self._lease_s = clock_s(), answer.lease_s
        self._listener.listen(answer)
        return True

    def _run(self) -> None:
        vain = 0
        while not self._over.is_set():
            vain = 0 if self.beat() else vain + 1
            self._wake.wait(self._pause_s(vain))
            self._wake.clear()
        self._client.close()

    def _pause_s(self, vain: int) -> float:
        usual = max(self._lease.heartbeat_s, LEAST_PAUSE_S)
        if vain == 0:
            return usual
        return min(usual, FIRST_RETRY_S * 2.0 ** min(vain - 1, 10)) * (0.5 + random.random() / 2)  # noqa: S311
