"""The table of routes.

Owns what can be asked, of whom, and what is answered. The application dispatches by it and the OpenAPI document is
made of it, so the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from training.fleet.api import enrolment, look, operate, work
from training.fleet.api.exchange import Answer, Request
from training.fleet.api.fleet import Fleet
from training.fleet.auth import Right, Role
from training.fleet.model.jobs import MODES, STATUSES
from training.fleet.wire.identities import (
    Enrol,
    Enrolled,
    IdentityPage,
    IdentityView,
    Invite,
    InviteOrder,
    Material,
    NewSecret,
    SecretTaken,
)
from training.fleet.wire.people import (
    MAX_PAGE,
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
from training.fleet.wire.worker import Beat, Claim, Complete, Fail, Heartbeat, JobState, Lease, OwnView, Stored

Handler = Callable[[Fleet, Request], Awaitable[Answer]]
Body = type[Any] | Literal["bundle", "manifest"] | None


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that can be asked.

    Attributes:
        method: HTTP method.
        path: Path; `{id}` or `{sha256}` stands for 64 hex digits, `{name}` for the name of a worker.
        role: Who may ask.
        handler: What answers; the first line of its docstring is the summary.
        request: Message in the body, "bundle" or "manifest" for bytes, None for an empty body.
        response: Message in a 200 answer.
        statuses: The statuses besides 200 that belong to this route, with what they mean.
        query: Query parameters, with what they mean and the schema that their values are judged by.
        headers: Request headers, with what they mean, and the pattern of those that must be there.
        right: What an operator must be allowed to do, where the route asks for one.
    """

    method: str
    path: str
    role: Role
    handler: Handler
    request: Body = None
    response: Any = None
    statuses: tuple[tuple[int, str], ...] = ()
    query: tuple[tuple[str, str, Mapping[str, Any]], ...] = ()
    headers: tuple[tuple[str, str, str | None], ...] = ()
    right: Right = "operate"

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return (self.handler.__doc__ or "").partition("\n")[0]


def _words(allowed: tuple[str, ...]) -> Mapping[str, Any]:
    return {"type": "array", "minItems": 1, "items": {"enum": list(allowed)}}


_JOB = (404, "no such job")
_NAMED = (404, "no such worker ever enrolled")
_STALE = (409, "`stale_lease`: the lease is not the newest one")
_UNASKED = (409, "`wrong_state`: nobody asked for a new key; `identity_in_use`: another machine uses the identity")
_STATE = (409, "`wrong_state`: the job's status does not allow it")
_CHORE = (409, "`wrong_state`: a backup or a check runs already")
_BUSY = (503, "shutting down or overloaded; see Retry-After")
_TEXT = {"type": "string"}
_HEX64 = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "64 lower-case hex digits"}
_PREFIX = {"type": "string", "pattern": "^[0-9a-f]{1,64}$", "description": "1 to 64 lower-case hex digits"}
_HOST = {"type": "string", "pattern": f"^{look.WORKER.pattern}$", "description": "the name of a host"}
_PAGE = (
    (
        "limit",
        "how many at most, 1 to 500; 100 without it",
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE},
    ),
    ("cursor", "`next` of the page before", _TEXT),
)
_UNCHANGED = (304, "nothing changed since the given ETag")
_FILTERS = (
    ("status", "statuses with commas between them", _words(STATUSES)),
    ("model", "model name", _TEXT),
    ("mode", "`realistic` or `oracle`", {"enum": list(MODES)}),
    ("host", "host name", _TEXT),
    ("id_prefix", "first hex digits of the id", _PREFIX),
    ("with", "`spec`: each job with its specification, at most 100 on a page", _words(("spec",))),
)

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST",
        "/v1/job/claim",
        "worker",
        work.claim,
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
        work.heartbeat,
        Heartbeat,
        Beat,
        (_JOB, _STALE),
    ),
    Route(
        "POST",
        "/v1/job/{id}/complete",
        "worker",
        work.complete,
        Complete,
        JobState,
        (
            _JOB,
            (409, "`stale_lease` or `other_result`: the job is not, or no longer, this worker's"),
            (412, "`artifact_missing`: upload the bundle first"),
        ),
    ),
    Route("POST", "/v1/job/{id}/fail", "worker", work.fail, Fail, JobState, (_JOB, _STALE)),
    Route(
        "PUT",
        "/v1/model/{sha256}",
        "worker",
        work.upload,
        "bundle",
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
    Route("GET", "/v1/worker.pyz", "worker", look.single_file, statuses=(_UNCHANGED,)),
    Route("GET", "/v1/jobs", "read", look.jobs, None, JobPage, (_UNCHANGED,), query=(*_FILTERS, *_PAGE)),
    Route("GET", "/v1/job/{id}", "read", look.job, None, JobDetail, (_JOB,)),
    Route("GET", "/v1/job/{id}/why", "read", look.why, None, Why, (_JOB,)),
    Route("GET", "/v1/workers", "read", look.workers, None, WorkerPage, (_UNCHANGED,), query=_PAGE),
    Route("GET", "/v1/health", "read", look.health, None, Health),
    Route("POST", "/v1/job/{id}/cancel", "operator", operate.cancel, None, JobState, (_JOB, _STATE)),
    Route("POST", "/v1/job/{id}/requeue", "operator", operate.requeue, None, JobState, (_JOB, _STATE)),
    Route(
        "POST",
        "/v1/manifest/reload",
        "operator",
        operate.reload,
        Reload,
        Plan,
        (
            (409, "`would_shrink`: it would drop jobs and `allow_shrink` is not set"),
            (412, "`plan_moved`: the plan is not the one the caller saw"),
            (422, "`manifest_invalid`: the file has faults, all listed; nothing was applied"),
        ),
    ),
    Route(
        "POST",
        "/v1/manifest/plan",
        "operator",
        operate.plan,
        "manifest",
        Plan,
        ((422, "`manifest_invalid`: the manifest has faults, all listed"),),
    ),
    Route("POST", "/v1/backup", "operator", operate.backup, BackupOrder, Chore, (_CHORE,)),
    Route("POST", "/v1/fsck", "operator", operate.fsck, FsckOrder, Chore, (_CHORE,)),
    Route("GET", "/v1/chore", "operator", operate.chore, None, Chore),
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
        "GET",
        "/v1/worker/self",
        "worker",
        look.own,
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
            *_PAGE,
        ),
    ),
    Route("GET", "/v1/ca", "anyone", enrolment.authority, statuses=((404, "this receiver has none of its own"),)),
    Route("GET", "/openapi.json", "anyone", look.openapi),
    Route("GET", "/healthz", "anyone", look.healthz),
    Route("GET", "/readyz", "anyone", look.readyz, statuses=((503, "not ready"),)),
    Route("GET", "/metrics", "read", look.metrics),
)
