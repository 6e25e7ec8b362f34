"""Which result somebody means: a job, an artifact, a name of the manifest, or `best`.

Owns the order in which these are tried. Guarantees that what comes out is a job with a result, and that the digests
and names in it can stand in a path.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

from training.contracts.bundle import is_plain_name
from training.fleet.cli.commands import Call
from training.fleet.cli.remote import CANDIDATES, is_id_prefix, read
from training.fleet.cli.results import best_job
from training.fleet.cli.views import SHORT_ID
from training.fleet.model.errors import FleetError, NotFoundError
from training.fleet.model.names import is_sha256
from training.fleet.wire.people import JobDetail, JobPage, JobView, PartView

BEST: Final = "best"
FOR_BEST: Final = ("metric", "lower", "model", "mode", "split", "dataset", "tag")
"""Options that say by what the best job is chosen."""
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
    if not is_id_prefix(digits):
        return _ready(call, call.remote.resolve(text))
    with contextlib.suppress(NotFoundError):
        return _ready(call, call.remote.resolve(digits))
    return _ready(call, _of_artifact(call, digits))


def _of_artifact(call: Call, digits: str) -> str:
    """Return the id of the job whose artifact begins with some digits; of several with one artifact, the first."""
    done = read(JobPage, call.remote.collect("/v1/jobs", "jobs", {"status": "completed"})).jobs
    found = {job.artifact: job for job in reversed(done) if (job.artifact or "").startswith(digits)}
    if not found:
        raise NotFoundError(
            f"found no job and no artifact that begins with {digits}",
            f"`cis490-jobs list --status completed` shows what there is; `{BEST}` takes the best",
        )
    if len(found) > 1:
        shown = ", ".join(artifact[:16] for artifact in sorted(map(str, found))[:CANDIDATES])
        more = " and more" if len(found) > CANDIDATES else ""
        raise FleetError(f"{digits} fits several artifacts: {shown}{more}", "give more digits of the one you mean")
    return next(iter(found.values())).id


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
