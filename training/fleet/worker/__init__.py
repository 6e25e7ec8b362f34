"""The worker: one program per host that asks for jobs, runs their trainer and hands in the artifacts.

`program` is the command, `options` what can be set, `loop` the asking, `attempt` one job from start to end, `start`
what a trainer is started with, `beats` the heartbeats, `folder` what survives a crash, `progress`, `log` and `verdict`
what is read off a trainer; `doctor` and `reach` are what is looked at when something is wrong. Standard library only.
"""

from training.fleet.worker.program import main

__all__ = ["main"]
