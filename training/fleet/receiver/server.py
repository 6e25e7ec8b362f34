"""The HTTP server: uvicorn, told what to do from outside.

Owns the listening socket, the limits of connections, the orderly end and the answer to what is no HTTP. Guarantees that
a connection that does not finish its request head or keeps a request waiting for its body is closed after a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
import socket
import time
from collections.abc import Generator
from typing import Any, Final
from weakref import WeakKeyDictionary

import uvicorn

from training.fleet.api.exchange import problem
from training.fleet.errors import ConfigurationError, RequestError
from training.fleet.receiver.tls import HANDSHAKE_S, SHUTDOWN_S, peer_of

KEEP_ALIVE_S: Final = 75
SLOW_S: Final = 30.0
SPARE_FILES: Final = 64
BACKLOG: Final = 2048


def _unreadable() -> bytes:
    """Return the answer to bytes that are no request, as they go over the wire."""
    answer = problem(RequestError("this is no request that can be read; send HTTP/1.1 with one sane head"))
    answer.close = True
    lines = [b"HTTP/1.1 400 Bad Request", *(b": ".join(pair) for pair in answer.start()["headers"])]
    return b"\r\n".join([*lines, b"", answer.body])


UNREADABLE: Final = _unreadable()


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
            f"cannot listen on {host} port {port} ({error}); give --listen-addr another"
        ) from error
    try:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        link.bind(address)
        link.listen(BACKLOG)
        link.setblocking(False)
    except OSError as error:
        link.close()
        raise ConfigurationError(
            f"cannot listen on {host} port {port} ({error}); stop what uses it or give --listen-addr another"
        ) from error
    return link


def connection_limit(wanted: int) -> int:
    """Return how many connections may be open, below the limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = max(16, soft - SPARE_FILES)
    return min(wanted, room) if wanted else room


def refusing_in_problems(protocol: type[asyncio.Protocol]) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with a problem document where its parser gives up, instead of a line of text."""
    return type(protocol.__name__, (protocol,), {"send_400_response": _refuse})


def knowing_clients(protocol: type[asyncio.Protocol]) -> type[asyncio.Protocol]:
    """Return a protocol whose requests carry, as `state["peer"]`, what the client's certificate says."""

    def connection_made(self: Any, transport: asyncio.Transport) -> None:
        protocol.connection_made(self, transport)
        if (peer := peer_of(transport)) is not None:
            self.app_state = {**self.app_state, "peer": peer}

    return type(protocol.__name__, (protocol,), {"connection_made": connection_made})


def _refuse(connection: Any, _message: str) -> None:
    cycle = connection.cycle
    if cycle is None or cycle.response_complete or not cycle.response_started:
        connection.transport.write(UNREADABLE)
    connection.transport.close()


class Server(uvicorn.Server):
    """uvicorn without its own signals and with an end that can be asked for."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._end = asyncio.Event()
        self._slow: WeakKeyDictionary[Any, tuple[object, float]] = WeakKeyDictionary()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, with a limit on how long a client may take to agree on TLS."""
        await super().startup(sockets=[])
        config = self.config
        protocol = functools.partial(
            config.http_protocol_class,
            config=config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        limits = (
            {} if config.ssl is None else {"ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": SHUTDOWN_S}
        )
        for link in sockets or ():
            server = await asyncio.get_running_loop().create_server(
                protocol, sock=link, ssl=config.ssl, backlog=BACKLOG, **limits
            )
            self.servers.append(server)

    def stop(self) -> None:
        """Ask for the end: no new connections, requests under way may finish."""
        self.should_exit = True
        self._end.set()

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
        """Close connections that have sent part of a request and then nothing for long.

        Args:
            now: Monotonic seconds.
        """
        for connection in list(self.server_state.connections):
            stage = _waiting_for(connection)
            before = self._slow.get(connection)
            if stage is None:
                self._slow.pop(connection, None)
            elif before is None or before[0] is not stage:
                self._slow[connection] = (stage, now)
            elif now - before[1] > SLOW_S:
                connection.transport.abort()


def _waiting_for(connection: Any) -> object | None:
    """Return what a connection keeps the receiver waiting for, None when it does not.

    Uploads are left out: each piece of theirs has its own limit.
    """
    cycle = connection.cycle
    if cycle is None or cycle.response_complete:
        return connection if connection.timeout_keep_alive_task is None else None
    return cycle if cycle.more_body and not connection.scope["path"].startswith("/v1/model/") else None
