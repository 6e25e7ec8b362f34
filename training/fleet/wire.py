"""The messages between worker, operator and receiver.

Owns their fields and bounds, in one place for both sides. Standard library only, because the worker speaks them too:
the receiver turns the same classes into strict decoders and into the OpenAPI document. Fields are only ever added, and
unknown ones are ignored, so an older worker and a newer receiver can talk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from training.fleet.capability import Capability
from training.fleet.jobs import FailKind, Status

MAX_BODY_BYTES = 65536
MAX_MANIFEST_BYTES = 32 * 2**20
MAX_LOG_TAIL = 16384
MAX_PAGE = 500


@dataclass(frozen=True, slots=True)
class Limit:
    """Bounds of a field, checked by the receiver and shown in the OpenAPI document.

    Attributes:
        pattern: Regular expression the text must match.
        min_length: Least number of characters or items.
        max_length: Largest number of characters or items.
        ge: Least number.
        le: Largest number.
    """

    pattern: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    ge: float | None = None
    le: float | None = None


Hex64 = Annotated[str, Limit(pattern="^[0-9a-f]{64}$", min_length=64, max_length=64)]
"""A SHA-256 in lower-case hex: a job id, an artifact id."""
Token = Annotated[str, Limit(pattern="^[0-9A-Za-z_-]{8,64}$", min_length=8, max_length=64)]
"""A name made by a machine: a lease id, a claim id."""
HostName = Annotated[str, Limit(pattern="^[0-9a-z]([0-9a-z._-]{0,62})$", min_length=1, max_length=63)]
"""The name of a host and its worker, lower case."""
Leases = Annotated[list[Token], Limit(max_length=64)]
Metrics = Annotated[dict[str, float | int | str | bool | None], Limit(max_length=256)]
"""Flat figures of a run, by name."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a trainer is.

    Attributes:
        step: Steps done, over the whole job.
        steps: Steps in all, 0 when unknown.
        phase: What it does, for people ("fold 2/5").
        metrics: The latest figures.
        elapsed_s: Seconds since the trainer started.
        left_s: Seconds still to go as the worker estimates them, None when it cannot.
    """

    step: Annotated[int, Limit(ge=0)] = 0
    steps: Annotated[int, Limit(ge=0)] = 0
    phase: Annotated[str, Limit(max_length=200)] = ""
    metrics: Metrics = field(default_factory=dict)
    elapsed_s: Annotated[float, Limit(ge=0)] = 0.0
    left_s: float | None = None


# ---- worker to receiver ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """`POST /v1/job/claim`: ask for a job.

    Attributes:
        claim_id: Made by the worker, new for each job it asks for, the same when it asks again after a lost answer.
        worker: Name of the host.
        capability: What the host can do now.
        held_leases: Leases the worker holds; a worker asks for one job at a time, so this list is complete.
    """

    claim_id: Token
    worker: HostName
    capability: Capability
    held_leases: Leases = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`POST /v1/job/{id}/heartbeat`: the trainer is alive. The first one acknowledges the lease."""

    lease_id: Token
    progress: Progress | None = None
    held_leases: Leases = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Complete:
    """`POST /v1/job/{id}/complete`: the artifact is stored, this is the job's result.

    Attributes:
        lease_id: The lease the result was made under.
        artifact: SHA-256 of the uploaded bundle.
        metrics: Headline figures of the result.
        content_digest: "sha256:<hex>" of the uncompressed tar, or None.
        duration_s: Seconds the trainer ran, or None.
    """

    lease_id: Token
    artifact: Hex64
    metrics: Metrics = field(default_factory=dict)
    content_digest: Annotated[str, Limit(pattern="^sha256:[0-9a-f]{64}$", max_length=71)] | None = None
    duration_s: Annotated[float, Limit(ge=0)] | None = None


@dataclass(frozen=True, slots=True)
class Fail:
    """`POST /v1/job/{id}/fail`: the attempt ended without a result.

    `preempted` gives the job back: the worker shuts down or the host is wanted. On a job whose cancellation was
    asked for, any kind confirms it.

    Attributes:
        lease_id: The lease of the attempt.
        kind: What went wrong.
        exit_status: The trainer's exit status (negative: a signal), None when it never ran.
        error: The actual error in one or a few lines.
        log_tail: The end of the trainer's log.
    """

    lease_id: Token
    kind: FailKind
    exit_status: int | None = None
    error: Annotated[str, Limit(max_length=4000)] = ""
    log_tail: Annotated[str, Limit(max_length=MAX_LOG_TAIL)] = ""


@dataclass(frozen=True, slots=True)
class Reload:
    """`POST /v1/manifest/reload`: read the manifest file again and apply it.

    Attributes:
        allow_shrink: Leave to drop jobs that the file no longer names.
        if_plan: Digest of the plan the operator saw; refused with 412 when it would differ now.
    """

    allow_shrink: bool = False
    if_plan: Hex64 | None = None


@dataclass(frozen=True, slots=True)
class BackupOrder:
    """`POST /v1/backup`: make a backup below the receiver's own `backup_root`.

    Attributes:
        label: Stands behind the date in its name; None for the date alone.
        artifacts: Whether the artifacts belong to it.
    """

    label: Annotated[str, Limit(pattern="^[a-z0-9-]{1,40}$", min_length=1, max_length=40)] | None = None
    artifacts: bool = False


@dataclass(frozen=True, slots=True)
class FsckOrder:
    """`POST /v1/fsck`: check database, store and index against each other.

    Attributes:
        hashes: Whether the artifacts are read; without it only their presence and length are looked at.
    """

    hashes: bool = True


@dataclass(frozen=True, slots=True)
class InviteOrder:
    """`POST /v1/invite`: let a host enrol.

    Attributes:
        worker: Name of the host; the code is good for it alone.
        ttl_s: Seconds the code lives.
    """

    worker: HostName
    ttl_s: Annotated[int, Limit(ge=60, le=86400)] = 900


@dataclass(frozen=True, slots=True)
class Enrol:
    """`POST /v1/enrol`: exchange a one-time code for an identity.

    Attributes:
        code: What an invite holds.
        worker: Name of the host, the one of the invite.
        secret_sha256: SHA-256 of the key that the worker has made; the key itself stays on its host.
    """

    code: Annotated[str, Limit(pattern="^[0-9A-Za-z_-]{22,64}$", min_length=22, max_length=64)]
    worker: HostName
    secret_sha256: Hex64


@dataclass(frozen=True, slots=True)
class NewSecret:
    """`POST /v1/secret`: the digest of a worker's next key, which takes over at its first use."""

    secret_sha256: Hex64


# ---- receiver to worker ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lease:
    """Answer to a claim: a job, for as long as the worker beats.

    Attributes:
        job_id: Identity of the job.
        lease_id: Random; every later write of the worker carries it.
        fence: Number of the grant of this job; never goes back.
        ack_within_s: Seconds until the first heartbeat must have arrived.
        lease_s: Seconds the lease lives after each heartbeat.
        heartbeat_s: Seconds between heartbeats.
        spec: The job's identity document (`jobs.Spec.document`).
        timeout_s: Wall-clock limit of the attempt.
        trainer_command: Argument vector, `{python}` stands for the worker's interpreter.
        trainer_contract: Digest of the declaration the trainer must match, or None.
        stop: Leases the worker believes it holds but does not; their trainers must end.
        cuda: Whether the trainer may use the host's card: it has a usable one and the manifest does not keep it free.
    """

    job_id: str
    lease_id: str
    fence: int
    ack_within_s: float
    lease_s: float
    heartbeat_s: float
    spec: dict[str, Any]
    timeout_s: int
    trainer_command: list[str]
    trainer_contract: str | None = None
    stop: list[str] = field(default_factory=list)
    cuda: bool = False


@dataclass(frozen=True, slots=True)
class Beat:
    """Answer to a heartbeat.

    Attributes:
        lease_s: Seconds the lease lives from now.
        cancel: The operator wants the job stopped; stop the trainer and confirm with `fail`.
        drain: The worker should take no new job.
        stop: Leases the worker believes it holds but does not.
    """

    lease_s: float
    cancel: bool = False
    drain: bool = False
    stop: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class State:
    """Answer to a change of a job: where it stands now."""

    id: str
    status: Status
    cancel_requested: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """Answer to an upload.

    Attributes:
        sha256: Artifact id.
        size_bytes: Its length.
        new: False when it was already there.
    """

    sha256: str
    size_bytes: int
    new: bool


RENEW_AT: Final = "renew-at: "
"""Begin of the line in front of a worker's certificate that says when to ask for the next one, RFC 3339."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a worker needs for mutual TLS, in PEM; empty where the receiver issues none.

    Attributes:
        ca_pem: The authority to trust.
        certificate_pem: The worker's certificate, with a line in front that says when to renew it.
        key_pem: Its key.
        fingerprint: SHA-256 of the certificate, hex.
    """

    ca_pem: str = ""
    certificate_pem: str = ""
    key_pem: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Answer to an enrolment; asked again with the same code and digest it is the same.

    Attributes:
        worker: The name the worker is held to.
        id: Public part of its secret, which is `cis490w.ID.KEY`.
        version: Of the receiver.
        heartbeat_s: Seconds between heartbeats.
        ca_pem: The authority to trust, empty without one.
        certificate_pem: The worker's certificate, empty without one.
        key_pem: Its key, empty without one.
    """

    worker: str
    id: str
    version: str
    heartbeat_s: float
    ca_pem: str = ""
    certificate_pem: str = ""
    key_pem: str = ""


@dataclass(frozen=True, slots=True)
class SecretTaken:
    """Answer to a new key's digest."""

    id: str


# ---- receiver to people ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failure:
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
    failure: Failure | None = None
    artifact: str | None = None
    artifact_path: str | None = None
    metrics: dict[str, float | int | str | bool | None] = field(default_factory=dict)
    duration_s: float | None = None
    spec: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class JobPage:
    """`GET /v1/jobs`: one page. `next` is the cursor of the following page, None at the end."""

    jobs: list[JobView]
    next: str | None = None


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
    """

    job: JobView
    spec: dict[str, Any]
    constraints: dict[str, Any]
    attempts: list[AttemptView]
    events: list[EventView]
    log_tail: str
    attempts_total: int = 0
    events_total: int = 0


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One host in `GET /v1/workers`.

    Attributes:
        name: Host name.
        state: `working`, `idle` or `away` (nothing heard for a lease term).
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


@dataclass(frozen=True, slots=True)
class WorkerPage:
    """`GET /v1/workers`: one page. `next` is the cursor of the following page, None at the end."""

    workers: list[WorkerView]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class OwnView:
    """`GET /v1/worker/self`: what the receiver knows and thinks of the worker that asks.

    Attributes:
        worker: Host name; that of the enrolment where there is one.
        version: Of the receiver.
        state: `working`, `idle` or `away`.
        identity: `none`, `enrolled`, `rotating` or `revoked`.
        capability: As the running worker last reported, None when it never called.
        policy: As the manifest in force says, None when the manifest does not admit the host.
        table: Manifest table that the policy comes from, empty without one.
        contract: Digest of the declaration the manifest was checked against; None where its trainer is not the
            project's own.
        drift: As in `WorkerView`.
        alerts: Those of `WorkerView` that concern the identity.
        waiting: Jobs that can be claimed now, at most 64 of each requirement.
        able: How many of them this worker could run; none while it gets no job because it gave too many back.
        reasons: Why it could not run the others, for people; some of them where there are many.
    """

    worker: str
    version: str
    state: str
    identity: str
    capability: Capability | None
    policy: dict[str, Any] | None
    table: str
    contract: str | None
    drift: list[str]
    alerts: list[str]
    waiting: int
    able: int
    reasons: list[str]


@dataclass(frozen=True, slots=True)
class Invite:
    """Answer to an invite; the code is shown once.

    Attributes:
        worker: The host it is good for.
        code: The one-time code.
        ttl_s: Seconds it lives.
        expires_at: When it ends, RFC 3339, UTC.
        ca_sha256: SHA-256 of the receiver's certificate authority, hex; None without one.
        replaces: Whether the host is enrolled already; enrolling anew revokes that.
    """

    worker: str
    code: str
    ttl_s: int
    expires_at: str
    ca_sha256: str | None = None
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class IdentityView:
    """One identity of a worker.

    Attributes:
        worker: Name of the host.
        id: Public part of its secret.
        state: `enrolled`, `rotating` (a new key is asked for or not used yet) or `revoked`.
        created_at: When it enrolled, RFC 3339, UTC.
        revoked_at: When it was revoked or replaced, None while it lives.
        fingerprint: SHA-256 of its client certificate, None without one.
    """

    worker: str
    id: str
    state: str
    created_at: str
    revoked_at: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class IdentityPage:
    """`GET /v1/identities`: one page. `next` is the cursor of the following page, None at the end."""

    identities: list[IdentityView]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class FleetEvent:
    """One event of the audit trail: a change of a job, or of a worker's identity.

    Attributes:
        id: Grows with every event.
        at: RFC 3339, UTC; a label, order is by `id`.
        actor: `worker:NAME`, `operator:NAME`, `receiver`, or `anyone` for who has not shown who it is.
        action: As in docs/reference/states.md.
        job: The job, None for an event of an identity.
        worker: The worker whose identity it is about, None for an event of a job.
        from_status: Of the job, None without one.
        to_status: Of the job, None without one.
        why: For people.
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
    failure: Failure


@dataclass(frozen=True, slots=True)
class Health:
    """`GET /v1/health`: the fleet at a glance.

    Attributes:
        status: `ok`, `draining` or `degraded`.
        version: Of the receiver.
        uptime_s: Seconds since it started.
        counts: Jobs by status; all six are always there.
        workers: Workers by state.
        manifest: Digest and number of jobs of the manifest in force, and the faults of a newer file that was refused.
        storage: Artifacts, their bytes, free bytes of the store's disk.
        failures: The newest failures of jobs that are not completed since, at most ten, newest first.
        problems: What is wrong now, for people.
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


@dataclass(frozen=True, slots=True)
class ReasonView:
    """One constraint that keeps a job from a host: what was wanted and what was found."""

    constraint: str
    wanted: str
    found: str


@dataclass(frozen=True, slots=True)
class HostVerdict:
    """Whether one host could run a job, and every reason why not.

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
        change: Manifest key to [old, new], for a changed job; empty otherwise.
        hosts: Known hosts that could run it, for an added job.
    """

    id: str
    model: str
    mode: str
    change: dict[str, list[Any]] = field(default_factory=dict)
    hosts: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a reload would do, or did.

    Lists hold at most 1,000 jobs each; the counts are exact.

    Attributes:
        digest: Names this plan; `reload` with it is refused when the plan would differ by then.
        manifest: SHA-256 of the manifest's bytes.
        counts: `added changed unchanged dropped stranded`.
        added: New jobs.
        changed: Jobs whose constraints or limits change, field by field.
        dropped: Jobs in the queue that the manifest no longer names; they stay until cancelled.
        stranded: Ids among the added that no known host can run.
        warnings: Identical twins and the like, for people.
    """

    digest: str
    manifest: str
    counts: dict[str, int]
    added: list[PlannedJob]
    changed: list[PlannedJob]
    dropped: list[PlannedJob]
    stranded: list[str]
    warnings: list[str]


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
    """`GET /v1/chore`: the newest backup or check, and how far it is.

    Attributes:
        kind: `backup`, `fsck`, or empty before the first.
        state: `idle`, `running`, `done` or `failed`.
        name: Of the backup; of a check when it began.
        begun_at: When it began, RFC 3339, UTC.
        path: Folder of a backup that is done, on the receiver's host.
        done_bytes: Bytes of artifacts read so far.
        total_bytes: Bytes to read, 0 while unknown.
        findings: What is wrong.
        notes: What is not wrong and may be looked at.
        checked: How much a check looked at: `jobs pages artifacts bytes`.
        error: Why it failed, for people; empty otherwise.
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
