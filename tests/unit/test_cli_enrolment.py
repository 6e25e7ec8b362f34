"""`cis490-jobs invite`, `worker` and `events`: what is asked and what is shown."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.helpers.zones import in_zone
from training.fleet.cli import commands, machines, program, trail
from training.fleet.cli.remote import Remote
from training.fleet.cli.text import Terminal
from training.fleet.model.errors import ConfigurationError
from training.fleet.wire.identities import IdentityView, Invite
from training.fleet.wire.people import FleetEvent, WorkerView


@pytest.fixture(autouse=True)
def utc() -> Iterator[None]:
    with in_zone("UTC"):
        yield


INVITE = Invite("gpu-tower", "the-code", 900, "2026-01-01T00:15:00.000Z")
GONE = IdentityView("pi", "01ab", "revoked", "2026-01-01T00:00:00.000Z", "2026-01-02T00:00:00.000Z", "f" * 64)
LIVE = IdentityView("gpu-tower", "23cd", "enrolled", "2026-01-01T00:00:00.000Z")
EVENTS = [
    FleetEvent(9, "2026-01-01T00:00:03.000Z", "operator:alice", "revoke", None, "pi", None, None, "lost\x1b[2J"),
    FleetEvent(
        8, "2026-01-01T00:00:02.000Z", "worker:pi", "claim", "a" * 64, None, "pending", "claimed", "", "gbt", "oracle"
    ),
]
WIDE = Terminal(200, 50)
PIPE = Terminal()


class Scripted:
    """A receiver that answers as told."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Any]] = []

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        self.asked.append((path, dict(query or {})))
        return dict(self.answers[path.rpartition("/")[2]])

    def post(self, path: str, body: Any, *, timeout_s: float | None = None) -> tuple[int, dict[str, Any] | None]:
        self.asked.append((path, body))
        return 200, dict(self.answers[path.rpartition("/")[2]])

    def close(self) -> None:
        return


def ran(words: list[str], receiver: Scripted, terminal: Terminal = PIPE) -> tuple[list[str], str]:
    """Run a command that goes well and return its lines and its messages."""
    options = program.parser().parse_args(words)
    out, err = io.StringIO(), io.StringIO()
    console = commands.Console(out, err, terminal, options.json)
    assert options.run(commands.Call(Remote(receiver, "https://pi.lab:8445"), console, options)) == 0
    return out.getvalue().splitlines(), err.getvalue()


def as_json(message: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(message)))  # type: ignore[no-any-return]


# ---- invite


def test_an_invite_is_one_command_for_linux_and_one_for_windows() -> None:
    receiver = Scripted(invite=as_json(INVITE))
    lines, said = ran(["invite", "gpu-tower", "--ttl", "20m"], receiver)
    assert receiver.asked == [("/v1/invite", {"worker": "gpu-tower", "ttl_s": 1200})]
    assert lines == [
        "scripts/install-training-worker.sh --receiver https://pi.lab:8445 --host gpu-tower --code the-code",
        "powershell -ExecutionPolicy Bypass -File scripts\\install-training-worker-windows.ps1 "
        "-Receiver https://pi.lab:8445 -HostName gpu-tower -Code the-code",
    ]
    assert "the code works once, until 2026-01-01 00:15:00" in said
    assert "the-code" not in said


def test_an_invite_pins_the_receivers_authority() -> None:
    lines, _ = ran(["invite", "gpu-tower"], Scripted(invite=as_json(dataclasses.replace(INVITE, ca_sha256="ab" * 32))))
    assert lines[0].endswith(f"--code the-code --ca-sha256 {'ab' * 32}")
    assert lines[1].endswith(f"-Code the-code -CaSha256 {'ab' * 32}")


def test_an_operator_is_told_what_an_invite_ends_and_where_its_address_is_no_good() -> None:
    again = dataclasses.replace(INVITE, replaces=True)
    assert "revokes its present secret" in " ".join(trail.invite_notes(again, "https://pi.lab", PIPE))
    assert "works on this machine only" in " ".join(trail.invite_notes(INVITE, "http://127.0.0.1:8445", PIPE))
    assert len(trail.invite_notes(INVITE, "https://pi.lab", PIPE)) == 1


def test_an_invite_as_json_is_the_receivers_answer() -> None:
    lines, said = ran(["invite", "gpu-tower", "--json"], Scripted(invite=as_json(INVITE)))
    assert json.loads("\n".join(lines)) == as_json(INVITE)
    assert said == ""


@pytest.mark.parametrize(("text", "seconds"), [("60", 60), ("90s", 90), ("15m", 900), ("24h", 86400)])
def test_a_time_to_live_is_read(text: str, seconds: int) -> None:
    assert program.parser().parse_args(["invite", "h", "--ttl", text]).ttl == seconds


@pytest.mark.parametrize(
    "words",
    [
        ["invite", "h", "--ttl", "59s"],
        ["invite", "h", "--ttl", "25h"],
        ["invite", "h", "--ttl", "soon"],
        ["invite", "Not A Host"],
        ["invite"],
        ["worker", "forget", "pi"],
        ["worker", "revoke", "../../v1"],
        ["events", "--worker", "a b"],
    ],
)
def test_wrong_words_are_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        program.parser().parse_args(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("cis490-jobs: ")


# ---- worker


def test_workers_that_enrolled_are_listed() -> None:
    receiver = Scripted(identities={"identities": [as_json(LIVE), as_json(GONE)], "next": None})
    lines, _ = ran(["worker", "list"], receiver)
    assert lines == [
        "gpu-tower\tenrolled\t2026-01-01 00:00:00+00:00\t-\t23cd\t-",
        f"pi\trevoked\t2026-01-01 00:00:00+00:00\t2026-01-02 00:00:00+00:00\t01ab\t{'f' * 16}",
    ]
    assert [line.split()[0] for line in ran(["worker", "list", "pi"], receiver, WIDE)[0]] == ["NAME", "pi"]
    nobody = Scripted(identities={"identities": [], "next": None})
    assert "cis490-jobs invite HOST" in ran(["worker", "list"], nobody, WIDE)[0][0]
    assert ran(["worker", "list"], nobody)[0] == []


@pytest.mark.parametrize("verb", ["revoke", "rotate"])
def test_a_worker_is_revoked_or_rotated_by_name(verb: str) -> None:
    receiver = Scripted(**{verb: as_json(GONE)})
    lines, _ = ran(["worker", verb, "pi"], receiver)
    assert receiver.asked == [(f"/v1/worker/pi/{verb}", {})]
    assert lines[0].startswith("pi\trevoked\t")
    assert json.loads("\n".join(ran(["worker", verb, "pi", "--json"], receiver)[0])) == as_json(GONE)
    with pytest.raises(ConfigurationError, match=f"`identity {verb}` needs the name"):
        ran(["worker", verb], receiver)


# ---- events


def test_the_trail_is_shown_and_nothing_in_it_steers_a_terminal() -> None:
    receiver = Scripted(events={"events": [as_json(event) for event in EVENTS], "next": None})
    lines, _ = ran(["events", "--worker", "pi"], receiver)
    assert receiver.asked == [("/v1/events", {"worker": "pi", "limit": "50"})]
    assert lines == [
        "2026-01-01 00:00:03+00:00\toperator:alice\trevoke\tpi\t-\tlost\\x1b[2J\t-",
        f"2026-01-01 00:00:02+00:00\tworker:pi\tclaim\t{'a' * 64}\tclaimed\t\tgbt oracle",
    ]
    table, _ = ran(["events"], receiver, WIDE)
    assert table[0].split() == ["TIME", "(UTC)", "WHO", "WHAT", "ABOUT", "TO", "MODEL", "WHY"]
    assert "a" * 12 in table[2]
    whole = json.loads("\n".join(ran(["events", "--json"], receiver)[0]))
    assert [event["id"] for event in whole["events"]] == [9, 8]


def test_a_limit_bounds_all_pages_together() -> None:
    receiver = Scripted(events={"events": [as_json(event) for event in EVENTS], "next": "e8"})
    assert len(ran(["events", "--limit", "4"], receiver)[0]) == 4
    assert [query["limit"] for _, query in receiver.asked] == ["4", "2"]


def test_the_trail_of_a_job_is_asked_for_by_its_whole_id() -> None:
    receiver = Scripted(events={"events": [], "next": None}, jobs={"jobs": [{"id": "a" * 64}]})
    ran(["events", "--job", "aaaa"], receiver)
    assert receiver.asked[-1] == ("/v1/events", {"job": "a" * 64, "limit": "50"})


# ---- secrets of the command


def test_looking_needs_no_operator_token_and_uses_the_one_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CIS490_OPERATOR_TOKEN", "CIS490_OPERATOR_TOKEN_FILE", "CIS490_READ_TOKEN", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    for words in (["events"], ["worker", "list"], ["status"]):
        options = program.parser().parse_args(words)
        assert program._operator_token(options, {}) is None
        assert program._operator_token(options, {"CIS490_OPERATOR_TOKEN": "token"}) == "token"
    for words in (["invite", "pi"], ["worker", "revoke", "pi"], ["worker", "rotate", "pi"]):
        with pytest.raises(Exception, match="needs the operator token"):
            program._operator_token(program.parser().parse_args(words), {})
    both = {"CIS490_OPERATOR_TOKEN": "token", "CIS490_READ_TOKEN": "another"}
    assert program._operator_token(program.parser().parse_args(["status"]), both) is None
    assert program._operator_token(program.parser().parse_args(["completion", "bash"]), both) is None


def test_a_second_machine_is_shown_with_the_worker() -> None:
    view = WorkerView("pi", "idle", 1.0, [], None, {}, ["drift"], "enrolled", ["another machine"])
    assert machines.problems(view) == ["another machine", "drift"]
