"""What every request must pass before a handler sees it: path, method, host name, site; by calls of the application."""

from __future__ import annotations

import asyncio
import json
import re
import types
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse
from starlette.types import Message

from training.fleet.api.access import Access
from training.fleet.api.answers import Json
from training.fleet.api.app import make_app
from training.fleet.api.guard import Guard
from training.fleet.api.request import Request
from training.fleet.api.routes import ROUTES, Media, Route
from training.fleet.auth import Credentials, Role
from training.fleet.model.errors import ConflictError
from training.fleet.wire.limits import MAX_BODY_BYTES
from training.fleet.wire.people import Reload

ID = "a" * 64
Pairs = list[tuple[bytes, bytes]]


def app(host_names: tuple[str, ...] = (), *, any_host: bool = False) -> Guard:
    """Return an application whose fleet knows nothing but that anybody may ask what is open to all."""
    fleet: Any = types.SimpleNamespace(access=Access(Credentials()))
    return make_app(fleet, frozenset(host_names), any_host=any_host)


def asked(
    edge: Guard,
    path: str = "/healthz",
    method: str = "GET",
    host: bytes | None = b"localhost",
    more: Pairs | None = None,
    version: str = "1.1",
) -> tuple[int, dict[str, Any], dict[bytes, bytes]]:
    """Return status, body and headers of an answer."""
    headers: Pairs = [] if host is None else [(b"host", host)]
    scope: Message = {"type": "http", "http_version": version, "method": method, "path": path}
    scope |= {"raw_path": path.encode()}
    scope |= {"headers": [*headers, *(more or [])], "query_string": b"", "client": ("192.0.2.1", 40000)}
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(edge(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"]), dict(sent[0]["headers"])


# ---- host names


@pytest.mark.parametrize(
    "host",
    [b"localhost", b"LOCALHOST:8445", b"127.0.0.1", b"127.9.9.9:1", b"[::1]:8445", b"fleet.lab", b"Fleet.LAB:8445"],
)
def test_the_receiver_answers_under_its_own_names(host: bytes) -> None:
    assert asked(app(("fleet.lab",)), host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"fleet.lab.evil.example",
        b"evil.example:8445",
        b"localhost.evil.example",
        b"192.0.2.1",
        b"[2001:db8::1]",
        b"xfleet.lab",
        b"\xe4.lab",
        b" ",
    ],
)
def test_under_any_other_name_nothing_is_answered(host: bytes) -> None:
    status, body, _ = asked(app(("fleet.lab",)), host=host)
    assert (status, body["code"]) == (403, "forbidden")
    assert "is not a name of this receiver" in body["detail"]


@pytest.mark.parametrize("host", [None, b""])
def test_a_request_without_a_host_name_is_refused_even_where_any_name_is_good(host: bytes | None) -> None:
    for edge in (app(), app(any_host=True)):
        status, body, _ = asked(edge, host=host)
        assert (status, body["code"]) == (400, "bad_request")


def test_without_a_list_a_receiver_beyond_loopback_answers_under_every_name() -> None:
    assert asked(app(any_host=True), host=b"evil.example")[0] == 200
    assert asked(app(), host=b"evil.example")[0] == 403


def test_a_name_that_was_refused_is_refused_again_and_a_good_one_stays_good() -> None:
    edge = app(("fleet.lab",))
    for _ in range(3):
        assert asked(edge, host=b"evil.example")[0] == 403
        assert asked(edge, host=b"fleet.lab")[0] == 200


def test_however_many_spellings_come_no_more_than_64_are_remembered() -> None:
    edge = app(any_host=True)
    for number in range(70):
        assert asked(edge, host=b"name-%d.lab" % number)[0] == 200
    assert len(edge._known_hosts) == 64


# ---- paths and methods


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/job",
        "/v1/job/",
        f"/v1/job/{ID}/",
        f"/v1/job/{ID}/why/",
        f"/v1/job/{ID}/why/more",
        f"/v2/job/{ID}",
        f"/job/{ID}",
        f"//v1/job/{ID}",
        f"/v1/job/{ID[1:]}",
        f"/v1/job/{ID}a",
        f"/v1/job/{ID.upper()}",
        f"/v1/job/{ID}%2Fwhy",
        f"/v1/job/{ID}/explode",
        f"/v1/nothing/{ID}",
        "/v1/worker/UPPER/revoke",
        "/v1/worker/-a/revoke",
        f"/v1/worker/{'a' * 64}/revoke",
        "/healthz/",
        "/HEALTHZ",
    ],
)
def test_nothing_is_at_any_other_path(path: str) -> None:
    for method in ("GET", "POST"):
        status, body, _ = asked(app(), path, method)
        assert (status, body["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/healthz", "POST", b"GET, HEAD"),
        ("/healthz", "get", b"GET, HEAD"),
        ("/v1/job/claim", "GET", b"POST"),
        ("/v1/job/claim", "HEAD", b"POST"),
        (f"/v1/job/{ID}/cancel", "HEAD", b"POST"),
        (f"/v1/model/{ID}", "POST", b"GET, HEAD, PUT"),
        ("/v1/worker/w1/revoke", "GET", b"POST"),
        (f"/v1/job/{ID}", "DELETE", b"GET, HEAD"),
    ],
)
def test_another_method_is_refused_with_those_there_are(path: str, method: str, allow: bytes) -> None:
    status, body, headers = asked(app(), path, method)
    assert (status, body["code"], headers[b"allow"]) == (405, "method_not_allowed", allow)


def test_what_can_be_got_can_be_asked_for_by_its_head() -> None:
    assert asked(app(), method="HEAD")[0] == 200


@pytest.mark.parametrize(("version", "status"), [("1.1", 200), ("1.0", 200), ("0.9", 400), ("2", 400), ("1.2", 400)])
def test_only_http_of_the_two_known_versions_is_spoken(version: str, status: int) -> None:
    assert asked(app(), version=version)[0] == status


def test_what_is_no_request_gets_no_answer() -> None:
    async def never(*_: Any) -> Any:
        raise AssertionError("nothing is said")

    asyncio.run(app()({"type": "websocket"}, never, never))


def test_the_threads_of_the_edge_end_with_the_server() -> None:
    fleet: Any = types.SimpleNamespace(closed=0)
    fleet.close = lambda: setattr(fleet, "closed", fleet.closed + 1)
    asked, said = iter(["lifespan.startup", "lifespan.shutdown"]), list[tuple[str, int]]()

    async def receive() -> Message:
        return {"type": next(asked)}

    async def send(message: Message) -> None:
        said.append((message["type"], fleet.closed))

    asyncio.run(make_app(fleet)({"type": "lifespan", "state": {}}, receive, send))
    assert said == [("lifespan.startup.complete", 0), ("lifespan.shutdown.complete", 1)]


# ---- other sites


@pytest.mark.parametrize("site", [b"cross-site", b"same-site", b"", b"NONE"])
def test_a_page_of_another_site_changes_nothing_and_may_look(site: bytes) -> None:
    more = [(b"sec-fetch-site", site)]
    status, body, _ = asked(app(), f"/v1/job/{ID}/cancel", "POST", more=more)
    assert (status, body["code"]) == (403, "forbidden")
    assert "another site" in body["detail"]
    assert asked(app(), more=more)[0] == 200
    assert asked(app(), method="HEAD", more=more)[0] == 200


@pytest.mark.parametrize("more", [[], [(b"sec-fetch-site", b"none")], [(b"sec-fetch-site", b"same-origin")]])
def test_the_command_line_and_the_receivers_own_pages_are_let_on(more: Pairs) -> None:
    status, body, _ = asked(app(), f"/v1/job/{ID}/cancel", "POST", more=more)
    assert (status, body["code"]) == (403, "forbidden")
    assert "has no operator token" in body["detail"]


# ---- heads


def test_as_many_headers_as_may_be_are_taken_and_one_more_is_refused() -> None:
    fill = [(b"x-%d" % number, b"a") for number in range(63)]
    assert asked(app(), more=fill)[0] == 200
    assert asked(app(), more=[*fill, (b"x-more", b"a")])[0] == 400


def test_as_long_headers_as_may_be_are_taken_and_a_byte_more_is_refused() -> None:
    rest = 16384 - len(b"hostlocalhost" + b"x-long")
    assert asked(app(), more=[(b"x-long", b"a" * rest)])[0] == 200
    assert asked(app(), more=[(b"x-long", b"a" * (rest + 1))])[0] == 400
    twice = [(b"x-long", b"a" * (rest // 2)), (b"x-long", b"a" * (rest // 2))]
    assert asked(app(), more=twice)[0] == 400
    assert asked(app(), more=[(b"x-twice", b"a"), (b"x-twice", b"a")])[0] == 200


@pytest.mark.parametrize("name", [b"content-length", b"authorization", b"x-operator-token", b"sec-fetch-site", b"host"])
def test_a_header_that_decides_something_stands_there_once(name: bytes) -> None:
    status, body, _ = asked(app(), more=[(name, b"1"), (name, b"1")])
    assert (status, body["code"]) == (400, "bad_request")
    assert "twice" in body["detail"]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ([(b"transfer-encoding", b"chunked")], 200),
        ([(b"transfer-encoding", b"Chunked")], 200),
        ([(b"transfer-encoding", b"gzip, chunked")], 400),
        ([(b"transfer-encoding", b"identity")], 400),
        ([(b"transfer-encoding", b"chunked"), (b"content-length", b"3")], 400),
        ([(b"upgrade", b"h2c")], 200),
        ([(b"upgrade", b"h2c"), (b"content-length", b"0")], 200),
        ([(b"upgrade", b"h2c"), (b"content-length", b"3")], 400),
        ([(b"upgrade", b"h2c"), (b"transfer-encoding", b"chunked")], 400),
    ],
)
def test_what_two_servers_could_read_differently_is_refused(more: Pairs, status: int) -> None:
    assert asked(app(), more=more)[0] == status


# ---- bodies that nobody reads


def refused(headers: Pairs, pieces: list[Message]) -> tuple[int, bool, int]:
    """Send a body with a request that is refused; return status, whether it ends the connection, and what is left."""
    scope: Message = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/nothing", "query_string": b""}
    scope |= {"raw_path": b"/nothing", "headers": [(b"host", b"localhost"), *headers], "client": None}
    sent: list[Message] = []

    async def receive() -> Message:
        return pieces.pop(0) if pieces else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app()(scope, receive, send))
    assert sent[-1].get("more_body", False) is False
    return sent[0]["status"], (b"connection", b"close") in sent[0]["headers"], len(pieces)


def piece(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


@pytest.mark.parametrize(
    ("headers", "pieces", "ends"),
    [
        pytest.param([], [], False, id="no body"),
        pytest.param([(b"content-length", b"0")], [], False, id="an empty one"),
        pytest.param([(b"content-length", b"3")], [piece(b"abc")], False, id="a small one"),
        pytest.param([(b"content-length", b"3")], [piece(b"a", more=True), piece(b"bc")], False, id="in two pieces"),
        pytest.param([(b"content-length", b"65536")], [piece(b"a" * 65536)], False, id="the largest that is read"),
        pytest.param([(b"content-length", b"65537")], [piece(b"a")], True, id="a byte more"),
        pytest.param([(b"content-length", b"99999999")], [piece(b"a")], True, id="a huge one"),
        pytest.param([(b"content-length", b"x")], [piece(b"a")], True, id="a length that is no number"),
        pytest.param([(b"transfer-encoding", b"chunked")], [piece(b"a")], True, id="one without a length"),
        pytest.param([(b"content-length", b"3")], [piece(b"a", more=True)], True, id="a client that has gone"),
    ],
)
def test_a_refused_body_is_read_away_when_it_is_small_and_ends_the_connection_else(
    headers: Pairs, pieces: list[Message], ends: bool
) -> None:
    assert refused(headers, pieces) == (404, ends, 0)


# ---- bodies, as a route declares them


def read_by(route: Route, pieces: list[Message]) -> tuple[int, int]:
    """Send a body to the only route of an application; return the status and how many of its pieces are not taken."""
    return answered(route, pieces)[0]["status"], len(pieces)


def answered(route: Route, pieces: list[Message], more: Sequence[tuple[bytes, bytes]] = ()) -> list[Message]:
    """Return what the only route of an application sends as the answer."""
    scope: Message = {"type": "http", "http_version": "1.1", "method": route.method, "path": route.path}
    scope |= {"raw_path": route.path.encode(), "headers": [(b"host", b"localhost"), *more], "query_string": b""}
    scope |= {"client": ("192.0.2.1", 40000), "asgi": {"spec_version": "2.4"}}
    sent: list[Message] = []

    async def receive() -> Message:
        return pieces.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.fleet.api.app.ROUTES", (route,))
        asyncio.run(app()(scope, receive, send))
    return sent


async def with_nothing(_fleet: Any, _request: Request) -> Response:
    """Take no body."""
    return Json({})


async def with_message(_fleet: Any, _request: Request, given: Reload) -> Response:
    """Take a message."""
    return Json({}, 202 if given.allow_shrink else 200)


async def with_bytes(_fleet: Any, request: Request) -> Response:
    """Take bytes."""
    return Json(len(await request.body()))


@pytest.mark.parametrize(
    ("data", "where_it_may_be_left_out", "where_it_must_come"),
    [
        (b"", 200, 400),
        (b" \n", 200, 400),
        (b"{}", 200, 200),
        (b'{"allow_shrink":true}', 202, 202),
        (b'{"allow_shrink":1}', 422, 422),
        (b"no", 400, 400),
    ],
)
def test_a_message_that_may_be_left_out_has_its_defaults_then_and_is_read_otherwise(
    data: bytes, where_it_may_be_left_out: int, where_it_must_come: int
) -> None:
    may = Route("POST", "/v1/new", "anyone", with_message, body=Reload, optional=True)
    must = Route("POST", "/v1/new", "anyone", with_message, body=Reload)
    assert read_by(may, [piece(data)]) == (where_it_may_be_left_out, 0)
    assert read_by(must, [piece(data)]) == (where_it_must_come, 0)


def test_a_body_that_nobody_asked_for_is_read_and_counted_where_something_changes_and_left_where_not() -> None:
    """Unread it would stand before the next request of the connection."""
    post, get = (Route(method, "/v1/new", "anyone", with_nothing) for method in ("POST", "GET"))
    assert read_by(post, [piece(b"a", more=True), piece(b"b")]) == (200, 0)
    assert read_by(post, [piece(b"a" * MAX_BODY_BYTES)]) == (200, 0)
    assert read_by(post, [piece(b"a" * (MAX_BODY_BYTES + 1))]) == (413, 0)
    assert read_by(get, [piece(b"a" * (MAX_BODY_BYTES + 1))]) == (200, 1)


def test_bytes_are_taken_up_to_the_limit_of_their_route() -> None:
    for limit, status in ((3, 200), (2, 413), (None, 200)):
        route = Route("PUT", "/v1/new", "anyone", with_bytes, body=Media("text/plain", limit))
        assert read_by(route, [piece(b"abc")])[0] == status


@pytest.mark.parametrize(
    ("reads", "ends"), [pytest.param(True, False, id="read whole"), pytest.param(False, True, id="left unread")]
)
def test_a_large_body_with_a_request_that_is_refused_ends_the_connection_unless_it_was_read(
    reads: bool, ends: bool
) -> None:
    async def handler(_fleet: Any, request: Request) -> Response:
        """Refuse."""
        if reads:
            await request.body()
        raise ConflictError("not now")

    route = Route("PUT", "/v1/new", "anyone", handler, body=Media("text/plain", 10**6))
    sent = answered(route, [piece(b"a" * 10**6)], [(b"content-length", b"%d" % 10**6)])
    assert sent[0]["status"] == 409
    assert ((b"connection", b"close") in sent[0]["headers"]) is ends


# ---- answers that come in pieces


def test_an_answer_that_breaks_off_is_not_followed_by_another_one() -> None:
    """Half an answer is on its way; whoever reads it must not find a second head in it."""

    async def halves() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConflictError("it went wrong")

    async def handler(*_: Any) -> Response:
        """Break off."""
        return StreamingResponse(halves())

    sent = answered(Route("GET", "/v1/new", "anyone", handler), [])
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[1] == {"type": "http.response.body", "body": b"half", "more_body": True}


def test_a_client_that_still_sends_is_read_after_the_last_piece_of_the_answer_and_not_before() -> None:
    unread = [piece(b"a", more=True), piece(b"b", more=True), piece(b"c")]
    left = []

    async def halves() -> AsyncIterator[bytes]:
        for half in (b"one", b"two"):
            left.append(len(unread))
            yield half

    async def handler(*_: Any) -> Response:
        """End the connection."""
        return StreamingResponse(halves(), headers={"connection": "close"})

    sent = answered(Route("GET", "/v1/new", "anyone", handler), unread)
    assert b"".join(message.get("body", b"") for message in sent) == b"onetwo"
    assert [message["more_body"] for message in sent[1:-1]] == [True] * (len(sent) - 2)
    assert not sent[-1].get("more_body")
    assert (left, unread) == ([3, 3], [])


# ---- the table of routes


@pytest.mark.parametrize("role", ["anyone", "worker", "read"])
def test_only_a_route_for_operators_asks_for_a_right_and_each_of_them_does(role: Role) -> None:
    async def handler(*_: Any) -> Any:
        """Nothing."""

    with pytest.raises(ValueError, match="POST /v1/new is for operator and names the right None"):
        Route("POST", "/v1/new", "operator", handler)
    with pytest.raises(ValueError, match="names the right read"):
        Route("POST", "/v1/new", role, handler, right="read")
    assert Route("POST", "/v1/new", "operator", handler, right="enrol").right == "enrol"


def test_no_route_of_the_table_is_hidden_by_one_before_it() -> None:
    fixed = [route.path for route in ROUTES if not route.parameters]
    for index, route in enumerate(ROUTES):
        if route.parameters:
            pattern = re.compile(re.sub(r"\{[a-z0-9]+\}", "[^/]+", route.path))
            later = {path for path in fixed if path not in {one.path for one in ROUTES[:index]}}
            assert [path for path in later if pattern.fullmatch(path)] == []
