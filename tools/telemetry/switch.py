"""The program that is the lab's switch: it makes the bridge and counts the frames of each port, second by second.

Standard input is its life-line, as with `host`. Standard output carries one JSON object per second and port:
`{"tick", "host", <column>: count}`; tick k covers the second that ends k seconds after the start.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time

from tools.telemetry.frames import HEAD_BYTES, PortSecond

BRIDGE = "lab"
PORT_PREFIX = "p-"
_ALL_PROTOCOLS = 0x0003  # ETH_P_ALL
_FORCE_RECEIVE_BUFFER = 33  # SO_RCVBUFFORCE, asm-generic/socket.h
_BUFFER_BYTES = 16 << 20
_PACKET_OUTGOING = 4  # linux/if_packet.h


def main() -> int:
    """Make the bridge, wait for the start, count until standard input closes.

    Returns:
        Exit status, 0 always.
    """
    for words in (["add", BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0"], ["set", BRIDGE, "up"]):
        subprocess.run(["ip", "link", *words], check=True)  # noqa: S603, S607 - the system's own tool
    _say({"ready": "switch"})
    line = sys.stdin.readline()
    if line:
        _count(float(json.loads(line)["at"]))
    return 0


def _count(origin: float) -> None:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    port.setsockopt(socket.SOL_SOCKET, _FORCE_RECEIVE_BUFFER, _BUFFER_BYTES)
    port.setblocking(False)
    tick = 0  # the second before the start, which nobody asks for
    seen: dict[str, PortSecond] = {}
    while True:
        left = origin + tick - time.monotonic()
        if left <= 0:
            _tell(tick, seen)
            tick, seen = tick + 1, {}
            continue
        readable = select.select([port, sys.stdin], [], [], left)[0]
        if sys.stdin in readable:
            return
        if readable:
            _drain(port, seen, origin + tick)


def _drain(port: socket.socket, seen: dict[str, PortSecond], end: float) -> None:
    """Count what has come in, up to a few hundred frames, but not past the end of the second."""
    buffer = bytearray(HEAD_BYTES)
    for number in range(256):
        if number % 32 == 31 and time.monotonic() >= end:
            return
        try:
            size, sender = port.recvfrom_into(buffer, HEAD_BYTES, socket.MSG_TRUNC)
        except BlockingIOError:
            return
        name, kind = sender[0], sender[2]
        if name.startswith(PORT_PREFIX):
            host = name[len(PORT_PREFIX) :]
            frame = bytes(buffer[: min(size, HEAD_BYTES)])
            # What leaves the port goes to the host.
            seen.setdefault(host, PortSecond()).add(frame, size, outgoing=kind != _PACKET_OUTGOING)


def _tell(tick: int, seen: dict[str, PortSecond]) -> None:
    for host, second in seen.items():
        _say({"tick": tick, "host": host, **second.counts()})


def _say(message: dict[str, int | str]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
