"""The worker's command in this process: self-test, one job, exit statuses, one worker per folder."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stub_receiver import StubReceiver, lease, problem

from training.fleet.capability import libraries
from training.fleet.checks import Check
from training.fleet.model.capability import Capability, Gpu
from training.fleet.worker import selftest
from training.fleet.worker.identity import visit
from training.fleet.worker.program import main
from training.fleet.worker.selftest import SelfTest

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
Run = Callable[..., int]


@pytest.fixture
def stub() -> Iterator[StubReceiver]:
    receiver = StubReceiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def run(tmp_path: Path, stub: StubReceiver, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in [name for name in os.environ if name.startswith("CIS490_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(libraries, "try_torch", lambda problems, timeout_s: (None, False))

    def worker(*flags: str) -> int:
        places = ["--work-dir", str(tmp_path / "work"), "--trainer-dir", str(HELPERS), "--min-free-gib", "0"]
        return main([*places, "--name", "box", *flags])

    return worker


def test_a_host_that_can_train_says_so(run: Run, stub: StubReceiver, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--self-test", "--receiver", stub.url) == 0
    out = capsys.readouterr().out
    assert out.startswith("host         box\n")
    assert "ok    trainer      answers --describe, contract sha256:" in out
    assert f"ok    receiver     answers at {stub.url} and lets this worker in\n" in out
    assert "note         no dataset is given, which the project's own models need; give --dataset NAME=FOLDER\n" in out
    assert "no receiver is given" not in out
    assert out.endswith("This host can train.\n")


def test_the_self_test_shows_the_receiver_its_token(
    run: Run, stub: StubReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong token would otherwise be found only by the service, over and over."""
    stub.script["/v1/worker/self"] = [
        problem(401, "unauthenticated", "the bearer token is not this receiver's"),
        (200, {}, {}),
    ]
    assert run("--self-test", "--receiver", stub.url) == 1
    out = capsys.readouterr().out
    assert "FAIL  receiver     the bearer token is not this receiver's\n" in out
    assert out.endswith("This host cannot train: correct what FAIL says.\n")
    assert run("--self-test", "--receiver", stub.url) == 0
    assert {seen.headers["x-worker-session"] for seen in stub.seen} == {visit()}
    assert stub.stored == {}


def test_the_self_test_shows_an_older_receiver_its_token_with_a_heartbeat(
    run: Run, stub: StubReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.script["/v1/worker/self"] = [problem(404, "not_found", "nothing is here")] * 2
    stub.script["heartbeat"] = [
        problem(401, "unauthenticated", "the bearer token is not this receiver's"),
        problem(404, "not_found", "there is no such job"),
    ]
    assert run("--self-test", "--receiver", stub.url) == 1
    assert "FAIL  receiver     the bearer token is not this receiver's\n" in capsys.readouterr().out
    assert run("--self-test", "--receiver", stub.url) == 0


def test_a_program_of_this_host_is_told_what_to_send_for_a_visit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["session"]) == 0
    assert capsys.readouterr().out == f"{visit()}\n"


def test_the_self_test_says_that_no_receiver_was_tried(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--self-test") == 0
    out = capsys.readouterr().out
    assert "note         no receiver is given, so none was tried; give --receiver ADDRESS\n" in out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--json",), "--json belongs to --self-test"),
        (("--once", "--json"), "--json belongs to --self-test"),
        (("--wait", "5"), "--wait belongs to --once"),
        (("--once", "--self-test"), "give one of them"),
    ],
)
def test_flags_that_would_go_unheard_are_refused(
    run: Run, flags: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*flags)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_the_self_test_speaks_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--self-test", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["capability"]["hostname"] == "box"
    assert [check["name"] for check in found["checks"]] == ["trainer", "libraries", "work folder", "disk"]


def test_a_host_that_cannot_train_says_what_to_do(
    run: Run, tmp_path: Path, stub: StubReceiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(selftest, "OWN_COMMAND", ("no-such-trainer",))
    monkeypatch.setattr(libraries, "own_trainer", lambda problems: (None, None))
    stub.script["/healthz"] = [problem(401, "unauthenticated", "the token is wrong")]
    flags = ["--dataset", f"lab={tmp_path}/none", "--min-free-gib", "1000000", "--receiver", stub.url]
    assert run("--self-test", *flags) == 1
    out = capsys.readouterr().out
    assert "FAIL  trainer      the trainer on this host cannot be started (No such file or directory)" in out
    assert "FAIL  libraries    those of no model are installed" in out
    assert "FAIL  disk         " in out
    assert "FAIL  dataset lab  dataset lab is left out" in out
    assert "FAIL  receiver     the token is wrong" in out
    assert out.endswith("This host cannot train: correct what FAIL says.\n")


def test_a_valid_dataset_passes_the_self_test(run: Run, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--self-test", "--dataset", f"lab={root}/data/lab") == 0
    assert "ok    dataset lab  lab is valid, sha256:" in capsys.readouterr().out


def test_a_work_folder_that_cannot_be_written_fails_the_self_test(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(self: Path, data: bytes) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refused)
    assert run("--self-test") == 1
    assert "cannot be written (Read-only file system)\n" in capsys.readouterr().out


def test_cards_changes_and_notes_are_shown_to_people() -> None:
    card = Gpu("RTX 3060", "GPU-1", 12 * 2**30, 11 * 2**30, "560")
    host = Capability(
        "box", gpus=(card,), cuda_present=True, torch_version="2.13", revision="abc", dirty=True, problems=("a note",)
    )
    stream = io.StringIO()
    SelfTest(host, (Check("disk", "ok", "x"),)).show(stream, {})
    text = stream.getvalue()
    assert "gpu          card RTX 3060, 12.0 GiB, 11.0 free, driver 560\n" in text
    assert "cuda         present, not usable\n" in text
    assert "revision     abc with changes\n" in text
    assert "note         a note\n" in text


def test_one_job_is_run_to_its_end(run: Run, stub: StubReceiver, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stub.offer(lease("good"))
    assert run("--once", "--receiver", stub.url) == 0
    assert signal.getsignal(signal.SIGTERM) == before
    assert stat.S_IMODE((tmp_path / "work").stat().st_mode) == 0o700


def test_a_job_that_failed_and_no_job_are_both_1(
    run: Run, stub: StubReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--once", "--receiver", stub.url) == 1
    assert "no job for this host" in capsys.readouterr().err
    stub.offer(lease("fail"))
    assert run("--once", "--receiver", stub.url) == 1


def test_a_signal_ends_a_waiting_worker_with_0(run: Run, stub: StubReceiver) -> None:
    def ask_to_stop() -> None:
        stub.wait_for("claim")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask_to_stop)
    thread.start()
    assert run("--receiver", stub.url) == 0
    thread.join()


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (problem(401, "unauthenticated", "who are you"), 77),
        (problem(426, "upgrade_required", "too old"), 78),
        (problem(503, "unavailable", "later"), 75),
    ],
)
def test_a_refusal_has_its_own_exit_status(
    run: Run, stub: StubReceiver, capsys: pytest.CaptureFixture[str], reply: object, status: int
) -> None:
    stub.script["claim"] = [reply] * 9  # type: ignore[list-item]
    assert run("--once", "--receiver", stub.url) == status
    assert capsys.readouterr().err.splitlines()[-1].startswith("cis490-training-worker: ")


@pytest.mark.parametrize(
    "flags", [["--receiver", "http://pi.lab"], ["--name", "a b"], ["--slots", "65"], ["--config", "/no/such/file"]]
)
def test_settings_that_cannot_work_end_with_78_and_one_line(
    run: Run, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert run(*flags) == 78
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_work_folder_that_cannot_be_made_ends_with_78(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").write_text("a file")
    assert run("--self-test") == 78
    assert "File exists" in capsys.readouterr().err


def test_an_unknown_flag_is_a_usage_fault(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--gpu")
    assert caught.value.code == 2
    assert "--gpu" in capsys.readouterr().err


def test_a_fault_of_the_program_itself_is_one_line(
    run: Run, stub: StubReceiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("training.fleet.worker.loop.Worker.serve", broken)
    assert run("--receiver", stub.url) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "a fault of the worker itself, please report it: RuntimeError: a fault of ours (test_worker_program" in last
