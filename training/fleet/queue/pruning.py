"""Which results may be pruned, and the change that prunes one.

Owns the rule. Guarantees that a result is judged again by its row at the moment it is pruned, and that job, metrics and
digests stay: only files and logs go. Leaves the files to `maintenance`, which removes them once the change is durable.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from training.fleet.database import Transaction
from training.fleet.database.queries import FILES_LEFT
from training.fleet.database.results import RESULTS, ResultRow
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.jobs import Headline
from training.fleet.queue.artifacts import Artifacts
from training.fleet.queue.events import History

WINDOW = 500
"""Artifacts that are looked at in one change: claims wait that long."""


@dataclass(frozen=True, slots=True)
class PrunableResult:
    """An artifact whose files are here, with the jobs whose result it is.

    Attributes:
        seq: Number of its row.
        key: What names it.
        size_bytes: Its length, with its parts.
        at: Since when it is the result of its newest job, or is here where it is the result of none.
        jobs: Its jobs.
    """

    seq: int
    key: ArtifactKey
    size_bytes: int
    at: str
    jobs: tuple[ResultRow, ...]


@dataclass(frozen=True, slots=True)
class PruneRule:
    """Which results are pruned; all that is given must hold.

    Attributes:
        before: Only those that are older than this label, None for any age.
        keep_best: Of each model, mode and split this many with the best figure are kept.
        unnamed: Only those whose jobs the manifest in force no longer names.
        headline: The figure by which results are compared, None when the trainer declares none.
    """

    before: str | None = None
    keep_best: int = 0
    unnamed: bool = False
    headline: Headline | None = None

    def takes(self, result: PrunableResult) -> bool:
        """Return True if a result may be pruned, however good it is."""
        if self.before is not None and result.at >= self.before:
            return False
        # What is the result of no job has no age that a job gives it: its worker may be about to complete one.
        if not result.jobs:
            return self.before is not None
        # A name in the manifest says that somebody means this very result.
        return not any(job.name is not None or (self.unnamed and job.named) for job in result.jobs)


@dataclass(slots=True)
class Best:
    """The best results of each model, mode and split, as they are found one after the other.

    Attributes:
        rule: Says how many are kept, and by which figure.
    """

    rule: PruneRule
    _found: dict[tuple[str, str, str], list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, result: PrunableResult) -> None:
        """Look at one more result."""
        for job in result.jobs if self.rule.keep_best else ():
            value = self._value(job)
            if value is not None:
                best = self._found[_group(job)]
                # The older one of two that are alike is kept.
                heapq.heappush(best, (value, -result.seq))
                if len(best) > self.rule.keep_best:
                    heapq.heappop(best)

    def _value(self, job: ResultRow) -> float | None:
        """Return the figure of a job so that more is better, None when it has none."""
        headline = self.rule.headline
        value = json.loads(job.metrics or "{}").get(headline.name) if headline is not None else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return -value if headline is not None and headline.direction == "lower" else value

    def kept(self) -> frozenset[int]:
        """Return the numbers of the artifacts that are kept."""
        return frozenset(-seq for best in self._found.values() for _, seq in best)


def _group(job: ResultRow) -> tuple[str, str, str]:
    return job.model, job.mode, str(json.loads(job.spec or "{}").get("split_recipe"))


class Pruning:
    """Looks at results, and prunes them."""

    def __init__(self, artifacts: Artifacts, history: History) -> None:
        self._artifacts = artifacts
        self._history = history

    def window(self, tx: Transaction, after: int, limit: int = WINDOW) -> list[PrunableResult]:
        """Return some results in the order their artifacts came; none at the end."""
        return list(_results(tx.all(RESULTS, after=after, limit=limit)))

    def prune(
        self, tx: Transaction, seqs: Iterable[int], rule: PruneRule, kept: frozenset[int], actor: str
    ) -> list[PrunableResult]:
        """Prune results that the rule still takes; their files must be removed once this is durable."""
        return [result for seq in seqs if (result := self._prune(tx, seq, rule, kept, actor)) is not None]

    def _prune(
        self, tx: Transaction, seq: int, rule: PruneRule, kept: frozenset[int], actor: str
    ) -> PrunableResult | None:
        # Looked at again: since it was chosen, another job may have come to the same result.
        found = self.window(tx, seq - 1, 1)
        if not found or found[0].seq != seq or seq in kept or not rule.takes(found[0]):
            return None
        (result,) = found
        self._artifacts.prune(tx, seq, result.key)
        for job in result.jobs:
            assert job.job is not None
            tx.run("drop_log", job=job.job)
            why = f"{result.size_bytes} bytes of artifact {result.key.sha256} removed; metrics and digests stay"
            self._history.record(tx, job.job, actor, "prune", "completed", "completed", why)
        return result

    def unfinished(self, tx: Transaction) -> list[tuple[int, ArtifactKey]]:
        """Return pruned artifacts whose files are not removed yet: numbers and keys."""
        return [(row.seq, row.key) for row in tx.all(FILES_LEFT)]

    def removed(self, tx: Transaction, seqs: Sequence[int]) -> None:
        """Note that the files of pruned artifacts are removed."""
        tx.many("files_removed", [{"seq": seq} for seq in seqs])


def _results(rows: Iterable[ResultRow]) -> Iterator[PrunableResult]:
    for seq, group in groupby(rows, key=lambda row: row.seq):
        same = list(group)
        jobs = tuple(row for row in same if row.job is not None)
        first = same[0]
        at = max([first.stored_at, *(job.ended_at for job in jobs if job.ended_at)])
        yield PrunableResult(seq, first.key, first.size_bytes, at, jobs)
