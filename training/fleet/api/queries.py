"""Query parameters, judged by what the route table declares of them.

Owns the way from the bytes behind the `?` to text by name. Guarantees that what a handler gets is declared for its
route and fits the declared schema as a whole, first letter to last, so that `/openapi.json` promises nothing that is
not kept. The schemas are those of JSON Schema that the table uses: integer, enum, array of an enum, pattern, string.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from training.fleet.model.errors import InvalidMessageError, RequestError

MAX_QUERY_BYTES: Final = 4096
MAX_FIELDS: Final = 32
Declared = tuple[tuple[str, str, Mapping[str, Any]], ...]
_WHOLE: Final = re.compile(r"0|[1-9][0-9]{0,15}")


def read(raw: bytes, declared: Declared) -> dict[str, str]:
    """Return the query parameters.

    Args:
        raw: The query as it was sent.
        declared: Name, meaning and schema of each parameter there is.

    Raises:
        RequestError: It is too long, no UTF-8, or names something twice.
        InvalidMessageError: It names something unknown, or a value breaks its schema.
    """
    if not raw:
        return {}
    found = _parsed(raw)
    schemas = {name: schema for name, _, schema in declared}
    unknown = sorted(found.keys() - schemas.keys())
    if unknown:
        raise InvalidMessageError(
            f"the query names {unknown[0]!a}", expected=f"one of {', '.join(sorted(schemas)) or 'none'}"
        )
    for name, text in found.items():
        expected = _broken(text, schemas[name])
        if expected:
            raise InvalidMessageError(f"{name} is {ascii(text)[:80]}", expected=expected)
    return found


def words(text: str | None) -> frozenset[str]:
    """Return the words of a value that joins them by commas, none without a value."""
    return frozenset() if text is None else frozenset(text.split(","))


def _parsed(raw: bytes) -> dict[str, str]:
    try:
        if len(raw) > MAX_QUERY_BYTES:
            raise ValueError(f"{len(raw)} bytes")  # noqa: TRY301  one place words the refusal
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise RequestError(
            "the query cannot be read", expected=f"readable text of at most {MAX_QUERY_BYTES} bytes"
        ) from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RequestError("the query names a parameter twice", "name each once, with commas between its values")
    return found


def _broken(text: str, schema: Mapping[str, Any]) -> str:
    """Return what a schema expects when a value breaks it, else nothing."""
    if schema.get("type") == "integer":
        least, most = schema["minimum"], schema["maximum"]
        good = _WHOLE.fullmatch(text) and least <= int(text) <= most
        return "" if good else f"a whole number from {least} to {most}"
    if schema.get("type") == "array":
        words = schema["items"]["enum"]
        return "" if set(text.split(",")) <= set(words) else f"of {', '.join(words)}"
    if "enum" in schema:
        return "" if text in schema["enum"] else f"one of {', '.join(schema['enum'])}"
    # fullmatch, because "$" alone would let a newline follow.
    good = "pattern" not in schema or _compiled(schema["pattern"]).fullmatch(text)
    return "" if good else str(schema["description"])


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
