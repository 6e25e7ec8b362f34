"""The worker: one program per host that asks for jobs, runs their trainer and hands in the artifacts.

`program` is the command, `options` what can be set, `loop` the asking, `attempt` one job from start to end, `start`
what a trainer is started with, `beats` the heartbeats, `folder` what survives a crash, `progress`, `log` and `verdict`
what is read off a trainer; `process` keeps its processes together; `doctor` and `reach` are what is looked at when
something is wrong. Standard library only.
"""


def main() -> int:
    """Run the worker's command with the arguments of this process; see `program.main`."""
    # Not at the top: the shim of a trainer loads this package out of the single file, and must stay small for hours.
    from training.fleet.worker import program

    return program.main()
