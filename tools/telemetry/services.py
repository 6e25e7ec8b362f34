"""The services every host runs: an HTTP file, query and upload server, and a UDP name responder.

They listen inside their namespace only and keep nothing of what is sent to them.
"""

from __future__ import annotations

import random
import socket
import sqlite3
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from tools.telemetry.activities import NAME_PORT, SERVICE_PORT, text

_CHUNK_BYTES: Final = 32 * 1024
_CONTENT: Final = text(random.Random(1), 1 << 20)  # noqa: S311 - filler, not a secret


def serve_http(address: str) -> None:
    """Serve files, queries and uploads until the process is ended.

    Args:
        address: Where to listen; empty for every address of the namespace.
    """
    _Server((address, SERVICE_PORT), _Service).serve_forever()


def answer_names(address: str) -> None:
    """Answer UDP datagrams with about twice their size until the process is ended.

    Args:
        address: The host's own address in the lab.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.bind((address, NAME_PORT))
        while True:
            data, sender = port.recvfrom(512)
            port.sendto((data * 3)[: len(data) * 2], sender)


class _Server(ThreadingHTTPServer):
    """A thread per connection; a connection that breaks is no fault here."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep silent."""


class _Service(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        """Send a file of the asked size, or the answer of a query over that many rows."""
        _, kind, number = self.path.split("/", 2)
        size = min(int(number), len(_CONTENT))
        self._answer(_query(size) if kind == "query" else _CONTENT[:size])

    def do_PUT(self) -> None:
        """Read an upload to its end and drop it."""
        while size := int(self.rfile.readline() or b"0", 16):
            left = size + 2
            while left > 0 and (data := self.rfile.read(min(left, _CHUNK_BYTES))):
                left -= len(data)
        self.rfile.readline()
        self._answer(b"kept nothing\n")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the parent's
        """Keep no log."""


def _query(rows: int) -> bytes:
    with sqlite3.connect(":memory:") as base:
        base.execute("CREATE TABLE t(a INTEGER, b REAL)")
        base.executemany("INSERT INTO t VALUES(?, ?)", ((n % 17, n * 0.5) for n in range(rows)))
        found = base.execute("SELECT a, sum(b), count(*) FROM t GROUP BY a ORDER BY a").fetchall()
    return repr(found).encode()
