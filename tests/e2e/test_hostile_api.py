"""The receiver under Schemathesis: whatever its OpenAPI document allows and forbids, and calls in every order.

It found, among others, query parameters whose values the document did not describe. What it is known to miss has cases
of its own: tokens that are not ASCII, and names with a line feed behind them (`test_bad_input.py`,
`tests/integration/test_hostile_json.py`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import OPERATOR, WORKER, Fleet

pytestmark = pytest.mark.xdist_group("hostile-api")

HERE = Path(__file__).parent
HEAD = '[manifest]\nschema = 1\n[defaults]\nsplit_recipe = "time"\n[hosts.default]\nslots = 64\n'
JOB = '[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nseed = {}\n'
TERMS = ("--lease-s", "600", "--floor-bytes", "0", "--backoff-s", "0.1", "--backoff-cap-s", "0.1")
DEEP = (
    "POST /v1/job/claim 200",
    "POST /v1/job/{id}/heartbeat 200",
    "PUT /v1/model/{sha256} 201",
    "POST /v1/job/{id}/complete 200",
    "POST /v1/job/{id}/fail 200",
    "POST /v1/job/{id}/cancel 200",
    "POST /v1/job/{id}/requeue 200",
    "POST /v1/manifest/plan 200",
    "POST /v1/manifest/reload 200",
    "POST /v1/backup 200",
    "GET /v1/job/{id}/why 200",
)
"""Answers that only a call with live ids, or with a manifest, gets."""


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    for name in os.environ:
        if name.startswith("COV"):
            # Traced, the receiver answers half as fast; other tests trace the same lines.
            monkeypatch.delenv(name)
    jobs = 500
    with Fleet(tmp_path, HEAD + "".join(map(JOB.format, range(jobs))), TERMS) as found:
        found.start_receiver()
        yield found


def attack(fleet: Fleet, *options: str) -> tuple[int, str, dict[str, int]]:
    """Run Schemathesis; return the number of cases, what it printed when it failed, and how often which answer came."""
    seen = fleet.folder / "seen.json"
    command = [str(Path(sys.executable).parent / "st"), "--config-file", str(HERE / "schemathesis.toml")]
    command += ["run", f"http://{fleet.address}/openapi.json", "--no-color", *options]
    environ = {
        **os.environ,
        "CIS490_OPERATOR_TOKEN": OPERATOR,
        "CIS490_WORKER_TOKEN": WORKER,
        "SCHEMATHESIS_HOOKS": "hostile_hooks",
        "PYTHONPATH": str(HERE),
        "HOSTILE_SEEN": str(seen),
        "HOSTILE_ENDED": ",".join(cancelled(fleet)),
    }
    done = subprocess.run(command, env=environ, cwd=fleet.folder, capture_output=True, text=True, check=False)
    cases = re.search(r"(\d+) generated", done.stdout)
    assert cases, done.stdout + done.stderr
    return int(cases[1]), "" if done.returncode == 0 else done.stdout, json.loads(seen.read_text())


def cancelled(fleet: Fleet) -> list[str]:
    """Cancel the last five jobs, which no claim comes to, and return their ids."""
    ids = [job["id"] for job in fleet.listed()[-5:]]
    fleet.jobs("cancel", *ids)
    return ids


def is_sound(fleet: Fleet) -> None:
    """Fail unless the receiver lives, lost no job, and finds nothing wrong with its database, store and index."""
    log = fleet.log("receiver")
    assert fleet.processes["receiver"].poll() is None
    for unwanted in ("Traceback", "a request failed", OPERATOR, WORKER):
        assert unwanted not in log
    assert sum(fleet.counts().values()) == 500
    assert fleet.jobs("fsck", check=False).returncode == 0
    assert list((fleet.folder / "incoming").iterdir()) == []


def test_no_call_that_schemathesis_makes_is_answered_against_the_document(fleet: Fleet) -> None:
    cases, failures, seen = attack(fleet, "--max-examples", "30")
    assert failures == ""
    assert cases > 1000
    assert [answer for answer in DEEP if answer not in seen] == []
    assert [answer for answer in seen if answer.rpartition(" ")[2] >= "500"] == []
    is_sound(fleet)


@pytest.mark.slow
def test_no_call_of_a_hundred_thousand_is_answered_against_the_document(fleet: Fleet) -> None:
    cases, failures, _ = attack(fleet, "--max-examples", "6000", "--seed", "1")
    assert failures == ""
    assert cases > 100_000
    is_sound(fleet)
