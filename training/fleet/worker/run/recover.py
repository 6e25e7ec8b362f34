"""The first step of a run that an earlier worker began.

A trainer whose worker died goes on under this one where its shim still waits for that; else its report tells how it
ended.
"""

from __future__ import annotations

from training.fleet.worker.process.ending import TrainerEnding, read_ending
from training.fleet.worker.process.local import running_s, sweep, take_over
from training.fleet.worker.run.deliver import conclude
from training.fleet.worker.run.run import Run, StopWish
from training.fleet.worker.run.watch import attend, oom_kills


def give_back(run: Run) -> None:
    """Give back a job whose trainer was never started."""
    run.failed("preempted", "the worker was restarted before the trainer ran")


def recover(run: Run) -> None:
    """Take over a trainer whose worker died, or find out what became of it."""
    run.log.go_on()
    shim, report = run.state.shim, run.folder.report
    training = run.training = take_over(shim, report, log=run.log.take, wake=run.wake.set)
    if training is None:
        sweep(run.folder.scratch)
        ending = read_ending(report) or TrainerEnding()
        run.log.take(ending.rest.encode("latin-1", "replace"))
        run.log.close()
        return conclude(run, ending)
    run.count_from(running_s(shim))
    if run.state.stopped is not None:
        run.wish = StopWish("stop", run.state.stopped)
    run.note("trainer taken over", after_s=round(run.elapsed_s()))
    return attend(run, training, oom_kills())
