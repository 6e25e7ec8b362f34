"""Under whose name the places of a request count, and whose request counts as known."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.responses import Response

from training.fleet.api.arrival import ARRIVAL, Arrival
from training.fleet.api.callers import as_worker, demand_holder, mark_known, spot
from training.fleet.api.request import Request
from training.fleet.auth import Caller
from training.fleet.model.errors import StaleLeaseError


def asked(caller: Caller, client: Any = ("192.0.2.7", 4), session: bytes | None = None) -> Request:
    scope: dict[str, Any] = {"type": "http", "client": client, "method": "POST", "path": "/v1/x"}
    scope["headers"] = [] if session is None else [(b"x-worker-session", session)]
    scope[ARRIVAL] = Arrival(scope, None)  # type: ignore[arg-type]
    request = Request(scope, None)  # type: ignore[arg-type]
    request.caller = caller
    return request


def known(caller: Caller, *, worker_token: bytes | None, client: Any = ("192.0.2.7", 4)) -> Any:
    request = asked(caller, client)
    fleet: Any = SimpleNamespace(access=SimpleNamespace(credentials=SimpleNamespace(worker=worker_token)))
    mark_known(fleet, request)
    return request.scope.get("known")


@pytest.mark.parametrize(
    ("caller", "worker_token", "found"),
    [
        pytest.param(Caller("worker", "w1"), None, "worker:w1", id="an enrolled worker"),
        pytest.param(Caller("reader"), None, "192.0.2.7", id="a reader with its token"),
        pytest.param(Caller("worker"), b"digest", "192.0.2.7", id="a worker with the shared token"),
        pytest.param(Caller("worker"), None, None, id="a worker where none needs a token"),
        pytest.param(Caller("anyone"), b"digest", None, id="anyone"),
    ],
)
def test_a_request_that_showed_a_credential_is_known_under_its_name_or_address(
    caller: Caller, worker_token: bytes | None, found: str | None
) -> None:
    assert known(caller, worker_token=worker_token) == found


@pytest.mark.parametrize("place", ["", "here"])
def test_a_worker_whose_identity_ends_while_it_is_answered_gets_its_answer(place: str) -> None:
    """What it may do is judged with the change it asks for; what is done around that must not fail."""

    async def handler(_fleet: Any, _request: Request) -> Response:
        return Response(status_code=204)

    fleet: Any = SimpleNamespace(
        sessions=SimpleNamespace(present=lambda *_, **__: contextlib.nullcontext(place)),
        queue=SimpleNamespace(identities=SimpleNamespace(get=lambda _identity: None), sessions_of=lambda _worker: 1),
    )
    answer = asyncio.run(as_worker(fleet, asked(Caller("worker", "w1", "an-id")), handler))
    assert (answer.status_code, "x-rotate-secret" in answer.headers) == (204, False)


def test_a_request_without_an_address_is_known_all_the_same() -> None:
    assert known(Caller("reader"), worker_token=None, client=None) == ""


PLACE = b"5" * 32


@pytest.mark.parametrize(
    ("session", "place"),
    [
        (None, ""),
        (b"", ""),
        (PLACE + b"." + b"1" * 32, PLACE.decode()),
        (PLACE, ""),
        (PLACE + b"." + b"1" * 32 + b"\n", ""),
        (b"\xff", ""),
    ],
)
def test_where_a_worker_runs_is_what_its_session_names(session: bytes | None, place: str) -> None:
    assert spot(asked(Caller("worker"), session=session)) == place


@pytest.mark.parametrize(
    ("name", "live", "kept", "is_refused"),
    [
        pytest.param("w1", "w1", None, False, id="its own"),
        pytest.param("w1", "w2", None, True, id="that of another one"),
        pytest.param("w1", None, "w2", True, id="that was another one's"),
        pytest.param("w1", None, "w1", False, id="that was its own"),
        pytest.param("w1", None, None, False, id="that nobody knows; the queue says so"),
        pytest.param("", "w2", "w2", False, id="a host that did not enrol has no name to compare"),
    ],
)
def test_a_lease_of_another_worker_is_refused_live_or_over(
    name: str, live: str | None, kept: str | None, is_refused: bool
) -> None:
    noted: list[tuple[str, str]] = []

    async def run(change: Any) -> Any:
        return change("tx")

    history = SimpleNamespace(note=lambda _tx, _who, worker, action, _why: noted.append((worker, action)))
    fleet: Any = SimpleNamespace(
        queue=SimpleNamespace(live_holder=lambda _lease: live, holder=lambda _tx, _lease: kept, history=history),
        news=SimpleNamespace(is_news=lambda *_, **__: True),
        run=run,
    )
    with pytest.raises(StaleLeaseError) if is_refused else contextlib.nullcontext():
        asyncio.run(demand_holder(fleet, asked(Caller("worker", name)), "a-lease"))
    assert noted == ([("w1", "refuse")] if is_refused else [])
