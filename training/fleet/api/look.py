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
from training.fleet.errors import InvalidMessageError
from training.fleet.jobs import MODES, STATUSES
from training.fleet.queue import Filters
from training.fleet.single_file import NAME, own_single_file
from training.fleet.wire import MAX_PAGE, Health, WorkerView

DEFAULT_PAGE: Final = 100
MAX_FAILURES: Final = 10
PAGE_KEYS: Final = frozenset({"limit", "cursor"})
JOB_KEYS: Final = PAGE_KEYS | {"status", "model", "mode", "host", "id_prefix", "with"}
WORKER: Final = re.compile(r"[0-9a-z][0-9a-z._-]{0,62}")
PREFIX: Final = re.compile(r"[0-9a-f]{1,64}")
NO_KEYS: Final[frozenset[str]] = frozenset()
METRICS: Final = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
NO_CACHE: Final = (b"cache-control", b"no-cache")
ZIP: Final = (b"content-type", b"application/zip")
SAVE_AS: Final = (b"content-disposition", f'attachment; filename="{NAME}"'.encode())


async def jobs(fleet: Fleet, request: Request) -> Answer:
    """One page of jobs."""
    query = request.query(JOB_KEYS)
    limit = limit_of(query)
    statuses = _words(query.get("status"), STATUSES, "status")
    _demand_mode(query.get("mode"))
    extras = _words(query.get("with"), ("spec",), "with")
    _demand_prefix(query.get("id_prefix"))
    tag = _tag(fleet)
    if _unchanged(request, tag):
        return Answer(304, headers=[(b"etag", tag), NO_CACHE])
    names = (query.get("model"), query.get("mode"), query.get("host"))
    wanted = Filters(statuses, *names, query.get("id_prefix", ""), with_spec="spec" in extras)
    page = await fleet.run(lambda tx: fleet.queue.jobs(tx, wanted, query.get("cursor"), limit))
    return answer(page, headers=[(b"etag", tag), NO_CACHE])


async def job(fleet: Fleet, request: Request) -> Answer:
    """Everything about one job."""
    request.query(NO_KEYS)
    job_id = request.target
    return answer(await fleet.run(lambda tx: fleet.queue.job(tx, job_id)))


async def why(fleet: Fleet, request: Request) -> Answer:
    """Why a job waits, host by host."""
    request.query(NO_KEYS)
    job_id = request.target
    return answer(await fleet.run(lambda tx: fleet.queue.why(tx, job_id)))


async def workers(fleet: Fleet, request: Request) -> Answer:
    """One page of workers."""
    query = request.query(PAGE_KEYS)
    limit = limit_of(query)
    page = fleet.queue.workers(cursor=query.get("cursor"), limit=limit)
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
    query = request.query(frozenset({"worker"}))
    name = request.caller.name or query.get("worker", "")
    if not WORKER.fullmatch(name):
        raise InvalidMessageError(f"worker is {ascii(name)[:80]}; expected the name of the host that asks")
    found = await fleet.run(lambda tx: fleet.queue.own(tx, name, fleet.version))
    return answer(replace(found, alerts=_alerts(fleet, name)), headers=[NO_CACHE])


async def health(fleet: Fleet, request: Request) -> Answer:
    """The fleet at a glance."""
    request.query(NO_KEYS)
    return answer(await _health(fleet), headers=[NO_CACHE])


async def healthz(_fleet: Fleet, _request: Request) -> Answer:
    """The process is alive; nothing else is looked at."""
    return answer({"status": "ok"}, headers=[NO_CACHE])


async def readyz(fleet: Fleet, _request: Request) -> Answer:
    """The receiver can serve: 503 with the reasons when it cannot."""
    problems = (await _health(fleet)).problems + (["the receiver is shutting down"] if fleet.draining else [])
    state = {"status": "not ready" if problems else "ready", "problems": problems}
    return answer(state, 503 if problems else 200, [NO_CACHE])


async def openapi(fleet: Fleet, _request: Request) -> Answer:
    """This interface as an OpenAPI 3.1 document."""
    return answer(fleet.description())


async def single_file(_fleet: Fleet, request: Request) -> Answer:
    """The worker of this receiver's version as one file; its ETag is the SHA-256 of the bytes."""
    request.query(NO_KEYS)
    found = await asyncio.to_thread(own_single_file)
    tag = b'"' + found.sha256.encode() + b'"'
    if _unchanged(request, tag):
        return Answer(304, headers=[(b"etag", tag), NO_CACHE])
    return Answer(200, found.data, [ZIP, SAVE_AS, (b"etag", tag), NO_CACHE])


async def metrics(fleet: Fleet, _request: Request) -> Answer:
    """The figures of the fleet in the text form that Prometheus reads.

    Source: Prometheus, exposition formats, version 0.0.4.
    """
    found = await _health(fleet)
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


async def _health(fleet: Fleet) -> Health:
    queue, loader = fleet.queue, fleet.loader
    free_bytes = await asyncio.get_running_loop().run_in_executor(None, fleet.store.free_bytes)
    failures, (artifacts, size_bytes) = await fleet.run(
        lambda tx: (queue.recent_failures(tx, MAX_FAILURES), queue.artifact_totals(tx))
    )
    in_force = queue.hosts.in_force
    broken = [fleet.store.broken] if fleet.store.broken else []
    problems = [*loader.problems, *broken, *fleet.keeper.problems(), *fleet.problems]
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
    """Return how many items a page may hold.

    Raises:
        InvalidMessageError: It is no such number.
    """
    text = query.get("limit")
    if text is None:
        return DEFAULT_PAGE
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and 1 <= int(text) <= MAX_PAGE):
        raise InvalidMessageError(f"limit is {ascii(text)[:40]}; expected a whole number from 1 to {MAX_PAGE}")
    return int(text)


def _words(text: str | None, allowed: tuple[str, ...], name: str) -> frozenset[str]:
    if text is None:
        return frozenset()
    words = frozenset(text.split(","))
    wrong = sorted(words - set(allowed))
    if wrong:
        raise InvalidMessageError(f"{name} is {ascii(wrong[0])[:40]}; expected of {', '.join(allowed)}")
    return words


def _demand_mode(text: str | None) -> None:
    if text is not None and text not in MODES:
        raise InvalidMessageError(f"mode is {ascii(text)[:40]}; expected one of {', '.join(MODES)}")


def _demand_prefix(text: str | None) -> None:
    if text is not None and not PREFIX.fullmatch(text):
        raise InvalidMessageError(f"id_prefix is {ascii(text)[:80]}; expected 1 to 64 lower-case hex digits")


def _tag(fleet: Fleet) -> bytes:
    """Return the ETag of lists now: it changes whenever a list could."""
    return b'"%x"' % fleet.queue.revision


def _unchanged(request: Request, tag: bytes) -> bool:
    given = request.headers.get(b"if-none-match", b"")
    return given.strip() == b"*" or tag in [item.strip().removeprefix(b"W/") for item in given.split(b",")]
