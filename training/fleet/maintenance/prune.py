"""Removing results that nobody needs any more, while the receiver runs.

Owns the order: row first, then files, then a note that the files are gone. Guarantees that after a crash at any step
`fsck` finds nothing wrong and the next start removes what is left: a row that says "pruned" promises no file, while the
other order would leave rows that promise files which are gone. Guarantees that exactly what was shown is pruned, by the
digest of the choice. Leaves which results may go to `queue.pruning`.
"""

from __future__ import annotations

import functools
import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from training.fleet.database import Database
from training.fleet.maintenance.report import OnProgress, Report
from training.fleet.model.errors import PreconditionError
from training.fleet.queue import Queue
from training.fleet.queue.pruning import Best, PrunableResult, PruneRule
from training.fleet.store import Intake, Store

BATCH: Final = 32
"""Artifacts that are pruned in one change: their uploads wait until all their files are removed."""
DIGEST_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class Choice:
    """What a rule chooses now.

    Attributes:
        rule: The rule.
        kept: Numbers of the artifacts that are kept because they are the best.
        seqs: Numbers of the artifacts that would be pruned, in the order they came.
        size_bytes: Their bytes together, with their parts.
        digest: Names exactly this choice.
        first: Some of them, from the oldest on.
    """

    rule: PruneRule
    kept: frozenset[int]
    seqs: array[int]
    size_bytes: int
    digest: str
    first: list[PrunableResult]


@dataclass(frozen=True, slots=True)
class Pruner:
    """Prunes results of one receiver. Every method waits; not for the event loop.

    Attributes:
        database: The running database.
        queue: The queue.
        store: The files.
        intake: Has the list of artifacts.
    """

    database: Database
    queue: Queue
    store: Store
    intake: Intake

    def choose(self, rule: PruneRule, listed: int = 0) -> Choice:
        """Return what a rule chooses.

        Args:
            rule: The rule.
            listed: How many of the chosen results are returned one by one.
        """
        best = Best(rule)
        # Twice through all rows rather than once with all of them in memory.
        for result in self._results() if rule.keep_best else ():
            best.add(result)
        kept, seqs, size_bytes = best.kept(), array("q"), 0
        digest, first = hashlib.sha256(), list[PrunableResult]()
        for result in self._results():
            if result.seq in kept or not rule.takes(result):
                continue
            seqs.append(result.seq)
            size_bytes += result.size_bytes
            digest.update(f"{result.key.path} {' '.join(job.id or '' for job in result.jobs)}\n".encode())
            if len(first) < listed:
                first.append(result)
        return Choice(rule, kept, seqs, size_bytes, digest.hexdigest()[:DIGEST_DIGITS], first)

    def _results(self) -> Iterator[PrunableResult]:
        after = 0
        look = self.queue.pruning.window
        while found := self.database.submit(functools.partial(look, after=after)).result():
            yield from found
            after = found[-1].seq

    def prune(self, rule: PruneRule, digest: str | None, actor: str, report: Report, progress: OnProgress) -> None:
        """Prune what a rule chooses, if that is still what was shown.

        Args:
            rule: The rule.
            digest: That of the choice that was shown; None prunes what is chosen now.
            actor: Who asks.
            report: Gets how many artifacts and bytes were pruned.
            progress: Told how many bytes are removed.

        Raises:
            PreconditionError: The choice is another one now; nothing was pruned.
            FleetError: The disk refuses; what was not removed is removed by the next start.
        """
        choice = self.choose(rule)
        if digest not in (None, choice.digest):
            raise PreconditionError(
                f"the choice is another one now: {len(choice.seqs)} results, digest {choice.digest}; all are here",
                "look at it again without --if",
            )
        try:
            for begin in range(0, len(choice.seqs), BATCH):
                self._batch(choice, list(choice.seqs[begin : begin + BATCH]), actor, report)
                progress(report.checked["bytes"], choice.size_bytes)
        finally:
            # Also where a batch failed half way: its rows are durable.
            if choice.seqs:
                self.intake.relist()

    def _batch(self, choice: Choice, seqs: list[int], actor: str, report: Report) -> None:
        pruning, submit = self.queue.pruning, self.database.submit
        keys = submit(lambda tx: [result.key for seq in seqs for result in pruning.window(tx, seq - 1, 1)]).result()
        with self.store.turns.held(keys):
            change = functools.partial(pruning.prune, seqs=seqs, rule=choice.rule, kept=choice.kept, actor=actor)
            pruned = submit(change).result()
            for result in pruned:
                self.store.remove(result.key)
            submit(lambda tx: pruning.removed(tx, [result.seq for result in pruned])).result()
        report.checked["pruned"] += len(pruned)
        report.checked["bytes"] += sum(result.size_bytes for result in pruned)

    def finish(self) -> int:
        """Remove the files of artifacts that were pruned before a crash; return how many artifacts there were."""
        left = self.database.submit(self.queue.pruning.unfinished).result()
        for seq, key in left:
            with self.store.turns.held([key]):
                self.store.remove(key)
                self.database.submit(functools.partial(self.queue.pruning.removed, seqs=[seq])).result()
        return len(left)
