from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from training.fleet.cli.remote import read
from training.fleet.model.capability import Capability, Gpu
from training.fleet.model.errors import FleetError
from training.fleet.wire import identities, people, worker
from training.fleet.wire.people import JobPage, WorkerPage, WorkerView
from training.fleet.wire.read import MismatchError, message
from training.fleet.wire.worker import JobState, OwnView, Progress

STATE = {"id": "a" * 64, "status": "pending", "cancel_requested": False}


def test_an_answer_becomes_the_message_it_was() -> None:
    host = WorkerView(
        name="pi",
        state="idle",
        last_seen_s=1,
        jobs=[],
        capability=Capability("pi", gpus=(Gpu("card", "GPU-1", 2**30, 2**29, "1"),), models=("gbt",)),
        policy={"slots": 1},
        drift=["x"],
    )
    page = WorkerPage([host], None)
    document = dataclasses.asdict(page)
    document["workers"][0]["capability"]["gpus"] = list(document["workers"][0]["capability"]["gpus"])
    document["workers"][0]["capability"]["models"] = ["gbt"]
    document["workers"][0]["capability"]["problems"] = []
    assert read(WorkerPage, document) == page


def test_unknown_members_of_a_newer_receiver_are_ignored() -> None:
    assert read(JobState, {**STATE, "novelty": 1}).status == "pending"


def test_a_missing_member_with_a_default_takes_it() -> None:
    assert read(JobState, {"id": "a", "status": "failed"}) == JobState("a", "failed", False)


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([], "the answer: found list, expected an object"),
        ({"status": "pending"}, "the answer.id: found nothing, expected a value"),
        ({**STATE, "id": 5}, "the answer.id: found int, expected str"),
        ({**STATE, "cancel_requested": 1}, "the answer.cancel_requested: found int, expected bool"),
        ({**STATE, "status": None}, "the answer.status: found NoneType, expected str"),
    ],
    ids=["no object", "missing", "number for text", "number for boolean", "null"],
)
def test_an_answer_of_another_shape_is_refused_with_its_place(document: Any, place: str) -> None:
    with pytest.raises(FleetError, match="different versions; update the older one") as caught:
        read(JobState, document)
    assert place in str(caught.value)


def test_a_fault_deep_inside_names_its_way() -> None:
    document = {"jobs": [{"id": "a"}], "next": None}
    with pytest.raises(FleetError, match=r"the answer\.jobs\[0\]\.model: found nothing"):
        read(JobPage, document)


def test_metrics_may_be_anything_flat() -> None:
    progress = read(Progress, {"metrics": {"a": 1, "b": "x", "c": None, "d": True}, "elapsed_s": 3})
    assert progress.metrics == {"a": 1, "b": "x", "c": None, "d": True}
    with pytest.raises(FleetError, match=r"elapsed_s: found bool, expected float"):
        read(Progress, {"elapsed_s": True})


@pytest.mark.parametrize(
    ("document", "place", "found"),
    [
        ({"metrics": {"a": [1]}}, "metrics.a", "list"),
        ({"metrics": {"a": float("nan")}}, "metrics.a", "a number without bounds"),
        ({"elapsed_s": float("inf")}, "elapsed_s", "a number without bounds"),
        ({"elapsed_s": 10**400}, "elapsed_s", "a number without bounds"),
        ({"step": 2**53}, "step", "a number without bounds"),
        ({"left_s": "soon"}, "left_s", "str"),
    ],
    ids=["nested", "not a number", "infinite", "beyond a double", "beyond what JSON keeps", "text for number or null"],
)
def test_what_arithmetic_could_not_bear_is_refused(document: Any, place: str, found: str) -> None:
    with pytest.raises(MismatchError) as caught:
        message(Progress, document)
    assert (caught.value.place, caught.value.found) == (place, found)


def test_a_fault_below_an_endless_key_is_told_in_bounds() -> None:
    with pytest.raises(MismatchError) as caught:
        message(Progress, {"metrics": {"k" * 10_000: []}})
    assert len(caught.value.place) < 250


def test_what_a_worker_learns_of_itself_holds_a_capability() -> None:
    capability = Capability("pi", gpus=(Gpu("card", "GPU-1", 2, 1, "1"),))
    own = OwnView("pi", "0.1.0", "idle", "none", capability, None, "", None, [], [], 0, 0, [])
    assert message(OwnView, json.loads(json.dumps(dataclasses.asdict(own)))) == own


KINDS = [
    kind
    for module in (worker, identities, people)
    for kind in vars(module).values()
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind.__module__ == module.__name__
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_message_has_a_reader(kind: type) -> None:
    with pytest.raises(MismatchError) as caught:
        message(kind, [])
    assert (caught.value.place, caught.value.found, caught.value.expected) == ("", "list", "an object")
