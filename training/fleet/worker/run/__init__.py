"""One lease in the hands of a worker: prepare its trainer, watch it, recover an earlier worker's, deliver the result.

`attempt` goes from step to step; `run` is what the steps hand on to each other.
"""
