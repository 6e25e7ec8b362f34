"""What people look for: lists that tell jobs apart, names that nothing has, hosts, the best job, many jobs at once."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.helpers.zones import in_zone
from training.fleet.cli import commands, program, usage
from training.fleet.cli.completion import commands as known_commands
from training.fleet.cli.remote import Remote
from training.fleet.cli.text import Terminal
from training.fleet.model.capability import GIB, Capability, Gpu
from training.fleet.model.errors import ConflictError, FleetError, NotFoundError
from training.fleet.model.jobs import Headline
from training.fleet.wire.names import KnownNames
from training.fleet.wire.people import JobPage, JobView, WorkerPage, WorkerView
from training.fleet.wire.worker import JobState, Progress
from training.trainer import hyper

AT = "2026-11-23T15:10:13.120Z"
NARROW, WIDE, PIPE = Terminal(80, 24), Terminal(140, 24), Terminal()
NAMES = KnownNames(["gpu-tower", "lab-server", "pi"], ["cnn", "gbt"], ["lab"], ["night"])


@pytest.fixture(autouse=True)
def utc() -> Iterator[None]:
    with in_zone("UTC"):
        yield


def job(number: int = 1, **changes: Any) -> JobView:
    values: dict[str, Any] = {
        "id": f"{number:064x}"[::-1],
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
        "hyper": {},
    }
    return JobView(**{**values, **changes})


class Scripted:
    """A receiver that answers by path; a function as an answer gets the query or the body."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = dict(answers)
        self.asked: list[tuple[str, Any]] = []

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        return self._answer(path, dict(query or {}))

    def post(self, path: str, body: Any, *, timeout_s: float | None = None) -> tuple[int, dict[str, Any] | None]:
        return 200, self._answer(path, body)

    def _answer(self, path: str, given: Any) -> dict[str, Any]:
        self.asked.append((path, given))
        found = self.answers.get(path.partition("?")[0], NotFoundError("found no such thing"))
        found = found(given) if isinstance(found, Callable) else found
        if isinstance(found, FleetError):
            raise found
        return json.loads(json.dumps(dataclasses.asdict(found)))  # type: ignore[no-any-return]

    def close(self) -> None:
        return


def ran(words: str, answers: Mapping[str, Any], terminal: Terminal = PIPE) -> tuple[list[str], str, int, Scripted]:
    """Run a command; return its lines, its messages, its status and the receiver."""
    options, receiver = program.parser().parse_args(words.split()), Scripted({"/v1/names": NAMES, **answers})
    out, err = io.StringIO(), io.StringIO()
    console = commands.Console(out, err, terminal, options.json)
    status = options.run(commands.Call(Remote(receiver, "http://127.0.0.1:8445"), console, options))
    return out.getvalue().splitlines(), err.getvalue(), status, receiver


# ---- list


def rates(*values: float) -> JobPage:
    return JobPage([job(n, hyper={"learning_rate": rate, "max_iter": 60}) for n, rate in enumerate(values, 1)])


@pytest.mark.parametrize("terminal", [NARROW, WIDE], ids=["80", "140"])
def test_jobs_that_differ_in_one_hyper_parameter_differ_in_the_list(terminal: Terminal) -> None:
    lines, _, _, receiver = ran("list", {"/v1/jobs": rates(0.05, 0.1, 0.2)}, terminal)
    text = " ".join(lines)
    assert [f"learning_rate={rate}" in text for rate in (0.05, 0.1, 0.2)] == [True] * 3
    # What all of them have is what no row needs.
    assert "max_iter" not in text
    assert receiver.asked[0][1] == {"with": "hyper,reason", "limit": "500"}


def test_a_model_is_compared_with_its_own_jobs_and_a_missing_key_is_a_difference() -> None:
    page = JobPage([
        job(1, hyper={"max_iter": 60}),
        job(2, hyper={"max_iter": 60, "depth": 3}),
        job(3, model="cnn", hyper={"layers": 2}),
    ])  # fmt: skip
    lines, *_ = ran("list", {"/v1/jobs": page}, WIDE)
    assert ["depth=3" in line for line in lines[1:]] == [False, True, False]
    assert "max_iter" not in " ".join(lines)
    assert "layers" not in " ".join(lines)


def test_a_pipe_has_every_hyper_parameter_reason_name_and_tag_at_the_end_of_its_columns() -> None:
    page = JobPage([job(hyper={"b": [1], "a": "x y"}, reason="slot on pi", name="mine", tags=["t1", "t2"])])
    lines, *_ = ran("list", {"/v1/jobs": page})
    assert lines[0].split("\t")[9:] == ["", "a=x y b=[1]", "slot on pi", "mine", "t1,t2"]


def test_a_column_without_any_value_is_left_out_on_a_terminal() -> None:
    lines, *_ = ran("list", {"/v1/jobs": JobPage([job()])}, WIDE)
    assert lines[0].split() == ["ID", "MODEL", "MODE", "SPLIT", "SEED", "STATUS", "TRIES", "UPDATED", "(UTC)"]
    named = JobPage([job(name="mine", reason="slot on pi"), job(2)])
    lines, *_ = ran("list", {"/v1/jobs": named}, WIDE)
    assert lines[0].split()[:2] == ["ID", "NAME"]
    assert "REASON" in lines[0]
    assert "slot on pi" in lines[1]


def test_the_headline_metric_leads_the_figures_of_a_list() -> None:
    done = job(status="completed", metrics={"auroc": 0.9, "speed": 7.0, "auprc": 0.8}, duration_s=3)
    for headline, shown in ((None, "auroc 0.9 auprc 0.8"), (Headline("speed"), "speed 7 auroc 0.9")):
        lines, *_ = ran("list", {"/v1/jobs": JobPage([done], headline=headline)})
        assert lines[0].split("\t")[9] == f"{shown} in 3.0 s"


def test_a_range_of_time_is_asked_for_in_utc() -> None:
    with in_zone("America/New_York"):
        _, _, _, receiver = ran("list --since 2026-11-29 --until 2026-11-29", {"/v1/jobs": rates(1)})
        assert receiver.asked[0][1]["since"] == "2026-11-29T05:00:00.000Z"
        assert receiver.asked[0][1]["until"] == "2026-11-30T05:00:00.000Z"
        _, _, _, receiver = ran("list --since 2026-11-29 --utc", {"/v1/jobs": rates(1)})
        # Without a terminal the option of the program is not part of the console made here.
        assert receiver.asked[0][1]["since"] == "2026-11-29T05:00:00.000Z"


# ---- names that nothing has


@pytest.mark.parametrize(
    ("words", "path", "said"),
    [
        ("list --host nosuch", "jobs", "found no job on host nosuch; hosts are gpu-tower, lab-server, pi"),
        ("list --host gpu-towr", "jobs", "found no job on host gpu-towr; did you mean gpu-tower? hosts are"),
        ("list --model gtb", "jobs", "found no job of model gtb; did you mean gbt? models are cnn, gbt"),
        ("list --tag x", "jobs", "found no job with tag x; tags are night"),
        ("events --worker nosuch", "events", "found no event on host nosuch; hosts are gpu-tower"),
        ("identity list nosuch", "identities", "found no identity on host nosuch; hosts are gpu-tower"),
        ("compare --model gtb", "jobs", "found no job of model gtb; did you mean gbt?"),
        ("best --tag x", "jobs", "found no job with tag x; tags are night"),
        ("cancel --host nosuch", "jobs", "found no job on host nosuch; hosts are gpu-tower"),
    ],
)
@pytest.mark.parametrize("terminal", [PIPE, NARROW], ids=["pipe", "terminal"])
def test_a_filter_that_names_what_there_is_not_is_refused(words: str, path: str, said: str, terminal: Terminal) -> None:
    empty = {"jobs": JobPage([]), "events": Bare({"events": []}), "identities": Bare({"identities": []})}[path]
    with pytest.raises(NotFoundError) as caught:
        ran(words, {f"/v1/{path}": empty}, terminal)
    assert caught.value.message.startswith(said)
    assert caught.value.exit_status == 1


@dataclasses.dataclass
class Bare:
    """An answer that is no message of this version."""

    document: dict[str, Any]

    def __call__(self, _given: Any) -> Any:
        made = dataclasses.make_dataclass("Answered", list(self.document))
        return made(**self.document)


@pytest.mark.parametrize("words", ["list --host pi", "list --model gbt --status failed", "list --since 8h", "list"])
def test_an_empty_list_that_is_right_ends_with_0(words: str) -> None:
    assert ran(words, {"/v1/jobs": JobPage([])})[:3] == ([], "", 0)
    assert ran(words, {"/v1/jobs": JobPage([])}, NARROW)[0][0].startswith(("no job matches", "there is no job"))


def test_a_receiver_that_knows_no_names_gives_an_empty_list() -> None:
    answers = {"/v1/jobs": JobPage([]), "/v1/names": NotFoundError("no such path")}
    assert ran("list --host nosuch", answers)[2] == 0


# ---- hosts

TOWER = WorkerView(
    "gpu-tower",
    "working",
    3.2,
    [job(1).id],
    Capability(
        "gpu-tower",
        os="linux",
        os_version="Debian 12",
        arch="x86_64",
        cpu_count=8,
        ram_bytes=24 * GIB,
        gpus=(Gpu("Card A", "GPU-1", 12 * GIB, 11 * GIB, "550"), Gpu("Card B", "GPU-2", 24 * GIB, 2 * GIB, "550")),
        cuda_present=True,
        cuda_usable=True,
        torch_version="2.13",
        python="3.11.7",
        revision="0123456789abcdef",
        dirty=True,
        free_disk_bytes=70 * GIB,
        version="0.1.0",
        contract=hyper.contract_digest(hyper.describe()),
        models=("gbt",),
        datasets={"default": "sha256:" + "ab" * 32, "new": ""},
        problems=("no git",),
    ),
    {"allow_jobs": ["*"], "deny_jobs": ["mlp"], "slots": 2, "ram_gib": 8, "vram_gib": 16, "unheard": 1},
    ["cuda: drift"],
    "enrolled",
    ["another machine"],
    slots=1,
)
REFUSED = WorkerView("guest", "refused", None, [], None, None, [])


def test_everything_known_of_a_host_is_shown() -> None:
    running = JobPage([job(1, status="running", host="gpu-tower", progress=Progress(45, 100, "fold 2/5"))])
    answers = {"/v1/workers": WorkerPage([REFUSED, TOWER]), "/v1/jobs": running}
    lines, *_ = ran("host gpu-tower", answers, WIDE)
    text = "\n".join(lines)
    for line in (
        "state      working",
        "last seen  3.2 s ago",
        "identity   enrolled",
        "slots      manifest 2, worker 1: 1 used",
        "allowed    *, but not mlp",
        "memory     8 of 24 GiB by the manifest",
        "card       16 of 24 GiB by the manifest",
        "cuda       yes",
        "free disk  70.0 GiB",
        "worker     version 0.1.0, commit 0123456789ab+changes, Python 3.11.7",
        "  default  sha256:" + "ab" * 32,
        "  new      no digest reported",
        "  another machine",
        "  cuda: drift",
        "  no git",
    ):
        assert line in text
    assert "models     gbt; without a library: mlp (" in text
    assert f"cnn ({', '.join(hyper.MODELS['cnn'].libraries)})" in text
    cards = [line.split() for line in lines if "Card" in line]
    assert [row[:3] for row in cards] == [["0", "Card", "A"], ["1", "Card", "B"]]
    assert "16.0 of 24.0 GiB" in text
    assert "by other programs" in text
    assert f"{job(1).id[:12]}  gbt oracle hosts seed 490  [#####.......] 45 %" in text


def test_a_host_that_is_not_admitted_is_refused_and_never_idle() -> None:
    lines, *_ = ran("host guest", {"/v1/workers": WorkerPage([REFUSED]), "/v1/jobs": JobPage([])}, NARROW)
    assert "state      refused" in lines
    assert "slots      worker unknown: 0 used" in lines
    assert "allowed    nothing: the manifest does not admit this host" in lines
    assert lines[-1] == "  the manifest does not admit this host: add [hosts.NAME] to it"


def test_a_host_that_nobody_knows_is_refused_with_those_there_are() -> None:
    with pytest.raises(NotFoundError, match=r"found no host gpu-towr; did you mean gpu-tower\? hosts are guest, "):
        ran("host gpu-towr", {"/v1/workers": WorkerPage([REFUSED, TOWER])})


def test_a_host_as_json_comes_with_what_it_runs() -> None:
    answers = {"/v1/workers": WorkerPage([TOWER]), "/v1/jobs": JobPage([job(1, status="running")])}
    found = json.loads("\n".join(ran("host gpu-tower --json", answers)[0]))
    assert (found["host"]["slots"], found["jobs"][0]["status"]) == (1, "running")


@pytest.mark.parametrize("name", ["hosts", "workers"])
@pytest.mark.parametrize("terminal", [NARROW, WIDE], ids=["80", "140"])
def test_hosts_keep_the_job_they_run_in_sight_and_both_sizes(name: str, terminal: Terminal) -> None:
    lines, *_ = ran(name, {"/v1/workers": WorkerPage([TOWER, REFUSED])}, terminal)
    first = next(line for line in lines if line.startswith("gpu-tower"))
    assert job(1).id[:12] in first
    assert "1/1" in first
    assert "8 of 24 GiB" in " ".join(lines)
    assert "refused" in next(line for line in lines if line.startswith("guest"))
    assert max(map(len, lines)) <= (terminal.width or 0)


# ---- best


def completed(number: int, value: Any, **changes: Any) -> JobView:
    metrics = {"auprc_host_mean": value, "brier": 1 - value if isinstance(value, float) else None}
    return job(number, status="completed", metrics=metrics, artifact=f"{number}" * 64, **changes)


RESULTS = JobPage([completed(1, 0.4), completed(2, 0.9, split="random"), completed(3, 0.7), completed(4, None)])


def test_the_best_job_is_named_with_its_figure_and_artifact() -> None:
    lines, *_ = ran("best", {"/v1/jobs": RESULTS})
    assert lines == [f"{job(3).id}\tauprc_host_mean\t0.7\t{'3' * 64}"]
    lines, _, _, receiver = ran("best --model gbt --mode oracle --tag night", {"/v1/jobs": RESULTS}, NARROW)
    text = " ".join(" ".join(lines).split())
    assert lines[0] == f"job       {job(3).id}"
    assert "figure 0.7 auprc_host_mean, the usual one, because the trainer names none, higher is better" in text
    assert "the best of 3 completed jobs" in text
    assert f"artifact  {'3' * 64}" in lines
    asked = {"status": "completed", "with": "hyper", "model": "gbt", "mode": "oracle", "tag": "night", "limit": "500"}
    assert receiver.asked[0] == ("/v1/jobs", asked)


def test_a_split_that_leaks_is_the_best_only_where_it_is_asked_for() -> None:
    assert ran("best --split random", {"/v1/jobs": RESULTS})[0][0].startswith(job(2).id)
    assert ran("best --split hosts", {"/v1/jobs": RESULTS})[0][0].startswith(job(3).id)


def test_lower_is_better_where_the_trainer_or_the_operator_says_so() -> None:
    declared = dataclasses.replace(RESULTS, headline=Headline("auprc_host_mean", "lower"))
    assert ran("best", {"/v1/jobs": declared})[0][0].startswith(job(1).id)
    assert ran("best --metric brier", {"/v1/jobs": RESULTS})[0][0].startswith(job(3).id)
    assert ran("best --lower", {"/v1/jobs": RESULTS})[0][0].startswith(job(1).id)


def test_the_best_job_as_json_says_by_what() -> None:
    found = json.loads("\n".join(ran("best --json", {"/v1/jobs": RESULTS})[0]))
    assert (found["id"], found["metric"], found["direction"], found["value"], found["artifact"], found["jobs"]) == (
        job(3).id, "auprc_host_mean", "higher", 0.7, "3" * 64, 3,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "page", "said"),
    [
        ("best", JobPage([]), "found no completed job that matches"),
        ("best --split tiem", RESULTS, "found no completed job with the split tiem; splits are hosts, random"),
        ("best --dataset lab", RESULTS, "found no completed job with the dataset lab; no job names a dataset"),
        ("best --metric f1", RESULTS, "found no metric f1 in 3 completed jobs; --metric takes one of auprc_host_mean"),
        ("best", JobPage([completed(1, None)]), "none of the completed jobs has a number for auprc_host_mean"),
        ("compare --split tiem", RESULTS, "found no completed job with the split tiem"),
    ],
)
def test_no_best_job_is_an_error_that_says_why(words: str, page: JobPage, said: str) -> None:
    with pytest.raises(FleetError) as caught:
        ran(words, {"/v1/jobs": page})
    assert caught.value.message.startswith(said)
    assert caught.value.exit_status == 1


# ---- many at once

CHOICE = JobPage([job(1), job(2, status="claimed"), job(3)])


def test_a_filter_shows_what_it_would_change_and_changes_nothing() -> None:
    lines, said, status, receiver = ran("cancel --model gbt --host pi", {"/v1/jobs": CHOICE})
    assert (len(lines), status) == (3, 0)
    assert receiver.asked == [
        ("/v1/jobs", {"model": "gbt", "host": "pi", "status": "pending,claimed,running", "with": "hyper,reason",
                      "limit": "500"})
    ]  # fmt: skip
    assert "cancel would change 3 jobs; nothing is changed yet" in said
    digest = json.loads("\n".join(ran("cancel --model gbt --host pi --json", {"/v1/jobs": CHOICE})[0]))["digest"]
    assert said.splitlines()[-1] == f"  cis490-jobs cancel --model gbt --host pi --if {digest}"


def changed(receiver: Scripted) -> list[str]:
    return [path for path, _ in receiver.asked if path.endswith(tuple("abcdefghijklmnopqrstuvwxyz")) and "?" in path]


def changes(verb: str, **refused: FleetError) -> dict[str, Any]:
    after = "cancelled" if verb == "cancel" else "pending"
    return {f"/v1/job/{job(n).id}/{verb}": refused.get(f"job{n}", JobState(job(n).id, after)) for n in (1, 2, 3)}  # type: ignore[arg-type]


def test_exactly_what_was_shown_is_changed_each_job_only_in_the_status_it_had() -> None:
    shown = json.loads("\n".join(ran("cancel --status pending,claimed --json", {"/v1/jobs": CHOICE})[0]))
    answers = {"/v1/jobs": CHOICE, **changes("cancel")}
    lines, said, status, receiver = ran(f"cancel --status pending,claimed --if {shown['digest']}", answers)
    assert changed(receiver) == [
        f"/v1/job/{job(1).id}/cancel?if_status=pending",
        f"/v1/job/{job(2).id}/cancel?if_status=claimed",
        f"/v1/job/{job(3).id}/cancel?if_status=pending",
    ]
    assert ([line.split("\t")[1] for line in lines], status) == (["cancelled"] * 3, 0)
    assert said == "cancel: 3 of 3 jobs\n"


@pytest.mark.parametrize(
    "now", [JobPage([job(1), job(2), job(3)]), JobPage([job(1)]), JobPage([])], ids=["moved", "fewer", "none"]
)
def test_another_choice_than_the_one_that_was_shown_changes_nothing(now: JobPage) -> None:
    shown = json.loads("\n".join(ran("cancel --model gbt --json", {"/v1/jobs": CHOICE})[0]))["digest"]
    receiver: list[Scripted] = []
    with pytest.raises(FleetError, match="the choice is another one now"):
        receiver.append(ran(f"cancel --model gbt --if {shown}", {"/v1/jobs": now, **changes("cancel")})[3])
    with pytest.raises(FleetError, match="the choice is another one now"):
        # The digest of a cancellation is none of a requeue, even of the same jobs.
        failed = JobPage([job(1, status="failed")])
        digest = json.loads("\n".join(ran("requeue --model gbt --json", {"/v1/jobs": failed})[0]))["digest"]
        ran(f"cancel --model gbt --if {digest}", {"/v1/jobs": failed, **changes("cancel")})


def test_jobs_that_moved_meanwhile_are_left_and_named() -> None:
    failed = JobPage([job(n, status="failed") for n in (1, 2, 3)])
    moved = ConflictError(f"the job {job(2).id} is running now, nothing was changed")
    lines, said, status, _ = ran(
        "requeue --status failed --yes", {"/v1/jobs": failed, **changes("requeue", job2=moved)}
    )
    assert [line.split("\t")[0] for line in lines] == [job(1).id, job(3).id]
    assert f"cis490-jobs: the job {job(2).id} is running now" in said
    assert "requeue: 2 of 3 jobs; 1 had changed meanwhile or were refused, and stay as they are" in said
    assert status == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("cancel", "`cancel` needs to know which jobs"),
        ("cancel --yes", "`cancel` needs to know which jobs"),
        ("cancel a1b2 --model gbt", "found ids of jobs beside a filter"),
        ("requeue a1b2 --yes", "found ids of jobs beside a filter"),
        ("cancel --status completed", "`cancel` changes no job that is completed"),
        ("requeue --status failed,running", "`requeue` changes no job that is running"),
    ],
)
def test_an_order_that_is_not_clear_changes_nothing(words: str, said: str) -> None:
    with pytest.raises(FleetError) as caught:
        ran(words, {"/v1/jobs": CHOICE, **changes("cancel")})
    assert caught.value.message.startswith(said)


def test_a_filter_that_fits_nothing_is_said() -> None:
    assert ran("cancel --model gbt --yes", {"/v1/jobs": JobPage([])})[:3] == (
        [], "no job matches; there is nothing to cancel\n", 0,
    )  # fmt: skip


def test_words_that_a_shell_would_take_apart_are_quoted() -> None:
    options = ["cancel", "--name", "a;b", "--model", "gbt"]
    parsed = program.parser().parse_args(options)
    out, err = io.StringIO(), io.StringIO()
    call = commands.Call(Remote(Scripted({"/v1/jobs": CHOICE}), ""), commands.Console(out, err, PIPE), parsed)
    assert parsed.run(call) == 0
    assert "cancel --model gbt --name 'a;b' --if" in err.getvalue()


# ---- help


def test_every_command_has_two_examples_that_the_parser_takes() -> None:
    parser = program.parser()
    for item in known_commands(parser):
        assert item.name in usage.EXAMPLES, f"give {item.name} two examples in usage.EXAMPLES"
        for line in usage.EXAMPLES[item.name]:
            words = line.partition(" | ")[0].replace("DIGEST", "e" * 64).split()
            assert parser.parse_args(words).command == item.name


def test_help_shows_own_options_first_and_those_of_the_connection_last(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["list", "--help"])
    text = capsys.readouterr().out
    first, *_ = text.split("\n\n")
    assert "--status STATUS[,STATUS]" in first
    assert "--receiver" not in first
    places = [text.index(word) for word in ("\noptions:", "--limit N ", "\noutput:", "\nconnection:", "\nexamples:")]
    assert places == sorted(places)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("stauts", "cis490-jobs: found no command stauts; did you mean status?"),
        (
            "list --satus failed",
            "cis490-jobs: found --satus failed, which this command does not take; did you mean -",
        ),
        (
            "list --mode orcale",
            "cis490-jobs: argument --mode: found 'orcale', expected one of realistic, oracle; did ",
        ),
        ("hosts extra", "cis490-jobs: found extra, which this command does not take\n"),
        ("list --since soon", "cis490-jobs: argument --since: found 'soon', expected yesterday, 8h, 14:00"),
        ("cancel --if abc", "cis490-jobs: argument --if: found 'abc', expected the 16 hex digits that were shown"),
    ],
)
def test_a_mistyped_name_is_told_the_nearest_one(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main(words.split())
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("cis490-jobs 0.")
