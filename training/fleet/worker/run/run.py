"""What the steps of one run share: its files and state, its trainer and heartbeats, and the reasons to stop.

Guarantees that a reason to stop is never replaced by a later one, and that a state that cannot be saved on a full disk
does not end the run: the receiver matters more.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from training.fleet.capability.checkout import CHECKOUT
from training.fleet.client import Client
from training.fleet.model.jobs import FREE_KINDS
from training.fleet.wire.worker import MAX_LOG_TAIL, Beat, Fail, Progress
from training.fleet.worker import start
from training.fleet.worker.beats import Beats, Listener
from training.fleet.worker.folder import RunFolder, RunState
from training.fleet.worker.journal import Journal
from training.fleet.worker.log import Log, plain
from training.fleet.worker.process.training import Training
from training.fleet.worker.progress import ProgressFile
from training.fleet.worker.verdict import MAX_ERROR_CHARS, Failure

AttemptOutcome = Literal["completed", "failed", "released", "over", "kept"]
"""completed; failed and reported; given back; nobody waits for it; left in the folder for the next start."""

LOST_PART: Final = 0.9
RETRY_S: Final = 2.0
RETRY_CAP_S: Final = 300.0


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
        pass_env: Variables of the worker's own environment that trainers get as well.
    """

    grace_s: float = 20.0
    stall_s: float = 1800.0
    min_free_bytes: int = 2**30
    stop_when_lost: bool = False
    trainer_dir: Path = CHECKOUT
    folders: Mapping[str, Path] = field(default_factory=dict)
    pass_env: tuple[str, ...] = ()


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
class StopWish:
    """Why and how a trainer is stopped: `stop` with grace, `abort` with a dump first, `kill` at once."""

    how: Literal["stop", "abort", "kill"]
    verdict: Failure


_CANCEL = StopWish("stop", Failure("preempted", "cancelled by the operator", cancelled=True))
_RELEASE = StopWish("stop", Failure("preempted", "the worker was stopped"))
_SILENCE = StopWish("kill", Failure("lost", "the receiver was out of reach for most of the lease"))
_STALE = StopWish("kill", Failure("lost", "the lease is somebody else's"))


class Run:
    """One run. Its steps belong to one thread; `release`, `lose` and what heartbeats bring may come from any.

    Args:
        client: The receiver.
        rules: What the worker keeps trainers to.
        place: Where it runs.
        folder: Its files.
        state: How far it is.
        journal: Where to say what happens.

    Attributes:
        training: Its trainer, None before it was started or taken over.
        wish: Why the trainer is to stop, None while it is not.
        wake: Set when the watch over the trainer should look at once.
        leave: Set when the worker wants to end.
        hurry: Whether the trainer gets no grace.
        lost: Why the lease is no longer this worker's, empty while it is.
        outcome: What came of it, None before its end.
        waits: What its delivery waits for, for people; empty while it waits for nothing. The job shows it as its phase.
    """

    def __init__(
        self, client: Client, rules: Rules, place: Workplace, folder: RunFolder, state: RunState, journal: Journal
    ) -> None:
        self.client = client
        self.rules = rules
        self.place = place
        self.folder = folder
        self.state = state
        self.log = Log(folder.path)
        self.progress = ProgressFile(folder.progress)
        self.training: Training | None = None
        self.wish: StopWish | None = None
        self.wake = threading.Event()
        self.leave = threading.Event()
        self.hurry = False
        self.lost = ""
        self.outcome: AttemptOutcome | None = None
        self.waits = ""
        self._journal = journal
        self._started_s = time.monotonic()
        listener = Listener(self._report_progress, place.leases, self._listen, self.lose, self._silence)
        self.beats = Beats(client, state.lease, listener)

    @property
    def done_here(self) -> bool:
        """Whether its job never comes back to this host: it is completed, refused for good, or cancelled."""
        if self.outcome == "completed":
            return True
        failure = self.state.failure
        return failure is not None and (failure.kind == "spec_rejected" or self.state.cancelled)

    def count_from(self, elapsed_s: float = 0.0) -> None:
        """Note how long the trainer has run until now."""
        self._started_s = time.monotonic() - elapsed_s

    def elapsed_s(self) -> float:
        """Return how long the trainer has run, seconds."""
        return time.monotonic() - self._started_s

    def free_bytes(self) -> float:
        """Return how much disk is free where it runs, endless when its folder is gone."""
        try:
            return shutil.disk_usage(self.folder.path).free
        except OSError:  # a trainer may have deleted the folder
            return float("inf")

    # ---- reasons to stop --------------------------------------------------------------------------------------------

    def want(self, wish: StopWish) -> None:
        """Have the trainer stopped, unless that is wanted already."""
        self.wish = self.wish or wish
        self.wake.set()

    def release(self, *, hurry: bool = False) -> None:
        """Give the job back, or finish an upload that is under way.

        Args:
            hurry: Kill the trainer without grace and wait for nobody.
        """
        self.hurry = self.hurry or hurry
        self.leave.set()
        self.want(_RELEASE)

    def lose(self, why: str) -> None:
        """Stop at once, because the lease is no longer this worker's."""
        self.lost = self.lost or why
        self.want(_STALE)

    def _listen(self, beat: Beat) -> None:
        if beat.cancel:
            self.want(_CANCEL)
        self.place.listen(beat)

    def _silence(self, part_of_lease: float, why: str) -> None:
        self.note("no heartbeat", why=why)
        if self.rules.stop_when_lost and part_of_lease >= LOST_PART:
            self.want(_SILENCE)

    def _report_progress(self) -> Progress | None:
        found = None if self.training is None else self.progress.report(self.elapsed_s())
        return dataclasses.replace(found or Progress(), phase=self.waits) if self.waits else found

    # ---- where it goes ----------------------------------------------------------------------------------------------

    def failed(
        self, kind: str, error: str, exit_status: int | None = None, log_tail: str = "", *, cancelled: bool = False
    ) -> None:
        """Go on to the report of a failure."""
        tail = log_tail.encode()[-MAX_LOG_TAIL:].decode("utf-8", "ignore")
        lease_id = self.state.lease.lease_id
        failure = Fail(lease_id, kind, exit_status, plain(error)[:MAX_ERROR_CHARS], tail)  # type: ignore[arg-type]
        self.note("job given back" if kind in FREE_KINDS else "attempt failed", kind=kind, error=error)
        if kind == "disk_full":
            self.folder.make_room()
        self.save(step="failed", failure=failure, cancelled=cancelled)

    def over(self, why: str) -> None:
        """Go on to the end of a run that nobody waits for."""
        self.folder.shrink()
        self.save(step="over", why=why)

    def save(self, **changes: object) -> None:
        """Put the next state on disk; on a full disk go on with it in memory, the receiver matters more."""
        self.state = dataclasses.replace(self.state, **changes)  # type: ignore[arg-type]
        try:
            self.folder.save(self.state)
        except OSError as error:
            self.note("state not saved", why=error.strerror)

    def pause(self, tries: int, why: str, retry_after_s: float | None) -> int:
        """Wait before the next try; a worker that leaves does not wait but keeps the folder for the next start.

        Args:
            tries: How often it was tried before.
            why: What came of the last try.
            retry_after_s: How long the receiver asks to wait, None when it does not say.

        Returns:
            How often it has been tried now.
        """
        if self.leave.is_set():
            self.outcome = "kept"
            return tries
        self.note("waiting for the receiver", why=why)
        delay_s = min(RETRY_CAP_S, RETRY_S * 2.0 ** min(tries, 16)) * random.random()  # noqa: S311
        self.leave.wait(delay_s + (retry_after_s or 0.0))
        return tries + 1

    def note(self, event: str, **facts: object) -> None:
        """Say what happens, once for the same event."""
        self._journal.note_once(event, job=self.state.lease.job_id[:12], fence=self.state.lease.fence, **facts)
