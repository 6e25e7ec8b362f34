"""The worker as a real process, with real trainers, against a stub receiver."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_trainer import DECLARATION
from stub_receiver import Reply, Seen, StubReceiver, lease, problem, route

from training.fleet.single_file import own_single_file
from training.fleet.worker.process.local import running_s
from training.trainer.hyper import MODELS, contract_digest, describe, missing_libraries

MOST_SAID = 200
"""Messages to the service manager in a test, which come several times a second as long as the program lives."""
HELPERS = Path(__file__).resolve().parents[1] / "helpers"
ENVIRON = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "CIS490_WORKER_TOKEN": "sesame-worker"}


@pytest.fixture
def stub() -> Iterator[StubReceiver]:
    receiver = StubReceiver()
    yield receiver
    receiver.stop()


class Host:
    """Starts workers of one work folder and ends them at the end of the test."""

    def __init__(self, stub: StubReceiver, work: Path, root: Path) -> None:
        self.stub, self.work, self.root = stub, work, root
        self.program = ["-m", "training.fleet.worker"]
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, *flags: str, environ: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        command = [sys.executable, *self.program, "--receiver", self.stub.url]
        command += ["--work-dir", str(self.work), "--trainer-dir", str(HELPERS), "--grace-s", "1", "--name", "box"]
        command += ["--min-free-gib", "0", *flags]
        errors = (self.work.parent / "errors").open("ab")
        worker = subprocess.Popen(command, cwd=self.root, env=environ or ENVIRON, stdout=subprocess.PIPE, stderr=errors)
        errors.close()
        self.workers.append(worker)
        return worker

    def once(self, *flags: str, environ: dict[str, str] | None = None) -> int:
        worker = self.start("--once", *flags, environ=environ)
        return worker.wait(timeout=40)

    @property
    def errors(self) -> str:
        return (self.work.parent / "errors").read_text()

    def runs(self) -> list[Path]:
        return sorted((self.work / "runs").iterdir())

    def end(self) -> None:
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            worker.wait()
            assert worker.stdout is not None
            worker.stdout.close()


@pytest.fixture
def host(stub: StubReceiver, tmp_path: Path, root: Path) -> Iterator[Host]:
    it = Host(stub, tmp_path / "work", root)
    yield it
    it.end()


def until(met: Callable[[], Any], timeout_s: float = 15.0) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := met()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


def processes_of(work: Path) -> list[int]:
    """Return the processes whose command line or folder lies below a work folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if str(work) in str((entry / "cwd").readlink()):
                    found.append(int(entry.name))
    return found


def failure(stub: StubReceiver) -> dict[str, Any]:
    return stub.wait_for("fail")[0].json


def test_a_job_is_trained_uploaded_and_completed(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("good"))
    assert host.once() == 0
    [done] = stub.calls("complete")
    [upload] = stub.calls("upload")
    assert done.path == f"/v1/job/{'a' * 64}/complete"
    assert done.json["artifact"] == upload.path.rpartition("/")[2]
    assert done.json["lease_id"] == upload.headers["x-lease-id"] == "lease-a-0001"
    assert done.json["metrics"] == {"auroc": 0.75, "nan": "x"}
    assert done.json["content_digest"].startswith("sha256:")
    assert done.json["duration_s"] > 0
    assert host.runs() == []


def test_card_figures_and_metrics_come_beside_the_bundle_before_the_job_is_completed(
    host: Host, stub: StubReceiver
) -> None:
    stub.offer(lease("shown"))
    assert host.once() == 0
    assert stub.parts == {"metrics.json": b"{}", "model_card.md": b"# A card", "learning.svg": b"<svg/>"}
    assert [call.path.rpartition("/")[2] for call in stub.calls("part")] == list(stub.parts)
    order = [route(seen) for seen in stub.seen if route(seen) in ("upload", "part", "complete")]
    assert order == ["upload", "part", "part", "part", "complete"]


@pytest.mark.parametrize(("status", "code"), [(404, "not_found"), (405, "method_not_allowed"), (500, "internal")])
def test_a_receiver_that_takes_no_card_gets_the_result_all_the_same(
    host: Host, stub: StubReceiver, status: int, code: str
) -> None:
    stub.script["part"] = [problem(status, code)] * 50
    stub.offer(lease("shown"))
    assert host.once(environ=ENVIRON) == 0
    assert len(stub.calls("complete")) == 1
    assert ("older than this worker" in host.errors) is (status < 500)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "worker.pyz"
    path.write_bytes(own_single_file().data)
    return path


def test_what_a_worker_says_goes_to_the_file_it_was_given_and_a_grown_one_makes_way(
    host: Host, stub: StubReceiver
) -> None:
    log = host.work.parent / "said.log"
    log.write_text("x" * (2**20 + 1))
    assert host.once("--log-file", str(log)) == 1
    assert " worker started host=box " in log.read_text()
    assert log.with_name("said.log.old").stat().st_size == 2**20 + 1
    assert host.errors == ""


def test_the_single_file_trains_a_job_and_leaves_no_process(host: Host, stub: StubReceiver, packed: Path) -> None:
    host.program = [str(packed)]
    stub.offer(lease("leftovers"))
    assert host.once() == 0
    assert len(stub.calls("complete")) == 1
    assert processes_of(host.work) == []


def test_the_single_file_asks_the_trainer_that_lies_in_the_trainer_dir(
    packed: Path, root: Path, tmp_path: Path
) -> None:
    def capability(folder: Path) -> Any:
        flags = ["--self-test", "--json", "--work-dir", str(tmp_path / "work"), "--trainer-dir", str(folder)]
        told = subprocess.run([sys.executable, packed, *flags], capture_output=True, env=ENVIRON, check=False)
        return json.loads(told.stdout)["capability"]

    found = capability(root)
    assert found["contract"] == contract_digest(describe())
    assert found["models"] == [model for model in MODELS if not missing_libraries(model)]
    lacking = capability(tmp_path)
    assert (lacking["contract"], lacking["models"]) == (None, None)
    assert "give the checkout's folder with --trainer-dir" in lacking["problems"][0]


def test_a_single_file_that_is_replaced_while_it_runs_goes_on(host: Host, stub: StubReceiver, packed: Path) -> None:
    own = host.work.parent / "own.pyz"
    own.write_bytes(packed.read_bytes())
    host.program = [str(own)]
    host.start()
    stub.wait_for("claim")
    newer = own.with_suffix(".new")
    newer.write_bytes(b"#!/usr/bin/env python3\n# newer\n" + own.read_bytes())
    newer.replace(own)
    stub.offer(lease("good"))
    assert stub.wait_for("complete")


def test_the_first_heartbeat_comes_before_anything_else_is_said_about_a_job(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("good"))
    assert host.once() == 0
    names = [seen.path.rpartition("/")[2] for seen in stub.seen if seen.path.startswith("/v1/job/")]
    assert names[:2] == ["claim", "heartbeat"]


def test_a_claim_tells_who_asks_and_what_it_can(host: Host, stub: StubReceiver) -> None:
    assert host.once() == 1
    [asked] = stub.calls("claim")
    assert asked.json["worker"] == asked.json["capability"]["hostname"] == "box"
    assert asked.json["held_leases"] == []
    assert asked.headers["authorization"] == "Bearer sesame-worker"
    assert "no job for this host" in host.errors


def test_the_same_job_makes_the_same_bundle_twice(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("good"))
    stub.offer(lease("good", job="b"))
    assert host.once() == 0
    assert host.once() == 0
    first, second = (seen.json["artifact"] for seen in stub.calls("complete"))
    assert first == second


def test_heartbeats_carry_progress_and_time_left(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("slow"))
    host.start()

    def told() -> Any:
        return [
            beat.json["progress"] for beat in stub.calls("heartbeat") if (beat.json["progress"] or {}).get("left_s")
        ]

    progress = until(told)[-1]
    assert progress["steps"] == 600
    assert progress["phase"] == "fold 1/2"
    assert progress["metrics"] == {"loss": 0.5}
    assert 0 < progress["left_s"] < 600


ENDINGS = [
    ("fail", "trainer_error", 1, "ValueError: column cpu holds no numbers"),
    ("silent_exit", "no_artifact", 0, "left nothing in artifact/, in under a second"),
    ("oom_gpu", "oom_gpu", 1, "CUDA out of memory. Tried to allocate 2.00 GiB"),
    ("oom_ram", "oom_ram", 75, "needs 9 GiB"),
    ("elsewhere", "host_fault", 75, "lightgbm is not installed"),
    ("wrong", "spec_rejected", 78, "found 'wrong', expected 'right'"),
    ("killed", "trainer_error", -9, "killed by signal 9 (SIGKILL) and printed nothing"),
]


@pytest.mark.parametrize(("act", "kind", "status", "error"), ENDINGS, ids=[case[0] for case in ENDINGS])
def test_a_failed_training_is_reported_with_its_kind_and_its_own_error(
    host: Host, stub: StubReceiver, act: str, kind: str, status: int, error: str
) -> None:
    stub.offer(lease(act))
    assert host.once() == 1
    report = failure(stub)
    assert (report["kind"], report["exit_status"]) == (kind, status)
    assert error in report["error"]
    assert stub.calls("complete") == []


def test_output_without_line_feeds_is_bounded_on_disk_and_keeps_its_end(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("flood"))
    assert host.once() == 1
    report = failure(stub)
    assert report["log_tail"].endswith("xend")
    assert len(report["log_tail"]) <= 16384
    [run] = host.runs()
    assert sum(path.stat().st_size for path in run.glob("log.*")) <= 3 * 2**20
    assert (run / "log.head").read_bytes().startswith(b"begin")


@pytest.mark.parametrize("act", ["binary", "mute", "leftovers"])
def test_odd_trainers_that_do_their_work_complete(host: Host, stub: StubReceiver, act: str) -> None:
    stub.offer(lease(act))
    assert host.once() == 0
    assert len(stub.calls("complete")) == 1
    assert processes_of(host.work) == []


def test_a_trainer_sees_no_token_and_little_else(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("dump_environment"))
    secrets = {"CIS490_OPERATOR_TOKEN": "sesame-operator", "AWS_SECRET_ACCESS_KEY": "sesame-cloud"}
    assert host.once(environ=ENVIRON | secrets) == 0
    bundle = next(iter(stub.stored.values()))
    from backports.zstd import decompress

    text = decompress(bundle).decode("utf-8", "replace")
    assert "sesame" not in text
    assert '"CUDA_VISIBLE_DEVICES": ""' in text
    assert '"OMP_NUM_THREADS"' in text
    assert "sesame" not in host.errors


def test_a_cancelled_job_is_stopped_and_confirmed(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("polite"))
    host.start()
    until(lambda: list(host.work.glob("runs/*/log.head")))
    stub.beat = {"lease_s": 600.0, "cancel": True}
    report = failure(stub)
    assert (report["kind"], report["error"]) == ("preempted", "cancelled by the operator")
    assert "stopping politely" in report["log_tail"]


def test_a_stale_lease_kills_the_trainer_and_keeps_its_folder(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("stubborn"))
    worker = host.start()
    until(lambda: list(host.work.glob("runs/*/log.head")))
    stub.script["heartbeat"] = [problem(409, "stale_lease", "the lease has moved on")]
    until(lambda: '"over"' in host.runs()[0].joinpath("state.json").read_text())
    assert processes_of(host.work) == []
    assert stub.calls("fail") == []
    assert worker.poll() is None


def test_sigterm_gives_the_job_back_and_exits_with_0(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("slow"))
    worker = host.start()
    until(lambda: list(host.work.glob("runs/*/log.head")))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=10) == 0
    report = failure(stub)
    assert (report["kind"], report["error"]) == ("preempted", "the worker was stopped")
    assert processes_of(host.work) == []
    assert host.runs() == []


def test_sigterm_ends_an_idle_worker_at_once(host: Host, stub: StubReceiver) -> None:
    worker = host.start()
    stub.wait_for("claim")
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=10) == 0
    assert time.monotonic() - began < 3


def test_a_second_sigterm_does_not_wait_for_the_grace(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("stubborn"))
    worker = host.start("--grace-s", "60")
    until(lambda: list(host.work.glob("runs/*/log.head")))
    worker.send_signal(signal.SIGTERM)
    until(lambda: "stopping" in host.errors)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=15) == 0
    assert processes_of(host.work) == []


def test_a_closed_terminal_gives_the_job_back(host: Host, stub: StubReceiver) -> None:
    """It sends the signal for itself and for its shell; the second one takes no grace from the trainer."""
    stub.offer(lease("slow"))
    worker = host.start("--grace-s", "5")
    until(lambda: list(host.work.glob("runs/*/log.head")))
    worker.send_signal(signal.SIGHUP)
    until(lambda: "stopping" in host.errors)
    worker.send_signal(signal.SIGHUP)
    assert worker.wait(timeout=15) == 0
    assert failure(stub)["kind"] == "preempted"
    assert "stopping at once" not in host.errors
    assert host.runs() == []


def test_a_second_signal_of_a_person_hurries_after_a_closed_terminal(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("stubborn"))
    worker = host.start("--grace-s", "60")
    until(lambda: list(host.work.glob("runs/*/log.head")))
    worker.send_signal(signal.SIGHUP)
    until(lambda: "stopping" in host.errors)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=15) == 0
    assert processes_of(host.work) == []


def test_nothing_outlives_a_worker_that_was_killed(host: Host, stub: StubReceiver) -> None:
    """Neither the grace a trainer has otherwise nor its children hold up the 10 s that are promised."""
    stub.offer(lease("stubborn"))
    worker = host.start("--grace-s", "600")
    until(lambda: len(processes_of(host.work)) >= 6)
    worker.kill()
    worker.wait()
    until(lambda: processes_of(host.work) == [])


def state(host: Host) -> dict[str, Any]:
    """The state of the one run, empty while there is none."""
    for path in host.work.glob("runs/*-1/state.json"):
        with contextlib.suppress(OSError):
            return json.loads(path.read_text())
    return {}


def kill_and_restart(host: Host, worker: subprocess.Popen[bytes], done: Callable[[], Any] = lambda: True) -> None:
    """Kill a worker and start the next one once something is done.

    The shim stands still meanwhile, so that it does not give up waiting because this machine is busy.
    """
    shim = int(state(host)["shim"].partition(":")[0])
    os.kill(shim, signal.SIGSTOP)
    worker.kill()
    worker.wait()
    until(done)
    host.start()
    until(lambda: "trainer taken over" in host.errors)
    os.kill(shim, signal.SIGCONT)


def test_a_restarted_worker_takes_over_a_trainer_that_lives(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("patient"))
    worker = host.start()
    [log] = until(lambda: list(host.work.glob("runs/*/log.head")))
    beats = len(stub.calls("heartbeat"))
    kill_and_restart(host, worker)
    told = stub.wait_for("heartbeat", beats + 3)[-1].json
    assert (told["lease_id"], told["held_leases"]) == ("lease-a-0001", ["lease-a-0001"])
    assert told["progress"]["step"] == 1
    (log.parent / "scratch" / "go").touch()
    assert stub.wait_for("complete")[0].json["lease_id"] == "lease-a-0001"
    assert stub.calls("fail") == []
    until(lambda: host.runs() == [])


def test_the_log_of_a_trainer_that_was_taken_over_goes_on_where_it_was(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("patient_failure"))
    worker = host.start()
    until(lambda: "started" in "".join(path.read_text() for path in host.work.glob("runs/*/log.head")))
    kill_and_restart(host, worker)
    [run] = host.runs()
    (run / "scratch" / "go").touch()
    report = failure(stub)
    assert (report["kind"], report["exit_status"]) == ("trainer_error", 1)
    assert report["log_tail"] == "started\nended\n"


def test_a_wall_limit_counts_the_time_before_the_trainer_was_taken_over(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("patient", timeout_s=3))
    worker = host.start()
    shim = until(lambda: state(host).get("shim"))
    kill_and_restart(host, worker, lambda: running_s(shim) > 3)
    assert failure(stub)["kind"] == "timeout"


def test_why_a_trainer_is_stopped_outlives_the_worker(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("stubborn", timeout_s=1))
    worker = host.start("--grace-s", "5")
    until(lambda: state(host).get("stopped"))
    worker.kill()
    worker.wait()
    host.start()
    report = failure(stub)
    assert (report["kind"], report["error"]) == ("timeout", "stopped after its wall limit of 1 s")


def test_a_restarted_worker_reports_a_training_that_died_with_the_first_one(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("patient"))
    worker = host.start()
    until(lambda: list(host.work.glob("runs/*/log.head")))
    shim = int(state(host)["shim"].partition(":")[0])
    worker.kill()
    worker.wait()
    os.kill(shim, signal.SIGKILL)
    host.start()
    report = failure(stub)
    assert (report["kind"], report["lease_id"]) == ("lost", "lease-a-0001")


def test_a_job_whose_grant_the_killed_worker_never_saw_is_asked_for_with_the_same_question(
    host: Host, stub: StubReceiver
) -> None:
    stub.script["claim"] = [lambda seen: worker.kill() or (200, {}, lease("good"))]  # type: ignore[func-returns-value]
    worker = host.start()
    worker.wait()
    stub.offer(lease("good"))
    host.start()
    stub.wait_for("complete")
    first, second, *_ = (seen.json["claim_id"] for seen in stub.calls("claim"))
    assert first == second


def test_a_question_that_a_run_is_the_answer_to_is_not_asked_again(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("patient"))
    worker = host.start()
    until(lambda: list(host.work.glob("runs/*/log.head")))
    worker.kill()
    worker.wait()
    asked = stub.calls("claim")[0].json["claim_id"]
    (host.work / "claim").write_text(asked)  # as if it was killed before it wrote down the next one
    host.start("--slots", "2")
    assert stub.wait_for("claim", 2)[-1].json["claim_id"] != asked


def test_an_inherited_question_that_was_used_up_is_replaced_at_once(host: Host, stub: StubReceiver) -> None:
    host.work.mkdir()
    (host.work / "claim").write_text("0" * 32)
    stub.script["claim"] = [problem(409, "wrong_state", "ask with a new claim_id")]
    stub.offer(lease("good"))
    host.start()
    stub.wait_for("complete")
    first, second, *_ = (seen.json["claim_id"] for seen in stub.calls("claim"))
    assert first == "0" * 32 != second


def test_a_restarted_worker_finishes_an_upload_that_was_under_way(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("good"))
    stub.script["upload"] = [problem(503, "unavailable")] * 1000
    worker = host.start()
    stub.wait_for("upload")
    worker.kill()
    worker.wait()
    stub.script["upload"] = []
    assert host.once() == 1
    assert stub.calls("complete")[0].json["lease_id"] == "lease-a-0001"
    assert host.runs() == []


def test_a_trainer_that_was_killed_finds_its_checkpoint_when_the_job_comes_back(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("checkpoint"))
    assert host.once() == 1
    assert failure(stub)["kind"] == "trainer_error"
    assert (host.work / "resume" / ("a" * 64) / "step").read_text() == "7"
    stub.offer(lease("checkpoint", fence=2))
    assert host.once() == 0
    from backports.zstd import decompress

    [bundle] = stub.stored.values()
    assert b"resumed at step 7" in decompress(bundle)


def test_a_receiver_that_is_away_at_the_end_costs_no_training(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("good", heartbeat_s=30.0))
    reached = stub.script["upload"] = [problem(503, "unavailable")]
    host.start()
    until(lambda: not reached)
    stub.stop()
    time.sleep(1)
    stub.start()
    assert stub.wait_for("complete")[0].json["lease_id"] == "lease-a-0001"


def test_sigterm_while_the_receiver_is_away_leaves_the_upload_for_the_next_start(
    host: Host, stub: StubReceiver
) -> None:
    stub.offer(lease("good"))
    stub.script["upload"] = [problem(503, "unavailable", headers={"Retry-After": "100"})] * 1000
    worker = host.start()
    stub.wait_for("upload")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=20) == 0
    [run] = host.runs()
    assert json.loads((run / "state.json").read_text())["step"] == "packed"


def test_sigterm_while_an_upload_is_under_way_lets_it_end(host: Host, stub: StubReceiver) -> None:
    def stopped_meanwhile(seen: Seen) -> Reply:
        worker.send_signal(signal.SIGTERM)
        until(lambda: "stopping" in host.errors)
        return stub.usual("upload", seen)

    stub.offer(lease("good"))
    stub.script["upload"] = [stopped_meanwhile]
    worker = host.start()
    assert worker.wait(timeout=20) == 0
    assert len(stub.calls("upload")) == len(stub.calls("complete")) == 1
    assert host.runs() == []


def test_a_lost_answer_to_a_claim_is_asked_for_with_the_same_claim_id(host: Host, stub: StubReceiver) -> None:
    stub.script["claim"] = [problem(503, "unavailable")]
    stub.offer(lease("good"))
    assert host.once("--wait", "10") == 0
    first, second = (seen.json["claim_id"] for seen in stub.calls("claim"))
    assert first == second


def test_each_job_is_asked_for_with_its_own_claim_id(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("good"))
    stub.offer(lease("good", job="b"))
    host.start()
    stub.wait_for("complete", 2)
    asked = [seen.json["claim_id"] for seen in stub.calls("claim")]
    assert len(set(asked)) == len(asked)


def test_a_wall_limit_ends_a_training_as_timeout(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("slow", timeout_s=1))
    assert host.once() == 1
    assert failure(stub)["kind"] == "timeout"


def test_a_training_that_says_nothing_ends_as_stalled_with_a_dump(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("polite"))
    assert host.once("--stall-s", "1") == 1
    report = failure(stub)
    assert report["kind"] == "stalled"
    assert "Fatal Python error: Aborted" in report["log_tail"]


def test_a_full_disk_ends_a_training_and_takes_no_job(host: Host, stub: StubReceiver) -> None:
    worker = host.start("--min-free-gib", "1000000")
    until(lambda: "the disk is full" in host.errors)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=10) == 0
    assert stub.calls("claim") == []


def test_a_trainer_with_another_declaration_is_refused_before_it_starts(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("good", trainer_contract="sha256:" + "0" * 64))
    assert host.once() == 1
    report = failure(stub)
    assert (report["kind"], report["exit_status"]) == ("spec_rejected", None)
    assert "bring both to the same version" in report["error"]


def test_a_trainer_with_the_declared_contract_trains(host: Host, stub: StubReceiver) -> None:
    from training.trainer.hyper import contract_digest

    contract = contract_digest(DECLARATION)
    stub.offer(lease("good", trainer_contract=contract))
    assert host.once() == 0


def test_a_trainer_that_does_not_exist_says_so(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("good", command=["no-such-trainer"]))
    assert host.once() == 1
    report = failure(stub)
    assert report["kind"] == "trainer_error"
    assert "no-such-trainer cannot be started: No such file or directory" in report["error"]


def test_two_slots_train_two_jobs_at_once(host: Host, stub: StubReceiver) -> None:
    stub.offer(lease("slow"))
    stub.offer(lease("slow", job="b"))
    host.start("--slots", "2")
    until(lambda: len({beat.path for beat in stub.calls("heartbeat")}) == 2)
    held = until(
        lambda: [beat.json["held_leases"] for beat in stub.calls("heartbeat") if len(beat.json["held_leases"]) > 1]
    )
    assert sorted(held[0]) == ["lease-a-0001", "lease-b-0001"]


def test_a_lease_the_receiver_does_not_know_is_asked_about_at_once(host: Host, stub: StubReceiver) -> None:
    """It ends when its own heartbeat is refused, so that a late result can still be adopted."""
    stub.offer(lease("slow", heartbeat_s=60.0))
    host.start("--slots", "2")
    stub.wait_for("heartbeat")
    refuse = problem(409, "stale_lease")
    stub.script["heartbeat"] = [lambda seen: refuse if "aaaa" in seen.path else (200, {}, stub.beat)] * 99
    stub.offer(lease("slow", job="b", stop=["lease-a-0001"]))
    until(lambda: '"over"' in (host.work / "runs" / ("a" * 12 + "-1") / "state.json").read_text())
    assert stub.calls("fail") == []


def test_a_second_worker_of_one_folder_is_refused(host: Host, stub: StubReceiver) -> None:
    host.start()
    stub.wait_for("claim")
    assert host.once() == 78
    assert "another worker uses" in host.errors


def test_a_refused_host_says_why_and_exits_with_77_when_asked_once(host: Host, stub: StubReceiver) -> None:
    stub.script["claim"] = [problem(403, "host_refused", "the manifest does not admit box")]
    assert host.once() == 77
    assert "the manifest does not admit box" in host.errors


def test_an_absent_receiver_ends_once_with_69(host: Host, stub: StubReceiver) -> None:
    stub.stop()
    assert host.once() == 69
    assert f"no answer from {stub.url}" in host.errors
    stub.start()


def test_a_worker_too_old_ends_with_78(host: Host, stub: StubReceiver) -> None:
    stub.script["claim"] = [problem(426, "upgrade_required", "needs 9.0 or newer")]
    assert host.start().wait(timeout=20) == 78
    assert "needs 9.0 or newer" in host.errors


def test_bad_settings_are_all_named_and_end_with_78(host: Host, stub: StubReceiver) -> None:
    assert host.start("--slots", "0", "--stall-s", "soon").wait(timeout=20) == 78
    assert "flag --slots: found '0', expected at least 1" in host.errors
    assert "flag --stall-s: found 'soon', expected a number" in host.errors
    assert "Traceback" not in host.errors


def test_the_service_manager_hears_when_the_receiver_lists_the_host(
    host: Host, stub: StubReceiver, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        more = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        worker = host.start(environ={**ENVIRON, **more})
        said = [manager.recv(4096).decode()]
        while not {f"READY=1\nSTATUS=listed at {stub.url}", "WATCHDOG=1"} <= set(said):
            said.append(manager.recv(4096).decode())
            assert len(said) < MOST_SAID, said
        worker.terminate()
        while not said[-1].startswith("STOPPING=1"):
            said.append(manager.recv(4096).decode())
            assert len(said) < MOST_SAID, said
        assert worker.wait(20) == 0
    assert said[0] == f"READY=1\nSTATUS=looking at this host; {stub.url} has not answered yet"
