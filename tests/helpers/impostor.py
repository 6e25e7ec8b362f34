"""Somebody who answers https in place of a receiver and shows any authority: a man in the middle of an enrolment."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tls_site import Site


class Impostor:
    """A server with a certificate of some authority.

    Args:
        site: Where its own certificate comes from.
        shown: What it answers to `GET /v1/ca`.
        enrols: Whether it plays the receiver to the end, so that a host that trusts it is enrolled with it.

    Attributes:
        url: Its address.
        asked: What it was asked for.
        codes: The one-time codes that came to it.
    """

    def __init__(self, site: Site, shown: bytes, *, enrols: bool = False) -> None:
        self.shown, self.enrols = shown, enrols
        self.asked: list[str] = []
        self.codes: list[str] = []
        self._server = _Server(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*site.server("impostor"))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        impostor = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                return

            def do_GET(self) -> None:
                impostor.asked.append(f"GET {self.path}")
                self._answer(impostor.shown)

            def do_POST(self) -> None:
                impostor.asked.append(f"POST {self.path}")
                said = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
                impostor.codes += [said["code"]] if "code" in said else []
                answer = {"id": "0123456789", "worker": said.get("worker")} if impostor.enrols else {}
                self._answer(json.dumps(answer).encode())

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        return
