"""The whole fleet as processes: every promise an operator relies on, seen from the outside."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import OPERATOR, WORKER, Fleet, wait_until

pytestmark = pytest.mark.xdist_group("fleet")

LAB = Path(__file__).resolve().parents[2] / "data" / "lab"
GBT = "hyper = { max_iter = 10, train_stride = 40 }"
MLP = "hyper = { max_epochs = 1, hidden = 8, train_stride = 40 }"
HEAD = """
[manifest]
schema = 1
jobs = 8

[defaults]
dataset = "lab"
split_recipe = "time"

[datasets.lab]

[hosts.tower]
ram_gib = 4

[hosts.server]
deny_jobs = ["mlp"]
ram_gib = 4

[hosts.pi]
allow_jobs = ["gbt"]
ram_gib = 1
"""


def _manifest() -> str:
    jobs = [
        f'[[jobs]]\nmodel = "{model}"\nmode = "{mode}"\nseed = {seed}\nmin_ram_gib = {ram}\n{hyper}\n'
        for model, hyper, seeds, ram in (("gbt", GBT, (1, 2), 1), ("mlp", MLP, (1,), 2))
        for mode in ("realistic", "oracle")
        for seed in seeds
    ]
    jobs += ['[[jobs]]\nmodel = "gbt"\nmode = "oracle"\nseed = 5\nmin_ram_gib = 48\n' + GBT + "\n"]
    jobs += ['[[jobs]]\nmodel = "gbt"\nmode = "oracle"\ntrain_hosts = ["printer-*"]\n' + GBT + "\n"]
    return HEAD + "\n" + "\n".join(jobs)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet"), _manifest()) as whole:
        whole.start_receiver()
        for name in ("tower", "server", "pi"):
            whole.start_worker(name, "--dataset", f"lab={LAB}", "--threads", "1")
        wanted = {"completed": 6, "pending": 1, "failed": 1}
        wait_until("all jobs that can run have run", lambda: whole.by_status() == wanted, 240)
        yield whole


def _bundles(fleet: Fleet) -> dict[str, str]:
    """Relative path of every stored bundle to the digest of its bytes."""
    store = fleet.folder / "store"
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.rglob("*")
        if path.is_file()
    }


def test_every_job_that_can_run_completes_exactly_once(fleet: Fleet) -> None:
    done = [job for job in fleet.listed() if job["status"] == "completed"]
    assert len(done) == 6
    for job in done:
        detail = fleet.asked("show", job["id"])
        assert Counter(event["action"] for event in detail["events"])["complete"] == 1
        assert [attempt["outcome"] for attempt in detail["attempts"]].count("completed") == 1
        assert 0 < job["metrics"]["auroc"] <= 1


def test_no_host_trains_what_its_policy_forbids(fleet: Fleet) -> None:
    models: dict[str, set[str]] = {}
    for job in fleet.listed():
        if job["status"] == "completed":
            models.setdefault(job["host"], set()).add(job["model"])
    assert models.get("pi", {"gbt"}) == {"gbt"}
    assert models.get("server", {"gbt"}) == {"gbt"}
    assert "mlp" in models["tower"]


def test_a_job_that_no_host_can_run_waits_and_why_says_what_would_change_that(fleet: Fleet) -> None:
    (job,) = [job for job in fleet.listed() if job["status"] == "pending"]
    answer = fleet.asked("why", job["id"][:12])
    assert {verdict["host"]: verdict["eligible"] for verdict in answer["hosts"]} == {
        "tower": False,
        "server": False,
        "pi": False,
    }
    assert "min_ram_gib" in answer["smallest_change"]
    assert " 48 " in f" {answer['smallest_change']} "
    told = fleet.jobs("why", job["id"][:12]).stdout
    assert answer["smallest_change"] in " ".join(told.split())


def test_a_failed_job_shows_its_actual_error_in_status(fleet: Fleet) -> None:
    told = " ".join(fleet.jobs("status").stdout.split())
    assert "printer-*" in told
    assert "matches no host" in told
    (job,) = [job for job in fleet.listed() if job["status"] == "failed"]
    assert job["failure"]["kind"] == "spec_rejected"
    assert job["attempts_used"] == 1


def test_a_second_reload_adds_nothing(fleet: Fleet) -> None:
    before = fleet.listed()
    plan = fleet.asked("reload")
    assert plan["counts"] == {"added": 0, "changed": 0, "unchanged": 8, "dropped": 0, "stranded": 0}
    assert [job["id"] for job in fleet.listed()] == [job["id"] for job in before]


def test_the_index_matches_the_store_digest_for_digest(fleet: Fleet) -> None:
    bundles = {path: sha256 for path, sha256 in _bundles(fleet).items() if path.endswith("/bundle.tar.zst")}
    lines = [json.loads(line) for line in (fleet.folder / "index.jsonl").read_text().splitlines()]
    assert len(lines) == len({line["sha256"] for line in lines}) == len(bundles)
    assert {line["path"]: line["sha256"] for line in lines} == bundles
    for job in fleet.listed():
        if job["status"] == "completed":
            assert bundles[job["artifact_path"]] == job["artifact"]


def test_no_secret_stands_in_any_log(fleet: Fleet) -> None:
    for path in fleet.folder.rglob("*"):
        if path.is_file() and path.suffix != ".zst":
            data = path.read_bytes()
            assert OPERATOR.encode() not in data, path
            assert WORKER.encode() not in data, path


def test_an_identical_run_on_a_new_queue_stores_nothing_twice(fleet: Fleet) -> None:
    """Runs last: it throws the queue away and trains two of the jobs again."""
    before = _bundles(fleet)
    old = {job["id"]: job["artifact"] for job in fleet.listed() if job["status"] == "completed"}
    for name in ("tower", "server", "pi", "receiver"):
        assert fleet.stop(name) == 0
    for path in fleet.folder.glob("queue.db*"):
        path.unlink()
    two = "".join(f"[[jobs]]{block}" for block in _manifest().split("[[jobs]]")[1:3])
    fleet.manifest.write_text(HEAD.replace("jobs = 8", "jobs = 2") + two)
    fleet.start_receiver()
    fleet.start_worker("tower", "--dataset", f"lab={LAB}", "--threads", "1")
    wait_until("both are trained again", lambda: fleet.by_status() == {"completed": 2}, 120)
    again = {job["id"]: job["artifact"] for job in fleet.listed()}
    assert again == {key: old[key] for key in again}
    assert _bundles(fleet) == before
