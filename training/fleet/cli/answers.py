"""Turn the receiver's JSON into the messages of `wire`.

Guarantees that what a view gets has the fields and types it expects. Unknown members are ignored, so an older command
can read a newer receiver. Leaves fetching to `remote` and showing to `views`.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from training.fleet.errors import FleetError

T = TypeVar("T")


class _MismatchError(Exception):
    """A member of the wrong type, with where it stands."""


def read(kind: type[T], document: Any) -> T:
    """Return a JSON document as a message.

    Args:
        kind: A dataclass of `wire`.
        document: What `json.loads` made of the receiver's answer.

    Raises:
        FleetError: A member is missing or has another type; receiver and command are of unlike versions.
    """
    try:
        message: T = _message(kind, document, "the answer")
    except _MismatchError as fault:
        raise FleetError(
            f"the receiver's answer cannot be read: {fault}",
            "receiver and command are of unlike versions: update the older one",
        ) from None
    return message


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _message(kind: Any, document: Any, place: str) -> Any:
    if not isinstance(document, dict):
        raise _MismatchError(f"{place}: found {type(document).__name__}, expected an object")
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        if item.name in document:
            values[item.name] = _value(_hints(kind)[item.name], document[item.name], f"{place}.{item.name}")
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise _MismatchError(f"{place}.{item.name}: found nothing, expected a value")
    return kind(**values)


def _value(hint: Any, value: Any, place: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _choice(inner, value, place)
    if dataclasses.is_dataclass(hint):
        return _message(hint, value, place)
    if origin in (list, tuple):
        _demand(value, list, place)
        items = (_value(inner[0], item, f"{place}[{index}]") for index, item in enumerate(value))
        return origin(items)
    if origin is dict:
        _demand(value, dict, place)
        return {key: _value(inner[1], item, f"{place}.{key}") for key, item in value.items()}
    if origin is Literal:
        return _demand(value, str, place)
    return value if hint is Any else _demand(value, hint, place)


def _choice(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    real = [kind for kind in kinds if kind is not type(None)]
    return _value(real[0], value, place) if len(real) == 1 else value


def _demand(value: Any, kind: Any, place: str) -> Any:
    wanted = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise _MismatchError(f"{place}: found {type(value).__name__}, expected {kind.__name__}")
    return value
