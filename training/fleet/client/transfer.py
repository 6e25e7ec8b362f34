"""Bodies on a connection: a file on its way out, an answer on its way in.

Guarantees that a file stops on its way once the receiver has answered, and that an answer which ends early is an error.
"""

from __future__ import annotations

import http.client
import select
import socket
from collections.abc import Callable
from typing import BinaryIO, Final

from training.fleet.client.answer import Answer

MAX_ANSWER_BYTES: Final = 64 * 2**20
_CHUNK_BYTES: Final = 256 * 1024

OnBody = Callable[[http.client.HTTPResponse], object]
"""Reads the body of an answer to its end."""


def readable(sock: socket.socket) -> bool:
    """Tell whether bytes or the end of the stream wait; before a request both mean it is of no use."""
    return bool(select.select([sock], [], [], 0)[0])


def poured(sock: socket.socket, stream: BinaryIO) -> bool:
    """Send a file; False when the answer came before its end.

    Over TLS bytes may wait that are no answer (session tickets), so only a broken connection ends the sending there.
    """
    watched = not hasattr(sock, "pending")
    while chunk := stream.read(_CHUNK_BYTES):
        if not watched:
            sock.sendall(chunk)
        elif not _sent(sock, memoryview(chunk)):
            return False
    return True


def _sent(sock: socket.socket, rest: memoryview) -> bool:
    while rest:
        answered, ready, _ = select.select([sock], [sock], [], sock.gettimeout())
        if answered:
            return False
        if not ready:
            raise TimeoutError
        rest = rest[sock.send(rest) :]
    return True


def received(connection: http.client.HTTPConnection, take: OnBody | None = None) -> Answer:
    """Return an answer; the body of a good one goes to `take` where there is one.

    Raises:
        HTTPException: It ends early, or is too long to be an answer.
        OSError: The connection broke.
    """
    with connection.getresponse() as response:
        headers = {name.lower(): value for name, value in response.getheaders()}
        try:
            if take is None or response.status >= 300:
                return Answer(response.status, headers, _body(response))
            take(response)
            _demand_end(response)
        except BaseException:
            connection.close()  # what is left of the body would be taken for the next answer
            raise
        return Answer(response.status, headers, b"")


def _body(response: http.client.HTTPResponse) -> bytes:
    body = response.read(MAX_ANSWER_BYTES + 1)
    if len(body) > MAX_ANSWER_BYTES:
        raise http.client.HTTPException(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    _demand_end(response)
    return body


def _demand_end(response: http.client.HTTPResponse) -> None:
    if response.length:  # a read with a limit says nothing about an end that came too early
        raise http.client.IncompleteRead(b"", response.length)
