"""Bringing the queue in line with a manifest, in chunks, so that claims go on meanwhile.

Owns which rows a manifest adds, changes and drops. Guarantees that comparing changes nothing, that existing jobs keep
their status and what was learned about them, that no job is ever removed, and that applying twice has one effect: a
crash half way leaves the old manifest in force, and applying again ends the work. Leaves the order of the steps to
`apply`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from training.fleet.database import Transaction
from training.fleet.database.queries import (
    COUNT_UNNAMED,
    JOB,
    JOBS_IN_FORCE,
    JOBS_NAMED,
    JOBS_NUMBERED,
    REMEMBERED,
    REQUIREMENTS_WITH_READY_JOBS,
    UNUSED_REQUIREMENTS,
    NamedJobRow,
    NumberedJobRow,
)
from training.fleet.manifest import Header, JobEntry
from training.fleet.model.jobs import Requirement
from training.fleet.queue.change import SPACING, ManifestChange, Write, fields_changed, plan_of_no_change, with_learned
from training.fleet.queue.events import History
from training.fleet.queue.in_force import InForce, Origin
from training.fleet.queue.manifests import Manifests
from training.fleet.queue.memory import Memory
from training.fleet.queue.stored import in_force_from, in_force_json
from training.fleet.wire.people import Plan

MANIFEST_KEY: Final = "manifest"
HALF_KEY: Final = "manifest_half_written"
"""Set from the first row a reload writes to its last, so that a reload that broke off is noticed."""
MANY: Final = 64
"""How many parked claims look again for each requirement once hosts may do other work."""
SCAN: Final = 1000
"""Jobs of the queue looked at in one step when some of them are dropped."""


class Load:
    """The steps of a reload.

    Attributes:
        hosts: Workers, policies and requirements.
        manifests: The manifests that were in force.
    """

    def __init__(self, memory: Memory, history: History) -> None:
        self.hosts = memory.hosts
        self._memory = memory
        self._clock = memory.clock
        self._tally = memory.tally
        self._history = history
        self.manifests = Manifests(memory.clock, history)
        self._half_written = False

    def start(self, tx: Transaction) -> None:
        """Take up the manifest in force, and whether a reload broke off."""
        half = tx.one(REMEMBERED, key=HALF_KEY)
        self._half_written = half is not None and half.value == "yes"
        manifest = tx.one(REMEMBERED, key=MANIFEST_KEY)
        if manifest is not None:
            self.hosts.bring_in_force(in_force_from(manifest.value))

    def plan_of_no_change(self) -> Plan | None:
        """Return the plan of applying the manifest in force again, without comparing its jobs.

        Returns:
            None after a reload that broke off: some jobs may be those of another manifest, so each must be compared.
        """
        return None if self._half_written else plan_of_no_change(self.hosts.in_force)

    def begin_manifest(
        self, _tx: Transaction, header: Header, actor: str, origin: Origin | None = None, *, keep_dropped: bool = False
    ) -> ManifestChange:
        """Start to compare a manifest with the queue."""
        before, at = self.hosts.in_force, self._clock.label()
        change = ManifestChange(header, actor, at, before, origin or Origin(), keep_dropped=keep_dropped)
        change.know(self.hosts.all(change.in_force))
        return change

    def compare_jobs(self, tx: Transaction, change: ManifestChange, entries: Sequence[JobEntry]) -> None:
        """Find out what a chunk of the manifest's jobs would change. Chunks come in the order of the manifest."""
        rows = self._rows(tx, [entry.id for entry in entries])
        # Wide gaps between new jobs leave room for later ones; between jobs that have places, one step is all there is.
        gap = 1 if rows else SPACING
        for entry in entries:
            row = rows.get(entry.id)
            # A job keeps its place while the order still holds, so that adding one job does not write all those behind
            # it.
            if row is not None and row.position > change.position:
                change.position = row.position
            else:
                change.position += gap
            self._compare(change, entry, row)

    def _compare(self, change: ManifestChange, entry: JobEntry, row: NamedJobRow | None) -> None:
        if row is None:
            change.add(entry, change.position)
            return
        change.see(row.seq, bool(row.named))
        fields = fields_changed(row, self.hosts.requirement(row.requirement), entry)
        if fields or row.position != change.position:
            change.alter(entry, change.position, fields)
        else:
            change.counts["unchanged"] += 1

    def find_dropped(self, tx: Transaction, change: ManifestChange) -> bool:
        """Look at the next jobs of the queue for those the manifest does not name; False when all are seen."""
        # Where as many jobs are named as the manifest names, none can have been dropped, and 100,000 rows need not be
        # read.
        if change.scanned == 0:
            named = self._tally.jobs - self._unnamed(tx)
            if named == change.named:
                return False
        rows = tx.all(JOBS_IN_FORCE, after=change.scanned, limit=SCAN)
        for row in rows:
            change.scanned = row.seq
            if not change.saw(row.seq):
                change.drop(row)
        return len(rows) == SCAN

    def specs(self, tx: Transaction, ids: Sequence[str]) -> dict[str, str]:
        """Return the specifications of jobs, as canonical JSON."""
        rows = (tx.one(JOB, id=job_id) for job_id in ids)
        return {row.id: row.spec for row in rows if row is not None}

    def _unnamed(self, tx: Transaction) -> int:
        row = tx.one(COUNT_UNNAMED)
        assert row is not None
        return row.jobs

    def write_jobs(self, tx: Transaction, change: ManifestChange, writes: Sequence[Write]) -> None:
        """Write a chunk of new and changed jobs, each from the state it is in now."""
        # Before the first row: after a crash the next reload must compare everything again.
        self._mark_half_written(tx)
        rows = self._rows(tx, [write.id for write in writes])
        self._add(tx, change, [write for write in writes if write.id not in rows])
        for write in writes:
            if write.id in rows:
                self._alter(tx, change, write, rows[write.id])

    def _add(self, tx: Transaction, change: ManifestChange, writes: Sequence[Write]) -> None:
        if not writes:
            return
        tick, at = self._clock.tick(), self._clock.label()
        jobs: list[dict[str, Any]] = []
        ready: Counter[int] = Counter()
        for write in writes:
            needs = self.hosts.number_of(tx, write.requirement)
            ready[needs] += 1
            jobs.append(_new_row(write, needs, tick, at))
        tx.many("add_job", jobs)
        tx.run("record_added", ids=json.dumps([write.id for write in writes]), actor=change.actor, at=at)
        self._tally.added(tx, ready)

    def _alter(self, tx: Transaction, change: ManifestChange, write: Write, row: NamedJobRow) -> None:
        old = self.hosts.requirement(row.requirement)
        fields = fields_changed(row, old, write)
        if not fields and row.position == write.position:
            return
        # What was learned of a job's size outlives a reload, or it would run out of memory on the same host again.
        learned = with_learned(write.requirement, old)
        before = row.status
        # A smaller budget may be used up already, and a pending job without one could never be claimed.
        spent = before == "pending" and row.attempts_used >= write.limits.max_attempts
        after = "failed" if spent else before
        self._change_row(tx, row.seq, write, learned, after)
        if fields:
            action = "change" if row.named else "restore"
            why = "; ".join(f"{key} {_word(old)} becomes {_word(new)}" for key, (old, new) in fields.items())
            self._history.record(tx, row.seq, change.actor, action, before, after, why)
        number = self.hosts.number_of(tx, learned)
        self._tally.moved(tx, before, after, number if after == "pending" else None)

    def _change_row(self, tx: Transaction, seq: int, write: Write, learned: Requirement, status: str) -> None:
        tx.run(
            "change_job",
            seq=seq,
            requirement=self.hosts.number_of(tx, learned),
            priority=write.limits.priority,
            position=write.position,
            timeout_s=write.limits.timeout_s,
            max_attempts=write.limits.max_attempts,
            status=status,
            name=write.name,
            tags=_tags(write),
            at=self._clock.label(),
        )

    def drop_jobs(self, tx: Transaction, change: ManifestChange, seqs: Sequence[int]) -> None:
        """Mark a chunk of jobs as no longer named; they keep their status, and nobody is offered those that wait.

        One that runs goes on. Should it come back to the queue, it is not offered either: the mark stays with it.
        """
        self._mark_half_written(tx)
        at = self._clock.label()
        rows = {row.seq: row for row in tx.all(JOBS_NUMBERED, seqs=json.dumps(list(seqs)))}
        withdrawn = int(not change.keep_dropped)
        tx.many("drop_job", [{"seq": seq, "withdrawn": withdrawn, "at": at} for seq in rows])
        events = [_dropped(row, change, at) for row in rows.values()]
        tx.many("record", events)
        tx.after_commit(self._tally.touch)

    def rule(self, tx: Transaction, in_force: InForce) -> None:
        """Let a manifest's word on hosts and trainer count, before it is in force as a whole."""
        tx.after_commit(lambda: self.hosts.bring_in_force(in_force))

    def finish_manifest(self, tx: Transaction, change: ManifestChange) -> None:
        """Bring the manifest in force: from now on its word on hosts and trainer counts."""
        tx.run("remember", key=MANIFEST_KEY, value=in_force_json(change.in_force))
        tx.run("remember", key=HALF_KEY, value="")
        self.manifests.note(tx, change)
        ready = {row.id: MANY for row in tx.all(REQUIREMENTS_WITH_READY_JOBS)}

        def follow() -> None:
            self._half_written = False
            self.hosts.bring_in_force(change.in_force)
            # What hosts gave back may have been the manifest's fault, and the operator has just looked at it.
            self._memory.waits.forgive()
            self._tally.touch()
            self._tally.announce(ready)

        tx.after_commit(follow)

    def drop_requirements(self, tx: Transaction, numbers: Sequence[int]) -> None:
        """Take out those of these requirements that no job has any more: every claim looks at each there is."""
        # Only looked for after a reload: jobs come and go there alone, and each claim judges every requirement there
        # is.
        rows = tx.all(UNUSED_REQUIREMENTS, requirements=json.dumps(list(numbers)))
        if not rows:
            return
        gone = [(row.id, self.hosts.requirement(row.id)) for row in rows]
        tx.many("drop_requirement", [{"id": number} for number, _ in gone])
        # At once, so that a change in the same batch does not take a number that is gone.
        self.hosts.forget(number for number, _ in gone)

        def take_back() -> None:
            for number, requirement in gone:
                self.hosts.learn(number, requirement)

        tx.after_rollback(take_back)

    def _mark_half_written(self, tx: Transaction) -> None:
        if not self._half_written:
            tx.run("remember", key=HALF_KEY, value="yes")

            def follow() -> None:
                self._half_written = True

            tx.after_commit(follow)

    def _rows(self, tx: Transaction, ids: Sequence[str]) -> dict[str, NamedJobRow]:
        return {row.id: row for row in tx.all(JOBS_NAMED, ids=json.dumps(ids))}


def _new_row(write: Write, requirement: int, tick: int, at: str) -> dict[str, Any]:
    return {
        "id": write.id,
        "spec": write.document,
        "model": write.model,
        "mode": write.mode,
        "requirement": requirement,
        "priority": write.limits.priority,
        "position": write.position,
        "timeout_s": write.limits.timeout_s,
        "max_attempts": write.limits.max_attempts,
        "name": write.name,
        "tags": _tags(write),
        "tick": tick,
        "at": at,
    }


def _dropped(row: NumberedJobRow, change: ManifestChange, at: str) -> dict[str, Any]:
    why = "stays claimable" if change.keep_dropped else "withdrawn"
    return {
        "at": at,
        "actor": change.actor,
        "job": row.seq,
        "action": "drop",
        "from_status": row.status,
        "to_status": row.status,
        "why": why if row.status == "pending" else "",
    }


def _tags(write: Write) -> str:
    return json.dumps(write.tags, ensure_ascii=False)


def _word(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
