"""The last steps of a run: judge how the trainer ended, pack its artifact, and hand in the result or the failure.

Each call is made as often as it takes. Guarantees that nothing is given up because the receiver is away: what a worker
that leaves could not hand in stays in the folder for the next start.
"""

from __future__ import annotations

import dataclasses
import errno
import time
from typing import Final

from training.fleet.capability.cards import taken_by_others
from training.fleet.model.errors import (
    ConflictError,
    DigestMismatchError,
    FleetError,
    InvalidMessageError,
    NotFoundError,
    RevokedError,
    StorageFullError,
    TooLargeError,
    TrainerError,
)
from training.fleet.model.jobs import FREE_KINDS, FailKind
from training.fleet.wire.worker import MAX_LOG_TAIL, Complete, Fail
from training.fleet.worker.files import delete_tree
from training.fleet.worker.parts import bring_parts
from training.fleet.worker.process.ending import TrainerEnding
from training.fleet.worker.progress import flat_metrics
from training.fleet.worker.run.run import Run
from training.fleet.worker.verdict import MAX_ERROR_CHARS, Evidence, Failure, judge

UPLOAD_DEADLINE_S: Final = 60.0
LEAVING_DEADLINE_S: Final = 10.0
MAX_REPACKS: Final = 3
_FINAL = (TooLargeError, InvalidMessageError)


def conclude(run: Run, ending: TrainerEnding, *, oom_killed: bool = False) -> None:
    """Judge how the trainer ended and go to the next step."""
    if run.lost:
        return run.over(run.lost)
    if not run.folder.path.is_dir():
        return run.failed("trainer_error", "the folder of the run was deleted while the trainer ran")
    tail = run.log.tail(MAX_LOG_TAIL)
    result = run.folder.trainer_result()
    disk_full = run.free_bytes() < run.rules.min_free_bytes
    evidence = Evidence(ending, run.state.stopped, result, tail, run.folder.has_artifact(), oom_killed, disk_full)
    failure = _blamed(run, judge(evidence))
    if failure is not None:
        return run.failed(failure.kind, failure.error, ending.status, tail, cancelled=failure.cancelled)
    run.save(metrics=flat_metrics(result.get("metrics")), duration_s=ending.duration_s)
    return _pack(run)


def _blamed(run: Run, failure: Failure | None) -> Failure | None:
    """Blame the host where others hold the card, or the fleet would learn that the job needs a larger one."""
    card = run.place.seat.gpu
    if failure is None or failure.kind != "oom_gpu" or card is None:
        return failure
    taken = taken_by_others(card.uuid)
    return Failure("host_fault", f"{taken}; {failure.error}") if taken else failure


def _pack(run: Run) -> None:
    from training.fleet.bundle import pack  # an idle worker does not carry it

    try:
        packed = pack(run.folder.artifact, run.folder.bundle)
    except TrainerError as error:
        return run.failed(error.kind, error.message)
    except OSError as error:
        kind: FailKind = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "host_fault"
        return run.failed(kind, f"the artifact could not be packed: {error.strerror}")
    return run.save(step="packed", artifact=packed.sha256, content_digest=packed.content_digest)


def deliver(run: Run) -> None:
    """Upload and complete, as often as it takes."""
    run.beats.beat()
    run.beats.start()
    tries = 0
    while run.outcome is None and run.state.step == "packed":
        try:
            _hand_in(run)
        except (ConflictError, NotFoundError, RevokedError) as error:
            run.over(run.lost or error.message)
        except DigestMismatchError:
            tries = _pack_again(run, tries)
        except _FINAL as error:
            run.failed("trainer_error", f"the receiver refused the result: {error.message}")
        except OSError as error:
            run.failed("host_fault", f"the bundle cannot be read: {error.strerror}")
        except FleetError as error:
            _say_why(run, error)
            tries = run.pause(tries, error.message, error.retry_after_s)


def _say_why(run: Run, error: FleetError) -> None:
    """Let the job show why its result is not there yet; the receiver that takes no upload still takes heartbeats."""
    why = "store full" if isinstance(error, StorageFullError) else "receiver not ready"
    if not run.waits.startswith(f"uploading: {why} since"):
        run.waits = f"uploading: {why} since {time.strftime('%H:%M', time.gmtime())} UTC"
        run.beats.hasten()


def _pack_again(run: Run, tries: int) -> int:
    if tries >= MAX_REPACKS:
        run.failed("host_fault", "the bundle arrives damaged each time; check this host's memory and disk")
        return tries
    _pack(run)
    return run.pause(tries, "the bundle arrived damaged and is packed again", None)


def _hand_in(run: Run) -> None:
    # After a gap the job may be somebody else's: a large upload would be in vain.
    run.beats.ask_after_gap()
    state, lease = run.state, run.state.lease
    deadline_s = _deadline_s(run)
    # A lease is over as well when it has completed the job and the answer got lost; told again, it says so.
    if not run.lost:
        run.client.upload(lease.lease_id, state.artifact, run.folder.bundle, deadline_s=deadline_s, retry_full=True)
        bring_parts(run.client, lease.lease_id, state.artifact, run.folder.artifact, run.note)
    message = Complete(lease.lease_id, state.artifact, state.metrics, state.content_digest or None, state.duration_s)
    run.client.complete(lease.job_id, message, deadline_s=deadline_s)
    run.outcome = "completed"
    run.beats.stop()
    _drop_checkpoints(run)
    run.folder.remove()


def _deadline_s(run: Run) -> float:
    return LEAVING_DEADLINE_S if run.leave.is_set() else UPLOAD_DEADLINE_S


def report(run: Run) -> None:
    """Say how the attempt failed, as often as it takes."""
    failure, tries = run.state.failure, 0
    assert failure is not None
    while run.outcome is None and run.state.step == "failed":
        try:
            run.client.fail(run.state.lease.job_id, failure, deadline_s=_deadline_s(run))
        except (ConflictError, NotFoundError, RevokedError) as error:
            run.over(f"{failure.kind}: {failure.error} (not taken: {error.message})")
        except _FINAL as error:
            if not failure.log_tail:
                return run.over(f"{failure.kind}: {failure.error} (not taken: {error.message})")
            failure = dataclasses.replace(failure, log_tail="", error=ascii(failure.error)[:500])
        except FleetError as error:
            tries = run.pause(tries, error.message, error.retry_after_s)
        else:
            _reported(run, failure)
    return None


def _reported(run: Run, failure: Fail) -> None:
    run.outcome = "released" if failure.kind in FREE_KINDS else "failed"
    run.beats.stop()
    _drop_checkpoints(run)
    if failure.kind == "preempted":
        run.folder.remove()
    else:
        run.folder.shrink()
        run.save(step="over", why=f"{failure.kind}: {failure.error}"[:MAX_ERROR_CHARS])


def _drop_checkpoints(run: Run) -> None:
    """Delete what nobody needs any more while the run still says so: a worker killed later would not know."""
    if run.done_here and run.place.resume is not None:
        delete_tree(run.place.resume)
