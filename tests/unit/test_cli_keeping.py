"""`cis490-jobs backup` and `fsck`: begin, wait, show."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Any

import pytest

from training.fleet.cli import commands, program
from training.fleet.cli.remote import Remote
from training.fleet.cli.text import Terminal
from training.fleet.model.errors import FleetError, UnreachableError
from training.fleet.wire.people import Chore, Finding

BEGUN = Chore("backup", "running", "20260101T000000Z", "2026-01-01T00:00:00Z")
FINDING = Finding("artifact abc", "bytes\x1b[2J", "others", "copy it back")
NOTE = Finding("index", "a line", "none", "look")


class Scripted:
    """A receiver that answers as told."""

    def __init__(self, begun: Chore, *later: Chore | FleetError) -> None:
        self.begun = begun
        self.later = list(later)
        self.posted: list[tuple[str, Any]] = []

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        assert path == "/v1/chore"
        answer = self.later.pop(0)
        if isinstance(answer, FleetError):
            raise answer
        return dataclasses.asdict(answer)

    def post(self, path: str, body: Any, *, timeout_s: float | None = None) -> tuple[int, dict[str, Any] | None]:
        self.posted.append((path, body))
        return 200, dataclasses.asdict(self.begun)

    def close(self) -> None:
        return


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def ran(words: list[str], receiver: Scripted, err: io.StringIO | None = None) -> tuple[int, str, str]:
    """Run a command and return its exit status, its output and its messages."""
    options = program.parser().parse_args(words)
    out, err, slept = io.StringIO(), err or io.StringIO(), list[float]()
    console = commands.Console(out, err, Terminal.of(out, {}), options.json)
    status = options.run(commands.Call(Remote(receiver, "http://here"), console, options, slept.append))
    assert set(slept) <= {commands.CHORE_S}
    return status, out.getvalue(), err.getvalue()


def after(**changes: Any) -> Chore:
    return dataclasses.replace(BEGUN, **{"state": "done", **changes})


def test_backup_waits_for_the_end_and_prints_where_it_is() -> None:
    receiver = Scripted(BEGUN, BEGUN, after(path="/srv/backups/20260101T000000Z"))
    assert ran(["backup", "nightly", "--artifacts"], receiver) == (0, "/srv/backups/20260101T000000Z\n", "")
    assert receiver.posted == [("/v1/backup", {"label": "nightly", "artifacts": True})]


def test_a_backup_that_found_damage_says_so_and_exits_1() -> None:
    receiver = Scripted(BEGUN, after(path="/srv/b", findings=[FINDING], notes=[NOTE]))
    assert ran(["backup"], receiver) == (
        1,
        "artifact abc: found bytes\\x1b[2J, expected others; copy it back\n"
        "note: index: found a line, expected none; look\n"
        "/srv/b\n",
        "",
    )
    assert receiver.posted == [("/v1/backup", {"label": None, "artifacts": False})]


def test_fsck_prints_what_was_looked_at() -> None:
    begun = dataclasses.replace(BEGUN, kind="fsck")
    checked = {"jobs": 8, "pages": 30, "artifacts": 3, "bytes": 2048}
    receiver = Scripted(begun, dataclasses.replace(begun, state="done", checked=checked))
    assert ran(["fsck", "--no-hash"], receiver) == (
        0,
        "clean: 8 jobs, 30 pages, 3 artifacts, 2.0 KiB hashed\n",
        "",
    )
    assert receiver.posted == [("/v1/fsck", {"hashes": False})]


def test_an_outage_does_not_end_the_wait() -> None:
    receiver = Scripted(BEGUN, UnreachableError("nobody answers"), after(path="/srv/b"))
    assert ran(["backup"], receiver)[0] == 0


def test_a_receiver_that_was_restarted_has_lost_the_backup() -> None:
    with pytest.raises(FleetError, match="was restarted before the backup was done; run this again"):
        ran(["backup"], Scripted(BEGUN, Chore()))


def test_a_backup_that_failed_is_an_error_with_the_receivers_words() -> None:
    with pytest.raises(FleetError, match="no room for a backup"):
        ran(["backup"], Scripted(BEGUN, after(state="failed", error="no room for a backup")))


def test_progress_is_shown_on_a_terminal_in_one_line() -> None:
    later = dataclasses.replace(BEGUN, done_bytes=512, total_bytes=2048)
    _, _, err = ran(["backup"], Scripted(BEGUN, BEGUN, later, after(path="/srv/b")), Screen())
    assert err == (
        "\rbackup: looking at the database\x1b[K\rbackup: 512 B of 2.0 KiB, 25 %\x1b[K"
        "\rbackup: looking at the database\x1b[K\r\x1b[K"
    )


def test_json_is_the_receivers_answer() -> None:
    done = after(path="/srv/b", findings=[FINDING])
    status, out, _ = ran(["backup", "--json"], Scripted(BEGUN, done))
    assert (status, json.loads(out)) == (1, dataclasses.asdict(done))


@pytest.mark.parametrize("label", ["Nightly", "a/b", "..", "a" * 41, ""])
def test_a_label_that_could_be_a_path_is_wrong_usage(label: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        program.parser().parse_args(["backup", label])
    assert caught.value.code == 2
    assert "expected 1 to 40 of a-z, 0-9 and -" in capsys.readouterr().err
