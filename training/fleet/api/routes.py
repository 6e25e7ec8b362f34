"""The table of routes.

Owns what can be asked, of whom, and what is answered. The application dispatches by it and the OpenAPI document is
made of it, so the two cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.responses import Response

from training.fleet.api.arrival import LOOKS
from training.fleet.api.handlers import (
    artifacts,
    enrolment,
    logins,
    manifests,
    operator,
    programs,
    read,
    uploads,
    worker,
)
from training.fleet.auth import Right, Role
from training.fleet.model.jobs import MAX_MANIFEST_BYTES, MODES, STATUSES
from training.fleet.model.parts import PART_NAME
from training.fleet.wire.identities import (
    Enrol,
    Enrolled,
    IdentityPage,
    IdentityView,
    Invite,
    InviteOrder,
    LoggedIn,
    Login,
    Material,
    NewSecret,
    SecretTaken,
)
from training.fleet.wire.manifests import ManifestList
from training.fleet.wire.names import KnownNames
from training.fleet.wire.people import (
    MAX_PAGE,
    AcceptedLoss,
    BackupOrder,
    Chore,
    EventPage,
    FsckOrder,
    Health,
    JobDetail,
    JobPage,
    Plan,
    Reload,
    Why,
    WorkerPage,
)
from training.fleet.wire.pruning import PruneOrder, PrunePlan
from training.fleet.wire.worker import Beat, Claim, Complete, Fail, Heartbeat, JobState, Lease, OwnView, Stored

Handler = Callable[..., Awaitable[Response]]
"""Called with the fleet, the request and, where the route declares a message, the message."""
WORKER_NAME: Final = re.compile(r"[0-9a-z][0-9a-z._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Media:
    """A body that is no message.

    Attributes:
        type: Its media type.
        limit_bytes: Largest size of a request's body, None where the handler counts it.
        schema: What the API's description says of it.
    """

    type: str
    limit_bytes: int | None = None
    schema: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PathParameter:
    """What stands in the braces of a path.

    Attributes:
        pattern: What it must match as a whole.
        name: What it is called in a message for people.
        expected: The pattern, said to people.
        attribute: Where the request keeps it.
    """

    pattern: re.Pattern[str]
    name: str
    expected: str
    attribute: str = "target"


_DIGEST = PathParameter(re.compile("[0-9a-f]{64}"), "id", "64 lower-case hex digits")
PARAMETERS: Final[Mapping[str, PathParameter]] = {
    "id": _DIGEST,
    "sha256": _DIGEST,
    "digest": PathParameter(re.compile("[0-9a-f]{64}"), "digest of a manifest", "64 lower-case hex digits"),
    "name": PathParameter(WORKER_NAME, "name of a worker", "a host name"),
    "file": PathParameter(
        re.compile(PART_NAME),
        "name of a card, a figure or metrics",
        "a name that ends in .md, .svg, .png or .json",
        "file",
    ),
}


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that can be asked.

    Attributes:
        method: HTTP method.
        path: Path; what may stand in its braces is said by `PARAMETERS`.
        role: Who may ask.
        handler: What answers; the first line of its docstring is the summary.
        body: Message in the body, a media type for bytes, None for an empty body.
        response: Message or media type of a 200 answer, None for any JSON object.
        statuses: The statuses besides 200 that belong to this route, with what they mean.
        query: Query parameters, with what they mean and the schema that their values are judged by.
        headers: Request headers, with what they mean, and the pattern of those that must be there.
        right: What an operator must be allowed to do; a route for operators does not exist without one.
        optional: The body may be left out: each field of the message has a default.
        problems: Statuses of 400 and above are answered with problem documents.

    Raises:
        ValueError: A route for operators names no right, or another route names one.
    """

    method: str
    path: str
    role: Role
    handler: Handler
    body: type[Any] | Media | None = None
    response: type[Any] | Media | None = None
    statuses: tuple[tuple[int, str], ...] = ()
    query: tuple[tuple[str, str, Mapping[str, Any]], ...] = ()
    headers: tuple[tuple[str, str, str | None], ...] = ()
    right: Right | None = None
    optional: bool = False
    problems: bool = True

    def __post_init__(self) -> None:
        """Refuse a row that would let the wrong people in."""
        if (self.role == "operator") != (self.right is not None):
            raise ValueError(f"{self.method} {self.path} is for {self.role} and names the right {self.right}")

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return (self.handler.__doc__ or "").partition("\n")[0]

    @property
    def changes(self) -> bool:
        """Return True if a request can change something; then it may carry a body."""
        return self.method not in LOOKS

    @property
    def parameters(self) -> list[tuple[str, PathParameter]]:
        """What stands in the braces of the path, with its name."""
        return [(name, PARAMETERS[name]) for name in _BRACES.findall(self.path)]


def _words(allowed: tuple[str, ...]) -> Mapping[str, Any]:
    return {"type": "array", "minItems": 1, "items": {"enum": list(allowed)}}


_BRACES = re.compile(r"\{([a-z0-9]+)\}")
_JOB = (404, "no such job")
_NAMED = (404, "no such worker ever enrolled")
_STALE = (409, "`stale_lease`: the lease is not the newest one")
_UNASKED = (409, "`wrong_state`: nobody asked for a new key; `identity_in_use`: another machine uses the identity")
_STATE = (409, "`wrong_state`: the job's status does not allow it")
_CHORE = (409, "`wrong_state`: a backup, a check or a prune runs already")
_SHRINK = (409, "`would_shrink`: it declares fewer jobs than the one in force and `allow_shrink` is not set")
_BUNDLE = Media("application/zstd")
_PART = Media("application/octet-stream")
_PART_OUT = Media("*/*")
_RANGE = (206, "the range that was asked for")
_PRUNED = (410, "`artifact_pruned`: its files were removed on purpose")
_BEYOND = (416, "`range_beyond`: the file ends before the range begins")
_DOWNLOAD = (
    (
        "Range",
        "`bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-LAST_N`; of several, the whole file is sent",
        None,
    ),
    ("If-Range", "the ETag of the part that is here already: another file is sent whole", None),
    ("If-None-Match", "the ETag of the file that is here already", None),
)
_MANIFEST = Media("application/toml", MAX_MANIFEST_BYTES)
_TOML = Media("application/toml", schema={"type": "string"})
_ZIP = Media("application/zip", schema={"type": "string", "format": "binary"})
_PEM = Media("application/x-pem-file", schema={"type": "string"})
_PLAIN = Media("text/plain", schema={"type": "string"})
_BUSY = (503, "shutting down or overloaded; see Retry-After")
_TEXT = {"type": "string"}
_HEX64 = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "64 lower-case hex digits"}
_PREFIX = {"type": "string", "pattern": "^[0-9a-f]{1,64}$", "description": "1 to 64 lower-case hex digits"}
_HOST = {"type": "string", "pattern": f"^{WORKER_NAME.pattern}$", "description": "the name of a host"}
_LABEL = {
    "type": "string",
    "pattern": "^[0-9A-Za-z][0-9A-Za-z_.+-]{0,63}$",
    "description": "at most 64 letters, digits and _ . + -",
}
_YES = {"enum": ["yes", "no"]}
_TIME = {
    "type": "string",
    "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$",
    "description": "a time in UTC such as 2026-11-30T14:00:00.000Z",
}
_PAGE = (
    (
        "limit",
        "how many at most, 1 to 500; 100 without it",
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE},
    ),
    ("cursor", "`next` of the page before", _TEXT),
)
_UNCHANGED = (304, "nothing changed since the given ETag")
_IF_STATUS = (("if_status", "statuses of which the job must have one, else nothing changes", _words(STATUSES)),)
_FILTERS = (
    ("status", "statuses with commas between them", _words(STATUSES)),
    ("model", "model name", _TEXT),
    ("mode", "`realistic` or `oracle`", {"enum": list(MODES)}),
    ("host", "host name", _TEXT),
    ("id_prefix", "first hex digits of the id", _PREFIX),
    ("name", "the jobs of this name alone: those that the manifest names, others where it names none", _LABEL),
    ("tag", "a tag of the job", _LABEL),
    ("withdrawn", "`yes`: also jobs that are withdrawn; a name or an id shows them anyway", {"enum": ["yes", "no"]}),
    ("since", "only jobs that changed then or later", _TIME),
    ("until", "only jobs that changed before", _TIME),
    (
        "with",
        "`spec`: each job with its specification, at most 100 on a page; `hyper`: with its hyper-parameters; "
        "`reason`: with why it waits",
        _words(("spec", "hyper", "reason")),
    ),
)

# The router takes the first path that fits: what workers ask all the time stands first, and a fixed path before one
# whose braces would take it as well.
ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST",
        "/v1/job/claim",
        "worker",
        worker.claim,
        Claim,
        Lease,
        (
            (204, "no job for this host now; ask again after Retry-After"),
            (403, "`host_refused`: the manifest does not admit the host"),
            (409, "the claim id was used for a lease that has ended"),
            (426, "the worker is too old"),
            _BUSY,
        ),
        headers=(("Prefer", "`wait=N`: park the call until a job appears, N seconds at most (cap 60)", None),),
    ),
    Route(
        "POST",
        "/v1/job/{id}/heartbeat",
        "worker",
        worker.heartbeat,
        Heartbeat,
        Beat,
        (_JOB, _STALE),
    ),
    Route(
        "POST",
        "/v1/job/{id}/complete",
        "worker",
        worker.complete,
        Complete,
        JobState,
        (
            _JOB,
            (409, "`stale_lease` or `other_result`: the job is not, or no longer, this worker's"),
            (412, "`artifact_missing`: upload the bundle first"),
        ),
    ),
    Route("POST", "/v1/job/{id}/fail", "worker", worker.fail, Fail, JobState, (_JOB, _STALE)),
    Route(
        "PUT",
        "/v1/model/{sha256}",
        "worker",
        uploads.upload,
        _BUNDLE,
        Stored,
        (
            (201, "stored"),
            (404, "the name is no digest"),
            (409, "`stale_lease`, `other_result` or `wrong_state`: the lease may not bring this, or not any more"),
            (411, "`Content-Length` is missing"),
            (422, "`digest_mismatch`: the bytes do not hash to the name"),
            (507, "no room; see Retry-After"),
            _BUSY,
        ),
        headers=(("X-Lease-Id", "the lease the artifact was made under", "^[0-9A-Za-z_-]{8,64}$"),),
    ),
    Route(
        "GET",
        "/v1/model/{sha256}",
        "read",
        artifacts.bundle,
        None,
        _BUNDLE,
        (
            _RANGE,
            _UNCHANGED,
            (404, "`not_found`: no such artifact; `artifact_lost`: its file is gone"),
            _PRUNED,
            _BEYOND,
        ),
        headers=_DOWNLOAD,
    ),
    Route(
        "GET",
        "/v1/model/{sha256}/file/{file}",
        "read",
        artifacts.part,
        None,
        _PART_OUT,
        (_RANGE, _UNCHANGED, (404, "`not_found`: no such file; `artifact_lost`: it is gone"), _PRUNED, _BEYOND),
        headers=_DOWNLOAD,
    ),
    Route(
        "PUT",
        "/v1/model/{sha256}/file/{file}",
        "worker",
        uploads.upload_part,
        _PART,
        Stored,
        (
            (201, "stored"),
            (404, "no such file may have this name"),
            (
                409,
                "`stale_lease`, `other_result`: it may not bring this; `wrong_state`: another file has the name",
            ),
            (411, "`Content-Length` is missing"),
            (412, "`artifact_missing`: upload the bundle first"),
            (413, "`too_large`: more than 32 files or 2 MiB beside one artifact"),
            (422, "`digest_mismatch`: the bytes do not hash to what the header says"),
            (507, "no room; see Retry-After"),
            _BUSY,
        ),
        headers=(
            ("X-Lease-Id", "the lease the artifact was made under", "^[0-9A-Za-z_-]{8,64}$"),
            ("Repr-Digest", "`sha-256=:BASE64:` of the body", "^sha-256=:[0-9A-Za-z+/]{43}=:$"),
        ),
    ),
    Route("GET", "/v1/worker.pyz", "worker", programs.worker_file, None, _ZIP, (_UNCHANGED,)),
    Route("GET", "/v1/jobs.pyz", "anyone", programs.jobs_file, None, _ZIP, (_UNCHANGED,)),
    Route(
        "GET",
        "/v1/installer.pyz",
        "anyone",
        programs.installer_file,
        None,
        _ZIP,
        (_UNCHANGED, (404, "this receiver was not installed from a checkout")),
    ),
    Route("GET", "/v1/jobs", "read", read.jobs, None, JobPage, (_UNCHANGED,), query=(*_FILTERS, *_PAGE)),
    Route("GET", "/v1/names", "read", read.names, None, KnownNames),
    Route("GET", "/v1/job/{id}", "read", read.job, None, JobDetail, (_JOB,)),
    Route("GET", "/v1/job/{id}/why", "read", read.why, None, Why, (_JOB,)),
    Route("GET", "/v1/workers", "read", read.workers, None, WorkerPage, (_UNCHANGED,), query=_PAGE),
    Route("GET", "/v1/health", "read", read.health, None, Health),
    Route(
        "POST",
        "/v1/job/{id}/cancel",
        "operator",
        operator.cancel,
        None,
        JobState,
        (_JOB, _STATE),
        query=_IF_STATUS,
        right="operate",
    ),
    Route(
        "POST",
        "/v1/job/{id}/requeue",
        "operator",
        operator.requeue,
        None,
        JobState,
        (_JOB, _STATE),
        query=_IF_STATUS,
        right="operate",
    ),
    Route(
        "POST",
        "/v1/manifest/reload",
        "operator",
        operator.reload,
        Reload,
        Plan,
        (
            _SHRINK,
            (412, "`plan_moved`: the plan is not the one the caller saw"),
            (422, "`manifest_invalid`: the file has faults, all listed; nothing was applied"),
        ),
        right="operate",
        optional=True,
    ),
    Route(
        "PUT",
        "/v1/manifest",
        "operator",
        manifests.apply,
        _MANIFEST,
        Plan,
        (
            _SHRINK,
            (412, "`plan_moved`: another manifest is in force than `If-Match` says, or the plan is another one"),
            (422, "`manifest_invalid`: it has faults, all listed, or names another trainer; nothing was applied"),
        ),
        query=(
            ("if_plan", "digest of the plan that the caller saw: permission for all that it showed", _HEX64),
            ("allow_shrink", "`yes`: it may declare fewer jobs than the one in force", _YES),
            ("keep_dropped", "`yes`: jobs that it no longer names stay claimable", _YES),
            ("how", "`rollback` for one that was in force before; for the list", {"enum": ["apply", "rollback"]}),
        ),
        headers=(
            ("If-Match", "digest of the manifest that the caller takes to be in force, in quotation marks", None),
        ),
        right="operate",
    ),
    Route(
        "POST",
        "/v1/manifest/plan",
        "operator",
        operator.plan,
        _MANIFEST,
        Plan,
        ((422, "`manifest_invalid`: the manifest has faults, all listed"),),
        right="operate",
        optional=True,
    ),
    Route("GET", "/v1/manifests", "read", manifests.manifests, None, ManifestList),
    Route(
        "GET",
        "/v1/manifest/{digest}",
        "read",
        manifests.manifest,
        None,
        _TOML,
        ((404, "no manifest with this digest is kept"),),
    ),
    Route(
        "POST",
        "/v1/backup",
        "operator",
        operator.backup,
        BackupOrder,
        Chore,
        (_CHORE,),
        right="operate",
        optional=True,
    ),
    Route(
        "POST",
        "/v1/fsck",
        "operator",
        operator.fsck,
        FsckOrder,
        Chore,
        (_CHORE,),
        right="operate",
        optional=True,
    ),
    Route(
        "POST",
        "/v1/prune/plan",
        "operator",
        operator.plan_prune,
        PruneOrder,
        PrunePlan,
        right="operate",
    ),
    Route("POST", "/v1/prune", "operator", operator.prune, PruneOrder, Chore, (_CHORE,), right="operate"),
    Route("GET", "/v1/chore", "operator", operator.chore, None, Chore, right="operate"),
    Route("POST", "/v1/invite", "operator", enrolment.invite, InviteOrder, Invite, right="enrol"),
    Route(
        "POST",
        "/v1/enrol",
        "anyone",
        enrolment.enrol,
        Enrol,
        Enrolled,
        (
            (400, "the request cannot be read"),
            (401, "`invite_refused`: the code is unknown, used up or too old"),
            (403, "the code is good for another host"),
            (413, "the body is too large"),
            (422, "the content breaks the contract, see `errors`"),
            (429, "`too_many_tries`: too many wrong codes from this address; see Retry-After"),
        ),
    ),
    Route(
        "POST",
        "/v1/login",
        "anyone",
        logins.login,
        Login,
        LoggedIn,
        (
            (400, "the request cannot be read"),
            (401, "`invite_refused`: the code is unknown, used or too old"),
            (413, "the body is too large"),
            (422, "the content breaks the contract, see `errors`"),
            (429, "`too_many_tries`: too many wrong codes from this address; see Retry-After"),
        ),
    ),
    Route(
        "GET",
        "/v1/worker/self",
        "worker",
        read.own,
        None,
        OwnView,
        query=(("worker", "the host that asks; an enrolled one is known by its secret", _HOST),),
    ),
    Route("POST", "/v1/secret", "worker", enrolment.secret, NewSecret, SecretTaken, (_UNASKED,)),
    Route(
        "POST",
        "/v1/worker/certificate",
        "worker",
        enrolment.certificate,
        None,
        Material,
        ((404, "this receiver issues no certificates"),),
    ),
    Route(
        "POST",
        "/v1/worker/{name}/revoke",
        "operator",
        enrolment.revoke,
        None,
        IdentityView,
        (_NAMED,),
        right="enrol",
    ),
    Route(
        "POST",
        "/v1/worker/{name}/rotate",
        "operator",
        enrolment.rotate,
        None,
        IdentityView,
        (_NAMED, (409, "`wrong_state`: it is revoked")),
        right="enrol",
    ),
    Route(
        "POST",
        "/v1/worker/{name}/accept",
        "operator",
        operator.accept,
        None,
        AcceptedLoss,
        ((404, "no such worker ever called"),),
        right="operate",
    ),
    Route("GET", "/v1/identities", "read", enrolment.identities, None, IdentityPage, query=_PAGE),
    Route(
        "GET",
        "/v1/events",
        "read",
        enrolment.events,
        None,
        EventPage,
        (_JOB,),
        query=(
            ("job", "only of this job: its whole id", _HEX64),
            ("worker", "only about or by this worker", _HOST),
            ("since", "only events from then on", _TIME),
            ("until", "only events before", _TIME),
            *_PAGE,
        ),
    ),
    Route("GET", "/v1/ca", "anyone", enrolment.authority, None, _PEM, ((404, "this receiver has none of its own"),)),
    Route("GET", "/openapi.json", "anyone", read.openapi),
    Route("GET", "/healthz", "anyone", read.healthz),
    Route("GET", "/readyz", "anyone", read.readyz, statuses=((503, "not ready"),), problems=False),
    Route("GET", "/metrics", "read", read.metrics, None, _PLAIN),
)
