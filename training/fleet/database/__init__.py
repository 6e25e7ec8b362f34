"""The border between the state of the fleet and its database.

Owns what a database must offer: changes that run one after the other, each whole or not at all, answered only once
they are durable. Guarantees nothing itself; `sqlite` is the embedded implementation. Leaves the meaning of the
statements to the modules that run them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Row(Protocol):
    """One row of an answer."""

    def __getitem__(self, column: str, /) -> Any:
        """Return a column by name."""


class Transaction(Protocol):
    """What a change may do. Valid only while the change runs."""

    def all(self, name: str, /, **values: Any) -> Sequence[Row]:
        """Run a named statement and return all rows of its answer."""

    def one(self, name: str, /, **values: Any) -> Row | None:
        """Run a named statement and return the first row of its answer, None when there is none."""

    def run(self, name: str, /, **values: Any) -> int:
        """Run a named statement and return how many rows it changed."""

    def many(self, name: str, rows: Iterable[Mapping[str, Any]], /) -> None:
        """Run a named statement once for each row of values."""

    def after_commit(self, callback: Callable[[], None], /) -> None:
        """Call back once the change is durable, before anybody is answered; never when it is not."""

    def after_rollback(self, callback: Callable[[], None], /) -> None:
        """Call back when the change is undone, before anything else runs."""


class Database(Protocol):
    """Something that runs changes."""

    def submit(self, change: Callable[[Transaction], T], /) -> Future[T]:
        """Hand a change over; the future holds its answer once it is durable."""
