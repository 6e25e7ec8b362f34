"""Which page sent a request, so that a page of another site changes nothing through somebody's browser.

Owns the rule for `Sec-Fetch-Site` and `Origin` on requests that change something. Guarantees that what a browser sends
for a page of another site is refused, browsers from before `Sec-Fetch-Site` included. Programs send neither header and
pass. `Referer` is not looked at: a hostile page can have the browser leave it out, and a rule against its absence would
refuse every program as well.
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Final

from training.fleet.api.arrival import Arrival
from training.fleet.model.errors import ForbiddenError

OWN_SITES: Final = (b"none", b"same-origin")
_PORTS: Final = {b"http": b"80", b"https": b"443"}
_PLACE: Final = rb"(\[[0-9a-f:.]+\]|[^\[\]:/@,\s]+)(?::([0-9]{1,5}))?"
_HOST: Final = re.compile(_PLACE)
_ORIGIN: Final = re.compile(rb"(https?)://" + _PLACE)


def demand_own_page(arrival: Arrival, names: Set[str]) -> None:
    """Refuse what a page of another site sent.

    Args:
        arrival: A request that would change something.
        names: The receiver's configured names.

    Raises:
        ForbiddenError: A browser says that the page is of another site, or hides which (`Origin: null`).
    """
    head = arrival.head
    origin = head.get(b"origin")
    own = head.get(b"sec-fetch-site", b"none") in OWN_SITES
    if own and (origin is None or _is_own(origin, head[b"host"], arrival.scope.get("scheme") == "https", names)):
        return
    raise ForbiddenError(
        "a page of another site sent this request",
        "use the command line or the same origin; behind a proxy, have it pass the Host header on, or name the "
        "receiver in --host-names",
    )


def _is_own(origin: bytes, host: bytes, secure: bool, names: Set[str]) -> bool:
    """Return True if an origin is this receiver: the name and port of the `Host` header, or a configured name."""
    found, own = _ORIGIN.fullmatch(origin.lower()), _HOST.fullmatch(host.strip().lower())
    # Behind a proxy the receiver itself speaks http while the browser's page is https, so only http is judged.
    if found is None or own is None or (secure and found[1] == b"http"):
        return False
    usual = _PORTS[found[1]]
    if (found[2], found[3] or usual) == (own[1], own[2] or usual):
        return True
    # A proxy that puts its own Host header: the browser's page has the configured name and, without a port, the usual
    # one. Another port of that name is another program's page.
    return (found[3] or usual) == usual and found[2].decode("latin-1").strip("[]") in names
