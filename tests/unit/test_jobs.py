"""Identity: the same job has the same id on every platform, and nothing else has it.

The vectors in `tests/vectors/job_ids.json` were computed with the rfc8785 package from normal forms written by hand.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from training.fleet.model.errors import InvalidMessageError
from training.fleet.model.jobs import (
    DatasetRef,
    Requirement,
    Spec,
    canonical,
    normal_hosts,
    normalise,
    requirement_digest,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "job_ids.json").read_text())
BY_NAME = {vector["name"]: vector["job_id"] for vector in VECTORS}


def spec(fields: dict[str, Any]) -> Spec:
    dataset = fields.get("dataset")
    return Spec(
        **{
            **fields,
            "train_hosts": tuple(fields["train_hosts"]),
            "dataset": None if dataset is None else DatasetRef(**dataset),
        }
    )


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_every_vector_keeps_its_id(vector: dict[str, Any]) -> None:
    found = spec(vector["spec"])
    assert canonical(found.document()).decode() == vector["canonical"]
    assert found.job_id() == vector["job_id"]


def test_the_plain_job_has_this_id_for_ever() -> None:
    assert BY_NAME["plain"] == "27f5b7ecb7fc1cc28e974dba2bd80e596716c77378ec7196d887bb30111cbbb1"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10", "10.0 is 10"),
        ("1000", "1e3 is 1000"),
        ("0", "-0.0 is 0"),
        ("key order a, b", "key order b, a"),
        ("NFC", "NFD is NFC"),
        ("hosts in order", "host order"),
        ("hosts in order", "repeated hosts"),
        ("hosts in order", "host case"),
    ],
)
def test_two_spellings_of_one_job_have_one_id(one: str, other: str) -> None:
    assert BY_NAME[one] == BY_NAME[other]


def test_ids_of_different_jobs_differ() -> None:
    assert len({vector["canonical"] for vector in VECTORS}) == len(set(BY_NAME.values())) == 34


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        datetime.date(2026, 1, 1),
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        datetime.time(1),
        2**53,
        -(2**53),
        1e300,
        10**5000,
        "\ud800",
        {"\ud800": 1},
        {1: 2},
        b"bytes",
        {"caf\u00e9": 1, "cafe\u0301": 2},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(InvalidMessageError, match=r"found|twice"):
        Spec("gbt", "oracle", {"x": value}).job_id()


def test_seven_tables_inside_hyper_are_refused_and_six_are_not() -> None:
    def nested(levels: int) -> dict[str, Any]:
        return {"x": nested(levels - 1)} if levels else {}

    assert len(Spec("gbt", "oracle", nested(7)).job_id()) == 64
    with pytest.raises(InvalidMessageError, match="nested deeper than 8 levels"):
        Spec("gbt", "oracle", nested(8)).job_id()


def test_a_specification_over_64_kib_is_refused() -> None:
    assert len(Spec("gbt", "oracle", {"x": "a" * 65000}).job_id()) == 64
    with pytest.raises(InvalidMessageError, match="takes 66108 bytes; expected at most 65536"):
        Spec("gbt", "oracle", {"x": "a" * 66000}).job_id()


def test_a_host_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidMessageError, match="found 1 as a name"):
        Spec("gbt", "oracle", train_hosts=(1,)).job_id()  # type: ignore[arg-type]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(
    allow_nan=False, allow_infinity=False, min_value=-9e15, max_value=9e15
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


@given(VALUES)
def test_canonical_text_is_what_another_implementation_writes(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_is_written_as_another_implementation_writes_it(value: float) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@given(st.dictionaries(TEXT, st.booleans() | NUMBERS | TEXT | st.lists(TEXT, max_size=3), max_size=4))
def test_reading_the_canonical_text_back_gives_the_same_id(hyper: dict[str, Any]) -> None:
    try:
        first = Spec("gbt", "oracle", hyper)
        text = canonical(first.document())
    except InvalidMessageError:
        return
    again = Spec("gbt", "oracle", json.loads(text)["hyper"])
    assert again.job_id() == first.job_id() == hashlib.sha256(text).hexdigest()


@given(st.lists(TEXT, max_size=4))
def test_the_normal_form_of_hosts_is_its_own_normal_form(names: list[str]) -> None:
    once = normal_hosts(names)
    assert normal_hosts(once) == once
    assert normal_hosts(reversed(names)) == once
    assert normalise(list(once)) == list(once)


def test_equal_requirements_share_a_digest_and_every_field_counts() -> None:
    plain = Requirement("gbt")
    others = [
        replace(plain, model="mlp"),
        replace(plain, require_cuda=True),
        replace(plain, prefer_cuda=True),
        replace(plain, min_vram_gib=1),
        replace(plain, min_ram_gib=1),
        replace(plain, allowed_hosts=("pi",)),
        replace(plain, dataset=DatasetRef("lab")),
        replace(plain, dataset=DatasetRef("lab", "sha256:" + "a" * 64)),
        replace(plain, contract="sha256:" + "a" * 64),
        replace(plain, over_vram_gib=1),
        replace(plain, over_ram_gib=1),
    ]
    assert requirement_digest(plain) == requirement_digest(Requirement("gbt", min_ram_gib=0.0))
    assert len({requirement_digest(requirement) for requirement in [plain, *others]}) == 12
