"""One receiver's counterpart: its calls, their connections and their repeats."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import http.client
import json
import os
import random as _random
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import quote, urlencode

from training.fleet import __version__
from training.fleet.client.addresses import DEFAULT_RECEIVER, address, proxy_address
from training.fleet.client.answer import Answer, document, read, refusal
from training.fleet.client.transfer import OnBody, poured, readable, received
from training.fleet.model.errors import (
    AuthenticationError,
    ConfigurationError,
    FleetError,
    StorageFullError,
    UnavailableError,
    UnreachableError,
)
from training.fleet.tls.trust import CUT, ClientTls, of_tls, reason, speaks_tls
from training.fleet.wire.worker import Beat, Claim, Complete, Fail, Heartbeat, JobState, Lease, Stored

T = TypeVar("T")

BACKOFF_S: Final = 0.2
BACKOFF_CAP_S: Final = 30.0
_PARKING_SLACK_S = 15.0


class Client:
    """One receiver's counterpart. Any number of threads may use it; each keeps its own connection.

    Args:
        base_url: The receiver's address.
        token: Bearer token of a worker or reader, None without one; what returns it where it may change.
        operator_token: Sent as `X-Operator-Token`, None without one.
        timeout_s: Longest wait for a connection or for the next bytes of an answer.
        deadline_s: Longest time spent on repeats of one request unless the call says otherwise.
        ca_file: PEM file with the authorities to trust instead of the system's.
        certificate: PEM files with this host's own certificate and its key, None to show none. They are read again
            for the next request after they changed.
        proxy: "http://host:port" through which https goes (CONNECT); the environment's proxies are never used.
        session: Where and since when this worker runs, sent with every request; None for all others.
        listen: Gets the header fields of every answer, from whatever thread asked.
        sleep: Waits between repeats; gets seconds.
        random: Returns a number from 0 to 1, for the jitter.

    Raises:
        ConfigurationError: An address or token that cannot be used.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_RECEIVER,
        token: str | Callable[[], str | None] | None = None,
        operator_token: str | None = None,
        *,
        timeout_s: float = 30.0,
        deadline_s: float = 15.0,
        ca_file: Path | None = None,
        certificate: tuple[Path, Path] | None = None,
        proxy: str | None = None,
        session: str | None = None,
        listen: Callable[[Mapping[str, str]], object] | None = None,
        sleep: Callable[[float], object] = time.sleep,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self.address = address(base_url)
        self.timeout_s = timeout_s
        self.deadline_s = deadline_s
        self._token: Callable[[], str | None] = token if callable(token) else lambda: token
        self._headers = {"User-Agent": f"cis490/{__version__}", "Accept": "application/json"}
        if operator_token is not None:
            self._headers["X-Operator-Token"] = _printable(operator_token)
        if session is not None:
            self._headers["X-Worker-Session"] = session
        self._fields()  # a token that cannot be used ends here
        self._listen = listen
        self._tls = ClientTls(ca_file, certificate) if self.address.secure else None
        self._proxy = proxy_address(proxy, secure=self.address.secure)
        self._sleep = sleep
        self._random = random
        self._connections: dict[int, http.client.HTTPConnection] = {}
        self._shown: dict[int, object] = {}
        self._guard = threading.Lock()
        self._hung_up = False

    # ---- for the operator's command ---------------------------------------------------------------------------------

    def get(
        self, path: str, query: Mapping[str, str] | None = None, *, deadline_s: float | None = None
    ) -> dict[str, Any]:
        """Read one resource.

        Args:
            path: From "/v1/…".
            query: Query parameters; empty values are left out.
            deadline_s: Longest time spent on repeats; 0 tries once; None is the client's own.

        Raises:
            FleetError: What the receiver refused with, or `UnreachableError`.
        """
        return document(self.request("GET", _target(path, query), deadline_s=deadline_s))

    def post(
        self,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        timeout_s: float | None = None,
    ) -> tuple[int, dict[str, Any] | None]:
        """Send one message.

        Args:
            path: From "/v1/…".
            body: A JSON document, or bytes that are sent as they are (a manifest's text).
            headers: Further header fields.
            deadline_s: Longest time spent on repeats; 0 tries once; None is the client's own.
            timeout_s: Longest wait for the next bytes of the answer; None is the client's own.

        Returns:
            Status and document; the document is None for an empty answer.

        Raises:
            FleetError: What the receiver refused with, or `UnreachableError`.
        """
        answer = self._post(path, body, headers or {}, deadline_s, timeout_s)
        return answer.status, document(answer) if answer.body else None

    def put(
        self, path: str, body: bytes, *, headers: Mapping[str, str] | None = None, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Store a manifest's text at a path; arguments and errors as in `post`."""
        fields = {"Content-Type": "application/toml", **(headers or {})}
        return document(self.request("PUT", path, body, headers=fields, timeout_s=timeout_s))

    def text(self, path: str) -> bytes:
        """Read a resource that is no JSON; errors as in `get`."""
        return self.request("GET", path).body

    # ---- for the worker ---------------------------------------------------------------------------------------------

    def claim(self, message: Claim, *, wait_s: float = 0) -> tuple[Lease | None, float | None]:
        """Ask for a job.

        Args:
            message: With the same `claim_id` as long as no answer came, so that one question gets one job.
            wait_s: How long the receiver may hold the call until a job appears.

        Returns:
            The lease, or None when there is no job; and the seconds after which to ask again, None if not said.

        Raises:
            FleetError: What the receiver refused with, or `UnreachableError`.
        """
        headers = {"Prefer": f"wait={int(wait_s)}"} if wait_s >= 1 else {}
        body = dataclasses.asdict(message)
        answer = self._post("/v1/job/claim", body, headers, 0, wait_s + _PARKING_SLACK_S)
        lease = read(Lease, answer) if answer.body else None
        return lease, answer.retry_after_s

    def heartbeat(self, job_id: str, message: Heartbeat, *, deadline_s: float | None = None) -> Beat:
        """Keep a lease alive; the first one acknowledges it."""
        return self._tell(Beat, job_id, "heartbeat", message, deadline_s)

    def complete(self, job_id: str, message: Complete, *, deadline_s: float | None = None) -> JobState:
        """Name the stored artifact as the job's result."""
        return self._tell(JobState, job_id, "complete", message, deadline_s)

    def fail(self, job_id: str, message: Fail, *, deadline_s: float | None = None) -> JobState:
        """Report how an attempt ended without a result, or give the job back."""
        return self._tell(JobState, job_id, "fail", message, deadline_s)

    def upload(
        self,
        lease_id: str,
        sha256: str,
        path: Path,
        *,
        deadline_s: float | None = None,
        retry_full: bool = False,
    ) -> Stored:
        """Send an artifact's bytes, streamed, with its length declared.

        Args:
            lease_id: The lease the artifact was made under.
            sha256: Digest of the bytes.
            path: The file.
            deadline_s: Longest time spent on repeats.
            retry_full: Whether a full store (507) is worth repeats as well.

        Raises:
            FleetError: What the receiver refused with, or `UnreachableError`.
            OSError: The file cannot be read.
        """
        target = f"{self.address.prefix}/v1/model/{quote(sha256, safe='')}"
        headers = {"X-Lease-Id": lease_id, "Content-Type": "application/zstd"}
        path.stat()  # a missing file is this host's fault, not the network's

        def exchange(connection: http.client.HTTPConnection) -> Answer:
            with path.open("rb") as stream:
                return self._send_file(connection, target, headers, stream)

        return read(Stored, self._repeated(exchange, deadline_s, None, retry_full=retry_full))

    def upload_part(
        self, lease_id: str, sha256: str, name: str, data: bytes, *, deadline_s: float | None = None
    ) -> Stored:
        """Send one of the small files beside an artifact: its card, a figure, its metrics.

        Args:
            lease_id: The lease the artifact was made under.
            sha256: The artifact's id.
            name: The file's name.
            data: Its bytes.
            deadline_s: Longest time spent on repeats.

        Raises:
            NotFoundError: The receiver is older and knows no such files.
            FleetError: What else it refused with, or `UnreachableError`.
        """
        target = f"/v1/model/{quote(sha256, safe='')}/file/{quote(name, safe='')}"
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        headers = {"X-Lease-Id": lease_id, "Repr-Digest": f"sha-256=:{digest}:"}
        headers["Content-Type"] = "application/octet-stream"
        return read(Stored, self.request("PUT", target, data, headers=headers, deadline_s=deadline_s))

    # ---- the life of connections ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the calling thread's connection. The client stays usable."""
        with self._guard:
            connection = self._connections.pop(threading.get_ident(), None)
            self._shown.pop(threading.get_ident(), None)
        if connection is not None:
            connection.close()

    def hang_up(self) -> None:
        """End every call under way, from any thread, and refuse further ones with `UnreachableError`."""
        with self._guard:
            self._hung_up = True
            live = [connection.sock for connection in self._connections.values() if connection.sock]
        for sock in live:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    # ---- requests ---------------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Send one request, repeated as the module says, and return the answer below 400.

        Raises:
            FleetError: What the receiver refused with, or `UnreachableError`.
        """
        more = dict(headers or {})

        def exchange(connection: http.client.HTTPConnection) -> Answer:
            connection.request(method, self.address.prefix + target, body=body, headers=self._fields() | more)
            return received(connection)

        return self._repeated(exchange, deadline_s, timeout_s)

    def download(
        self,
        target: str,
        headers: Callable[[], Mapping[str, str]],
        take: OnBody,
        *,
        deadline_s: float | None = None,
    ) -> Answer:
        """Ask for a file, repeated as the module says, and hand each answer below 300 on while its body comes.

        Args:
            target: From "/v1/…".
            headers: Returns what this try asks for besides the usual.
            take: Reads the body to its end.
            deadline_s: Longest time spent on repeats.

        Returns:
            The last answer, without its body.

        Raises:
            FleetError: What the receiver refused with, `UnreachableError` when the body did not come whole, or what
                `take` raised.
        """

        def exchange(connection: http.client.HTTPConnection) -> Answer:
            fields = self._fields() | {"Accept": "*/*"} | dict(headers())
            connection.request("GET", self.address.prefix + target, headers=fields)
            return received(connection, take)

        return self._repeated(exchange, deadline_s, None)

    def _fields(self) -> dict[str, str]:
        """Return the header fields that every request carries, with the token as it is now."""
        token = self._token()
        return self._headers if token is None else {**self._headers, "Authorization": f"Bearer {_printable(token)}"}

    def _tell(self, kind: type[T], job_id: str, verb: str, message: Any, deadline_s: float | None) -> T:
        path = f"/v1/job/{quote(job_id, safe='')}/{verb}"
        return read(kind, self._post(path, dataclasses.asdict(message), {}, deadline_s, None))

    def _post(
        self,
        path: str,
        body: Mapping[str, Any] | bytes | None,
        headers: Mapping[str, str],
        deadline_s: float | None,
        timeout_s: float | None,
    ) -> Answer:
        raw = body if isinstance(body, bytes) else _encoded(body or {})
        kind = {"Content-Type": "application/toml" if isinstance(body, bytes) else "application/json"}
        return self.request("POST", path, raw, headers=kind | dict(headers), deadline_s=deadline_s, timeout_s=timeout_s)

    def _repeated(
        self,
        exchange: Callable[[http.client.HTTPConnection], Answer],
        deadline_s: float | None,
        timeout_s: float | None,
        *,
        retry_full: bool = False,
    ) -> Answer:
        """Do one exchange until it is answered, refused for good, or the deadline has passed."""
        end = time.monotonic() + (self.deadline_s if deadline_s is None else deadline_s)
        attempt = 0
        while True:
            shown = self._token()
            error = self._tried(exchange, timeout_s)
            if isinstance(error, Answer):
                return error
            if isinstance(error, AuthenticationError) and self._token() != shown:
                continue  # the secret was changed while this request was under way
            delay = self._delay_s(error, attempt)
            if not _worth_repeating(error, retry_full) or self._hung_up or time.monotonic() + delay > end:
                raise error
            self._sleep(delay)
            attempt += 1

    def _tried(
        self, exchange: Callable[[http.client.HTTPConnection], Answer], timeout_s: float | None
    ) -> Answer | FleetError:
        try:
            answer = self._once(exchange, self.timeout_s if timeout_s is None else timeout_s)
        except (OSError, http.client.HTTPException) as cause:
            self.close()
            error = self._unreachable(cause)
            # Its frames would keep the answer's socket open until the garbage collector comes by.
            error.__cause__ = cause.with_traceback(None)
            return error
        if self._listen is not None:
            self._listen(answer.headers)
        return answer if answer.status < 300 or answer.status == 304 else refusal(answer, self.address.url)

    def _once(self, exchange: Callable[[http.client.HTTPConnection], Answer], timeout_s: float) -> Answer:
        connection, reused = self._connection(timeout_s)
        try:
            return exchange(connection)
        except (http.client.RemoteDisconnected, ConnectionError):
            if not reused or self._hung_up:
                raise
        self.close()  # the receiver closed an idle connection while the request was on its way
        return exchange(self._connection(timeout_s)[0])

    def _connection(self, timeout_s: float) -> tuple[http.client.HTTPConnection, bool]:
        """Return the calling thread's connection, and whether it has been used before."""
        me = threading.get_ident()
        with self._guard:
            if self._hung_up:
                raise ConnectionAbortedError("the call was given up")
            connection = self._connections.setdefault(me, self._new_connection())
        connection.timeout = timeout_s
        before, self._shown[me] = self._shown.get(me), None if self._tls is None else self._tls.refresh()
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
            if not readable(connection.sock) and before == self._shown[me]:
                return connection, True
            connection.close()
        connection.connect()
        if self._hung_up:  # who hung up meanwhile found no socket to shut down
            raise ConnectionAbortedError("the call was given up")
        return connection, False

    def _new_connection(self) -> http.client.HTTPConnection:
        where = (self.address.host, self.address.port)
        if self._tls is None:
            return http.client.HTTPConnection(*where)
        if self._proxy is None:
            return http.client.HTTPSConnection(*where, context=self._tls.context)
        connection = http.client.HTTPSConnection(*self._proxy, context=self._tls.context)
        connection.set_tunnel(*where)
        return connection

    def _send_file(
        self, connection: http.client.HTTPConnection, target: str, headers: Mapping[str, str], stream: BinaryIO
    ) -> Answer:
        """Stream a file, but stop and read as soon as the receiver answers or hangs up early."""
        connection.putrequest("PUT", target, skip_accept_encoding=True)
        fields = self._fields() | dict(headers) | {"Content-Length": str(os.fstat(stream.fileno()).st_size)}
        for name, value in fields.items():
            connection.putheader(name, value)
        connection.endheaders()
        try:
            whole = poured(connection.sock, stream)
        except (BrokenPipeError, ConnectionResetError):
            whole = False
        answer = received(connection)
        if not whole:
            connection.close()
        return answer

    def _delay_s(self, error: FleetError, attempt: int) -> float:
        """Return the seconds before the next try: full jitter, and never before the receiver's own wish."""
        jitter = self._random() * min(BACKOFF_CAP_S, BACKOFF_S * 2.0 ** min(attempt, 16))
        return (error.retry_after_s or 0.0) + jitter

    def _unreachable(self, cause: Exception) -> UnreachableError:
        found, remedy = reason(cause)
        cut = self._tls is not None and self._tls.shows_one and isinstance(cause, ConnectionError)
        if of_tls(cause) or cut:
            found, remedy = (found, remedy) if of_tls(cause) else CUT
            return UnreachableError(f"no safe connection to {self.address.url}: {found}", remedy, answered=True)
        if not self.address.secure and _hung_up_on(cause) and speaks_tls(self.address.host, self.address.port):
            return UnreachableError(
                f"port {self.address.port} speaks https, and it was spoken to with http",
                f"use the address {self.address.url.replace('http', 'https', 1)} and the receiver's ca.pem "
                "(--ca-file or $CIS490_CA_FILE)",
                answered=True,
            )
        return UnreachableError(
            f"no answer from {self.address.url} ({found})", "is the receiver running, is the address right?"
        )


def _hung_up_on(cause: Exception) -> bool:
    """Return True if something listens there and did not take the request for one."""
    return isinstance(cause, ConnectionResetError | BrokenPipeError | http.client.HTTPException)


def _printable(secret: str) -> str:
    """Return a token that a header can carry.

    Raises:
        ConfigurationError: It cannot be carried.
    """
    if not re.fullmatch(r"[\x21-\x7e]{1,4096}", secret):
        raise ConfigurationError(
            "the token has characters that a header cannot carry", expected="printable ASCII without spaces"
        )
    return secret


def _target(path: str, query: Mapping[str, str] | None) -> str:
    given = {name: value for name, value in (query or {}).items() if value != ""}
    return f"{path}?{urlencode(given, safe=',')}" if given else path


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _worth_repeating(error: FleetError, retry_full: bool) -> bool:
    if isinstance(error, StorageFullError):
        return retry_full
    return isinstance(error, UnavailableError) or type(error) is FleetError
