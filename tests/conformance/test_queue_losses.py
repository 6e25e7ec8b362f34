"""What the queue remembers of hosts that can no longer train what they could."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.queue_world import OPERATOR, Engine, World, entry, host, open_world
from training.fleet.model.errors import NotFoundError

ALL = ("gbt", "mlp", "cnn", "gru")


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[World]:
    with open_world(tmp_path, engine=engine) as made:
        made.load([entry(1)])
        yield made


def call(world: World, models: tuple[str, ...] | None = ALL, vram_gib: int = 12, name: str = "tower") -> None:
    world.claim(host(name, vram_gib=vram_gib, models=models))


def told(world: World) -> list[str]:
    return [line.partition("; ")[0] for line in world.queue.losses.lines()]


def test_a_host_that_loses_models_or_cuda_is_told_of_since_when_until_it_has_them_back(world: World) -> None:
    call(world)
    assert told(world) == []
    call(world, ("gbt", "mlp"))
    since = world.wall
    assert told(world) == [f"tower lost cnn, gru since {since}"]
    call(world, ("gbt", "mlp"), vram_gib=0)
    assert told(world) == [f"tower lost cnn, gru, CUDA since {since}"]
    call(world, ("gbt", "mlp", "cnn"))
    assert told(world) == [f"tower lost gru since {since}"]
    call(world)
    assert told(world) == []


def test_a_loss_outlives_the_receiver(world: World) -> None:
    call(world)
    call(world, ("gbt",), vram_gib=0)
    before = told(world)
    world.restart()
    assert told(world) == before
    call(world, ("gbt",), vram_gib=0)
    assert told(world) == before
    call(world)
    world.restart()
    assert told(world) == []


def test_a_loss_while_the_receiver_was_away_is_noticed(world: World) -> None:
    call(world)
    world.restart()
    call(world, ("gbt", "mlp", "gru"))
    assert [line.partition(" since")[0] for line in told(world)] == ["tower lost cnn"]


def test_an_operator_accepts_a_loss_and_the_next_one_is_told_again(world: World) -> None:
    call(world)
    call(world, ("gbt", "mlp"))
    assert world.do(lambda tx: world.queue.losses.accept(tx, "tower", OPERATOR)) == ["cnn", "gru"]
    assert told(world) == []
    world.restart()
    call(world, ("gbt", "mlp"))
    assert told(world) == []
    assert world.do(lambda tx: world.queue.losses.accept(tx, "tower", OPERATOR)) == []
    call(world, ("gbt",))
    assert [line.partition(" since")[0] for line in told(world)] == ["tower lost mlp"]


def test_a_new_host_and_one_that_says_nothing_of_its_models_have_lost_nothing(world: World) -> None:
    call(world, None)
    call(world, ALL)
    call(world, ("gbt",), name="pi")
    assert told(world) == []


def test_a_host_that_never_called_cannot_be_accepted(world: World) -> None:
    with pytest.raises(NotFoundError, match="no worker tower ever called"):
        world.do(lambda tx: world.queue.losses.accept(tx, "tower", OPERATOR))


def test_a_host_that_says_other_models_at_each_call_does_not_fill_the_database(world: World) -> None:
    for number in range(40):
        call(world, tuple(f"m{number}-{each}" for each in range(5)))
    [line] = told(world)
    assert line.count(", ") == 63
