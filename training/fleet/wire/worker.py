"""The messages between a worker and the receiver about jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from training.fleet.model.capability import Capability
from training.fleet.model.jobs import FailKind, Status
from training.fleet.model.names import SHA256
from training.fleet.wire.limits import Hex64, HostName, LeaseIds, Limit, Metrics, Token

MAX_LOG_TAIL: Final = 16384


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


@dataclass(frozen=True, slots=True)
class Claim:
    """`POST /v1/job/claim`: ask for a job.

    Attributes:
        claim_id: Made by the worker, new for each job it asks for, the same when it asks again after a lost answer.
        worker: Name of the host.
        capability: What the host can do now.
        held_leases: Leases the process holds; it asks for one job at a time, so this list is complete.
        process: Which of the processes under this name asks: random, one for each work folder. None from a worker of
            an older version, which is alone under its name.
        slots: How many jobs the worker runs at once, for people; None from one that does not say.
    """

    claim_id: Token
    worker: HostName
    capability: Capability
    held_leases: LeaseIds = field(default_factory=list)
    process: Token | None = None
    slots: Annotated[int, Limit(ge=0)] | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`POST /v1/job/{id}/heartbeat`: the trainer is alive. The first one acknowledges the lease."""

    lease_id: Token
    progress: Progress | None = None
    held_leases: LeaseIds = field(default_factory=list)


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
    content_digest: Annotated[str, Limit(pattern=f"^sha256:{SHA256}$", max_length=71)] | None = None
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
        cuda: True if the trainer may use a card: there is a usable one, it is free, and the manifest allows it.
        trainer_env: Environment variables of the manifest for the trainer.
        card: UUID of the card the trainer gets; None without one, and from a receiver of an older version, which leaves
            the choice to the worker.
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
    trainer_env: dict[str, str] = field(default_factory=dict)
    card: str | None = None


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
class JobState:
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
