from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from training.fleet import wire
from training.fleet.cli.answers import read
from training.fleet.errors import FleetError
from training.fleet.model.capability import Capability, Gpu

STATE = {"id": "a" * 64, "status": "pending", "cancel_requested": False}


def test_an_answer_becomes_the_message_it_was() -> None:
    worker = wire.WorkerView(
        name="pi",
        state="idle",
        last_seen_s=1,
        jobs=[],
        capability=Capability("pi", gpus=(Gpu("card", "GPU-1", 2**30, 2**29, "1"),), models=("gbt",)),
        policy={"slots": 1},
        drift=["x"],
    )
    page = wire.WorkerPage([worker], None)
    document = dataclasses.asdict(page)
    document["workers"][0]["capability"]["gpus"] = list(document["workers"][0]["capability"]["gpus"])
    document["workers"][0]["capability"]["models"] = ["gbt"]
    document["workers"][0]["capability"]["problems"] = []
    assert read(wire.WorkerPage, document) == page


def test_unknown_members_of_a_newer_receiver_are_ignored() -> None:
    assert read(wire.State, {**STATE, "novelty": 1}).status == "pending"


def test_a_missing_member_with_a_default_takes_it() -> None:
    assert read(wire.State, {"id": "a", "status": "failed"}) == wire.State("a", "failed", False)


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
    with pytest.raises(FleetError, match="unlike versions: update the older one") as caught:
        read(wire.State, document)
    assert place in str(caught.value)


def test_a_fault_deep_inside_names_its_way() -> None:
    document = {"jobs": [{"id": "a"}], "next": None}
    with pytest.raises(FleetError, match=r"the answer\.jobs\[0\]\.model: found nothing"):
        read(wire.JobPage, document)


def test_metrics_may_be_anything_flat() -> None:
    progress = read(wire.Progress, {"metrics": {"a": 1, "b": "x", "c": None, "d": True}, "elapsed_s": 3})
    assert progress.metrics == {"a": 1, "b": "x", "c": None, "d": True}
    with pytest.raises(FleetError, match=r"elapsed_s: found bool, expected float"):
        read(wire.Progress, {"elapsed_s": True})
