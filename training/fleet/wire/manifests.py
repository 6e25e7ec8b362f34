"""The messages about manifests: those that were in force, and what one changes besides its jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ManifestView:
    """One manifest that came in force.

    Attributes:
        number: Grows with every manifest that comes in force.
        digest: SHA-256 of its bytes.
        at: When, RFC 3339, UTC.
        actor: Who: `operator:NAME`, or `receiver` at a start.
        how: `start`, `reload`, `signal`, `apply` or `rollback`.
        jobs: How many jobs it names.
        in_force: True for the one that counts now.
    """

    number: int
    digest: str
    at: str
    actor: str
    how: str
    jobs: int
    in_force: bool


@dataclass(frozen=True, slots=True)
class ManifestList:
    """`GET /v1/manifests`: the manifests that came in force, newest first, at most 50."""

    manifests: list[ManifestView]


@dataclass(frozen=True, slots=True)
class TableChange:
    """One table of the manifest, besides its jobs, that a plan changes.

    Attributes:
        table: `host`, `dataset` or `trainer`.
        name: Name of the host or the dataset, empty for the trainer.
        what: `added`, `removed` or `changed`.
        change: Key to [old, new]; of a table that was added or removed, the keys that it sets.
    """

    table: str
    name: str
    what: str
    change: dict[str, list[Any]] = field(default_factory=dict)
