"""What is behind the `?`: nothing gets past the schema that the route table declares."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest

from training.fleet.api import queries
from training.fleet.api.routes import ROUTES, Route
from training.fleet.model.errors import InvalidMessageError, RequestError

DECLARED: queries.Declared = (
    ("limit", "", {"type": "integer", "minimum": 1, "maximum": 500}),
    ("mode", "", {"enum": ["realistic", "oracle"]}),
    ("status", "", {"type": "array", "minItems": 1, "items": {"enum": ["pending", "failed"]}}),
    ("worker", "", {"type": "string", "pattern": "^[0-9a-z]{1,3}$", "description": "a short name"}),
    ("model", "", {"type": "string"}),
)

GOOD = {
    "": {},
    "limit=1": {"limit": "1"},
    "limit=500&mode=oracle": {"limit": "500", "mode": "oracle"},
    "status=pending,failed": {"status": "pending,failed"},
    "status=failed%2Cpending": {"status": "failed,pending"},
    "worker=%61b9": {"worker": "ab9"},
    "model=a%20model": {"model": "a model"},
    "model=": {"model": ""},
}
OUTSIDE = {
    "limit zero": "limit=0",
    "limit over": "limit=501",
    "limit with a zero in front": "limit=01",
    "limit with a sign": "limit=%2B5",
    "limit with a space": "limit=5%20",
    "limit with a newline": "limit=5%0A",
    "limit in other digits": "limit=%D9%A1",
    "limit with an underscore": "limit=1_0",
    "limit as a float": "limit=5.0",
    "limit of many digits": "limit=" + "9" * 400,
    "no limit": "limit=",
    "limit without a value": "limit",
    "mode in capitals": "mode=Oracle",
    "two modes": "mode=oracle,realistic",
    "mode with a newline": "mode=oracle%0A",
    "no status": "status=",
    "an empty status among others": "status=pending,",
    "unknown status": "status=pending,done",
    "pattern with a newline behind": "worker=abc%0A",
    "pattern with a newline before": "worker=%0Aabc",
    "pattern with a second line": "worker=abc%0Aabc",
    "pattern too long": "worker=abcd",
    "pattern with NUL": "worker=ab%00",
    "pattern empty": "worker=",
    "unknown": "stat=pending",
    "name in capitals": "Limit=5",
    "no name": "=5",
    "known and unknown": "limit=5&x=1",
}
UNREADABLE = {
    "twice": "limit=1&limit=1",
    "twice, once encoded": "limit=1&lim%69t=1",
    "no UTF-8": "model=%ff",
    "too long": "model=" + "x" * 5000,
    "too many": "&".join(f"a{number}=1" for number in range(40)),
}


@pytest.mark.parametrize(("raw", "found"), GOOD.items())
def test_what_fits_is_handed_on(raw: str, found: dict[str, str]) -> None:
    assert queries.read(raw.encode(), DECLARED) == found


@pytest.mark.parametrize("raw", OUTSIDE.values(), ids=OUTSIDE)
def test_what_breaks_its_schema_is_refused(raw: str) -> None:
    with pytest.raises(InvalidMessageError, match="expected"):
        queries.read(raw.encode(), DECLARED)


@pytest.mark.parametrize("raw", UNREADABLE.values(), ids=UNREADABLE)
def test_what_can_be_read_in_two_ways_is_refused(raw: str) -> None:
    with pytest.raises(RequestError) as caught:
        queries.read(raw.encode(), DECLARED)
    assert caught.value.status == 400


def test_as_long_a_query_as_may_be_is_read_and_a_byte_more_is_refused() -> None:
    fill = "x" * (queries.MAX_QUERY_BYTES - len("model="))
    assert queries.read(f"model={fill}".encode(), DECLARED) == {"model": fill}
    with pytest.raises(RequestError, match="4096 bytes"):
        queries.read(f"model={fill}x".encode(), DECLARED)


PATTERNED = [(route, name, schema) for route in ROUTES for name, _, schema in route.query if "pattern" in schema]


@pytest.mark.parametrize(("route", "name", "schema"), PATTERNED, ids=lambda value: getattr(value, "path", ""))
def test_every_declared_pattern_is_held_from_first_to_last_letter(
    route: Route, name: str, schema: dict[str, str]
) -> None:
    texts = ("a" * 64, "a", "2026-11-30T14:00:00.000Z")
    example = next(text for text in texts if re.fullmatch(schema["pattern"], text))
    assert queries.read(f"{name}={example}".encode(), route.query) == {name: example}
    for wrong in (example + "\n", "\n" + example, example + "\0", "", "?" * 64):
        with pytest.raises(InvalidMessageError, match=re.escape(schema["description"])):
            queries.read(f"{name}={quote(wrong)}".encode(), route.query)


def test_every_schema_of_the_table_is_of_a_kind_that_is_judged() -> None:
    """A new kind would be taken unread."""
    kinds = {
        key
        for route in ROUTES
        for _, _, schema in route.query
        for key in schema
        if not (schema.get("type") == "string" and key in ("type", "pattern", "description"))
    }
    assert kinds == {"type", "minimum", "maximum", "minItems", "items", "enum"}
