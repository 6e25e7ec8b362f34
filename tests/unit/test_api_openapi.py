"""What `/openapi.json` says of a route: who may ask, with what, and what comes back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from training.fleet.api import openapi

PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


@pytest.fixture(scope="module")
def paths() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = openapi.document.__wrapped__()["paths"]
    return found


@pytest.mark.parametrize(
    ("path", "method", "security"),
    [
        ("/healthz", "get", None),
        ("/v1/enrol", "post", None),
        ("/v1/job/claim", "post", [{"worker": []}]),
        ("/v1/backup", "post", [{"operator": []}]),
        ("/v1/jobs", "get", [{"read": []}, {"operator": []}, {}]),
    ],
)
def test_a_route_names_who_may_ask(
    paths: dict[str, dict[str, Any]], path: str, method: str, security: list[dict[str, list[str]]] | None
) -> None:
    assert paths[path][method].get("security") == security


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/v1/jobs", "get", None),
        ("/v1/job/{id}/cancel", "post", None),
        ("/v1/job/claim", "post", (True, "application/json", "Claim")),
        ("/v1/enrol", "post", (True, "application/json", "Enrol")),
        ("/v1/invite", "post", (True, "application/json", "InviteOrder")),
        ("/v1/backup", "post", (False, "application/json", "BackupOrder")),
        ("/v1/model/{sha256}", "put", (True, "application/zstd", "")),
        ("/v1/manifest/plan", "post", (False, "application/toml", "")),
    ],
)
def test_a_route_names_the_body_it_reads_and_whether_it_must_come(
    paths: dict[str, dict[str, Any]], path: str, method: str, body: tuple[bool, str, str] | None
) -> None:
    told = paths[path][method].get("requestBody")
    if body is None:
        assert told is None
        return
    required, media, name = body
    content = {"schema": {"$ref": f"#/components/schemas/{name}"}} if name else {}
    assert told == {"required": required, "content": {media: content}}


@pytest.mark.parametrize(
    ("path", "method", "statuses"),
    [
        ("/healthz", "get", "200 400 422"),
        ("/readyz", "get", "200 400 422 503"),
        ("/v1/jobs", "get", "200 304 400 401 403 422"),
        ("/v1/job/{id}/cancel", "post", "200 400 401 403 404 409 413 422"),
        ("/v1/enrol", "post", "200 400 401 403 413 422 429"),
        ("/v1/model/{sha256}", "put", "200 201 400 401 403 404 409 411 413 422 503 507"),
    ],
)
def test_a_route_names_every_status_it_answers_with(
    paths: dict[str, dict[str, Any]], path: str, method: str, statuses: str
) -> None:
    assert sorted(paths[path][method]["responses"]) == statuses.split()


def test_every_refusal_is_a_problem_but_that_of_readyz(paths: dict[str, dict[str, Any]]) -> None:
    for path, methods in paths.items():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400 and path != "/readyz":
                    assert answer["content"] == PROBLEM, (path, status)
                else:
                    assert answer.get("content") != PROBLEM, (path, status)


def test_a_stored_artifact_is_answered_as_one_that_was_there(paths: dict[str, dict[str, Any]]) -> None:
    answers = paths["/v1/model/{sha256}"]["put"]["responses"]
    assert answers["201"]["content"] == answers["200"]["content"] != {}
    assert "content" not in paths["/v1/jobs"]["get"]["responses"]["304"]


def test_two_reasons_for_one_status_stand_side_by_side_and_the_same_one_once(paths: dict[str, dict[str, Any]]) -> None:
    put = paths["/v1/model/{sha256}"]["put"]["responses"]["422"]["description"]
    assert put == "the content breaks the contract, see `errors`; `digest_mismatch`: the bytes do not hash to the name"
    enrol = paths["/v1/enrol"]["post"]["responses"]
    assert enrol["400"]["description"] == "the request cannot be read"
    assert paths["/v1/jobs"]["get"]["responses"]["304"]["description"] == "nothing changed since the given ETag"
    assert paths["/v1/jobs"]["get"]["responses"]["422"]["description"].startswith("the query names something unknown")
    cancel = paths["/v1/job/{id}/cancel"]["post"]["responses"]["422"]["description"]
    assert cancel.startswith("the query names something unknown")


@pytest.mark.parametrize(
    ("path", "media", "schema"),
    [
        ("/v1/worker.pyz", "application/zip", {"type": "string", "format": "binary"}),
        ("/v1/ca", "application/x-pem-file", {"type": "string"}),
        ("/metrics", "text/plain", {"type": "string"}),
        ("/healthz", "application/json", {"type": "object"}),
        ("/v1/jobs", "application/json", {"$ref": "#/components/schemas/JobPage"}),
    ],
)
def test_a_route_names_what_it_answers_with(
    paths: dict[str, dict[str, Any]], path: str, media: str, schema: dict[str, str]
) -> None:
    assert paths[path]["get"]["responses"]["200"]["content"] == {media: {"schema": schema}}


def test_a_header_with_a_pattern_must_come_and_one_without_may(paths: dict[str, dict[str, Any]]) -> None:
    (_, lease) = paths["/v1/model/{sha256}"]["put"]["parameters"]
    assert (lease["name"], lease["in"], lease["required"]) == ("X-Lease-Id", "header", True)
    assert lease["schema"] == {"type": "string", "pattern": "^[0-9A-Za-z_-]{8,64}$"}
    (prefer,) = paths["/v1/job/claim"]["post"]["parameters"]
    assert (prefer["name"], prefer["required"], prefer["schema"]) == ("Prefer", False, {"type": "string"})


def test_the_parts_of_a_path_are_parameters_of_it(paths: dict[str, dict[str, Any]]) -> None:
    (job,) = paths["/v1/job/{id}"]["get"]["parameters"]
    assert (job["name"], job["in"], job["schema"]["pattern"]) == ("id", "path", "^[0-9a-f]{64}$")
    (name,) = paths["/v1/worker/{name}/revoke"]["post"]["parameters"]
    assert (name["name"], name["in"], name["required"]) == ("name", "path", True)
    assert "parameters" not in paths["/healthz"]["get"]


def test_every_message_that_a_route_names_is_described_beside_the_others() -> None:
    document = openapi.document.__wrapped__()
    named = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert {"Claim", "Lease", "JobPage", "Gpu", "Problem"} <= named
    assert named <= document["components"]["schemas"].keys()
