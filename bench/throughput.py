"""Claim and complete under load: against both references, and on a disk that takes 10 ms to sync."""

from __future__ import annotations

import statistics
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import statements
from bench.figures import Figure
from bench.stage import Program, fsync_p50_ms, load, manifest, receiver, reference, store_artifact

CONNECTIONS = 16
SLOW_SYNC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static void rest(void) { struct timespec t = {0, 10 * 1000 * 1000}; nanosleep(&t, 0); }
int fsync(int fd) { rest(); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
int fdatasync(int fd) { rest(); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
"""


def pairs(folder: Path, quick: bool) -> list[Figure]:
    """Pairs a second against both references, in turns on one disk; latency of the receiver."""
    rounds, seconds = (1, 1.0) if quick else (20, 1.5)
    found = _in_turns(folder, ("naive", "grouped"), rounds, seconds, {})
    real, note = found["receiver"], f"fsync p50 {fsync_p50_ms(folder):.2f} ms"
    figures = [
        Figure("pairs", f"receiver against {name}", ratio, "x", floor, aim, True, f"{_rates(found, name)}; {note}")
        for name, ratio, floor, aim in (
            ("grouped", _ratio(found, "grouped"), 0.6, 1.0),
            ("naive", _ratio(found, "naive"), 2.0, None),
        )
    ]
    total = rounds * seconds
    p99, worst = _p99_ms(real), max(result["worst_ms"] for result in real)
    figures += [
        Figure(
            "p99",
            "p99 of a request",
            p99,
            "ms",
            10,
            4,
            note=f"grouped {_p99_ms(found['grouped']):.1f}, naive {_p99_ms(found['naive']):.1f} ms",
        ),
        Figure("p99", f"worst request in {total:g} s", worst, "ms", 100, 50, note=note),
        Figure(
            "pairs", "processor time of a pair", _cpu_us(real), "µs", note=f"grouped {_cpu_us(found['grouped']):.0f}"
        ),
        Figure("pairs", "load driver", max(result["driver_cores"] for result in real), "cores"),
    ]
    return figures


def slow_disk(folder: Path, quick: bool) -> list[Figure]:
    """The same load with 10 ms added to every sync of the receiver and of the grouped reference."""
    source, library = folder / "slow_sync.c", folder / "slow_sync.so"
    source.write_text(SLOW_SYNC)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    rounds, seconds = (1, 1.0) if quick else (8, 1.5)
    found = _in_turns(folder, ("grouped",), rounds, seconds, {"LD_PRELOAD": str(library)})
    ratio = _ratio(found, "grouped")
    return [
        Figure("slow disk", "receiver against grouped", ratio, "x", 0.6, 1.0, True, _rates(found, "grouped")),
        Figure("slow disk", "p99 of a request", _p99_ms(found["receiver"]), "ms"),
    ]


def _in_turns(
    folder: Path, names: tuple[str, ...], rounds: int, seconds: float, environ: dict[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """Give each program its turn of load, round after round, so that a slow moment of the disk hits all."""
    jobs = int(6000 * rounds * seconds)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in (*names, "receiver")}
    with ExitStack() as stack:
        programs: dict[str, Program] = {}
        for name in names:
            path = folder / f"{name}.db"
            statements.fill(path, jobs)
            programs[name] = stack.enter_context(reference(name, str(path), environ=environ))
        text = manifest(min(jobs, 200_000))
        programs["receiver"] = stack.enter_context(receiver(folder / "receiver", text, environ))
        artifact = store_artifact(programs["receiver"])
        for _ in range(rounds):
            for name, program in programs.items():
                found[name].append(turn(program, seconds, artifact))
    return found


def turn(program: Program, seconds: float, artifact: str) -> dict[str, Any]:
    """Give one program its load; the processor time it took comes with the result."""
    before = program.cpu_s()
    result = load("pairs", program, connections=CONNECTIONS, seconds=seconds, artifact=artifact)
    return {**result, "cpu_us": 1e6 * (program.cpu_s() - before) / (result["count"] / 2)}


def _p99_ms(results: list[dict[str, Any]]) -> float:
    """Return the median over the rounds of the 99th percentile."""
    return statistics.median(float(result["p99_ms"]) for result in results)


def _cpu_us(results: list[dict[str, Any]]) -> float:
    return statistics.median(float(result["cpu_us"]) for result in results)


def _ratio(found: dict[str, list[dict[str, Any]]], name: str) -> float:
    """Return the median over the rounds of receiver against a reference."""
    turns = zip(found["receiver"], found[name], strict=True)
    return statistics.median(float(real["pairs_per_s"] / other["pairs_per_s"]) for real, other in turns)


def _rates(found: dict[str, list[dict[str, Any]]], name: str) -> str:
    rates = (statistics.median(result["pairs_per_s"] for result in found[key]) for key in ("receiver", name))
    return "{:,.0f} against {:,.0f} pairs/s".format(*rates)
