"""A named statement that answers with rows, and what makes a row of its values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Query(Generic[R]):
    """A named statement that answers with rows.

    Attributes:
        name: The name of the statement.
        make: Makes a row of its values, which come in the order of the row's fields.
    """

    name: str
    make: Callable[[Iterable[Any]], R]
