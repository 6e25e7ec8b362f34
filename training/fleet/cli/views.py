"""What the operator reads: the receiver's answers as lines of text.

Owns wording and order; the same words as the API. Every function takes a message of `wire` and returns lines.
Leaves widths and escaping to `text` and fetching to `remote`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from training.fleet.cli.text import (
    Terminal,
    bar,
    clean,
    dated,
    duration,
    moment,
    number,
    size,
    table,
    word,
    zone,
)
from training.fleet.cli.typed import program
from training.fleet.model.jobs import STATUSES
from training.fleet.wire.people import (
    AttemptView,
    Chore,
    EventView,
    FailureView,
    Finding,
    Health,
    HostVerdict,
    JobDetail,
    JobView,
    RecentFailure,
    Why,
)
from training.fleet.wire.worker import Progress

SHORT_ID: Final = 12
"""Digits of a job id in a table on a terminal."""
MANY_STRANDED: Final = 1000
"""Where the receiver stops counting jobs that no host can run."""
_RUNNING_COLUMNS: Final = (
    "ID", "MODEL", "MODE", "SPLIT", "HOST", "STATUS", "DONE", "STEP", "PHASE", "METRIC", "LEFT",
)  # fmt: skip
_FIRST_METRICS: Final = ("auroc", "auprc")


def identity(job_id: str, terminal: Terminal) -> str:
    """Return a job id as people see it: short on a terminal, whole in a pipe."""
    return clean(job_id) if terminal.width is None else clean(job_id)[:SHORT_ID]


# ---- status ---------------------------------------------------------------------------------------------------------


def status(health: Health, running: Sequence[JobView], address: str, terminal: Terminal) -> list[str]:
    """Return the fleet at a glance: counts, running jobs, last failures, problems."""
    lines = _summary(health, address, terminal)
    if running:
        lines += ["", terminal.head("running"), *_running(running, terminal)]
    if health.failures:
        lines += ["", terminal.head("last failures"), *_failures(health.failures, terminal)]
    if health.problems:
        lines += ["", terminal.head("problems"), *(f"  {clean(text)}" for text in health.problems)]
    return lines


def number_of_jobs(count: int) -> str:
    """Return "1 job", "2 jobs"."""
    return "1 job" if count == 1 else f"{count} jobs"


def _summary(health: Health, address: str, terminal: Terminal) -> list[str]:
    state = word(health.status, terminal)
    lines = [f"receiver  {clean(address)}  {state}, version {clean(health.version)}, up {duration(health.uptime_s)}"]
    if (digest := health.manifest.get("digest")) is not None:
        lines.append(f"manifest  {clean(str(digest))[:SHORT_ID]}, {number_of_jobs(health.manifest.get('jobs', 0))}")
    else:
        lines.append("manifest  none in force; load one with `cis490-jobs reload`")
    lines += [f"          refused: {clean(_fault(fault))}" for fault in health.manifest.get("faults") or ()]
    withdrawn = f"  ({health.withdrawn} of the pending withdrawn)" if health.withdrawn else ""
    lines.append("jobs      " + _counts(health.counts, STATUSES, terminal) + withdrawn)
    if health.stranded:
        count = f"{health.stranded} or more" if health.stranded >= MANY_STRANDED else str(health.stranded)
        jobs = "1 pending job" if health.stranded == 1 else f"{count} pending jobs"
        lines.append(f"          {jobs} that no host can run: `cis490-jobs list --status pending` says why")
    if health.counts.get("completed") and terminal.width is not None:
        lines.append(f"          `{program()} get best` fetches the best result, `card best` shows it")
    lines.append("hosts     " + _counts(health.workers, ("working", "idle", "away"), terminal))
    return lines + _storage(health.storage)


def _counts(counts: Mapping[str, int], order: Iterable[str], terminal: Terminal) -> str:
    words = [*order, *(name for name in counts if name not in set(order))]
    shown = (f"{clean(name)} {counts.get(name, 0)}" for name in words)
    return "  ".join(
        text if counts.get(name, 0) == 0 else text.replace(clean(name), word(name, terminal), 1)
        for name, text in zip(words, shown, strict=True)
    )


def _storage(storage: Mapping[str, int]) -> list[str]:
    if "artifacts" not in storage:
        return []
    count = storage["artifacts"]
    text = f"storage   {count} artifact{'' if count == 1 else 's'}, {size(storage.get('bytes', 0))}"
    return [f"{text}, {size(storage['free_bytes'])} free" if "free_bytes" in storage else text]


def _fault(fault: Any) -> str:
    if not isinstance(fault, dict):
        return str(fault)
    tail = f"; {fault['remedy']}" if fault.get("remedy") else ""
    return f"{fault.get('place')}: found {fault.get('found')}, expected {fault.get('expected')}{tail}"


def _running(running: Sequence[JobView], terminal: Terminal) -> list[str]:
    if terminal.width is None:
        return table(_RUNNING_COLUMNS, [_running_row(job) for job in running], terminal)
    return [line for job in running for line in _running_lines(job, terminal)]


def _running_row(job: JobView) -> list[str]:
    now = job.progress or Progress()
    who = [job.id, job.model, job.mode, job.split, job.host or "-", _moving(job)]
    return [*who, percent(now) or "-", steps(now), now.phase or "-", metrics(now.metrics) or "-", duration(now.left_s)]


def _running_lines(job: JobView, terminal: Terminal) -> list[str]:
    what = clean(f"{job.id[:SHORT_ID]}  {job.model} {job.mode} {job.split} on {job.host or '-'}")
    return [f"{what}  {word(_moving(job), terminal)}", f"  {meter(job.progress)}"]


def _moving(job: JobView) -> str:
    return "cancelling" if job.cancel_requested else job.status


def steps(progress: Progress) -> str:
    """Return the steps done of those to do, "45/100"; the second part is missing when unknown."""
    return f"{progress.step}/{progress.steps}" if progress.steps else str(progress.step)


def meter(progress: Progress | None) -> str:
    """Return how far a trainer is, in one line: bar, percent, step, phase, figures, time left."""
    if progress is None:
        return "no progress reported yet"
    done = f"{bar(progress.step, progress.steps)} {percent(progress)}".strip()
    left = "" if progress.left_s is None else f"{duration(progress.left_s)} left"
    parts = (done, f"step {steps(progress)}", left, metrics(progress.metrics), clean(progress.phase))
    return "  ".join(part for part in parts if part)


def percent(progress: Progress) -> str:
    """Return how much is done, "45 %"; empty when the number of steps is unknown."""
    return f"{100 * progress.step // progress.steps} %" if progress.steps else ""


def metrics(figures: Mapping[str, Any], most: int = 2, headline: str = "") -> str:
    """Return the first figures in one line: the headline, then AUROC and AUPRC, then others."""
    names = [name for name in dict.fromkeys((headline, *_FIRST_METRICS)) if name in figures]
    names += [name for name in figures if name not in names]
    return " ".join(f"{clean(name)} {number(figures[name])}" for name in names[:most])


def _failures(failures: Sequence[RecentFailure], terminal: Terminal) -> list[str]:
    lines = []
    for item in failures:
        fail = item.failure
        what = f"{identity(item.job_id, terminal)}  {clean(item.model)} {clean(item.mode)}"
        lines.append(f"{what}  now {word(item.status, terminal)}  {_ending(fail)}, {dated(fail.at, terminal)}")
        lines += [f"    {clean(line)}" for line in fail.error.splitlines() if line.strip()]
    return lines


def _ending(fail: FailureView) -> str:
    exit_text = "" if fail.exit_status is None else f", exit status {fail.exit_status}"
    return f"{clean(fail.kind)} on {clean(fail.host)}{exit_text}"


# ---- one job ---------------------------------------------------------------------------------------------------------


def detail(job: JobView, headline: str = "") -> str:
    """Return the one thing worth knowing of a job, according to its status.

    Args:
        job: The job.
        headline: Name of the metric that comes first.
    """
    notes = []
    if job.cancel_requested and job.status in ("claimed", "running"):
        notes.append("cancelling")
    if not job.named:
        notes.append("withdrawn: not in the manifest" if job.withdrawn else "not in the manifest")
    if job.delayed and not job.reason:
        notes.append("waits before the next attempt")
    notes.append(_news(job, headline))
    return "; ".join(note for note in notes if note)


def _news(job: JobView, headline: str) -> str:
    if job.progress is not None:
        left = "" if job.progress.left_s is None else f"{duration(job.progress.left_s)} left"
        return " ".join(filter(None, (percent(job.progress), metrics(job.progress.metrics), left)))
    if job.status == "completed":
        return " ".join(filter(None, (metrics(job.metrics, headline=headline), f"in {duration(job.duration_s)}")))
    if job.failure is not None:
        first = next((line for line in job.failure.error.splitlines() if line.strip()), "")
        return f"{job.failure.kind}: {first}" if first else job.failure.kind
    return ""


# ---- show -----------------------------------------------------------------------------------------------------------


def show(found: JobDetail, terminal: Terminal) -> list[str]:
    """Return everything about one job."""
    lines = [*_facts(found.job, terminal, found.artifact_gone), "", terminal.head("spec"), *_pairs(found.spec)]
    lines += [
        "",
        terminal.head("constraints"),
        *(_pairs(_effective(found.constraints)) or ["  none: any admitted host"]),
    ]
    if found.job.metrics:
        figures = {name: number(value) for name, value in found.job.metrics.items()}
        lines += ["", terminal.head("metrics"), *_pairs(figures)]
    if found.attempts:
        lines += ["", terminal.head(_part("attempts", len(found.attempts), found.attempts_total))]
        lines += _attempts(found.attempts, terminal)
    if found.events:
        part = _part("events", len(found.events), found.events_total, "; `cis490-jobs events --job` shows all of them")
        lines += ["", terminal.head(part)]
        lines += _events(found.events, terminal)
    if found.log_tail:
        tail = (f"  {clean(line)}" for line in found.log_tail.splitlines())
        lines += ["", terminal.head("end of the log of the newest failed attempt"), *tail]
    return lines


def _part(name: str, shown: int, total: int, rest: str = "") -> str:
    """Return a heading that says how much of a long history is below it, and where the rest is."""
    return name if shown >= total else f"{name}, the newest {shown} of {total}{rest}"


def _facts(job: JobView, terminal: Terminal, gone: str) -> list[str]:
    state = word(job.status, terminal) + (f"; {clean(detail(job))}" if detail(job) else "")
    facts = [
        ("job", clean(job.id)),
        ("status", state),
        ("host", clean(job.host or "-")),
        ("attempts", f"{job.attempts_used} of {job.max_attempts}"),
        ("priority", str(job.priority)),
        ("updated", dated(job.updated_at, terminal)),
    ]
    if job.name:
        facts.insert(1, ("name", clean(job.name)))
    if job.tags:
        facts.append(("tags", clean(", ".join(job.tags))))
    if job.artifact is not None:
        facts += [("artifact", clean(job.artifact)), ("path", clean(gone or job.artifact_path or "-"))]
    if job.artifact is not None and not gone and terminal.width is not None:
        short = clean(job.id)[:SHORT_ID]
        facts += [("get it", f"{program()} get {short}"), ("look", f"{program()} card {short}")]
    return [f"{name:<9} {value}" for name, value in facts]


def _pairs(values: Mapping[str, Any]) -> list[str]:
    wanted = {key: value for key, value in values.items() if value not in (None, [], ())}
    width = max((len(clean(key)) for key in wanted), default=0)
    return [f"  {clean(key):<{width}}  {plain(value)}" for key, value in wanted.items()]


def _effective(constraints: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constraints that constrain: 0, false and empty lists are the manifest's way to say "none"."""
    return {key: value for key, value in constraints.items() if value}


def plain(value: Any) -> str:
    """Return a manifest value for people: text bare, everything else as JSON."""
    return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _attempts(attempts: Sequence[AttemptView], terminal: Terminal) -> list[str]:
    rows = [
        [
            str(item.fence),
            item.host,
            moment(item.claimed_at, terminal),
            moment(item.ended_at, terminal),
            item.outcome or "alive",
            item.kind or "-",
            "-" if item.exit_status is None else str(item.exit_status),
            item.error or "-",
        ]
        for item in attempts
    ]
    place = zone([label for item in attempts for label in (item.claimed_at, item.ended_at)], terminal)
    claimed, ended = f"CLAIMED ({place})", f"ENDED ({place})"
    return table(("FENCE", "HOST", claimed, ended, "OUTCOME", "KIND", "EXIT", "ERROR"), rows, terminal)


def _events(events: Sequence[EventView], terminal: Terminal) -> list[str]:
    rows = [
        [
            moment(item.at, terminal),
            item.actor,
            item.action,
            f"{item.from_status or '-'} > {item.to_status}",
            item.why or "-",
        ]
        for item in events
    ]
    at = f"AT ({zone([item.at for item in events], terminal)})"
    return table((at, "ACTOR", "ACTION", "STATUS", "WHY"), rows, terminal)


# ---- backup and fsck ------------------------------------------------------------------------------------------------


def findings(chore: Chore) -> list[str]:
    """Return what a backup or a check found, one line each, damage first."""
    return [*map(_found, chore.findings), *(f"note: {_found(item)}" for item in chore.notes)]


def _found(item: Finding) -> str:
    return clean(f"{item.place}: found {item.found}, expected {item.expected}; {item.remedy}")


def checked(chore: Chore) -> str:
    """Return what a check looked at and how much it found, in one line."""
    verdict = f"{len(chore.findings)} found" if chore.findings else "clean"
    counts = (f"{chore.checked.get(name, 0)} {name}" for name in ("jobs", "pages", "artifacts"))
    return f"{verdict}: {', '.join(counts)}, {size(chore.checked.get('bytes', 0))} hashed"


def reading(chore: Chore) -> str:
    """Return how far a backup or a check is, in one line."""
    if not chore.total_bytes:
        return f"{clean(chore.kind)}: looking at the database"
    done = f"{size(chore.done_bytes)} of {size(chore.total_bytes)}"
    return f"{clean(chore.kind)}: {done}, {100 * chore.done_bytes // chore.total_bytes} %"


# ---- why ------------------------------------------------------------------------------------------------------------


def why(found: Why, terminal: Terminal) -> list[str]:
    """Return why a job waits or does not: per host what was wanted and found, and the smallest change."""
    rows = [row for host in found.hosts for row in _verdict(host)]
    lines = [f"{identity(found.id, terminal)}  {word(found.status, terminal)}  {clean(found.summary)}"]
    if rows:
        lines += ["", *table(("HOST", "CAN RUN", "CONSTRAINT", "WANTED", "FOUND"), rows, terminal)]
    changes = [host.change for host in found.hosts if host.change and host.change != found.smallest_change]
    if found.smallest_change:
        lines += ["", f"{terminal.head('smallest change:')} {clean(found.smallest_change)}"]
    return lines + [f"or: {clean(text)}" for text in changes]


def _verdict(host: HostVerdict) -> list[list[str]]:
    name = host.host if host.seen else f"{host.host} (declared, never seen)"
    if host.eligible:
        return [[name, "yes", "-", "-", "-"]]
    return [[name, "no", item.constraint, item.wanted, item.found] for item in host.reasons]
