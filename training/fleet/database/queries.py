"""The statements that answer with rows, and what their rows hold.

Owns one type of row for each shape of answer and one `Query` for each reading statement. Guarantees that a reader of
the queue sees which columns there are, and that the type checker sees it too; a test compares the columns of every
dialect with the fields here. Leaves the text of the statements to the folder of the dialect.

    lease = tx.one(LEASE, lease_id="...")   # a LeaseRow or None
"""

from __future__ import annotations

from typing import Final, NamedTuple

from training.fleet.database.query import Query as Query
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.jobs import Status

# Named tuples and not dataclasses: a claim makes several rows, and a frozen dataclass takes ten times as long to make.


class IdRow(NamedTuple):
    """The number of one row."""

    id: int


class JobCountRow(NamedTuple):
    """How many jobs there are."""

    jobs: int


class RequirementRefRow(NamedTuple):
    """The requirement of a job."""

    requirement: int


# ---- what the receiver remembers


class ValueRow(NamedTuple):
    """One text: a value of the receiver's own, a tag."""

    value: str


class RequirementRow(NamedTuple):
    """A distinct requirement; `body` is its JSON."""

    id: int
    digest: str
    body: str


class WorkerRow(NamedTuple):
    """A worker that called; `capability` is the JSON of what it could do then."""

    name: str
    capability: str
    seen_at: str


class OverdueRow(NamedTuple):
    """The best job of a requirement that waited long enough for CUDA."""

    requirement: int
    seq: int


REMEMBERED: Final = Query("remembered", ValueRow._make)
REQUIREMENTS: Final = Query("requirements", RequirementRow._make)
ADD_REQUIREMENT: Final = Query("add_requirement", IdRow._make)
REQUIREMENTS_WITH_READY_JOBS: Final = Query("requirements_with_ready_jobs", IdRow._make)
UNUSED_REQUIREMENTS: Final = Query("unused_requirements", IdRow._make)
CLAIMABLE: Final = Query("claimable", JobCountRow._make)
KNOWN_TAGS: Final = Query("known_tags", ValueRow._make)
STRANDED: Final = Query("stranded", JobCountRow._make)
CLAIMABLE_JOB: Final = Query("claimable_job", RequirementRefRow._make)
OVERDUE: Final = Query("overdue", OverdueRow._make)
HOSTS_MET: Final = Query("hosts_met", WorkerRow._make)

# ---- identities


class IdentityRow(NamedTuple):
    """An enrolment, see `auth.identities.Identity`."""

    id: str
    worker: str
    digest: str
    next_digest: str | None
    rotate: int
    created_at: str
    revoked_at: str | None
    fingerprint: str | None
    place: str | None


class InviteRow(NamedTuple):
    """A one-time code; `identity` is what it was exchanged for."""

    worker: str
    expires_at: str
    expires_tick: int
    identity: str | None


IDENTITIES: Final = Query("identities", IdentityRow._make)
IDENTITY: Final = Query("identity", IdentityRow._make)
LIVING_IDENTITY: Final = Query("living_identity", IdentityRow._make)
INVITE: Final = Query("invite", InviteRow._make)

# ---- the life of a job


class LeaseRow(NamedTuple):
    """A lease, live or over, with its job.

    `lease_id` and `fence` are what the job has now; `own_lease` and `attempt_fence` are those of this lease.
    """

    seq: int
    id: str
    model: str
    mode: str
    status: Status
    lease_id: str | None
    fence: int
    attempts_used: int
    max_attempts: int
    refunds: int
    cancel_requested: int
    requirement: int
    over_vram_gib: float
    over_ram_gib: float
    artifact: str | None
    failure: int | None
    withdrawn: int
    attempt_fence: int
    own_lease: str
    worker: str
    outcome: str | None
    refunded: int
    ended_at: str | None
    card: str | None


class ClaimedRow(NamedTuple):
    """A job that was just given away."""

    seq: int
    id: str
    spec: str
    fence: int
    timeout_s: int
    requirement: int


class AnsweredRow(NamedTuple):
    """The attempt that a claim was answered with; `given` is its lease, `lease_id` the one its job has now."""

    seq: int
    id: str
    spec: str
    fence: int
    timeout_s: int
    status: Status
    lease_id: str | None
    given: str
    outcome: str | None
    card: str | None


class HeldRow(NamedTuple):
    """A live lease of a worker."""

    seq: int
    id: str
    lease_id: str
    status: Status
    process: str | None
    card: str | None


class LiveLeaseRow(NamedTuple):
    """A live lease with its worker, for the start."""

    seq: int
    id: str
    lease_id: str
    host: str
    status: Status
    cancel_requested: int


class JobStateRow(NamedTuple):
    """Where a job stands."""

    seq: int
    id: str
    status: Status
    lease_id: str | None
    cancel_requested: int
    requirement: int
    withdrawn: int
    model: str
    mode: str
    artifact: str | None


class ReadyAgainRow(NamedTuple):
    """A job whose back-off is over."""

    requirement: int
    withdrawn: int


class RejectionRow(NamedTuple):
    """How often a host rejected a job's specification."""

    worker: str
    times: int


class StatusCountRow(NamedTuple):
    """How many jobs have a status."""

    status: Status
    jobs: int


ATTEMPT_OF_CLAIM: Final = Query("attempt_of_claim", AnsweredRow._make)
LEASES_OF: Final = Query("leases_of", HeldRow._make)
CLAIM: Final = Query("claim", ClaimedRow._make)
LEASE: Final = Query("lease", LeaseRow._make)
REJECTIONS: Final = Query("rejections", RejectionRow._make)
JOB_STATE: Final = Query("job_state", JobStateRow._make)
KEEP_ERROR: Final = Query("keep_error", IdRow._make)
MAKE_READY: Final = Query("make_ready", ReadyAgainRow._make)
LIVE_LEASES: Final = Query("live_leases", LiveLeaseRow._make)
COUNTS: Final = Query("counts", StatusCountRow._make)

# ---- artifacts


class ArtifactRow(NamedTuple):
    """A stored artifact."""

    seq: int
    sha256: str
    model: str
    mode: str
    size_bytes: int
    stored_at: str
    gone: str | None
    gone_at: str | None

    @property
    def key(self) -> ArtifactKey:
        """What names it."""
        return ArtifactKey(self.sha256, self.model, self.mode)


class PartRow(NamedTuple):
    """A small file of an artifact."""

    name: str
    size_bytes: int
    sha256: str


class ArtifactTotalsRow(NamedTuple):
    """How many artifacts there are and how long they are together."""

    artifacts: int
    size_bytes: int


class ArtifactLengthRow(NamedTuple):
    """One of the rows of a digest."""

    model: str
    mode: str
    size_bytes: int
    gone: str | None
    gone_at: str | None


class JobIdRow(NamedTuple):
    """The id of a job."""

    id: str


ARTIFACTS: Final = Query("artifacts", ArtifactRow._make)
FILES_LEFT: Final = Query("files_left", ArtifactRow._make)
ARTIFACT_TOTALS: Final = Query("artifact_totals", ArtifactTotalsRow._make)
PARTS: Final = Query("parts", PartRow._make)
ARTIFACT_ROWS: Final = Query("artifact_rows", ArtifactLengthRow._make)
JOB_IDS_OF_ARTIFACT: Final = Query("job_ids_of_artifact", JobIdRow._make)

# ---- lists


class JobRow(NamedTuple):
    """A job with its newest attempt, as lists show it."""

    seq: int
    id: str
    spec: str
    model: str
    mode: str
    requirement: int
    priority: int
    position: int
    timeout_s: int
    max_attempts: int
    named: int
    status: Status
    ready: int
    attempts_used: int
    lease_id: str | None
    host: str | None
    cancel_requested: int
    artifact: str | None
    metrics: str
    duration_s: float | None
    updated_at: str
    claimed_at: str | None
    ended_at: str | None
    outcome: str | None
    kind: str | None
    exit_status: int | None
    error: str
    withdrawn: int
    name: str | None
    tags: str


class AttemptRow(NamedTuple):
    """An attempt, as the page of its job shows it."""

    fence: int
    worker: str
    claimed_at: str
    started_at: str | None
    ended_at: str | None
    outcome: str | None
    kind: str | None
    exit_status: int | None
    error: str


class EventRow(NamedTuple):
    """A change of a job, as the page of its job shows it."""

    id: int
    at: str
    actor: str
    action: str
    from_status: str | None
    to_status: str
    why: str


class FleetEventRow(NamedTuple):
    """An event of a job or of a worker, as the audit trail shows it."""

    id: int
    at: str
    actor: str
    action: str
    job: str | None
    worker: str | None
    from_status: str | None
    to_status: str | None
    why: str
    model: str | None
    mode: str | None


class HistoryLengthRow(NamedTuple):
    """How many attempts and changes a job has had."""

    attempts: int
    events: int


class LogRow(NamedTuple):
    """The end of a log."""

    tail: str


class FailureRow(NamedTuple):
    """The newest bad end of a job."""

    id: str
    model: str
    mode: str
    status: Status
    host: str
    ended_at: str
    outcome: str
    kind: str | None
    exit_status: int | None
    error: str


class NewestRow(NamedTuple):
    """The highest number in a table, None in an empty one."""

    number: int | None


JOBS_BY_SEQ: Final = Query("jobs_by_seq", JobRow._make)
JOBS_BY_STATUS: Final = Query("jobs_by_status", JobRow._make)
JOBS_BY_ID: Final = Query("jobs_by_id", JobRow._make)
JOBS_BY_NAME: Final = Query("jobs_by_name", JobRow._make)
COUNT_WITHDRAWN: Final = Query("count_withdrawn", JobCountRow._make)
JOB: Final = Query("job", JobRow._make)
NEWEST_SEQ: Final = Query("newest_seq", NewestRow._make)
ATTEMPTS: Final = Query("attempts", AttemptRow._make)
HISTORY_LENGTH: Final = Query("history_length", HistoryLengthRow._make)
LOG: Final = Query("log", LogRow._make)
RECENT_FAILURES: Final = Query("recent_failures", FailureRow._make)

# ---- events

RECORD: Final = Query("record", IdRow._make)
NEWEST_EVENT: Final = Query("newest_event", NewestRow._make)
EVENTS: Final = Query("events", EventRow._make)
EVENTS_BETWEEN: Final = Query("events_between", FleetEventRow._make)
EVENT_TIME: Final = Query("event_time", ValueRow._make)
EVENTS_OF_JOB: Final = Query("events_of_job", FleetEventRow._make)

# ---- the manifest


class NamedJobRow(NamedTuple):
    """A job of the queue and the terms it is on."""

    seq: int
    id: str
    model: str
    mode: str
    status: Status
    requirement: int
    over_vram_gib: float
    over_ram_gib: float
    priority: int
    position: int
    timeout_s: int
    max_attempts: int
    attempts_used: int
    named: int
    name: str | None
    tags: str


class InForceJobRow(NamedTuple):
    """A job that the manifest in force names."""

    seq: int
    id: str
    model: str
    mode: str
    status: Status


class ManifestRow(NamedTuple):
    """A manifest that came in force."""

    id: int
    digest: str
    at: str
    actor: str
    how: str
    jobs: int


class ManifestTextRow(NamedTuple):
    """The text of a manifest, compressed with zlib."""

    body: bytes


class NumberedJobRow(NamedTuple):
    """A job by its number."""

    seq: int
    status: Status


JOBS_NAMED: Final = Query("jobs_named", NamedJobRow._make)
COUNT_UNNAMED: Final = Query("count_unnamed", JobCountRow._make)
JOBS_IN_FORCE: Final = Query("jobs_in_force", InForceJobRow._make)
JOBS_NUMBERED: Final = Query("jobs_numbered", NumberedJobRow._make)
MANIFESTS: Final = Query("manifests", ManifestRow._make)
MANIFEST_TEXT: Final = Query("manifest_text", ManifestTextRow._make)

# ---- what must hold between rows


class SpecRow(NamedTuple):
    """What the identity of a job is made of."""

    seq: int
    id: str
    spec: str
    model: str
    mode: str


class BrokenRow(NamedTuple):
    """A job that breaks a rule, and what was found, for people."""

    id: str
    found: str


SPECS: Final = Query("specs", SpecRow._make)
BROKEN_LEASES: Final = Query("broken_leases", BrokenRow._make)
OPEN_ATTEMPTS: Final = Query("open_attempts", BrokenRow._make)
BROKEN_RESULTS: Final = Query("broken_results", BrokenRow._make)
BROKEN_FENCES: Final = Query("broken_fences", BrokenRow._make)
BROKEN_REFUNDS: Final = Query("broken_refunds", BrokenRow._make)
BROKEN_HISTORY: Final = Query("broken_history", BrokenRow._make)
BROKEN_CHAINS: Final = Query("broken_chains", BrokenRow._make)
RESULTS_WITHOUT_ARTIFACT: Final = Query("results_without_artifact", BrokenRow._make)
