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

from training.fleet.cli import comparison, completion, views
from training.fleet.cli.remote import Remote, read
from training.fleet.cli.text import Terminal, clean
from training.fleet.model.errors import (
    EX_FAILURE,
    ConfigurationError,
    FleetError,
    UnavailableError,
)
from training.fleet.wire.identities import IdentityPage, IdentityView, Invite
from training.fleet.wire.people import (
    AcceptedLoss,
    Chore,
    EventPage,
    Health,
    JobDetail,
    JobPage,
    JobView,
    Why,
    WorkerPage,
)
from training.fleet.wire.worker import JobState

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

    def lines(self, lines: Sequence[str]) -> None:
        """Write lines of text."""
        self.out.write("".join(f"{line}\n" for line in lines))
        self.out.flush()

    def document(self, document: Any, *, one_line: bool = False) -> None:
        """Write JSON, in ASCII so that nothing in it can steer a terminal."""
        self.lines([json.dumps(document, indent=None if one_line else 2)])

    def pass_by(self, line: str) -> None:
        """Write a message over the one before it; does nothing unless it goes to a terminal."""
        if self.err.isatty():
            self.err.write(f"\r{line}\x1b[K")
            self.err.flush()

    def complain(self, fault: FleetError) -> None:
        """Write an error: one line, and one more for each single fault."""
        first, *more = map(clean, fault.lines)
        self.err.write("".join(f"{line}\n" for line in (f"cis490-jobs: {first}", *more)))
        self.err.flush()


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
        shown = _glance_lines(call, frame)[: height - 1]
        call.console.out.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J")
        call.console.out.flush()


def list_jobs(call: Call) -> int:
    """Show jobs, page by page in a pipe and as one table on a terminal."""
    given = vars(call.options)
    filters = {key: given[key] for key in ("status", "model", "mode", "host", "tag") if given[key] is not None}
    filters |= {"withdrawn": "yes"} if call.options.all else {}
    if call.console.as_json:
        call.console.document(call.remote.collect("/v1/jobs", "jobs", filters, call.options.limit))
    elif call.console.terminal.width is None:
        for page in call.remote.pages("/v1/jobs", filters, call.options.limit):
            call.console.lines(views.jobs(read(JobPage, page).jobs, call.console.terminal))
    else:
        whole = read(JobPage, call.remote.collect("/v1/jobs", "jobs", filters, call.options.limit))
        shown = (
            views.jobs(whole.jobs, call.console.terminal)
            if whole.jobs
            else ["no job matches; `cis490-jobs reload` loads the manifest's jobs"]
        )
        call.console.lines(shown)
    return 0


def compare(call: Call) -> int:
    """Show the results of completed jobs over their seeds."""
    chosen = call.options
    filters = {"status": "completed", "with": "spec"} | ({} if chosen.model is None else {"model": chosen.model})
    page = read(JobPage, call.remote.collect("/v1/jobs", "jobs", filters))
    jobs = [job for job in page.jobs if chosen.split in (None, job.split) and chosen.dataset in (None, job.dataset)]
    found = comparison.groups(jobs, chosen.metric)
    if call.console.as_json:
        call.console.document(comparison.document(found, chosen.metric))
    elif found or call.console.terminal.width is None:
        call.console.lines(comparison.lines(found, chosen.metric, call.console.terminal))
    else:
        call.console.lines(["no completed job matches; `cis490-jobs list` shows all jobs"])
    return 0


def show(call: Call) -> int:
    """Show everything about one job."""
    answer = call.remote.job(call.remote.resolve(call.options.job))
    if call.console.as_json:
        call.console.document(answer)
    else:
        call.console.lines(views.show(read(JobDetail, answer), call.console.terminal))
    return 0


def change(call: Call) -> int:
    """Cancel or requeue jobs, each on its own; the first refusal decides the exit status."""
    worst = 0
    for prefix in call.options.jobs:
        try:
            answer = call.remote.change(call.remote.resolve(prefix), call.options.command)
        except UnavailableError:
            raise
        except FleetError as fault:
            call.console.complain(fault)
            worst = worst or fault.exit_status
        else:
            _show_state(call, answer)
    return worst


def _show_state(call: Call, answer: dict[str, Any]) -> None:
    if call.console.as_json:
        call.console.document(answer, one_line=True)
        return
    state = read(JobState, answer)
    note = ["cancelling: its worker stops the trainer"] if state.cancel_requested else []
    call.console.lines(["\t".join([clean(state.id), state.status, *note])])


def workers(call: Call) -> int:
    """Show every known host."""
    answer = call.remote.collect("/v1/workers", "workers", {})
    if call.console.as_json:
        call.console.document(answer)
        return 0
    hosts = read(WorkerPage, answer).workers
    if hosts or call.console.terminal.width is None:
        call.console.lines(views.workers(hosts, call.console.terminal))
    else:
        call.console.lines(["no worker has called yet; start one with `cis490-training-worker`"])
    return 0


def events(call: Call) -> int:
    """Show the audit trail, newest first."""
    given = call.options
    job = None if given.job is None else call.remote.resolve(given.job)
    filters = {name: value for name, value in (("job", job), ("worker", given.worker)) if value is not None}
    answer = call.remote.collect("/v1/events", "events", filters, given.limit)
    if call.console.as_json:
        call.console.document(answer)
    else:
        call.console.lines(views.events(read(EventPage, answer).events, call.console.terminal))
    return 0


def invite(call: Call) -> int:
    """Print the commands with which a host can enrol, once."""
    answer = call.remote.invite(call.options.host, call.options.ttl)
    if call.console.as_json:
        call.console.document(answer)
        return 0
    made = read(Invite, answer)
    call.console.err.write("".join(f"{line}\n" for line in views.invite_notes(made, call.remote.address)))
    call.console.err.flush()
    call.console.lines(views.invite(made, call.remote.address))
    return 0


def worker(call: Call) -> int:
    """List enrolled hosts, revoke one, make it change its key, or accept what it cannot train with any more."""
    action, name = call.options.action, call.options.name
    if action == "list":
        answer = call.remote.collect("/v1/identities", "identities", {})
        found = [one for one in read(IdentityPage, answer).identities if name in (None, one.worker)]
    elif name is None:
        raise ConfigurationError(f"`worker {action}` needs the name of a worker", "`cis490-jobs worker list` shows all")
    elif action == "accept":
        return _accept(call, name)
    else:
        answer = call.remote.change_worker(name, action)
        found = [read(IdentityView, answer)]
    if call.console.as_json:
        call.console.document(answer)
    elif found or call.console.terminal.width is None:
        call.console.lines(views.identities(found, call.console.terminal))
    else:
        call.console.lines(["no worker is enrolled; `cis490-jobs invite HOST` prints the command that enrols one"])
    return 0


def _accept(call: Call, name: str) -> int:
    answer = call.remote.change_worker(name, "accept")
    lost = read(AcceptedLoss, answer).lost
    if call.console.as_json:
        call.console.document(answer)
    else:
        call.console.lines([clean(f"{name} works without {', '.join(lost)}" if lost else f"{name} had lost nothing")])
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
    done = _wait_for(call, call.remote.begin_backup(label=call.options.label, artifacts=call.options.artifacts))
    return _show_chore(call, done, str(done["path"]))


def fsck(call: Call) -> int:
    """Check the receiver's files and wait for the result; return 1 if something is wrong."""
    done = _wait_for(call, call.remote.begin_fsck(hashes=not call.options.no_hash))
    return _show_chore(call, done, views.checked(read(Chore, done)))


def _wait_for(call: Call, begun: dict[str, Any]) -> dict[str, Any]:
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


def _show_chore(call: Call, document: dict[str, Any], last: str) -> int:
    chore = read(Chore, document)
    if call.console.as_json:
        call.console.document(document)
    else:
        call.console.lines([*views.findings(chore), clean(last)])
    return EX_FAILURE if chore.findings else 0


def complete(call: Call) -> int:
    """Print the completion script of a shell."""
    call.console.out.write(completion.script(call.options.shell, call.options.parser))
    return 0
