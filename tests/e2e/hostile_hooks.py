"""What Schemathesis cannot know of a receiver: live leases, bundles that hash to their names, and manifests.

It loads this file into its own process. Well-formed calls are steered to jobs that are really leased, so that they come
past the first look-up; malformed ones are left as they were made.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import deque
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import strategies as st

HEAD = '[manifest]\nschema = 1\n[hosts.default]\n[defaults]\nsplit_recipe = "time"\n'
JOB = '[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nseed = {}\n'
MANIFESTS = [HEAD, HEAD + JOB.format(1), HEAD + JOB.format(1) + JOB.format(2) + "priority = 3\n"]
NUMBERS = itertools.count()
LEASES: deque[dict[str, str]] = deque(maxlen=64)
"""The newest leases that live; `artifact` is there once a bundle was uploaded under it."""
ENDED = deque(os.environ["HOSTILE_ENDED"].split(","))
"""Jobs that were cancelled, for whoever would requeue one."""
SEEN: dict[str, int] = {}


@schemathesis.serializer("application/toml", "application/zstd")
def as_it_is(_: schemathesis.SerializationContext, value: Any) -> dict[str, Any]:
    return {"data": value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")}


schemathesis.openapi.media_type("application/toml", st.sampled_from(MANIFESTS).map(str.encode))
schemathesis.openapi.media_type("application/zstd", st.binary(max_size=64))


@schemathesis.hook
def before_call(_: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Point three of four well-formed calls at something that exists."""
    number = next(NUMBERS)
    if case.meta is None or case.meta.generation.mode.is_negative or number % 4 == 0:
        return
    name = case.operation.label
    if name == "POST /v1/job/claim" and isinstance(case.body, dict) and "worker" in case.body:
        # A worker that asks again without naming its leases loses them, so each asks under a name of its own.
        case.body["worker"], case.body["claim_id"] = f"worker-{number}", f"claim-{number:08d}"
    if name == "POST /v1/job/{id}/requeue" and ENDED:
        case.path_parameters["id"] = ENDED.popleft()
        return
    if not LEASES:
        return
    lease = LEASES[number % len(LEASES)]
    if name == "PUT /v1/model/{sha256}" and isinstance(case.body, bytes):
        lease["artifact"] = case.path_parameters["sha256"] = hashlib.sha256(case.body).hexdigest()
        case.headers["X-Lease-Id"] = lease["lease_id"]
    elif "{id}" in name:
        case.path_parameters["id"] = lease["job_id"]
        if isinstance(case.body, dict) and "lease_id" in case.body:
            case.body["lease_id"] = lease["lease_id"]
        if isinstance(case.body, dict) and "artifact" in case.body and "artifact" in lease:
            case.body["artifact"] = lease["artifact"]


@schemathesis.hook
def after_call(_: schemathesis.HookContext, case: schemathesis.Case, response: schemathesis.Response) -> None:
    """Remember leases, and what was answered to what."""
    name = f"{case.operation.label} {response.status_code}"
    SEEN[name] = SEEN.get(name, 0) + 1
    if name == "POST /v1/job/claim 200" and case.body["worker"].startswith("worker-"):
        found = response.json()
        LEASES.append({"job_id": found["job_id"], "lease_id": found["lease_id"]})
    elif isinstance(case.body, dict) and (name == "POST /v1/job/{id}/fail 200" or b"stale_lease" in response.content):
        for lease in [lease for lease in LEASES if lease["lease_id"] == case.body.get("lease_id")]:
            LEASES.remove(lease)
    Path(os.environ["HOSTILE_SEEN"]).write_text(json.dumps(SEEN))


@schemathesis.hook
def filter_failure(_: schemathesis.HookContext, failure: Any, case: Any, response: Any) -> bool:
    """Say whether a failure counts. JSON Schema cannot say these things, so the document cannot either."""
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    if response.status_code == 400 and ambiguous(case.body):
        return False
    if response.status_code == 422 and "cursor" in case.query:
        return False  # only the receiver makes cursors
    if case.operation.label == "GET /v1/worker/self" and "worker" not in case.query:
        return False  # an enrolled worker need not give its name, and this one is not enrolled
    if response.status_code == 412:
        return False  # a plan or a manifest that moved meanwhile; which ones there are only the receiver knows
    if any(words in response.content for words in (b"chooses every result", b"has no if_digest", b"If-Match is")):
        return False  # members of which one is needed, and the form of a header that may be left out
    # To JSON Schema 1.0 is an integer; to the receiver it is a number that somebody computed.
    return not (response.status_code == 422 and b"found float, expected int" in response.content)


def ambiguous(value: Any, depth: int = 0) -> bool:
    """Say whether readers of JSON may disagree about a value: NUL, huge integers, or nesting without end."""
    if depth > 32:
        return True
    if isinstance(value, str):
        return "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, int):
        return abs(value) > 2**53 - 1
    if isinstance(value, dict):
        return any(ambiguous(key) or ambiguous(item, depth + 1) for key, item in value.items())
    return isinstance(value, list) and any(ambiguous(item, depth + 1) for item in value)
