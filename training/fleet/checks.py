"""Checks: what `doctor` and `--self-test` are made of, their order, and the one printer of them.

Owns the form of a check and what both doctors look at: Python, the clock's keeper, the service manager. Guarantees that
a check that fails, hangs or has a fault of its own stops no other, that a check which depends on a failed one says so
instead of guessing, and that no traceback reaches a person. Leaves what is looked at to the worker and the receiver.
Standard library only.
"""

from __future__ import annotations

import base64
import csv
import getpass
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple, TextIO

from training.fleet import system
from training.fleet.model.errors import EX_CONFIG, EX_FAILURE, EX_UNAVAILABLE, FleetError

CheckState = Literal["ok", "warn", "fail", "skip"]
Output = tuple[int | None, str]
"""Exit status and output of a program; the status is None when it cannot be started or did not end."""
Ask = Callable[[Sequence[str]], Output]

LIMIT_S: Final = 15.0
"""Longest time for one check unless it says otherwise."""
ASK_S: Final = 5.0
DAY_S: Final = 86400.0
SOON_S: Final = 14 * DAY_S
"""A certificate that ends sooner is worth a warning."""
OLDEST_PYTHON: Final = (3, 11)
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_DISABLED: Final = re.compile(r"<Settings>(?:(?!</Settings>).)*<Enabled>false</Enabled>", re.DOTALL)
_LAST_RESULT: Final = 6
"""Column of a task's last result in what schtasks lists at length."""
TASK_RUNNING: Final = "267009"
"""Last result of a task that has not ended."""
_MARKS: Final = {"ok": "ok", "warn": "warn", "fail": "FAIL", "skip": "skip"}
_COLOURS: Final = {"ok": "32", "warn": "33", "fail": "31", "skip": "2"}
_PLAIN: Final = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "?")


class Seen(NamedTuple):
    """What a look at one thing found.

    Attributes:
        state: `ok`; `warn`, worth a look and no hindrance; `fail`; or `skip`, not looked at.
        found: What was found, or why it was not looked at.
        remedy: The command or action that sets it right; empty where nothing is wrong.
    """

    state: CheckState
    found: str
    remedy: str = ""

    def about(self, what: object) -> Seen:
        """Return the same with what it is about in front of what was found."""
        return self._replace(found=f"{what} {self.found}")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, as it is shown and as it stands in JSON.

    Attributes:
        name: What.
        state: As in `Seen`.
        found: As in `Seen`.
        remedy: As in `Seen`.
    """

    name: str
    state: CheckState
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """One check that is to be made.

    Attributes:
        name: What is looked at.
        make: Looks.
        needs: Names of the checks that must not have failed before.
        limit_s: Longest time it may take.
    """

    name: str
    make: Callable[[], Seen]
    needs: tuple[str, ...] = ()
    limit_s: float = LIMIT_S


def ok(found: str) -> Seen:
    """Return that all is well."""
    return Seen("ok", found)


def warn(found: str, remedy: str) -> Seen:
    """Return that something is worth a look."""
    return Seen("warn", found, remedy)


def fail(found: str, remedy: str) -> Seen:
    """Return that something is wrong."""
    return Seen("fail", found, remedy)


def skip(why: str) -> Seen:
    """Return that it was not looked at."""
    return Seen("skip", why)


def of_error(error: FleetError, otherwise: str = "see docs/guides/troubleshooting.md") -> Seen:
    """Return an error of the fleet as a check that failed.

    Args:
        error: The error.
        otherwise: What to do where the error does not say it.
    """
    return fail(error.finding, error.remedy or otherwise)


def of_settings(error: FleetError) -> Seen:
    """Return why the settings cannot be used, as a check that failed."""
    return fail(
        error.finding,
        "; ".join(filter(None, [error.remedy, "correct the flag, the variable or the file that it names"])),
    )


def made(looks: Iterable[Look]) -> list[Check]:
    """Make the checks one after the other and return what they found."""
    done: dict[str, Check] = {}
    for look in looks:
        lacking = [name for name in look.needs if name in done and done[name].state in ("fail", "skip")]
        if lacking:
            verb = "failed" if done[lacking[0]].state == "fail" else "was not looked at"
            done[look.name] = Check(look.name, "skip", f"not looked at, because {lacking[0]} {verb}")
        else:
            done[look.name] = _within(look)
    return list(done.values())


def _within(look: Look) -> Check:
    """Make one check in a thread of its own. A check that hangs is left behind there."""
    found: list[Seen] = []

    def make() -> None:
        try:
            found.append(look.make())
        except FleetError as error:
            found.append(of_error(error))
        except Exception as error:  # noqa: BLE001 - one check that breaks must not hide the others
            found.append(fail(f"the check broke: {type(error).__name__}: {error}", "report this as a fault of doctor"))

    thread = threading.Thread(target=make, name=f"check {look.name}", daemon=True)
    thread.start()
    thread.join(look.limit_s)
    if not found:
        return Check(look.name, "fail", f"did not end within {look.limit_s:g} s", "look at what it looks at by hand")
    return Check(look.name, *found[0])


# ---- how they are shown ---------------------------------------------------------------------------------------------


def exit_status(checks: Iterable[Check], *, reach: frozenset[str] = frozenset()) -> int:
    """Return the exit status: 78 settings unreadable, 69 when only the way to the receiver fails, 1 other failures.

    Args:
        checks: What was looked at.
        reach: Names of the checks that stand for the way to the receiver.
    """
    failed = {check.name for check in checks if check.state == "fail"}
    if "settings" in failed:
        return EX_CONFIG
    if not failed:
        return 0
    return EX_UNAVAILABLE if failed <= reach else EX_FAILURE


def show(checks: Sequence[Check], status: int, stream: TextIO, *, as_json: bool, environ: Mapping[str, str]) -> None:
    """Write what was found, for machines or for people."""
    if as_json:
        body = {"ok": status == 0, "status": status, "checks": [asdict(check) for check in checks]}
        stream.write(json.dumps(body, indent=2) + "\n")
    else:
        stream.write("\n".join([*lines(checks, stream, environ), _sum(checks)]) + "\n")


def lines(checks: Sequence[Check], stream: TextIO, environ: Mapping[str, str]) -> Iterable[str]:
    """Yield one line for each check, and the remedy below it; colours are for terminals alone."""
    coloured = stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        mark = f"{_MARKS[check.state]:<4}"
        if coloured:
            mark = f"\x1b[{_COLOURS[check.state]}m{mark}\x1b[0m"
        yield f"{mark}  {check.name:<{width}}  {_one_line(check.found)}"
        if check.remedy:
            yield f"{'':<{width + 8}}remedy: {_one_line(check.remedy)}"


def _one_line(text: str) -> str:
    return " ".join(text.split()).translate(_PLAIN)


def _sum(checks: Sequence[Check]) -> str:
    counts = {state: sum(check.state == state for check in checks) for state in _MARKS}
    return (
        f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed, {counts['skip']} not looked at; "
        + ("correct what FAIL says, from the top" if counts["fail"] else "nothing stands in the way")
    )


# ---- what both look at ----------------------------------------------------------------------------------------------


def ask(command: Sequence[str]) -> Output:
    """Run a short-lived program and return its status and output."""
    tool = shutil.which(command[0])
    if tool is None:
        return None, ""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CIS490_")}
    try:
        done = subprocess.run(  # noqa: S603 - fixed programs, no shell
            [tool, *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=ASK_S, env=environ | {"LC_ALL": "C"}, check=False, creationflags=system.HIDDEN,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None, ""
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def python(version: tuple[int, ...] = sys.version_info[:3], *, wide: bool = sys.maxsize > 2**32) -> Seen:
    """Check that Python is new enough and of 64 bits."""
    shown = f"{'.'.join(map(str, version))}, {'64' if wide else '32'} bit, {platform.system()} {platform.machine()}"
    if version[:2] < OLDEST_PYTHON or not wide:
        return fail(f"{shown}; expected 3.11 or newer with 64 bits", "install such a Python and start with it")
    return ok(shown)


def clock_keeper(run: Ask = ask, *, windows: bool = os.name == "nt") -> tuple[bool | None, str]:
    """Return whether the system keeps its clock in step with others, None when no program tells; and the remedy."""
    if windows:
        status, said = run(["w32tm", "/query", "/status"])
        free = "not synchronized" in said or "Local CMOS Clock" in said
        return None if status is None else status == 0 and not free, "w32tm /resync"
    status, said = run(["timedatectl", "show", "--property=NTPSynchronized", "--value"])
    if status == 0 and said in ("yes", "no"):
        return said == "yes", "sudo timedatectl set-ntp true"
    status, said = run(["chronyc", "-n", "tracking"])
    if status is not None:
        return status == 0 and "Not synchronised" not in said, "sudo chronyc makestep"
    return None, "sudo timedatectl set-ntp true"


def unit(name: str, run: Ask = ask) -> Seen:
    """Check the unit of a program, the system's or the user's own."""
    wanted = "--property=LoadState,ActiveState,UnitFileState"
    for scope, command in (((), "sudo systemctl"), (("--user",), "systemctl --user")):
        status, said = run(["systemctl", *scope, "show", f"{name}.service", wanted])
        found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        if status == 0 and found.get("LoadState") == "loaded":
            return _judged_unit(name, found, command, run if scope else None)
    return skip(f"no unit {name} is installed. That is fine if you start it by hand.")


def _judged_unit(name: str, found: Mapping[str, str], command: str, run: Ask | None) -> Seen:
    active, enabled = found.get("ActiveState", ""), found.get("UnitFileState", "")
    if active != "active":
        return fail(f"{name} is {active or 'unknown'}", f"{command} enable --now {name}; its log: journalctl -u {name}")
    if enabled not in ("enabled", "static", "enabled-runtime"):
        return warn(f"{name} is active and not enabled, so it ends with this boot", f"{command} enable {name}")
    if run is not None:
        user = getpass.getuser()
        status, said = run(["loginctl", "show-user", user, "--property=Linger", "--value"])
        if status == 0 and said == "no":
            return warn(f"{name} is active and ends when {user} logs out", f"sudo loginctl enable-linger {user}")
    return ok(f"{name} is active and enabled")


def task(name: str, run: Ask = ask) -> Seen:
    """Check the scheduled task of a program on Windows.

    Its state is read from XML and a number, because the words for it are in the language of the system.

    Source: Microsoft, schtasks query; Task Scheduler Error and Success Constants, SCHED_S_TASK_RUNNING.
    """
    status, described = run(["schtasks", "/query", "/tn", name, "/xml"])
    if status is None or status != 0:
        return skip(f"no scheduled task {name} is installed. That is fine if you start it by hand.")
    if is_disabled(described):
        return fail(f"the scheduled task {name} is disabled", f'schtasks /change /tn "{name}" /enable')
    _, told = run(["schtasks", "/query", "/tn", name, "/v", "/fo", "csv", "/nh"])
    results = last_results(told)
    if TASK_RUNNING not in results:
        last = f"; its last result is {results[0]}" if results else ""
        return fail(f"the scheduled task {name} is not running{last}", f'schtasks /run /tn "{name}"')
    return ok(f"the scheduled task {name} is running")


def is_disabled(described: str) -> bool:
    """Return True if the XML of a scheduled task says that it is not to start."""
    return _DISABLED.search(described) is not None


def last_results(told: str) -> list[str]:
    """Return the last results in what schtasks lists at length, as CSV without a header."""
    return [row[_LAST_RESULT] for row in csv.reader(told.splitlines()) if len(row) > _LAST_RESULT]


# ---- certificates ---------------------------------------------------------------------------------------------------


def life_left(begins_at: float, ends_at: float, now: float, remedy: str) -> Seen:
    """Judge the life of a certificate."""
    day = datetime.fromtimestamp(ends_at, UTC).date()
    if now < begins_at:
        return fail("is not yet valid as this host's clock says", "set the clock of this host")
    if now >= ends_at:
        return fail(f"has expired on {day}", remedy)
    left = f"is good for {(ends_at - now) / DAY_S:.0f} more days, until {day}"
    return warn(left, remedy) if ends_at - now < SOON_S else ok(left)


def first_certificate(path: Path) -> bytes | None:
    """Return the first certificate of a PEM file in DER, None when there is none.

    Raises:
        OSError: The file cannot be read.
    """
    found = _PEM.search(path.read_bytes())
    try:
        return None if found is None else base64.b64decode(found[1], validate=False)
    except ValueError:
        return None


def validity(der: bytes) -> tuple[float, float] | None:
    """Return begin and end of a certificate's life, seconds since the epoch; None when it cannot be read.

    Source: RFC 5280, 4.1: the certificate and its validity; ITU-T X.690, 8.1 for the lengths.
    """
    try:
        inner = _parts(_parts(_parts(der)[0][1])[0][1])
        fields = inner[1:] if inner[0][0] == 0xA0 else inner  # the version may be left out
        begin, end = (_instant(tag, text) for tag, text in _parts(fields[3][1]))
    except (IndexError, ValueError):
        return None
    return begin, end


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    """Return tag and content of each element that stands in some bytes."""
    found, place = [], 0
    while place < len(data):
        tag, size, place = data[place], data[place + 1], place + 2
        if size & 0x80:
            more = size & 0x7F
            size, place = int.from_bytes(data[place : place + more], "big"), place + more
        if place + size > len(data):
            raise ValueError("cut off")
        found.append((tag, data[place : place + size]))
        place += size
    return found


def _instant(tag: int, text: bytes) -> float:
    said = text.decode("ascii")
    if tag == 0x17:  # two digits of the year: 50 and above are of the last century
        said = ("19" if said[:2] >= "50" else "20") + said
    return datetime.strptime(said, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
