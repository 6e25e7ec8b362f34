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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from training.fleet.database.queries import InForceJobRow, NamedJobRow
from training.fleet.manifest import Header, JobEntry
from training.fleet.model import placement
from training.fleet.model.capability import Capability, with_free_cards
from training.fleet.model.jobs import Limits, Policy, Requirement
from training.fleet.queue.differences import shut_out, slips, table_changes, told
from training.fleet.queue.in_force import DEFAULT_HOST, InForce, Origin
from training.fleet.queue.successors import MAX_PAIRED, successors
from training.fleet.wire.people import Plan, PlannedJob

MAX_LISTED: Final = 1000
"""Jobs listed in each part of a plan."""
MAX_HOSTS: Final = 100
"""Hosts listed for one added job."""
MAX_NEAR: Final = 2
"""Hosts of which a plan says what they lack, for a job that no known host could run."""
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
        name: Its name, None without one.
        tags: Its tags.
    """

    id: str
    model: str
    mode: str
    document: str
    requirement: Requirement
    limits: Limits
    position: int
    name: str | None
    tags: tuple[str, ...]


class ManifestChange:
    """What a manifest would change, and what is still to be written.

    Args:
        header: Everything the manifest says besides its jobs.
        actor: Who asks, for the history.
        applied_at: When it comes into force, RFC 3339, UTC.
        before: The manifest in force until then.
        origin: Where its text comes from.
        keep_dropped: Jobs that it no longer names stay claimable.

    Attributes:
        in_force: The manifest as it will be in force.
        before: The manifest in force until then.
        origin: Where its text comes from.
        keep_dropped: Jobs that it no longer names stay claimable.
        tables: What it changes besides the jobs.
        actor: Who asks.
        counts: Jobs added, changed, unchanged, dropped and stranded.
        position: Place of the last job that was compared.
        gone: Numbers of the jobs it drops.
        scanned: Number of the last job that was looked at for being dropped.
        named: How many of the jobs it names were named before.
    """

    def __init__(
        self,
        header: Header,
        actor: str,
        applied_at: str,
        before: InForce,
        origin: Origin,
        *,
        keep_dropped: bool = False,
    ) -> None:
        self.in_force = in_force_of(header, applied_at, actor, origin)
        self.before = before
        self.origin = origin
        self.keep_dropped = keep_dropped
        self.tables = table_changes(before, self.in_force)
        self.actor = actor
        self.counts: Counter[str] = Counter()
        self.position = 0
        self.gone: array[int] = array("q")
        self.scanned = 0
        self.named = 0
        self._warnings = [*shut_out(before, self.in_force), *header.warnings]
        self._notes = list(header.notes)
        self._hosts: list[tuple[str, Capability, Policy | None]] = []
        self._digest = hashlib.sha256(header.digest.encode())
        for table in self.tables:
            self._digest.update(f"table {told(table)}\n".encode())
        self._listed: dict[str, list[PlannedJob]] = {"added": [], "changed": [], "dropped": []}
        self._stranded: list[str] = []
        self._seen = bytearray()
        self._documents: dict[str, str] = {}
        self._able: dict[Requirement, list[str]] = {}
        self._near: dict[Requirement, str] = {}
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

    def know(self, hosts: Iterable[tuple[str, Capability, Policy | None, bool]]) -> None:
        """Take in every host known under the manifest: name, capability, policy, and whether it ever called.

        Busy cards count as free here: a plan must not call a job impossible only because a card is in use now.
        """
        found = list(hosts)
        self._hosts = [(name, with_free_cards(capability), policy) for name, capability, policy, _ in found]
        self._warnings += slips((name for name, _, _, called in found if called), self.in_force)

    def add(self, entry: JobEntry, position: int) -> None:
        """Note a job that the queue does not have."""
        able = self._able_hosts(entry.requirement)
        near = "" if able else self._nearest(entry.requirement)
        planned = PlannedJob(entry.id, entry.model, entry.mode, hosts=able[:MAX_HOSTS], near=near)
        self._note("added", planned)
        if len(self._documents) < MAX_PAIRED:
            self._documents[entry.id] = entry.document
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
        self._note("dropped", PlannedJob(row.id, row.model, row.mode, status=row.status))

    @property
    def first_gone(self) -> list[str]:
        """Ids of the dropped jobs that may be paired with new ones."""
        return [job.id for job in self._listed["dropped"][:MAX_PAIRED]] if self._documents else []

    def pair(self, specs: Mapping[str, str]) -> None:
        """Find out which new jobs stand for which dropped ones.

        Args:
            specs: Specification of each of `first_gone`.
        """
        found = successors(specs, self._documents)
        self._listed["added"] = [
            replace(job, replaces=found[job.id][0], change=found[job.id][1]) if job.id in found else job
            for job in self._listed["added"]
        ]

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
            tables=self.tables,
            notes=self._notes,
            **self._listed,
        )

    # ---- what is to be written

    def writes(self) -> Iterator[Write]:
        """Yield the jobs to write, in the order of the manifest."""
        parts = list(self._parts)
        self._spool.seek(0)
        for line in self._spool:
            requirement, limits, job_id, model, mode, document, position, name, tags = json.loads(line)
            needs, bounds = parts[requirement], parts[limits]
            assert isinstance(needs, Requirement)
            assert isinstance(bounds, Limits)
            yield Write(job_id, model, mode, document, needs, bounds, position, name, tuple(tags))

    def _keep(self, entry: JobEntry, position: int) -> None:
        # Numbers in place of bodies: thousands of jobs share a few requirements and limits, and the file stays small.
        needs = self._parts.setdefault(entry.requirement, len(self._parts))
        bounds = self._parts.setdefault(entry.limits, len(self._parts))
        what = (entry.id, entry.model, entry.mode, entry.document)
        self._spool.write(json.dumps([needs, bounds, *what, position, entry.name, entry.tags]) + "\n")

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

    def _nearest(self, requirement: Requirement) -> str:
        """Return what the nearest known hosts lack, for people."""
        near = self._near.get(requirement)
        if near is None:
            judged = [(name, placement.judge(requirement, host, policy)) for name, host, policy in self._hosts]
            judged.sort(key=lambda item: (len(item[1].reasons), item[0]))
            near = "; ".join(f"{name}: {_lack(verdict.reasons)}" for name, verdict in judged[:MAX_NEAR])
            self._near[requirement] = near
        return near


def _lack(reasons: Iterable[placement.Reason]) -> str:
    """Return what keeps a job from a host, in a few words."""
    return ", ".join(
        f"{reason.found} of {reason.wanted} GiB" if reason.constraint.endswith("_gib") else f"{reason.found}"
        for reason in reasons
    )


def plan_of_no_change(in_force: InForce) -> Plan:
    """Return the plan that a `ManifestChange` gives when the queue is as the manifest in force says."""
    counts = dict.fromkeys(COUNTS, 0) | {"unchanged": in_force.count}
    digest = hashlib.sha256(in_force.digest.encode()).hexdigest()
    return Plan(digest, in_force.digest, counts, [], [], [], [], [])


def in_force_of(header: Header, applied_at: str, actor: str, origin: Origin) -> InForce:
    """Return a manifest as it will be in force."""
    return InForce(
        digest=header.digest,
        hosts=header.hosts,
        trainer=header.trainer,
        datasets=header.datasets,
        contract=header.contract,
        count=header.count,
        applied_at=applied_at,
        actor=actor,
        how=origin.how,
        instead_of=origin.instead_of,
        headline=header.headline,
    )


def fields_changed(row: NamedJobRow, old: Requirement, wanted: JobEntry | Write) -> dict[str, list[Any]]:
    """Return the manifest keys in which a job of the queue differs, each with its old and new value.

    Args:
        row: The job's row, as the statement `jobs_named` gives it.
        old: What it needs now.
        wanted: The job as the manifest has it.
    """
    fields: dict[str, list[Any]] = {}
    limits, learned = wanted.limits, with_learned(wanted.requirement, old)
    if learned != old:
        before, after = asdict(old), asdict(learned)
        fields = {key: [before[key], after[key]] for key in before if before[key] != after[key]}
    for key in ("priority", "timeout_s", "max_attempts"):
        if getattr(row, key) != getattr(limits, key):
            fields[key] = [getattr(row, key), getattr(limits, key)]
    if row.name != wanted.name:
        fields["name"] = [row.name, wanted.name]
    # Nearly all jobs have no tags, and reading "[]" a hundred thousand times takes a second.
    if row.tags != "[]" or wanted.tags:
        tags = json.loads(row.tags)
        if tags != list(wanted.tags):
            fields["tags"] = [tags, list(wanted.tags)]
    if not row.named:
        fields["named"] = [False, True]
    return fields


def with_learned(requirement: Requirement, old: Requirement) -> Requirement:
    """Return what a manifest says a job needs, with what failures of the job have taught."""
    if (requirement.over_vram_gib, requirement.over_ram_gib) == (old.over_vram_gib, old.over_ram_gib):
        # Nearly all: making a copy costs more than the rest of comparing a job.
        return requirement
    return replace(requirement, over_vram_gib=old.over_vram_gib, over_ram_gib=old.over_ram_gib)
