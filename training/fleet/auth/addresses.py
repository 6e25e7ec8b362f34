"""Where a receiver can be reached from."""

from __future__ import annotations

import functools
import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether an address or name can only be reached from this host."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def host_name(header: bytes) -> str:
    """Return the host part of a `Host` header, lower case, without port and brackets."""
    text = header.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.rpartition(":")[0] if text.count(":") == 1 else text


@functools.lru_cache(maxsize=4096)
def neighbourhood(address: str) -> str:
    """Return the key under which tries are counted: the IPv4 address, or the /64 network of an IPv6 address.

    One host may use every address of its /64 network.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if found.version == 6 and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(getattr(found, "ipv4_mapped", None) or found)
