"""A request as handlers see it: the framework's, with what the edge found out before they are called."""

from __future__ import annotations

import starlette.requests
from starlette.types import Receive, Scope

from training.fleet.api.arrival import ARRIVAL, Arrival
from training.fleet.auth import Caller


class Request(starlette.requests.Request):
    """One request.

    Its `stream()` and `body()` are the framework's; the guard counts and times what they read.

    Attributes:
        arrival: Its body while it arrives.
        head: Header name, lower case, to value, as it was sent.
        target: The id or the name in the path, empty for routes without one.
        file: The file in the path, empty for routes without one.
        query: The query parameters, checked against the route's table.
        caller: Who asks.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, receive)
        self.arrival: Arrival = scope[ARRIVAL]
        self.head = self.arrival.head
        self.target = ""
        self.file = ""
        self.query: dict[str, str] = {}
        self.caller = Caller("anyone")

    def wait_s(self, cap_s: float) -> float:
        """Return how long the caller is willing to wait (`Prefer: wait=N`), 0 when it is not.

        Source: RFC 7240, section 4.3.
        """
        given = self.head.get(b"prefer")
        for preference in given.split(b",") if given else ():
            name, _, value = preference.partition(b";")[0].strip().partition(b"=")
            if name.strip().lower() == b"wait" and value.strip().isdigit() and len(value) < 10:
                return min(float(value), cap_s)
        return 0.0
