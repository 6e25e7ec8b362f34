"""The messages of pruning: which results an operator wants removed, and what would go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from training.fleet.wire.limits import Limit

MAX_LISTED: Final = 1000
"""Results that a plan lists one by one."""
MAX_AGE_S: Final = 100 * 366 * 86400


@dataclass(frozen=True, slots=True)
class PruneOrder:
    """`POST /v1/prune/plan` and `POST /v1/prune`: which results lose their bundle, parts and log.

    Attributes:
        older_than_s: Only results that are as old at least, None for any age.
        keep_best: Of each model, mode and split this many with the best headline metric are kept.
        unnamed: Only results of jobs that the manifest in force no longer names.
        if_digest: Digest of the choice that the operator saw; needed to prune, refused with 412 when it differs now.
    """

    older_than_s: Annotated[int, Limit(ge=0, le=MAX_AGE_S)] | None = None
    keep_best: Annotated[int, Limit(ge=0, le=1_000_000)] = 0
    unnamed: bool = False
    if_digest: Annotated[str, Limit(pattern="^[0-9a-f]{16}$", max_length=16)] | None = None


@dataclass(frozen=True, slots=True)
class PlannedPrune:
    """One result that would be pruned.

    Attributes:
        artifact: Its id.
        model: Model name.
        mode: Mode.
        size_bytes: Its bundle and parts together.
        at: Since when it is a result, RFC 3339, UTC.
        jobs: Ids of the jobs whose result it is; empty for a bundle whose job never completed with it.
    """

    artifact: str
    model: str
    mode: str
    size_bytes: int
    at: str
    jobs: list[str]


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What a prune would remove.

    Attributes:
        digest: Names exactly this choice.
        artifacts: How many results.
        size_bytes: Their bytes together.
        kept_best: How many are kept because they are the best of their kind.
        listed: The oldest of them, at most 1,000.
    """

    digest: str
    artifacts: int
    size_bytes: int
    kept_best: int
    listed: list[PlannedPrune]
