"""What each command does: ask the receiver, show the answer, return an exit status.

Owns the order of questions and the exit statuses of commands. Leaves words to `views` and the command line to
`program`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TextIO

from training.fleet.cli import completion, views
from training.fleet.cli.remote import Remote, read
from training.fleet.cli.text import Terminal, clean, folded
from training.fleet.model.errors import (
    EX_FAILURE,
    FleetError,
    UnavailableError,
)
from training.fleet.wire.people import Chore, Health, JobDetail, JobView, Why

CHORE_S: Final = 0.5
"""Seconds between two questions how far a backup or a check is."""


@dataclass(frozen=True, slots=True)
class Console:
    """Where a command writes and how.

    Attributes:
        out: Data.
        err: Messages.
        terminal: What `out` can show.
        as_json: Show the receiver's JSON instead of text.
    """

    out: TextIO
    err: TextIO
    terminal: Terminal
    as_json: bool = False

    def lines(self, lines: Sequence[str], *, whole: bool = False) -> None:
        """Write lines of text, broken between words where they are longer than the terminal is wide.

        Args:
            lines: Clean text.
            whole: Leave the lines as they are, for commands that somebody copies.
        """
        shown = lines if whole else folded(lines, self.terminal.width)
        self.out.write("".join(f"{line}\n" for line in shown))
        self.out.flush()

    def note(self, lines: Sequence[str], *, whole: bool = False) -> None:
        """Write messages beside the data, broken as `lines` does."""
        width = Terminal.of(self.err, {}).width
        self.err.write("".join(f"{line}\n" for line in (lines if whole else folded(lines, width))))
        self.err.flush()

    def document(self, document: Any, *, one_line: bool = False) -> None:
        """Write JSON, in ASCII so that nothing in it can steer a terminal."""
        self.lines([json.dumps(document, indent=None if one_line else 2)], whole=True)

    def pass_by(self, line: str) -> None:
        """Write a message over the one before it; does nothing unless it goes to a terminal."""
        if self.err.isatty():
            self.err.write(f"\r{line}\x1b[K")
            self.err.flush()

    def complain(self, fault: FleetError) -> None:
        """Write an error: one line, and one more for each single fault."""
        first, *more = map(clean, fault.lines)
        self.note([f"cis490-jobs: {first}", *more])


@dataclass(frozen=True, slots=True)
class Call:
    """One run of the command.

    Attributes:
        remote: The receiver.
        console: Where it writes.
        options: The parsed command line.
        sleep: Waits a number of seconds; `time.sleep`.
    """

    remote: Remote
    console: Console
    options: argparse.Namespace
    sleep: Callable[[float], None] = time.sleep


def status(call: Call) -> int:
    """Show the fleet at a glance, once or again and again."""
    frame = _glance(call)
    if call.options.watch is None:
        _show_glance(call, frame)
        return 0
    try:
        while True:
            _show_frame(call, frame)
            call.sleep(call.options.watch)
            frame = _next_glance(call)
    except KeyboardInterrupt:
        return 0


def _glance(call: Call) -> dict[str, Any]:
    running = call.remote.collect("/v1/jobs", "jobs", {"status": "claimed,running"})
    return {"health": call.remote.health(), "running": running["jobs"]}


def _next_glance(call: Call) -> dict[str, Any]:
    """Ask again; while the receiver is away the error takes the place of the answer."""
    try:
        return _glance(call)
    except UnavailableError as fault:
        return {"error": fault.message}


def _glance_lines(call: Call, frame: dict[str, Any]) -> list[str]:
    if "error" in frame:
        return [f"{clean(frame['error'])}; still asking, Ctrl-C ends"]
    running = [read(JobView, job) for job in frame["running"]]
    return views.status(read(Health, frame["health"]), running, call.remote.address, call.console.terminal)


def _show_glance(call: Call, frame: dict[str, Any]) -> None:
    if call.console.as_json:
        call.console.document(frame)
    else:
        call.console.lines(_glance_lines(call, frame))


def _show_frame(call: Call, frame: dict[str, Any]) -> None:
    """Show one of many: in place on a terminal, one after the other in a pipe, one line each as JSON."""
    if call.console.as_json:
        call.console.document(frame, one_line=True)
    elif (height := call.console.terminal.height) is None:
        call.console.lines([*_glance_lines(call, frame), ""])
    else:
        shown = folded(_glance_lines(call, frame), call.console.terminal.width)[: height - 1]
        call.console.out.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J")
        call.console.out.flush()


def show(call: Call) -> int:
    """Show everything about one job."""
    answer = call.remote.job(call.remote.resolve(call.options.job))
    if call.console.as_json:
        call.console.document(answer)
    else:
        call.console.lines(views.show(read(JobDetail, answer), call.console.terminal))
    return 0


def why(call: Call) -> int:
    """Show why a job waits, or why it does not."""
    answer = call.remote.why(call.remote.resolve(call.options.job))
    if call.console.as_json:
        call.console.document(answer)
    else:
        call.console.lines(views.why(read(Why, answer), call.console.terminal))
    return 0


def backup(call: Call) -> int:
    """Make a backup on the receiver's host and wait for it; return 1 if something in it is damaged."""
    given = call.options
    done = wait_for(call, call.remote.begin_backup(label=given.label, artifacts=given.artifacts, keep=given.keep))
    removed = [f"removed {name}" for name in read(Chore, done).removed]
    return _show_chore(call, done, str(done["path"]), removed)


def fsck(call: Call) -> int:
    """Check the receiver's files and wait for the result; return 1 if something is wrong."""
    done = wait_for(call, call.remote.begin_fsck(hashes=not call.options.no_hash))
    return _show_chore(call, done, views.checked(read(Chore, done)))


def wait_for(call: Call, begun: dict[str, Any]) -> dict[str, Any]:
    """Ask again and again until a chore has ended; an outage does not end it."""
    first = read(Chore, begun)
    chore, document = first, begun
    while chore.state == "running":
        call.sleep(CHORE_S)
        try:
            document = call.remote.chore()
        except UnavailableError:
            continue
        chore = read(Chore, document)
        if (chore.kind, chore.name) != (first.kind, first.name):
            raise FleetError(f"the receiver was restarted before the {first.kind} was done", "run this again")
        call.console.pass_by(views.reading(chore))
    call.console.pass_by("")
    if chore.state == "failed":
        raise FleetError(chore.error)
    return document


def _show_chore(call: Call, document: dict[str, Any], last: str, more: Sequence[str] = ()) -> int:
    chore = read(Chore, document)
    if call.console.as_json:
        call.console.document(document)
    else:
        call.console.lines([*views.findings(chore), *map(clean, more), clean(last)])
    return EX_FAILURE if chore.findings else 0


def complete(call: Call) -> int:
    """Print the completion script of a shell."""
    call.console.out.write(completion.script(call.options.shell, call.options.parser))
    return 0
