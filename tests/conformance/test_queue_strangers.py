"""Hosts that the manifest does not name are remembered up to a bound: anybody can make up names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from queue_world import Engine, World, entry

from training.fleet.model.errors import HostRefusedError
from training.fleet.model.jobs import Policy
from training.fleet.queue import claim

AWAY_S = 1000.0
"""Longer than a lease term: who was not heard for so long is away."""


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "MAX_UNNAMED_HOSTS", 3)


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[World]:
    made = World(tmp_path / "queue.db", engine=engine)
    made.load([])
    yield made
    made.database.close()


def names(world: World) -> list[str]:
    return [str(row["name"]) for row in world.engine.look(world.database, "SELECT name FROM worker ORDER BY name")]


def test_the_host_that_was_silent_longest_makes_room(world: World) -> None:
    for name in ("c", "a", "b"):
        world.claim(name)
        world.wait(1)
    world.wait(AWAY_S)
    world.claim("b")
    world.claim("d")
    assert names(world) == ["a", "b", "d"]
    world.restart()
    world.claim("e")
    assert len(names(world)) == 3
    assert "e" in names(world)


def test_hosts_that_are_heard_are_not_forgotten_and_one_more_is_refused(world: World) -> None:
    for name in ("a", "b", "c"):
        world.claim(name)
    with pytest.raises(HostRefusedError, match="3 hosts that the manifest does not name are heard now"):
        world.claim("d")
    assert names(world) == ["a", "b", "c"]
    world.claim("a")


def test_a_host_that_the_manifest_names_always_has_room_and_is_never_forgotten(world: World) -> None:
    world.load([], {"default": Policy(), "tower": Policy(), "nas": Policy()})
    for name in ("tower", "a", "b", "c"):
        world.claim(name)
    world.claim("nas")
    world.wait(AWAY_S)
    world.claim("d")
    assert names(world) == ["b", "c", "d", "nas", "tower"]


def test_a_silent_host_that_holds_a_lease_is_not_forgotten(world: World) -> None:
    world.load([entry(0)])
    lease = world.running("a")
    world.claim("b")
    world.claim("c")
    for _ in range(4):
        world.wait(300)
        world.queue._memory.leases.extend(lease.lease_id)
    world.claim("d")
    assert "a" in names(world)
