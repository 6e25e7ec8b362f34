"""Bodies are read strictly."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

import pytest

from training.fleet.api.json import Decoder, demand_sound_json, strict
from training.fleet.model.errors import InvalidMessageError, RequestError
from training.fleet.wire.limits import Limit
from training.fleet.wire.people import Reload
from training.fleet.wire.worker import Claim, Complete, Fail, Heartbeat, Progress

HEARTBEAT = Decoder(Heartbeat)
CLAIM = Decoder(Claim)
COMPLETE = Decoder(Complete)
FAIL = Decoder(Fail)
RELOAD = Decoder(Reload)

BEAT = {"lease_id": "lease-0001"}


def body(**changes: Any) -> bytes:
    return json.dumps({**BEAT, **changes}).encode()


def test_a_message_is_an_instance_of_the_shared_class() -> None:
    found = HEARTBEAT.decode(body(progress={"step": 3, "metrics": {"auroc": 0.5, "n": 2, "ok": True, "x": None}}))
    assert isinstance(found, Heartbeat)
    assert isinstance(found.progress, Progress)
    assert found.progress.metrics == {"auroc": 0.5, "n": 2, "ok": True, "x": None}
    assert found.held_leases == []


def test_unknown_fields_are_ignored_at_every_depth() -> None:
    found = HEARTBEAT.decode(body(later=[{"deep": 1}], progress={"step": 1, "new": {}}))
    assert found == Heartbeat("lease-0001", Progress(step=1)) or found.lease_id == "lease-0001"


def test_a_whole_claim_with_gpus_is_read() -> None:
    gpu = {"name": "RTX", "uuid": "GPU-1", "vram_bytes": 1, "free_vram_bytes": 1, "driver": "5"}
    capability = {"hostname": "pc", "gpus": [gpu], "models": ["gbt"], "datasets": {"lab": "sha256:x"}}
    found = CLAIM.decode(json.dumps({"claim_id": "claim-0001", "worker": "pc", "capability": capability}).encode())
    assert found.capability.gpus[0].uuid == "GPU-1"
    assert found.capability.models == ("gbt",)


def test_a_number_may_be_whole_where_a_fraction_is_declared() -> None:
    assert (
        COMPLETE.decode(b'{"lease_id":"lease-0001","artifact":"' + b"a" * 64 + b'","duration_s":3}').duration_s == 3.0
    )


UNREADABLE = {
    "empty": b"",
    "only space": b"  ",
    "half an object": b'{"lease_id": "leas',
    "more than one value": b'{"lease_id":"lease-0001"} {}',
    "invalid UTF-8": b'{"lease_id":"lease-0001","x":"\xff"}',
    "invalid UTF-8 in an unknown field's key": b'{"lease_id":"lease-0001","\xc3(":1}',
    "byte order mark": b'\xef\xbb\xbf{"lease_id":"lease-0001"}',
    "UTF-16": '{"lease_id":"lease-0001"}'.encode("utf-16"),
    "duplicate key": b'{"lease_id":"lease-0001","lease_id":"lease-0002"}',
    "duplicate key in an unknown field": b'{"lease_id":"lease-0001","x":{"a":1,"a":2}}',
    "duplicate key by escapes": b'{"lease_id":"lease-0001","\\u006cease_id":"lease-0002"}',
    "NaN": b'{"lease_id":"lease-0001","x":NaN}',
    "Infinity": b'{"lease_id":"lease-0001","x":-Infinity}',
    "a number beyond a double": b'{"lease_id":"lease-0001","x":1e999}',
    "an integer of 5000 digits": b'{"lease_id":"lease-0001","x":' + b"9" * 5000 + b"}",
    "an integer of 30 digits": b'{"lease_id":"lease-0001","x":' + b"9" * 30 + b"}",
    "the least integer that doubles lose": b'{"lease_id":"lease-0001","x":[-9007199254740992]}',
    "a lone surrogate": b'{"lease_id":"lease-0001","x":"\\ud800"}',
    "a lone surrogate in a key": b'{"lease_id":"lease-0001","\\udc00":1}',
    "NUL by escape": b'{"lease_id":"lease-0001","x":["\\u0000"]}',
    "NUL byte": b'{"lease_id":"lease-0001","x":"\0"}',
    "60000 open brackets": b"[" * 60000,
    "one level too deep": b'{"lease_id":"lease-0001","x":' + b"[" * 33 + b"]" * 33 + b"}",
    "deep arrays": b'{"lease_id":"lease-0001","x":' + b"[" * 200 + b"]" * 200 + b"}",
    "deep objects": b'{"lease_id":"lease-0001","x":' + b'{"a":' * 100 + b"1" + b"}" * 100 + b"}",
    "a control character in text": b'{"lease_id":"lease-0001","x":"\x1b[31m"}',
    "a comment": b'{"lease_id":"lease-0001"} // no',
    "single quotes": b"{'lease_id':'lease-0001'}",
    "a trailing comma": b'{"lease_id":"lease-0001",}',
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_ambiguous_or_broken_json_is_400(data: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        HEARTBEAT.decode(data)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"lease_id":"lease-0001","x":' + b"[" * 32 + b"]" * 32 + b"}", id="as deep as may be"),
        pytest.param(b'{"lease_id":"lease-0001","x":[9007199254740991,-9007199254740991]}', id="as large as may be"),
        pytest.param(b'{"lease_id":"lease-0001","x":[9007199254740991,"\\u00e9"]}', id="large, looked at closely"),
        pytest.param(b'{"lease_id":"lease-0001","x":"\\ue000"}', id="the letter behind the surrogates"),
        pytest.param(b'{"lease_id":"lease-0001","x":[1.5,"\\u00e9"]}', id="a fraction, looked at closely"),
    ],
)
def test_what_is_just_within_bounds_is_read(data: bytes) -> None:
    assert HEARTBEAT.decode(data).lease_id == "lease-0001"


def test_the_letters_at_the_ends_of_the_surrogates_are_refused() -> None:
    for letter in (b"\\ud800", b"\\udfff"):
        with pytest.raises(RequestError, match="surrogate"):
            demand_sound_json(b'{"x":"' + letter + b'"}')


def test_a_plain_body_is_read_once() -> None:
    """Only what may be ambiguous is worth a second reading, by a slower reader."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.fleet.api.json._PARSER", None)
        demand_sound_json(json.dumps({"lease_id": "a", "x": [{"a": 1}], "n": 2**53 - 1}).encode())
        demand_sound_json(b"[" * 32 + b"]" * 32)


@dataclasses.dataclass(frozen=True)
class Inner:
    name: Annotated[str, "a note", Limit(pattern="^[a-z]+$")]


@dataclasses.dataclass(frozen=True)
class Outer:
    few: Annotated[list[Inner], Limit(max_length=2)]
    either: Annotated[int, Limit(ge=1)] | None = None
    more: list[int] = dataclasses.field(default_factory=list)


@pytest.mark.parametrize(
    ("data", "pointer", "found", "expected"),
    [
        (
            b'{"few":[{"name":"a"},{"name":"a"},{"name":"a"}]}',
            "/few",
            "a value out of bounds",
            "`array` of length <= 2",
        ),
        (b'{"few":[{"name":"A"}]}', "/few/0/name", "a value out of bounds", "`str` matching regex"),
        (b'{"few":[{"name":"a\\n"}]}', "/few/0/name", "a value out of bounds", "`str` matching regex"),
        (b'{"few":[],"either":0}', "/either", "a value out of bounds", "`int` >= 1"),
        (b'{"few":[],"either":"1"}', "/either", "str", "int | null"),
        (b'{"few":[{}]}', "/few/0/name", "nothing", "a value"),
        (b"{}", "/few", "nothing", "a value"),
        (b"[]", "/", "array", "object"),
    ],
)
def test_limits_hold_at_every_depth_and_in_every_form_of_a_type(
    data: bytes, pointer: str, found: str, expected: str
) -> None:
    """The bounds are made again here, because those of the receiver's own messages are made once, at its start."""
    strict.cache_clear()
    try:
        decoder = Decoder(Outer)
        read = decoder.decode(b'{"few":[{"name":"a"}],"either":1}')
        assert dataclasses.asdict(read) == {"few": [{"name": "a"}], "either": 1, "more": []}
        assert decoder.decode(b'{"few":[],"more":[2]}') == dataclasses.replace(read, few=[], either=None, more=[2])
        assert decoder.decode(b'{"few":[]}').more is not read.more
        with pytest.raises(InvalidMessageError) as caught:
            decoder.decode(data)
    finally:
        strict.cache_clear()
    (fault,) = caught.value.faults
    assert (fault.place, fault.found) == (pointer, found)
    assert fault.expected.startswith(expected)


def test_a_valid_surrogate_pair_and_escapes_pass() -> None:
    demand_sound_json(b'{"x":"\\ud83d\\ude00 \\u00e9 \\\\u0000","y":[' + b",".join([b"[]"] * 50) + b"]}")


WRONG = {
    "no object": (HEARTBEAT, b"[]", "/"),
    "null": (HEARTBEAT, b"null", "/"),
    "missing field": (HEARTBEAT, b"{}", "/lease_id"),
    "number as text": (HEARTBEAT, b'{"lease_id":12345678}', "/lease_id"),
    "short token": (HEARTBEAT, b'{"lease_id":"short"}', "/lease_id"),
    "token with a slash": (HEARTBEAT, b'{"lease_id":"lease/0001"}', "/lease_id"),
    "token with a newline": (HEARTBEAT, b'{"lease_id":"lease-0001\\n"}', "/lease_id"),
    "text as number": (HEARTBEAT, body(progress={"step": "3"}), "/progress/step"),
    "boolean as number": (HEARTBEAT, body(progress={"step": True}), "/progress/step"),
    "fraction as whole number": (HEARTBEAT, body(progress={"step": 1.0}), "/progress/step"),
    "negative step": (HEARTBEAT, body(progress={"step": -1}), "/progress/step"),
    "list as metric": (HEARTBEAT, body(progress={"metrics": {"a": [1]}}), "/progress/metrics/..."),
    "too many leases": (HEARTBEAT, body(held_leases=["lease-0001"] * 65), "/held_leases"),
    "bad lease in a list": (HEARTBEAT, body(held_leases=["lease-0001", "x"]), "/held_leases/1"),
    "long phase": (HEARTBEAT, body(progress={"phase": "x" * 201}), "/progress/phase"),
    "host in upper case": (CLAIM, b'{"claim_id":"claim-0001","worker":"PC","capability":{"hostname":"pc"}}', "/worker"),
    "host with a newline": (
        CLAIM,
        b'{"claim_id":"claim-0001","worker":"pc\\n","capability":{"hostname":"pc"}}',
        "/worker",
    ),
    "no host name": (CLAIM, b'{"claim_id":"claim-0001","worker":"pc","capability":{}}', "/capability/hostname"),
    "odd gpu": (
        CLAIM,
        b'{"claim_id":"claim-0001","worker":"pc","capability":{"hostname":"pc","gpus":[{"name":1}]}}',
        "/capability/gpus/0/name",
    ),
    "artifact in upper case": (COMPLETE, b'{"lease_id":"lease-0001","artifact":"' + b"A" * 64 + b'"}', "/artifact"),
    "artifact too long": (COMPLETE, b'{"lease_id":"lease-0001","artifact":"' + b"a" * 65 + b'"}', "/artifact"),
    "artifact with a newline": (
        COMPLETE,
        b'{"lease_id":"lease-0001","artifact":"' + b"a" * 63 + b'\\n"}',
        "/artifact",
    ),
    "unknown kind": (FAIL, b'{"lease_id":"lease-0001","kind":"bored"}', "/kind"),
    "long error": (
        FAIL,
        json.dumps({"lease_id": "lease-0001", "kind": "lost", "error": "x" * 4001}).encode(),
        "/error",
    ),
    "text as boolean": (RELOAD, b'{"allow_shrink":"yes"}', "/allow_shrink"),
}


@pytest.mark.parametrize(("decoder", "data", "pointer"), WRONG.values(), ids=WRONG)
def test_wrong_content_is_422_with_a_pointer(decoder: Decoder[Any], data: bytes, pointer: str) -> None:
    with pytest.raises(InvalidMessageError) as caught:
        decoder.decode(data)
    assert caught.value.status == 422
    assert [fault.place for fault in caught.value.faults] == [pointer]
