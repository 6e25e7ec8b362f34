"""A proxy that does to requests what networks do: `fault_proxy.py '{"upstream": 8445, "ports": 4, ...}'`.

Prints its ports, then works until its standard input ends, then prints how often it did what. Each port is one
client's way to the receiver; the fate of each request is drawn from one seed. Needs the standard library alone.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import random
import socket
import struct
import sys
from typing import Any

FATES = (
    "lose request",
    "lose response",
    "cut request",
    "cut response",
    "duplicate",
    "duplicate late",
    "reset before",
    "reset in",
    "reset after",
    "hold",
)
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """One proxy.

    Args:
        upstream: Port of the receiver.
        rate: Part of the requests that something happens to.
        hold_s: How long a port is held up: every request on it waits until then.
        holds: Part of the faults that hold a port up.
        seed: Of the fates.
    """

    def __init__(self, upstream: int, rate: float, hold_s: float, holds: float, seed: int) -> None:
        self.upstream = upstream
        self.rate = rate
        self.hold_s = hold_s
        self.weights = [(1 - holds) / (len(FATES) - 1)] * (len(FATES) - 1) + [holds]
        self.chance = random.Random(seed)
        self.counts: collections.Counter[str] = collections.Counter()
        self.free_at: dict[int, float] = {}
        self.late: set[asyncio.Task[None]] = set()

    def fate(self) -> str:
        self.counts["requests"] += 1
        if self.chance.random() >= self.rate:
            return ""
        fate = self.chance.choices(FATES, self.weights)[0]
        self.counts[fate] += 1
        return fate

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of a client."""
        port = writer.get_extra_info("sockname")[1]
        with contextlib.suppress(OSError, EOFError, asyncio.IncompleteReadError):
            while await self.one((reader, writer), port):
                pass
        writer.close()

    async def one(self, client: Pair, port: int) -> bool:
        """Pass one request on, or do to it what its fate says; tell whether the connection lives on."""
        head = await client[0].readuntil(b"\r\n\r\n")
        request = head + await client[0].readexactly(_length(head))
        fate, loop = self.fate(), asyncio.get_running_loop()
        if fate == "hold":
            self.free_at[port] = loop.time() + self.hold_s
        await asyncio.sleep(max(0.0, self.free_at.get(port, 0.0) - loop.time()))
        if fate in ("lose request", "reset before"):
            return _end(client, fate)
        if fate in ("cut request", "reset in"):
            await self.begin(request[: self.chance.randrange(1, len(request))], hard=fate == "reset in")
            return _end(client, fate)
        answer = await self.ask(request)
        if fate == "duplicate":
            answer = await self.ask(request)
        elif fate == "duplicate late":
            self.late.add(asyncio.create_task(self.again(request)))
        elif fate == "cut response":
            answer = answer[: self.chance.randrange(len(answer))]
        if fate not in ("lose response", "reset after"):
            client[1].write(answer)
            await client[1].drain()
        return _end(client, fate) if fate in ("lose response", "reset after", "cut response") else True

    async def ask(self, request: bytes) -> bytes:
        """Return the receiver's answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            return head + await reader.readexactly(_length(head))
        finally:
            writer.close()

    async def begin(self, part: bytes, *, hard: bool) -> None:
        """Send a part of a request and hang up."""
        upstream = await asyncio.open_connection("127.0.0.1", self.upstream)
        upstream[1].write(part)
        await upstream[1].drain()
        _end(upstream, "reset" if hard else "")

    async def again(self, request: bytes) -> None:
        """Send a request that was answered once more, much later."""
        await asyncio.sleep(self.chance.uniform(0.1, 1.5 * self.hold_s))
        with contextlib.suppress(OSError, EOFError, asyncio.IncompleteReadError):
            await self.ask(request)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


def _end(side: Pair, how: str) -> bool:
    """Close a connection, with a reset when that is how."""
    if how.startswith("reset"):
        sock = side[1].get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        side[1].transport.abort()
    else:
        side[1].close()
    return False


async def main(options: dict[str, Any]) -> None:
    ports = options.pop("ports")
    proxy = Proxy(**options)
    servers = [await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=2**20) for _ in range(ports)]
    sys.stdout.write(json.dumps([server.sockets[0].getsockname()[1] for server in servers]) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    sys.stdout.write(json.dumps(proxy.counts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main(json.loads(sys.argv[1])))
    sys.stdout.flush()
    import os

    os._exit(0)  # connections under way are not worth a wait
