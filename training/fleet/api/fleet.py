"""What the handlers work on.

Owns the references to the queue, the store and the manifest loader, and whether the receiver drains. Leaves all rules
to them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from training.fleet import __version__
from training.fleet.api.bridge import Bridge
from training.fleet.api.disks import Disks
from training.fleet.api.limiter import Limiter
from training.fleet.api.news import News
from training.fleet.api.parking import Lot
from training.fleet.api.uploading import Uploads
from training.fleet.auth import Credentials, Sessions
from training.fleet.errors import UnavailableError
from training.fleet.wire import Material

if TYPE_CHECKING:
    from training.fleet.api.keeping import Keeper
    from training.fleet.api.loading import Loader
    from training.fleet.queue import Queue
    from training.fleet.store import Store

T = TypeVar("T")
DRAIN_RETRY_S = 5.0


@dataclass(slots=True)
class Fleet:
    """The parts behind the HTTP edge.

    Attributes:
        queue: The queue; its methods run on the writer thread.
        store: The artifacts.
        loader: Reads and applies the manifest.
        bridge: The way to the writer thread.
        lot: Parked claims.
        keeper: Backups and checks.
        idle_retry_s: What a worker that finds no job is told to wait.
        draining: The receiver shuts down: nothing new begins.
        version: Of the receiver.
        started_at: On the monotonic clock.
        description: Makes the OpenAPI document.
        uploads: Threads that hash and write uploads.
        turns: Uploads under way.
        credentials: Who may do what; another value after the operators file was read again.
        sessions: Which machine uses which identity.
        limiter: Counts wrong one-time codes.
        news: Says which events are written that a caller can bring about again and again.
        issuer: Makes what a worker needs for mutual TLS, for its name and enrolment; None where there is none.
        ca_pem: The receiver's certificate authority in PEM, for hosts that enrol; empty without one.
        ca_sha256: SHA-256 of that certificate (DER), hex; None without one.
        reread: Returns the credentials anew, at a reload; None where they are fixed.
        problems: What is wrong with what was read again, for people.
        disks: Where the receiver's files lie.
        indexing: Held while a line of the index is written; who waits for it gets it in turn.
        proving: Held while a file of the store that no row vouches for is read.
    """

    queue: Queue
    store: Store
    loader: Loader
    bridge: Bridge
    lot: Lot
    keeper: Keeper
    description: Callable[[], dict[str, Any]]
    idle_retry_s: float = 10.0
    draining: bool = False
    version: str = __version__
    started_at: float = field(default_factory=time.monotonic)
    uploads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, thread_name_prefix="upload"))
    turns: Uploads = field(default_factory=Uploads)
    credentials: Credentials = field(default_factory=Credentials)
    sessions: Sessions = field(default_factory=lambda: Sessions(time.monotonic))
    limiter: Limiter = field(default_factory=lambda: Limiter(time.monotonic))
    news: News = field(default_factory=lambda: News(time.monotonic))
    issuer: Callable[[str, str], Material] | None = None
    ca_pem: str = ""
    ca_sha256: str | None = None
    reread: Callable[[], Credentials] | None = None
    problems: list[str] = field(default_factory=list)
    disks: Disks = field(default_factory=Disks)
    indexing: asyncio.Lock = field(default_factory=asyncio.Lock)
    proving: asyncio.Lock = field(default_factory=asyncio.Lock)

    def run(self, change: Callable[[Any], T], *, repeatable: bool = False) -> asyncio.Future[T]:
        """Return a future of a change made on the writer thread; see `Bridge.run`."""
        return self.bridge.run(change, repeatable=repeatable)

    def demand_open(self) -> None:
        """Refuse new work while the receiver drains.

        Raises:
            UnavailableError: It does.
        """
        if self.draining:
            raise UnavailableError(
                "the receiver is shutting down", "ask again in a few seconds", retry_after_s=DRAIN_RETRY_S
            )

    def drain(self) -> None:
        """Begin to shut down: release parked callers, refuse new claims and uploads."""
        self.draining = True
        self.lot.ring_all()
