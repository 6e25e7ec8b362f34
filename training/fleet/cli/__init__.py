"""The operator's command `cis490-jobs`: look at the fleet and change what the operator may change.

Owns the command line: its words, its output for people and for machines, its exit statuses. It speaks HTTP with the
receiver and runs on the standard library. Decisions and their words are the receiver's.
"""

from training.fleet.cli.program import main

__all__ = ["main"]
