"""What a database must do for the fleet.

Owns the whole contract, so that a second database is written against one page and tested by one suite
(`tests/conformance`). Guarantees nothing itself. Leaves the statements and their rows to `queries`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

from training.fleet.database.queries import Query
from training.fleet.model.errors import UnavailableError

T = TypeVar("T")
R = TypeVar("R")

Answer = Callable[[Any, BaseException | None], None]
"""Takes the result of a change, or the error it ended with."""


class Transaction(Protocol):
    """What a change may do. Valid only while the change runs."""

    def all(self, query: Query[R], /, **values: Any) -> list[R]:
        """Run a query and return all rows of its answer."""

    def one(self, query: Query[R], /, **values: Any) -> R | None:
        """Run a query and return the first row of its answer, None when there is none."""

    def run(self, name: str, /, **values: Any) -> int:
        """Run a named statement that answers with no rows; return how many rows it changed."""

    def many(self, name: str, rows: Iterable[Mapping[str, Any]], /) -> None:
        """Run a named statement once for each row of values."""

    def may_run_twice(self) -> None:
        """Allow the database to undo this change and run it a second time before it is answered.

        To be said before the first write. Whatever the change does beside the database then waits for
        `after_commit`, is undone by `after_rollback`, or does no harm twice. Such changes cost less where a database
        can skip a savepoint for them.
        """

    def after_commit(self, callback: Callable[[], None], /) -> None:
        """Call back once the change is durable, before anybody is answered; never when it is not."""

    def after_rollback(self, callback: Callable[[], None], /) -> None:
        """Call back when the change is undone, before anything else runs."""


class Database(Protocol):
    """Something that runs changes one after the other, each whole or not at all, and answers once they are durable.

    Attributes:
        deliver: Called after each batch with one callable per posted change that gives its answer. The default calls
            them at once; an event loop sets it to take them over in one piece.
        on_broken: Called once when the database can no longer be trusted to keep what it is given; the process should
            end.
        broken: What it said then or at the end, None while all is well.
    """

    deliver: Callable[[list[Callable[[], None]]], None]
    on_broken: Callable[[UnavailableError], None]
    broken: UnavailableError | None

    def submit(self, change: Callable[[Transaction], T], /) -> Future[T]:
        """Hand a change over; the future holds its answer once it is durable. Safe from every thread."""

    def post(self, change: Callable[[Transaction], Any], answer: Answer, /) -> None:
        """Hand a change over; `answer` gets its result or its error through `deliver`. Safe from every thread."""

    def close(self) -> None:
        """Run what was handed over, then let go of the database. Safe to repeat."""

    # ---- for backups and checks

    def copy(self, target: Path, /) -> None:
        """Write a consistent copy to a new file, durably, while changes go on. Waits; not for the event loop.

        Raises:
            UnavailableError: The disk refuses; no file is left.
        """

    @property
    def damaged(self) -> list[int]:
        """The pages that were not what was written when the database was opened."""

    @property
    def pages(self) -> int:
        """How many pages can be compared with what was written."""

    def differing_pages(self) -> list[int]:
        """Return the pages that are not what was written. Changes go on; not for the event loop."""
