"""The quick look at a body never lets through what the slow one refuses."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load import claim_body
from tests.unit.test_api_json import UNREADABLE
from training.fleet.api import json as messages
from training.fleet.model.errors import RequestError
from training.fleet.queue.clock import wall_label

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_nothing_unreadable_is_surely_sound(data: bytes) -> None:
    assert not messages._surely_sound(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a" :1,"a" :2}',
        b'{"a" :1,"a":2}',
        b'{"a":"sha256:x","a":"sha256:y"}',
        b'{"sha256:":1,"sha256:":2}',
        b'[{"a":1},{"b":1,"b":1}]',
        b'{"a":9007199254740992}',
    ],
)
def test_a_twin_key_is_never_surely_sound(data: bytes) -> None:
    assert not messages._surely_sound(data)


def test_what_workers_send_is_surely_sound() -> None:
    claim = claim_body("gpu-tower")
    claim["capability"].update(contract=DIGEST, datasets={"lab": DIGEST, "default": DIGEST}, models=["gbt"])
    assert messages._surely_sound(json.dumps(claim).encode())
    assert messages._surely_sound(
        json.dumps({"lease_id": "x" * 24, "artifact": "a" * 64, "metrics": {"n": 1}}).encode()
    )


def test_a_colon_in_a_text_is_left_to_the_slow_look() -> None:
    data = b'{"lease_id":"lease-0001","error":"KeyError: x"}'
    assert not messages._surely_sound(data)
    messages.demand_sound_json(data)


PARTS = st.lists(
    st.sampled_from(['"a"', '"b"', ":", ",", "{", "}", "[", "]", "1", " ", '"sha256:"', '"x:y"', "null", "9" * 17]),
    max_size=14,
)


@given(PARTS)
def test_the_quick_look_agrees_with_the_slow_one(parts: list[str]) -> None:
    data = "".join(parts).encode()
    if messages._surely_sound(data):
        value = messages._PARSER.decode(data.decode())
        messages._demand_plain(value, 0)


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5)))
def test_what_json_writes_without_twins_is_never_refused_as_ambiguous(value: dict[str, object]) -> None:
    try:
        messages.demand_sound_json(json.dumps(value).encode())
    except RequestError as error:
        assert re.search(r"NUL|surrogate|beyond 2\^53", str(error))


def test_a_label_of_the_wall_time_has_milliseconds_and_is_utc() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", wall_label())
