"""The trainer's speed: each row is measured by a process of its own, with the variables that a run sets for itself.

The libraries behind a model are loaded in those processes alone, so the other rows run without them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.figures import Figure
from bench.stage import ROOT

_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def windows(_: Path, quick: bool) -> list[Figure]:
    """Make windows ready for a model, against loops over them."""
    return _measured("preparing", quick)


def gbt(_: Path, quick: bool) -> list[Figure]:
    """Train trees, against LightGBM called directly."""
    return _measured("boosting", quick)


def step(_: Path, quick: bool) -> list[Figure]:
    """Take the steps of every sequence model, against the same network in a bare loop."""
    return _measured("stepping", quick)


def describe(_: Path, quick: bool) -> list[Figure]:
    """Start the trainer's program for its declaration, in turns with a Python that does nothing."""
    ours, nothing = [], []
    for _turn in range(3 if quick else 25):
        ours.append(_started(["training/trainer/run.py", "--describe"]))
        nothing.append(_started(["-c", "pass"]))
    note = f"quickest {min(ours):.3g} s; Python alone {statistics.median(nothing):.3g} s"
    return [Figure("describe", "run.py --describe, p50", statistics.median(ours), "s", 0.3, note=note)]


def _measured(module: str, quick: bool) -> list[Figure]:
    command = [sys.executable, "-m", f"bench.{module}", *(["--quick"] if quick else [])]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **_THREADS}, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise RuntimeError(f"bench.{module} failed; its message stands above")
    return figures_from(done.stdout)


def figures_from(printed: bytes) -> list[Figure]:
    """Read the figures that `figures.emit` printed in another process."""
    return [Figure(**body) for body in json.loads(printed.splitlines()[-1])]


def _started(arguments: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun
