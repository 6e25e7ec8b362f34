from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.helpers.zones import in_zone
from training.fleet.cli import commands, listing, program
from training.fleet.model.capability import GIB, Capability, Gpu
from training.fleet.model.errors import (
    ConflictError,
    Fault,
    FleetError,
    ManifestError,
    NotFoundError,
    PreconditionError,
)
from training.fleet.wire.people import (
    AttemptView,
    EventView,
    FailureView,
    Health,
    HostVerdict,
    JobDetail,
    JobPage,
    JobView,
    Plan,
    PlannedJob,
    ReasonView,
    RecentFailure,
    Why,
    WorkerPage,
    WorkerView,
)
from training.fleet.wire.worker import JobState, Progress


@pytest.fixture(autouse=True)
def utc() -> Iterator[None]:
    with in_zone("UTC"):
        yield


FIRST = "a1b2c3d4e5f6" + "0" * 52
SECOND = "a1b2ffffffff" + "1" * 52
AT = "2026-11-23T15:10:13.120Z"


def job(**changes: Any) -> JobView:
    values: dict[str, Any] = {
        "id": FIRST,
        "model": "gbt",
        "mode": "oracle",
        "split": "hosts",
        "seed": 490,
        "dataset": None,
        "status": "pending",
        "priority": 0,
        "host": None,
        "attempts_used": 0,
        "max_attempts": 3,
        "cancel_requested": False,
        "named": True,
        "delayed": False,
        "updated_at": AT,
    }
    return JobView(**{**values, **changes})


RUNNING = job(
    status="running",
    host="pi",
    attempts_used=1,
    progress=Progress(45, 100, "fold 2/5", {"loss": 0.5, "auprc": 0.31}, 20, 25),
)
FAILURE = FailureView("trainer_error", "ValueError: bad\x1b[2J shape\nsecond line", 1, "pi", AT)
HEALTH = Health(
    status="degraded",
    version="0.1.0",
    uptime_s=3700,
    counts={"pending": 3, "claimed": 0, "running": 1, "completed": 2, "failed": 1, "cancelled": 0},
    workers={"working": 1, "idle": 0, "away": 2},
    manifest={"digest": "d" * 64, "jobs": 7, "faults": [dataclasses.asdict(Fault("jobs[1]", "x", "y", "z"))]},
    storage={"artifacts": 2, "bytes": 2048, "free_bytes": 2**30},
    failures=[RecentFailure(SECOND, "mlp", "realistic", "failed", FAILURE)],
    problems=["the manifest file has faults"],
)
PLAN = Plan(
    digest="e" * 64,
    manifest="f" * 64,
    counts={"added": 2, "changed": 1, "unchanged": 4, "dropped": 1, "stranded": 1},
    added=[
        PlannedJob(FIRST, "gbt", "oracle", {}, ["pi", "tower"]),
        PlannedJob(SECOND, "cnn", "oracle"),
    ],
    changed=[PlannedJob("c" * 64, "mlp", "oracle", {"priority": [0, 5], "allowed_hosts": [[], ["pi"]]})],
    dropped=[PlannedJob("d" * 64, "mlp", "realistic")],
    stranded=[SECOND],
    warnings=["jobs[3] and jobs[4] are the same job"],
)


class Stub:
    """A receiver that answers from a table and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Any] = {}
        self.asked: list[tuple[str, str, dict[str, str], bytes, dict[str, str]]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                stub.answer(self)

            def do_POST(self) -> None:
                stub.answer(self)

            def log_message(self, *words: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.asked.append((handler.command, parts.path, query, body, headers))
        found = self.answers.get((handler.command, parts.path), NotFoundError("found no such thing"))
        found = found(query) if callable(found) else found
        status, document = (found.status, found.problem()) if isinstance(found, FleetError) else (200, found)
        document = dataclasses.asdict(document) if dataclasses.is_dataclass(document) else document
        data = json.dumps(document).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    for name in ("CIS490_OPERATOR_TOKEN", "CIS490_OPERATOR_TOKEN_FILE", "CIS490_READ_TOKEN", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    stub = Stub()
    monkeypatch.setenv("CIS490_RECEIVER", stub.address)
    thread = threading.Thread(target=stub.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stub.answers["GET", "/v1/jobs"] = JobPage([job()])
    yield stub
    stub.server.shutdown()
    stub.server.server_close()
    thread.join()


@pytest.fixture
def operator(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Stub:
    monkeypatch.setenv("CIS490_OPERATOR_TOKEN", "a-token-of-the-operator")
    return stub


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("NO_COLOR", "1")
    return screen


def shown_on(screen: Screen, *argv: str) -> list[str]:
    """Run a command on a terminal of 80 cells and return what it wrote."""
    screen.truncate(0)
    screen.seek(0)
    with contextlib.redirect_stdout(screen):
        assert program.main(argv) == 0
    return screen.getvalue().splitlines()


def test_status_shows_counts_progress_and_the_actual_error(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", "/v1/health"] = HEALTH
    stub.answers["GET", "/v1/jobs"] = JobPage([RUNNING])
    assert program.main(["status"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"receiver  {stub.address}  degraded, version 0.1.0, up 1 h 01 min",
        "manifest  dddddddddddd, 7 jobs",
        "          refused: jobs[1]: found x, expected y; z",
        "jobs      pending 3  claimed 0  running 1  completed 2  failed 1  cancelled 0",
        "hosts     working 1  idle 0  away 2",
        "storage   2 artifacts, 2.0 KiB, 1.0 GiB free",
        "",
        "running",
        f"{FIRST}\tgbt\toracle\thosts\tpi\trunning\t45 %\t45/100\tfold 2/5\tauprc 0.31 loss 0.5\t25 s",
        "",
        "last failures",
        f"{SECOND}  mlp realistic  now failed  trainer_error on pi, exit status 1, 2026-11-23 15:10:13+00:00",
        "    ValueError: bad\\x1b[2J shape",
        "    second line",
        "",
        "problems",
        "  the manifest file has faults",
    ]
    assert stub.asked[0][2] == {"status": "claimed,running", "limit": "500"}


def test_status_of_a_new_receiver_says_how_to_load_a_manifest(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", "/v1/jobs"] = JobPage([])
    stub.answers["GET", "/v1/health"] = dataclasses.replace(
        HEALTH, manifest={"digest": None, "faults": ["odd"]}, storage={}, failures=[], problems=[]
    )
    assert program.main(["status"]) == 0
    text = capsys.readouterr().out
    assert "manifest  none in force; load one with `cis490-jobs reload`\n          refused: odd\n" in text
    assert "storage" not in text
    assert "running\n" not in text


def test_status_on_a_terminal_of_80_cells_draws_a_bar_and_short_ids(stub: Stub, screen: Screen) -> None:
    stub.answers["GET", "/v1/health"] = HEALTH
    stub.answers["GET", "/v1/jobs"] = JobPage(
        [RUNNING, dataclasses.replace(RUNNING, cancel_requested=True, progress=None)]
    )
    lines = shown_on(screen, "status")
    assert lines[lines.index("running") : lines.index("last failures")] == [
        "running",
        "a1b2c3d4e5f6  gbt oracle hosts on pi  running",
        "  [#####.......] 45 %  step 45/100  25 s left  auprc 0.31 loss 0.5  fold 2/5",
        "a1b2c3d4e5f6  gbt oracle hosts on pi  cancelling",
        "  no progress reported yet",
        "",
    ]
    assert "\x1b" not in screen.getvalue()


def test_watching_redraws_in_place_survives_an_outage_and_ends_on_ctrl_c(
    stub: Stub, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.answers["GET", "/v1/health"] = HEALTH
    stub.answers["GET", "/v1/jobs"] = JobPage([])
    monkeypatch.setattr(program, "PATIENCE_S", 0.0)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt
        remote.close()
        stub.server.shutdown()
        stub.server.server_close()

    options = program.parser().parse_args(["status", "--watch", "0.5", "--receiver", stub.address])
    console = commands.Console(screen, sys.stderr, program.Terminal.of(screen, {}))
    remote = program._remote(options, {})
    assert commands.status(commands.Call(remote, console, options, sleep)) == 0
    assert slept == [0.5, 0.5]
    first, second = screen.getvalue().split("\x1b[H")[1:]
    assert first.startswith("receiver  ")
    assert first.endswith("\x1b[K\n\x1b[J")
    assert second.startswith(f"no answer from {stub.address}")
    assert "still asking, Ctrl-C ends" in second


@pytest.mark.parametrize("as_json", [False, True])
def test_watching_in_a_pipe_writes_one_block_after_the_other(stub: Stub, as_json: bool) -> None:
    stub.answers["GET", "/v1/health"] = HEALTH
    stub.answers["GET", "/v1/jobs"] = JobPage([])
    options = program.parser().parse_args(["status", "--watch", "--receiver", stub.address])
    out = io.StringIO()
    left = [1, 1]

    def sleep(seconds: float) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()

    remote = program._remote(options, {})
    call = commands.Call(remote, commands.Console(out, sys.stderr, program.Terminal(), as_json), options, sleep)
    assert commands.status(call) == 0
    remote.close()
    if as_json:
        frames = [json.loads(line) for line in out.getvalue().splitlines()]
        assert [sorted(frame) for frame in frames] == [["health", "running"]] * 3
    else:
        assert out.getvalue().count("receiver  ") == 3
        assert "\x1b" not in out.getvalue()


def paged(query: dict[str, str]) -> JobPage:
    return {
        None: JobPage([job()], "two"),
        "two": JobPage([job(id=SECOND, status="completed", metrics={"f1": 1.0}, duration_s=70)], None),
    }[query.get("cursor")]


def test_list_follows_every_page_and_separates_columns_by_tabs(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", "/v1/jobs"] = paged
    assert program.main(["list", "--status", "pending,failed", "--mode", "oracle", "--model", "gbt"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{FIRST}\tgbt\toracle\thosts\t490\tpending\t-\t0/3\t2026-11-23 15:10:13+00:00\t\t\t\t\t",
        f"{SECOND}\tgbt\toracle\thosts\t490\tcompleted\t-\t0/3\t2026-11-23 15:10:13+00:00\tf1 1 in 1 min 10 s\t\t\t\t",
    ]
    extras = {"with": "hyper,reason"}
    assert [query for _, _, query, _, _ in stub.asked] == [
        {"status": "pending,failed", "mode": "oracle", "model": "gbt", "limit": "500", **extras},
        {"status": "pending,failed", "mode": "oracle", "model": "gbt", "limit": "500", "cursor": "two", **extras},
    ]


def test_list_stops_at_its_limit_and_says_where_to_go_on(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", "/v1/jobs"] = paged
    assert program.main(["list", "--limit", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [item["id"] for item in document["jobs"]] == [FIRST]
    assert document["next"] == "two"
    assert len(stub.asked) == 1


def test_json_of_a_list_is_all_pages_as_one(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", "/v1/jobs"] = paged
    assert program.main(["--json", "list"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [item["id"] for item in document["jobs"]] == [FIRST, SECOND]
    assert document["next"] is None


def test_list_on_a_terminal_is_a_table_or_says_that_nothing_fits(stub: Stub, screen: Screen) -> None:
    lines = shown_on(screen, "list")
    assert lines[0].split()[:3] == ["ID", "MODEL", "MODE"]
    assert lines[1].startswith("a1b2c3d4")
    assert max(map(len, lines)) <= 80
    stub.answers["GET", "/v1/jobs"] = JobPage([])
    assert shown_on(screen, "list")[-1] == "there is no job; `cis490-jobs reload` loads the manifest's jobs"
    assert shown_on(screen, "list", "--status", "failed")[-1] == "no job matches"


def compared(query: dict[str, str]) -> JobPage:
    spec = {"v": 1, "model": "gbt", "mode": "oracle", "hyper": {}, "split_recipe": "hosts", "train_hosts": ["*"]}
    first = job(status="completed", seed=1, metrics={"auprc_host_mean": 0.5, "f1": 0.25}, spec={**spec, "seed": 1})
    second = dataclasses.replace(first, id=SECOND, split="time", dataset="lab", spec={**spec, "split_recipe": "time"})
    return JobPage([second]) if "cursor" in query else JobPage([first], "two")


def test_compare_asks_for_every_completed_job_with_its_specification(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.answers["GET", "/v1/jobs"] = compared
    assert program.main(["compare", "--model", "gbt"]) == 0
    assert [line.split("\t")[:3] for line in capsys.readouterr().out.splitlines()] == [
        ["gbt", "hosts", "0.5"],
        ["gbt", "time", "0.5"],
    ]
    asked = {"status": "completed", "with": "spec", "model": "gbt", "limit": "500"}
    assert [query for _, _, query, _, _ in stub.asked] == [asked, {**asked, "cursor": "two"}]


@pytest.mark.parametrize(
    ("flags", "splits"),
    [(["--split", "hosts"], ["hosts"]), (["--dataset", "lab"], ["time"])],
    ids=["split", "dataset"],
)
def test_compare_shows_only_what_was_asked_for(
    stub: Stub, capsys: pytest.CaptureFixture[str], flags: list[str], splits: list[str]
) -> None:
    stub.answers["GET", "/v1/jobs"] = compared
    assert program.main(["compare", "--metric", "f1", "--json", *flags]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["metric"] == "f1"
    assert [group["split"] for group in document["groups"]] == splits


def test_compare_refuses_an_unknown_metric_with_the_names_there_are(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.answers["GET", "/v1/jobs"] = compared
    assert program.main(["compare", "--metric", "auprc"]) == 1
    assert capsys.readouterr() == (
        "",
        "cis490-jobs: found no metric auprc in 2 completed jobs; --metric takes one of auprc_host_mean, f1\n",
    )


def test_compare_on_a_terminal_names_the_metric_or_says_that_nothing_fits(stub: Stub, screen: Screen) -> None:
    stub.answers["GET", "/v1/jobs"] = compared
    lines = shown_on(screen, "compare")
    assert " ".join(" ".join(lines[:2]).split()).split("; ")[0] == (
        "auprc_host_mean, the usual one, because the trainer names none, higher is better"
    )
    header = next(line for line in lines if line.startswith("JOB"))
    assert header.split() == ["JOB", "MODEL", "SPLIT", "ORACLE", "N", "SEEDS"]
    stub.answers["GET", "/v1/jobs"] = JobPage([])
    assert shown_on(screen, "compare") == ["no completed job matches; `cis490-jobs list` shows all jobs"]


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (RUNNING, "45 % auprc 0.31 loss 0.5 25 s left"),
        (dataclasses.replace(RUNNING, cancel_requested=True, progress=None), "cancelling"),
        (job(named=False), "not in the manifest"),
        (
            job(status="pending", delayed=True, failure=FAILURE),
            "waits before the next attempt; trainer_error: ValueError: bad\\x1b[2J shape",
        ),
        (job(status="failed", failure=dataclasses.replace(FAILURE, error="")), "trainer_error"),
        (
            job(status="completed", metrics={"f1": 0.5, "auprc": 0.25, "auroc": 0.75}, duration_s=3),
            "auroc 0.75 auprc 0.25 in 3.0 s",
        ),
        (job(), ""),
    ],
    ids=["running", "cancelling", "unnamed", "delayed", "bare failure", "completed", "pending"],
)
def test_the_detail_of_a_job_is_the_one_thing_worth_knowing(
    stub: Stub, capsys: pytest.CaptureFixture[str], found: JobView, shown: str
) -> None:
    stub.answers["GET", "/v1/jobs"] = JobPage([found])
    assert program.main(["list"]) == 0
    assert capsys.readouterr().out.rstrip("\n").split("\t")[9] == shown


DETAIL = JobDetail(
    job=job(
        status="completed",
        host="pi",
        attempts_used=2,
        artifact="9" * 64,
        artifact_path="gbt_oracle/9/bundle.tar.zst",
        metrics={"auroc": 0.9},
    ),
    spec={"v": 1, "model": "gbt", "hyper": {"max_iter": 300}, "train_hosts": ["*"]},
    constraints={"min_ram_gib": 2, "min_vram_gib": 0, "requires_cuda": False, "allowed_hosts": []},
    attempts=[
        AttemptView(1, "pi", AT, AT, AT, "failed", "oom_ram", -9, "killed"),
        AttemptView(2, "pi", AT, None, None, None, None, None, ""),
    ],
    events=[
        EventView(1, AT, "receiver", "add", None, "pending", ""),
        EventView(2, AT, "worker:pi", "claim", "pending", "claimed", "because"),
    ],
    log_tail="one\n\x1b[31mtwo",
)


def test_show_tells_everything_about_one_job(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", f"/v1/job/{FIRST}"] = DETAIL
    assert program.main(["show", "A1B2C3"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"job       {FIRST}",
        "status    completed; auroc 0.9 in -",
        "host      pi",
        "attempts  2 of 3",
        "priority  0",
        "updated   2026-11-23 15:10:13+00:00",
        f"artifact  {'9' * 64}",
        "path      gbt_oracle/9/bundle.tar.zst",
        "",
        "spec",
        "  v            1",
        "  model        gbt",
        '  hyper        {"max_iter": 300}',
        '  train_hosts  ["*"]',
        "",
        "constraints",
        "  min_ram_gib  2",
        "",
        "metrics",
        "  auroc  0.9",
        "",
        "attempts",
        "1\tpi\t2026-11-23 15:10:13+00:00\t2026-11-23 15:10:13+00:00\tfailed\toom_ram\t-9\tkilled",
        "2\tpi\t2026-11-23 15:10:13+00:00\t-\talive\t-\t-\t-",
        "",
        "events",
        "2026-11-23 15:10:13+00:00\treceiver\tadd\t- > pending\t-",
        "2026-11-23 15:10:13+00:00\tworker:pi\tclaim\tpending > claimed\tbecause",
        "",
        "end of the log of the newest failed attempt",
        "  one",
        "  \\x1b[31mtwo",
    ]
    assert stub.asked[0][2] == {"id_prefix": "a1b2c3", "limit": "11"}


def test_show_says_how_much_of_a_long_history_it_shows(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", f"/v1/job/{FIRST}"] = dataclasses.replace(DETAIL, attempts_total=5000, events_total=10001)
    assert program.main(["show", FIRST]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(("attempts,", "events,"))] == [
        "attempts, the newest 2 of 5000",
        "events, the newest 2 of 10001; `cis490-jobs events --job` shows all of them",
    ]


def test_show_of_a_plain_job_leaves_out_what_is_not_there(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", f"/v1/job/{FIRST}"] = JobDetail(job(), {"v": 1}, {}, [], [], "")
    assert program.main(["show", FIRST]) == 0
    text = capsys.readouterr().out
    assert text.endswith("constraints\n  none: any admitted host\n")
    assert [path for _, path, _, _, _ in stub.asked] == [f"/v1/job/{FIRST}"]


def test_an_id_that_fits_several_jobs_lists_them(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", "/v1/jobs"] = JobPage([job(), job(id=SECOND, model="mlp")])
    assert program.main(["show", "a1b2"]) == 1
    assert capsys.readouterr().err == (
        "cis490-jobs: a1b2 fits several jobs: a1b2c3d4e5f60000 (gbt oracle), a1b2ffffffff1111 (mlp oracle); "
        "give more digits of the one you mean\n"
    )


def test_an_id_that_fits_many_jobs_lists_ten(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", "/v1/jobs"] = JobPage([job()] * 11)
    assert program.main(["show", "a1b2"]) == 1
    err = capsys.readouterr().err
    assert err.count("(gbt oracle)") == 10
    assert "and more; give more digits" in err


def test_an_id_that_fits_no_job_says_where_to_look(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", "/v1/jobs"] = JobPage([])
    assert program.main(["why", "beef"]) == 1
    assert (
        "found no job whose id begins with beef; `cis490-jobs list --all` shows all of them" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["explode"],
        ["show", "abc"],
        ["show", "x yz"],
        ["show", "a" * 65],
        ["list", "--status", "pending,nope"],
        ["list", "--limit", "0"],
        ["list", "--mode", "both"],
        ["reload", "--if-plan", "e" * 63],
        ["status", "--watch", "0"],
        ["status", "--watch", "soon"],
        ["completion", "tcsh"],
        ["list", "--stat", "failed"],
    ],
    ids=lambda argv: " ".join(argv) or "nothing",
)
def test_wrong_usage_exits_2_and_names_the_fault(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main(argv)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("cis490-jobs: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "argv",
    [["cancel", FIRST], ["requeue", FIRST], ["reload"], ["plan"], ["backup"], ["fsck"]],
    ids=lambda argv: argv[0],
)
def test_an_operator_command_without_its_token_exits_77_before_it_asks(
    stub: Stub, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    assert program.main(argv) == 77
    assert "set CIS490_OPERATOR_TOKEN, or CIS490_OPERATOR_TOKEN_FILE" in capsys.readouterr().err
    assert stub.asked == []


def test_only_operator_commands_send_the_operator_token(operator: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIS490_READ_TOKEN", "a-token-for-reading")
    operator.answers["POST", "/v1/manifest/reload"] = PLAN
    assert program.main(["list"]) == 0
    assert program.main(["reload"]) == 0
    (_, _, _, _, looked), (_, _, _, _, changed) = operator.asked
    assert "x-operator-token" not in looked
    assert looked["authorization"] == "Bearer a-token-for-reading"
    assert changed["x-operator-token"] == "a-token-of-the-operator"


def test_cancel_shows_where_each_job_stands_and_goes_on_after_a_refusal(
    operator: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    operator.answers["POST", f"/v1/job/{FIRST}/cancel"] = JobState(FIRST, "running", True)
    operator.answers["POST", f"/v1/job/{SECOND}/cancel"] = ConflictError("it is completed; nothing to cancel")
    assert program.main(["cancel", SECOND, FIRST]) == 1
    shown = capsys.readouterr()
    assert shown.out == f"{FIRST}\trunning\tcancelling: its worker stops the trainer\n"
    assert shown.err == "cis490-jobs: it is completed; nothing to cancel\n"


def test_json_of_a_change_is_one_state_a_line(operator: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    operator.answers["POST", f"/v1/job/{FIRST}/requeue"] = JobState(FIRST, "pending")
    assert program.main(["requeue", "a1b2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"id": FIRST, "status": "pending", "cancel_requested": False}


def test_reload_sends_its_conditions_and_shows_what_was_done(
    operator: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    operator.answers["POST", "/v1/manifest/reload"] = PLAN
    assert program.main(["reload", "--if-plan", "e" * 64, "--allow-shrink"]) == 0
    assert json.loads(operator.asked[0][3]) == {"allow_shrink": True, "if_plan": "e" * 64}
    assert capsys.readouterr().out.splitlines() == [
        f"+ {FIRST}  gbt oracle  can run on pi, tower",
        f"+ {SECOND}  cnn oracle  no known host can run it",
        f'~ {"c" * 64}  mlp oracle  priority 0 -> 5, allowed_hosts [] -> ["pi"]',
        f"- {'d' * 64}  mlp realistic  no longer named",
        "warning: jobs[3] and jobs[4] are the same job",
        "done eeeeeeeeeeee: 2 added, 1 changed, 4 unchanged, 1 dropped, 1 that no known host can run",
    ]


def test_a_plan_that_moved_is_refused_in_one_line(operator: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    operator.answers["POST", "/v1/manifest/reload"] = PreconditionError("the plan has moved; run `plan` again")
    assert program.main(["reload", "--if-plan", "e" * 64]) == 1
    assert capsys.readouterr().err == "cis490-jobs: the plan has moved; run `plan` again\n"


def test_plan_sends_a_file_and_names_the_command_that_applies_it(
    operator: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifest.toml"
    manifest.write_text("[manifest]\nschema = 1\n")
    operator.answers["POST", "/v1/manifest/plan"] = PLAN
    assert program.main(["plan", str(manifest)]) == 0
    assert operator.asked[0][3] == b"[manifest]\nschema = 1\n"
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1].startswith("plan eeeeeeeeeeee: 2 added")
    assert shown.err == f"apply exactly this with: cis490-jobs apply {manifest} --if-plan {'e' * 64}\n"


@pytest.mark.parametrize(("changed", "status"), [(1, 3), (0, 0)])
def test_plan_says_by_exit_status_3_that_there_are_changes(
    operator: Stub, capsys: pytest.CaptureFixture[str], changed: int, status: int
) -> None:
    operator.answers["POST", "/v1/manifest/plan"] = dataclasses.replace(
        PLAN, counts={"changed": changed}, added=[], changed=[], dropped=[], stranded=[], warnings=[]
    )
    assert program.main(["plan", "--exit-code", "--json"]) == status
    assert json.loads(capsys.readouterr().out)["digest"] == "e" * 64
    assert operator.asked[0][3] == b""


def test_every_fault_of_a_manifest_has_its_own_line_and_plan_exits_1(
    operator: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = (
        Fault("jobs[1].hyper.max_itr (line 9)", "'max_itr'", "a parameter of gbt", "did you mean max_iter?"),
        Fault("jobs[2].mode", "'both'", "realistic or oracle"),
    )
    operator.answers["POST", "/v1/manifest/plan"] = ManifestError("the manifest has 2 faults", faults=faults)
    assert program.main(["plan"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "cis490-jobs: the manifest has 2 faults",
        "  jobs[1].hyper.max_itr (line 9): found 'max_itr', expected a parameter of gbt; did you mean max_iter?",
        "  jobs[2].mode: found 'both', expected realistic or oracle",
    ]


def test_reload_of_a_manifest_with_faults_exits_78(operator: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    operator.answers["POST", "/v1/manifest/reload"] = ManifestError("the manifest has 2 faults")
    assert program.main(["reload"]) == 78


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot read"), (b" \n", "is empty; expected a manifest"), (b"x" * (32 * 2**20 + 1), "is larger than")],
    ids=["missing", "empty", "huge"],
)
def test_a_file_that_cannot_be_a_manifest_is_refused_before_it_is_sent(
    operator: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, words: str
) -> None:
    path = tmp_path / "manifest.toml"
    if content is not None:
        path.write_bytes(content)
    assert program.main(["plan", str(path)]) == 1
    assert words in capsys.readouterr().err
    assert operator.asked == []


WORKERS = WorkerPage(
    [
        WorkerView(
            "tower",
            "working",
            3.2,
            [FIRST],
            Capability(
                "tower",
                cpu_count=8,
                ram_bytes=31 * GIB + GIB // 2 + 1,
                gpus=(Gpu("Card", "GPU-1", 12 * GIB, GIB, "550"),),
                cuda_present=True,
                cuda_usable=True,
                torch_version="2.13",
                version="0.0.9",
                problems=("no git",),
            ),
            {"allow_jobs": ["*"], "deny_jobs": ["gbt"]},
            ["declares 24 GiB of GPU memory, found 12"],
        ),
        WorkerView("pi", "away", None, [], None, {"allow_jobs": []}, []),
        WorkerView("guest", "idle", 1, [], Capability("guest", cuda_present=True), None, []),
    ]
)


def test_workers_shows_what_each_host_can_and_may_do(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", "/v1/workers"] = WORKERS
    assert program.main(["workers"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"tower\tworking\t3.2 s ago\t{FIRST}\t8\t32 GiB\tCard\t12 GiB\tyes\t2.13\t* !gbt\t0.0.9"
        "\tdeclares 24 GiB of GPU memory, found 12; no git\t1/1\t-",
        "pi\taway\t-\t-\t-\t-\t-\t-\t-\t-\tnothing\t-\t\t0/1\t-",
        "guest\tidle\t1.0 s ago\t-\t1\t0 GiB\t-\t-\tbroken\t-\trefused\t-"
        "\tthe manifest does not admit this host: add [hosts.NAME] to it\t0/1\t-",
    ]


def test_workers_on_a_terminal_names_the_problems_below_the_table(stub: Stub, screen: Screen) -> None:
    stub.answers["GET", "/v1/workers"] = WORKERS
    assert "tower: declares 24 GiB of GPU memory, found 12" in shown_on(screen, "workers")
    stub.answers["GET", "/v1/workers"] = WorkerPage([])
    assert shown_on(screen, "workers") == ["no host has called yet; start one with `cis490-training-worker`"]


def test_json_of_workers_is_the_answer(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", "/v1/workers"] = WORKERS
    assert program.main(["workers", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["workers"][1]["name"] == "pi"


WHY = Why(
    FIRST,
    "pending",
    "no known host can run it",
    [
        HostVerdict(
            "tower",
            False,
            [ReasonView("min_vram_gib", "16", "12"), ReasonView("policy", "a", "b")],
            True,
            "runs on tower if min_vram_gib 16 becomes 12",
        ),
        HostVerdict(
            "pi", False, [ReasonView("require_cuda", "CUDA", "none")], False, "runs on pi if require_cuda goes"
        ),
        HostVerdict("free", True, [], True),
    ],
    "runs on tower if min_vram_gib 16 becomes 12",
)


def test_why_shows_wanted_against_found_and_the_smallest_change(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", f"/v1/job/{FIRST}/why"] = WHY
    assert program.main(["why", "a1b2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{FIRST}  pending  no known host can run it",
        "",
        "tower\tno\tmin_vram_gib\t16\t12",
        "tower\tno\tpolicy\ta\tb",
        "pi (declared, never seen)\tno\trequire_cuda\tCUDA\tnone",
        "free\tyes\t-\t-\t-",
        "",
        "smallest change: runs on tower if min_vram_gib 16 becomes 12",
        "or: runs on pi if require_cuda goes",
    ]


def test_why_of_a_job_without_hosts_is_one_line(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", f"/v1/job/{FIRST}/why"] = Why(FIRST, "completed", "it is completed", [], "")
    assert program.main(["why", FIRST]) == 0
    assert capsys.readouterr().out == f"{FIRST}  completed  it is completed\n"


@pytest.mark.parametrize("command", ["show", "why"])
def test_json_of_one_job_is_the_answer(stub: Stub, capsys: pytest.CaptureFixture[str], command: str) -> None:
    stub.answers["GET", f"/v1/job/{FIRST}"] = stub.answers["GET", f"/v1/job/{FIRST}/why"] = {"odd": "\x9b é"}
    assert program.main([command, FIRST, "--json"]) == 0
    assert capsys.readouterr().out == '{\n  "odd": "\\u009b \\u00e9"\n}\n'


def test_json_of_status_holds_health_and_running_jobs(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET", "/v1/health"] = HEALTH
    assert program.main(["status", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["health"]["counts"]["pending"] == 3
    assert document["running"][0]["id"] == FIRST


def test_an_answer_without_a_body_is_refused(operator: Stub) -> None:
    class Mute:
        def get(self, path: str, query: object = None) -> dict[str, Any]:
            return {}

        def post(self, path: str, body: object, *, timeout_s: float | None = None) -> tuple[int, None]:
            return 204, None

        def close(self) -> None:
            """Do nothing."""

    with pytest.raises(FleetError, match="answered 204 to /v1/manifest/plan without a body"):
        program.Remote(Mute(), "there").plan(b"")


def test_a_receiver_that_is_away_exits_69_with_address_and_next_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "PATIENCE_S", 0.0)
    assert program.main(["status", "--receiver", "http://127.0.0.1:9"]) == 69
    err = capsys.readouterr().err
    assert "http://127.0.0.1:9" in err
    assert "Start one with `cis490-trainer-receiver`" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("url", ["ftp://x", "http://example.org", "nonsense"])
def test_an_address_that_cannot_be_used_exits_78(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert program.main(["status", "--receiver", url]) == 78
    assert capsys.readouterr().err.startswith("cis490-jobs: the receiver's address is ")


def test_ctrl_c_is_quiet(stub: Stub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(call: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "list_jobs", interrupted)
    assert program.main(["list"]) == 130
    assert capsys.readouterr().err == ""


def test_output_that_cannot_be_written_is_said_in_one_line(
    stub: Stub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert program.main(["list"]) == 1
    assert "cannot write the output: No space left on device" in capsys.readouterr().err
