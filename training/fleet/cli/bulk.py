"""Changes of jobs by the operator: some that are named, or all that a filter chooses.

Owns the commands `cancel` and `requeue`. Guarantees that a filter changes nothing before its choice was shown or
agreed to, and no job that has moved since: the receiver compares the status of each with the one that was chosen.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from training.fleet.cli.commands import Call
from training.fleet.cli.known import refuse_unknown
from training.fleet.cli.listing import chosen, jobs
from training.fleet.cli.remote import read
from training.fleet.cli.text import clean
from training.fleet.cli.typed import program
from training.fleet.cli.views import number_of_jobs
from training.fleet.model.errors import ConfigurationError, FleetError, PreconditionError, UnavailableError
from training.fleet.wire.people import JobPage, JobView
from training.fleet.wire.worker import JobState

CHANGEABLE: Final = {"cancel": ("pending", "claimed", "running"), "requeue": ("failed", "cancelled")}
"""Which statuses each verb is for."""
DIGEST_DIGITS: Final = 16
_FILTERS: Final = ("status", "model", "mode", "host", "name", "tag", "since", "until")


@dataclass(frozen=True, slots=True)
class Selection:
    """The jobs that a filter chose.

    Attributes:
        verb: `cancel` or `requeue`.
        page: The jobs.
    """

    verb: str
    page: JobPage

    @property
    def size(self) -> str:
        """How many jobs these are, for people."""
        return number_of_jobs(len(self.page.jobs))

    @property
    def digest(self) -> str:
        """Names exactly this choice: verb, jobs and their statuses."""
        lines = sorted(f"{job.id} {job.status}" for job in self.page.jobs)
        return hashlib.sha256("\n".join([self.verb, *lines]).encode()).hexdigest()[:DIGEST_DIGITS]


def change(call: Call) -> int:
    """Cancel or requeue jobs: those that are named, or those that a filter chooses."""
    given = call.options
    filtered = any(vars(given).get(name) is not None for name in _FILTERS)
    if given.jobs and (filtered or given.yes or given.if_digest):
        raise ConfigurationError(
            "found ids of jobs beside a filter", "give either; `--yes` and `--if` belong to a filter"
        )
    if given.jobs:
        return _each(call, given.jobs)
    if not filtered:
        raise ConfigurationError(
            f"`{given.command}` needs to know which jobs",
            "name them, or choose them with --status, --model and the like",
        )
    return _chosen(call)


def _each(call: Call, names: Sequence[str]) -> int:
    """Change jobs one by one; the first refusal decides the exit status."""
    worst = 0
    for name in names:
        try:
            answer = call.remote.change(call.remote.resolve(name), call.options.command)
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


# ---- a filter -------------------------------------------------------------------------------------------------------


def _chosen(call: Call) -> int:
    """Show what a filter chooses, or change exactly that once the operator agreed to it."""
    given = call.options
    found = _select(call)
    if not found.page.jobs:
        refuse_unknown(call, {kind: vars(given).get(kind) for kind in ("host", "model", "tag")})
        return _nothing(call, found)
    if given.if_digest is not None and given.if_digest != found.digest:
        raise PreconditionError(
            f"the choice is another one now: {found.size}, digest {found.digest}; nothing was changed",
            "look at it again without --if",
        )
    if given.yes or given.if_digest is not None:
        return _apply(call, found)
    _show(call, found)
    return 0


def _select(call: Call) -> Selection:
    verb = call.options.command
    statuses = (call.options.status or ",".join(CHANGEABLE[verb])).split(",")
    if wrong := [status for status in statuses if status not in CHANGEABLE[verb]]:
        raise ConfigurationError(
            f"`{verb}` changes no job that is {wrong[0]}", expected=f"some of {', '.join(CHANGEABLE[verb])}"
        )
    filters = chosen(call.options, utc=call.console.terminal.utc)
    filters |= {"status": ",".join(statuses), "with": "hyper,reason"}
    return Selection(verb, read(JobPage, call.remote.collect("/v1/jobs", "jobs", filters)))


def _nothing(call: Call, found: Selection) -> int:
    if call.options.if_digest is not None:
        raise PreconditionError(
            "the choice is another one now: no job matches; nothing was changed", "look at it again without --if"
        )
    if call.console.as_json:
        call.console.document(_document(found, []))
    else:
        call.console.note([f"no job matches; there is nothing to {found.verb}"])
    return 0


def _document(found: Selection, listed: Sequence[JobView]) -> dict[str, Any]:
    return {
        "verb": found.verb,
        "digest": found.digest,
        "jobs": [{"id": job.id, "model": job.model, "mode": job.mode, "status": job.status} for job in listed],
    }


def _show(call: Call, found: Selection) -> None:
    """Show what would be done, and the command that does exactly that."""
    if call.console.as_json:
        call.console.document(_document(found, found.page.jobs))
        return
    call.console.lines(jobs(found.page, call.console.terminal))
    call.console.note(
        [f"{found.verb} would change {found.size}; nothing is changed yet. Do exactly this with:"],
    )
    call.console.note([f"  {program()} {found.verb} {_words(call.options)} --if {found.digest}"], whole=True)


def _words(given: argparse.Namespace) -> str:
    """Return the filter as it is typed."""
    named = {name: vars(given).get(name) for name in _FILTERS}
    return " ".join(f"--{name} {_quoted(clean(str(value)))}" for name, value in named.items() if value is not None)


def _quoted(text: str) -> str:
    return text if text and all(char.isalnum() or char in "_-.,:*" for char in text) else f"'{text}'"


def _apply(call: Call, found: Selection) -> int:
    """Change each chosen job that is still as it was chosen; name the others and leave them."""
    left = 0
    for job in found.page.jobs:
        try:
            answer = call.remote.change(job.id, found.verb, if_status=job.status)
        except UnavailableError:
            raise
        except FleetError as fault:
            call.console.complain(fault)
            left += 1
        else:
            _show_state(call, answer)
    done = len(found.page.jobs) - left
    rest = f"; {left} had changed meanwhile or were refused, and stay as they are" if left else ""
    call.console.note([f"{found.verb}: {done} of {found.size}{rest}"])
    return 1 if left else 0
