"""The parts that handlers work on.

Owns the references to the queue, the store and the rest of one receiver, whether it drains, and the end of what the
edge itself started. A fleet is whole from the moment it is made; nothing is filled in later. Leaves all rules to its
parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from training.fleet import __version__
from training.fleet.api.answers import Streams
from training.fleet.api.limiter import Limiter
from training.fleet.api.metrics import Meters
from training.fleet.api.news import News
from training.fleet.api.refusals import Refusals
from training.fleet.api.uploading import Uploads
from training.fleet.model.errors import UnavailableError
from training.fleet.queue.clock import wall_label
from training.fleet.wire.identities import Material

if TYPE_CHECKING:
    import asyncio

    from training.fleet.api.access import Access
    from training.fleet.api.bridge import Bridge
    from training.fleet.api.disks import Disks
    from training.fleet.api.keeping import Keeper
    from training.fleet.api.loading import Loader
    from training.fleet.api.parking import Lot
    from training.fleet.auth import Logins, Sessions
    from training.fleet.queue import Queue
    from training.fleet.store import Intake, PartIntake, Store

T = TypeVar("T")
DRAIN_RETRY_S = 5.0
"""When a caller that a stopping receiver refuses should ask again: a restart takes about that long."""


@dataclass(slots=True)
class EdgeAuthority:
    """The receiver's certificate authority, as far as it has one.

    Attributes:
        issue: Makes what a worker needs for mutual TLS, for its name and enrolment; None where the key is elsewhere.
        pem: Its certificate, for hosts that enrol; empty without one.
        sha256: SHA-256 of that certificate (DER), hex; None without one.
    """

    issue: Callable[[str, str], Material] | None = None
    pem: str = ""
    sha256: str | None = None


@dataclass(slots=True)
class Fleet:
    """The parts behind the HTTP edge.

    Attributes:
        queue: The queue; methods that take a transaction run on the writer thread.
        store: The artifacts.
        intake: Takes artifacts in: file, row, line of the index.
        part_intake: Takes the parts of artifacts in: file, row.
        loader: Reads and applies the manifest.
        bridge: The way to the writer thread.
        lot: Parked claims.
        keeper: Backups and checks.
        access: Who may do what.
        sessions: Which machine uses which identity.
        disks: Where the receiver's files lie.
        description: Makes the OpenAPI document.
        authority: The receiver's certificate authority.
        meters: What is counted and timed for `/metrics`.
        logins: One-time codes of operators, and the operators that came from them.
        uploads: Uploads under way.
        streams: Answers that are still being sent piece by piece.
        limiter: Counts wrong one-time codes.
        news: Decides which events that callers can cause again and again are written.
        refusals: Uploads that found no room.
        idle_retry_s: How long a worker that finds no job is asked to wait.
        version: Of the receiver.
        started_at: On the monotonic clock.
        draining: The receiver shuts down: nothing new begins.
    """

    queue: Queue
    store: Store
    intake: Intake
    part_intake: PartIntake
    loader: Loader
    bridge: Bridge
    lot: Lot
    keeper: Keeper
    access: Access
    sessions: Sessions
    disks: Disks
    description: Callable[[], dict[str, Any]]
    authority: EdgeAuthority
    meters: Meters
    logins: Logins
    uploads: Uploads = field(default_factory=Uploads)
    streams: Streams = field(default_factory=Streams)
    limiter: Limiter = field(default_factory=lambda: Limiter(time.monotonic))
    news: News = field(default_factory=lambda: News(time.monotonic))
    refusals: Refusals = field(default_factory=lambda: Refusals(wall_label))
    idle_retry_s: float = 10.0
    version: str = __version__
    started_at: float = field(default_factory=time.monotonic)
    draining: bool = False

    def run(self, change: Callable[[Any], T]) -> asyncio.Future[T]:
        """Return a future of a change made on the writer thread; see `Bridge.run`."""
        return self.bridge.run(change)

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
        """Begin to shut down: release parked callers, end streams, refuse new claims and uploads."""
        self.draining = True
        self.lot.ring_all()
        self.streams.end()

    def close(self) -> None:
        """Stop the threads of the edge. Safe to repeat."""
        self.keeper.close()
        self.uploads.close()
