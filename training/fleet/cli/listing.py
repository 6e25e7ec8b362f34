"""Lists of jobs as text: which jobs, what tells them apart, and why they wait.

Owns the command `list` and its table. Guarantees that two jobs that differ in hyper-parameters differ on the screen.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from training.fleet.cli.commands import Call
from training.fleet.cli.instants import as_range
from training.fleet.cli.known import refuse_unknown
from training.fleet.cli.remote import read
from training.fleet.cli.text import Terminal, arranged, moment, table, zone
from training.fleet.cli.views import detail, identity, plain
from training.fleet.wire.people import JobPage, JobView

LIST_COLUMNS: Final = (
    "ID", "MODEL", "MODE", "SPLIT", "SEED", "STATUS", "HOST", "TRIES", "UPDATED", "DETAIL", "HYPER", "REASON", "NAME",
    "TAGS",
)  # fmt: skip
"""In the order of a pipe, where columns are only ever added at the end."""
_ON_A_TERMINAL: Final = (
    "ID", "NAME", "MODEL", "MODE", "SPLIT", "SEED", "HYPER", "STATUS", "HOST", "TRIES", "UPDATED", "TAGS", "REASON",
    "DETAIL",
)  # fmt: skip
_SPARE: Final = ("TRIES", "SPLIT", "SEED", "MODE")
_FILTERS: Final = ("status", "model", "mode", "host", "name", "tag")
NOTHING: Final = "there is no job; `cis490-jobs reload` loads the manifest's jobs"


def list_jobs(call: Call) -> int:
    """Show jobs, page by page in a pipe and as one table on a terminal."""
    filters = {**chosen(call.options, utc=call.console.terminal.utc), "with": "hyper,reason"}
    if call.options.all:
        filters["withdrawn"] = "yes"
    limit, terminal = call.options.limit, call.console.terminal
    if terminal.width is None and not call.console.as_json:
        shown = 0
        for answer in call.remote.pages("/v1/jobs", filters, limit):
            page = read(JobPage, answer)
            call.console.lines(jobs(page, terminal))
            shown += len(page.jobs)
    else:
        answer = call.remote.collect("/v1/jobs", "jobs", filters, limit)
        page = read(JobPage, answer)
        shown = len(page.jobs)
        if call.console.as_json:
            call.console.document(answer)
        elif shown:
            call.console.lines(jobs(page, terminal))
    if not shown:
        return _nothing(call)
    return 0


def _nothing(call: Call) -> int:
    """Say that nothing was found; refuse a filter that names what there is not."""
    refuse_unknown(call, {kind: vars(call.options).get(kind) for kind in ("host", "model", "tag")})
    if call.console.terminal.width is not None and not call.console.as_json:
        filtered = chosen(call.options, utc=call.console.terminal.utc)
        call.console.lines(["no job matches" if filtered else NOTHING])
    return 0


def chosen(given: argparse.Namespace, *, utc: bool) -> dict[str, str]:
    """Return the query of a list for the filters on the command line."""
    named = vars(given)
    filters = {key: named[key] for key in _FILTERS if named.get(key) is not None}
    return filters | as_range(named.get("since"), named.get("until"), utc=utc)


def jobs(page: JobPage, terminal: Terminal) -> list[str]:
    """Return jobs as a table."""
    headline = page.headline.name if page.headline else ""
    hypers = _told_apart(page.jobs) if terminal.width is not None else {}
    rows = [_row(job, hypers.get(job.id, job.hyper or {}), headline, terminal) for job in page.jobs]
    if terminal.width is None:
        return table(LIST_COLUMNS, rows, terminal)
    header, rows = _joined(*arranged(LIST_COLUMNS, rows, _ON_A_TERMINAL))
    place = zone([job.updated_at for job in page.jobs], terminal)
    return table([f"{name} ({place})" if name == "UPDATED" else name for name in header], rows, terminal, _SPARE)


def _joined(header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Make one column of reason and detail where there are both: few jobs have both, and a line has room for one."""
    if header[-2:] != ["REASON", "DETAIL"]:
        return header, rows
    return [*header[:-2], "REASON / DETAIL"], [[*row[:-2], "; ".join(filter(None, row[-2:]))] for row in rows]


def _row(job: JobView, hyper: Mapping[str, Any], headline: str, terminal: Terminal) -> list[str]:
    return [
        identity(job.id, terminal),
        job.model,
        job.mode,
        job.split,
        str(job.seed),
        job.status,
        job.host or "-",
        f"{job.attempts_used}/{job.max_attempts}",
        moment(job.updated_at, terminal),
        detail(job, headline),
        compact(hyper),
        job.reason,
        job.name or "",
        ",".join(job.tags),
    ]


def _told_apart(listed: Sequence[JobView]) -> dict[str, dict[str, Any]]:
    """Return the hyper-parameters in which listed jobs of one model differ, by job id."""
    found: dict[str, dict[str, Any]] = {}
    of_model: dict[str, list[JobView]] = defaultdict(list)
    for job in listed:
        of_model[job.model].append(job)
    for same in of_model.values():
        keys = differing([job.hyper or {} for job in same])
        found |= {job.id: {key: value for key, value in (job.hyper or {}).items() if key in keys} for job in same}
    return found


def differing(tables: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the keys that not all tables have with the same value."""
    keys = {key for found in tables for key in found}
    return {key for key in keys if len({_shown(found, key) for found in tables}) > 1}


def _shown(found: Mapping[str, Any], key: str) -> str:
    return json.dumps(found[key], sort_keys=True) if key in found else ""


def compact(hyper: Mapping[str, Any]) -> str:
    """Return hyper-parameters in one line: "learning_rate=0.1 max_iter=60"."""
    return " ".join(f"{key}={plain(value)}" for key, value in sorted(hyper.items()))
