"""The manifest: the one file in which the operator says what is trained, where, and by which program.

Owns reading and checking it. Guarantees that all faults are found at once, each with its place, the value found and
what was expected; that nothing comes out of a file with a fault; and that the same bytes give the same jobs on every
platform and Python. Leaves applying it to `queue` and deciding who may run what to `placement`.

Positions count the `[[jobs]]` tables from 1, in faults and in entries alike.
"""

from __future__ import annotations

from training.fleet.manifest.child import Loaded, child_load
from training.fleet.manifest.declaration import declaration_of
from training.fleet.manifest.entries import Header, JobEntry, Manifest
from training.fleet.manifest.parse import MAX_JOBS, parse
from training.fleet.manifest.source import load

__all__ = [
    "MAX_JOBS",
    "Header",
    "JobEntry",
    "Loaded",
    "Manifest",
    "child_load",
    "declaration_of",
    "load",
    "parse",
]
