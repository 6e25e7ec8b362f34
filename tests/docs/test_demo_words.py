"""What the demo says, without starting anything; tests/e2e/test_demo.py runs it for real."""

from __future__ import annotations

import contextlib
import io
import stat
from pathlib import Path
from typing import Any

import pytest

from tools import demo, demo_screen
from training.fleet.cli.text import Terminal
from training.fleet.model.errors import FleetError
from training.fleet.wire.people import FailureView, JobView
from training.fleet.wire.worker import Progress

AT = "2026-11-23T15:10:13Z"
WIDE = Terminal(100, 30)
PIPE = Terminal()


def job(number: int, **changes: Any) -> JobView:
    values: dict[str, Any] = {
        "id": f"{number}" * 64,
        "model": "gbt",
        "mode": "oracle",
        "split": "hosts",
        "seed": 490,
        "dataset": "lab",
        "status": "pending",
        "priority": 0,
        "host": None,
        "attempts_used": 0,
        "max_attempts": 2,
        "cancel_requested": False,
        "named": True,
        "delayed": False,
        "updated_at": AT,
    }
    return JobView(**{**values, **changes})


def running(step: int) -> JobView:
    return job(1, status="running", host="pi", attempts_used=1, progress=Progress(step, 100, "fold 1/5", {}, 1, 9))


COMPLETED = job(
    1,
    status="completed",
    host="pi",
    attempts_used=1,
    artifact="a" * 64,
    artifact_path=f"gbt_oracle/{'a' * 64}/bundle.tar.zst",
    metrics={"auroc": 0.91234, "auprc": 0.5},
    duration_s=12.0,
)
FAILED = job(
    2,
    status="failed",
    host="pi",
    attempts_used=2,
    failure=FailureView("trainer_error", "ValueError: no\x1b[2J rows\nmore", 1, "pi", AT),
)


def shown(screen: demo_screen.Screen, jobs: list[JobView], now: float) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        screen.show(jobs, now)
    return out.getvalue()


def test_in_a_pipe_each_change_is_a_line_and_progress_comes_every_five_seconds() -> None:
    screen = demo_screen.Screen(PIPE, 0.0)
    assert shown(screen, [job(1), job(2)], 0) == ""
    assert shown(screen, [running(0), job(2)], 1) == "starts 111111111111  gbt oracle hosts on pi\n"
    assert shown(screen, [running(10), job(2)], 5.9) == ""
    assert shown(screen, [running(50), job(2)], 6) == (
        "runs   111111111111  gbt oracle hosts  [######......] 50 %  step 50/100  9.0 s left  fold 1/5\n"
    )
    assert shown(screen, [running(60), job(2)], 7) == ""
    assert shown(screen, [COMPLETED, FAILED], 8) == (
        "done   111111111111  gbt oracle hosts  auroc 0.9123 auprc 0.5 in 12 s\n"
        "failed 222222222222  gbt oracle hosts  trainer_error: ValueError: no\\x1b[2J rows\n"
    )
    assert shown(screen, [COMPLETED, FAILED], 20) == ""


def test_an_attempt_that_will_be_repeated_is_told() -> None:
    screen = demo_screen.Screen(PIPE, 0.0)
    shown(screen, [job(2)], 0)
    retry = job(2, attempts_used=1, delayed=True, failure=FAILED.failure)
    assert shown(screen, [retry], 1).startswith("again  222222222222  gbt oracle hosts  waits before the next attempt")


def test_what_an_earlier_run_completed_is_no_news() -> None:
    assert shown(demo_screen.Screen(PIPE, 0.0), [COMPLETED], 0) == ""


def test_a_terminal_is_redrawn_in_place_and_cleared_at_the_end() -> None:
    screen = demo_screen.Screen(WIDE, 0.0)
    first = shown(screen, [running(50), job(2)], 3)
    assert first == (
        "starts 111111111111  gbt oracle hosts on pi\n"
        "\n"
        "[######..................] 0 of 2 jobs done, 3.0 s\n"
        "\n"
        "  gbt oracle hosts on pi\n"
        "  [######......] 50 %  step 50/100  9.0 s left  fold 1/5\n"
    )
    second = shown(screen, [COMPLETED, job(2)], 4)
    assert second == (
        "\x1b[5F\x1b[J"
        "done   111111111111  gbt oracle hosts  auroc 0.9123 auprc 0.5 in 12 s\n"
        "\n"
        "[############............] 1 of 2 jobs done, 4.0 s\n"
        "\n"
        "  waiting for the worker to take the next job\n"
    )
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        screen.finish()
        screen.finish()
    assert out.getvalue() == "\x1b[4F\x1b[J"


def test_the_results_name_every_job_with_its_figures_and_its_artifact(root: Path) -> None:
    state = demo.DemoFolder(root / ".demo")
    assert demo_screen.results([COMPLETED, FAILED], state.store, WIDE) == [
        "JOB           MODEL  MODE    SPLIT  HOST  DURATION  AUROC   AUPRC  ARTIFACT",
        "111111111111  gbt    oracle  hosts  pi    12 s      0.9123  0.5    aaaaaaaaaaaa",
        "222222222222  gbt    oracle  hosts  pi    failed    -       -      -",
        "",
        "artifacts",
        f"  .demo/store/gbt_oracle/{'a' * 64}/bundle.tar.zst",
    ]
    assert demo_screen.results([COMPLETED], state.store, PIPE) == [
        "JOB\tMODEL\tMODE\tSPLIT\tHOST\tDURATION\tAUROC\tAUPRC\tARTIFACT\tPATH",
        f"{'1' * 64}\tgbt\toracle\thosts\tpi\t12 s\t0.9123\t0.5\t{'a' * 64}"
        f"\t.demo/store/gbt_oracle/{'a' * 64}/bundle.tar.zst",
    ]


def test_a_failed_job_shows_its_actual_error() -> None:
    assert demo_screen.failures([COMPLETED, FAILED]) == [
        "failed: 222222222222 gbt oracle, trainer_error",
        "    ValueError: no\\x1b[2J rows",
        "    more",
    ]


def test_every_path_and_script_it_names_exists(root: Path) -> None:
    lines = "\n".join(demo.further([COMPLETED], demo.DemoFolder(root / ".demo")))
    for name in ("data/lab", "data/lab/README.md", "data/lab/lab.parquet", "tools/record_telemetry.py",
                 "scripts/demo.sh", "docs/tutorial.md"):  # fmt: skip
        assert name in lines
        assert (root / name).exists()


def test_tokens_are_secret_and_kept(tmp_path: Path) -> None:
    state = demo.DemoFolder(tmp_path / "state")
    state.make()
    token = state.operator_token.read_text()
    assert len(token.strip()) >= 32
    assert token != state.worker_token.read_text()
    assert stat.S_IMODE(state.operator_token.stat().st_mode) == 0o600
    state.make()
    assert state.operator_token.read_text() == token


def test_two_demos_on_one_folder_are_refused(tmp_path: Path) -> None:
    state = demo.DemoFolder(tmp_path)
    with state.held(), pytest.raises(FleetError, match="name another folder with --state"), state.held():
        pass
