"""One attempt and the loop around it, in this process, against the stub receiver: what is rare or hard to time."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from backports.zstd import decompress
from stub_receiver import Reply, Seen, StubReceiver, lease, problem, route

from training.fleet.capability import cards
from training.fleet.client import Client
from training.fleet.model.capability import Capability, Datasets, Gpu
from training.fleet.model.errors import ConfigurationError, UnavailableError, UnreachableError, UpgradeRequiredError
from training.fleet.wire.worker import Beat, Fail, Lease
from training.fleet.worker import loop as loop_module
from training.fleet.worker.ages import Ages
from training.fleet.worker.beats import Beats, Listener
from training.fleet.worker.folder import RunFolder, RunState
from training.fleet.worker.journal import Journal
from training.fleet.worker.loop import Worker
from training.fleet.worker.options import Options, options
from training.fleet.worker.process.local import ShimTraining
from training.fleet.worker.run import attempt as attempt_module
from training.fleet.worker.run import deliver, prepare, watch
from training.fleet.worker.run import run as run_module
from training.fleet.worker.run.attempt import Attempt
from training.fleet.worker.run.run import Rules, Workplace
from training.fleet.worker.start import Contracts, Seat

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
PLAIN = Capability("box")
REPORT = {"status": 0, "asked": "", "error": "", "max_rss_bytes": 5, "duration_s": 2.5, "rest": ""}


@pytest.fixture
def stub() -> Iterator[StubReceiver]:
    receiver = StubReceiver()
    yield receiver
    receiver.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (run_module, "RETRY_S", 0.01), (run_module, "RETRY_CAP_S", 0.05), (watch, "TICK_S", 0.05),
        (deliver, "UPLOAD_DEADLINE_S", 0.0), (deliver, "LEAVING_DEADLINE_S", 0.0),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    for name in ("AWAY_S", "REFUSED_S"):
        monkeypatch.setattr(loop_module, name, 0.01)


class Bench:
    """Makes attempts in every state."""

    def __init__(self, stub: StubReceiver, folder: Path) -> None:
        self.stub = stub
        self.client = Client(stub.url)
        self.folder = RunFolder(folder / "run")
        self.words = io.StringIO()
        self.heard: list[Beat] = []
        self.rules = Rules(grace_s=0.3, min_free_bytes=0, trainer_dir=HELPERS)

    def attempt(self, step: str = "claimed", *, resumed: bool = False, act: str = "good", **changes: Any) -> Attempt:
        granted = Lease(**lease(act, heartbeat_s=0.1))
        state = RunState(step, granted, **changes)  # type: ignore[arg-type]
        if not self.folder.path.exists():
            self.folder.make(state)
        if resumed:
            self.folder.save(state)
        place = Workplace(Seat(1), {}, Contracts(None, HELPERS), lambda: [granted.lease_id], self.heard.append)
        return Attempt(self.client, self.rules, place, self.folder, state, Journal(self.words), resumed=resumed)

    def made(self) -> None:
        """Make the folder as a worker that began a run has left it."""
        if not self.folder.path.exists():
            self.folder.make(RunState("claimed", Lease(**lease("good"))))

    def packed(self) -> Attempt:
        """An attempt whose training is done, by an earlier worker."""
        self.made()
        self.folder.artifact.mkdir()
        (self.folder.artifact / "model.txt").write_text("model")
        self.folder.report.write_text(json.dumps(REPORT))
        return self.attempt("training", resumed=True)

    def step(self) -> tuple[str, str]:
        state = self.folder.load()
        assert state is not None
        return state.step, state.why

    def reported(self) -> dict[str, Any]:
        return self.stub.calls("fail")[-1].json


@pytest.fixture
def bench(stub: StubReceiver, tmp_path: Path) -> Iterator[Bench]:
    it = Bench(stub, tmp_path)
    yield it
    it.client.close()


def test_a_training_that_ended_well_while_no_worker_looked_is_uploaded(bench: Bench, stub: StubReceiver) -> None:
    assert bench.packed().run() == "completed"
    assert stub.calls("complete")[0].json["duration_s"] == 2.5


def test_a_heartbeat_is_answered_before_the_upload_of_an_earlier_run(bench: Bench, stub: StubReceiver) -> None:
    order: list[str] = []

    def answer_late(seen: Seen) -> Reply:
        time.sleep(0.3)
        order.append("heartbeat answered")
        return 200, {}, stub.beat

    def upload(seen: Seen) -> Reply:
        order.append("upload")
        return stub.usual("upload", seen)

    stub.script["heartbeat"] = [answer_late]
    stub.script["upload"] = [upload]
    bench.packed().run()
    assert order == ["heartbeat answered", "upload"]


def test_a_job_shows_that_its_upload_waits_and_why(bench: Bench, stub: StubReceiver) -> None:
    def until_told(seen: Seen) -> Reply:
        stub.wait_for("heartbeat", len(stub.calls("heartbeat")) + 1)
        return problem(507, "storage_full", "the store is full")

    stub.script["upload"] = [problem(507, "storage_full", "the store is full"), until_told, until_told]
    assert bench.packed().run() == "completed"
    phases = [seen.json["progress"]["phase"] for seen in stub.calls("heartbeat") if seen.json.get("progress")]
    assert re.fullmatch(r"uploading: store full since \d\d:\d\d UTC", phases[-1])


PROXIES = [
    (404, {"Content-Type": "text/plain"}, b"404 page not found\n"),
    (409, {"Content-Type": "text/html"}, b"<html>"),
    (413, {"Content-Type": "text/html"}, b"<html>Request Entity Too Large</html>"),
    (502, {"Content-Type": "text/html"}, b"<html>Bad Gateway</html>"),
    (200, {"Content-Type": "text/html"}, b"<html>please log in</html>"),
]


@pytest.mark.parametrize("reply", PROXIES, ids=lambda reply: str(reply[0]))
@pytest.mark.parametrize("verb", ["heartbeat", "upload", "complete"])
def test_an_answer_of_a_proxy_costs_no_result(bench: Bench, stub: StubReceiver, verb: str, reply: Reply) -> None:
    stub.script[verb] = [reply] * 2
    assert bench.packed().run() == "completed"
    assert len(stub.calls("complete")) == (3 if verb == "complete" else 1)


@pytest.mark.parametrize("reply", PROXIES, ids=lambda reply: str(reply[0]))
def test_an_answer_of_a_proxy_does_not_end_a_training(bench: Bench, stub: StubReceiver, reply: Reply) -> None:
    stub.script["heartbeat"] = [reply] * 3
    assert bench.attempt().run() == "completed"


def test_heartbeats_go_on_while_an_upload_takes_its_time(bench: Bench, stub: StubReceiver) -> None:
    beaten: list[int] = []

    def slow(seen: Seen) -> Reply:
        before = len(stub.calls("heartbeat"))
        beaten.append(len(stub.wait_for("heartbeat", before + 3, timeout_s=5)) - before)
        return stub.usual("upload", seen)

    stub.script["upload"] = [slow]
    assert bench.packed().run() == "completed"
    assert [count >= 3 for count in beaten] == [True]


def test_the_first_act_after_a_sleep_is_a_heartbeat(
    bench: Bench, stub: StubReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]

    def sleep(_seen: Seen) -> Reply:
        now[0] += 8 * 3600
        return problem(503, "unavailable")

    monkeypatch.setattr("training.fleet.worker.beats.clock_s", lambda: now[0])
    monkeypatch.setattr(Beats, "start", lambda _self: None)
    stub.script["upload"] = [sleep]
    assert bench.packed().run() == "completed"
    assert [route(seen) for seen in stub.seen] == ["heartbeat", "upload", "heartbeat", "upload", "complete"]


def test_a_lease_lost_over_a_sleep_is_not_uploaded_for(
    bench: Bench, stub: StubReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]

    def sleep(_seen: Seen) -> Reply:
        now[0] += 8 * 3600
        stub.script["heartbeat"] = [problem(409, "stale_lease")]
        stub.script["complete"] = [problem(409, "stale_lease")]
        return problem(503, "unavailable")

    monkeypatch.setattr("training.fleet.worker.beats.clock_s", lambda: now[0])
    monkeypatch.setattr(Beats, "start", lambda _self: None)
    stub.script["upload"] = [sleep]
    assert bench.packed().run() == "over"
    assert [route(seen) for seen in stub.seen] == ["heartbeat", "upload", "heartbeat", "complete"]


def test_a_training_that_failed_while_no_worker_looked_is_reported(bench: Bench) -> None:
    bench.made()
    (bench.folder.path / "log.head").write_text("ValueError: x\n")
    bench.folder.report.write_text(json.dumps({**REPORT, "status": 1}))
    assert bench.attempt("training", resumed=True).run() == "failed"
    assert (bench.reported()["kind"], bench.reported()["error"]) == ("trainer_error", "ValueError: x")
    assert bench.step() == ("over", "trainer_error: ValueError: x")


def test_what_was_printed_while_no_worker_looked_is_reported(bench: Bench) -> None:
    bench.made()
    (bench.folder.path / "log.head").write_text("epoch 1\n")
    bench.folder.report.write_text(json.dumps({**REPORT, "status": 1, "rest": "KeyError: 7\n"}))
    assert bench.attempt("training", resumed=True).run() == "failed"
    assert (bench.reported()["error"], bench.reported()["log_tail"]) == ("KeyError: 7", "epoch 1\nKeyError: 7\n")


def test_a_training_nobody_saw_the_end_of_is_lost(bench: Bench) -> None:
    assert bench.attempt("training", resumed=True, shim="1:1").run() == "failed"
    assert bench.reported()["kind"] == "lost"


def test_a_lease_that_was_never_started_is_given_back(bench: Bench) -> None:
    assert bench.attempt(resumed=True).run() == "released"
    assert bench.reported()["error"] == "the worker was restarted before the trainer ran"


def test_a_run_that_is_over_stays_over(bench: Bench, stub: StubReceiver) -> None:
    assert bench.attempt("over", resumed=True).run() == "over"
    assert stub.seen == []


@pytest.mark.parametrize("code", ["stale_lease", "other_result", "not_found"])
def test_a_result_nobody_waits_for_is_kept_and_not_sent_again(bench: Bench, stub: StubReceiver, code: str) -> None:
    stub.script["upload"] = [problem(404 if code == "not_found" else 409, code, "too late")]
    assert bench.packed().run() == "over"
    assert bench.step() == ("over", "too late")


def test_a_lease_lost_before_the_upload_ends_the_run(bench: Bench, stub: StubReceiver) -> None:
    stub.script["heartbeat"] = [problem(409, "stale_lease", "another has it")]
    stub.script["complete"] = [problem(409, "stale_lease")]
    assert bench.packed().run() == "over"
    assert bench.step() == ("over", "another has it")
    assert stub.calls("upload") == []


def test_a_result_whose_answer_got_lost_is_told_again_and_not_kept_as_lost(bench: Bench, stub: StubReceiver) -> None:
    stub.script["heartbeat"] = [problem(409, "stale_lease", "the job is completed")]
    stub.script["complete"] = [problem(503, "unavailable")]
    assert bench.packed().run() == "completed"
    assert len(stub.calls("complete")) == 2
    assert not bench.folder.path.exists()


def test_an_artifact_the_store_lost_is_uploaded_again(bench: Bench, stub: StubReceiver) -> None:
    stub.script["complete"] = [problem(412, "artifact_missing")]
    assert bench.packed().run() == "completed"
    assert len(stub.calls("upload")) == 2


def test_a_damaged_bundle_is_packed_again(bench: Bench, stub: StubReceiver) -> None:
    stub.script["upload"] = [problem(422, "digest_mismatch")] * 2
    assert bench.packed().run() == "completed"
    assert len(stub.calls("upload")) == 3


def test_a_bundle_that_is_damaged_each_time_is_the_hosts_fault(bench: Bench, stub: StubReceiver) -> None:
    stub.script["upload"] = [problem(422, "digest_mismatch")] * 9
    assert bench.packed().run() == "released"
    assert bench.reported()["kind"] == "host_fault"
    assert len(stub.calls("upload")) == 4


def test_a_bundle_that_is_too_large_fails_with_the_receivers_words(bench: Bench, stub: StubReceiver) -> None:
    stub.script["upload"] = [problem(413, "too_large", "2 GiB are over the limit of 1 GiB")]
    assert bench.packed().run() == "failed"
    assert bench.reported()["error"] == "the receiver refused the result: 2 GiB are over the limit of 1 GiB"


def test_a_bundle_that_vanished_is_the_hosts_fault(bench: Bench) -> None:
    assert bench.attempt("packed", resumed=True, artifact="b" * 64).run() == "released"
    assert bench.reported()["error"] == "the bundle cannot be read: No such file or directory"


@pytest.mark.parametrize("reply", [problem(401, "unauthenticated"), problem(507, "storage_full"), (502, {}, b"")])
def test_what_may_be_mended_is_waited_for(bench: Bench, stub: StubReceiver, reply: Any) -> None:
    stub.script["upload"] = [reply] * 3
    assert bench.packed().run() == "completed"


def test_an_artifact_that_cannot_be_packed_fails_with_its_reason(bench: Bench) -> None:
    bench.made()
    bench.folder.artifact.mkdir()
    (bench.folder.artifact / "file").write_text("x")
    (bench.folder.artifact / "link").symlink_to("file")
    bench.folder.report.write_text(json.dumps(REPORT))
    assert bench.attempt("training", resumed=True).run() == "failed"
    assert bench.reported()["kind"] == "no_artifact"
    assert "link" in bench.reported()["error"]


def test_a_report_the_receiver_cannot_read_is_sent_in_a_plainer_form(bench: Bench, stub: StubReceiver) -> None:
    stub.script["fail"] = [problem(422, "invalid_message")]
    failure = Fail("lease-a-0001", "stalled", error="ü", log_tail="tail")
    assert bench.attempt("failed", resumed=True, failure=failure).run() == "failed"
    assert (bench.reported()["error"], bench.reported()["log_tail"]) == ("'\\xfc'", "")


def test_a_report_the_receiver_never_reads_is_given_up(bench: Bench, stub: StubReceiver) -> None:
    stub.script["fail"] = [problem(422, "invalid_message", "no")] * 2
    failure = Fail("lease-a-0001", "stalled", error="e", log_tail="tail")
    assert bench.attempt("failed", resumed=True, failure=failure).run() == "over"
    assert bench.step()[1].endswith("(not taken: no)")


def test_a_report_nobody_waits_for_is_given_up(bench: Bench, stub: StubReceiver) -> None:
    stub.script["fail"] = [problem(409, "stale_lease", "too late")]
    failure = Fail("lease-a-0001", "stalled", error="e")
    assert bench.attempt("failed", resumed=True, failure=failure).run() == "over"
    assert bench.step()[1] == "stalled: e (not taken: too late)"


def test_a_report_is_repeated_until_it_is_taken(bench: Bench, stub: StubReceiver) -> None:
    stub.script["fail"] = [problem(503, "unavailable")] * 3
    assert bench.attempt("failed", resumed=True, failure=Fail("lease-a-0001", "stalled")).run() == "failed"
    assert len(stub.calls("fail")) == 4


def test_a_worker_that_leaves_keeps_its_report_for_the_next_start(bench: Bench, stub: StubReceiver) -> None:
    stub.script["fail"] = [problem(503, "unavailable")] * 9
    attempt = bench.attempt("failed", resumed=True, failure=Fail("lease-a-0001", "stalled"))
    attempt.release()
    assert attempt.run() == "kept"
    assert bench.step()[0] == "failed"


@pytest.mark.parametrize(
    ("kind", "cancelled", "done_here"),
    [
        ("preempted", True, True),
        ("spec_rejected", False, True),
        ("preempted", False, False),
        ("stalled", False, False),
        ("lost", False, False),
    ],
)
def test_a_job_is_done_here_when_it_can_never_come_back(
    bench: Bench, kind: Any, cancelled: bool, done_here: bool
) -> None:
    failure = Fail("lease-a-0001", kind, error="why")
    attempt = bench.attempt("failed", resumed=True, failure=failure, cancelled=cancelled)
    attempt.run()
    assert attempt.done_here is done_here


def test_a_job_that_the_operator_cancels_while_it_runs_is_done_here(bench: Bench, stub: StubReceiver) -> None:
    stub.beat = {"lease_s": 600.0, "cancel": True}
    attempt = bench.attempt(act="polite")
    assert attempt.run() == "released"
    assert (bench.reported()["error"], attempt.done_here) == ("cancelled by the operator", True)


def test_a_completed_job_is_done_here(bench: Bench) -> None:
    attempt = bench.packed()
    assert not attempt.done_here
    attempt.run()
    assert attempt.done_here


def test_a_full_disk_ends_a_running_trainer(bench: Bench) -> None:
    bench.rules = dataclasses.replace(bench.rules, min_free_bytes=2**62)
    assert bench.attempt(act="slow").run() == "released"
    assert bench.reported()["kind"] == "disk_full"


def test_a_silent_receiver_ends_a_trainer_only_when_told_so(bench: Bench, stub: StubReceiver) -> None:
    bench.rules = dataclasses.replace(bench.rules, stop_when_lost=True)
    attempt = bench.attempt(act="slow")
    stub.script["heartbeat"] = [problem(503, "unavailable")] * 3
    attempt._run._silence(0.89, "away")
    assert attempt._run.wish is None
    attempt._run._silence(0.91, "away")
    assert attempt.run() == "failed"
    assert (bench.reported()["kind"], bench.reported()["error"]) == (
        "lost",
        "the receiver was out of reach for most of the lease",
    )


def test_a_lease_lost_while_a_trainer_has_its_grace_ends_it_at_once(bench: Bench) -> None:
    bench.rules = dataclasses.replace(bench.rules, grace_s=600.0)
    attempt = bench.attempt(act="stubborn")
    running = threading.Thread(target=attempt.run)
    running.start()
    end = time.monotonic() + 10
    while b"stubborn" not in b"".join(path.read_bytes() for path in bench.folder.path.glob("log.head")):
        assert time.monotonic() < end
        time.sleep(0.01)
    attempt.release()
    while bench.folder.load().stopped is None:  # type: ignore[union-attr]
        assert time.monotonic() < end
        time.sleep(0.01)
    attempt._run.lose("somebody else has it")
    running.join(10)
    ended = not running.is_alive()
    attempt.release(hurry=True)
    running.join()
    assert ended
    assert bench.step() == ("over", "somebody else has it")


def test_a_trainer_that_cannot_be_killed_does_not_hold_the_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "UNKILLABLE_S", -10.0)
    attempt = bench.attempt(act="stubborn")
    attempt.release()
    assert attempt.run() == "released"
    assert bench.reported()["kind"] == "host_fault"
    assert attempt._run.training is not None
    attempt._run.training.kill()
    assert attempt._run.training.ended.wait(10)


def test_a_shim_that_cannot_be_started_is_the_hosts_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **rest: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(prepare, "launch", broken)
    assert bench.attempt().run() == "released"
    assert "the trainer could not be started: [Errno 11]" in bench.reported()["error"]


def test_a_trainer_gets_the_variables_of_its_lease_and_its_host(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    def looked_at(command: object, folder: object, environ: dict[str, str], *args: object, **rest: object) -> None:
        seen.append(environ)
        raise OSError(11, "enough")

    monkeypatch.setattr(prepare, "launch", looked_at)
    monkeypatch.setenv("MY_PROXY", "here")
    bench.rules = dataclasses.replace(bench.rules, pass_env=("MY_PROXY",))
    attempt = bench.attempt()
    lease_of = attempt._run.state.lease
    attempt._run.state = dataclasses.replace(
        attempt._run.state, lease=dataclasses.replace(lease_of, trainer_env={"MY_FLAG": "1"})
    )
    attempt.run()
    assert (seen[0]["MY_FLAG"], seen[0]["MY_PROXY"]) == ("1", "here")


def test_nothing_starts_when_the_state_cannot_be_saved(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: RunFolder, state: RunState) -> None:
        raise OSError(28, "No space left on device")

    attempt = bench.attempt(act="slow")
    monkeypatch.setattr(RunFolder, "save", full)
    assert attempt.run() == "released"
    assert bench.reported()["kind"] == "host_fault"
    assert not bench.folder.progress.exists()
    assert attempt._run.training is not None
    assert attempt._run.training.ended.wait(10)
    assert "state not saved" in bench.words.getvalue()


def test_a_fault_of_the_worker_is_reported_and_not_left_to_the_lease(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, elapsed_s: float) -> bool:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("training.fleet.worker.progress.ProgressFile.poll", broken)
    attempt = bench.attempt(act="slow")
    assert attempt.run() == "released"
    assert bench.reported()["error"] == "a fault of the worker, please report it: ZeroDivisionError: oops"
    assert attempt._run.training is not None
    assert attempt._run.training.ended.is_set()


def test_a_fault_while_a_failure_is_reported_ends_the_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, *args: object, **rest: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Client, "fail", broken)
    with pytest.raises(ZeroDivisionError):
        bench.attempt("failed", resumed=True, failure=Fail("lease-a-0001", "stalled")).run()


def test_a_run_folder_that_vanished_is_the_trainers_error(bench: Bench) -> None:
    attempt = bench.attempt("training", resumed=True)
    bench.folder.remove()
    assert attempt.run() == "failed"
    assert bench.reported()["error"] == "the folder of the run was deleted while the trainer ran"


def test_a_packing_that_runs_out_of_disk_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.fleet.bundle.pack", full)
    assert bench.packed().run() == "released"
    assert bench.reported()["kind"] == "disk_full"


# ---- heartbeats -----------------------------------------------------------------------------------------------------


def test_heartbeats_are_tried_again_soon_and_report_the_silence(stub: StubReceiver) -> None:
    silence: list[float] = []
    answered = threading.Event()
    listener = Listener(
        lambda: None, list, lambda beat: answered.set(), lambda why: None, lambda part, why: silence.append(part)
    )
    stub.script["heartbeat"] = [problem(503, "unavailable")]
    client = Client(stub.url)
    beats = Beats(client, Lease(**lease("good", heartbeat_s=30.0)), listener)
    beats.start()
    beats.start()
    assert answered.wait(5)
    beats.stop()
    beats._thread.join(5)
    assert len(silence) == 1
    assert 0 <= silence[0] < 0.1
    assert len(stub.calls("heartbeat")) == 2


# ---- the loop -------------------------------------------------------------------------------------------------------


class Site:
    """A worker in this process."""

    def __init__(self, stub: StubReceiver, work: Path) -> None:
        self.stub, self.work = stub, work
        self.words = io.StringIO()
        self.workers: list[Worker] = []
        self.threads: list[threading.Thread] = []

    def options(self, **changes: Any) -> Options:
        flags = {"receiver": self.stub.url, "work_dir": str(self.work), "min_free_gib": "0", "grace_s": "0.3"}
        return dataclasses.replace(options({**flags, "trainer_dir": str(HELPERS)}, {}), **changes)

    def worker(
        self, capability: Capability = PLAIN, detect: Callable[[], Capability] | None = None, **changes: Any
    ) -> Worker:
        self.work.mkdir(exist_ok=True)
        chosen = self.options(**changes)
        worker = Worker(
            chosen, detect or (lambda: capability), lambda: Client(chosen.receiver, deadline_s=0), Journal(self.words)
        )
        self.workers.append(worker)
        return worker

    def serve(self, **changes: Any) -> Worker:
        worker = self.worker(**changes)
        thread = threading.Thread(target=worker.serve)
        thread.start()
        self.threads.append(thread)
        return worker

    def says(self, text: str) -> None:
        end = time.monotonic() + 10
        while text not in self.words.getvalue():
            assert time.monotonic() < end, self.words.getvalue()
            time.sleep(0.01)


@pytest.fixture
def site(stub: StubReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(loop_module, "refresh", lambda capability, work_dir, datasets: capability)
    it = Site(stub, tmp_path / "work")
    yield it
    for worker in it.workers:
        worker.stop()
    for thread in it.threads:
        thread.join(20)
        assert not thread.is_alive()


def test_a_refused_worker_asks_again_with_a_new_question(site: Site, stub: StubReceiver) -> None:
    stub.script["claim"] = [problem(403, "host_refused", "not admitted")] * 2
    site.serve()
    asked = stub.wait_for("claim", 3)
    assert len({seen.json["claim_id"] for seen in asked[:3]}) == 3
    assert site.words.getvalue().count("the receiver refuses this worker") == 1


@pytest.mark.parametrize(("cuda", "device", "card"), [(True, "cuda", "GPU-7"), (False, "cpu", "")])
def test_a_trainer_gets_the_card_only_where_the_lease_says_so(
    site: Site, stub: StubReceiver, cuda: bool, device: str, card: str
) -> None:
    gpus = (Gpu("card", "GPU-7", 2**33, 2**33, "550"),)
    stub.offer(lease("dump_environment", cuda=cuda))
    assert site.worker(Capability("box", gpus=gpus, cuda_usable=True)).serve_once(1) == "completed"
    text = decompress(next(iter(stub.stored.values()))).decode("utf-8", "replace")
    assert f'"CUDA_VISIBLE_DEVICES": "{card}"' in text
    assert f'"device": "{device}"' in text


@pytest.mark.parametrize(
    ("free_bytes", "kind", "outcome"), [(2**32, "host_fault", "released"), (2**33 - 2**30, "oom_gpu", "failed")]
)
def test_a_card_that_others_fill_is_no_word_on_what_the_job_needs(
    site: Site, stub: StubReceiver, monkeypatch: pytest.MonkeyPatch, free_bytes: int, kind: str, outcome: str
) -> None:
    idle = Gpu("card", "GPU-7", 2**33, 2**33, "550")
    monkeypatch.setattr(cards, "find", lambda _: (dataclasses.replace(idle, free_vram_bytes=free_bytes),))
    stub.offer(lease("oom_gpu", cuda=True))
    assert site.worker(Capability("box", gpus=(idle,), cuda_usable=True)).serve_once(1) == outcome
    told = stub.wait_for("fail", 1)[0].json
    assert told["kind"] == kind
    assert ("other programs hold 4.0 of the card's 8.0 GiB" in told["error"]) is (kind == "host_fault")


def test_an_early_answer_without_a_job_is_not_asked_again_at_once(site: Site, stub: StubReceiver) -> None:
    # The first question is not parked, so its answer is never early.
    stub.script["claim"] = [(204, {}, b""), (204, {"Retry-After": "0.3"}, b"")]
    site.serve()
    stub.wait_for("claim", 2)
    began = time.monotonic()
    stub.wait_for("claim", 3)
    assert time.monotonic() - began > 0.2


def test_a_lease_that_makes_no_sense_is_left_alone(site: Site, stub: StubReceiver) -> None:
    stub.offer(lease("good", job_id="../../etc"))
    site.serve()
    site.says("a lease that makes no sense")
    assert list((site.work / "runs").iterdir()) == []


def test_a_run_folder_that_cannot_be_made_gives_the_job_back(
    site: Site, stub: StubReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: RunFolder, state: RunState) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "make", full)
    stub.offer(lease("good"))
    assert site.worker().serve_once(0) is None
    assert stub.calls("fail")[0].json["kind"] == "host_fault"
    stub.script["fail"] = [problem(503, "unavailable")]
    stub.offer(lease("good"))
    assert site.worker().serve_once(0) is None
    site.says("its lease will run out")


def test_a_folder_of_the_same_name_is_not_touched(site: Site, stub: StubReceiver) -> None:
    old = site.work / "runs" / ("a" * 12 + "-1")
    old.mkdir(parents=True)
    (old / "precious").write_text("x")
    stub.offer(lease("good"))
    assert site.worker().serve_once(0) == "completed"
    assert (old / "precious").exists()


def test_a_worker_that_asks_once_waits_as_long_as_it_was_told(site: Site, stub: StubReceiver) -> None:
    began = time.monotonic()
    assert site.worker().serve_once(1.2) is None
    assert 1.2 <= time.monotonic() - began < 10
    assert [seen.headers["prefer"] for seen in stub.calls("claim")] == ["wait=2"]


def test_a_worker_that_asks_once_does_not_outstay_its_time_because_it_is_told_to_come_later(
    site: Site, stub: StubReceiver
) -> None:
    stub.script["claim"] = [(204, {"Retry-After": "60"}, b"")] * 9
    began = time.monotonic()
    assert site.worker().serve_once(0.3) is None
    assert time.monotonic() - began < 10


def test_a_worker_that_asks_once_gives_up_on_an_absent_receiver_in_time(site: Site, stub: StubReceiver) -> None:
    stub.script["claim"] = [problem(503, "unavailable", headers={"Retry-After": "100"})] * 99
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        site.worker().serve_once(0.5)
    assert time.monotonic() - began < 10


def test_a_receiver_that_wants_a_newer_worker_ends_the_loop(site: Site, stub: StubReceiver) -> None:
    stub.script["claim"] = [problem(426, "upgrade_required")]
    with pytest.raises(UpgradeRequiredError):
        site.worker().serve()


def test_a_stopped_worker_asks_for_nothing(site: Site, stub: StubReceiver) -> None:
    worker = site.worker()
    worker.stop()
    worker.serve()
    assert worker.serve_once(5) is None
    assert stub.seen == []


def left_over(site: Site, *jobs: str) -> None:
    """Leave reports of an earlier worker to deliver."""
    (site.work / "runs").mkdir(parents=True)
    for job in jobs:
        granted = Lease(**lease("good", job=job))
        failure = Fail(granted.lease_id, "stalled")
        RunFolder(site.work / "runs" / job).make(RunState("failed", granted, failure=failure))


def test_what_is_left_over_does_not_wait_until_the_host_is_looked_at(site: Site, stub: StubReceiver) -> None:
    left_over(site, "a")
    looked = threading.Event()

    def slow() -> Capability:
        assert looked.wait(20)
        return PLAIN

    site.serve(detect=slow)
    stub.wait_for("fail")
    assert stub.calls("claim") == []
    looked.set()
    stub.wait_for("claim")


def test_more_may_be_left_over_than_there_are_slots(site: Site, stub: StubReceiver) -> None:
    left_over(site, "a", "b", "c")
    site.serve()
    assert {seen.json["lease_id"] for seen in stub.wait_for("fail", 3)} == {f"lease-{job}-0001" for job in "abc"}
    stub.offer(lease("good", job="d"))
    stub.wait_for("complete")


def test_a_worker_is_stopped_while_it_looks_at_the_host(site: Site, stub: StubReceiver) -> None:
    begun, over = threading.Event(), threading.Event()

    def endless() -> Capability:
        begun.set()
        assert over.wait(20)
        return PLAIN

    worker = site.serve(detect=endless)
    assert begun.wait(10)
    worker.stop()
    site.threads[-1].join(10)
    assert not site.threads[-1].is_alive()
    over.set()


def test_a_host_that_cannot_be_looked_at_ends_the_worker(site: Site) -> None:
    def broken() -> Capability:
        raise ConfigurationError("no host name")

    with pytest.raises(ConfigurationError, match="no host name"):
        site.worker(detect=broken).serve()


def test_a_question_that_cannot_be_written_down_is_asked_all_the_same(site: Site, stub: StubReceiver) -> None:
    (site.work / "claim.part").mkdir(parents=True)
    stub.offer(lease("good"))
    assert site.worker().serve_once(1) == "completed"
    site.says("the next question could not be written down")


def test_what_a_worker_was_killed_over_is_cleared(site: Site, stub: StubReceiver) -> None:
    for name in ("x-1.new", "x-2.gone"):
        (site.work / "runs" / name / "out").mkdir(parents=True)
    site.serve()
    stub.wait_for("claim")
    assert list((site.work / "runs").iterdir()) == []


def test_a_draining_worker_takes_no_second_job_while_it_holds_one(site: Site, stub: StubReceiver) -> None:
    stub.beat = {"lease_s": 600.0, "drain": True}
    stub.offer(lease("slow"))
    site.serve(slots=2)
    stub.wait_for("heartbeat", 2)
    waiting = len(stub.calls("claim"))
    stub.offer(lease("slow", job="b"))
    stub.wait_for("heartbeat", 5)
    assert len(stub.calls("claim")) <= max(waiting, 2)


def test_a_slot_takes_no_job_while_a_process_of_its_trainer_lives(
    site: Site, stub: StubReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold the card, or write where the next trainer would read."""
    deaf: list[ShimTraining] = []
    killed = threading.Event()
    kill = ShimTraining.kill
    asked_after_the_kill: list[bool] = []

    def unheard(training: ShimTraining) -> None:
        deaf.append(training)

    def second(seen: Seen) -> Reply:
        asked_after_the_kill.append(killed.is_set())
        return stub.usual("claim", seen)

    monkeypatch.setattr(watch, "UNKILLABLE_S", -10.0)
    monkeypatch.setattr(attempt_module, "KILL_S", 0.0)
    for name in ("stop", "kill"):
        monkeypatch.setattr(ShimTraining, name, unheard)
    stub.script["claim"] = [lambda seen: stub.usual("claim", seen), second]
    stub.offer(lease("slow", timeout_s=0))
    stub.offer(lease("good", job="b"))
    site.serve()
    assert stub.wait_for("fail")[0].json["kind"] == "host_fault"
    site.says("a process of its trainer cannot be killed; restart this host")
    killed.set()
    kill(deaf[0])
    assert stub.wait_for("complete")[0].json["lease_id"] == "lease-b-0001"
    assert asked_after_the_kill == [True]


def test_workers_that_a_receiver_sent_away_do_not_all_come_back_in_one_moment(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "AWAY_S", 1.0)
    monkeypatch.setattr("random.random", lambda: 0.25)
    worker, naps = site.worker(), []
    monkeypatch.setattr(worker, "_rest", lambda delay_s, _until: naps.append(delay_s))
    for _ in range(8):
        worker._away(UnreachableError("nobody there"), None)
    worker._vain = 0
    worker._away(UnavailableError("shutting down", retry_after_s=5.0), None)
    assert naps == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 5.25]


def test_folders_nobody_needs_are_deleted_after_their_time(site: Site, stub: StubReceiver) -> None:
    runs = site.work / "runs"
    for name in ("old", "new", "broken"):
        (runs / name).mkdir(parents=True)
    for name in ("old", "new"):
        RunFolder(runs / name).save(RunState("over", Lease(**lease("good"))))
    for name in ("old", "broken"):
        os.utime(runs / name, (1_710_000_000, 1_710_000_000))
    site.serve(keep_s=1000.0)
    stub.wait_for("claim")
    assert [path.name for path in runs.iterdir()] == ["new"]


def test_a_folder_that_its_run_deletes_while_old_ones_are_looked_for_does_not_end_the_worker(
    site: Site, stub: StubReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = site.work / "runs"
    RunFolder(runs / "ending-1").make(RunState("over", Lease(**lease("good"))))
    age_of = Ages.of

    def late(ages: Ages, folder: Path) -> float:
        RunFolder(folder).remove()
        return age_of(ages, folder)

    monkeypatch.setattr(Ages, "of", late)
    site.serve(keep_s=1000.0)
    stub.wait_for("claim")
    assert list(runs.iterdir()) == []


def test_a_run_that_breaks_does_not_end_the_worker(
    site: Site, stub: StubReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Attempt) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Attempt, "run", broken)
    stub.offer(lease("good"))
    site.serve()
    stub.wait_for("claim", 2)
    site.says('a run broke why="RuntimeError: a fault of ours"')


def test_a_full_disk_keeps_the_worker_from_asking(
    site: Site, stub: StubReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = dataclasses.replace(site.options().rules, min_free_bytes=1)
    site.serve(rules=rules)
    site.says("no job taken: the disk is full")
    assert stub.calls("claim") == []


@pytest.mark.parametrize(
    ("act", "kept"), [("checkpoint", False), ("wrong", False), ("fail", True), ("oom_gpu", True), ("elsewhere", True)]
)
def test_a_checkpoint_is_kept_exactly_while_its_job_may_come_back(
    site: Site, stub: StubReceiver, act: str, kept: bool
) -> None:
    for job in "ab":
        (site.work / "resume" / (job * 64)).mkdir(parents=True)
        (site.work / "resume" / (job * 64) / "step").write_text("5")
    stub.offer(lease(act))
    site.worker().serve_once(0)
    assert sorted(path.name[0] for path in (site.work / "resume").iterdir()) == (["a", "b"] if kept else ["b"])


def test_the_checkpoints_of_a_completed_job_go_before_its_run_is_deleted(
    site: Site, stub: StubReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed in between must still know that nobody needs them."""
    checkpoints, left = site.work / "resume" / ("a" * 64), []
    remove = RunFolder.remove

    def looking(folder: RunFolder) -> None:
        if folder.has_artifact():
            left.append(checkpoints.exists())
        remove(folder)

    checkpoints.mkdir(parents=True)
    (checkpoints / "step").write_text("5")
    monkeypatch.setattr(RunFolder, "remove", looking)
    stub.offer(lease("checkpoint"))
    site.worker().serve_once(0)
    assert left == [False]


@pytest.mark.parametrize("full", [False, True])
def test_checkpoints_nobody_uses_make_room_for_a_claim(site: Site, stub: StubReceiver, full: bool) -> None:
    checkpoint = site.work / "resume" / ("a" * 64) / "step"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("7")
    site.serve(rules=dataclasses.replace(site.options().rules, min_free_bytes=2**62 if full else 0))
    if full:
        site.says("no job taken: the disk is full")
    else:
        stub.wait_for("claim")
    assert checkpoint.exists() is not full


def test_the_capability_of_a_claim_is_as_of_now(
    site: Site, stub: StubReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Datasets] = []

    def fresh(capability: Capability, work_dir: Path, datasets: Datasets) -> Capability:
        seen.append(datasets)
        return dataclasses.replace(capability, free_disk_bytes=len(seen))

    monkeypatch.setattr(loop_module, "refresh", fresh)
    site.worker().serve_once(0)
    site.worker().serve_once(0)
    assert [call.json["capability"]["free_disk_bytes"] for call in stub.calls("claim")] == [1, 2]


def test_a_hung_up_client_stays_hung_up(stub: StubReceiver) -> None:
    client = Client(stub.url)
    client.hang_up()
    with pytest.raises(UnreachableError):
        client.get("/v1/health")
