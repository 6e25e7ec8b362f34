"""Workers and receivers of other versions, by what those versions really said (recorded by `record_wire.py`)."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_receiver import TOKEN, LiveReceiver
from record_wire import ACTS, MANIFEST, WORKER
from stub_receiver import StubReceiver

from training.fleet.client import Client
from training.fleet.model.capability import Capability
from training.fleet.model.errors import NotFoundError, StaleLeaseError
from training.fleet.wire.worker import Claim, Complete, Fail, Heartbeat

RECORDED = sorted((Path(__file__).parents[1] / "vectors" / "wire").glob("*.json"))
SCHEMA = {
    "title": "tiny",
    "properties": {
        "mode": {"enum": ["oracle"]},
        "split_recipe": {"enum": ["hosts"]},
        "model": {"enum": ["tiny"]},
    },
    "$defs": {"tiny": {"type": "object", "additionalProperties": False, "properties": {"act": {"type": "string"}}}},
}
MESSAGES = {"claim": Claim, "heartbeat": Heartbeat, "complete": Complete, "fail": Fail}

Exchange = dict[str, Any]


@pytest.fixture(params=RECORDED, ids=lambda path: path.stem)
def recorded(request: pytest.FixtureRequest) -> list[Exchange]:
    found: list[Exchange] = json.loads(request.param.read_text())
    return found


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    head = MANIFEST.replace("[defaults]", 'schema = "schema.json"\n[defaults]') % "trainer.py"
    jobs = [f'[[jobs]]\nmodel = "tiny"\nmode = "oracle"\nhyper = {{ act = "{act}" }}\n' for act in ACTS]
    with LiveReceiver(tmp_path, head + "".join(jobs), {"operator": TOKEN, "worker": WORKER}) as live:
        yield live


def verb(exchange: Exchange) -> str:
    path = exchange["request"]["path"]
    return "upload" if path.startswith("/v1/model/") else path.rpartition("/")[2]


def body(part: dict[str, Any]) -> Any:
    return base64.b64decode(part["base64"]) if "base64" in part else part["body"]


def missing(old: Any, new: Any, place: str = "") -> list[str]:
    """Return where a new answer lacks a field of the old one or has another type there."""
    if isinstance(old, dict) and isinstance(new, dict):
        gone = [f"{place}/{name}" for name in old if name not in new]
        return gone + [text for name in old if name in new for text in missing(old[name], new[name], f"{place}/{name}")]
    numbers = (int, float)
    alike = type(old) is type(new) or (type(old) in numbers and type(new) in numbers) or None in (old, new)
    return [] if alike else [f"{place}: {old!r} became {new!r}"]


def test_there_is_a_recording_of_the_first_version() -> None:
    assert "0.1.0" in [path.stem for path in RECORDED]


def test_an_older_worker_is_served_as_it_was(recorded: list[Exchange], receiver: LiveReceiver) -> None:
    names: dict[str, str] = {}
    for exchange in recorded:
        request, old = exchange["request"], exchange["response"]
        text = json.dumps({"path": request["path"], "headers": request["headers"], "body": request.get("body")})
        for before, now in names.items():
            text = text.replace(before, now)
        asked = json.loads(text)
        if verb(exchange) == "heartbeat" and (old["body"] or {}).get("cancel"):
            receiver.call("POST", asked["path"].replace("heartbeat", "cancel"), operator=True)
        sent = body(request) if "base64" in request else asked["body"]
        reply = receiver.call(request["method"], asked["path"], sent, asked["headers"])
        assert reply.status == old["status"], (asked["path"], reply.body)
        new = reply.json if reply.body else None
        assert missing(old["body"], new) == [], asked["path"]
        if verb(exchange) == "claim" and old["body"]:
            names |= {old["body"][name]: new[name] for name in ("job_id", "lease_id")}
    states = [job["status"] for job in receiver.call("GET", "/v1/jobs", operator=True).json["jobs"]]
    assert sorted(states) == ["cancelled", "completed", "failed"]


def test_an_older_receivers_answers_are_understood(recorded: list[Exchange], tmp_path: Path) -> None:
    stub = StubReceiver()
    bundle = tmp_path / "bundle"
    client = Client(stub.url, WORKER, deadline_s=0)
    try:
        for exchange in recorded:
            old, name = exchange["response"], verb(exchange)
            stub.script[name] = [(old["status"], old["headers"], b"" if old["body"] is None else old["body"])]
            if old["status"] >= 400:
                expected = {409: StaleLeaseError, 404: NotFoundError}[old["status"]]
                with pytest.raises(expected):
                    said(client, exchange, bundle)
            else:
                heard = said(client, exchange, bundle)
                known = {key: value for key, value in (old["body"] or {}).items() if hasattr(heard, key)}
                assert {key: getattr(heard, key) for key in known} == (old["body"] or {})
    finally:
        client.close()
        stub.stop()


def said(client: Client, exchange: Exchange, bundle: Path) -> Any:
    """Let the client say what was said then; return what it made of the answer."""
    request, name = exchange["request"], verb(exchange)
    if name == "upload":
        bundle.write_bytes(body(request))
        return client.upload(request["headers"]["x-lease-id"], request["path"].rpartition("/")[2], bundle)
    message, job_id = request["body"], request["path"].split("/")[3]
    if name == "claim":
        capability = Capability(**{**message["capability"], "gpus": ()})
        return client.claim(Claim(message["claim_id"], message["worker"], capability))[0]
    if name == "heartbeat":
        return client.heartbeat(job_id, Heartbeat(message["lease_id"]))
    if name == "complete":
        return client.complete(job_id, Complete(message["lease_id"], message["artifact"]))
    return client.fail(job_id, Fail(message["lease_id"], message["kind"]))


def test_what_a_worker_says_still_holds_all_that_older_receivers_want(recorded: list[Exchange]) -> None:
    for exchange in recorded:
        name = verb(exchange)
        if name in MESSAGES:
            fields = {field.name for field in dataclasses.fields(MESSAGES[name])}
            assert set(exchange["request"]["body"]) <= fields
    claim = next(exchange["request"]["body"] for exchange in recorded if verb(exchange) == "claim")
    assert set(claim["capability"]) <= {field.name for field in dataclasses.fields(Capability)}
