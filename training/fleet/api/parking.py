"""Claims that wait for a job.

Owns the callers that are parked and decides whom a new job wakes. Guarantees that only as many callers are woken as
there are jobs they may take, first come first woken, and that a job offered to a caller who did not take it is offered
to the next one. Leaves the decision who gets a job to the queue: a wake-up is a hint to ask again. Lives on the event
loop; nothing here may be called from another thread.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping


class Offer:
    """One claimable job that somebody parked may take.

    Attributes:
        requirement: Number of its requirement.
        tried: Places it was offered to already.
    """

    __slots__ = ("requirement", "tried")

    def __init__(self, requirement: int) -> None:
        self.requirement = requirement
        self.tried: set[Place] = set()


class Place:
    """One parked caller.

    Attributes:
        worker: Its name.
        offer: The job it was woken for and has not answered yet.
        bell: Rings when there is something to look at: an offer, a hang-up, the end of the wait, a drain.
    """

    __slots__ = ("bell", "offer", "worker")

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.offer: Offer | None = None
        self.bell = asyncio.Event()


class Lot:
    """Everybody who is parked.

    Args:
        eligible: Whether a worker would be given a job with a requirement now, as the queue judges.
    """

    def __init__(self, eligible: Callable[[int, str], bool]) -> None:
        self._eligible = eligible
        self._places: dict[Place, None] = {}
        self._open: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    def enter(self, worker: str) -> Place:
        """Take a caller in. It must be here before its claim is put to the queue, so that no job slips between."""
        place = Place(worker)
        self._places[place] = None
        return place

    def leave(self, place: Place) -> None:
        """Let a caller go; what it was offered and never looked at goes to the next one."""
        self._places.pop(place, None)
        if place.offer is not None:
            self.answered(place, self._open[place.offer.requirement])

    def answered(self, place: Place, left: int) -> None:
        """Note that a caller has asked the queue because of its offer, with or without getting a job.

        Args:
            place: The caller.
            left: How many jobs of the offered kind still wait. When they are more than the callers that are awake
                because of them, one more is woken.
        """
        offer, place.offer = place.offer, None
        if offer is None:
            return
        self._open[offer.requirement] -= 1
        if left > self._open[offer.requirement]:
            self._hand_out([offer])

    def publish(self, ready: Mapping[int, int]) -> None:
        """Wake callers for newly claimable jobs.

        Args:
            ready: Number of jobs by requirement.
        """
        for requirement, count in ready.items():
            self._hand_out([Offer(requirement) for _ in range(min(count, len(self._places)))])

    def ring_all(self) -> None:
        """Have every caller look up, because the receiver drains."""
        for place in self._places:
            place.bell.set()

    def ring(self, worker: str) -> None:
        """Have the callers of one worker look up, because it may no longer be one."""
        for place in self._places:
            if place.worker == worker:
                place.bell.set()

    def _hand_out(self, offers: list[Offer]) -> None:
        for place in self._places:
            if not offers:
                return
            offer = offers[-1]
            if place.offer is None and place not in offer.tried and self._eligible(offer.requirement, place.worker):
                offers.pop()
                offer.tried.add(place)
                place.offer = offer
                place.bell.set()
                self._open[offer.requirement] += 1
