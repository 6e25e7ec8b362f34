"""One lease, from the start of its trainer to the answer that nothing more is wanted of it.

The steps are those of `folder.RunState`; each is on disk before the call that depends on it, so an attempt begun from a
folder left by an earlier worker goes on where that one stopped, with the trainer if that still lives. Guarantees that
at its end no process of the trainer lives, that a result or a failure that could not be delivered stays in the folder
for the next start, and that a fault of its own is reported and not left to the end of the lease.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import random
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from training.fleet import system
from training.fleet.capability.cards import taken_by_others
from training.fleet.capability.checkout import CHECKOUT
from training.fleet.client import Client
from training.fleet.model.errors import (
    ConflictError,
    DigestMismatchError,
    FleetError,
    InvalidMessageError,
    NotFoundError,
    RevokedError,
    TooLargeError,
    TrainerError,
)
from training.fleet.model.jobs import FREE_KINDS, FailKind
from training.fleet.wire.worker import MAX_LOG_TAIL, Beat, Complete, Fail, Lease, Progress
from training.fleet.worker import start
from training.fleet.worker.beats import Beats, Listener
from training.fleet.worker.files import delete_tree
from training.fleet.worker.folder import RunFolder, RunState
from training.fleet.worker.journal import Journal
from training.fleet.worker.log import Log, plain
from training.fleet.worker.parts import bring_parts
from training.fleet.worker.process.ending import TrainerEnding, read_ending
from training.fleet.worker.process.local import launch, running_s, sweep, take_over
from training.fleet.worker.process.training import Training
from training.fleet.worker.progress import ProgressFile, flat_metrics
from training.fleet.worker.verdict import MAX_ERROR_CHARS, Evidence, Failure, judge

AttemptOutcome = Literal["completed", "failed", "released", "over", "kept"]
"""completed; failed and reported; given back; nobody waits for it; left in the folder for the next start."""

TICK_S: Final = 1.0
NEAR_FLOOR: Final = 2
NEAR_FLOOR_TICK_S: Final = 0.1
LOST_PART: Final = 0.9
UNKILLABLE_S: Final = 30.0
RETRY_S: Final = 2.0
RETRY_CAP_S: Final = 300.0
UPLOAD_DEADLINE_S: Final = 60.0
LEAVING_DEADLINE_S: Final = 10.0
KILL_S: Final = 10.0
MAX_REPACKS: Final = 3
_FINAL = (TooLargeError, InvalidMessageError)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a worker keeps its trainers to.

    Attributes:
        grace_s: Seconds between the wish to stop and the kill.
        stall_s: Seconds without output and progress after which a trainer counts as stalled; 0 is never.
        min_free_bytes: Free space below which a run is ended and no job is claimed.
        stop_when_lost: Whether to stop a trainer whose receiver is out of reach for most of the lease.
        trainer_dir: Where relative paths of a manifest's command lie.
        folders: Dataset name to folder.
    """

    grace_s: float = 20.0
    stall_s: float = 1800.0
    min_free_bytes: int = 2**30
    stop_when_lost: bool = False
    trainer_dir: Path = CHECKOUT
    folders: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where an attempt runs.

    Attributes:
        seat: What its slot offers.
        held: Dataset name to digest, as found before the claim.
        contracts: What trainers declare.
        leases: Returns the ids of all leases this worker holds.
        listen: Gets each answer to a heartbeat.
        resume: Folder for the trainer's checkpoints, None without one.
    """

    seat: start.Seat
    held: Mapping[str, str]
    contracts: start.Contracts
    leases: Callable[[], list[str]]
    listen: Callable[[Beat], object]
    resume: Path | None = None


@dataclass(frozen=True, slots=True)
class _Stop:
    """Why and how a trainer is stopped: `stop` with grace, `abort` with a dump first, `kill` at once."""

    how: Literal["stop", "abort", "kill"]
    verdict: Failure


_CANCEL = _Stop("stop", Failure("preempted", "cancelled by the operator", cancelled=True))
_RELEASE = _Stop("stop", Failure("preempted", "the worker was stopped"))
_SILENCE = _Stop("kill", Failure("lost", "the receiver was out of reach for most of the lease"))
_STALE = _Stop("kill", Failure("lost", "the lease is somebody else's"))


class Attempt:
    """One run. `run` belongs to one thread; the other methods may be called from any.

    Args:
        client: The receiver.
        rules: What the worker keeps trainers to.
        place: Where it runs.
        folder: Its files; a run that begins here has its folders but no state yet.
        state: How far it is.
        journal: Where to say what happens.
        resumed: Whether an earlier worker began it.
    """

    def __init__(
        self,
        client: Client,
        rules: Rules,
        place: Workplace,
        folder: RunFolder,
        state: RunState,
        journal: Journal,
        *,
        resumed: bool = False,
    ) -> None:
        self._client = client
        self._rules = rules
        self._place = place
        self._folder = folder
        self._state = state
        self._journal = journal
        self._resumed = resumed
        self._started_s = time.monotonic()
        self._training: Training | None = None
        self._log = Log(folder.path)
        self._progress = ProgressFile(folder.progress)
        self._wake = threading.Event()
        self._leave = threading.Event()
        self._hurry = False
        self._wish: _Stop | None = None
        self._stopped_s: float | None = None
        self._lost = ""
        self._outcome: AttemptOutcome | None = None
        listener = Listener(self._report_progress, place.leases, self._listen, self.lose, self._silence)
        self._beats = Beats(client, state.lease, listener)

    @property
    def lease_id(self) -> str:
        """The lease it holds."""
        return self._state.lease.lease_id

    @property
    def done_here(self) -> bool:
        """Whether its job never comes back to this host: it is completed, refused for good, or cancelled."""
        if self._outcome == "completed":
            return True
        failure = self._state.failure
        return failure is not None and (failure.kind == "spec_rejected" or self._state.cancelled)

    def run(self) -> AttemptOutcome:
        """Go on until nothing more can or need be done."""
        steps = {
            "claimed": self._give_back if self._resumed else self._train,
            "training": self._recover,
            "packed": self._deliver,
            "failed": self._report,
            "over": self._end_over,
        }
        try:
            while self._outcome is None:
                self._go(steps[self._state.step])
        finally:
            self._beats.stop()
            self._client.close()
            if self._training is not None and not self._training.ended.is_set():
                self._training.kill()
        self._note("run ended", outcome=self._outcome, why=self._state.why or None)
        return self._outcome

    def outlast(self) -> None:
        """Return once no process of the trainer lives, after `run`: until then its place is not free."""
        if self._training is not None and not self._training.ended.wait(KILL_S):
            self._note("no job taken in this slot: a process of its trainer cannot be killed; restart this host")
            self._training.ended.wait()

    def _go(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:
            if self._state.step in ("failed", "over"):
                raise
            if self._training is not None:
                self._training.kill()
                self._training.ended.wait(KILL_S)
            self._failed("host_fault", f"a fault of the worker, please report it: {type(error).__name__}: {error}")

    def release(self, *, hurry: bool = False) -> None:
        """Give the job back, or finish an upload that is under way.

        Args:
            hurry: Kill the trainer without grace and wait for nobody.
        """
        self._hurry = self._hurry or hurry
        self._wish = self._wish or _RELEASE
        self._leave.set()
        self._wake.set()

    def doubt(self) -> None:
        """Ask the receiver about the lease now; a result that came late may still be wanted."""
        self._beats.hasten()

    def lose(self, why: str) -> None:
        """Stop at once, because the lease is no longer this worker's."""
        self._lost = self._lost or why
        self._wish = self._wish or _STALE
        self._wake.set()

    # ---- claimed, training ------------------------------------------------------------------------------------------

    def _train(self) -> None:
        oom_kills = _oom_kills()
        try:
            training = self._launch()
        except TrainerError as error:
            return self._failed(error.kind, error.message)
        except (FleetError, OSError) as error:
            return self._failed("host_fault", f"the trainer could not be started: {error}")
        self._note(
            "trainer started", model=self._state.lease.spec.get("model"), mode=self._state.lease.spec.get("mode")
        )
        return self._attend(training, oom_kills)

    def _launch(self) -> Training:
        """Start the trainer; its shim gets ready while the state goes to disk."""
        lease, offered = self._state.lease, self._place.seat
        self._check_contract(lease)
        held, resume = self._place.held, self._place.resume
        job = start.job_document(lease.job_id, lease.spec, self._rules.folders, held, offered, resume)
        self._folder.job.write_text(json.dumps(job, ensure_ascii=False), encoding="utf-8")
        command = [*lease.trainer_command, "--job", str(self._folder.job), "--out", str(self._folder.out)]
        training = self._training = launch(
            start.argument_vector(command, self._rules.trainer_dir),
            self._folder.scratch,
            start.environment(offered, self._folder.scratch, trainer_dir=self._rules.trainer_dir),
            self._folder.report,
            grace_s=self._rules.grace_s,
            log=self._log.take,
            wake=self._wake.set,
        )
        self._state = dataclasses.replace(self._state, step="training", shim=training.identity)
        try:
            self._folder.save(self._state)
        except OSError:
            training.kill()
            raise
        self._started_s = time.monotonic()
        training.go()
        return training

    def _attend(self, training: Training, oom_kills: int) -> None:
        """Stay with a trainer until it has ended, and go on with what it left."""
        self._beats.start()
        with system.awake():
            ending = self._watch(training)
        self._log.close()
        self._conclude(ending, oom_killed=_oom_kills() > oom_kills)

    def _check_contract(self, lease: Lease) -> None:
        if lease.trainer_contract is None:
            return
        found = self._place.contracts.digest(lease.trainer_command, self._folder.scratch)
        if found != lease.trainer_contract:
            raise TrainerError(
                f"this host's trainer declares {found[:19]}…, the manifest was checked against "
                f"{lease.trainer_contract[:19]}…",
                "bring both to the same version and reload",
                kind="spec_rejected",
            )

    def _watch(self, training: Training) -> TrainerEnding:
        """Wait for the end of the trainer, and stop it when there is a reason to."""
        seen_bytes, seen_s, tick_s = 0, self._elapsed_s(), 0.0
        floor = self._rules.min_free_bytes
        while not training.ended.is_set():
            self._wake.wait(tick_s)
            self._wake.clear()
            now_s = self._elapsed_s()
            tick_s = NEAR_FLOOR_TICK_S if self._free_bytes() < NEAR_FLOOR * floor else TICK_S
            if self._progress.poll(now_s) or self._log.size_bytes != seen_bytes:
                seen_bytes, seen_s = self._log.size_bytes, now_s
            if not training.guarded():
                sweep(self._folder.scratch)
            self._stop_if(training, self._wish or self._overdue(now_s, now_s - seen_s, full=self._disk_is_full()))
            if self._unkillable():
                return TrainerEnding(error="a process of the trainer cannot be killed; restart this host")
        self._progress.poll(self._elapsed_s())
        return training.ending()

    def _unkillable(self) -> bool:
        stopped_s = self._stopped_s
        return stopped_s is not None and time.monotonic() - stopped_s > self._rules.grace_s + UNKILLABLE_S

    def _overdue(self, elapsed_s: float, quiet_s: float, *, full: bool) -> _Stop | None:
        limit_s, stall_s = self._state.lease.timeout_s, self._rules.stall_s
        if elapsed_s > limit_s:
            return _Stop("stop", Failure("timeout", f"stopped after its wall limit of {limit_s} s"))
        if stall_s and quiet_s > stall_s:
            said = f"stopped because it neither printed nor reported progress for {stall_s:g} s"
            return _Stop("abort", Failure("stalled", said))
        if full:
            floor_gib = self._rules.min_free_bytes / 2**30
            return _Stop("kill", Failure("disk_full", f"stopped because less than {floor_gib:g} GiB are free here"))
        return None

    def _stop_if(self, training: Training, wish: _Stop | None) -> None:
        """Stop the trainer once; why stands on disk before, so that a worker started again knows it."""
        if wish is not None and self._stopped_s is None:
            self._stopped_s = time.monotonic()
            self._save(stopped=wish.verdict)
            {"stop": training.stop, "abort": training.abort, "kill": training.kill}[wish.how]()
        if self._stopped_s is not None and (self._hurry or self._lost):
            training.kill()

    def _disk_is_full(self) -> bool:
        return self._free_bytes() < self._rules.min_free_bytes

    def _free_bytes(self) -> float:
        try:
            return shutil.disk_usage(self._folder.path).free
        except OSError:  # a trainer may have deleted the folder
            return float("inf")

    def _conclude(self, ending: TrainerEnding, *, oom_killed: bool = False) -> None:
        """Judge how the trainer ended and go to the next step."""
        if self._lost:
            return self._over(self._lost)
        if not self._folder.path.is_dir():
            return self._failed("trainer_error", "the folder of the run was deleted while the trainer ran")
        tail = self._log.tail(MAX_LOG_TAIL)
        result = self._folder.trainer_result()
        evidence = Evidence(
            ending, self._state.stopped, result, tail, self._folder.has_artifact(), oom_killed, self._disk_is_full()
        )
        failure = self._blamed(judge(evidence))
        if failure is not None:
            return self._failed(failure.kind, failure.error, ending.status, tail, cancelled=failure.cancelled)
        self._save(metrics=flat_metrics(result.get("metrics")), duration_s=ending.duration_s)
        return self._pack()

    def _blamed(self, failure: Failure | None) -> Failure | None:
        """Blame the host where others hold the card, or the fleet would learn that the job needs a larger one."""
        card = self._place.seat.gpu
        if failure is None or failure.kind != "oom_gpu" or card is None:
            return failure
        taken = taken_by_others(card.uuid)
        return Failure("host_fault", f"{taken}; {failure.error}") if taken else failure

    def _pack(self) -> None:
        from training.fleet.bundle import pack  # an idle worker does not carry it

        try:
            packed = pack(self._folder.artifact, self._folder.bundle)
        except TrainerError as error:
            return self._failed(error.kind, error.message)
        except OSError as error:
            kind: FailKind = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "host_fault"
            return self._failed(kind, f"the artifact could not be packed: {error.strerror}")
        return self._save(step="packed", artifact=packed.sha256, content_digest=packed.content_digest)

    # ---- begun by an earlier worker ---------------------------------------------------------------------------------

    def _give_back(self) -> None:
        self._failed("preempted", "the worker was restarted before the trainer ran")

    def _recover(self) -> None:
        """Take over a trainer whose worker died, or find out what became of it."""
        self._log.go_on()
        shim, report = self._state.shim, self._folder.report
        training = self._training = take_over(shim, report, log=self._log.take, wake=self._wake.set)
        if training is None:
            sweep(self._folder.scratch)
            ending = read_ending(report) or TrainerEnding()
            self._log.take(ending.rest.encode("latin-1", "replace"))
            self._log.close()
            return self._conclude(ending)
        self._started_s = time.monotonic() - running_s(shim)
        if self._state.stopped is not None:
            self._wish = _Stop("stop", self._state.stopped)
        self._note("trainer taken over", after_s=round(self._elapsed_s()))
        return self._attend(training, _oom_kills())

    # ---- packed, failed ---------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Upload and complete, as often as it takes."""
        self._beats.beat()
        self._beats.start()
        vain = 0
        while self._outcome is None and self._state.step == "packed":
            try:
                self._hand_in()
            except (ConflictError, NotFoundError, RevokedError) as error:
                self._over(self._lost or error.message)
            except DigestMismatchError:
                vain = self._pack_again(vain)
            except _FINAL as error:
                self._failed("trainer_error", f"the receiver refused the result: {error.message}")
            except OSError as error:
                self._failed("host_fault", f"the bundle cannot be read: {error.strerror}")
            except FleetError as error:
                vain = self._pause(vain, error.message, error.retry_after_s)

    def _pack_again(self, vain: int) -> int:
        if vain >= MAX_REPACKS:
            self._failed("host_fault", "the bundle arrives damaged each time; check this host's memory and disk")
            return vain
        self._pack()
        return self._pause(vain, "the bundle arrived damaged and is packed again", None)

    def _hand_in(self) -> None:
        # After a gap the job may be somebody else's: a large upload would be in vain.
        self._beats.ask_after_gap()
        state, lease = self._state, self._state.lease
        deadline_s = LEAVING_DEADLINE_S if self._leave.is_set() else UPLOAD_DEADLINE_S
        # A lease is over as well when it has completed the job and the answer got lost; told again, it says so.
        if not self._lost:
            bundle = self._folder.bundle
            self._client.upload(lease.lease_id, state.artifact, bundle, deadline_s=deadline_s, retry_full=True)
            bring_parts(self._client, lease.lease_id, state.artifact, self._folder.artifact, self._note)
        message = Complete(
            lease.lease_id, state.artifact, state.metrics, state.content_digest or None, state.duration_s
        )
        self._client.complete(lease.job_id, message, deadline_s=deadline_s)
        self._outcome = "completed"
        self._beats.stop()
        self._drop_checkpoints()
        self._folder.remove()

    def _report(self) -> None:
        """Say how the attempt failed, as often as it takes."""
        failure, vain = self._state.failure, 0
        assert failure is not None
        while self._outcome is None and self._state.step == "failed":
            deadline_s = LEAVING_DEADLINE_S if self._leave.is_set() else UPLOAD_DEADLINE_S
            try:
                self._client.fail(self._state.lease.job_id, failure, deadline_s=deadline_s)
            except (ConflictError, NotFoundError, RevokedError) as error:
                self._over(f"{failure.kind}: {failure.error} (not taken: {error.message})")
            except _FINAL as error:
                if not failure.log_tail:
                    return self._over(f"{failure.kind}: {failure.error} (not taken: {error.message})")
                failure = dataclasses.replace(failure, log_tail="", error=ascii(failure.error)[:500])
            except FleetError as error:
                vain = self._pause(vain, error.message, error.retry_after_s)
            else:
                self._reported(failure)
        return None

    def _reported(self, failure: Fail) -> None:
        self._outcome = "released" if failure.kind in FREE_KINDS else "failed"
        self._beats.stop()
        self._drop_checkpoints()
        if failure.kind == "preempted":
            self._folder.remove()
        else:
            self._folder.shrink()
            self._save(step="over", why=f"{failure.kind}: {failure.error}"[:MAX_ERROR_CHARS])

    def _drop_checkpoints(self) -> None:
        """Delete what nobody needs any more while the run still says so: a worker killed later would not know."""
        if self.done_here and self._place.resume is not None:
            delete_tree(self._place.resume)

    def _pause(self, vain: int, why: str, retry_after_s: float | None) -> int:
        """Wait before the next try; a worker that leaves does not wait but keeps the folder for the next start."""
        if self._leave.is_set():
            self._outcome = "kept"
            return vain
        self._note("waiting for the receiver", why=why)
        delay_s = min(RETRY_CAP_S, RETRY_S * 2.0 ** min(vain, 16)) * random.random()  # noqa: S311
        self._leave.wait(delay_s + (retry_after_s or 0.0))
        return vain + 1

    # ---- what the heartbeats say ------------------------------------------------------------------------------------

    def _report_progress(self) -> Progress | None:
        return None if self._training is None else self._progress.report(self._elapsed_s())

    def _listen(self, beat: Beat) -> None:
        if beat.cancel:
            self._wish = self._wish or _CANCEL
            self._wake.set()
        self._place.listen(beat)

    def _silence(self, part_of_lease: float, why: str) -> None:
        self._note("no heartbeat", why=why)
        if self._rules.stop_when_lost and part_of_lease >= LOST_PART:
            self._wish = self._wish or _SILENCE
            self._wake.set()

    # ---- state ------------------------------------------------------------------------------------------------------

    def _failed(
        self, kind: str, error: str, exit_status: int | None = None, log_tail: str = "", *, cancelled: bool = False
    ) -> None:
        tail = log_tail.encode()[-MAX_LOG_TAIL:].decode("utf-8", "ignore")
        failure = Fail(self.lease_id, kind, exit_status, plain(error)[:MAX_ERROR_CHARS], tail)  # type: ignore[arg-type]
        self._note("job given back" if kind in FREE_KINDS else "attempt failed", kind=kind, error=error)
        if kind == "disk_full":
            self._folder.make_room()
        self._save(step="failed", failure=failure, cancelled=cancelled)

    def _over(self, why: str) -> None:
        self._folder.shrink()
        self._save(step="over", why=why)

    def _end_over(self) -> None:
        self._outcome = "over"

    def _save(self, **changes: object) -> None:
        """Put the next state on disk; on a full disk go on with it in memory, the receiver matters more."""
        self._state = dataclasses.replace(self._state, **changes)  # type: ignore[arg-type]
        try:
            self._folder.save(self._state)
        except OSError as error:
            self._note("state not saved", why=error.strerror)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def _note(self, event: str, **facts: object) -> None:
        self._journal.note_once(event, job=self._state.lease.job_id[:12], fence=self._state.lease.fence, **facts)


def _oom_kills() -> int:
    """Return how many processes the system has killed for want of memory since it started, 0 where it does not say.

    Source: Linux, /proc/vmstat, oom_kill.
    """
    try:
        text = Path("/proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)
