"""The operator command as a process against a real receiver; a worker is played by the fleet's own client."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from training.fleet.client import Client
from training.fleet.model.capability import GIB, Capability
from training.fleet.wire.worker import Claim, Complete, Fail, Heartbeat, Lease, Progress

TOKEN = "operator-token-for-this-test"
SCHEMA = {
    "properties": {"mode": {"enum": ["realistic", "oracle"]}, "split_recipe": {"enum": ["hosts"]}},
    "$defs": {"toy": {"type": "object", "properties": {"depth": {"type": "integer", "minimum": 1, "maximum": 9}}}},
}
MANIFEST = """
[manifest]
schema = 1
jobs = 3
[trainer]
command = ["{{python}}", "toy.py"]
schema = "toy.schema.json"
[hosts.default]
[[jobs]]
model = "toy"
mode = "oracle"
priority = {priority}
[[jobs]]
model = "toy"
mode = "realistic"
[[jobs]]
model = "toy"
mode = "oracle"
require_cuda = true
min_vram_gib = 8
hyper = {{ depth = 3 }}
"""


@dataclass(frozen=True)
class Site:
    """A running receiver and its manifest."""

    folder: Path
    address: str
    root: Path

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.toml"

    def environ(self, token: str | None = TOKEN) -> dict[str, str]:
        fields = {"PATH": os.environ["PATH"], "CIS490_RECEIVER": self.address}
        return fields if token is None else {**fields, "CIS490_OPERATOR_TOKEN": token}

    def command(self, *arguments: str) -> list[str]:
        # -I and -S: nothing but the standard library and the checkout.
        return [sys.executable, "-I", "-S", str(self.root / "tools" / "cis490_jobs.py"), *arguments]

    def run(self, *arguments: str, token: str | None = TOKEN, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), env=self.environ(token), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def rows(self, *arguments: str) -> list[list[str]]:
        return [line.split("\t") for line in self.run(*arguments).stdout.splitlines()]


@pytest.fixture
def site(root: Path, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "toy.schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "manifest.toml").write_text(MANIFEST.format(priority=0))
    places = ["--manifest", "manifest.toml", "--db", "q.db", "--store-root", "store", "--incoming-root", "incoming"]
    log = tmp_path / "receiver.log"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root), "CIS490_OPERATOR_TOKEN": TOKEN}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "training.fleet.receiver", "--listen-addr", "127.0.0.1:0", *places,
             "--index-path", "index.jsonl", "--backoff-s", "0"],
            cwd=tmp_path, env=environ, stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        yield Site(tmp_path, _address(process, log), root)
    finally:
        process.terminate()
        process.wait(30)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"127\.0\.0\.1:[1-9]\d*", log.read_text())
        if found:
            return f"http://{found[0]}"
        time.sleep(0.02)
    raise AssertionError(log.read_text())


@pytest.fixture
def worker(site: Site) -> Iterator[Client]:
    client = Client(site.address)
    yield client
    client.close()


def claim(worker: Client, name: str = "pi") -> Lease:
    capability = Capability(name, cpu_count=4, ram_bytes=8 * GIB)
    lease, _ = worker.claim(Claim(os.urandom(12).hex(), name, capability))
    assert lease is not None
    return lease


def test_a_new_receiver_lists_its_jobs_and_says_why_one_cannot_run(site: Site, worker: Client) -> None:
    rows = site.rows("list")
    assert [(row[1], row[2], row[5]) for row in rows] == [
        ("toy", "oracle", "pending"),
        ("toy", "realistic", "pending"),
        ("toy", "oracle", "pending"),
    ]
    claim(worker)
    why = site.run("why", rows[2][0][:10]).stdout
    assert "\tno\trequire_cuda\t" in why
    assert "\tno\tmin_vram_gib\t" in why
    assert json.loads(site.run("why", rows[2][0], "--json").stdout)["status"] == "pending"


def test_status_shows_the_progress_of_a_running_job_and_then_its_actual_error(site: Site, worker: Client) -> None:
    lease = claim(worker)
    progress = Progress(3, 10, "fold 1/5", {"auprc": 0.25}, 3.0, 7.0)
    worker.heartbeat(lease.job_id, Heartbeat(lease.lease_id, progress))
    assert f"{lease.job_id}\ttoy\toracle\thosts\tpi\trunning\t30 %\t3/10\tfold 1/5\tauprc 0.25\t7.0 s" in (
        site.run("status").stdout.splitlines()
    )
    fail = Fail(lease.lease_id, "trainer_error", 1, "ValueError: no \x1b[31mrows", "line one\nValueError: no rows")
    worker.fail(lease.job_id, fail)
    status = site.run("status").stdout
    assert "trainer_error on pi, exit status 1" in status
    assert "    ValueError: no \\x1b[31mrows\n" in status
    shown = site.run("show", lease.job_id[:12]).stdout
    assert "\tfailed\ttrainer_error\t1\tValueError: no \\x1b[31mrows\n" in shown
    assert "  line one\n  ValueError: no rows\n" in shown
    detail = json.loads(site.run("show", lease.job_id, "--json").stdout)
    assert [attempt["outcome"] for attempt in detail["attempts"]] == ["failed"]
    workers = site.rows("workers")
    assert workers[0][:2] == ["pi", "idle"]
    assert workers[0][5] == "8 GiB"


def test_a_worker_is_invited_listed_and_revoked_and_the_trail_says_by_whom(site: Site, worker: Client) -> None:
    invited = site.run("invite", "pi", "--ttl", "5m")
    code = re.search(r"--code (\S+)", invited.stdout)
    assert code is not None
    assert f"--receiver {site.address} --host pi" in invited.stdout
    worker.post("/v1/enrol", {"code": code[1], "worker": "pi", "secret_sha256": "1" * 64})
    assert [row[:2] for row in site.rows("worker", "list")] == [["pi", "enrolled"]]
    assert site.rows("worker", "rotate", "pi")[0][1] == "rotating"
    assert site.rows("worker", "revoke", "pi")[0][1] == "revoked"
    assert "cis490-jobs invite pi" in site.run("worker", "rotate", "pi", status=1).stderr
    assert "CIS490_OPERATOR_TOKEN" in site.run("invite", "pi", token=None, status=77).stderr
    trail = [row[1:4] for row in site.rows("events", "--worker", "pi")]
    assert trail == [
        ["operator:operator", "revoke", "pi"],
        ["operator:operator", "rotate", "pi"],
        ["worker:pi", "enrol", "pi"],
        ["operator:operator", "invite", "pi"],
    ]
    assert code[1] not in site.run("events", "--json").stdout


def test_compare_puts_the_results_of_both_modes_side_by_side(site: Site, worker: Client) -> None:
    bundle = site.folder / "bundle"
    values = {"oracle": 0.75, "realistic": 0.5}
    for _ in values:
        lease = claim(worker)
        worker.heartbeat(lease.job_id, Heartbeat(lease.lease_id))
        bundle.write_bytes(lease.job_id.encode())
        sha256 = hashlib.sha256(bundle.read_bytes()).hexdigest()
        worker.upload(lease.lease_id, sha256, bundle)
        metrics = {"auprc_host_mean": values[lease.spec["mode"]], "auroc": None}
        worker.complete(lease.job_id, Complete(lease.lease_id, sha256, metrics))
    oracle, realistic, _ = (row[0] for row in site.rows("list"))
    assert site.rows("compare") == [
        ["toy", "hosts", "0.75", "0.5", "+0.25", "1", "490", "", oracle],
    ]
    artifact = hashlib.sha256(oracle.encode()).hexdigest()
    assert site.rows("best") == [[oracle, "auprc_host_mean", "0.75", artifact]]
    assert site.rows("best", "--lower")[0][0] == realistic
    assert "--metric takes one of auprc_host_mean, auroc\n" in site.run("compare", "--metric", "f1", status=1).stderr


def test_cancel_and_requeue_say_where_the_job_stands(site: Site, worker: Client) -> None:
    job = site.rows("list")[0][0]
    assert site.rows("cancel", job[:12]) == [[job, "cancelled"]]
    assert site.rows("list", "--status", "cancelled")[0][0] == job
    assert site.rows("requeue", job) == [[job, "pending"]]
    lease = claim(worker)
    worker.heartbeat(lease.job_id, Heartbeat(lease.lease_id))
    assert site.rows("cancel", job) == [[job, "running", "cancelling: its worker stops the trainer"]]
    assert "cis490-jobs: " in site.run("requeue", job, status=1).stderr


def test_a_list_says_what_tells_jobs_apart_why_they_wait_and_refuses_unknown_names(site: Site, worker: Client) -> None:
    claim(worker)
    rows = site.rows("list")
    assert [row[10:12] for row in rows] == [
        ["", ""],
        ["", "slot on pi"],
        ["depth=3", "no host: require_cuda, min_vram_gib"],
    ]
    assert "1 pending job that no host can run" in site.run("status").stdout
    assert site.run("list", "--host", "pii", status=1).stderr == (
        "cis490-jobs: found no job on host pii; did you mean pi? hosts are pi\n"
    )
    assert site.run("list", "--model", "tio", status=1).stderr.endswith("did you mean toy? models are toy\n")
    assert site.run("list", "--status", "failed").stdout == ""
    assert site.run("list", "--since", "8h", "--until", "2001-01-01", status=78).stderr.count("exchange them") == 1
    assert site.rows("list", "--until", "yesterday") == []
    assert len(site.rows("events", "--since", "today", "--worker", "pi")) == 1
    assert "slots      manifest 1, worker unknown: 1 used" in site.run("host", "pi").stdout


def test_a_filter_changes_exactly_what_it_showed(site: Site, worker: Client) -> None:
    shown = site.run("cancel", "--status", "pending", "--model", "toy")
    assert len(shown.stdout.splitlines()) == 3
    # Printed as this one was typed, so that it can be copied.
    order = shown.stderr.splitlines()[-1].partition("cis490_jobs.py")[2].split()
    assert order[0] == "cancel"
    # A worker takes one of them: the choice is another one, and nothing happens.
    lease = claim(worker)
    assert "the choice is another one now" in site.run(*order, status=1).stderr
    assert {row[5] for row in site.rows("list")} == {"claimed", "pending"}
    again = site.run("cancel", "--status", "pending").stderr.partition("cis490_jobs.py")[2].split()
    assert [row[1] for row in site.rows(*again)] == ["cancelled"] * 2
    assert len(site.rows("requeue", "--status", "cancelled", "--yes")) == 2
    assert site.rows("list", "--status", "claimed")[0][0] == lease.job_id


def test_plan_and_reload_agree_and_the_second_plan_is_empty(site: Site) -> None:
    assert site.run("plan", "--exit-code").stdout.endswith("0 added, 0 changed, 3 unchanged, 0 dropped\n")
    edited = site.folder / "edited.toml"
    edited.write_text(MANIFEST.format(priority=5))
    plan = site.run("plan", "--exit-code", "--json", str(edited), status=3)
    digest = json.loads(plan.stdout)["digest"]
    site.manifest.write_text(edited.read_text())
    done = site.run("reload", "--if-plan", digest).stdout
    assert "priority 0 -> 5" in done
    assert "0 added, 1 changed, 2 unchanged, 0 dropped" in done
    assert "moved" in site.run("reload", "--if-plan", "0" * 64, status=1).stderr
    assert site.run("plan", "--exit-code").stdout.endswith("0 added, 0 changed, 3 unchanged, 0 dropped\n")


def test_a_reload_that_names_fewer_jobs_needs_leave(site: Site) -> None:
    text = MANIFEST.format(priority=0)
    cut = text[: text.rindex("[[jobs]]")].replace("jobs = 3", "jobs = 2")
    site.manifest.write_text(cut)
    assert "allow" in site.run("reload", status=1).stderr
    assert "1 dropped" in site.run("reload", "--allow-shrink").stdout
    assert len(site.rows("list")) == 2
    assert site.rows("list", "--all")[2][9].startswith("withdrawn: not in the manifest")


def test_a_manifest_with_faults_lists_them_all_and_changes_nothing(site: Site) -> None:
    bad = MANIFEST.format(priority=0).replace("depth = 3", "dpeth = 3").replace('"realistic"', '"both"')
    site.manifest.write_text(bad)
    complaint = site.run("plan", status=1).stderr
    assert "the manifest has 2 faults, nothing of it was applied" in complaint
    assert complaint.count("jobs[2].mode") == 1
    assert complaint.count("did you mean depth?") == 1
    assert complaint.count("\n") == 3
    assert site.run("reload", status=78).stderr == complaint
    assert "refused: jobs[" in site.run("status").stdout
    assert len(site.rows("list")) == 3


def test_a_wrong_token_is_refused_with_77_and_a_missing_one_as_well(site: Site) -> None:
    assert "cis490-jobs: " in site.run("reload", token="another-token", status=77).stderr
    assert "set CIS490_OPERATOR_TOKEN" in site.run("reload", token=None, status=77).stderr


def test_a_token_file_that_others_can_read_is_refused(site: Site) -> None:
    path = site.folder / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    environ = {**site.environ(None), "CIS490_OPERATOR_TOKEN_FILE": str(path)}
    done = subprocess.run(site.command("reload"), env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    path.chmod(0o600)
    subprocess.run(site.command("reload"), env=environ, capture_output=True, timeout=60, check=True)


def test_a_reader_that_goes_away_ends_the_command_quietly(site: Site) -> None:
    process = subprocess.Popen(
        site.command("status", "--watch", "0.2"), env=site.environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(b"receiver  http://127.0.0.1:")
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_ctrl_c_ends_a_watch_with_0_and_without_a_word(site: Site) -> None:
    process = subprocess.Popen(
        site.command("status", "--watch", "0.2", "--json"),
        env=site.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert sorted(json.loads(process.stdout.readline())) == ["health", "running"]
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=20)
    assert (process.returncode, complaint) == (0, b"")


def test_the_command_runs_as_a_module_too(site: Site) -> None:
    environ = {**site.environ(), "PYTHONPATH": str(site.root)}
    done = subprocess.run(
        [sys.executable, "-m", "training.fleet.cli", "list", "--limit", "1", "--json"],
        env=environ, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    page = json.loads(done.stdout)
    assert len(page["jobs"]) == 1
    assert page["next"] is not None
