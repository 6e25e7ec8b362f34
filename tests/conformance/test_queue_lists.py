from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.queue_world import ARTIFACT, OPERATOR, Engine, World, entry, host, open_world
from training.fleet import __version__
from training.fleet.database.queries import JOBS_BY_SEQ, JOBS_BY_STATUS, JOBS_NAMED
from training.fleet.model.errors import InvalidMessageError, NotFoundError
from training.fleet.model.jobs import DatasetRef, Policy, Requirement, Trainer
from training.fleet.queue import Filters, views
from training.fleet.wire.identities import Enrol, InviteOrder
from training.fleet.wire.people import AttemptView, FailureView, JobPage


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[World]:
    with open_world(tmp_path, engine=engine) as opened:
        yield opened


def page(world: World, filters: Filters | None = None, cursor: str | None = None, limit: int = 100) -> JobPage:
    found = world.do(lambda tx: world.queue.jobs(tx, filters, cursor, limit))
    assert isinstance(found, JobPage)
    return found


def every(world: World, filters: Filters | None = None, limit: int = 2) -> list[int]:
    """Follow the cursors; return the numbers of the jobs."""
    shown: list[int] = []
    cursor: str | None = None
    for _ in range(1000):
        found = page(world, filters, cursor, limit)
        assert len(found.jobs) <= limit
        shown += [numbers(world)[view.id] for view in found.jobs]
        if found.next is None:
            return shown
        assert found.next != cursor
        cursor = found.next
    raise AssertionError("the pages have no end")


def numbers(world: World) -> dict[str, int]:
    return {entry(number, mode=mode).id: number for number in range(10) for mode in ("realistic", "oracle")}


def filled(world: World) -> None:
    """Jobs 0 completed, 1 running, 2 claimed, 3 cancelled, 4 failed, 5 and 6 pending; the odd ones are oracle."""
    world.load([entry(number, mode="oracle" if number % 2 else "realistic", max_attempts=1) for number in range(7)])
    world.complete(world.running("pi"))
    world.running("pi")
    world.claim("server")
    world.cancel(entry(3, mode="oracle").id)
    world.fail(world.running("tower"), "trainer_error", error="no such key")


def test_an_empty_queue_has_one_empty_page(world: World) -> None:
    assert page(world) == JobPage([], None)
    assert page(world, Filters(frozenset({"pending"}))) == JobPage([], None)


def test_pages_follow_each_other_without_gaps_or_repeats(world: World) -> None:
    filled(world)
    assert [every(world, limit=limit) for limit in (1, 3, 7, 100)] == [[0, 1, 2, 3, 4, 5, 6]] * 4


def test_a_page_with_specifications_is_bounded_more_tightly(world: World) -> None:
    """A specification may take 64 KiB, and the receiver may not hold 500 of them at once."""
    world.load([entry(number) for number in range(103)])
    first = page(world, Filters(extras={"spec"}), limit=500)
    rest = page(world, Filters(extras={"spec"}), first.next, limit=500)
    assert [len(first.jobs), len(rest.jobs), rest.next] == [100, 3, None]
    assert [view.spec["hyper"] for view in rest.jobs if view.spec] == [
        {"max_iter": number} for number in (100, 101, 102)
    ]
    assert {view.spec is None for view in page(world, limit=500).jobs} == {True}
    assert len(page(world, limit=500).jobs) == 103


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(frozenset({"pending"})), [5, 6]),
        (Filters(frozenset({"running", "claimed"})), [1, 2]),
        (Filters(frozenset({"running", "claimed", "pending", "completed", "failed", "cancelled"})), list(range(7))),
        (Filters(mode="oracle"), [1, 3, 5]),
        (Filters(frozenset({"pending", "cancelled"}), mode="oracle"), [3, 5]),
        (Filters(model="gbt"), list(range(7))),
        (Filters(model="mlp"), []),
        (Filters(host="pi"), [0, 1]),
        (Filters(frozenset({"running"}), host="pi"), [1]),
        (Filters(frozenset({"running"}), host="server"), []),
        (Filters(frozenset({"running", "completed"}), model="gbt"), [0, 1]),
        (Filters(frozenset({"running", "completed"}), model="mlp"), []),
        (Filters(id_prefix="f" * 63), []),
    ],
)
def test_filters_choose_jobs(world: World, filters: Filters, expected: list[int]) -> None:
    filled(world)
    assert every(world, filters) == expected
    assert every(world, filters, limit=1) == expected


def test_jobs_are_found_by_the_start_of_their_id(world: World) -> None:
    filled(world)
    for number in range(7):
        job_id = entry(number, mode="oracle" if number % 2 else "realistic").id
        assert every(world, Filters(id_prefix=job_id[:12])) == [number]
        assert every(world, Filters(id_prefix=job_id)) == [number]
    wanted = sorted(job_id for job_id in (view.id for view in page(world).jobs) if job_id[0] in "0123456789")
    found = [view.id for digit in "0123456789" for view in page(world, Filters(id_prefix=digit)).jobs]
    assert found == wanted


@pytest.mark.parametrize(
    ("filters", "shown"),
    [
        ({"statuses": frozenset({"running"})}, True),
        ({"statuses": frozenset({"pending", "completed"})}, False),
        ({"model": "gbt"}, True),
        ({"model": "mlp"}, False),
        ({"mode": "oracle"}, True),
        ({"mode": "realistic"}, False),
        ({"host": "pi"}, True),
        ({"host": "server"}, False),
    ],
)
def test_a_start_of_an_id_and_each_filter_must_both_fit(world: World, filters: dict[str, Any], shown: bool) -> None:
    filled(world)
    assert every(world, Filters(id_prefix=entry(1, mode="oracle").id[:12], **filters)) == [1] * shown


def test_the_jobs_of_a_status_come_in_their_order_however_small_the_pages_are(world: World) -> None:
    world.load(entry(number) for number in range(8))
    assert [every(world, Filters(frozenset({"pending"})), limit=limit) for limit in (1, 2, 3)] == [list(range(8))] * 3


def test_a_window_ends_where_it_was_told_to(world: World) -> None:
    world.load(entry(number) for number in range(8))
    values = {"after": 2, "upto": 4, "model": None, "mode": None, "host": None, "since": None, "until": None}
    values |= {"tag": None, "withdrawn": 1, "limit": 9}
    for statement, more in ((JOBS_BY_SEQ, {}), (JOBS_BY_STATUS, {"status": "pending"})):
        found = world.do(lambda tx, statement=statement, more=more: tx.all(statement, **values, **more))
        assert [row.seq for row in found] == [3, 4]
    found = world.do(lambda tx: tx.all(JOBS_NAMED, ids=json.dumps([entry(3).id, entry(99).id])))
    assert [row.id for row in found] == [entry(3).id]


def test_a_start_of_ids_can_be_filtered_and_paged(world: World) -> None:
    world.load(entry(number) for number in range(10))
    digit = "0123456789abcdef"
    by_digit = {d: [entry(n).id for n in range(10) if entry(n).id[0] == d] for d in digit}
    shared = max(by_digit, key=lambda d: len(by_digit[d]))
    assert len(by_digit[shared]) > 1
    assert len(every(world, Filters(id_prefix=shared), limit=1)) == len(by_digit[shared])
    assert every(world, Filters(frozenset({"failed"}), id_prefix=shared)) == []
    assert every(world, Filters(model="mlp", id_prefix=shared)) == []


def test_a_page_with_rare_filters_stops_looking_after_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "WINDOW", 2)
    monkeypatch.setattr(views, "SCAN_S", -1.0)
    filled(world)
    first = page(world, Filters(host="tower"))
    assert (first.jobs, first.next) == ([], "s2")
    assert every(world, Filters(host="tower")) == [4]


def test_the_last_page_names_no_next_one_even_when_it_is_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "WINDOW", 2)
    monkeypatch.setattr(views, "SCAN_S", 0.0)
    filled(world)
    wanted = [Filters(), Filters(host="pi"), Filters(id_prefix=entry(0).id)]
    found = [page(world, filters, limit=limit) for filters, limit in zip(wanted, (7, 2, 1), strict=True)]
    assert [(len(one.jobs), one.next) for one in found] == [(7, None), (2, None), (1, None)]


@pytest.mark.parametrize(
    ("filters", "next_one"),
    [
        (Filters(model="mlp"), "s2"),
        (Filters(mode="none"), "s2"),
        (Filters(host="none"), "s2"),
        (Filters(tag="none"), "s2"),
        (Filters(), "s2"),
        (Filters(frozenset({"claimed"}), withdrawn=True), None),
        (Filters(withdrawn=True), None),
    ],
)
def test_only_a_filter_that_may_refuse_most_jobs_is_looked_for_in_windows(
    world: World, monkeypatch: pytest.MonkeyPatch, filters: Filters, next_one: str | None
) -> None:
    monkeypatch.setattr(views, "WINDOW", 2)
    monkeypatch.setattr(views, "SCAN_S", -1.0)
    filled(world)
    assert page(world, filters).next == next_one


@pytest.mark.parametrize("cursor", ["", "x1", "s", "sabc", "s-1", "s1.5", "i12", "s①", "s'; DROP TABLE job"])
def test_a_strange_cursor_is_refused(world: World, cursor: str) -> None:
    with pytest.raises(InvalidMessageError, match="start again without one"):
        page(world, None, cursor)


@pytest.mark.parametrize("cursor", ["s1", "i", "i-", "i①", "ié"])
def test_a_strange_cursor_of_an_id_list_is_refused(world: World, cursor: str) -> None:
    with pytest.raises(InvalidMessageError):
        page(world, Filters(id_prefix="a"), cursor)
    assert page(world, Filters(id_prefix="a"), "iffff").jobs == []


def test_behind_a_cursor_of_many_digits_there_is_no_job(world: World) -> None:
    filled(world)
    assert page(world, None, "s" + "9" * 64) == JobPage([], None)


def test_the_limit_is_bounded(world: World) -> None:
    world.load(entry(number) for number in range(3))
    assert len(page(world, limit=0).jobs) == 1
    assert len(page(world, limit=10**9).jobs) == 3


def test_a_job_shows_everything_about_it(world: World) -> None:
    dataset = DatasetRef("lab", "sha256:" + "1" * 64)
    wanted = Requirement("gbt", min_ram_gib=2, allowed_hosts=("p*",), dataset=dataset)
    job = entry(1, wanted, dataset=dataset, priority=3, timeout_s=60, max_attempts=2)
    world.load([job])
    lease = world.running(host("pi", datasets={"lab": dataset.digest}))
    world.fail(lease, "timeout", error="took too long", log_tail="step 7")
    detail = world.detail(job.id)
    assert detail.spec == job.spec.document()
    assert detail.constraints == {
        "model": "gbt",
        "require_cuda": False,
        "prefer_cuda": False,
        "min_vram_gib": 0,
        "min_ram_gib": 2,
        "allowed_hosts": ["p*"],
        "dataset": {"name": "lab", "digest": "sha256:" + "1" * 64},
        "contract": None,
        "over_vram_gib": 0,
        "over_ram_gib": 0,
        "priority": 3,
        "timeout_s": 60,
        "max_attempts": 2,
    }
    at = world.wall
    assert detail.attempts == [AttemptView(1, "pi", at, at, at, "failed", "timeout", 1, "took too long")]
    assert [event.action for event in detail.events] == ["add", "claim", "start", "fail"]
    assert detail.log_tail == "step 7"
    view = detail.job
    assert (view.dataset, view.split, view.seed, view.priority) == ("lab", "hosts", 490, 3)
    assert view.failure == FailureView("timeout", "took too long", 1, "pi", at)


def test_a_job_without_history_shows_empty_fields(world: World) -> None:
    world.load([entry(1)])
    detail = world.detail(entry(1).id)
    view = detail.job
    assert (view.host, view.claimed_at, view.ended_at, view.progress, view.failure) == (None,) * 5
    assert (view.artifact, view.artifact_path, view.metrics, view.dataset, detail.log_tail) == (
        None,
        None,
        {},
        None,
        "",
    )


def test_an_unknown_job_is_not_found(world: World) -> None:
    for ask in (world.queue.job, world.queue.why):
        with pytest.raises(NotFoundError, match="cis490-jobs list"):
            world.do(lambda tx, ask=ask: ask(tx, "f" * 64))


def test_recent_failures_are_those_of_jobs_not_completed_since(world: World) -> None:
    world.load([entry(1, max_attempts=1), entry(2), entry(3)], {"default": Policy(slots=3)})

    def recent(limit: int = 10) -> list[tuple[str, str]]:
        found = world.do(lambda tx: world.queue.recent_failures(tx, limit))
        return [(failure.job_id, failure.failure.kind) for failure in found]

    assert recent() == []
    world.fail(world.running("a"), "trainer_error", error="one")
    world.running("b")
    world.wait(601)
    assert recent() == [(entry(2).id, "expired"), (entry(1).id, "trainer_error")]
    assert recent(1) == [(entry(2).id, "expired")]
    world.complete(world.running("c"))
    assert recent() == [(entry(1).id, "trainer_error")]
    world.requeue(entry(1).id)
    world.fail(world.running("d"), "preempted")
    assert recent() == [(entry(1).id, "trainer_error")]
    world.complete(world.running("e"))
    assert recent() == []


def test_a_bad_end_without_words_has_an_empty_error_among_the_failures(world: World) -> None:
    world.load([entry(1)])
    world.running("a")
    world.wait(601)
    (found,) = world.do(world.queue.recent_failures)
    assert (found.failure.kind, found.failure.error) == ("expired", "")


def test_a_job_given_back_still_shows_the_error_before_it_and_takes_no_place_of_a_newer_one(world: World) -> None:
    world.load([entry(1), entry(2)], {"default": Policy(slots=3)})

    def recent(limit: int) -> list[tuple[str, str, str | None]]:
        found = world.do(lambda tx: world.queue.recent_failures(tx, limit))
        return [(one.job_id, one.failure.error, one.failure.host) for one in found]

    world.fail(world.running("a"), error="first")
    world.fail(world.running("b"), error="second")
    world.wait(30)
    world.fail(world.running("c"), "preempted", error="the owner came")
    assert recent(1) == [(entry(2).id, "second", "b")]
    assert recent(10) == [(entry(2).id, "second", "b"), (entry(1).id, "first", "a")]
    world.running("c")
    assert recent(10) == [(entry(2).id, "second", "b"), (entry(1).id, "first", "a")]


def test_each_job_that_failed_stands_among_the_failures_once_with_its_newest_error(world: World) -> None:
    world.load([entry(1), entry(2)])
    world.fail(world.running(), error="first")
    world.fail(world.running("b"), error="of another")
    world.wait(30)
    world.fail(world.running(), error="second")
    found = world.do(lambda tx: world.queue.recent_failures(tx, 10))
    assert [(one.job_id, one.failure.error) for one in found] == [(entry(1).id, "second"), (entry(2).id, "of another")]


# ---- workers


def test_hosts_are_listed_with_what_they_are_and_do(world: World) -> None:
    hosts = {"default": Policy(), "tower": Policy(cuda=True, vram_gib=24), "absent": Policy()}
    world.load([entry(1), entry(2)], hosts, contract="sha256:mine", trainer=Trainer(contract="sha256:mine"))
    lease = world.running(host("pi", contract="sha256:other"))
    world.claim(host("tower", vram_gib=12))
    world.now += 7
    found = world.queue.workers()
    assert [(view.name, view.state, view.last_seen_s) for view in found.workers] == [
        ("absent", "away", None),
        ("pi", "working", 7.0),
        ("tower", "working", 7.0),
    ]
    absent, pi, tower = found.workers
    assert (absent.capability, absent.jobs, absent.drift) == (None, [], [])
    assert (pi.jobs, pi.policy is not None) == ([lease.job_id], True)
    assert [line.partition(":")[0] for line in pi.drift] == ["trainer"]
    assert [line.partition(":")[0] for line in tower.drift] == ["vram_gib"]
    world.complete(lease)
    world.now += 600
    assert world.queue.worker_counts() == {"working": 1, "idle": 1, "away": 1, "refused": 0}
    world.now += 1
    assert world.queue.worker_counts() == {"working": 1, "idle": 0, "away": 2, "refused": 0}
    world.claim("pi")
    assert world.queue.worker_counts() == {"working": 1, "idle": 1, "away": 1, "refused": 0}


def test_a_worker_of_another_version_is_marked(world: World) -> None:
    world.load([entry(1)])
    world.claim(host("new", version=__version__))
    world.claim(host("old", version="0.0.9"))
    world.claim(host("odd", version=""))
    new, odd, old = world.queue.workers().workers
    assert (new.drift, odd.drift) == ([], [])
    assert old.drift == [
        f"the worker is version 0.0.9, the receiver {__version__}; give the host the receiver's worker.pyz"
    ]


def test_a_foreign_trainer_makes_no_host_drift(world: World) -> None:
    world.load([entry(1)], contract="sha256:theirs", trainer=Trainer(("other",), "sha256:theirs"))
    world.claim(host("pi", contract="sha256:mine"))
    assert world.queue.workers().workers[0].drift == []


def test_a_host_no_longer_admitted_is_shown_without_policy(world: World) -> None:
    world.load([entry(1)])
    world.claim("pi")
    world.load([entry(1)], {"server": Policy()})
    pi = world.queue.workers().workers[0]
    assert (pi.name, pi.policy, pi.drift) == ("pi", None, [])


def test_hosts_are_paged_by_name(world: World) -> None:
    world.load([], {name: Policy() for name in ("a", "b", "c")})
    first = world.queue.workers(None, 2)
    assert ([view.name for view in first.workers], first.next) == (["a", "b"], "b")
    second = world.queue.workers("b", 2)
    assert ([view.name for view in second.workers], second.next) == (["c"], None)


def test_the_last_page_of_hosts_names_no_next_one_even_when_it_is_full(world: World) -> None:
    world.load([], {name: Policy() for name in ("a", "b", "c")})
    assert world.queue.workers(None, 3).next is None


def test_hosts_are_remembered_over_a_restart(world: World) -> None:
    world.load([entry(1)])
    capability = host("pi", vram_gib=8, models=("gbt",), datasets={"lab": "sha256:1"}, problems=("no git",))
    world.claim(capability)
    world.restart()
    view = world.queue.workers().workers[0]
    assert (view.capability, view.last_seen_s, view.state) == (capability, None, "working")


def test_a_worker_is_told_what_it_could_run_and_what_stands_against_the_other_jobs(world: World) -> None:
    large, gone = Requirement("gbt", min_ram_gib=64), Requirement("gbt", min_ram_gib=128)
    world.load([entry(1), entry(2), entry(3, large), entry(4, gone)], {"pi": Policy(), "default": Policy()})
    world.cancel(entry(4, gone).id)
    world.complete(world.running("pi"))

    def own(name: str) -> Any:
        found = world.do(lambda tx: world.queue.own(tx, name, __version__))
        return found.table, found.waiting, found.able, found.reasons, found.alerts

    assert own("pi") == ("hosts.pi", 2, 1, ["min_ram_gib 64, found 16"], [])
    assert own("newcomer") == ("hosts.default", 2, 0, [], [])
    world.load([entry(1), entry(2), entry(3, large), entry(4, gone)], {"pi": Policy()})
    assert own("newcomer") == ("", 2, 0, [], [])


# ---- why


def why(world: World, job_id: str) -> Any:
    return world.do(lambda tx: world.queue.why(tx, job_id))


def test_why_names_every_host_with_wanted_found_and_the_smallest_change(world: World) -> None:
    hosts = {"tower": Policy(cuda=True, vram_gib=12), "pi": Policy()}
    world.load([entry(1, Requirement("gbt", require_cuda=True, min_vram_gib=16))], hosts)
    world.claim("pi")
    found = why(world, entry(1).id)
    assert (found.status, [verdict.host for verdict in found.hosts]) == ("pending", ["pi", "tower"])
    pi, tower = found.hosts
    assert (pi.seen, tower.seen, pi.eligible, tower.eligible) == (True, False, False, False)
    assert [reason.constraint for reason in pi.reasons] == ["require_cuda", "min_vram_gib"]
    assert found.smallest_change == tower.change == "runs on tower if min_vram_gib 16 becomes 12"
    assert found.summary == "no known host can run it: runs on tower if min_vram_gib 16 becomes 12"


def test_why_of_a_job_that_can_run_says_what_it_waits_for(world: World) -> None:
    world.load([entry(1), entry(2)], {f"host{number}": Policy() for number in range(7)})
    found = why(world, entry(1).id)
    assert found.smallest_change == ""
    assert found.summary == "it waits for a free slot on host0, host1, host2, host3, host4 and 2 more"
    world.fail(world.running("host0"))
    assert why(world, entry(1).id).summary.startswith("it waits for the back-off after its last failure; then host0")


@pytest.mark.parametrize(
    ("count", "names"), [(5, "host0, host1, host2, host3, host4"), (6, "host0, host1, host2, host3, host4 and 1 more")]
)
def test_why_names_five_hosts_and_counts_the_others(world: World, count: int, names: str) -> None:
    world.load([entry(1)], {f"host{number}": Policy() for number in range(count)})
    assert why(world, entry(1).id).summary == f"it waits for a free slot on {names}"


def test_why_of_a_job_that_every_host_faulted_on_says_when_it_is_tried_again(world: World) -> None:
    """Such a job costs no attempt and would otherwise look as if it waited for a slot for ever."""
    world.load([entry(1)], {"pi": Policy(), "tower": Policy()})
    world.fail(world.running("pi"), "host_fault")
    assert why(world, entry(1).id).summary == "it waits for a free slot on tower"
    world.fail(world.running("tower"), "host_fault")
    assert re.fullmatch(
        r"pi, tower gave back or could not run this job, or one after the other \(`cis490-jobs show` and "
        r"`cis490-jobs hosts` say why\); the next try is due in \d+ s",
        why(world, entry(1).id).summary,
    )
    world.wait(3600)
    assert why(world, entry(1).id).summary == "it waits for a free slot on pi, tower"


def test_why_says_who_rejected_a_job_and_what_ends_that(world: World) -> None:
    """A fleet of one host would otherwise wait without a word."""
    world.load([entry(1)], {"pi": Policy()})
    world.fail(world.running("pi"), "spec_rejected", error="no such key\nsecond line")
    summary = why(world, entry(1).id).summary
    assert summary.startswith(
        "pi rejected its specification (no such key …); it fails for good when a second host does, or after 3 times "
        "when no other host that is heard could run it; cancel it if it is wrong; pi gave back or could not"
    )
    assert summary.endswith("the next try is due in 30 s")
    world.cancel(entry(1).id)
    assert why(world, entry(1).id).summary == "the job is cancelled"


def test_why_of_a_job_rejected_without_words_quotes_none(world: World) -> None:
    world.load([entry(1)], {"pi": Policy()})
    world.fail(world.running("pi"), "spec_rejected")
    assert why(world, entry(1).id).summary.startswith("pi rejected its specification; it fails for good")


def test_a_host_that_gives_everything_back_is_shown_as_held_back(world: World) -> None:
    world.load([entry(number) for number in range(10)], {"pi": Policy()})
    for _ in range(9):
        assert world.queue.workers().workers[0].alerts == []
        world.fail(world.claim("pi"), "preempted")
    told = (
        "gets no job for 30 s, because it gave back or lost 9 without a result in between; "
        "`cis490-jobs events --worker pi` lists them, a reload ends the wait"
    )
    assert world.queue.workers().workers[0].alerts == [told]
    own = world.do(lambda tx: world.queue.own(tx, "pi", __version__))
    assert (own.waiting, own.able, own.reasons, own.alerts) == (10, 0, [told], [])
    assert why(world, entry(9).id).summary.endswith("the next try is due in 30 s")
    world.wait(29.5)
    assert why(world, entry(9).id).summary.endswith("the next try is due in 1 s")
    assert world.queue.workers().workers[0].alerts == [told.replace("30 s", "1 s")]
    world.wait(0.5)
    assert world.queue.workers().workers[0].alerts == []
    assert why(world, entry(9).id).summary == "it waits for a free slot on pi"


def test_why_of_a_job_that_does_not_wait_says_where_it_is(world: World) -> None:
    world.load([entry(1), entry(2)])
    lease = world.running()
    assert why(world, lease.job_id).summary == "the job is running on pi"
    world.complete(lease, ARTIFACT)
    assert why(world, lease.job_id).summary == "the job is completed on pi"
    world.cancel(entry(2).id)
    assert why(world, entry(2).id).summary == "the job is cancelled"


def test_why_without_any_host_says_so(world: World) -> None:
    world.load([entry(1)], {})
    assert why(world, entry(1).id).summary == "no host is known that could run it"


def given_back(world: World, times: int, error: str) -> None:
    """Let a job be given back often, each time once its host may have it again."""
    for number in range(times):
        world.now += 100_000
        world.fail(world.claim(), "host_fault", error=error.format(number))


def test_the_newest_attempts_and_events_are_shown_and_how_many_there_are(world: World) -> None:
    world.load([entry(1)])
    given_back(world, 210, "no card")
    detail = world.detail(entry(1).id)
    assert [attempt.fence for attempt in detail.attempts] == list(range(11, 211))
    assert (detail.attempts_total, detail.events_total) == (210, 421)
    assert [event.id for event in detail.events] == sorted(event.id for event in detail.events)
    assert (len(detail.events), detail.events[-1].action) == (200, "fail")


def test_the_number_of_attempts_and_events_is_told_when_all_are_shown(world: World) -> None:
    world.load([entry(1)])
    world.running()
    detail = world.detail(entry(1).id)
    assert (detail.attempts_total, detail.events_total) == (1, 3)


def test_attempts_and_events_of_other_jobs_are_not_counted(world: World) -> None:
    world.load([entry(1), entry(2)])
    world.running()
    found = [world.detail(entry(number).id) for number in (1, 2)]
    assert [(detail.attempts_total, detail.events_total) for detail in found] == [(1, 3), (0, 1)]


def test_the_same_error_is_kept_once(world: World) -> None:
    """A host that gives a job back again and again says the same each time."""
    world.load([entry(1), entry(2)])
    words = "no card\n" + "x" * 3000
    given_back(world, 8, words)
    assert {attempt.error for attempt in world.detail(entry(1).id).attempts} == {words}
    assert world.job(entry(1).id).failure == FailureView("host_fault", words, 1, "pi", world.wall)
    assert {event.why for event in world.detail(entry(1).id).events if event.action == "fail"} == {
        "host_fault: no card …"
    }
    world.database.close()
    with contextlib.closing(sqlite3.connect(world.path)) as connection:
        dump = "\n".join(connection.iterdump())
    world.open()
    assert dump.count("x" * 3000) == 1


def test_an_event_repeats_the_first_line_of_an_error_that_has_words(world: World) -> None:
    world.load([entry(1)])
    world.fail(world.running(), error="\n \n  no card \n")
    assert world.detail(entry(1).id).events[-1].why == "trainer_error: no card"


@pytest.mark.parametrize("letter", ["x", "\N{OCTOPUS}"])
def test_the_answer_about_a_job_stays_small_whatever_its_history(world: World, letter: str) -> None:
    world.load([entry(1)])
    given_back(world, 250, "{} " + letter * 3990)
    detail = world.detail(entry(1).id)
    assert [len(attempt.error) for attempt in detail.attempts[-8:]] == [3994] * 8
    assert {len(attempt.error) for attempt in detail.attempts[:100]} == {121}
    assert detail.attempts[0].error.endswith("…")
    assert len(json.dumps(asdict(detail), ensure_ascii=False).encode()) < 2**19


@pytest.mark.parametrize(
    ("lengths", "shown"),
    [
        ((122, 120, 130, 170), [121, 120, 130, 170]),
        ((122, 120, 131, 170), [121, 120, 121, 170]),
    ],
)
def test_an_error_is_cut_once_newer_ones_take_all_the_room_and_it_is_longer_than_a_line(
    world: World, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], shown: list[int]
) -> None:
    monkeypatch.setattr(views, "WHOLE_CHARS", 300)
    world.load([entry(1)])
    for length in lengths:
        world.now += 100_000
        world.fail(world.claim(), "host_fault", error="x" * length)
    assert [len(attempt.error) for attempt in world.detail(entry(1).id).attempts] == shown


def test_why_does_not_quote_another_failure_as_the_rejection(world: World) -> None:
    world.load([entry(1)], {"pi": Policy(), "server": Policy()})
    world.fail(world.running("pi"), "spec_rejected", error="no such key")
    world.fail(world.running("server"), "host_fault", error="no card")
    assert why(world, entry(1).id).summary.startswith("pi rejected its specification; it fails for good")


def test_hosts_that_the_operator_named_or_that_enrolled_are_the_first_whose_last_call_is_shown(world: World) -> None:
    """So nobody who makes up names hides the hosts that count."""
    world.load([entry(0)], {"default": Policy(), "tower": Policy(), "absent": Policy()})
    made = world.do(lambda tx: world.queue.identities.invite(tx, InviteOrder("zed", 900), OPERATOR))
    world.do(lambda tx: world.queue.identities.enrol(tx, Enrol(made.code, "zed", "1" * 64)))
    for name in ("a-made-up-name", "another", "tower", "zed"):
        world.claim(name)
        world.wait(1)
    assert list(world.queue.last_seen(limit=3)) == ["tower", "zed", "a-made-up-name"]
    assert world.queue.last_seen(limit=9) == {"tower": 2.0, "zed": 1.0, "a-made-up-name": 4.0, "another": 3.0}
    identities = {view.name: view.identity for view in world.queue.workers().workers}
    assert identities == {
        "a-made-up-name": "none", "absent": "none", "another": "none", "tower": "none", "zed": "enrolled",
    }  # fmt: skip
    world.restart()
    assert world.queue.last_seen(limit=9) == {}  # known from before, and not heard since
