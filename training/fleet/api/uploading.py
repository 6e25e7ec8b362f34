"""Uploads under way: how many of one lease, and how much one lease may bring.

Owns the order of uploads. Guarantees that one upload of a lease at a time takes room and reads its body, the newest
one: a worker whose connection broke tries again while the receiver still waits for the old one. Guarantees that a lease
begins at most `MAX_DIGESTS` different artifacts, so that a worker cannot fill the store with one job. Memory stays
bounded. The queue decides if a lease may upload at all. Lives on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from training.fleet.api.arrival import Arrival
from training.fleet.model.errors import ConflictError, UnavailableError

MAX_DIGESTS: Final = 8
"""Different artifacts of one lease. A worker brings one, and one more for each time it had to pack it again."""
MAX_LEASES: Final = 4096
"""Leases whose digests are remembered. One that is forgotten may begin as many again, as any new lease may."""
REPLACED_RETRY_S: Final = 5.0
THREADS: Final = 4
"""Uploads that hash and write at once; more would only take turns on the disk."""


@dataclass(slots=True)
class _Line:
    """The uploads of one lease that are here.

    Attributes:
        lock: Held by the one whose turn it is.
        newest: The one that came last.
        here: How many there are.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    newest: Arrival | None = None
    here: int = 0


class Uploads:
    """The uploads under way.

    Attributes:
        threads: Hash and write.
    """

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="upload")
        self._lines: dict[str, _Line] = {}
        self._begun: dict[str, set[str]] = {}

    def begin(self, lease_id: str, sha256: str) -> None:
        """Note that a lease begins to bring an artifact; the same one again counts once.

        Raises:
            ConflictError: It has brought as many others as it may.
        """
        begun = self._begun.setdefault(lease_id, set())
        if sha256 not in begun and len(begun) >= MAX_DIGESTS:
            raise ConflictError(
                f"the lease has begun {MAX_DIGESTS} different artifacts",
                "complete the job with one of them, or give it back",
                expected="one, and another only when it had to be packed again",
            )
        begun.add(sha256)
        if len(self._begun) > MAX_LEASES:
            del self._begun[next(iter(self._begun))]

    def close(self) -> None:
        """Stop the threads, once what they write now is written. Safe to repeat."""
        self.threads.shutdown(cancel_futures=True)

    @contextlib.asynccontextmanager
    async def turn(self, lease_id: str, arrival: Arrival) -> AsyncIterator[None]:
        """Hold the turn of a lease; the upload before this one reads no more of its body.

        One that has its whole body already is stored first, and this one finds the artifact there.

        Raises:
            UnavailableError: A newer upload of the lease came while this one waited.
        """
        line = self._lines.setdefault(lease_id, _Line())
        if line.newest is not None:
            line.newest.give_up(
                UnavailableError(
                    "a newer upload of this lease has begun, and one lease has one at a time",
                    "send it again if it was not you",
                    retry_after_s=REPLACED_RETRY_S,
                )
            )
        line.newest = arrival
        line.here += 1
        try:
            async with line.lock:
                arrival.demand_wanted()
                yield
        finally:
            line.here -= 1
            if not line.here:
                del self._lines[lease_id]
