"""The worker's loop: ask for a job, run it, and take up what an earlier worker left.

Jobs are asked for one at a time by one thread; each runs in a thread of its own. While there is no job the receiver
holds the call, so an idle worker does nothing. What an earlier worker left is taken up first, before the slow look at
what the host can do: its trainers and leases wait for that. Guarantees that one question gets at most one job even when
its answer is lost or the worker dies over it, and that told to stop it leaves no process and no job behind.
"""

from __future__ import annotations

import math
import os
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from training.fleet.capability.detect import held_digests, refresh
from training.fleet.client import Client
from training.fleet.files import write_whole
from training.fleet.model.capability import Capability
from training.fleet.model.errors import ConflictError, FleetError, UnavailableError, UpgradeRequiredError
from training.fleet.model.names import is_sha256
from training.fleet.wire.worker import Beat, Claim, Fail, Lease
from training.fleet.worker.ages import Ages
from training.fleet.worker.folder import RunFolder, RunState, unfinished
from training.fleet.worker.identity import process_id
from training.fleet.worker.journal import Journal
from training.fleet.worker.options import Options
from training.fleet.worker.resume import ResumeFolders
from training.fleet.worker.run.attempt import Attempt
from training.fleet.worker.run.run import AttemptOutcome, Workplace
from training.fleet.worker.start import Contracts, Seat, seat

WAIT_S: Final = 30
REFUSED_S: Final = 60.0
AWAY_S: Final = 1.0
AWAY_CAP_S: Final = 60.0
EARLY_PART: Final = 0.5
HURRY_LIMIT_S: Final = 5.0
CLEAN_S: Final = 3600.0
_LEASE_ID = re.compile(r"[0-9A-Za-z_-]{8,64}")
_CLAIM_ID = re.compile(r"[0-9a-f]{32}")


class Worker:
    """One worker of one host.

    Args:
        options: Its settings.
        detect: Finds out what the host can do, once.
        client: Makes a connection to the receiver; claims and work have one each.
        journal: Where to say what happens.
        listed: Called once, when the receiver has taken the first question and so lists this host.
    """

    def __init__(
        self,
        options: Options,
        detect: Callable[[], Capability],
        client: Callable[[], Client],
        journal: Journal,
        listed: Callable[[], object] = lambda: None,
    ) -> None:
        self._options = options
        self._detect = detect
        self._capability: Capability | None = None
        self._undetected: BaseException | None = None
        self._client = client()
        self._claims = client()
        self._journal = journal
        self._listed = listed
        self._is_listed = False
        self._contracts = Contracts(None, options.rules.trainer_dir)
        self._runs = options.work_dir / "runs"
        self._resumes = ResumeFolders(options.work_dir / "resume", options.rules.min_free_bytes, journal)
        self._free = list(range(options.slots))
        self._attempts: dict[str, Attempt] = {}
        self._outcomes: list[AttemptOutcome] = []
        self._change = threading.Condition()
        self._stop = threading.Event()
        self._question = options.work_dir / "claim"
        self._claim_id = ""
        self._inherited = False
        self._process: str | None = None
        self._vain = 0
        self._drain = False
        self._cleaned_s = 0.0
        self._ages = Ages()

    def serve(self) -> None:
        """Work until told to stop.

        Raises:
            UpgradeRequiredError: The receiver no longer speaks with this version.
        """
        try:
            self._resume()
            self._get_ready()
            while not self._stop.is_set():
                self._clean()
                # The first question is not parked, so that it is soon known whether the receiver takes this host.
                wait_s = WAIT_S if self._is_listed else 0
                lease = self._ask(wait_s) if self._slot_is_free() else None
                if lease is not None:
                    self._begin(lease)
            self._join()
        finally:
            self._close()

    def serve_once(self, wait_s: float) -> AttemptOutcome | None:
        """Finish what is left over, run one job and return how it ended; None when none came in time.

        Raises:
            FleetError: The receiver refuses this host, or is out of reach until the end of the wait.
        """
        try:
            self._resume()
            self._get_ready()
            self._join()
            lease = self._ask_until(time.monotonic() + wait_s)
            if lease is None or not self._begin(lease):
                return None
            self._join()
            return self._outcomes[-1]
        finally:
            self._close()

    def _ask_until(self, end: float) -> Lease | None:
        lease = None
        while lease is None and not self._stop.is_set():
            left_s = end - time.monotonic()
            # Whole seconds are what the receiver can wait for; rounded down, the last part would go unwaited.
            lease = self._ask(min(WAIT_S, math.ceil(max(0.0, left_s))), once_until=end)
            if lease is None and time.monotonic() >= end:
                break
        return lease

    def _close(self) -> None:
        """Close the connections of the calling thread."""
        self._claims.close()
        self._client.close()

    def stop(self) -> None:
        """Take no new job and give back or finish what is under way; a second call hurries. Any thread may call it."""
        again = self._stop.is_set()
        self._stop.set()
        self._journal.note("stopping at once" if again else "stopping")
        self._claims.hang_up()
        with self._change:
            attempts = list(self._attempts.values())
            self._change.notify_all()
        for attempt in attempts:
            attempt.release(hurry=again)
        self._later(HURRY_LIMIT_S if again else self._options.stop_limit_s)

    def _later(self, delay_s: float) -> None:
        timer = threading.Timer(delay_s, self._client.hang_up)
        timer.daemon = True
        timer.start()

    def _get_ready(self) -> None:
        """Find out what the host can do; without an answer when told to stop meanwhile."""
        threading.Thread(target=self._look, name="detection", daemon=True).start()
        with self._change:
            while self._capability is None and self._undetected is None and not self._stop.is_set():
                self._change.wait()
        if self._undetected is not None:
            raise self._undetected

    def _look(self) -> None:
        found: Capability | None = None
        fault: BaseException | None = None
        try:
            found = self._detect()
        except BaseException as error:  # noqa: BLE001 - the worker's own thread raises it
            fault = error
        with self._change:
            if found is not None:
                self._contracts = Contracts(found.contract, self._options.rules.trainer_dir)
            self._capability, self._undetected = found, fault
            self._change.notify_all()

    # ---- claims -----------------------------------------------------------------------------------------------------

    def _ask(self, wait_s: float, once_until: float | None = None) -> Lease | None:
        """Ask for one job; None when there is none, after whatever pause is due."""
        assert self._capability is not None
        self._resumes.make_room()
        capability = self._capability = refresh(self._capability, self._options.work_dir, self._options.datasets)
        if capability.free_disk_bytes < self._options.rules.min_free_bytes:
            self._journal.note_once("no job taken: the disk is full", free_bytes=capability.free_disk_bytes)
            self._clean(keep_s=0.0)
            self._stop.wait(REFUSED_S)
            return None
        message = Claim(
            self._claim_id,
            capability.hostname,
            capability,
            self._leases(),
            self._process,
            slots=self._options.slots,
        )
        asked_s = time.monotonic()
        try:
            lease, retry_after_s = self._claims.claim(message, wait_s=wait_s)
        except UnavailableError as error:
            self._away(error, once_until)
            return None
        except FleetError as error:
            self._refused(error, once_until)
            return None
        self._vain = 0
        if not self._is_listed:
            self._is_listed = True
            self._listed()
        if lease is None and time.monotonic() - asked_s < wait_s * EARLY_PART:
            self._rest((retry_after_s or AWAY_S) * (0.75 + random.random() / 2), once_until)  # noqa: S311
        return self._heard(lease)

    def _rest(self, delay_s: float, once_until: float | None) -> None:
        left_s = delay_s if once_until is None else max(0.0, once_until - time.monotonic())
        self._stop.wait(min(delay_s, left_s))

    def _heard(self, lease: Lease | None) -> Lease | None:
        """Follow what comes with a lease, and refuse one that makes no sense here."""
        if lease is None:
            return None
        self._doubt(lease.stop)
        if not (is_sha256(lease.job_id) and _LEASE_ID.fullmatch(lease.lease_id) and lease.trainer_command):
            self._journal.note("the receiver granted a lease that makes no sense; is it older than this worker?")
            self._ask_anew()
            self._stop.wait(REFUSED_S)
            return None
        return lease

    def _away(self, error: FleetError, once_until: float | None) -> None:
        if self._stop.is_set():
            return
        if once_until is not None and time.monotonic() >= once_until:
            raise error
        self._journal.note_once("the receiver does not answer", why=error.message)
        delay_s = min(AWAY_CAP_S, AWAY_S * 2.0 ** min(self._vain, 16)) * random.random()  # noqa: S311
        # On top of what the receiver asks for, or all that it told the same would come back in the same moment.
        self._rest(min(AWAY_CAP_S, error.retry_after_s or 0.0) + delay_s, once_until)
        self._vain += 1
        if once_until is not None and time.monotonic() >= once_until:
            raise error

    def _refused(self, error: FleetError, once_until: float | None) -> None:
        inherited = self._inherited
        self._ask_anew()
        if inherited and isinstance(error, ConflictError):
            return  # it was answered, and that lease is over
        if once_until is not None or isinstance(error, UpgradeRequiredError):
            raise error
        self._journal.note_once("the receiver refuses this worker", why=error.message)
        self._stop.wait((error.retry_after_s or REFUSED_S) * (0.75 + random.random() / 2))  # noqa: S311

    # ---- runs -------------------------------------------------------------------------------------------------------

    def _begin(self, lease: Lease) -> bool:
        """Start the run of a lease. The run is on disk before the next question replaces this one there."""
        assert self._capability is not None
        # The question may have waited for long, and datasets may have been replaced meanwhile.
        self._capability = replace(self._capability, datasets=held_digests(self._options.datasets))
        folder, state = RunFolder(self._run_path(lease)), RunState("claimed", lease, self._claim_id)
        try:
            folder.make(state)
        except OSError as error:
            self._journal.note("a run folder could not be made", path=str(folder.path), why=error.strerror)
            self._give_up(lease, f"the run folder could not be made: {error.strerror}")
            return False
        finally:
            self._ask_anew()
        self._start(folder, state, resumed=False)
        return True

    def _ask_anew(self) -> None:
        """Make the name of the next question, and put it on disk before it is asked."""
        self._claim_id, self._inherited = _new_id(), False
        try:
            write_whole(self._question, self._claim_id.encode())
        except OSError as error:
            self._journal.note_once("the next question could not be written down", why=error.strerror)

    def _run_path(self, lease: Lease) -> Path:
        path = self._runs / f"{lease.job_id[:12]}-{lease.fence}"
        return path.with_name(f"{path.name}-{lease.lease_id[:8]}") if path.exists() else path

    def _give_up(self, lease: Lease, why: str) -> None:
        try:
            self._client.fail(lease.job_id, Fail(lease.lease_id, "host_fault", error=why))
        except FleetError as error:
            self._journal.note("a job could not be given back; its lease will run out", why=error.message)

    def _start(self, folder: RunFolder, state: RunState, *, resumed: bool) -> None:
        resume = self._resumes.take(state.lease.job_id)
        with self._change:
            # More may be left over than there are slots now; all of them have a lease, none can wait.
            slot = self._free.pop(0) if self._free else None
            place = self._place(slot, resume, state.lease)
            rules, client = self._options.rules, self._client
            attempt = Attempt(client, rules, place, folder, state, self._journal, resumed=resumed)
            self._attempts[state.lease.lease_id] = attempt
        if self._stop.is_set():
            attempt.release()
        threading.Thread(target=self._run, args=(attempt, slot, resume), name=f"run-{slot}", daemon=True).start()

    def _place(self, slot: int | None, resume: Path | None, lease: Lease) -> Workplace:
        """Return where an attempt runs; one that was begun earlier has its seat already."""
        found, offered = self._capability, Seat(1)
        if found is not None and slot is not None:
            slots, threads = self._options.slots, self._options.threads
            offered = seat(found, slot, slots, threads, cuda=lease.cuda, card=lease.card)
        return Workplace(offered, found.datasets if found else {}, self._contracts, self._leases, self._listen, resume)

    def _run(self, attempt: Attempt, slot: int | None, resume: Path | None) -> None:
        outcome: AttemptOutcome = "kept"
        try:
            outcome = attempt.run()
        except Exception as error:  # noqa: BLE001 - one broken run must not end the others
            self._journal.note("a run broke", why=f"{type(error).__name__}: {error}")
        self._resumes.give_back(resume, done_here=attempt.done_here)
        with self._change:
            self._outcomes.append(outcome)
            del self._attempts[attempt.lease_id]
            self._drain = self._drain and bool(self._attempts)
            self._change.notify_all()
        attempt.outlast()
        with self._change:
            if slot is not None:
                self._free.append(slot)
            self._change.notify_all()

    def _slot_is_free(self) -> bool:
        """Wait for a free slot; False when the worker is to stop first."""
        with self._change:
            while not self._stop.is_set() and (not self._free or (self._drain and self._attempts)):
                self._change.wait()
        return not self._stop.is_set()

    def _join(self) -> None:
        with self._change:
            while self._attempts:
                self._change.wait()

    def _leases(self) -> list[str]:
        with self._change:
            return list(self._attempts)

    def _listen(self, beat: Beat) -> None:
        self._drain = self._drain or beat.drain
        self._doubt(beat.stop)

    def _doubt(self, leases: list[str]) -> None:
        """Let each lease the receiver does not know as live ask for itself: it is refused, or adopted."""
        with self._change:
            doubtful = [attempt for lease_id, attempt in self._attempts.items() if lease_id in leases]
        for attempt in doubtful:
            attempt.doubt()

    # ---- what earlier workers left ----------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Take up every run that is not over, and the question that may have been answered with a job."""
        self._runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._process = process_id(self._options.work_dir)
        except OSError as error:
            self._journal.note("the worker's process id could not be written down", why=error.strerror)
        left = []
        for path in sorted(self._runs.iterdir()):
            folder = RunFolder(path)
            if unfinished(path):
                folder.remove()
                continue
            state = folder.load()
            if state is not None and state.step != "over":
                left.append((folder, state))
        for folder, state in sorted(left, key=lambda run: run[1].step != "training"):  # a trainer waits least
            self._journal.note("run taken up", job=state.lease.job_id[:12], fence=state.lease.fence, step=state.step)
            self._start(folder, state, resumed=True)
        self._inherit([state.claim_id for _, state in left])
        self._resumes.make_room()

    def _inherit(self, answered: list[str]) -> None:
        """Go on with the question of the earlier worker, unless a run is the answer to it."""
        try:
            asked = self._question.read_text(encoding="ascii")
        except (OSError, ValueError):
            asked = ""
        if asked in answered or not _CLAIM_ID.fullmatch(asked):
            self._ask_anew()
        else:
            self._claim_id, self._inherited = asked, True

    def _clean(self, keep_s: float | None = None) -> None:
        """Delete the folders of runs that nobody waits for once their time is up, about every hour.

        Args:
            keep_s: How long to keep them and to look now; None for what is set.
        """
        if keep_s is None and self._cleaned_s and time.monotonic() - self._cleaned_s < CLEAN_S:
            return
        self._cleaned_s = time.monotonic()
        kept_s = self._options.keep_s if keep_s is None else keep_s
        with self._change:
            busy = bool(self._attempts)
        for path in sorted(self._runs.iterdir()):
            folder = RunFolder(path)
            state = folder.load()
            done = state.step == "over" if state is not None else not busy
            if (done or unfinished(path)) and self._aged(path, kept_s):
                folder.remove()

    def _aged(self, path: Path, kept_s: float) -> bool:
        try:
            return kept_s == 0.0 or self._ages.of(path) > kept_s
        except OSError:  # the run that has just ended deletes its folder itself
            return False


def _new_id() -> str:
    return os.urandom(16).hex()
