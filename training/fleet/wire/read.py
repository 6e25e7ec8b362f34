"""The one way from JSON to a message for programs on the standard library: the worker and the operator's command.

Guarantees that every field has its declared type, all the way down, so that a message holds real objects and numbers
that arithmetic can bear. Unknown fields are ignored, so an older program can read a newer receiver. A value that does
not fit is refused with its place, what was found and what was expected. Bounds of fields (`limits.Limit`) are not
checked again: the receiver made what this side reads.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from training.fleet.model.jobs import MAX_INTEGER

T = TypeVar("T")
_Reader = Callable[[Any], Any]

MAX_PLACE_CHARS: Final = 200
"""Bounds a place, because the keys of an object are text of any length."""
_PLAIN: Final = {str: "str", bool: "bool", int: "int", float: "float", types.NoneType: "null"}


class MismatchError(Exception):
    """A value of another type than its field; the caller knows who answered and makes an error for people of it.

    Attributes:
        place: Where it stands, "jobs[0].model"; empty for the whole message.
        found: The type that is there, None for a field that is missing.
        expected: The type that should be there.
    """

    def __init__(self, found: str | None, expected: str, place: str = "") -> None:
        super().__init__(place, found, expected)
        self.place = place
        self.found = found
        self.expected = expected


def message(kind: type[T], document: Any) -> T:
    """Return a JSON document as a message.

    Args:
        kind: A dataclass whose fields are plain values, such as those of this package.
        document: What `json.loads` made of the answer.

    Raises:
        MismatchError: A field is missing or has another type.
    """
    try:
        made: T = _object(kind)(document)  # type: ignore[arg-type]  # mypy takes a class for unhashable
    except MismatchError as fault:
        fault.place = fault.place.removeprefix(".")
        raise
    return made


# Readers are made once for each type: a page of 500 jobs would otherwise look at 12,000 annotations.


@functools.cache
def _object(kind: Any) -> _Reader:
    hints = get_type_hints(kind)
    fields = [
        (item.name, f".{item.name}", _reader(hints[item.name]), _optional(item)) for item in dataclasses.fields(kind)
    ]

    def read(found: Any) -> Any:
        _demand(found, dict, "an object")
        values = {}
        for name, step, reader, optional in fields:
            if name in found:
                values[name] = _at(step, reader, found[name])
            elif not optional:
                raise MismatchError(None, "a value", step)
        return kind(**values)

    return read


@functools.cache
def _reader(hint: Any) -> _Reader:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda found: found
    if origin in (Union, types.UnionType):
        return _choice(inner)
    if dataclasses.is_dataclass(hint):
        return _object(hint)  # type: ignore[arg-type]
    if origin in (list, tuple):
        return _items(origin, _reader(inner[0]))
    if origin is dict:
        return _members(_reader(inner[1]))
    # A newer receiver may know a status that this program does not; people can read it all the same.
    return _plain((str if origin is Literal else hint,))


def _choice(kinds: tuple[Any, ...]) -> _Reader:
    """Return the reader of a union: of plain types, or of one other type that may be null."""
    if all(kind in _PLAIN for kind in kinds):
        return _plain(kinds)
    (only,) = (_reader(kind) for kind in kinds if kind is not types.NoneType)
    return lambda found: None if found is None else only(found)


def _items(origin: Callable[[list[Any]], Any], reader: _Reader) -> _Reader:
    def read(found: Any) -> Any:
        _demand(found, list, "list")
        return origin([_at(f"[{index}]", reader, item) for index, item in enumerate(found)])

    return read


def _members(reader: _Reader) -> _Reader:
    def read(found: Any) -> Any:
        _demand(found, dict, "dict")
        return {key: _at(f".{key}", reader, item) for key, item in found.items()}

    return read


def _plain(kinds: tuple[Any, ...]) -> _Reader:
    expected = " or ".join(_PLAIN[kind] for kind in kinds)
    accepted = {*kinds, int} if float in kinds else {*kinds}  # JSON makes no difference between 3 and 3.0
    # Python reads NaN and integers of any size from JSON; both would break arithmetic much later.
    limit = sys.float_info.max if float in kinds else MAX_INTEGER

    def read(found: Any) -> Any:
        kind = type(found)
        if kind not in accepted:
            raise MismatchError(kind.__name__, expected)
        if kind in (int, float) and not -limit <= found <= limit:
            raise MismatchError("a number without bounds", expected)
        return found

    return read


def _at(step: str, reader: _Reader, found: Any) -> Any:
    """Read a part of a message; a fault in it learns the way to it while it climbs."""
    try:
        return reader(found)
    except MismatchError as fault:
        fault.place = (step + fault.place)[:MAX_PLACE_CHARS]
        raise


def _demand(found: Any, kind: type, expected: str) -> None:
    if not isinstance(found, kind):
        raise MismatchError(type(found).__name__, expected)


def _optional(item: dataclasses.Field[Any]) -> bool:
    return item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING
