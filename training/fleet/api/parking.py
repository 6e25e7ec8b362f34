"""Claims that wait for a job.

Owns the callers that are parked and decides whom a new job wakes. Guarantees that only as many callers are woken as
there are jobs they may take, first come first woken, and that a job offered to a caller who did not take it is offered
to the next one. Guarantees that one worker waits in one call, its newest, and that one address does not take all the
connections there are with calls that wait. Leaves the decision who gets a job to the queue: a wake-up is a hint to ask
again. Lives on the event loop; nothing here may be called from another thread.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Mapping


class OpenJob:
    """One claimable job that somebody parked may take.

    Attributes:
        requirement: Number of its requirement.
        tried: Places it was offered to already.
    """

    __slots__ = ("requirement", "tried")

    def __init__(self, requirement: int) -> None:
        self.requirement = requirement
        self.tried: set[ParkedCall] = set()


class ParkedCall:
    """One parked caller.

    Attributes:
        worker: Its name.
        spot: Where that worker runs, empty when it does not say.
        address: Where its call came from.
        offer: The job it was woken for and has not answered yet.
        over: It must wait no longer, because a newer call has taken its place.
        bell: Rings when there is something to look at: an offer, a hang-up, the end of the wait, a drain.
    """

    __slots__ = ("address", "bell", "offer", "over", "spot", "worker")

    def __init__(self, worker: str, spot: str = "", address: str = "") -> None:
        self.worker = worker
        self.spot = spot
        self.address = address
        self.offer: OpenJob | None = None
        self.over = False
        self.bell = asyncio.Event()


class Lot:
    """Everybody who is parked.

    Args:
        eligible: Says if the queue would give a worker a job with a requirement now.

    Attributes:
        most: Calls of one address that wait at most.
    """

    def __init__(self, eligible: Callable[[int, str], bool]) -> None:
        self._eligible = eligible
        self.most = sys.maxsize
        self._places: dict[ParkedCall, None] = {}
        self._newest: dict[tuple[str, str], ParkedCall] = {}
        self._by_address: dict[str, dict[ParkedCall, None]] = {}
        self._open: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    def enter(self, worker: str, spot: str = "", address: str = "") -> ParkedCall:
        """Take a caller in. It must be here before its claim is put to the queue, so that no job slips between.

        An older call of the same worker is over: a worker asks one question at a time, so that call hangs on a
        connection that broke, or somebody collects places. Of an address with as many calls as it may have, the oldest
        is over.
        """
        if (older := self._newest.get((worker, spot))) is not None:
            self._end(older)
        crowd = self._by_address.get(address, {})
        if len(crowd) >= self.most:
            self._end(next(iter(crowd)))
        place = ParkedCall(worker, spot, address)
        self._places[place] = None
        self._newest[worker, spot] = place
        self._by_address.setdefault(address, {})[place] = None
        return place

    def _end(self, place: ParkedCall) -> None:
        """Have a caller answered at once; it leaves by itself and passes its offer on."""
        self._forget(place)
        place.over = True
        place.bell.set()

    def _forget(self, place: ParkedCall) -> None:
        if place not in self._places:
            return
        del self._places[place]
        del self._newest[place.worker, place.spot]
        crowd = self._by_address[place.address]
        del crowd[place]
        if not crowd:
            del self._by_address[place.address]

    def leave(self, place: ParkedCall) -> None:
        """Remove a caller; an offer that it has not looked at goes to the next one."""
        self._forget(place)
        if place.offer is not None:
            self.answered(place, self._open[place.offer.requirement])

    def answered(self, place: ParkedCall, left: int) -> None:
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
            self._hand_out([OpenJob(requirement) for _ in range(min(count, len(self._places)))])

    def ring_all(self) -> None:
        """Wake every caller, because the receiver drains."""
        for place in self._places:
            place.bell.set()

    def ring(self, worker: str) -> None:
        """Wake the callers of one worker, because its identity may have ended."""
        for place in self._places:
            if place.worker == worker:
                place.bell.set()

    def _hand_out(self, offers: list[OpenJob]) -> None:
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
