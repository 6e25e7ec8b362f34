"""What is only read: jobs, workers, health, metrics, the description of the API, the worker's single file."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from starlette.responses import Response

from training.fleet.api.answers import Json
from training.fleet.api.fleet import Fleet
from training.fleet.api.metrics import CONTENT_TYPE, MAX_HOSTS, Figures
from training.fleet.api.queries import words
from training.fleet.api.request import Request
from training.fleet.model.errors import FleetError, InvalidMessageError
from training.fleet.queue import Filters
from training.fleet.wire.people import Health, WorkerView

DEFAULT_PAGE: Final = 100
MAX_FAILURES: Final = 10
NO_CACHE: Final = {"cache-control": "no-cache"}


async def jobs(fleet: Fleet, request: Request) -> Response:
    """One page of jobs."""
    query = request.query
    limit, cursor = limit_of(query), query.get("cursor")
    tag = _tag(fleet)
    if is_unchanged(request, tag):
        return Response(status_code=304, headers={"etag": tag, **NO_CACHE})
    wanted = Filters(
        statuses=words(query.get("status")),
        id_prefix=query.get("id_prefix", ""),
        withdrawn=query.get("withdrawn") == "yes",
        extras=words(query.get("with")),
        **{name: query.get(name) for name in ("model", "mode", "host", "tag", "name", "since", "until")},
    )
    page = await fleet.run(lambda tx: fleet.queue.jobs(tx, wanted, cursor, limit))
    return Json(page, headers={"etag": tag, **NO_CACHE})


async def names(fleet: Fleet, _request: Request) -> Response:
    """What the filters of lists can name: hosts, models, datasets, tags."""
    return Json(await fleet.run(fleet.queue.names), headers=NO_CACHE)


async def job(fleet: Fleet, request: Request) -> Response:
    """Everything about one job."""
    job_id = request.target
    return Json(await fleet.run(lambda tx: fleet.queue.job(tx, job_id)))


async def why(fleet: Fleet, request: Request) -> Response:
    """Why a job waits, host by host."""
    job_id = request.target
    return Json(await fleet.run(lambda tx: fleet.queue.why(tx, job_id)))


async def workers(fleet: Fleet, request: Request) -> Response:
    """One page of workers."""
    query = request.query
    page = fleet.queue.workers(cursor=query.get("cursor"), limit=limit_of(query))
    found = Json(replace(page, workers=[_with_alerts(fleet, worker) for worker in page.workers]), headers=NO_CACHE)
    tag = f'"{hashlib.sha256(found.body).hexdigest()[:32]}"'
    if is_unchanged(request, tag):
        return Response(status_code=304, headers={"etag": tag, **NO_CACHE})
    found.headers["etag"] = tag
    return found


def _with_alerts(fleet: Fleet, worker: WorkerView) -> WorkerView:
    alerts = _alerts(fleet, worker.name)
    return replace(worker, alerts=[*alerts, *worker.alerts]) if alerts else worker


def _alerts(fleet: Fleet, worker: str) -> list[str]:
    if fleet.sessions.clashed_s(worker) is None:
        return []
    return ["another machine shows the identity of this worker; `cis490-jobs events` has where from"]


async def own(fleet: Fleet, request: Request) -> Response:
    """What the receiver knows and thinks of the worker that asks."""
    name = request.caller.name or request.query.get("worker", "")
    if not name:
        raise InvalidMessageError("the query names no worker", expected="the name of the host that asks")
    found = await fleet.run(lambda tx: fleet.queue.own(tx, name, fleet.version))
    return Json(replace(found, alerts=_alerts(fleet, name)), headers=NO_CACHE)


async def health(fleet: Fleet, _request: Request) -> Response:
    """The fleet at a glance."""
    return Json(_with_hosts(fleet, await _health(fleet)), headers=NO_CACHE)


def _with_hosts(fleet: Fleet, health: Health) -> Health:
    """Return the health with what is wrong with hosts; the receiver serves all the same, and is ready."""
    found = [
        f"another machine shows the identity of worker {worker}; unless that host was just moved or started again, "
        f"`cis490-jobs identity revoke {worker}` takes it back; `cis490-jobs events --worker {worker}` says where from"
        for worker in fleet.sessions.clashed()
    ]
    found += [
        f"host {worker} fails everything: {jobs} jobs in a row failed there, and others take them; `cis490-jobs events "
        f"--worker {worker}` says why; it gets one job to try now and then, and all again after its first result"
        for worker, jobs in fleet.queue.suspects().items()
    ]
    found += fleet.queue.losses.lines()
    if not found:
        return health
    status = "degraded" if health.status == "ok" else health.status
    return replace(health, status=status, problems=[*health.problems, *found])


async def healthz(_fleet: Fleet, _request: Request) -> Response:
    """The process is alive; nothing else is looked at."""
    return Json({"status": "ok"}, headers=NO_CACHE)


async def readyz(fleet: Fleet, request: Request) -> Response:
    """The receiver can serve: 503 when it cannot, with the reasons for who may read."""
    problems = await _problems(fleet)
    try:
        await fleet.run(lambda _tx: None)
    except FleetError as error:
        problems.append(error.message)
    if fleet.draining:
        problems.append("the receiver is shutting down")
    state: dict[str, object] = {"status": "not ready" if problems else "ready"}
    if _may_read(fleet, request):
        state["problems"] = problems
    return Json(state, 503 if problems else 200, NO_CACHE)


def _may_read(fleet: Fleet, request: Request) -> bool:
    head = request.head
    try:
        fleet.access.credentials.demand("read", head.get(b"authorization"), head.get(b"x-operator-token"))
    except FleetError:
        return False
    return True


async def openapi(fleet: Fleet, _request: Request) -> Response:
    """This interface as an OpenAPI 3.1 document."""
    return Json(fleet.description())


async def metrics(fleet: Fleet, _request: Request) -> Response:
    """The figures of the fleet in the text form that Prometheus reads."""
    figures = Figures(_with_hosts(fleet, await _health(fleet)), len(fleet.lot), fleet.queue.last_seen(limit=MAX_HOSTS))
    return Response(fleet.meters.text(figures), headers=NO_CACHE, media_type=CONTENT_TYPE)


async def _problems(fleet: Fleet) -> list[str]:
    """Return what is wrong now, for people."""
    disks = await asyncio.get_running_loop().run_in_executor(None, fleet.disks.problems)
    free_bytes = await asyncio.get_running_loop().run_in_executor(None, fleet.store.free_bytes)
    broken = [fleet.store.broken] if fleet.store.broken else []
    full = fleet.refusals.problems(free_bytes)
    return [*fleet.loader.problems, *broken, *disks, *full, *fleet.keeper.problems(), *fleet.access.problems]


async def _health(fleet: Fleet) -> Health:
    queue, loader = fleet.queue, fleet.loader
    free_bytes = await asyncio.get_running_loop().run_in_executor(None, fleet.store.free_bytes)
    failures, (artifacts, size_bytes), stranded, withdrawn = await fleet.run(
        lambda tx: (
            queue.recent_failures(tx, MAX_FAILURES),
            queue.artifacts.totals(tx),
            queue.stranded(tx),
            queue.withdrawn(tx),
        )
    )
    in_force = queue.in_force
    problems = await _problems(fleet)
    return Health(
        status="draining" if fleet.draining else "degraded" if problems else "ok",
        version=fleet.version,
        uptime_s=round(time.monotonic() - fleet.started_at, 3),
        counts=queue.counts(),
        workers=queue.worker_counts(),
        manifest={
            "digest": in_force.digest,
            "jobs": in_force.count,
            "applied_at": in_force.applied_at,
            "actor": in_force.actor,
            "how": in_force.how,
            "faults": [str(fault) for fault in loader.faults],
        },
        storage={
            "artifacts": artifacts,
            "bytes": size_bytes,
            "free_bytes": free_bytes,
            "floor_bytes": fleet.disks.floor_bytes,
        },
        failures=failures,
        problems=problems,
        withdrawn=withdrawn,
        stranded=stranded,
    )


def limit_of(query: Mapping[str, str]) -> int:
    """Return how many items a page may hold."""
    return int(query.get("limit", DEFAULT_PAGE))


def _tag(fleet: Fleet) -> str:
    """Return the ETag of lists now: it changes whenever a list could."""
    return f'"{fleet.queue.revision:x}"'


def is_unchanged(request: Request, tag: str) -> bool:
    """Return True if the caller has the version with this tag."""
    given = request.headers.get("if-none-match", "")
    return given.strip() == "*" or tag in [item.strip().removeprefix("W/") for item in given.split(",")]
