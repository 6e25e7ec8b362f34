"""The HTTP server: uvicorn without its own signals.

Owns the listening socket, the number of connections, the orderly end and the regular look for slow connections, whose
rules are those of `connections`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
import socket
import time
from collections.abc import Callable, Generator
from typing import Any, Final, cast

import uvicorn

from training.fleet.model.errors import ConfigurationError
from training.fleet.receiver.connections import Guarded
from training.fleet.tls.serving import HANDSHAKE_S, SHUTDOWN_S, peer_of

KEEP_ALIVE_S: Final = 75
SPARE_FILES: Final = 64
BACKLOG: Final = 2048
STREAM_END_S: Final = 1.0
"""When a stream is cut off after the end was asked for; one that can end by itself has ended by then."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConfigurationError: The address cannot be taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        link = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host} port {port} ({error})", "give --listen-addr another"
        ) from error
    try:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        link.bind(address)
        link.listen(BACKLOG)
        link.setblocking(False)
    except OSError as error:
        link.close()
        raise ConfigurationError(
            f"cannot listen on {host} port {port} ({error})", "stop what uses it or give --listen-addr another"
        ) from error
    return link


def connection_limit(wanted: int) -> int:
    """Return how many connections may be open, below the limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = max(16, soft - SPARE_FILES)
    return min(wanted, room) if wanted else room


def knowing_clients(protocol: type[asyncio.Protocol]) -> type[asyncio.Protocol]:
    """Return a protocol whose requests carry, as `state["peer"]`, what the client's certificate says."""

    def connection_made(self: Any, transport: asyncio.Transport) -> None:
        protocol.connection_made(self, transport)
        if (peer := peer_of(transport)) is not None:
            self.app_state = {**self.app_state, "peer": peer}

    return type(protocol.__name__, (protocol,), {"connection_made": connection_made})


class Server(uvicorn.Server):
    """uvicorn without its own signals and with an end that can be asked for."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._end = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, with a limit on how long a client may take to agree on TLS."""
        await super().startup(sockets=[])
        config = self.config
        made: Callable[..., asyncio.Protocol] = config.http_protocol_class
        protocol = functools.partial(made, config=config, server_state=self.server_state, app_state=self.lifespan.state)
        for link in sockets or ():
            server = await asyncio.get_running_loop().create_server(
                protocol,
                sock=link,
                ssl=config.ssl,
                backlog=BACKLOG,
                ssl_handshake_timeout=None if config.ssl is None else HANDSHAKE_S,
                ssl_shutdown_timeout=None if config.ssl is None else SHUTDOWN_S,
            )
            self.servers.append(server)

    def stop(self) -> None:
        """Ask for the end: no new connections, requests under way may finish."""
        self.should_exit = True
        self._end.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests under way finish. A stream whose client takes nothing more is cut off."""
        cut = asyncio.get_running_loop().call_later(STREAM_END_S, self._cut_streams)
        await super().shutdown(sockets)
        cut.cancel()

    def _cut_streams(self) -> None:
        for connection in list(self.server_state.connections):
            guarded = cast(Guarded, connection)
            if guarded.streams():
                guarded.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to the receiver."""
        yield

    async def main_loop(self) -> None:
        """Serve until the end, looking around once a second."""
        ticks = 0
        while not await self.on_tick(ticks):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), 1.0)
            ticks = (ticks + 10) % 864000  # on_tick counts tenths of a second
            if ticks % 50 == 0:
                self.close_slow(time.monotonic())

    def close_slow(self, now: float) -> None:
        """Close connections whose client has kept the receiver waiting for long.

        Args:
            now: Monotonic seconds.
        """
        for connection in list(self.server_state.connections):
            cast(Guarded, connection).close_if_slow(now)
