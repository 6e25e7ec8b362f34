"""One change of the manifest, from the first comparison to the last row.

Owns what a reload remembers while it works through the jobs in chunks. Guarantees flat memory: jobs that must be
written wait in a temporary file, the others leave one bit behind.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from training.fleet.database.queries import InForceJobRow, NamedJobRow
from training.fleet.manifest import Header, JobEntry
from training.fleet.model import placement
from training.fleet.model.capability import Capability, with_free_cards
from training.fleet.model.jobs import Limits, Policy, Requirement
from training.fleet.queue.in_force import DEFAULT_HOST, InForce
from training.fleet.wire.people import Plan, PlannedJob

MAX_LISTED: Final = 1000
"""Jobs listed in each part of a plan."""
MAX_HOSTS: Final = 100
"""Hosts listed for one added job."""
SPACING: Final = 2**20
"""Distance between the positions of new jobs, so that later ones fit between them."""
COUNTS: Final = ("added", "changed", "unchanged", "dropped", "stranded")
"""What a plan counts jobs as."""


@dataclass(frozen=True, slots=True)
class Write:
    """One job that the reload writes.

    Attributes:
        id: Identity.
        model: Model that is trained.
        mode: Mode it is trained in.
        document: The specification, canonical JSON.
        requirement: What it needs of a host, without what was learned.
        limits: What bounds it.
        position: Its place among equal priorities.
    """

    id: str
    model: str
    mode: str
    document: str
    requirement: Requirement
    limits: Limits
    position: int


class ManifestChange:
    """What a manifest would change, and what is still to be written.

    Args:
        header: Everything the manifest says besides its jobs.
        actor: Who asks, for the history.
        applied_at: When it comes into force, RFC 3339, UTC.

    Attributes:
        in_force: The manifest as it will be in force.
        actor: Who asks.
        counts: Jobs added, changed, unchanged, dropped and stranded.
        position: Place of the last job that was compared.
        gone: Numbers of the jobs it drops.
        scanned: Number of the last job that was looked at for being dropped.
        named: How many of the jobs it names were named before.
    """

    def __init__(self, header: Header, actor: str, applied_at: str) -> None:
        self.in_force = in_force_of(header, applied_at)
        self.actor = actor
        self.counts: Counter[str] = Counter()
        self.position = 0
        self.gone: array[int] = array("q")
        self.scanned = 0
        self.named = 0
        self._warnings = list(header.warnings)
        self._hosts: list[tuple[str, Capability, Policy | None]] = []
        self._digest = hashlib.sha256(header.digest.encode())
        self._listed: dict[str, list[PlannedJob]] = {"added": [], "changed": [], "dropped": []}
        self._stranded: list[str] = []
        self._seen = bytearray()
        self._able: dict[Requirement, list[str]] = {}
        self._welcomed: dict[Requirement, bool] = {}
        self._parts: dict[Requirement | Limits, int] = {}
        # A manifest of 100,000 jobs would take 300 MiB as objects; as lines in a file it takes none.
        self._spool = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - lives as long as the change

    def __enter__(self) -> ManifestChange:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the temporary file. Safe to repeat."""
        self._spool.close()

    # ---- what was found

    def know(self, hosts: Iterable[tuple[str, Capability, Policy | None]]) -> None:
        """Take in every host known under the manifest: name, capability, policy.

        Busy cards count as free here: a plan must not call a job impossible only because a card is in use now.
        """
        self._hosts = [(name, with_free_cards(capability), policy) for name, capability, policy in hosts]

    def add(self, entry: JobEntry, position: int) -> None:
        """Note a job that the queue does not have."""
        able = self._able_hosts(entry.requirement)
        planned = PlannedJob(entry.id, entry.model, entry.mode, hosts=able[:MAX_HOSTS])
        self._note("added", planned)
        # A host that is still to come may be able: a new lab loads its manifest before its workers.
        if not able and not self._welcome(entry.requirement):
            self.counts["stranded"] += 1
            if len(self._stranded) < MAX_LISTED:
                self._stranded.append(entry.id)
        self._keep(entry, position)

    def alter(self, entry: JobEntry, position: int, fields: dict[str, list[Any]]) -> None:
        """Note a job whose terms change; without a field only its place does."""
        if fields:
            self._note("changed", PlannedJob(entry.id, entry.model, entry.mode, change=fields))
        else:
            self.counts["unchanged"] += 1
        self._keep(entry, position)

    def drop(self, row: NamedJobRow | InForceJobRow) -> None:
        """Note a job that the manifest no longer names."""
        self.gone.append(row.seq)
        self._note("dropped", PlannedJob(row.id, row.model, row.mode))

    def see(self, seq: int, named: bool) -> None:
        """Note that the manifest names a job of the queue."""
        byte, bit = divmod(seq, 8)
        # One bit a job: a set of 100,000 numbers takes 8 MiB, this takes 12 KiB.
        self._seen.extend(bytes(max(0, byte + 1 - len(self._seen))))
        self._seen[byte] |= 1 << bit
        self.named += named

    def saw(self, seq: int) -> bool:
        """Say whether the manifest names a job of the queue."""
        byte, bit = divmod(seq, 8)
        return byte < len(self._seen) and bool(self._seen[byte] >> bit & 1)

    def plan(self) -> Plan:
        """Return what was found, as people see it."""
        return Plan(
            digest=self._digest.hexdigest(),
            manifest=self.in_force.digest,
            counts={key: self.counts[key] for key in COUNTS},
            warnings=self._warnings,
            stranded=self._stranded,
            **self._listed,
        )

    # ---- what is to be written

    def writes(self) -> Iterator[Write]:
        """Yield the jobs to write, in the order of the manifest."""
        parts = list(self._parts)
        self._spool.seek(0)
        for line in self._spool:
            requirement, limits, job_id, model, mode, document, position = json.loads(line)
            needs, bounds = parts[requirement], parts[limits]
            assert isinstance(needs, Requirement)
            assert isinstance(bounds, Limits)
            yield Write(job_id, model, mode, document, needs, bounds, position)

    def _keep(self, entry: JobEntry, position: int) -> None:
        # Numbers in place of bodies: thousands of jobs share a few requirements and limits, and the file stays small.
        needs = self._parts.setdefault(entry.requirement, len(self._parts))
        bounds = self._parts.setdefault(entry.limits, len(self._parts))
        self._spool.write(
            json.dumps([needs, bounds, entry.id, entry.model, entry.mode, entry.document, position]) + "\n"
        )

    def _note(self, part: str, planned: PlannedJob) -> None:
        self.counts[part] += 1
        change = json.dumps(planned.change, sort_keys=True) if planned.change else "{}"
        # Only what differs goes in, so that two readings of the same plan agree whatever order hosts came in.
        self._digest.update(f"{part} {planned.id} {change}\n".encode())
        # The digest above holds all of them, so plans that agree in what is listed alone still differ.
        if len(self._listed[part]) < MAX_LISTED:
            self._listed[part].append(planned)

    def _welcome(self, requirement: Requirement) -> bool:
        """Say whether a host that is still to come could run a job."""
        # Kept, because a manifest of 100,000 jobs has a handful of requirements.
        welcome = self._welcomed.get(requirement)
        if welcome is None:
            policy = self.in_force.hosts.get(DEFAULT_HOST)
            welcome = policy is not None and self._suits_newcomer(requirement, policy)
            self._welcomed[requirement] = welcome
        return welcome

    def _suits_newcomer(self, requirement: Requirement, policy: Policy) -> bool:
        newcomer = placement.declared(DEFAULT_HOST, policy, self.in_force.datasets)
        return placement.judge(requirement, newcomer, policy).eligible

    def _able_hosts(self, requirement: Requirement) -> list[str]:
        able = self._able.get(requirement)
        if able is None:
            able = [
                name
                for name, capability, policy in self._hosts
                if placement.judge(requirement, capability, policy).eligible
            ]
            self._able[requirement] = able
        return able


def plan_of_no_change(in_force: InForce) -> Plan:
    """Return the plan that a `ManifestChange` gives when the queue is as the manifest in force says."""
    counts = dict.fromkeys(COUNTS, 0) | {"unchanged": in_force.count}
    digest = hashlib.sha256(in_force.digest.encode()).hexdigest()
    return Plan(digest, in_force.digest, counts, [], [], [], [], [])


def in_force_of(header: Header, applied_at: str) -> InForce:
    """Return a manifest as it will be in force."""
    return InForce(
        digest=header.digest,
        hosts=header.hosts,
        trainer=header.trainer,
        datasets=header.datasets,
        contract=header.contract,
        count=header.count,
        applied_at=applied_at,
        headline=header.headline,
    )


def fields_changed(
    row: NamedJobRow, old: Requirement, requirement: Requirement, limits: Limits
) -> dict[str, list[Any]]:
    """Return the manifest keys in which a job of the queue differs, each with its old and new value.

    Args:
        row: The job's row, as the statement `jobs_named` gives it.
        old: What it needs now.
        requirement: What it shall need, without what was learned.
        limits: What shall bound it.
    """
    fields: dict[str, list[Any]] = {}
    learned = with_learned(requirement, old)
    if learned != old:
        before, after = asdict(old), asdict(learned)
        fields = {key: [before[key], after[key]] for key in before if before[key] != after[key]}
    for key in ("priority", "timeout_s", "max_attempts"):
        if getattr(row, key) != getattr(limits, key):
            fields[key] = [getattr(row, key), getattr(limits, key)]
    if not row.named:
        fields["named"] = [False, True]
    return fields


def with_learned(requirement: Requirement, old: Requirement) -> Requirement:
    """Return what a manifest says a job needs, with what failures of the job have taught."""
    if (requirement.over_vram_gib, requirement.over_ram_gib) == (old.over_vram_gib, old.over_ram_gib):
        # Nearly all: making a copy costs more than the rest of comparing a job.
        return requirement
    return replace(requirement, over_vram_gib=old.over_vram_gib, over_ram_gib=old.over_ram_gib)
