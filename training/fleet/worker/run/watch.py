"""The watch over a trainer that runs: its end, and the reasons to stop it before.

Guarantees that a trainer is stopped once, that the reason stands on disk before, and that a process that cannot be
killed does not hold the worker for ever.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from training.fleet import system
from training.fleet.worker.process.ending import TrainerEnding
from training.fleet.worker.process.local import sweep
from training.fleet.worker.process.training import Training
from training.fleet.worker.run.deliver import conclude
from training.fleet.worker.run.run import Run, StopWish
from training.fleet.worker.verdict import Failure

TICK_S: Final = 1.0
NEAR_FLOOR: Final = 2
NEAR_FLOOR_TICK_S: Final = 0.1
UNKILLABLE_S: Final = 30.0


def attend(run: Run, training: Training, oom_kills_before: int) -> None:
    """Stay with a trainer until it has ended, and go on with what it left."""
    run.beats.start()
    with system.awake():
        ending = Watch(run, training).wait()
    run.log.close()
    conclude(run, ending, oom_killed=oom_kills() > oom_kills_before)


class Watch:
    """The watch over one trainer.

    Args:
        run: Its run.
        training: The trainer.
    """

    def __init__(self, run: Run, training: Training) -> None:
        self._run = run
        self._training = training
        self._stopped_s: float | None = None

    def wait(self) -> TrainerEnding:
        """Wait for the end of the trainer, and stop it when there is a reason to."""
        run, training = self._run, self._training
        seen_bytes, seen_s, tick_s = 0, run.elapsed_s(), 0.0
        floor = run.rules.min_free_bytes
        while not training.ended.is_set():
            run.wake.wait(tick_s)
            run.wake.clear()
            now_s, free_bytes = run.elapsed_s(), run.free_bytes()
            tick_s = NEAR_FLOOR_TICK_S if free_bytes < NEAR_FLOOR * floor else TICK_S
            if run.progress.poll(now_s) or run.log.size_bytes != seen_bytes:
                seen_bytes, seen_s = run.log.size_bytes, now_s
            if not training.guarded():
                sweep(run.folder.scratch)
            self._stop_if(run.wish or self._overdue(now_s, now_s - seen_s, full=free_bytes < floor))
            if self._unkillable():
                return TrainerEnding(error="a process of the trainer cannot be killed; restart this host")
        run.progress.poll(run.elapsed_s())
        return training.ending()

    def _unkillable(self) -> bool:
        stopped_s = self._stopped_s
        return stopped_s is not None and time.monotonic() - stopped_s > self._run.rules.grace_s + UNKILLABLE_S

    def _overdue(self, elapsed_s: float, quiet_s: float, *, full: bool) -> StopWish | None:
        limit_s, stall_s = self._run.state.lease.timeout_s, self._run.rules.stall_s
        if elapsed_s > limit_s:
            return StopWish("stop", Failure("timeout", f"stopped after its wall limit of {limit_s} s"))
        if stall_s and quiet_s > stall_s:
            said = f"stopped because it neither printed nor reported progress for {stall_s:g} s"
            return StopWish("abort", Failure("stalled", said))
        if full:
            floor_gib = self._run.rules.min_free_bytes / 2**30
            return StopWish("kill", Failure("disk_full", f"stopped because less than {floor_gib:g} GiB are free here"))
        return None

    def _stop_if(self, wish: StopWish | None) -> None:
        """Stop the trainer once; why stands on disk before, so that a worker started again knows it."""
        run, training = self._run, self._training
        if wish is not None and self._stopped_s is None:
            self._stopped_s = time.monotonic()
            run.save(stopped=wish.verdict)
            {"stop": training.stop, "abort": training.abort, "kill": training.kill}[wish.how]()
        if self._stopped_s is not None and (run.hurry or run.lost):
            training.kill()


def oom_kills() -> int:
    """Return how many processes the system has killed for want of memory since it started, 0 where it does not say.

    Source: Linux, /proc/vmstat, oom_kill.
    """
    try:
        text = Path("/proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)
