"""What is only read: jobs, workers, health, metrics, the description of the API, the worker's single file."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from training.fleet.api.exchange import Answer, Request, answer
from training.fleet.api.fleet import Fleet
from training.fleet.errors import FleetError, InvalidMessageError
from training.fleet.queue import Filters
from training.fleet.single_file import NAME, own_single_file
from training.fleet.wire import Health, WorkerView

DEFAULT_PAGE: Final = 100
MAX_FAILURES: Final = 10
WORKER: Final = re.compile(r"[0-9a-z][0-9a-z._-]{0,62}")
METRICS: Final = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
NO_CACHE: Final = (b"cache-control", b"no-cache")
ZIP: Final = (b"content-type", b"application/zip")
SAVE_AS: Final = (b"content-disposition", f'attachment; filename="{NAME}"'.encode())


async def jobs(fleet: Fleet, request: Request) -> Answer:
    """One page of jobs."""
    query = request.query
    limit, statuses, extras = limit_of(query), _words(query.get("status")), _words(query.get("with"))
    tag = _tag(fleet)
    if _unchanged(request, tag):
        return Answer(304, headers=[(b"etag", tag), NO_CACHE])
    names = (query.get("model"), query.get("mode"), query.get("host"))
    wanted = Filters(statuses, *names, query.get("id_prefix", ""), with_spec="spec" in extras)
    page = await fleet.run(lambda tx: fleet.queue.jobs(tx, wanted, query.get("cursor"), limit))
    return answer(page, headers=[(b"etag", tag), NO_CACHE])


async def job(fleet: Fleet, request: Request) -> Answer:
    """Everything about one job."""
    job_id = request.target
    return answer(await fleet.run(lambda tx: fleet.queue.job(tx, job_id)))


async def why(fleet: Fleet, request: Request) -> Answer:
    """Why a job waits, host by host."""
    job_id = request.target
    return answer(await fleet.run(lambda tx: fleet.queue.why(tx, job_id)))


async def workers(fleet: Fleet, request: Request) -> Answer:
    """One page of workers."""
    query = request.query
    page = fleet.queue.workers(cursor=query.get("cursor"), limit=limit_of(query))
    found = answer(replace(page, workers=[_with_alerts(fleet, worker) for worker in page.workers]))
    tag = b'"' + hashlib.sha256(found.body).hexdigest()[:32].encode() + b'"'
    if _unchanged(request, tag):
        return Answer(304, headers=[(b"etag", tag), NO_CACHE])
    found.headers += [(b"etag", tag), NO_CACHE]
    return found


def _with_alerts(fleet: Fleet, worker: WorkerView) -> WorkerView:
    alerts = _alerts(fleet, worker.name)
    return replace(worker, alerts=[*alerts, *worker.alerts]) if alerts else worker


def _alerts(fleet: Fleet, worker: str) -> list[str]:
    if fleet.sessions.clashed_s(worker) is None:
        return []
    return ["another machine shows the identity of this worker; `cis490-jobs events` has where from"]


async def own(fleet: Fleet, request: Request) -> Answer:
    """What the receiver knows and thinks of the worker that asks."""
    name = request.caller.name or request.query.get("worker", "")
    if not name:
        raise InvalidMessageError("the query names no worker", expected="the name of the host that asks")
    found = await fleet.run(lambda tx: fleet.queue.own(tx, name, fleet.version))
    return answer(replace(found, alerts=_alerts(fleet, name)), headers=[NO_CACHE])


async def health(fleet: Fleet, _request: Request) -> Answer:
    """The fleet at a glance."""
    return answer(_with_clashes(fleet, await _health(fleet)), headers=[NO_CACHE])


def _with_clashes(fleet: Fleet, health: Health) -> Health:
    """Return the health with identities that two machines use; the receiver serves all the same, and is ready."""
    found = [
        f"another machine shows the identity of worker {worker}; unless that host was just moved or started again, "
        f"`cis490-jobs worker revoke {worker}` takes it back; `cis490-jobs events --worker {worker}` says where from"
        for worker in fleet.sessions.clashed()
    ]
    if not found:
        return health
    status = "degraded" if health.status == "ok" else health.status
    return replace(health, status=status, problems=[*health.problems, *found])


async def healthz(_fleet: Fleet, _request: Request) -> Answer:
    """The process is alive; nothing else is looked at."""
    return answer({"status": "ok"}, headers=[NO_CACHE])


async def readyz(fleet: Fleet, request: Request) -> Answer:
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
    return answer(state, 503 if problems else 200, [NO_CACHE])


def _may_read(fleet: Fleet, request: Request) -> bool:
    headers = request.headers
    try:
        fleet.credentials.demand("read", headers.get(b"authorization"), headers.get(b"x-operator-token"))
    except FleetError:
        return False
    return True


async def openapi(fleet: Fleet, _request: Request) -> Answer:
    """This interface as an OpenAPI 3.1 document."""
    return answer(fleet.description())


async def single_file(_fleet: Fleet, request: Request) -> Answer:
    """The worker of this receiver's version as one file; its ETag is the SHA-256 of the bytes."""
    found = await asyncio.to_thread(own_single_file)
    tag = b'"' + found.sha256.encode() + b'"'
    if _unchanged(request, tag):
        return Answer(304, headers=[(b"etag", tag), NO_CACHE])
    return Answer(200, found.data, [ZIP, SAVE_AS, (b"etag", tag), NO_CACHE])


async def metrics(fleet: Fleet, _request: Request) -> Answer:
    """The figures of the fleet in the text form that Prometheus reads.

    Source: Prometheus, exposition formats, version 0.0.4.
    """
    found = _with_clashes(fleet, await _health(fleet))
    figures: tuple[tuple[str, str, Mapping[str, float]], ...] = (
        ("jobs", "Jobs by status.", {f'{{status="{name}"}}': count for name, count in found.counts.items()}),
        ("workers", "Workers by state.", {f'{{state="{name}"}}': count for name, count in found.workers.items()}),
        ("parked_claims", "Claims that wait for a job.", {"": len(fleet.lot)}),
        ("artifacts", "Artifacts in the store.", {"": found.storage["artifacts"]}),
        ("artifacts_bytes", "Size of the artifacts in the store.", {"": found.storage["bytes"]}),
        ("store_free_bytes", "Room left for uploads.", {"": found.storage["free_bytes"]}),
        ("uptime_seconds", "Time since the receiver started.", {"": round(found.uptime_s)}),
        ("problems", "Things that are wrong now.", {"": len(found.problems)}),
    )
    lines: list[str] = []
    for name, note, samples in figures:
        lines += [f"# HELP cis490_{name} {note}", f"# TYPE cis490_{name} gauge"]
        lines += [f"cis490_{name}{label} {value}" for label, value in samples.items()]
    return Answer(200, ("\n".join(lines) + "\n").encode(), [METRICS, NO_CACHE])


async def _problems(fleet: Fleet) -> list[str]:
    """Return what is wrong now, for people."""
    disks = await asyncio.get_running_loop().run_in_executor(None, fleet.disks.problems)
    broken = [fleet.store.broken] if fleet.store.broken else []
    return [*fleet.loader.problems, *broken, *disks, *fleet.keeper.problems(), *fleet.problems]


async def _health(fleet: Fleet) -> Health:
    queue, loader = fleet.queue, fleet.loader
    free_bytes = await asyncio.get_running_loop().run_in_executor(None, fleet.store.free_bytes)
    failures, (artifacts, size_bytes) = await fleet.run(
        lambda tx: (queue.recent_failures(tx, MAX_FAILURES), queue.artifact_totals(tx))
    )
    in_force = queue.hosts.in_force
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
            "faults": [str(fault) for fault in loader.faults],
        },
        storage={"artifacts": artifacts, "bytes": size_bytes, "free_bytes": free_bytes},
        failures=failures,
        problems=problems,
    )


def limit_of(query: Mapping[str, str]) -> int:
    """Return how many items a page may hold."""
    return int(query.get("limit", DEFAULT_PAGE))


def _words(text: str | None) -> frozenset[str]:
    return frozenset() if text is None else frozenset(text.split(","))


def _tag(fleet: Fleet) -> bytes:
    """Return the ETag of lists now: it changes whenever a list could."""
    return b'"%x"' % fleet.queue.revision


def _unchanged(request: Request, tag: bytes) -> bool:
    given = request.headers.get(b"if-none-match", b"")
    return given.strip() == b"*" or tag in [item.strip().removeprefix(b"W/") for item in given.split(b",")]
