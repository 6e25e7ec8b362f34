"""The way from the event loop to the database's writer thread and back.

Owns both directions. Guarantees that answers and notices arrive on the event loop in the order in which the
writer made them, and that a whole batch of answers costs one wake-up of the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

from training.fleet.database import Database, Transaction

T = TypeVar("T")


class Bridge:
    """Runs changes on the writer thread and brings their results to the event loop.

    Args:
        database: Where changes go; its `deliver` is taken over.
        loop: The loop that waits for them.
        observe: Called on the loop with the seconds that each change took until it was durable.
    """

    def __init__(
        self, database: Database, loop: asyncio.AbstractEventLoop, observe: Callable[[float], None] | None = None
    ) -> None:
        self._post = database.post
        self._loop = loop
        self._observe = observe or (lambda _seconds: None)
        database.deliver = self._deliver

    def run(self, change: Callable[[Transaction], T]) -> asyncio.Future[T]:
        """Return a future of the change's result; it is set after the commit is durable.

        Args:
            change: What to do on the writer thread.
        """
        waiter: asyncio.Future[T] = self._loop.create_future()
        begun = time.perf_counter()

        def settle(result: T, error: BaseException | None) -> None:
            self._observe(time.perf_counter() - begun)
            if waiter.done():  # its caller has gone
                return
            if error is None:
                waiter.set_result(result)
            else:
                waiter.set_exception(error)

        self._post(change, settle)
        return waiter

    def notify(self, notice: Callable[[], None]) -> None:
        """Have something called on the event loop. Any thread may ask for it."""
        self._deliver([notice])

    def _deliver(self, answers: list[Callable[[], None]]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits for the answers any more
            self._loop.call_soon_threadsafe(_call_all, answers)


def _call_all(answers: list[Callable[[], None]]) -> None:
    for answer in answers:
        answer()
