"""Whose turn it is to upload, and how much one lease may bring."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from training.fleet.api import uploading
from training.fleet.api.arrival import Arrival
from training.fleet.api.uploading import MAX_DIGESTS, MAX_LEASES, Uploads
from training.fleet.model.errors import ConflictError, UnavailableError


def test_a_lease_begins_so_many_artifacts_and_any_of_them_again() -> None:
    uploads = Uploads()
    for number in range(MAX_DIGESTS):
        uploads.begin("a", f"{number}")
    with pytest.raises(ConflictError, match=f"has begun {MAX_DIGESTS} different artifacts"):
        uploads.begin("a", "one more")
    for number in range(MAX_DIGESTS):
        uploads.begin("a", f"{number}")
    uploads.begin("b", "one more")
    uploads.close()


def test_as_many_leases_are_remembered_as_may_be_and_of_one_more_the_oldest_is_forgotten() -> None:
    uploads = Uploads()
    for number in range(MAX_LEASES):
        uploads.begin(f"{number}", "x")
    for number in range(MAX_DIGESTS - 1):
        uploads.begin("0", f"{number}")
    with pytest.raises(ConflictError):
        uploads.begin("0", "one more")  # all are remembered yet
    uploads.begin("new", "x")
    uploads.begin("0", "one more")
    assert len(uploads._begun) == MAX_LEASES
    uploads.close()


def arrival() -> Arrival:
    async def receive() -> Any:
        await asyncio.Event().wait()

    return Arrival({"type": "http", "headers": []}, receive)


def test_of_uploads_that_wait_for_their_turn_the_newest_gets_it() -> None:
    async def run() -> list[str]:
        uploads, done = Uploads(), list[str]()
        ends = asyncio.Event()

        async def upload(name: str) -> None:
            try:
                async with uploads.turn("lease", arrival()):
                    done.append(f"{name} begins")
                    await ends.wait()
                    done.append(f"{name} ends")
            except UnavailableError as error:
                assert error.retry_after_s == uploading.REPLACED_RETRY_S
                done.append(f"{name} is replaced")

        tasks = []
        for name in ("first", "second", "third"):
            tasks.append(asyncio.create_task(upload(name)))
            await asyncio.sleep(0)
        ends.set()
        await asyncio.gather(*tasks)
        assert uploads._lines == {}
        uploads.close()
        return done

    assert asyncio.run(run()) == [
        "first begins", "first ends", "second is replaced", "third begins", "third ends",
    ]  # fmt: skip


def test_a_turn_that_nobody_else_wants_is_given_up_by_nobody() -> None:
    async def run() -> None:
        uploads = Uploads()
        one, other = arrival(), arrival()
        async with uploads.turn("a", one), uploads.turn("b", other):
            one.demand_wanted()
            other.demand_wanted()
        async with uploads.turn("a", one):
            one.demand_wanted()
        uploads.close()

    asyncio.run(run())
