"""Which workers a receiver speaks with, by their version, and that a revoked one gets nothing at the last moment."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from training.fleet.api.fleet import Fleet
from training.fleet.api.handlers.uploads import _for_upload
from training.fleet.api.handlers.worker import _claimed, _speakable, claim
from training.fleet.auth import Caller
from training.fleet.model.errors import FleetError, RevokedError, UnavailableError, UpgradeRequiredError


@pytest.mark.parametrize(
    ("version", "speaks"),
    [
        ("0.1", True),
        ("0.1.0", True),
        ("0.2.3", True),
        ("0.10", True),
        ("1.0", True),
        ("10.0", True),
        ("0.0", False),
        ("0.0.9", False),
        ("0.00.9", False),
        # what cannot be read counts as new
        ("", True),
        ("0", True),
        ("0.", True),
        ("0.x", True),
        ("x.0", True),
        ("0.-1", True),
        ("0.0rc1", True),
        ("dev", True),
    ],
)
def test_a_worker_is_refused_when_its_version_says_that_it_is_too_old_and_in_no_other_case(
    version: str, speaks: bool
) -> None:
    assert _speakable(version) is speaks


@pytest.mark.parametrize("revoked", [False, True])
def test_a_worker_that_was_revoked_after_it_was_let_in_neither_claims_nor_uploads(revoked: bool) -> None:
    """The writer's thread judges again, because requests wait for it while identities end."""
    given: list[str] = []

    def demand_living(_identity: str) -> None:
        if revoked:
            raise RevokedError("the identity ended", "enrol again")

    async def run(change: Any) -> Any:
        return change("tx")

    queue = SimpleNamespace(
        identities=SimpleNamespace(demand_living=demand_living, living=lambda _worker: None),
        claim=lambda *_, **__: given.append("a lease"),
        artifacts=SimpleNamespace(lease_for_upload=lambda *_: given.append("an upload") or (1, "a key")),
    )
    fleet: Any = SimpleNamespace(queue=queue, run=run)
    request: Any = SimpleNamespace(caller=Caller("worker", "w1", identity="an-id"), target="a" * 64)
    message: Any = SimpleNamespace(worker="w1")
    if not revoked:
        _claimed(fleet, request, "tx", message)  # type: ignore[arg-type]
        assert asyncio.run(_for_upload(fleet, request, "a-lease")) == "a key"
        assert given == ["a lease", "an upload"]
        return
    with pytest.raises(RevokedError):
        _claimed(fleet, request, "tx", message)  # type: ignore[arg-type]
    with pytest.raises(RevokedError):
        asyncio.run(_for_upload(fleet, request, "a-lease"))
    assert given == []


@pytest.mark.parametrize(
    ("version", "draining", "refusal"),
    [("0.1.0", False, None), ("0.1.0", True, UnavailableError), ("0.0.9", False, UpgradeRequiredError)],
)
def test_a_claim_is_refused_while_the_receiver_stops_and_to_a_worker_that_is_too_old(
    version: str, draining: bool, refusal: type[FleetError] | None
) -> None:
    claims: list[str] = []

    async def run(change: Any) -> Any:
        return change("tx")

    identities = SimpleNamespace(demand_living=lambda _identity: None, living=lambda _worker: None)
    fleet: Any = SimpleNamespace(
        queue=SimpleNamespace(identities=identities, claim=lambda *_, **__: claims.append("asked")),
        run=run,
        draining=draining,
        meters=SimpleNamespace(claims=SimpleNamespace(observe=lambda _seconds: None)),
        idle_retry_s=10.0,
    )
    fleet.demand_open = lambda: Fleet.demand_open(fleet)
    request: Any = SimpleNamespace(caller=Caller("worker"), wait_s=lambda _cap_s: 0.0)
    message: Any = SimpleNamespace(worker="w1", capability=SimpleNamespace(version=version))
    if refusal is None:
        answer = asyncio.run(claim(fleet, request, message))
        assert (answer.status_code, answer.headers["retry-after"], claims) == (204, "10", ["asked"])
        return
    with pytest.raises(refusal):
        asyncio.run(claim(fleet, request, message))
    assert claims == []
