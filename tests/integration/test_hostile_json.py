"""Bodies that readers of JSON understand in two ways or not at all, and fields of the wrong type, at every endpoint.

Each is answered with a problem document and changes nothing. `test_api_bad_input.py` has the rest of a request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from live_receiver import TOKEN, LiveReceiver, manifest

ID = "a" * 64
LEASE = "never-given-01"
OPERATED = {"X-Operator-Token": TOKEN}

GOOD: dict[str, dict[str, Any]] = {
    "/v1/job/claim": {
        "claim_id": "claim-00000001",
        "worker": "pi",
        "capability": {"hostname": "pi", "ram_bytes": 2**33, "cpu_count": 4, "os": "linux"},
        "held_leases": [],
    },
    f"/v1/job/{ID}/heartbeat": {
        "lease_id": LEASE,
        "progress": {"step": 1, "steps": 2, "phase": "fold 1", "metrics": {"loss": 0.5}, "elapsed_s": 1.5},
        "held_leases": [LEASE],
    },
    f"/v1/job/{ID}/complete": {
        "lease_id": LEASE,
        "artifact": ID,
        "metrics": {"auroc": 0.9},
        "content_digest": f"sha256:{ID}",
        "duration_s": 1.5,
    },
    f"/v1/job/{ID}/fail": {"lease_id": LEASE, "kind": "stalled", "exit_status": 1, "error": "e", "log_tail": "l"},
    "/v1/manifest/reload": {"allow_shrink": False, "if_plan": ID},
    "/v1/backup": {"label": "weekly", "artifacts": False},
    "/v1/fsck": {"hashes": True},
}
NAMES = {path: path.replace(f"/{ID}", "").removeprefix("/v1/") for path in GOOD}


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveReceiver]:
    with LiveReceiver(tmp_path_factory.mktemp("json"), manifest(3)) as live:
        yield live


def seen(receiver: LiveReceiver) -> tuple[Any, ...]:
    """What no refused call may change."""
    looked = [receiver.call("GET", path).body for path in ("/v1/jobs", "/v1/workers")]
    return (*looked, receiver.call("GET", "/v1/chore", operator=True).body)


def is_refused(receiver: LiveReceiver, path: str, body: bytes, status: int, code: str) -> None:
    before = seen(receiver)
    reply = receiver.call("POST", path, body, OPERATED)
    assert (reply.status, reply.json["code"]) == (status, code), reply.body
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json["status"] == status
    assert b"Traceback" not in reply.body
    assert seen(receiver) == before


# ---- bytes that are no unambiguous JSON -----------------------------------------------------------------------------

VALUES = {
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "minus Infinity": b"-Infinity",
    "beyond a double": b"1e999",
    "beyond a double, below zero": b"-1e999",
    "5000 digits": b"1" * 5000,
    "2^53": b"9007199254740992",
    "-2^53": b"-9007199254740992",
    "leading zero": b"01",
    "plus sign": b"+1",
    "bare dot": b"1.",
    "hexadecimal": b"0x10",
    "lone high surrogate": b'"\\ud800"',
    "lone low surrogate": b'"\\udc00"',
    "surrogates in the wrong order": b'"\\udc00\\ud800"',
    "surrogate as a key": b'{"\\ud800":1}',
    "escaped NUL": b'"a\\u0000"',
    "raw NUL": b'"a\0"',
    "raw line feed": b'"a\nb"',
    "raw escape": b'"\x1b[31m"',
    "invalid UTF-8": b'"\xff\xfe"',
    "overlong UTF-8": b'"\xc0\xaf"',
    "UTF-8 of a surrogate": b'"\xed\xa0\x80"',
    "cut UTF-8": b'"\xe2\x82"',
    "bad escape": b'"\\x41"',
    "single quotes": b"'a'",
    "33 arrays": b"[" * 33 + b"]" * 33,
    "33 objects": b'{"a":' * 33 + b"1" + b"}" * 33,
    "60000 brackets": b"[" * 60_000,
    "key twice, deeper": b'{"a":1,"a":1}',
    "key twice, one escaped": b'{"a":1,"\\u0061":1}',
    "comment": b"1 // one",
    "comma at the end": b"[1,]",
    "no value": b"",
    "undefined": b"undefined",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("path", GOOD, ids=NAMES.values())
def test_a_value_that_is_no_sound_json_is_refused_even_in_an_unknown_field(
    receiver: LiveReceiver, path: str, value: bytes
) -> None:
    whole = json.dumps(GOOD[path]).encode()
    is_refused(receiver, path, whole[:-1] + b',"x":' + value + b"}", 400, "bad_request")


WHOLE = {
    "byte-order mark": lambda good: b"\xef\xbb\xbf" + good,
    "UTF-16": lambda good: good.decode().encode("utf-16"),
    "cut": lambda good: good[:-1],
    "something behind": lambda good: good + b"x",
    "two objects": lambda good: good + good,
    "NUL behind": lambda good: good + b"\0",
    "key twice": lambda good: good[:-1] + b"," + good[1:],
    "blanks of another sort": lambda good: "\u00a0".encode() + good,
}


@pytest.mark.parametrize("damage", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("path", GOOD, ids=NAMES.values())
def test_a_body_that_is_no_sound_json_is_refused(receiver: LiveReceiver, path: str, damage: Any) -> None:
    is_refused(receiver, path, damage(json.dumps(GOOD[path]).encode()), 400, "bad_request")


@pytest.mark.parametrize("path", [path for path in GOOD if "/job/" in path])
def test_an_empty_body_is_refused_where_a_message_is_needed(receiver: LiveReceiver, path: str) -> None:
    for body in (b"", b" \n"):
        is_refused(receiver, path, body, 400, "bad_request")


@pytest.mark.parametrize("path", GOOD, ids=NAMES.values())
def test_a_body_over_the_cap_is_refused(receiver: LiveReceiver, path: str) -> None:
    is_refused(receiver, path, json.dumps(GOOD[path]).encode().ljust(65_537), 413, "too_large")


@pytest.mark.parametrize("text", ["[]", "[{}]", '"{}"', "7", "null", "true"])
@pytest.mark.parametrize("path", GOOD, ids=NAMES.values())
def test_a_body_that_is_no_object_is_refused(receiver: LiveReceiver, path: str, text: str) -> None:
    is_refused(receiver, path, text.encode(), 422, "invalid_message")


# ---- the wrong type -------------------------------------------------------------------------------------------------

NO_TEXT: list[Any] = [7, True, None, ["pi"], {}, ""]
NO_TOKEN = [*NO_TEXT, "short", f"{LEASE}\n", f"{LEASE} ", "x" * 65, "a/../../b1", "ab%2Fcdefgh", "ſſſſſſſſſ"]
NO_DIGEST = [7, True, ["a"], ID.upper(), ID + "\n", ID[1:], ID + "a", "../" + ID[3:], "g" * 64, "٠" * 64]
NO_COUNT = [True, 1.0, 1.5, "1", None, -1, [1]]
NO_NUMBER = [True, "1.5", [1.5], -1.0]
NO_FLAG = [0, 1, "true", None, 1.0, []]
NO_LIST: list[Any] = [{}, LEASE, 7, None, [7], ["short"], [LEASE] * 65]
WRONG: dict[str, dict[str, list[Any]]] = {
    "/v1/job/claim": {
        "claim_id": NO_TOKEN,
        "worker": [*NO_TEXT, "PI", "pi\n", "../pi", "pi/x", "-pi", "p i", "\x1b[31mpi", "π", "x" * 64],
        "capability": [None, [], "pi", 7, {}, {"hostname": 7}, {"hostname": "pi", "cpu_count": True}],
        "capability.ram_bytes": [True, 1.5, "1", [1]],
        "held_leases": NO_LIST,
    },
    f"/v1/job/{ID}/heartbeat": {
        "lease_id": NO_TOKEN,
        "progress": [[], "1", 7],
        "progress.step": NO_COUNT,
        "progress.phase": [7, None, ["a"], "x" * 201],
        "progress.metrics": [[], None, {"a": []}, {"a": {}}, {str(n): 1 for n in range(257)}],
        "progress.elapsed_s": [*NO_NUMBER, None],
        "held_leases": NO_LIST,
    },
    f"/v1/job/{ID}/complete": {
        "lease_id": NO_TOKEN,
        "artifact": [*NO_DIGEST, None],
        "metrics": [[], None, "1", {"a": [1]}],
        "content_digest": [ID, f"sha256:{ID}\n", f"SHA256:{ID}", 7],
        "duration_s": NO_NUMBER,
    },
    f"/v1/job/{ID}/fail": {
        "lease_id": NO_TOKEN,
        "kind": [*NO_TEXT, "bored", "STALLED", "stalled\n"],
        "exit_status": [True, 1.0, "1", [1]],
        "error": [7, None, ["a"], "x" * 4001],
        "log_tail": [7, None, ["a"], "x" * 16_385],
    },
    "/v1/manifest/reload": {"allow_shrink": NO_FLAG, "if_plan": NO_DIGEST},
    "/v1/backup": {"label": [7, True, ["a"], "", "UP", "a b", "../x", "a\n", "x" * 41], "artifacts": NO_FLAG},
    "/v1/fsck": {"hashes": NO_FLAG},
}


def with_field(message: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    first, _, rest = place.partition(".")
    return message | {first: with_field(message[first], rest, value) if rest else value}


@pytest.mark.parametrize(("path", "place"), [(path, place) for path, fields in WRONG.items() for place in fields])
def test_a_field_of_the_wrong_type_or_beyond_its_bounds_is_refused(
    receiver: LiveReceiver, path: str, place: str
) -> None:
    before = seen(receiver)
    for value in WRONG[path][place]:
        reply = receiver.call("POST", path, with_field(GOOD[path], place, value), OPERATED)
        assert (reply.status, reply.json["code"]) == (422, "invalid_message"), (value, reply.body)
        assert reply.json["errors"][0]["place"].startswith("/" + place.partition(".")[0]), value
    assert seen(receiver) == before


@pytest.mark.parametrize("path", [path for path in GOOD if ID in path], ids=lambda path: path.rpartition("/")[2])
def test_the_good_messages_of_the_table_come_through_to_the_queue(receiver: LiveReceiver, path: str) -> None:
    """Else every refusal above might have another reason."""
    assert receiver.call("POST", path, GOOD[path]).status == 404


def test_every_message_and_every_field_has_a_row() -> None:
    assert WRONG.keys() == GOOD.keys()
    for path, good in GOOD.items():
        assert {place.partition(".")[0] for place in WRONG[path]} == good.keys()


# ---- ids ------------------------------------------------------------------------------------------------------------

ODD_IDS = {
    "upper case": ID.upper(),
    "line feed behind": ID + "%0a",
    "NUL behind": ID + "%00",
    "blank before": "%20" + ID[1:],
    "encoded slash": ID[:32] + "%2f" + ID[:31],
    "dots": "..%2f..%2f" + ID[6:],
    "a dot": "%2e",
    "encoded digit": "%2561" + ID[1:],
    "too short": ID[1:],
    "too long": ID + "a",
    "other digits": "%D9%A1" * 64,
    "escape sequence": "%1b%5b31m",
    "half UTF-8": "%ff" * 64,
}
VERBS = {
    "heartbeat": ("POST", "/v1/job/{}/heartbeat", {"lease_id": LEASE}),
    "complete": ("POST", "/v1/job/{}/complete", {"lease_id": LEASE, "artifact": ID}),
    "fail": ("POST", "/v1/job/{}/fail", {"lease_id": LEASE, "kind": "lost"}),
    "cancel": ("POST", "/v1/job/{}/cancel", None),
    "requeue": ("POST", "/v1/job/{}/requeue", None),
    "job": ("GET", "/v1/job/{}", None),
    "why": ("GET", "/v1/job/{}/why", None),
    "upload": ("PUT", "/v1/model/{}", b"x"),
}


@pytest.mark.parametrize("odd", ODD_IDS.values(), ids=ODD_IDS)
def test_an_odd_id_is_nobodys_whatever_is_asked(receiver: LiveReceiver, odd: str) -> None:
    before = seen(receiver)
    for method, path, body in VERBS.values():
        reply = receiver.call(method, path.format(odd), body, OPERATED | {"X-Lease-Id": LEASE})
        assert (reply.status, reply.json["code"]) == (404, "not_found"), path
        assert reply.body.isascii()
        assert reply.json["detail"].isprintable()
    assert seen(receiver) == before


# ---- text of a client in an answer ----------------------------------------------------------------------------------

BREAK = "%0d%0aSet-Cookie:%20stolen=1%0d%0a%0d%0a<script>"
ECHOED = {
    "path": ("GET", f"/v1/{BREAK}", {}),
    "id": ("GET", f"/v1/job/{BREAK}", {}),
    "query name": ("GET", f"/v1/jobs?{BREAK}=1", {}),
    "query value": ("GET", f"/v1/jobs?status={BREAK}", {}),
    "mode": ("GET", f"/v1/jobs?mode={BREAK}", {}),
    "cursor": ("GET", f"/v1/jobs?cursor={BREAK}", {}),
    "prefix": ("GET", f"/v1/jobs?id_prefix={BREAK}", {}),
    "method": ("BR-EW", "/v1/jobs", {}),
    "host": ("GET", "/v1/jobs", {"Host": "evil<script>"}),
    "tag": ("GET", "/v1/jobs", {"If-None-Match": 'W/"stolen<script>"'}),
    "preference": ("POST", "/v1/job/claim", {"Prefer": "wait=stolen<script>"}),
    "lease": ("PUT", f"/v1/model/{ID}", {"X-Lease-Id": "stolen<script>"}),
}


@pytest.mark.parametrize(("method", "path", "headers"), ECHOED.values(), ids=ECHOED)
def test_no_text_of_a_client_comes_into_a_header_or_a_page(
    receiver: LiveReceiver, method: str, path: str, headers: dict[str, str]
) -> None:
    reply = receiver.call(method, path, b"" if method in ("POST", "PUT") else None, headers)
    assert "set-cookie" not in reply.headers
    assert not any("stolen" in value or "script" in value for value in reply.headers.values())
    assert reply.headers["content-type"] in ("application/json", "application/problem+json")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.body.isascii()
    assert json.loads(reply.body).get("detail", "").isprintable()
