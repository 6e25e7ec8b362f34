"""The statements that both reference programs run: the least that a queue with a history needs."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from pathlib import Path
from typing import Any

TABLES = """
CREATE TABLE job (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, spec TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'pending',
    priority INTEGER NOT NULL DEFAULT 0, fence INTEGER NOT NULL DEFAULT 0, lease_id TEXT, worker TEXT, artifact TEXT
) STRICT;
CREATE INDEX job_claimable ON job (priority DESC, seq) WHERE status = 'pending';
CREATE TABLE event (id INTEGER PRIMARY KEY, job INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL) STRICT;
"""
CLAIM = """
UPDATE job SET status = 'claimed', fence = fence + 1, lease_id = ?, worker = ?
WHERE seq = (SELECT seq FROM job WHERE status = 'pending' ORDER BY priority DESC, seq LIMIT 1)
RETURNING seq, id, fence, spec
"""
COMPLETE = """
UPDATE job SET status = 'completed', artifact = ?, lease_id = NULL
WHERE id = ? AND lease_id = ? AND status IN ('claimed', 'running') RETURNING seq
"""
EVENT = "INSERT INTO event (job, actor, action) VALUES (?, ?, ?)"
SPEC = '{"hyper":{"max_iter":300},"mode":"oracle","model":"gbt","seed":490,"split_recipe":"hosts","train_hosts":["*"]}'


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection that syncs every commit to the disk."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def fill(path: Path, jobs: int) -> None:
    """Make the tables with so many pending jobs."""
    connection = connect(path)
    connection.executescript(TABLES)
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO job (seq, id, spec) VALUES (?, ?, ?)",
        ((n, hashlib.sha256(b"%d" % n).hexdigest(), SPEC) for n in range(1, jobs + 1)),
    )
    connection.execute("COMMIT")
    connection.close()


def claim(connection: sqlite3.Connection, worker: str) -> dict[str, Any] | None:
    """Give the first pending job to a worker."""
    lease_id = secrets.token_urlsafe(16)
    rows = connection.execute(CLAIM, (lease_id, worker)).fetchall()
    if not rows:
        return None
    seq, job_id, fence, spec = rows[0]
    connection.execute(EVENT, (seq, worker, "claim"))
    return {"job_id": job_id, "lease_id": lease_id, "fence": fence, "spec": spec}


def complete(connection: sqlite3.Connection, job_id: str, lease_id: str, artifact: str) -> bool:
    """Take a job's result; False when the lease does not fit."""
    rows = connection.execute(COMPLETE, (artifact, job_id, lease_id)).fetchall()
    if rows:
        connection.execute(EVENT, (rows[0][0], lease_id, "complete"))
    return bool(rows)
