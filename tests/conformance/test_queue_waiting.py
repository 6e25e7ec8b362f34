"""Why jobs wait, as lists say it, and which jobs no host can run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.queue_world import Engine, World, entry, host, open_world
from training.fleet.model.capability import GIB
from training.fleet.model.jobs import Headline, Policy, Requirement
from training.fleet.queue import Filters, views
from training.fleet.queue.waiting import brief

REASONS = Filters(extras={"reason"})
EMPTY: dict[str, Policy] = {}


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[World]:
    with open_world(tmp_path, engine=engine) as opened:
        yield opened


def reasons(world: World) -> list[str]:
    return [job.reason for job in listed(world, REASONS)]


def listed(world: World, filters: Filters) -> list[Any]:
    found: list[Any] = []
    cursor: str | None = None
    for _ in range(1000):
        page = world.do(lambda tx, cursor=cursor: world.queue.jobs(tx, filters, cursor, 500))
        found += page.jobs
        cursor = page.next
        if cursor is None:
            return found
    raise AssertionError("the pages have no end")


def stranded(world: World) -> int:
    return int(world.do(world.queue.stranded))


def test_a_job_that_some_host_could_take_waits_for_a_slot_there(world: World) -> None:
    world.load([entry(0), entry(1)])
    world.claim("pi")
    world.claim("box")
    assert reasons(world) == ["", ""]
    world.load([entry(n) for n in range(4)])
    assert reasons(world)[2:] == ["slot on box, pi"] * 2
    world.claim("tower")
    assert reasons(world)[3:] == ["slot on box, pi +1"]
    assert stranded(world) == 0


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (Requirement("gbt", require_cuda=True), "no host: require_cuda"),
        (Requirement("gbt", min_vram_gib=8), "no host: min_vram_gib"),
        (Requirement("gbt", min_ram_gib=64), "no host: min_ram_gib"),
        (Requirement("gbt", allowed_hosts=("nas",)), "no host: allowed_hosts"),
        (Requirement("gbt", require_cuda=True, min_ram_gib=64), "no host: require_cuda, min_ram_gib"),
        (Requirement("gbt", require_cuda=True, min_ram_gib=64, allowed_hosts=("nas",)),
         "no host: allowed_hosts, require_cuda"),
    ],
    ids=["cuda", "vram", "ram", "hosts", "two", "three"],
)  # fmt: skip
def test_a_job_that_no_host_can_run_names_what_the_nearest_lacks(world: World, needs: Requirement, reason: str) -> None:
    world.load([entry(0, needs), entry(1, needs), entry(2)])
    world.claim("pi")
    assert reasons(world)[:2] == [reason] * 2
    assert stranded(world) == 2


def test_the_nearest_host_is_the_one_with_the_fewest_reasons(world: World) -> None:
    needs = Requirement("gbt", require_cuda=True, min_ram_gib=64)
    world.load([entry(0, needs), entry(1)])
    world.claim(host("pi"))
    world.claim(host("tower", ram_gib=128))
    assert reasons(world)[0] == "no host: require_cuda"
    world.claim(host("a-card", vram_gib=8))
    world.claim(host("both", ram_gib=128, vram_gib=8))
    assert world.status(entry(0, needs).id) == "claimed"


def test_a_host_that_was_not_heard_for_a_lease_is_away(world: World) -> None:
    world.load([entry(0)])
    lease = world.running("pi")
    world.load([entry(0), entry(1)])
    assert reasons(world)[1] == "slot on pi"
    world.complete(lease)
    world.now += world.queue.terms.lease_s + 1
    assert reasons(world) == ["", "host away: pi"]
    assert stranded(world) == 0


def test_a_host_that_never_called_is_judged_by_its_declaration(world: World) -> None:
    needs = Requirement("gbt", require_cuda=True)
    world.load([entry(0, needs)], {"default": Policy(), "tower": Policy(cuda=True)})
    assert reasons(world) == ["host away: tower"]
    assert stranded(world) == 0
    world.load([entry(0, needs)], {"default": Policy()})
    assert reasons(world) == ["no host known"]
    assert stranded(world) == 1
    world.load([entry(0, needs)], {"nas": Policy()})
    assert reasons(world) == ["no host: require_cuda"]


def test_a_host_that_the_manifest_shuts_out_makes_nothing_possible(world: World) -> None:
    world.load([entry(0), entry(1)])
    world.claim("pi")
    assert reasons(world)[1] == "slot on pi"
    world.load([entry(0), entry(1)], {"other": Policy(allow_jobs=())})
    assert reasons(world)[1] == "no host: policy"
    world.load([entry(0), entry(1)])
    assert reasons(world)[1] == "slot on pi"


def test_a_card_that_a_game_uses_comes_free_by_itself(world: World) -> None:
    needs = Requirement("gbt", require_cuda=True)
    world.load([entry(0, needs), entry(1)])
    tower = host("tower", vram_gib=8)
    world.claim(replace(tower, gpus=(replace(tower.gpus[0], free_vram_bytes=GIB),)))
    assert reasons(world)[0] == "card in use on tower"
    assert stranded(world) == 0


def test_a_failed_attempt_says_how_long_the_back_off_lasts(world: World) -> None:
    world.load([entry(0)])
    world.fail(world.running("pi"))
    assert reasons(world) == ["back-off 30 s"]
    world.now += 10
    assert reasons(world) == ["back-off 20 s"]
    world.wait(world.queue.terms.backoff_s)
    assert reasons(world) == ["slot on pi"]
    # After a restart of the receiver a back-off is over, and no one knows how long it was.
    world.fail(world.running("pi"))
    world.restart()
    assert reasons(world) == ["host away: pi"]


def test_a_host_that_gave_a_job_back_gets_it_again_later(world: World) -> None:
    world.load([entry(0)])
    world.fail(world.running("pi"), "host_fault")
    assert reasons(world) == ["gave back: pi again in 30 s"]
    world.claim("box")
    assert reasons(world) == [""]


def test_a_job_that_prefers_cuda_waits_for_the_host_that_has_it(world: World) -> None:
    prefers = Requirement("gbt", prefer_cuda=True)
    world.load([entry(0), entry(1, prefers), entry(2, prefers)])
    world.claim("pi")
    world.claim(host("tower", vram_gib=8))
    assert reasons(world)[2] == "slot on tower"


def test_only_what_waits_has_a_reason_and_only_where_it_is_asked_for(world: World) -> None:
    world.load([entry(n) for n in range(3)])
    world.running("pi")
    world.cancel(entry(1).id)
    assert reasons(world) == ["", "", "slot on pi"]
    assert [job.reason for job in listed(world, Filters())] == ["", "", ""]


def test_counting_of_stranded_jobs_stops(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.fleet.queue.waiting.MAX_STRANDED", 3)
    world.load([entry(n, Requirement("gbt", min_ram_gib=64 + n % 2)) for n in range(8)])
    world.claim("pi")
    assert stranded(world) == 3


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (40, "40 s"), (60, "1 min"), (720, "12 min"), (5399, "90 min"), (7200, "2 h")],
)
def test_a_wait_is_said_in_one_unit(seconds: float, said: str) -> None:
    assert brief(seconds) == said


# ---- pages with more than the plain fields


def test_a_page_that_takes_long_to_show_ends_early_and_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.load([entry(n) for n in range(5)])
    monkeypatch.setattr(views, "REASONS_S", -1.0)
    first = world.do(lambda tx: world.queue.jobs(tx, REASONS, None, 500))
    assert (len(first.jobs), first.next) == (1, "s1")
    assert [job.id for job in listed(world, REASONS)] == [entry(n).id for n in range(5)]
    by_id = Filters(id_prefix=entry(3).id[:1], extras={"reason"})
    assert entry(3).id in [job.id for job in listed(world, by_id)]


def test_hyper_parameters_are_shown_where_asked_for_and_bound_a_page(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.load([entry(n) for n in range(5)])
    asked = Filters(extras={"hyper"})
    assert [job.hyper for job in listed(world, asked)] == [{"max_iter": n} for n in range(5)]
    assert [job.hyper for job in listed(world, Filters())] == [None] * 5
    monkeypatch.setattr(views, "HYPER_CHARS", 300)
    first = world.do(lambda tx: world.queue.jobs(tx, asked, None, 500))
    assert 1 <= len(first.jobs) < 5
    assert [job.hyper for job in listed(world, asked)] == [{"max_iter": n} for n in range(5)]


def test_a_list_can_be_bounded_in_time(world: World) -> None:
    world.load([entry(n) for n in range(3)])
    world.wall = "2026-11-30T10:00:00.000Z"
    world.cancel(entry(1).id)
    world.wall = "2026-11-30T11:00:00.000Z"
    world.cancel(entry(2).id)
    for since, until, found in (
        ("2026-11-30T10:00:00.000Z", None, [1, 2]),
        ("2026-11-30T10:00:00.001Z", None, [2]),
        (None, "2026-11-30T11:00:00.000Z", [0, 1]),
        ("2026-11-30T10:00:00.000Z", "2026-11-30T11:00:00.000Z", [1]),
        ("2027-01-01T00:00:00.000Z", None, []),
    ):
        for more in ({}, {"statuses": frozenset({"pending", "cancelled"})}):
            shown = [job.id for job in listed(world, Filters(since=since, until=until, **more))]
            assert shown == [entry(n).id for n in found]
    prefix = Filters(id_prefix=entry(1).id[:8], since="2026-11-30T10:30:00.000Z")
    assert listed(world, prefix) == []


def test_a_page_names_the_headline_metric_also_after_a_restart(world: World) -> None:
    world.load([entry(0)], headline=Headline("loss", "lower"))
    for _ in range(2):
        page = world.do(world.queue.jobs)
        assert page.headline == Headline("loss", "lower")
        world.restart()
    world.load([entry(0)])
    assert world.do(world.queue.jobs).headline is None


def test_the_names_that_filters_can_take_are_those_there_are(world: World) -> None:
    assert world.do(world.queue.names).hosts == []
    jobs = [entry(0), replace(entry(1), tags=("night", "alice")), replace(entry(2), tags=("night",))]
    world.load(jobs, {"default": Policy(), "declared": Policy()})
    world.claim("pi")
    found = world.do(world.queue.names)
    assert (found.hosts, found.models, found.datasets) == (["declared", "pi"], ["gbt"], [])
    assert found.tags == ["alice", "night"]
