"""The commands about results: `compare` over seeds, and `best`, the one job to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from training.fleet.cli import comparison
from training.fleet.cli.commands import Call
from training.fleet.cli.known import nearest, refuse_unknown
from training.fleet.cli.listing import compact
from training.fleet.cli.ranking import Metric, metric_for
from training.fleet.cli.remote import read
from training.fleet.cli.text import Terminal, clean, number
from training.fleet.cli.views import SHORT_ID
from training.fleet.model.errors import NotFoundError
from training.fleet.wire.people import JobPage, JobView

NONE_MATCHES = "no completed job matches; `cis490-jobs list` shows all jobs"

GET_ONE: Final = "`cis490-jobs get JOB` fetches a result, `card JOB` shows its model card"


def compare(call: Call) -> int:
    """Show the results of completed jobs over their seeds."""
    jobs, metric = _completed(call, "spec")
    found = comparison.groups(jobs, metric)
    if call.console.as_json:
        call.console.document(comparison.document(found, metric))
    elif found or call.console.terminal.width is None:
        get = ["", GET_ONE] if found and call.console.terminal.width is not None else []
        call.console.lines([*comparison.lines(found, metric, call.console.terminal), *get])
    else:
        call.console.lines([NONE_MATCHES])
    return 0


def best(call: Call) -> int:
    """Show the completed job with the best figure; splits that leak count only where one is asked for."""
    found = best_job(call)
    if call.console.as_json:
        call.console.document(_document(found))
    else:
        call.console.lines(_lines(found, call.console.terminal))
    return 0


@dataclass(frozen=True, slots=True)
class BestJob:
    """The completed job with the best figure.

    Attributes:
        job: It.
        value: Its figure.
        metric: Which figure.
        count: Of how many completed jobs it is the best.
    """

    job: JobView
    value: float
    metric: Metric
    count: int


def best_job(call: Call) -> BestJob:
    """Return the best of the completed jobs that the options choose.

    Raises:
        NotFoundError: No completed job matches, or none has a number for the metric.
    """
    jobs, metric = _completed(call, "hyper")
    if call.options.split is None:
        jobs = [job for job in jobs if job.split not in comparison.LEAKING_SPLITS]
    if not jobs:
        raise NotFoundError("found no completed job that matches", "`cis490-jobs list` shows all jobs")
    metric.demand(jobs)
    first = metric.ranked(jobs)[0]
    value = metric.of(first)
    if value is None:
        found = f"none of the completed jobs has a number for {metric.name}"
        raise NotFoundError(found, "name another --metric")
    return BestJob(first, value, metric, len(jobs))


def _document(found: BestJob) -> dict[str, Any]:
    job = found.job
    return {
        "metric": found.metric.name,
        "direction": found.metric.direction,
        "value": found.value,
        "jobs": found.count,
        "id": job.id,
        "name": job.name,
        "model": job.model,
        "mode": job.mode,
        "split": job.split,
        "seed": job.seed,
        "hyper": job.hyper,
        "dataset": job.dataset,
        "artifact": job.artifact,
        "artifact_path": job.artifact_path,
    }


def _lines(found: BestJob, terminal: Terminal) -> list[str]:
    """Return the best job as text; in a pipe one line: id, metric, value, artifact."""
    job, metric = found.job, found.metric
    artifact = clean(job.artifact or "-")
    if terminal.width is None:
        return ["\t".join([clean(job.id), clean(metric.name), number(found.value), artifact])]
    what = f"{job.model} {job.mode} {job.split} seed {job.seed} {compact(job.hyper or {})}"
    of = "the only completed job" if found.count == 1 else f"the best of {found.count} completed jobs"
    return [
        f"{'job':<9} {terminal.head(clean(job.id))}",
        *([f"{'name':<9} {clean(job.name)}"] if job.name else []),
        f"{'what':<9} {clean(what).rstrip()}",
        f"{'figure':<9} {number(found.value)} {metric.said()}; {of}",
        f"{'artifact':<9} {artifact}",
        f"{'get it':<9} cis490-jobs get {clean(job.id)[:SHORT_ID]}",
        f"{'look':<9} cis490-jobs card {clean(job.id)[:SHORT_ID]}",
    ]


def _completed(call: Call, extra: str) -> tuple[list[JobView], Metric]:
    """Return the completed jobs that the options choose, and the metric that they are compared by."""
    given = vars(call.options)
    filters = {name: given[name] for name in ("model", "mode", "tag") if given.get(name) is not None}
    answer = call.remote.collect("/v1/jobs", "jobs", {"status": "completed", "with": extra, **filters})
    page = read(JobPage, answer)
    if not page.jobs:
        refuse_unknown(call, {kind: given.get(kind) for kind in ("model", "tag")})
    jobs = _of(page.jobs, "split", given.get("split"))
    jobs = _of(jobs, "dataset", given.get("dataset"))
    return jobs, metric_for(jobs, page.headline, given["metric"], "lower" if given.get("lower") else None)


def _of(jobs: Sequence[JobView], kind: str, name: str | None) -> list[JobView]:
    """Return the jobs of a split, or on a dataset.

    Raises:
        NotFoundError: No completed job has it.
    """
    found = [job for job in jobs if name is None or getattr(job, kind) == name]
    if jobs and not found:
        there = sorted({str(getattr(job, kind)) for job in jobs if getattr(job, kind) is not None})
        known = f"{nearest(str(name), there)}{kind}s are {', '.join(there)}" if there else f"no job names a {kind}"
        raise NotFoundError(f"found no completed job with the {kind} {name}", known)
    return found
