"""Which card a lease names: the smallest free one that is large enough, and none that another job has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from queue_world import GIB, Engine, World, entry, host, open_world

from training.fleet.model.capability import Capability, Gpu
from training.fleet.model.jobs import Policy, Requirement

BIG = Gpu("A100", "GPU-big", 80 * GIB, 80 * GIB, "550", 0)
SMALL = Gpu("RTX 3060", "GPU-small", 12 * GIB, 12 * GIB, "550", 1)
TOWER = {"tower": Policy(slots=3)}


def tower(*gpus: Gpu) -> Capability:
    return replace(host("tower", vram_gib=1), gpus=gpus)


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[World]:
    with open_world(tmp_path, engine=engine) as opened:
        yield opened


@pytest.mark.parametrize(
    ("requirement", "card"),
    [
        (Requirement("gbt", require_cuda=True), "GPU-small"),
        (Requirement("gbt", prefer_cuda=True), "GPU-small"),
        (Requirement("gbt", min_vram_gib=12), "GPU-small"),
        (Requirement("gbt", min_vram_gib=13), "GPU-big"),
        (Requirement("gbt", require_cuda=True, over_vram_gib=12), "GPU-big"),
        (Requirement("gbt"), None),
    ],
)
def test_the_lease_names_the_smallest_card_that_fits(world: World, requirement: Requirement, card: str | None) -> None:
    world.load([entry(1, requirement)], TOWER)
    lease = world.claim(tower(BIG, SMALL))
    assert (lease.card, lease.cuda) == (card, card is not None)


def test_a_job_without_a_wish_gets_the_card_of_a_host_with_one_slot(world: World) -> None:
    world.load([entry(1)], {"tower": Policy()})
    assert world.claim(tower(SMALL)).card == "GPU-small"


def test_a_card_has_one_job_at_a_time_also_after_a_restart(world: World) -> None:
    wants = Requirement("gbt", require_cuda=True)
    world.load([entry(number, wants) for number in (1, 2, 3)], TOWER)
    first = world.claim(tower(BIG, SMALL))
    world.beat(first)
    world.restart()
    second = world.claim(tower(BIG, SMALL), [first.lease_id])
    assert [first.card, second.card] == ["GPU-small", "GPU-big"]
    assert world.claim(tower(BIG, SMALL), [first.lease_id, second.lease_id]) is None
    world.fail(first, "preempted")
    again = world.claim(tower(BIG, SMALL), [second.lease_id])
    assert again.card == "GPU-small"


def test_a_claim_that_is_asked_again_gets_the_same_card(world: World) -> None:
    world.load([entry(1, Requirement("gbt", require_cuda=True))], TOWER)
    first = world.claim(tower(BIG, SMALL), claim_id="the-same-question")
    assert world.claim(tower(BIG, SMALL), claim_id="the-same-question").card == first.card


@pytest.mark.parametrize(("free_gib", "given"), [(9, False), (15, False), (16, True), (40, True)])
def test_the_need_is_compared_with_what_is_free(world: World, free_gib: int, given: bool) -> None:
    world.load([entry(1, Requirement("gbt", min_vram_gib=16))], TOWER)
    lease = world.claim(tower(replace(BIG, free_vram_bytes=free_gib * GIB), SMALL))
    assert (lease is not None) is given


@pytest.mark.parametrize("card", [replace(BIG, free_vram_bytes=GIB), replace(SMALL, free_vram_bytes=0)])
def test_a_job_that_prefers_cuda_runs_without_once_it_has_waited(world: World, card: Gpu) -> None:
    world.load([entry(1, Requirement("gbt", prefer_cuda=True))], TOWER)
    assert world.claim(tower(card)) is None
    world.wait(601)
    lease = world.claim(tower(card))
    assert (lease.cuda, lease.card) == (False, None)


def test_running_out_of_memory_teaches_the_size_of_the_card_that_was_used(world: World) -> None:
    world.load([entry(1, Requirement("gbt", require_cuda=True))], {"tower": Policy()})
    lease = world.claim(tower(BIG, SMALL))
    world.beat(lease)
    world.fail(lease, "oom_gpu")
    world.wait(3600)
    assert world.claim(tower(SMALL)) is None
    assert world.claim(tower(BIG, SMALL)).card == "GPU-big"


def test_a_card_of_unknown_size_is_as_large_as_the_manifest_says(world: World) -> None:
    unknown = Gpu("GB10", "GPU-x", 0, 0, "580", 0)
    world.load([entry(1, Requirement("gbt", min_vram_gib=16))], {"tower": Policy()})
    assert world.claim(tower(unknown)) is None
    world.load([entry(1, Requirement("gbt", min_vram_gib=16))], {"tower": Policy(vram_gib=100)})
    assert world.claim(tower(unknown)).card == "GPU-x"


def test_a_card_torch_cannot_use_is_never_named(world: World) -> None:
    world.load([entry(1, Requirement("gbt", require_cuda=True))], TOWER)
    assert world.claim(tower(BIG, replace(SMALL, usable=False))).card == "GPU-big"
