"""What the queue remembers beside its database, part by part.

Each part owns its own values and follows committed changes. A second process on the same database would not see them:
that is why one receiver decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from training.fleet.model.jobs import Terms
from training.fleet.queue.clock import FleetClock
from training.fleet.queue.hosts import Hosts
from training.fleet.queue.leases import Leases
from training.fleet.queue.tally import Tally
from training.fleet.queue.waits import Waits


@dataclass(frozen=True, slots=True)
class Memory:
    """The parts.

    Attributes:
        terms: The time limits of leases.
        clock: The clocks.
        tally: Counts, change counter and the bell for claimable jobs.
        hosts: Workers, policies and requirements.
        leases: The live leases.
        waits: Jobs and hosts that wait for time to pass.
    """

    terms: Terms
    clock: FleetClock
    tally: Tally
    hosts: Hosts
    leases: Leases
    waits: Waits

    @classmethod
    def fresh(
        cls, now: Callable[[], float], terms: Terms, label: Callable[[], str], jitter: Callable[[], float]
    ) -> Memory:
        """Return the memory of a receiver that has just started.

        Args:
            now: Monotonic seconds.
            terms: The time limits of leases.
            label: A label of the wall time for people.
            jitter: A number from 0 to 1 for each back-off.
        """
        return cls(
            terms,
            FleetClock(now, label),
            Tally(),
            Hosts(now, terms),
            Leases(now, terms),
            Waits(now, terms, jitter),
        )

    def granted_at(self, lease_id: str) -> float:
        """Return when a live lease was granted, monotonic seconds; now for one that was granted in this batch."""
        live = self.leases.get(lease_id)
        return self.clock.now() if live is None else live.granted_at
