"""The form of a doctor's checks, and what both doctors look at."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tls_site import Site

from training.fleet import checks
from training.fleet.checks import Check, Look, fail, made, ok, skip, warn
from training.fleet.model.errors import AuthenticationError
from training.fleet.tls.certificates import DAY_S, facts


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def programs(**answers: tuple[int | None, str]) -> Callable[[Sequence[str]], tuple[int | None, str]]:
    """Return a system whose programs answer so; `--user` goes in front of a name as `user_`."""

    def run(command: Sequence[str]) -> tuple[int | None, str]:
        return answers.get(("user_" if "--user" in command else "") + command[0], (None, ""))

    return run


# ---- the order ------------------------------------------------------------------------------------------------------


def test_a_check_that_breaks_or_refuses_stops_no_other_and_shows_no_traceback() -> None:
    def breaks() -> checks.Seen:
        raise ValueError("seven")

    def refuses() -> checks.Seen:
        raise AuthenticationError("the token is wrong", "make a new one", expected="another")

    assert made([Look("a", breaks), Look("b", refuses), Look("c", lambda: ok("well"))]) == [
        Check("a", "fail", "the check broke: ValueError: seven", "report this as a fault of doctor"),
        Check("b", "fail", "the token is wrong; expected another", "make a new one"),
        Check("c", "ok", "well"),
    ]


def test_a_check_that_hangs_is_left_behind() -> None:
    never = threading.Event()

    def hangs() -> checks.Seen:
        never.wait(60)
        return ok("late")

    found = made([Look("a", hangs, limit_s=0.05), Look("b", lambda: ok("well"))])
    never.set()
    assert [(check.state, check.found) for check in found] == [("fail", "did not end within 0.05 s"), ("ok", "well")]


def test_what_depends_on_a_failed_check_says_so_and_what_depends_on_a_warning_is_looked_at() -> None:
    looks = [
        Look("way", lambda: fail("cut", "fix it")),
        Look("tls", lambda: ok("never"), ("way",)),
        Look("name", lambda: ok("never"), ("tls",)),
        Look("odd", lambda: warn("odd", "look")),
        Look("after", lambda: ok("well"), ("odd",)),
    ]
    assert [(check.name, check.state, check.found) for check in made(looks)] == [
        ("way", "fail", "cut"),
        ("tls", "skip", "not looked at, because way failed"),
        ("name", "skip", "not looked at, because tls was not looked at"),
        ("odd", "warn", "odd"),
        ("after", "ok", "well"),
    ]


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ({"a": "ok", "b": "warn", "c": "skip"}, 0),
        ({"a": "fail"}, 1),
        ({"connection": "fail"}, 69),
        ({"connection": "fail", "a": "fail"}, 1),
        ({"settings": "fail", "a": "fail"}, 78),
    ],
)
def test_the_exit_status_says_what_kind_of_trouble_there_is(states: dict[str, checks.CheckState], status: int) -> None:
    found = [Check(name, state, "") for name, state in states.items()]
    assert checks.exit_status(found, reach=frozenset({"address", "connection"})) == status


# ---- the words ------------------------------------------------------------------------------------------------------

THREE = [
    Check("disk", "ok", "10 GiB"),
    Check("tls chain", "fail", "too\nold \x1b[2J", "renew it"),
    Check("x", "skip", "no"),
]


def told(stream: io.StringIO, *, as_json: bool = False, **environ: str) -> str:
    checks.show(THREE, 1, stream, as_json=as_json, environ=environ)
    return stream.getvalue()


def test_people_get_one_aligned_line_a_check_and_the_mend_below() -> None:
    assert told(io.StringIO()) == (
        "ok    disk       10 GiB\n"
        "FAIL  tls chain  too old ?[2J\n"
        "                 remedy: renew it\n"
        "skip  x          no\n"
        "1 ok, 0 to look at, 1 failed, 1 not looked at; correct what FAIL says, from the top\n"
    )


def test_colours_appear_on_a_terminal_alone_and_never_with_no_color() -> None:
    assert "\x1b[31mFAIL\x1b[0m  tls chain" in told(Terminal())
    assert "\x1b" not in told(Terminal(), NO_COLOR="1")
    assert "\x1b" not in told(Terminal(), TERM="dumb")


def test_machines_get_json() -> None:
    body = json.loads(told(io.StringIO(), as_json=True))
    assert (body["ok"], body["status"], body["checks"][0]) == (
        False,
        1,
        {"name": "disk", "state": "ok", "found": "10 GiB", "remedy": ""},
    )


# ---- what both look at ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "wide", "state"),
    [((3, 11, 0), True, "ok"), ((3, 13, 1), True, "ok"), ((3, 10, 9), True, "fail"), ((3, 12, 0), False, "fail")],
)
def test_an_old_or_narrow_python_fails(version: tuple[int, ...], wide: bool, state: str) -> None:
    assert checks.python(version, wide=wide)[0] == state


UNIT = "LoadState=loaded\nActiveState={}\nUnitFileState={}"


@pytest.mark.parametrize(
    ("answers", "state", "says"),
    [
        ({"systemctl": (0, UNIT.format("active", "enabled"))}, "ok", "x is active and enabled"),
        ({"systemctl": (0, UNIT.format("failed", "enabled"))}, "fail", "sudo systemctl enable --now x"),
        ({"systemctl": (0, UNIT.format("active", "disabled"))}, "warn", "sudo systemctl enable x"),
        ({"systemctl": (0, "LoadState=not-found"), "user_systemctl": (1, "no bus")}, "skip", "no unit x is installed"),
        ({}, "skip", "no unit x is installed"),
        (
            {"user_systemctl": (0, UNIT.format("active", "enabled")), "loginctl": (0, "no")},
            "warn",
            "sudo loginctl enable-linger",
        ),
        ({"user_systemctl": (0, UNIT.format("active", "enabled")), "loginctl": (0, "yes")}, "ok", "active and enabled"),
        ({"user_systemctl": (0, UNIT.format("inactive", "enabled"))}, "fail", "systemctl --user enable --now x"),
    ],
)
def test_a_unit_is_judged_by_what_systemd_says(answers: dict[str, tuple[int, str]], state: str, says: str) -> None:
    found = checks.unit("x", programs(**answers))
    assert found[0] == state
    assert says in f"{found[1]} {found[2]}"


TASK = "<Triggers><BootTrigger><Enabled>{}</Enabled></BootTrigger></Triggers><Settings><Enabled>{}</Enabled></Settings>"
LINE = '"PC","\\x","N/A","{}","Interaktiv","26.11.2026 03:00:00","{}","PC\\me","python.exe","N/A"'


@pytest.mark.parametrize(
    ("described", "told", "state", "remedy"),
    [
        ((0, TASK.format("true", "true")), LINE.format("Running", "267009"), "ok", ""),
        ((0, TASK.format("true", "true")), LINE.format("Wird ausgeführt", "267009"), "ok", ""),
        ((0, TASK.format("false", "true")), f"\n{LINE.format('Running', '267009')}\n", "ok", ""),
        ((0, TASK.format("true", "true")), LINE.format("Bereit", "1"), "fail", 'schtasks /run /tn "x"'),
        ((0, TASK.format("true", "true")), "", "fail", 'schtasks /run /tn "x"'),
        (
            (0, TASK.format("true", "false")),
            LINE.format("Deaktiviert", "0"),
            "fail",
            'schtasks /change /tn "x" /enable',
        ),
        ((1, "ERROR: The system cannot find the file specified."), "", "skip", ""),
        ((None, ""), "", "skip", ""),
    ],
)
def test_a_scheduled_task_is_judged_by_what_windows_says_in_any_language(
    described: tuple[int | None, str], told: str, state: str, remedy: str
) -> None:
    def run(command: Sequence[str]) -> tuple[int | None, str]:
        assert command[:4] == ["schtasks", "/query", "/tn", "x"]
        return described if "/xml" in command else (0, told)

    found = checks.task("x", run)
    assert (found[0], found[2]) == (state, remedy)


@pytest.mark.parametrize(
    ("answers", "windows", "found"),
    [
        ({"timedatectl": (0, "yes")}, False, (True, "sudo timedatectl set-ntp true")),
        ({"timedatectl": (0, "no")}, False, (False, "sudo timedatectl set-ntp true")),
        ({"timedatectl": (1, ""), "chronyc": (0, "Leap status     : Normal")}, False, (True, "sudo chronyc makestep")),
        ({"chronyc": (0, "Leap status     : Not synchronised")}, False, (False, "sudo chronyc makestep")),
        ({}, False, (None, "sudo timedatectl set-ntp true")),
        ({"w32tm": (0, "Leap Indicator: 0(no warning)\nSource: time.windows.com")}, True, (True, "w32tm /resync")),
        ({"w32tm": (0, "Leap Indicator: 3(not synchronized)")}, True, (False, "w32tm /resync")),
        ({"w32tm": (0, "Leap Indicator: 0\nSource: Local CMOS Clock")}, True, (False, "w32tm /resync")),
    ],
)
def test_whether_the_clock_is_kept_in_step_is_asked_of_the_system(
    answers: dict[str, tuple[int, str]], windows: bool, found: tuple[bool | None, str]
) -> None:
    assert checks.clock_keeper(programs(**answers), windows=windows) == found


def test_a_program_that_is_not_there_or_fails_is_an_answer() -> None:
    assert checks.ask(["no-such-program-of-cis490"]) == (None, "")
    assert checks.ask(["sh", "-c", "echo $CIS490_OPERATOR_TOKEN so; exit 3"]) == (3, "so")


# ---- certificates ---------------------------------------------------------------------------------------------------


def test_the_life_of_a_certificate_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    path, key = Site(tmp_path).server()
    known = facts(path.read_bytes())
    assert checks.validity(checks.first_certificate(path) or b"") == (known.not_before, known.not_after)
    assert checks.first_certificate(key) is None
    for broken in (b"", b"\x30\x03\x02", b"\x30\x82\xff\xff\x00", b"\x30\x00"):
        assert checks.validity(broken) is None


@pytest.mark.parametrize(
    ("begins", "ends", "state", "says"),
    [
        (-1, 60, "ok", "60 more days"),
        (-1, 3, "warn", "3 more days"),
        (-9, -1, "fail", "has expired"),
        (1, 9, "fail", "not yet valid"),
    ],
)
def test_a_certificate_near_its_end_warns_and_one_beyond_it_fails(
    begins: int, ends: int, state: str, says: str
) -> None:
    now = time.time()
    found = checks.life_left(now + begins * DAY_S, now + ends * DAY_S, now, "renew")
    assert found[0] == state
    assert says in found[1]


def test_what_was_not_looked_at_needs_no_mend() -> None:
    assert skip("because") == ("skip", "because", "")
