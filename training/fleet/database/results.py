"""The results that could be pruned: artifacts whose files are here, each with its jobs.

Owns one statement of `queries` and its row.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from training.fleet.database.query import Query
from training.fleet.model.artifact import ArtifactKey


class ResultRow(NamedTuple):
    """An artifact whose files are here, with one of the jobs whose result it is; `size_bytes` counts its parts too."""

    seq: int
    sha256: str
    model: str
    mode: str
    stored_at: str
    size_bytes: int
    job: int | None
    id: str | None
    spec: str | None
    named: int | None
    name: str | None
    metrics: str | None
    ended_at: str | None

    @property
    def key(self) -> ArtifactKey:
        """What names it."""
        return ArtifactKey(self.sha256, self.model, self.mode)


RESULTS: Final = Query("results", ResultRow._make)
