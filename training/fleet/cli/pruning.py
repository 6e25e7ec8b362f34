"""Removing old results: which they are, how much room they take, and the consent to exactly that.

Owns the command `prune`. Guarantees that nothing is removed before its list was shown or agreed to, and that the
receiver removes no other results than those of the digest that stood below it.
"""

from __future__ import annotations

import argparse
import re
from typing import Any, Final

from training.fleet.cli.commands import Call, wait_for
from training.fleet.cli.remote import read
from training.fleet.cli.text import Terminal, clean, moment, size, table
from training.fleet.cli.typed import program
from training.fleet.cli.views import findings
from training.fleet.model.errors import ConfigurationError, PreconditionError
from training.fleet.wire.people import Chore
from training.fleet.wire.pruning import PlannedPrune, PrunePlan

PRUNE_COLUMNS: Final = ("ARTIFACT", "MODEL", "MODE", "SIZE", "SINCE", "JOBS")
AGES: Final = "a number with h, d or w, such as 30d"
_UNITS: Final = {"h": 3600, "d": 86400, "w": 604800}
_SHOWN: Final = 20
"""Results that a terminal shows one by one; a pipe and --json show up to 1,000."""


def seconds_of(text: str) -> int:
    """Return how many seconds an age on the command line is.

    Raises:
        ArgumentTypeError: It is no age.
    """
    match = re.fullmatch(r"([0-9]{1,5})([hdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {AGES}")
    return int(match[1]) * _UNITS[match[2]]


def prune(call: Call) -> int:
    """Show what a prune would remove, or remove exactly that."""
    given = call.options
    if given.older_than is None and not given.keep_best and not given.unnamed:
        raise ConfigurationError(
            "`prune` needs to know which results may go",
            "give --older-than 30d, --keep-best 3 or --unnamed, or several of them",
        )
    if given.dry_run and (given.yes or given.if_digest):
        raise ConfigurationError("found --dry-run beside --yes or --if", "give one of them")
    order = {
        "older_than_s": None if given.older_than is None else seconds_of(given.older_than),
        "keep_best": given.keep_best or 0,
        "unnamed": given.unnamed,
    }
    answer = call.remote.plan_prune(order)
    plan = read(PrunePlan, answer)
    if given.if_digest not in (None, plan.digest):
        raise PreconditionError(
            f"the choice is another one now: {_sum(plan)}, digest {plan.digest}; nothing was removed",
            "look at it again without --if",
        )
    if plan.artifacts and (given.yes or given.if_digest):
        return _remove(call, {**order, "if_digest": plan.digest})
    _show(call, answer, plan)
    return 0


def _remove(call: Call, order: dict[str, Any]) -> int:
    document = wait_for(call, call.remote.begin_prune(order))
    chore = read(Chore, document)
    if call.console.as_json:
        call.console.document(document)
    else:
        pruned = chore.checked.get("pruned", 0)
        words = f"removed {_results(pruned)}, {size(chore.checked.get('bytes', 0))}; metrics and digests stay"
        call.console.lines([*findings(chore), words])
    return 0


def _show(call: Call, answer: dict[str, Any], plan: PrunePlan) -> None:
    """Show what would be removed, and the command that removes exactly that."""
    if call.console.as_json:
        call.console.document(answer)
        return
    terminal = call.console.terminal
    shown = plan.listed if terminal.width is None else plan.listed[:_SHOWN]
    if shown:
        call.console.lines(table(PRUNE_COLUMNS, [_row(one, terminal) for one in shown], terminal))
    more = plan.artifacts - len(shown)
    rest = [f"and {more} newer ones"] if more and shown else []
    kept = f"; {plan.kept_best} are kept because they are the best" if plan.kept_best else ""
    if not plan.artifacts:
        call.console.note([f"no result fits{kept}; there is nothing to remove"])
        return
    call.console.note(
        [*rest, f"{_sum(plan)} would be removed{kept}; nothing is removed yet. Remove exactly this with:"]
    )
    call.console.note([f"  {program()} prune {_words(call.options)} --if {plan.digest}"], whole=True)


def _row(one: PlannedPrune, terminal: Terminal) -> list[str]:
    whole = terminal.width is None
    jobs = ",".join(clean(job if whole else job[:12]) for job in one.jobs) or "-"
    return [
        clean(one.artifact if whole else one.artifact[:12]),
        clean(one.model),
        clean(one.mode),
        str(one.size_bytes) if whole else size(one.size_bytes),
        moment(one.at, terminal),
        jobs,
    ]


def _sum(plan: PrunePlan) -> str:
    return f"{_results(plan.artifacts)} of {size(plan.size_bytes)} together"


def _results(count: int) -> str:
    return "1 result" if count == 1 else f"{count} results"


def _words(given: argparse.Namespace) -> str:
    """Return the options as they are typed."""
    words = [f"--older-than {given.older_than}"] if given.older_than is not None else []
    words += [f"--keep-best {given.keep_best}"] if given.keep_best else []
    words += ["--unnamed"] if given.unnamed else []
    return " ".join(words)
