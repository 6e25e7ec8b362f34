"""The messages between people and the receiver: what an operator looks at and orders."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from training.fleet.model.capability import Capability
from training.fleet.model.jobs import Headline, Status
from training.fleet.wire.limits import Hex64, Limit
from training.fleet.wire.manifests import TableChange
from training.fleet.wire.worker import Progress

MAX_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Reload:
    """`POST /v1/manifest/reload`: read the manifest file again and apply it.

    Attributes:
        allow_shrink: Permission to apply a file that declares fewer jobs than the manifest in force.
        if_plan: Digest of the plan the operator saw; refused with 412 when it would differ now. It is the permission
            for all that the plan showed.
        keep_dropped: Jobs that the file no longer names stay claimable.
    """

    allow_shrink: bool = False
    if_plan: Hex64 | None = None
    keep_dropped: bool = False


@dataclass(frozen=True, slots=True)
class BackupOrder:
    """`POST /v1/backup`: make a backup below the receiver's own `backup_root`.

    Attributes:
        label: Stands behind the date in its name; None for the date alone.
        artifacts: True to copy the artifacts as well.
        keep: How many backups with this label are left afterwards, older ones are removed; None removes none.
    """

    label: Annotated[str, Limit(pattern="^[a-z0-9-]{1,40}$", min_length=1, max_length=40)] | None = None
    artifacts: bool = False
    keep: Annotated[int, Limit(ge=1, le=10000)] | None = None


@dataclass(frozen=True, slots=True)
class FsckOrder:
    """`POST /v1/fsck`: check database, store and index against each other.

    Attributes:
        hashes: True to read the artifacts; otherwise only their presence and length are checked.
    """

    hashes: bool = True


@dataclass(frozen=True, slots=True)
class FailureView:
    """How an attempt ended badly.

    Attributes:
        kind: A failure kind, or `expired` or `lost_claim` for a lease that ran out.
        error: The actual error.
        exit_status: The trainer's exit status, None when it has none.
        host: Where it ran.
        at: When, RFC 3339, UTC.
    """

    kind: str
    error: str
    exit_status: int | None
    host: str
    at: str


@dataclass(frozen=True, slots=True)
class JobView:
    """One job in a list.

    Attributes:
        id: Identity.
        model: Model name.
        mode: Mode.
        split: Split recipe.
        seed: Seed.
        dataset: Dataset name, None for the host's default.
        status: One of the six statuses.
        priority: Larger first.
        host: Where it runs or ran last, None before the first claim.
        attempts_used: Attempts that count.
        max_attempts: The budget.
        cancel_requested: A cancellation waits for the worker's confirmation.
        named: False when the manifest in force no longer names the job.
        delayed: True while a pending job waits for its back-off to end.
        updated_at: Last change, RFC 3339, UTC.
        claimed_at: Start of the newest attempt, None before it.
        ended_at: End of the newest attempt, None while it runs.
        progress: Of the running attempt, None otherwise.
        failure: How the newest attempt ended badly, None when it did not.
        artifact: Artifact id, None until completed.
        artifact_path: Path of the bundle below the store root, None until completed.
        metrics: Headline figures, empty until completed.
        duration_s: Seconds the trainer ran, None until completed.
        spec: Identity document, None unless it was asked for.
        hyper: Hyper-parameters as the manifest gives them, None unless they were asked for.
        reason: Why a pending job waits, in a few words; empty for others and unless it was asked for.
        name: Label that the manifest gives it, None without one.
        tags: Labels that it shares with others.
        withdrawn: True while the manifest in force no longer names a pending job; it is not offered then.
    """

    id: str
    model: str
    mode: str
    split: str
    seed: int
    dataset: str | None
    status: Status
    priority: int
    host: str | None
    attempts_used: int
    max_attempts: int
    cancel_requested: bool
    named: bool
    delayed: bool
    updated_at: str
    claimed_at: str | None = None
    ended_at: str | None = None
    progress: Progress | None = None
    failure: FailureView | None = None
    artifact: str | None = None
    artifact_path: str | None = None
    metrics: dict[str, float | int | str | bool | None] = field(default_factory=dict)
    duration_s: float | None = None
    spec: dict[str, Any] | None = None
    hyper: dict[str, Any] | None = None
    reason: str = ""
    name: str | None = None
    tags: list[str] = field(default_factory=list)
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class JobPage:
    """`GET /v1/jobs`: one page.

    Attributes:
        jobs: The jobs.
        next: The cursor of the following page, None at the end.
        headline: The figure by which results are compared, None when the trainer declares none.
    """

    jobs: list[JobView]
    next: str | None = None
    headline: Headline | None = None


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt of a job.

    Attributes:
        fence: Its number.
        host: Where.
        claimed_at: RFC 3339, UTC.
        started_at: First heartbeat, None without one.
        ended_at: None while it lives.
        outcome: completed, failed, expired, lost_claim, released or cancelled; None while it lives.
        kind: Failure kind, None without a failure.
        exit_status: The trainer's, None without one.
        error: The actual error, empty without one; its start where the job's history is long.
    """

    fence: int
    host: str
    claimed_at: str
    started_at: str | None
    ended_at: str | None
    outcome: str | None
    kind: str | None
    exit_status: int | None
    error: str


@dataclass(frozen=True, slots=True)
class EventView:
    """One change, as the audit log keeps it.

    Attributes:
        id: Grows with every change.
        at: RFC 3339, UTC; a label, order is by `id`.
        actor: `worker:NAME`, `operator:NAME` or `receiver`.
        action: claim, start, complete, fail, release, expire, adopt, cancel, requeue, add, change, drop, restore.
        from_status: None for a new job.
        to_status: The status after it.
        why: For people.
    """

    id: int
    at: str
    actor: str
    action: str
    from_status: str | None
    to_status: str
    why: str


@dataclass(frozen=True, slots=True)
class PartView:
    """One small file beside a job's artifact, at `GET /v1/model/{sha256}/file/{file}`.

    Attributes:
        name: Its name, such as `model_card.md`.
        size_bytes: Its length.
        sha256: SHA-256 of its bytes, hex.
        type: Its media type.
    """

    name: str
    size_bytes: int
    sha256: str
    type: str


@dataclass(frozen=True, slots=True)
class JobDetail:
    """`GET /v1/job/{id}`: everything about one job.

    Attributes:
        job: As in lists.
        spec: Identity document.
        constraints: Requirement and limits, by manifest key; learned ones as `over_vram_gib`, `over_ram_gib`.
        attempts: Oldest first, the newest 200; errors of older ones are cut where the newer ones are long.
        events: Oldest first, the newest 200; reasons of older ones are cut in the same way.
        log_tail: End of the log of the newest failed attempt, empty without one.
        attempts_total: How many attempts the job has had.
        events_total: How many events it has had; `GET /v1/events` shows all of them.
        parts: Card, figures and metrics beside the artifact, by name; empty until completed, and without any.
        artifact_gone: Why the artifact's files are not here and since when, such as `pruned on TIME`; empty while they
            should be.
    """

    job: JobView
    spec: dict[str, Any]
    constraints: dict[str, Any]
    attempts: list[AttemptView]
    events: list[EventView]
    log_tail: str
    attempts_total: int = 0
    events_total: int = 0
    parts: list[PartView] = field(default_factory=list)
    artifact_gone: str = ""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One host in `GET /v1/workers`.

    Attributes:
        name: Host name.
        state: `working`, `idle`, `away` (nothing heard for a lease term), or `refused` (not admitted).
        last_seen_s: Seconds since it was last heard, None when not since the receiver started.
        jobs: Ids of the jobs it holds.
        capability: As last reported, None for a host that the manifest names and that never called.
        policy: As the manifest in force says, None when the manifest does not admit the host.
        drift: What the manifest declares and detection does not bear out, and a trainer that declares other
            parameters than the manifest was checked against, and a worker of another version than the receiver; for
            people.
        identity: `none`, `enrolled`, `rotating` or `revoked`.
        alerts: What an operator should look into now, such as a second machine with its identity, or that it gets no
            job for a while because it gave too many back; for people.
        slots: How many jobs the worker runs at once by its own settings, None when it did not say since the receiver
            started; the manifest's own number is in `policy`.
    """

    name: str
    state: str
    last_seen_s: float | None
    jobs: list[str]
    capability: Capability | None
    policy: dict[str, Any] | None
    drift: list[str]
    identity: str = "none"
    alerts: list[str] = field(default_factory=list)
    slots: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerPage:
    """`GET /v1/workers`: one page. `next` is the cursor of the following page, None at the end."""

    workers: list[WorkerView]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class FleetEvent:
    """One event of the audit trail: a change of a job, or of a worker's identity.

    Attributes:
        id: Grows with every event.
        at: RFC 3339, UTC; a label, order is by `id`.
        actor: `worker:NAME`, `operator:NAME`, `receiver`, or `anyone` for who has not shown who it is.
        action: As in docs/reference/states.md.
        job: The job, None for an event of a worker or of the manifest.
        worker: The worker it is about, None for an event of a job or of the manifest.
        from_status: Of the job, None without one.
        to_status: Of the job, None without one.
        why: For people.
        model: Of the job, None without one.
        mode: Of the job, None without one.
    """

    id: int
    at: str
    actor: str
    action: str
    job: str | None
    worker: str | None
    from_status: str | None
    to_status: str | None
    why: str
    model: str | None = None
    mode: str | None = None


@dataclass(frozen=True, slots=True)
class EventPage:
    """`GET /v1/events`: one page, newest first. `next` is the cursor of the following page, None at the end."""

    events: list[FleetEvent]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class RecentFailure:
    """A job whose newest attempt ended badly, for the status page."""

    job_id: str
    model: str
    mode: str
    status: Status
    failure: FailureView


@dataclass(frozen=True, slots=True)
class AcceptedLoss:
    """What an operator accepted that a host cannot do any more.

    Attributes:
        worker: The host.
        lost: Models, and "CUDA"; empty when it had lost nothing.
    """

    worker: str
    lost: list[str]


@dataclass(frozen=True, slots=True)
class Health:
    """`GET /v1/health`: the fleet at a glance.

    Attributes:
        status: `ok`, `draining` or `degraded`.
        version: Of the receiver.
        uptime_s: Seconds since it started.
        counts: Jobs by status; all six are always there. Withdrawn jobs count as pending.
        workers: Workers by state.
        manifest: Digest and number of jobs of the manifest in force, and the faults of a newer file that was refused.
        storage: Artifacts, their bytes, free bytes that uploads may take, bytes of the floor that they leave.
        failures: The newest failures of jobs that are not completed since, at most ten, newest first.
        problems: What is wrong now, for people.
        withdrawn: Pending jobs that nobody is offered, because the manifest no longer names them.
        stranded: Pending jobs that no known host can run; counting stops at 1,000.
    """

    status: str
    version: str
    uptime_s: float
    counts: dict[str, int]
    workers: dict[str, int]
    manifest: dict[str, Any]
    storage: dict[str, int]
    failures: list[RecentFailure]
    problems: list[str]
    withdrawn: int = 0
    stranded: int = 0


@dataclass(frozen=True, slots=True)
class ReasonView:
    """One constraint that keeps a job from a host: what was wanted and what was found."""

    constraint: str
    wanted: str
    found: str


@dataclass(frozen=True, slots=True)
class HostVerdict:
    """The answer to whether one host could run a job, with every reason against it.

    Attributes:
        host: Host name.
        eligible: True when nothing stands against it.
        reasons: Empty when eligible.
        seen: False for a host judged by its declaration alone because it never called.
        change: The smallest change of the manifest that would let it run there, empty when eligible or none would.
    """

    host: str
    eligible: bool
    reasons: list[ReasonView]
    seen: bool
    change: str = ""


@dataclass(frozen=True, slots=True)
class Why:
    """`GET /v1/job/{id}/why`: why a job waits, or why it does not.

    Attributes:
        id: The job.
        status: Its status.
        summary: One sentence for people.
        hosts: Every known host's verdict.
        smallest_change: The smallest change over all hosts, empty when some host is eligible or nothing would help.
    """

    id: str
    status: Status
    summary: str
    hosts: list[HostVerdict]
    smallest_change: str


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One job in a plan.

    Attributes:
        id: Identity.
        model: Model name.
        mode: Mode.
        change: Manifest key to [old, new], for a changed job and for one that replaces another; empty otherwise.
        hosts: Known hosts that could run it, for an added job.
        near: What the nearest known host lacks, for an added job that no known host could run, for people.
        replaces: Id of the dropped job that this added one most likely stands for, None without one.
        status: Where a dropped job stands; empty for others.
    """

    id: str
    model: str
    mode: str
    change: dict[str, list[Any]] = field(default_factory=dict)
    hosts: list[str] = field(default_factory=list)
    near: str = ""
    replaces: str | None = None
    status: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a reload would do, or did.

    Lists hold at most 1,000 jobs each; the counts are exact.

    Attributes:
        digest: Names this plan; `reload` with it is refused when the plan would differ by then.
        manifest: SHA-256 of the manifest's bytes.
        counts: `added changed unchanged dropped stranded`.
        added: New jobs.
        changed: Jobs whose constraints, limits or labels change, field by field.
        dropped: Jobs in the queue that the manifest no longer names. Pending ones are withdrawn, unless they are kept.
        stranded: Ids among the added that no known host can run.
        warnings: Identical twins, hosts that are shut out and the like, for people.
        tables: Hosts, datasets and the trainer as far as they change.
        notes: Which `[[jobs]]` tables stand for several jobs, and the like, for people.
    """

    digest: str
    manifest: str
    counts: dict[str, int]
    added: list[PlannedJob]
    changed: list[PlannedJob]
    dropped: list[PlannedJob]
    stranded: list[str]
    warnings: list[str]
    tables: list[TableChange] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found.

    Attributes:
        place: Where.
        found: What is there.
        expected: What should be.
        remedy: What to do now.
    """

    place: str
    found: str
    expected: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Chore:
    """`GET /v1/chore`: the newest backup, check or prune, and how far it is.

    Attributes:
        kind: `backup`, `fsck`, `prune`, or empty before the first.
        state: `idle`, `running`, `done` or `failed`.
        name: Of the backup; of a check or a prune when it began.
        begun_at: When it began, RFC 3339, UTC.
        path: Folder of a backup that is done, on the receiver's host.
        done_bytes: Bytes of artifacts read, or removed, so far.
        total_bytes: Bytes to read or to remove, 0 while unknown.
        findings: What is wrong.
        notes: What is not wrong and may be looked at.
        checked: How much a check looked at: `jobs pages artifacts bytes`, and `pruned` artifacts; what a prune removed:
            `pruned bytes`.
        error: Why it failed, for people; empty otherwise.
        removed: Older backups that were removed.
    """

    kind: str = ""
    state: str = "idle"
    name: str = ""
    begun_at: str = ""
    path: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    error: str = ""
    removed: list[str] = field(default_factory=list)
