"""Under whose name the places of a request count, and whose request counts as known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from training.fleet.api.arrival import ARRIVAL, Arrival
from training.fleet.api.callers import mark_known
from training.fleet.api.request import Request
from training.fleet.auth import Caller


def known(caller: Caller, *, worker_token: bytes | None, client: Any = ("192.0.2.7", 4)) -> Any:
    scope: dict[str, Any] = {"type": "http", "client": client, "headers": []}
    scope[ARRIVAL] = Arrival(scope, None)  # type: ignore[arg-type]
    request = Request(scope, None)  # type: ignore[arg-type]
    request.caller = caller
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


def test_a_request_without_an_address_is_known_all_the_same() -> None:
    assert known(Caller("reader"), worker_token=None, client=None) == ""
