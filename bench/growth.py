"""What grows while a fleet works: the bytes that each job leaves behind, measured and counted up to a year."""

from __future__ import annotations

import functools
import hashlib
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure
from bench.load import capability
from training.fleet.database import Transaction
from training.fleet.database.queries import PartRow
from training.fleet.database.sqlite import Sqlite
from training.fleet.manifest import Header, JobEntry
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.capability import Capability
from training.fleet.model.jobs import Limits, Policy, Requirement, Spec, Terms, Trainer, canonical
from training.fleet.queue import Queue, apply
from training.fleet.store import index_line
from training.fleet.wire.worker import Claim, Complete, Fail, Heartbeat
from training.trainer.hyper import contract_digest, describe

WORKER = "bench-0"
A_DAY = 1000
"""Jobs a day that the year is counted with."""
FAILS = 10
"""One attempt in this many fails first, with a log of 4 KiB."""
PARTS = ("metrics.json", "model_card.md", "curves.svg", "scores.svg")
METRICS: dict[str, float | int | str | bool | None] = {f"figure_{number}": number / 7 for number in range(12)}


def growth(folder: Path, quick: bool) -> list[Figure]:
    """Run jobs through the real queue and measure what they leave in database and index."""
    count = 500 if quick else 20_000
    path = folder / "queue.db"
    database, queue = Sqlite.open(path), Queue(terms=Terms(backoff_s=0.0))
    apply.CHUNK = 10_000  # type: ignore[misc]  # nobody claims meanwhile
    try:
        database.submit(queue.start).result()
        header = Header("0" * 64, {"default": Policy(slots=64)}, Trainer(), {}, (), contract_digest(describe()), count)
        before = path.stat().st_size
        apply.reload(database, queue, header, _entries(count))
        host = Capability(**{**capability(WORKER), "gpus": ()})
        index = 0
        for number in range(count):
            index += database.submit(functools.partial(_life, queue=queue, host=host, number=number)).result()
    finally:
        database.close()
    each = (path.stat().st_size - before) / count
    parts = _by_table(path, count)
    note = ", ".join(f"{name} {size:.0f}" for name, size in parts)
    return [
        Figure("growth", "database, a job with its result", each, "B", note=note),
        Figure("growth", "index, a result", index / count, "B"),
        Figure("growth", f"database, a year of {A_DAY:,} jobs a day", each * A_DAY * 365 / 2**20, "MiB"),
        Figure("growth", f"index, a year of {A_DAY:,} jobs a day", index / count * A_DAY * 365 / 2**20, "MiB"),
    ]


def _life(tx: Transaction, queue: Queue, host: Capability, number: int) -> int:
    """Let one job live from its claim to its result, some with a failed attempt before; return the index's bytes."""
    if number % FAILS == 0:
        lease = queue.claim(tx, Claim(secrets.token_hex(12), WORKER, host))
        assert lease is not None
        queue.heartbeat(tx, lease.job_id, Heartbeat(lease.lease_id))
        queue.fail(tx, lease.job_id, Fail(lease.lease_id, "trainer_error", 1, "a library is missing", "x" * 4096))
        queue.sweep(tx)
    lease = queue.claim(tx, Claim(secrets.token_hex(12), WORKER, host))
    assert lease is not None
    queue.heartbeat(tx, lease.job_id, Heartbeat(lease.lease_id))
    sha256 = hashlib.sha256(lease.job_id.encode()).hexdigest()
    key = ArtifactKey(sha256, lease.spec["model"], lease.spec["mode"])
    queue.artifacts.add(tx, key, 200_000)
    for name in PARTS:
        queue.artifacts.add_part(tx, key, PartRow(name, 9000, sha256))
    queue.complete(tx, lease.job_id, Complete(lease.lease_id, sha256, METRICS, f"sha256:{sha256}", 60.0))
    return len(index_line(key, 200_000))


def _by_table(path: Path, count: int) -> list[tuple[str, float]]:
    """Return the bytes of a job in each table with its indexes, the largest first; none where SQLite cannot say."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute(
            "SELECT m.tbl_name, sum(d.pgsize) FROM dbstat AS d JOIN sqlite_schema AS m ON m.name = d.name "
            "GROUP BY m.tbl_name ORDER BY 2 DESC LIMIT 6"
        ).fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        connection.close()
    return [(name, size / count) for name, size in rows]


def _entries(count: int) -> Iterator[JobEntry]:
    for number in range(count):
        spec = Spec("gbt", "oracle", {"max_iter": 300, "learning_rate": 0.1}, seed=number)
        document = canonical(spec.document()).decode()
        job_id = hashlib.sha256(document.encode()).hexdigest()
        yield JobEntry(job_id, spec.model, spec.mode, document, Requirement("gbt"), Limits(), number + 1)
