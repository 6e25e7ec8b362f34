"""How the length of the queue shows: in a claim, and in a start."""

from __future__ import annotations

import hashlib
import secrets
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure
from bench.load import capability
from bench.stage import manifest, receiver
from training.fleet.database import Transaction
from training.fleet.database.sqlite import Sqlite
from training.fleet.manifest import Header, JobEntry
from training.fleet.model.capability import Capability
from training.fleet.model.jobs import Limits, Policy, Requirement, Spec, Terms, Trainer, canonical
from training.fleet.queue import Queue, apply
from training.fleet.wire.worker import Claim, Fail
from training.trainer.hyper import contract_digest, describe

WORKER = "bench-0"
FIT = 100
"""One job in this many is for the caller."""


def depth(folder: Path, quick: bool) -> list[Figure]:
    """Claim from queues of three lengths, then start the receiver on the longest."""
    sizes = (1000, 2000, 5000) if quick else (1000, 100_000, 1_000_000)
    text = manifest(1)
    claims: list[float] = []
    figures = []
    for size in sizes:
        path = folder / f"receiver-{size}" / "queue.db"
        path.parent.mkdir()
        classes = min(1000, size // 10)
        _fill(path, size, classes, hashlib.sha256(text.encode()).hexdigest())
        found = _claims(path, 50 if quick else 500)
        claims.append(statistics.median(found) * 1e6)
        worst = max(found) * 1e6
        note = f"{classes} classes, worst {worst:.0f} µs"
        figures.append(Figure("depth", f"claim in the queue, {size:,} pending, p50", claims[-1], "µs", note=note))
    figures += [
        Figure("depth", "longest against shortest queue", claims[-1] / claims[0], "x", 1.5, 1.2),
        Figure("depth", "slowest p50 in the queue", max(claims), "µs", 1000, 100),
    ]
    for file in ("first", "second"):
        begun = time.perf_counter()
        with receiver(folder / f"receiver-{sizes[-1]}", text) as real:
            took = time.perf_counter() - begun
            rss = real.rss_mib()
        note = f"{rss:.0f} MiB, {file} start"
        figures.append(Figure("start", f"process to first answer, {sizes[-1]:,} jobs", took, "s", 1, 0.3, note=note))
    return figures


def _fill(path: Path, size: int, classes: int, digest: str) -> None:
    """Make a queue with a number of pending jobs."""
    database, queue = Sqlite.open(path), Queue()
    apply.CHUNK = 10_000  # type: ignore[misc]  # nobody claims meanwhile, so filling may go in large steps
    try:
        database.submit(queue.start).result()
        header = Header(digest, {"default": Policy(slots=64)}, Trainer(), {}, (), contract_digest(describe()), size)
        apply.reload(database, queue, header, _entries(size, classes))
    finally:
        database.close()


def _claims(path: Path, rounds: int) -> list[float]:
    """Return how long each of some claims takes on the writer thread, without the commit."""
    # Each job is given back at once, and its host is to get the next one without a wait.
    database, queue = Sqlite.open(path), Queue(terms=Terms(backoff_s=0.0))
    host = Capability(**{**capability(WORKER), "gpus": ()})
    try:
        database.submit(queue.start).result()
        return [database.submit(lambda tx: _claim(tx, queue, host)).result() for _ in range(rounds)]
    finally:
        database.close()


def _claim(tx: Transaction, queue: Queue, host: Capability) -> float:
    message = Claim(secrets.token_hex(12), WORKER, host)
    begun = time.perf_counter()
    lease = queue.claim(tx, message)
    took = time.perf_counter() - begun
    assert lease is not None
    queue.fail(tx, lease.job_id, Fail(lease.lease_id, "preempted"))
    return took


def _entries(size: int, classes: int) -> Iterator[JobEntry]:
    """Yield jobs with a number of different requirements, one in a hundred for the caller."""
    limits = Limits()
    requirements = [Requirement("gbt", allowed_hosts=(f"*-{number}", f"class-{number}")) for number in range(classes)]
    fit = max(1, classes // FIT)
    for number in range(fit):
        requirements[number] = Requirement("gbt", min_ram_gib=number)
    fits = 0
    for number in range(size):
        if number % FIT == 0:
            requirement, fits = requirements[fits % fit], fits + 1
        else:
            requirement = requirements[fit + number % (classes - fit)]
        spec = Spec("gbt", "oracle", {"max_iter": 300, "learning_rate": 0.1}, seed=number)
        document = canonical(spec.document()).decode()
        job_id = hashlib.sha256(document.encode()).hexdigest()
        yield JobEntry(job_id, spec.model, spec.mode, document, requirement, limits, number + 1)
