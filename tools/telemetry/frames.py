"""What a probe at a switch port counts: the heads of Ethernet frames, summed up per second.

Pure: bytes in, counts out. Only ARP, IPv4, TCP and UDP heads are looked at, never a payload.

Source: IEEE 802.3 (Ethernet II), RFC 826 (ARP), RFC 791 (IPv4), RFC 9293 (TCP), RFC 768 (UDP).
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

HEAD_BYTES = 88
"""How much of a frame is looked at: Ethernet, the longest IPv4 head, and TCP up to its flags."""

_SMALL_BYTES = 128
_LARGE_BYTES = 1000
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10


class Head(NamedTuple):
    """The used part of a frame's head."""

    protocol: str
    """`arp`, `tcp`, `udp` or `other`."""
    source: bytes = b""
    """IPv4 source address and port, six bytes; empty without."""
    target: bytes = b""
    """IPv4 target address and port, six bytes; empty without."""
    flags: int = 0
    """TCP flags; 0 without."""


def head(frame: bytes) -> Head:
    """Read the head of one Ethernet frame; whatever is cut short or unknown is `other`.

    Args:
        frame: The first bytes of the frame, HEAD_BYTES are enough.

    Returns:
        Protocol, ends and flags.
    """
    kind = frame[12:14]
    if kind == b"\x08\x06":
        return Head("arp")
    if kind != b"\x08\x00" or len(frame) < 34:
        return Head("other")
    at = 14 + (frame[14] & 0x0F) * 4
    ends = (frame[26:30] + frame[at : at + 2], frame[30:34] + frame[at + 2 : at + 4])
    if frame[23] == 6 and len(frame) > at + 13:
        return Head("tcp", *ends, frame[at + 13])
    if frame[23] == 17 and len(frame) >= at + 4:
        return Head("udp", *ends)
    return Head("other")


class PortSecond:
    """Counts of one port during one second, seen from its host: `in` goes to the host, `out` comes from it."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._flows: set[tuple[str, bytes, bytes]] = set()
        self._peers: set[bytes] = set()
        self._syn_ports: set[bytes] = set()

    def add(self, frame: bytes, size_bytes: int, *, outgoing: bool) -> None:
        """Count one frame.

        Args:
            frame: The first HEAD_BYTES of it.
            size_bytes: Its whole length.
            outgoing: Whether the host sent it.
        """
        side = "out" if outgoing else "in"
        if size_bytes < _SMALL_BYTES:
            self._count[f"small_{side}_packets"] += 1
        elif size_bytes > _LARGE_BYTES:
            self._count[f"large_{side}_packets"] += 1
        seen = head(frame)
        if seen.protocol in ("arp", "udp"):
            self._count[f"{seen.protocol}_{side}"] += 1
        if seen.protocol == "tcp":
            self._add_flags(seen, side)
        if seen.source:
            here, there = (seen.source, seen.target) if outgoing else (seen.target, seen.source)
            self._flows.add((seen.protocol, here, there))
            self._peers.add(there[:4])

    def _add_flags(self, seen: Head, side: str) -> None:
        if seen.flags & _SYN:
            self._count[f"{'synack' if seen.flags & _ACK else 'syn'}_{side}"] += 1
            if side == "out" and not seen.flags & _ACK:
                self._syn_ports.add(seen.target[4:6])
        if seen.flags & _FIN:
            self._count[f"fin_{side}"] += 1
        if seen.flags & _RST:
            self._count[f"rst_{side}"] += 1

    def counts(self) -> dict[str, int]:
        """Give the counts of this second by column name; a column that is missing is 0."""
        return {
            **self._count,
            "flows": len(self._flows),
            "peers": len(self._peers),
            "syn_ports_out": len(self._syn_ports),
        }
