"""Whose files change now: one change of an artifact's files at a time.

Owns the turns. Guarantees that the files of one artifact are not placed and removed at the same time, while those of
different artifacts do not wait for each other. Lives in memory alone: after a crash nothing changes any more.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator

from training.fleet.model.artifact import ArtifactKey


class Turns:
    """The turns of one store. Safe from every thread; who holds turns must not ask for more."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._taken: set[ArtifactKey] = set()

    @contextlib.contextmanager
    def held(self, keys: Iterable[ArtifactKey]) -> Iterator[None]:
        """Wait until nobody changes the files of these artifacts, and keep others from it within the block."""
        wanted = set(keys)
        with self._change:
            self._change.wait_for(lambda: self._taken.isdisjoint(wanted))
            self._taken |= wanted
        try:
            yield
        finally:
            with self._change:
                self._taken -= wanted
                self._change.notify_all()
