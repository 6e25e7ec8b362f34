"""Requests that two servers could read differently, and floods, as bytes to both parsers.

Each shape has the statuses it is answered with, and what becomes of the connection: "next" when the request sent after
it is answered for itself, "end" when the connection is closed, "waits" when the shape is only a part of a request.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator

import pytest
from live_receiver import LiveReceiver, manifest

ID = "a" * 64
HOST = b"Host: 127.0.0.1\r\n"
BEAT = b'{"lease_id":"never-given-01"}'
NEXT = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.fixture(scope="module", params=["h11", "httptools"])
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.fleet.api.guard.LINGER_S", 0.1)
        with LiveReceiver(tmp_path_factory.mktemp("raw"), manifest(1), http_parser=request.param) as live:
            yield live


def get(target: bytes = b"/healthz", *lines: bytes, version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> bytes:
    return b"\r\n".join([method + b" " + target + b" " + version, b"Host: 127.0.0.1", *lines, b"", b""])


def post(*lines: bytes, body: bytes = BEAT, length: bool = True, verb: str = "heartbeat") -> bytes:
    target = f"/v1/job/{ID}/{verb}".encode()
    own = [b"Content-Length: %d" % len(body)] if length else []
    return get(target, *lines, *own, method=b"POST") + body


def chunked(body: bytes, *lines: bytes, coding: bytes = b"Transfer-Encoding: chunked") -> bytes:
    return post(coding, *lines, body=body, length=False)


WHOLE = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BEAT), BEAT)
HELLO = b"5\r\nhello\r\n0\r\n\r\n"
LEGAL, REFUSED, NOWHERE = "404 next", "400 end", "404 next"

SHAPES: dict[str, tuple[bytes, str] | tuple[bytes, str, str]] = {
    # how long the body is
    "length and chunks": (chunked(WHOLE, b"Content-Length: 5"), REFUSED),
    "chunks and length": (post(b"Transfer-Encoding: chunked", body=WHOLE), REFUSED),
    "coding identity": (post(b"Transfer-Encoding: identity"), REFUSED),
    "coding gzip, chunked": (chunked(WHOLE, coding=b"Transfer-Encoding: gzip, chunked"), REFUSED),
    "coding chunked, identity": (chunked(WHOLE, coding=b"Transfer-Encoding: chunked, identity"), REFUSED),
    "coding xchunked": (chunked(WHOLE, coding=b"Transfer-Encoding: xchunked"), REFUSED),
    "coding twice": (chunked(WHOLE, b"Transfer-Encoding: chunked"), REFUSED),
    "coding after a vertical tab": (chunked(WHOLE, coding=b"Transfer-Encoding: \x0bchunked"), REFUSED),
    "coding before a space and the colon": (chunked(WHOLE, coding=b"Transfer-Encoding : chunked"), REFUSED),
    "coding in capitals": (chunked(WHOLE, coding=b"TRANSFER-ENCODING: CHUNKED"), LEGAL),
    "the same length twice": (post(b"Content-Length: %d" % len(BEAT)), LEGAL, REFUSED),
    "another length twice": (post(b"Content-Length: 5"), REFUSED),
    "lengths in a list": (post(b"Content-Length: 29, 5", length=False), REFUSED),
    "length in hex": (post(b"Content-Length: 0x1d", length=False), REFUSED),
    "length with a space": (post(b"Content-Length: 2 9", length=False), REFUSED),
    "length in other digits": (post("Content-Length: ²9".encode(), length=False), REFUSED),
    "empty length": (post(b"Content-Length: ", length=False), REFUSED),
    "length of 19 digits": (post(b"Content-Length: 9000000000000000000", length=False), REFUSED),
    "length beyond 64 bits": (post(b"Content-Length: 18446744073709551645", length=False), REFUSED),
    "length with an underscore for the hyphen": (post(b"Content_Length: 5"), LEGAL),
    # chunks
    "chunk with an extension": (chunked(WHOLE.replace(b"\r\n", b";a=b\r\n", 1)), LEGAL),
    "chunk with a line feed in its extension": (chunked(WHOLE.replace(b"\r\n", b";a\n", 1)), REFUSED),
    "chunk of a negative size": (chunked(b"-5\r\nhello\r\n0\r\n\r\n"), REFUSED),
    "chunk size with 0x": (chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), REFUSED),
    "chunk size beyond 64 bits": (chunked(b"1000000000000000d\r\n" + BEAT), "waits", REFUSED),
    "chunk that is longer than it says": (chunked(b"5\r\nhelloXX0\r\n\r\n"), REFUSED),
    "chunk ended by bare line feeds": (chunked(HELLO.replace(b"\r\n", b"\n")), "waits", REFUSED),
    "chunk that never comes": (chunked(b"fffffffffffffff\r\n"), "waits"),
    "trailers": (chunked(WHOLE[:-2] + b"X-Sum: 1\r\n\r\n"), LEGAL),
    "trailer with a length": (chunked(WHOLE[:-2] + b"Content-Length: 5\r\n\r\n"), LEGAL, REFUSED),
    # lines
    "folded header": (get(b"/healthz", b"X-A: 1", b" 2"), "200 next", REFUSED),
    "folded first header": (b"GET /healthz HTTP/1.1\r\n Host: 127.0.0.1\r\n\r\n", REFUSED),
    "bare line feeds": (get().replace(b"\r\n", b"\n"), "200 next", REFUSED),
    "bare carriage returns": (get().replace(b"\r\n", b"\r"), "waits", REFUSED),
    "carriage return in a value": (get(b"/healthz", b"X-A: a\rb"), REFUSED),
    "NUL in a value": (get(b"/healthz", b"X-A: a\0b"), REFUSED),
    "NUL in a name": (get(b"/healthz", b"X\0A: b"), REFUSED),
    "NUL in the target": (get(b"/healthz\0"), REFUSED),
    "space in a name": (get(b"/healthz", b"X A: b"), REFUSED),
    "no name": (get(b"/healthz", b": b"), REFUSED),
    "no colon": (get(b"/healthz", b"nonsense"), REFUSED),
    "name in latin-1": (get(b"/healthz", b"X\xe4: b"), REFUSED),
    "value in latin-1": (get(b"/healthz", b"X-A: \xe4"), "200 next"),
    "space before the method": (b" " + get(), REFUSED),
    "tab for a space": (get().replace(b"GET ", b"GET\t"), REFUSED),
    "method in lower case": (get(method=b"get"), "405 next", REFUSED),
    "method of 10,000 letters": (get(method=b"G" * 10_000), "405 next", REFUSED),
    # targets
    "another host in the target": (get(b"http://evil.example/healthz"), NOWHERE, REFUSED),
    "this host in the target": (get(b"http://127.0.0.1/healthz"), NOWHERE, REFUSED),
    "host and nothing else": (get(b"http://127.0.0.1"), NOWHERE, REFUSED),
    "authority": (get(b"127.0.0.1:80"), NOWHERE, REFUSED),
    "tunnel": (get(b"127.0.0.1:80", method=b"CONNECT"), NOWHERE, REFUSED),
    "asterisk": (get(b"*", method=b"OPTIONS"), NOWHERE),
    "no slash": (get(b"healthz"), NOWHERE, REFUSED),
    "two slashes": (get(b"//healthz"), NOWHERE),
    "fragment": (get(b"/healthz#x"), NOWHERE, REFUSED),
    "backslash": (get(b"\\healthz"), NOWHERE, REFUSED),
    "encoded slash": (get(b"/v1%2Fjobs"), NOWHERE),
    "encoded letter": (get(b"/v1/job%73"), NOWHERE),
    "dots": (get(b"/v1/../healthz"), NOWHERE),
    "encoded dots": (get(b"/v1/%2e%2e/healthz"), NOWHERE),
    "upper case": (get(b"/V1/Jobs"), NOWHERE),
    "semicolon": (get(b"/v1/jobs;x"), NOWHERE),
    "half an escape": (get(b"/healthz%"), NOWHERE),
    "no escape": (get(b"/healthz%zz"), NOWHERE),
    "escape that is no UTF-8": (get(b"/%ff"), NOWHERE),
    "UTF-8 as it is": (get("/hälthz".encode()), REFUSED),
    "space in the target": (get(b"/v1/jobs /x"), REFUSED),
    "20,000 bytes of target": (get(b"/" + b"a" * 20_000), NOWHERE),
    # versions and upgrades
    "HTTP/0.9": (b"GET /healthz\r\n", "waits"),
    "HTTP/1.0": (get(version=b"HTTP/1.0"), "200 end"),
    "HTTP/1.0 without host": (b"GET /healthz HTTP/1.0\r\n\r\n", REFUSED),
    "HTTP/1.0 with chunks": (chunked(WHOLE).replace(b"HTTP/1.1", b"HTTP/1.0"), "404 end"),
    "HTTP/1.2": (get(version=b"HTTP/1.2"), "400 next", REFUSED),
    "HTTP/2.0": (get(version=b"HTTP/2.0"), "400 next", REFUSED),
    "http/1.1": (get(version=b"http/1.1"), REFUSED),
    "preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 400 end", REFUSED),
    "upgrade to h2c": (get(b"/healthz", b"Connection: Upgrade", b"Upgrade: h2c"), "200 next"),
    "upgrade to websocket": (get(b"/healthz", b"Connection: Upgrade", b"Upgrade: websocket"), "200 next"),
    "upgrade with a body": (post(b"Connection: Upgrade", b"Upgrade: h2c", body=NEXT), REFUSED),
    "expectation": (post(b"Expect: 100-continue"), "100 404 next"),
    "unknown expectation": (post(b"Expect: 200-ok"), LEGAL),
    # floods
    "5,000 headers": (get(b"/healthz", *[b"X: 1"] * 5000), "400 next"),
    "header of 30,000 bytes": (get(b"/healthz", b"X-A: " + b"a" * 30_000), "400 next"),
    # one after the other
    "three at once": (get() * 3, "200 200 200 next"),
    "a change and a look at once": (post() + get(), "404 200 next"),
    "empty lines before": (b"\r\n\r\n" + get(), REFUSED, "200 next"),
    "body of a GET": (get(b"/healthz", b"Content-Length: 5") + b"hello", "200 next"),
    "request in the body of a GET": (get(b"/healthz", b"Content-Length: %d" % len(NEXT)) + NEXT, "200 next"),
    "request in a refused body": (post(body=NEXT, verb="cancel"), "401 next"),
    "request in a refused body too large": (post(body=NEXT * 2000, verb="cancel"), "401 end"),
    "garbage after the last request": (get(b"/healthz", b"Connection: close") + b"\0\1", "200 end"),
    "request after the last one": (get(b"/healthz", b"Connection: close") + get(), "200 end"),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_answered_as_it_should_and_the_next_request_for_itself(
    receiver: LiveReceiver, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, *expected = SHAPES[shape]
    wanted = expected[0] if receiver.parser == "h11" else expected[-1]
    assert _became(receiver, data, wanted) == wanted
    assert receiver.call("GET", "/healthz").status == 200
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def _became(receiver: LiveReceiver, data: bytes, wanted: str) -> str:
    """Send a shape and return what became of it, in the words of the table."""
    with receiver.connect() as link:
        link.sendall(data)
        if wanted == "waits":
            receiver.call("GET", "/healthz")
            link.shutdown(socket.SHUT_WR)
            return " ".join(_statuses(link, 9)) or "waits"
        found = _statuses(link, len(wanted.split()) - 1)
        try:
            link.sendall(NEXT)
            found += {"200": ["next"], "": ["end"]}.get("".join(rest := _statuses(link, 1)), [*rest, "odd"])
        except (BrokenPipeError, ConnectionResetError):
            found.append("end")
    return " ".join(found)


def _statuses(link: socket.socket, count: int) -> list[str]:
    """Read so many answers, fewer when the connection ends."""
    found: list[str] = []
    with link.makefile("rb") as stream:
        try:
            while len(found) < count and (line := stream.readline()):
                found.append(line.split(b" ")[1].decode())
                length = 0
                while (line := stream.readline()) not in (b"\r\n", b""):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                stream.read(length)
        except ConnectionResetError:
            pass
    return found
