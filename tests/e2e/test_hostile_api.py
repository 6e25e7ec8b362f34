"""The receiver under Schemathesis: whatever its OpenAPI document allows and forbids, and calls in every order.

It found, among others, query parameters whose values the document did not describe. What it is known to miss has cases
of its own: tokens that are not ASCII, and names with a line feed behind them (`test_bad_input.py`,
`tests/integration/test_hostile_json.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
def test_no_call_of_twenty_thousand_is_answered_against_the_document(fleet: Fleet) -> None:
    cases, failures, _ = attack(fleet, "--max-examples", "1200", "--seed", "1")
    assert failures == ""
    assert cases > 20_000
    is_sound(fleet)


# ---- what a process shows -------------------------------------------------------------------------------------------

NASTY = "\x1b[31mred\x1b]0;title\x07 \t\r\nforged: line\u202e\u2028\x9b2J"


def peak_kib(fleet: Fleet) -> int:
    status = Path(f"/proc/{fleet.processes['receiver'].pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]


def flood(fleet: Fleet, path: str, *headers: str, chunked: bool) -> bytes:
    """Send a body of 300 MB for as long as the receiver takes it; return the begin of its answer."""
    host, _, port = fleet.address.partition(":")
    piece = b" " * 10**6
    length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 300000000"
    head = "\r\n".join([f"POST {path} HTTP/1.1", "Host: 127.0.0.1", length, *headers, "", ""]).encode()
    with socket.create_connection((host, int(port)), timeout=20) as link:
        with contextlib.suppress(ConnectionError):
            link.sendall(head)
            for _ in range(300):
                link.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        with contextlib.suppress(ConnectionError):
            return link.recv(4096)
    return b""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process as Linux shows it")
def test_a_body_of_300_mb_is_refused_at_the_cap_and_costs_no_memory(fleet: Fleet) -> None:
    worker, operator = f"Authorization: Bearer {WORKER}", f"X-Operator-Token: {OPERATOR}"
    before = peak_kib(fleet)
    for path, header in (("/v1/job/claim", worker), ("/v1/manifest/reload", operator), ("/v1/backup", operator)):
        for chunked in (False, True):
            answer = flood(fleet, path, header, chunked=chunked)
            assert answer.startswith(b"HTTP/1.1 413 ") or answer == b""
    assert peak_kib(fleet) - before < 16 * 1024
    is_sound(fleet)


def test_nothing_that_a_worker_says_can_drive_a_terminal_or_forge_a_line_of_the_log(fleet: Fleet) -> None:
    card = {"name": NASTY, "uuid": NASTY, "vram_bytes": 2**33, "free_vram_bytes": 2**33, "driver": NASTY}
    capability = {"hostname": "pi", "os": NASTY, "ram_bytes": 2**33, "gpus": [card], "problems": [NASTY]}
    lease = call(fleet, "/v1/job/claim", {"claim_id": "claim-00000001", "worker": "pi", "capability": capability})
    job, base = lease["job_id"], {"lease_id": lease["lease_id"]}
    progress = {"phase": NASTY, "metrics": {NASTY: NASTY}}
    call(fleet, f"/v1/job/{job}/heartbeat", base | {"progress": progress})
    shown = [fleet.jobs("workers"), fleet.jobs("show", job)]
    call(fleet, f"/v1/job/{job}/fail", base | {"kind": "spec_rejected", "error": NASTY, "log_tail": NASTY})
    commands = (["status"], ["workers"], ["list"], ["show", job], ["why", job])
    shown += [fleet.jobs(*command, check=False) for command in commands]
    # Away from a terminal, lists have a tab between their columns and nowhere else.
    assert len({line.count("\t") for line in shown[-3].stdout.splitlines()}) == 1
    for said in shown:
        assert said.stdout + said.stderr
        assert [letter for letter in said.stdout + said.stderr if not (letter.isprintable() or letter in "\t\n")] == []
        assert "\nforged" not in said.stdout + said.stderr
    assert "red" in shown[-2].stdout
    log = fleet.log("receiver")
    assert log.isascii()
    assert all(json.loads(line) for line in log.splitlines())
    assert [letter for letter in log if not (letter.isprintable() or letter == "\n")] == []


def call(fleet: Fleet, path: str, body: dict[str, Any]) -> Any:
    asked = urllib.request.Request(f"http://{fleet.address}{path}", json.dumps(body).encode())
    asked.add_header("Authorization", f"Bearer {WORKER}")
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return json.load(answer)
