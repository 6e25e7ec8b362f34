"""Why a job waits, host by host, and what would let it run."""

from __future__ import annotations

import math
from collections.abc import Iterator

from training.fleet.database import Transaction
from training.fleet.database.queries import REJECTIONS, JobRow
from training.fleet.model import placement, remedy
from training.fleet.model.capability import Capability
from training.fleet.model.jobs import Policy, Requirement
from training.fleet.queue.endings import first_line
from training.fleet.queue.memory import Memory
from training.fleet.queue.views import job_row
from training.fleet.wire.people import HostVerdict, ReasonView, Why


class Reasons:
    """Answers why a job waits."""

    def __init__(self, memory: Memory) -> None:
        self._hosts = memory.hosts
        self._waits = memory.waits

    def why(self, tx: Transaction, job_id: str) -> Why:
        """Say for every known host whether it could run a job, and what would let it.

        Raises:
            NotFoundError: There is no such job.
        """
        row = job_row(tx, job_id)
        requirement = self._hosts.requirement(row.requirement)
        hosts = list(self._verdicts(requirement))
        able = [host.host for host in hosts if host.eligible]
        change = "" if able else remedy.smallest_change_among(requirement, self._judged())
        return Why(job_id, row.status, self._summary(tx, row, able, change), hosts, change)

    def _judged(self) -> Iterator[tuple[Capability, Policy | None]]:
        return ((capability, policy) for _, capability, policy, _ in self._hosts.all())

    def _verdicts(self, requirement: Requirement) -> Iterator[HostVerdict]:
        for name, capability, policy, seen in self._hosts.all():
            reasons = placement.judge(requirement, capability, policy).reasons
            change = remedy.smallest_change(requirement, capability, policy) if reasons else ""
            shown = [ReasonView(reason.constraint, reason.wanted, reason.found) for reason in reasons]
            yield HostVerdict(name, not reasons, shown, seen, change)

    def _summary(self, tx: Transaction, row: JobRow, able: list[str], change: str) -> str:
        status, host = row.status, row.host
        if status != "pending":
            return f"the job is {status}" + (f" on {host}" if status in ("claimed", "running", "completed") else "")
        if row.withdrawn:
            return (
                "it is withdrawn: the manifest no longer names it, so nobody is offered it; name it again, or "
                "`cis490-jobs requeue` it"
            )
        rejected = self._rejected(tx, row)
        if not able:
            waits = f"no known host can run it: {change}" if change else "no host is known that could run it"
        elif not row.ready:
            waits = f"it waits for the back-off after its last failure; then {_names(able)} can run it"
        else:
            waits = self._next_try(row.seq, able)
        return f"{rejected}; {waits}" if rejected else waits

    def _next_try(self, seq: int, able: list[str]) -> str:
        kept = {host: left_s for host in able if (left_s := self._waits.kept_away_s(host, seq)) > 0}
        # At least one host may take it at once, so nothing but a free slot is missing.
        if len(kept) < len(able):
            failing = [host for host in able if self._waits.suspects.is_suspect(host)]
            said = f"; {_names(failing)} failed everything lately and waits for one to try" if failing else ""
            return f"it waits for a free slot on {_names([host for host in able if host not in kept])}{said}"
        return (
            f"{_names(able)} gave back or could not run this job, or one after the other (`cis490-jobs show` and "
            f"`cis490-jobs hosts` say why); the next try is due in {math.ceil(min(kept.values()))} s"
        )

    def _rejected(self, tx: Transaction, row: JobRow) -> str:
        """Return who rejected a job that waits, and what ends that; empty when nobody did."""
        hosts = [found.worker for found in tx.all(REJECTIONS, job=row.seq)]
        if not hosts:
            return ""
        error = f" ({first_line(row.error)})" if row.kind == "spec_rejected" and row.error else ""
        return (
            f"{_names(hosts)} rejected its specification{error}; it fails for good when a second host does, or after "
            f"{row.max_attempts} times when no other host that is heard could run it; cancel it if it is wrong"
        )


def _names(hosts: list[str]) -> str:
    shown = ", ".join(hosts[:5])
    return shown if len(hosts) <= 5 else f"{shown} and {len(hosts) - 5} more"
