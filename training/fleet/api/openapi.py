"""The OpenAPI 3.1 document, made of the route table and the messages."""

from __future__ import annotations

import functools
from typing import Any, Final

import msgspec

from training.fleet import __version__
from training.fleet.api.json import strict
from training.fleet.api.routes import ROUTES, Media, Route
from training.fleet.auth import TOKENS

REFERENCE: Final = "#/components/schemas/{name}"
COMMON: Final = ((400, "the request cannot be read"), (401, "no token, or a wrong one"), (403, "not permitted"))
WITH_BODY: Final = ((413, "the body is too large"), (422, "the content breaks the contract, see `errors`"))
WITH_QUERY: Final = ((422, "the query names something unknown, or a value breaks its schema"),)
PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "An error (RFC 9457).",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "description": "urn:cis490:problem:CODE"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was found, what was expected, what to do now."},
        "code": {"type": "string", "description": "Stable name of the error."},
        "found": {"type": "string", "description": "What was found."},
        "expected": {"type": "string", "description": "What was expected; missing where `found` says it."},
        "remedy": {"type": "string", "description": "What to do now; missing where nothing can be done."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["place", "found", "expected", "remedy"],
                "properties": {name: {"type": "string"} for name in ("place", "found", "expected", "remedy")},
            },
        },
    },
}


@functools.cache
def document() -> dict[str, Any]:
    """Return the OpenAPI document of this receiver.

    Source: OpenAPI Specification 3.1.
    """
    messages: list[Any] = [kind for route in ROUTES for kind in (route.body, route.response) if isinstance(kind, type)]
    _, components = msgspec.json.schema_components([strict(kind) for kind in messages], ref_template=REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "CIS490 training fleet receiver", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": {**components, "Problem": PROBLEM}, "securitySchemes": _schemes()},
    }


def _schemes() -> dict[str, Any]:
    return {
        "operator": {
            "type": "apiKey",
            "in": "header",
            "name": "X-Operator-Token",
            "description": f"The receiver's {TOKENS['operator']}.",
        },
        **{
            role: {
                "type": "http",
                "scheme": "bearer",
                "description": f"The receiver's {TOKENS[role]}; on loopback needed only when it is set.",
            }
            for role in ("worker", "read")
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "responses": _responses(route),
    }
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = _request_body(route)
    if route.role != "anyone":
        operation["security"] = [{route.role: []}, *([{"operator": []}, {}] if route.role == "read" else [])]
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": f"^{parameter.pattern.pattern}$"},
        }
        for name, parameter in route.parameters
    ]
    for name, note, schema in route.query:
        found.append({"name": name, "in": "query", "description": note, "schema": schema, "explode": False})
    for name, note, pattern in route.headers:
        text = {"type": "string"} if pattern is None else {"type": "string", "pattern": pattern}
        required = pattern is not None
        found.append({"name": name, "in": "header", "description": note, "required": required, "schema": text})
    return found


def _request_body(route: Route) -> dict[str, Any]:
    return {"required": not route.optional, "content": _content(route.body)}


def _responses(route: Route) -> dict[str, Any]:
    good = {"description": "done", "content": _content(route.response)}
    found: dict[str, Any] = {"200": good}
    common = (*COMMON, *_caps(route)) if route.role != "anyone" else (COMMON[0], *WITH_QUERY)
    for status, note in (*common, *route.statuses):
        before = found.get(str(status), {}).get("description")
        found[str(status)] = {"description": note if before is None or before == note else f"{before}; {note}"}
        if status == 201:
            found["201"]["content"] = good["content"]
        elif status >= 400 and route.problems:
            schema = {"$ref": REFERENCE.format(name="Problem")}
            found[str(status)]["content"] = {"application/problem+json": {"schema": schema}}
    return found


def _caps(route: Route) -> tuple[tuple[int, str], ...]:
    if not route.changes:
        return WITH_QUERY
    # A body is read and counted where none is asked for as well.
    return WITH_BODY if route.body is not None else (*WITH_BODY[:1], *WITH_QUERY)


def _content(kind: type[Any] | Media | None) -> dict[str, Any]:
    if isinstance(kind, Media):
        return {kind.type: {"schema": kind.schema} if kind.schema else {}}
    schema = {"type": "object"} if kind is None else {"$ref": REFERENCE.format(name=kind.__name__)}
    return {"application/json": {"schema": schema}}
