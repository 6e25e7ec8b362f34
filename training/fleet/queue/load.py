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

from training.fleet import wire
from training.fleet.database import Row, Transaction
from training.fleet.jobs import Requirement
from training.fleet.manifest import Header, JobEntry
from training.fleet.queue.change import SPACING, ManifestChange, Write, fields_changed, plan_of_no_change, with_learned
from training.fleet.queue.hosts import InForce, in_force_json
from training.fleet.queue.memory import HALF_KEY, MANIFEST_KEY, Memory

MANY: Final = 64
"""How many parked claims look again for each requirement once hosts may do other work."""
SCAN: Final = 1000
"""Jobs of the queue looked at in one step when some of them are dropped."""


class Load(Memory):
    """The steps of a reload."""

    def plan_of_no_change(self) -> wire.Plan | None:
        """Return the plan of applying the manifest in force again, without comparing its jobs.

        Returns:
            None after a reload that broke off: some jobs may be those of another manifest, so each must be compared.
        """
        return None if self._half_written else plan_of_no_change(self.hosts.in_force)

    def begin_manifest(self, _tx: Transaction, header: Header, actor: str) -> ManifestChange:
        """Start to compare a manifest with the queue."""
        change = ManifestChange(header, actor, self._now())
        change.know((name, capability, policy) for name, capability, policy, _ in self.hosts.all(change.in_force))
        return change

    def compare_jobs(self, tx: Transaction, change: ManifestChange, entries: Sequence[JobEntry]) -> None:
        """Find out what a chunk of the manifest's jobs would change. Chunks come in the order of the manifest."""
        rows = self._rows(tx, [entry.id for entry in entries])
        gap = 1 if rows else SPACING
        for entry in entries:
            row = rows.get(entry.id)
            if row is not None and row["position"] > change.position:
                change.position = row["position"]
            else:
                change.position += gap
            self._compare(change, entry, row)

    def _compare(self, change: ManifestChange, entry: JobEntry, row: Row | None) -> None:
        if row is None:
            change.add(entry, change.position)
            return
        change.see(row["seq"], bool(row["named"]))
        fields = fields_changed(row, self.hosts.requirement(row["requirement"]), entry.requirement, entry.limits)
        if fields or row["position"] != change.position:
            change.alter(entry, change.position, fields)
        else:
            change.counts["unchanged"] += 1

    def find_dropped(self, tx: Transaction, change: ManifestChange) -> bool:
        """Look at the next jobs of the queue for those the manifest does not name; False when all are seen."""
        if change.scanned == 0:
            named = sum(self._counts.values()) - self._unnamed(tx)
            if named == change.named:
                return False
        rows = tx.all("jobs_in_force", after=change.scanned, limit=SCAN)
        for row in rows:
            change.scanned = row["seq"]
            if not change.saw(row["seq"]):
                change.drop(row)
        return len(rows) == SCAN

    def _unnamed(self, tx: Transaction) -> int:
        row = tx.one("count_unnamed")
        assert row is not None
        jobs: int = row["jobs"]
        return jobs

    def write_jobs(self, tx: Transaction, change: ManifestChange, writes: Sequence[Write]) -> None:
        """Write a chunk of new and changed jobs, each from the state it is in now."""
        self._mark_half_written(tx)
        rows = self._rows(tx, [write.id for write in writes])
        self._add(tx, change, [write for write in writes if write.id not in rows])
        for write in writes:
            if write.id in rows:
                self._alter(tx, change, write, rows[write.id])

    def _add(self, tx: Transaction, change: ManifestChange, writes: Sequence[Write]) -> None:
        if not writes:
            return
        newest = tx.one("newest_seq")
        seq, tick, at = (newest["seq"] if newest else None) or 0, self.tick(), self._now()
        jobs: list[dict[str, Any]] = []
        ready: Counter[int] = Counter()
        for number, write in enumerate(writes, seq + 1):
            needs = self._requirement_id(tx, write.requirement)
            ready[needs] += 1
            jobs.append(_new_row(write, number, needs, tick, at))
        tx.many("add_job", jobs)
        events = [_event(row["seq"], change.actor, "add", None, "pending", at) for row in jobs]
        tx.many("record", events)

        def follow() -> None:
            self._counts["pending"] += len(jobs)
            self._touch()
            self._on_ready(dict(ready))

        tx.after_commit(follow)

    def _alter(self, tx: Transaction, change: ManifestChange, write: Write, row: Row) -> None:
        old = self.hosts.requirement(row["requirement"])
        fields = fields_changed(row, old, write.requirement, write.limits)
        if not fields and row["position"] == write.position:
            return
        learned = with_learned(write.requirement, old)
        before = row["status"]
        spent = before == "pending" and row["attempts_used"] >= write.limits.max_attempts
        after = "failed" if spent else before
        self._change_row(tx, row["seq"], write, learned, after)
        if fields:
            action = "change" if row["named"] else "restore"
            why = "; ".join(f"{key} {_word(old)} becomes {_word(new)}" for key, (old, new) in fields.items())
            self._record(tx, row["seq"], change.actor, action, before, after, why)
        number = self._requirement_id(tx, learned)
        self._moved(tx, before, after, number if after == "pending" else None)

    def _change_row(self, tx: Transaction, seq: int, write: Write, learned: Requirement, status: str) -> None:
        tx.run(
            "change_job",
            seq=seq,
            requirement=self._requirement_id(tx, learned),
            priority=write.limits.priority,
            position=write.position,
            timeout_s=write.limits.timeout_s,
            max_attempts=write.limits.max_attempts,
            status=status,
            at=self._now(),
        )

    def drop_jobs(self, tx: Transaction, change: ManifestChange, seqs: Sequence[int]) -> None:
        """Mark a chunk of jobs as no longer named; they keep their status."""
        self._mark_half_written(tx)
        at = self._now()
        rows = {row["seq"]: row for row in tx.all("jobs_numbered", seqs=json.dumps(list(seqs)))}
        tx.many("drop_job", [{"seq": seq, "at": at} for seq in rows])
        events = [_event(seq, change.actor, "drop", row["status"], row["status"], at) for seq, row in rows.items()]
        tx.many("record", events)
        tx.after_commit(self._touch)

    def rule(self, tx: Transaction, in_force: InForce) -> None:
        """Let a manifest's word on hosts and trainer count, before it is in force as a whole."""
        tx.after_commit(lambda: self.hosts.rule(in_force))

    def finish_manifest(self, tx: Transaction, change: ManifestChange) -> None:
        """Bring the manifest in force: from now on its word on hosts and trainer counts."""
        tx.run("remember", key=MANIFEST_KEY, value=in_force_json(change.in_force))
        tx.run("remember", key=HALF_KEY, value="")
        ready = {row["id"]: MANY for row in tx.all("requirements_with_ready_jobs")}

        def follow() -> None:
            self._half_written = False
            self.hosts.rule(change.in_force)
            # What hosts gave back may have been the manifest's fault, and the operator has just looked at it.
            self._apart.forget()
            self._held_back.forget()
            self._touch()
            self._on_ready(ready)

        tx.after_commit(follow)

    def drop_requirements(self, tx: Transaction, numbers: Sequence[int]) -> None:
        """Take out those of these requirements that no job has any more: every claim looks at each there is."""
        rows = tx.all("unused_requirements", requirements=json.dumps(list(numbers)))
        if not rows:
            return
        gone = [(row["id"], self.hosts.requirement(row["id"])) for row in rows]
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

    def _rows(self, tx: Transaction, ids: Sequence[str]) -> dict[str, Row]:
        return {row["id"]: row for row in tx.all("jobs_named", ids=json.dumps(ids))}


def _new_row(write: Write, seq: int, requirement: int, tick: int, at: str) -> dict[str, Any]:
    return {
        "seq": seq,
        "id": write.id,
        "spec": write.document,
        "model": write.model,
        "mode": write.mode,
        "requirement": requirement,
        "priority": write.limits.priority,
        "position": write.position,
        "timeout_s": write.limits.timeout_s,
        "max_attempts": write.limits.max_attempts,
        "tick": tick,
        "at": at,
    }


def _event(seq: int, actor: str, action: str, before: str | None, after: str, at: str) -> dict[str, Any]:
    return {
        "at": at,
        "actor": actor,
        "job": seq,
        "action": action,
        "from_status": before,
        "to_status": after,
        "why": "",
    }


def _word(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
