"""The worker's loop: ask for a job, run it, and take up what an earlier worker left.

Jobs are asked for one at a time by one thread; each runs in a thread of its own. While there is no job the receiver
holds the call, so an idle worker does nothing. Guarantees that one question gets at most one job even when its answer
is lost, and that told to stop it leaves no process and no job behind.
"""

from __future__ import annotations

import math
import os
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from training.fleet import wire
from training.fleet.capability import Capability, refresh
from training.fleet.client import Client
from training.fleet.errors import FleetError, UnavailableError, UpgradeRequiredError
from training.fleet.worker.attempt import Attempt, Outcome, Place
from training.fleet.worker.folder import RunFolder, State
from training.fleet.worker.journal import Journal
from training.fleet.worker.options import Options
from training.fleet.worker.resume import ResumeFolders
from training.fleet.worker.start import Contracts, seat

WAIT_S: Final = 30
REFUSED_S: Final = 60.0
AWAY_S: Final = 1.0
AWAY_CAP_S: Final = 60.0
EARLY_PART: Final = 0.5
HURRY_LIMIT_S: Final = 5.0
CLEAN_S: Final = 3600.0
_JOB_ID = re.compile(r"[0-9a-f]{64}")
_LEASE_ID = re.compile(r"[0-9A-Za-z_-]{8,64}")


class Worker:
    """One worker of one host.

    Args:
        options: Its settings.
        capability: What the host can do, as found at the start.
        client: Makes a connection to the receiver; claims and work have one each.
        journal: Where to say what happens.
    """

    def __init__(
        self, options: Options, capability: Capability, client: Callable[[], Client], journal: Journal
    ) -> None:
        self._options = options
        self._capability = capability
        self._client = client()
        self._claims = client()
        self._journal = journal
        self._contracts = Contracts(capability.contract, options.rules.trainer_dir)
        self._runs = options.work_dir / "runs"
        self._resumes = ResumeFolders(options.work_dir / "resume", options.rules.min_free_bytes, journal)
        self._free = list(range(options.slots))
        self._attempts: dict[str, Attempt] = {}
        self._outcomes: list[Outcome] = []
        self._change = threading.Condition()
        self._stop = threading.Event()
        self._claim_id = _new_id()
        self._vain = 0
        self._drain = False
        self._cleaned_s = 0.0

    def serve(self) -> None:
        """Work until told to stop.

        Raises:
            UpgradeRequiredError: The receiver no longer speaks with this version.
        """
        try:
            self._resume()
            while not self._stop.is_set():
                self._clean()
                lease = self._ask(WAIT_S) if self._slot_is_free() else None
                if lease is not None:
                    self._begin(lease)
            self._join()
        finally:
            self._close()

    def serve_once(self, wait_s: float) -> Outcome | None:
        """Finish what is left over, run one job and return how it ended; None when none came in time.

        Raises:
            FleetError: The receiver refuses this host, or is out of reach until the end of the wait.
        """
        try:
            self._resume()
            self._join()
            lease = self._ask_until(time.monotonic() + wait_s)
            if lease is None or not self._begin(lease):
                return None
            self._join()
            return self._outcomes[-1]
        finally:
            self._close()

    def _ask_until(self, end: float) -> wire.Lease | None:
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

    # ---- claims -----------------------------------------------------------------------------------------------------

    def _ask(self, wait_s: float, once_until: float | None = None) -> wire.Lease | None:
        """Ask for one job; None when there is none, after whatever pause is due."""
        self._resumes.make_room()
        capability = self._capability = refresh(self._capability, self._options.work_dir, self._options.datasets)
        if capability.free_disk_bytes < self._options.rules.min_free_bytes:
            self._journal.note_once("no job taken: the disk is full", free_bytes=capability.free_disk_bytes)
            self._stop.wait(REFUSED_S)
            return None
        message = wire.Claim(self._claim_id, capability.hostname, capability, self._leases())
        asked_s = time.monotonic()
        try:
            lease, retry_after_s = self._claims.claim(message, wait_s=wait_s)
        except UnavailableError as error:
            self._away(error, once_until)
            return None
        except FleetError as error:
            self._refused(error, once_until)
            return None
        self._claim_id, self._vain = _new_id(), 0
        if lease is None and time.monotonic() - asked_s < wait_s * EARLY_PART:
            self._rest((retry_after_s or AWAY_S) * (0.75 + random.random() / 2), once_until)  # noqa: S311
        return self._heard(lease)

    def _rest(self, delay_s: float, once_until: float | None) -> None:
        left_s = delay_s if once_until is None else max(0.0, once_until - time.monotonic())
        self._stop.wait(min(delay_s, left_s))

    def _heard(self, lease: wire.Lease | None) -> wire.Lease | None:
        """Heed what comes with a lease, and refuse one that makes no sense here."""
        if lease is None:
            return None
        self._doubt(lease.stop)
        if not (_JOB_ID.fullmatch(lease.job_id) and _LEASE_ID.fullmatch(lease.lease_id) and lease.trainer_command):
            self._journal.note("the receiver granted a lease that makes no sense; is it older than this worker?")
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
        self._rest(min(AWAY_CAP_S, max(delay_s, error.retry_after_s or 0.0)), once_until)
        self._vain += 1
        if once_until is not None and time.monotonic() >= once_until:
            raise error

    def _refused(self, error: FleetError, once_until: float | None) -> None:
        self._claim_id = _new_id()
        if once_until is not None or isinstance(error, UpgradeRequiredError):
            raise error
        self._journal.note_once("the receiver refuses this worker", why=error.message)
        self._stop.wait((error.retry_after_s or REFUSED_S) * (0.75 + random.random() / 2))  # noqa: S311

    # ---- runs -------------------------------------------------------------------------------------------------------

    def _begin(self, lease: wire.Lease) -> bool:
        """Start the run of a lease."""
        folder = RunFolder(self._run_path(lease))
        try:
            folder.make()
        except OSError as error:
            self._journal.note("a run folder could not be made", path=str(folder.path), why=error.strerror)
            self._give_up(lease, f"the run folder could not be made: {error.strerror}")
            return False
        self._start(folder, State("claimed", lease), resumed=False)
        return True

    def _run_path(self, lease: wire.Lease) -> Path:
        path = self._runs / f"{lease.job_id[:12]}-{lease.fence}"
        return path.with_name(f"{path.name}-{lease.lease_id[:8]}") if path.exists() else path

    def _give_up(self, lease: wire.Lease, why: str) -> None:
        try:
            self._client.fail(lease.job_id, wire.Fail(lease.lease_id, "host_fault", error=why))
        except FleetError as error:
            self._journal.note("a job could not be given back; its lease will run out", why=error.message)

    def _start(self, folder: RunFolder, state: State, *, resumed: bool) -> None:
        resume = self._resumes.take(state.lease.job_id)
        with self._change:
            slot = self._free.pop(0)
            cuda = state.lease.cuda
            offered = seat(self._capability, slot, self._options.slots, self._options.threads, cuda=cuda)
            place = Place(offered, self._capability.datasets, self._contracts, self._leases, self._heed, resume)
            rules, client = self._options.rules, self._client
            attempt = Attempt(client, rules, place, folder, state, self._journal, resumed=resumed)
            self._attempts[state.lease.lease_id] = attempt
        if self._stop.is_set():
            attempt.release()
        threading.Thread(target=self._run, args=(attempt, slot, resume), name=f"run-{slot}", daemon=True).start()

    def _run(self, attempt: Attempt, slot: int, resume: Path | None) -> None:
        outcome: Outcome = "kept"
        try:
            outcome = attempt.run()
        except Exception as error:  # noqa: BLE001 - one broken run must not end the others
            self._journal.note("a run broke", why=f"{type(error).__name__}: {error}")
        self._resumes.give_back(resume, done_here=attempt.done_here)
        with self._change:
            self._outcomes.append(outcome)
            del self._attempts[attempt.lease_id]
            self._free.append(slot)
            self._drain = self._drain and bool(self._attempts)
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

    def _heed(self, beat: wire.Beat) -> None:
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
        """Take up every run that is not over."""
        self._runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._runs.iterdir()):
            folder = RunFolder(path)
            state = folder.load()
            if state is None or state.step == "over":
                continue
            if not self._slot_is_free():
                return
            self._journal.note("run taken up", job=state.lease.job_id[:12], fence=state.lease.fence, step=state.step)
            self._start(folder, state, resumed=True)
        self._resumes.make_room()

    def _clean(self) -> None:
        """Delete the folders of runs that nobody waits for once their time is up, about every hour."""
        if self._cleaned_s and time.monotonic() - self._cleaned_s < CLEAN_S:
            return
        self._cleaned_s = time.monotonic()
        with self._change:
            busy = bool(self._attempts)
        for path in sorted(self._runs.iterdir()):
            folder = RunFolder(path)
            state = folder.load()
            done = state.step == "over" if state is not None else not busy
            if done and time.time() - path.stat().st_mtime > self._options.keep_s:
                folder.remove()


def _new_id() -> str:
    return os.urandom(16).hex()
