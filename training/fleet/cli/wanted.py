"""Which result somebody means: a job, an artifact, a name of the manifest, or `best`.

Owns the order in which these are tried. Guarantees that what comes out is a job with a result, and that the digests
and names in it can stand in a path.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from training.contracts.bundle import is_plain_name
from training.fleet.cli.commands import Call
from training.fleet.cli.remote import CANDIDATES, read
from training.fleet.cli.results import best_job
from training.fleet.cli.views import SHORT_ID
from training.fleet.model.errors import FleetError, InvalidMessageError, NotFoundError
from training.fleet.model.names import is_sha256
from training.fleet.wire.people import JobDetail, JobPage, JobView, PartView

BEST: Final = "best"
FOR_BEST: Final = ("metric", "lower", "model", "mode", "split", "dataset", "tag")
"""Options that say by what the best job is chosen."""
_DIGITS: Final = re.compile(r"[0-9a-f]{4,64}")
_NEXT: Final = {
    "pending": "`cis490-jobs why {id}` says for what it waits",
    "failed": "`cis490-jobs show {id}` says why",
    "cancelled": "`cis490-jobs requeue {id}` lets it run again",
}


@dataclass(frozen=True, slots=True)
class ReadyResult:
    """A job with a result.

    Attributes:
        job: The job.
        artifact: Digest of its bundle.
        parts: The small files beside the bundle, whose names and digests come from a host.
    """

    job: JobView
    artifact: str
    parts: tuple[PartView, ...]

    @property
    def short_id(self) -> str:
        """First digits of the job's id, as people type them."""
        return self.job.id[:SHORT_ID]

    @property
    def folder(self) -> str:
        """A name for a folder of its files, on every system: model, mode and first digits of the job."""
        name = f"{self.job.model}_{self.job.mode}_{self.short_id}"
        return name if is_plain_name(name) else f"job_{self.short_id}"


def wanted(call: Call) -> ReadyResult:
    """Return the result that the command line names.

    Raises:
        NotFoundError: There is no such job, artifact or name.
        FleetError: The text fits several jobs, or the job has no result.
    """
    text: str = call.options.job
    given = [name for name in FOR_BEST if vars(call.options).get(name)]
    if text != BEST and given:
        raise FleetError(f"found --{given[0]} with {text}", f"it belongs to `{BEST}`, which chooses the job by it")
    return best_job_of(call) if text == BEST else _found(call, text)


def best_job_of(call: Call) -> ReadyResult:
    """Return the result with the best figure among those that the options choose."""
    return _ready(call, best_job(call).job.id)


def _found(call: Call, text: str) -> ReadyResult:
    digits = text.lower()
    if _DIGITS.fullmatch(digits):
        with contextlib.suppress(NotFoundError):
            return _ready(call, call.remote.resolve(digits))
        done = read(JobPage, call.remote.collect("/v1/jobs", "jobs", {"status": "completed"})).jobs
        of_artifact = {job.artifact: job for job in done if (job.artifact or "").startswith(digits)}
        if of_artifact:
            return _ready(call, _only(text, list(of_artifact.values())))
    return _ready(call, _only(text, _named(call, text)))


def _named(call: Call, name: str) -> list[JobView]:
    """Return the completed jobs with a name, or else all with it."""
    try:
        jobs = read(JobPage, call.remote.collect("/v1/jobs", "jobs", {"name": name})).jobs
    except InvalidMessageError:
        return []  # a receiver of the version before knows no names, and none knows one of such signs
    return [job for job in jobs if job.artifact is not None] or jobs


def _only(text: str, jobs: Sequence[JobView]) -> str:
    """Return the id of the one job that was found."""
    if not jobs:
        raise NotFoundError(
            f"found no job, artifact or name {text}",
            f"`cis490-jobs list --status completed` shows what there is; `{BEST}` takes the best",
        )
    if len(jobs) > 1:
        shown = ", ".join(f"{job.id[:SHORT_ID]} ({job.model} {job.mode})" for job in jobs[:CANDIDATES])
        more = " and more" if len(jobs) > CANDIDATES else ""
        raise FleetError(f"{text} fits several jobs: {shown}{more}", "name one by the digits of its id")
    return jobs[0].id


def _ready(call: Call, job_id: str) -> ReadyResult:
    found = read(JobDetail, call.remote.job(job_id))
    job = found.job
    if job.artifact is None:
        following = _NEXT.get(job.status, "`cis490-jobs status --watch` shows how far it is")
        short = job.id[:SHORT_ID]
        raise FleetError(f"the job {short} is {job.status} and has no result", following.format(id=short))
    for digest in (job.id, job.artifact, *(part.sha256 for part in found.parts)):
        if not is_sha256(digest):
            raise FleetError(f"the receiver sent the digest {ascii(digest)[:80]}", expected="64 lower-case hex digits")
    return ReadyResult(job, job.artifact, tuple(found.parts))
