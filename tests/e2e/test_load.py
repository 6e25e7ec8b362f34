"""Two hundred workers at once: every answer is a legal one, every job is done, and the memory does not grow."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from pathlib import Path

import pytest
from processes import wait_until

from bench.load import claim_body
from bench.stage import Load, Program, call, manifest, receiver
from training.fleet.database import statements as sql

WORKERS, JOBS = 200, 2000


@pytest.fixture(autouse=True)
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("COVERAGE_", "CIS490_"))]:
        monkeypatch.delenv(name)


def test_200_workers_get_2000_jobs_done_without_a_fault_or_a_growing_receiver(tmp_path: Path) -> None:
    with receiver(tmp_path / "receiver", manifest(JOBS)) as real:
        driver = Load("crowd", real, workers=WORKERS, jobs=JOBS, seconds=5.0)
        wait_until("a third is done", lambda: _completed(real) > JOBS / 3)
        before_mib = real.rss_mib()
        found = driver.result()
        grown_mib = real.rss_mib() - before_mib
        assert _completed(real) == JOBS
    assert found["statuses"] == {
        "claim 200": JOBS,
        "claim 204": WORKERS,
        "heartbeat 200": 2 * JOBS,
        "upload 201": JOBS,
        "complete 200": JOBS,
    }
    assert grown_mib < 8
    log = (tmp_path / "receiver" / "receiver.log").read_text()
    assert "Traceback" not in log
    assert '"level": "error"' not in log
    assert _scans(tmp_path / "receiver" / "queue.db") == []


@pytest.mark.slow
def test_a_manifest_of_100_000_jobs_is_loaded_within_a_small_memory_and_read_once(tmp_path: Path) -> None:
    jobs = 100_000
    with receiver(tmp_path / "receiver", manifest(jobs)) as real:
        assert call(real, "GET", "/v1/health")["counts"]["pending"] == jobs
        assert real.peak_mib() < 128
        assert call(real, "POST", "/v1/manifest/reload", {})["counts"] == {
            "added": 0, "changed": 0, "unchanged": jobs, "dropped": 0, "stranded": 0,
        }  # fmt: skip
        assert call(real, "POST", "/v1/job/claim", claim_body("tower"))["fence"] == 1


def _completed(real: Program) -> int:
    completed: int = call(real, "GET", "/v1/health")["counts"]["completed"]
    return completed


def _scans(path: Path) -> list[str]:
    """Return what a claim on this database would read from one end to the other, beside the lists it is given."""
    text = sql.statements("sqlite")["claim"].text
    with contextlib.closing(sqlite3.connect(path)) as database:
        values = dict.fromkeys(re.findall(r":([a-z_0-9]+)", text))
        plan = [line[3] for line in database.execute(f"EXPLAIN QUERY PLAN {text}", values)]
    assert any("job_claimable" in line for line in plan)
    return [line for line in plan if line.startswith("SCAN") and "VIRTUAL TABLE" not in line and line != "SCAN offered"]
