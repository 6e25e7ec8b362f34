"""Bodies of requests, read strictly.

Owns the way from bytes to a message of `wire`. Guarantees that what comes out has exactly the declared types within
the declared bounds, that ambiguous JSON (duplicate keys, NaN, numbers that readers do not keep, lone surrogates, NUL,
nesting without end, bytes that are not UTF-8) is refused with 400, and that a readable message with wrong content is
refused with 422 and a JSON pointer. Unknown fields are ignored.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
from typing import Annotated, Any, Final, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from training.fleet.model.errors import Fault, InvalidMessageError, RequestError
from training.fleet.model.jobs import MAX_INTEGER
from training.fleet.wire.limits import Limit

T = TypeVar("T")
MAX_NESTING: Final = 32
MANY_DIGITS: Final = re.compile(rb"[0-9]{16}")
FOUND: Final = re.compile(r"^Expected `(?P<expected>[^`]+)`, got `(?P<found>[^`]+)`$")
MISSING: Final = re.compile(r"^Object missing required field `(?P<name>[^`]+)`$")
STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


class Decoder(Generic[T]):
    """Reads one kind of message.

    Args:
        message: A dataclass of `wire`; what comes out is an instance of it.
    """

    def __init__(self, message: type[T]) -> None:
        self.message = message
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(strict(message))  # type: ignore[arg-type]

    def decode(self, body: bytes) -> T:
        """Return the message.

        Raises:
            RequestError: The bytes are no unambiguous JSON.
            InvalidMessageError: The content breaks the contract.
        """
        demand_sound_json(body)
        try:
            return self._decoder.decode(body)
        except msgspec.DecodeError as error:
            raise _invalid(str(error)) from None


def demand_sound_json(body: bytes) -> None:
    """Refuse bytes that JSON readers could understand in two ways.

    Raises:
        RequestError: With what was found.
    """
    if _surely_sound(body):
        return
    try:
        value = _PARSER.decode(body.decode())
    except UnicodeDecodeError as error:
        raise RequestError(f"byte {error.start} of the body is no UTF-8", "send JSON in UTF-8") from None
    except RecursionError:
        raise RequestError(f"the body nests deeper than {MAX_NESTING} levels", "send a flatter object") from None
    except ValueError as error:
        raise RequestError(f"the body is no valid JSON ({error})", "send one JSON object in UTF-8") from None
    # Only an escape can bring in a surrogate or NUL, only many brackets can nest deeply, and only many digits make a
    # huge integer: the walk is seldom needed.
    if b"\\u" in body or body.count(b"[") + body.count(b"{") > MAX_NESTING or MANY_DIGITS.search(body):
        _demand_plain(value, 0)


def _surely_sound(body: bytes) -> bool:
    """Return True if a quick look rules out everything ambiguous, as it does for the messages of workers.

    Every key brings a colon with it. If the text has no more colons than keys were read, no key stood there twice.
    """
    if b"\\" in body or body.count(b"[") + body.count(b"{") > MAX_NESTING:
        return False
    try:
        keys = _count_keys(_QUICK.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError):
        return False
    return body.count(b":") - body.count(b'"sha256:') == keys


def _count_keys(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(_count_keys, value.values()))
    if isinstance(value, list):
        return sum(map(_count_keys, value))
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise OverflowError
    return 0


def _demand_plain(value: Any, depth: int) -> None:
    if depth > MAX_NESTING:
        raise RequestError(f"the body nests deeper than {MAX_NESTING} levels", "send a flatter object")
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise RequestError("the body holds NUL or half a surrogate pair", expected="plain Unicode text")
    elif isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise RequestError("the body holds an integer beyond 2^53-1", expected="one that every JSON reader keeps")
    elif isinstance(value, dict):
        for key, item in value.items():
            _demand_plain(key, depth)
            _demand_plain(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _demand_plain(item, depth + 1)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is beyond a double")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


_QUICK: Final = msgspec.json.Decoder()
_PARSER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant)


@functools.cache
def strict(annotation: Any) -> Any:
    """Return an annotation with every `wire.limits.Limit` turned into msgspec's bounds, dataclasses included."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if dataclasses.is_dataclass(annotation):
        return _strict_dataclass(annotation)
    if origin is Annotated:
        limits = [item for item in arguments[1:] if isinstance(item, Limit)]
        return Annotated[(strict(arguments[0]), *map(_meta, limits))]
    if origin in (Union, types.UnionType):
        return Union[tuple(strict(item) for item in arguments)]  # noqa: UP007  a union made at run time
    if origin in (list, dict, tuple):
        return origin[tuple(strict(item) for item in arguments)]
    return annotation


def _strict_dataclass(message: Any) -> Any:
    hints = get_type_hints(message, include_extras=True)
    fields = [
        (
            item.name,
            strict(hints[item.name]),
            dataclasses.field(default=item.default)
            if item.default_factory is dataclasses.MISSING
            else dataclasses.field(default_factory=item.default_factory),
        )
        for item in dataclasses.fields(message)
    ]
    made = dataclasses.make_dataclass(message.__name__, fields, bases=(message,), frozen=True, slots=True)
    made.__doc__ = message.__doc__
    return made


def _meta(limit: Limit) -> Any:
    bounds = dataclasses.asdict(limit)
    if limit.pattern is not None:
        # A bare "$" lets a newline follow the end in Python; with the look-ahead Python and ECMAScript agree.
        bounds["pattern"] = limit.pattern.removesuffix("$") + r"$(?!\n)"
    return msgspec.Meta(**bounds)


def _invalid(text: str) -> InvalidMessageError:
    """Return msgspec's verdict as one fault with a JSON pointer."""
    what, _, place = text.partition(" - at `")
    pointer = "".join("/" + (name or index) for name, index in STEP.findall(place.removesuffix("`")))
    types_, missing = FOUND.match(what), MISSING.match(what)
    if missing:
        fault = Fault(f"{pointer}/{missing['name']}", "nothing", "a value")
    elif types_:
        fault = Fault(pointer or "/", types_["found"], types_["expected"])
    else:
        fault = Fault(pointer or "/", "a value out of bounds", what.removeprefix("Expected "))
    return InvalidMessageError("the message has a fault", "correct it and send it again", faults=(fault,))
