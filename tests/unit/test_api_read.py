"""What health and lists say of trouble with hosts, and which names a worker is looked up by."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from training.fleet.api.arrival import ARRIVAL, Arrival
from training.fleet.api.handlers.read import _with_hosts, is_unchanged, own
from training.fleet.api.request import Request
from training.fleet.auth import Caller
from training.fleet.model.errors import InvalidMessageError
from training.fleet.wire.people import Health
from training.fleet.wire.worker import OwnView


@pytest.mark.parametrize(
    ("before", "clashed", "losses", "after"),
    [
        ("ok", [], [], "ok"),
        ("ok", ["w1"], [], "degraded"),
        ("ok", [], ["w1 lost gru"], "degraded"),
        ("degraded", ["w1", "w2"], [], "degraded"),
        ("draining", ["w1"], ["w1 lost gru"], "draining"),
    ],
)
def test_trouble_with_a_host_makes_a_good_health_a_degraded_one_and_hides_no_worse_one(
    before: str, clashed: list[str], losses: list[str], after: str
) -> None:
    fleet: Any = SimpleNamespace(
        sessions=SimpleNamespace(clashed=lambda: clashed),
        queue=SimpleNamespace(losses=SimpleNamespace(lines=lambda: losses), suspects=dict),
    )
    found = _with_hosts(fleet, Health(before, "0", 0.0, {}, {}, {}, {}, [], ["known"]))
    assert found.status == after
    assert found.problems[0] == "known"
    told = found.problems[1 : 1 + len(clashed)]
    for name, line in zip(clashed, told, strict=True):
        assert f"`cis490-jobs identity revoke {name}` takes it back" in line
    assert found.problems[1 + len(clashed) :] == losses


def asked(caller: Caller, query: dict[str, str], tag: str | None = None) -> Request:
    headers = [] if tag is None else [(b"if-none-match", tag.encode())]
    scope: dict[str, Any] = {"type": "http", "headers": headers, "query_string": b""}
    scope[ARRIVAL] = Arrival(scope, None)  # type: ignore[arg-type]
    request = Request(scope, None)  # type: ignore[arg-type]
    request.caller, request.query = caller, query
    return request


@pytest.mark.parametrize(
    ("name", "query", "worker"),
    [
        ("w1", {}, "w1"),
        ("w1", {"worker": "w2"}, "w1"),
        ("", {"worker": "w2"}, "w2"),
        ("", {}, None),
    ],
)
def test_an_enrolled_worker_is_looked_up_by_its_secret_and_any_other_by_the_name_it_gives(
    name: str, query: dict[str, str], worker: str | None
) -> None:
    looked_up: list[str] = []

    def view(_tx: Any, worker: str, _version: str) -> OwnView:
        looked_up.append(worker)
        return OwnView(worker, "0", "idle", "none", None, None, "", None, [], [], 0, 0, [])

    async def run(change: Any) -> Any:
        return change("tx")

    fleet: Any = SimpleNamespace(
        queue=SimpleNamespace(own=view),
        sessions=SimpleNamespace(clashed_s=lambda one: 3.0 if one == "w1" else None),
        run=run,
        version="0",
    )
    request = asked(Caller("worker", name), query)
    if worker is None:
        with pytest.raises(InvalidMessageError, match="the query names no worker"):
            asyncio.run(own(fleet, request))
        return
    answer = json.loads(bytes(asyncio.run(own(fleet, request)).body))
    assert looked_up == [worker]
    assert bool(answer["alerts"]) is (worker == "w1")


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (None, False),
        ("", False),
        ('"a"', True),
        (' "a" ', True),
        ('W/"a"', True),
        ('"b", "a"', True),
        ('"b", W/"a"', True),
        ("*", True),
        (" * ", True),
        ('"b"', False),
        ("a", False),
        ('"aa"', False),
    ],
)
def test_a_list_is_unchanged_for_who_has_its_tag(given: str | None, same: bool) -> None:
    assert is_unchanged(asked(Caller("reader"), {}, given), '"a"') is same
