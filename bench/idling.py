"""What the fleet costs while nothing much happens."""

from __future__ import annotations

import time
from pathlib import Path

from bench.figures import Figure
from bench.stage import Load, manifest, receiver
from bench.waking import worker


def beats(folder: Path, quick: bool) -> list[Figure]:
    """Processor time of 10,000 workers beating every 30 s, at that rate for a while."""
    workers, seconds = (200, 1.0) if quick else (10_000, 20.0)
    rate = workers / 30
    with receiver(folder / "receiver", manifest(workers)) as real:
        driver = Load("beats", real, workers=workers, connections=64, rate=rate, seconds=seconds)
        driver.await_ready()
        before, begun = real.cpu_s(), time.perf_counter()
        found = driver.result()
        cores = (real.cpu_s() - before) / (time.perf_counter() - begun)
        rss = real.rss_mib()
    if found["wrong"]:
        raise RuntimeError(f"{found['wrong']} heartbeats were not answered with 200")
    note = f"{found['beats_per_s']:.0f} beats/s, p99 {found['p99_ms']:.1f} ms, {rss:.0f} MiB"
    return [Figure("beats", f"{workers:,} workers", cores, "cores", 0.3, 0.15, note=note)]


def memory(folder: Path, quick: bool) -> list[Figure]:
    """Resident memory of the receiver at rest, in the process that loaded the jobs and after a restart."""
    figures = []
    for jobs, floor, aim in ((1000, 64, 40), (2000 if quick else 100_000, 96, 48)):
        place = folder / f"receiver-{jobs}"
        for state, text in (("after loading them", manifest(jobs)), ("after a restart", None)):
            with receiver(place, text) as real:
                time.sleep(0.5 if quick else 3)
                before, begun = real.cpu_s(), time.perf_counter()
                time.sleep(0.5 if quick else 5)
                share = 100 * (real.cpu_s() - before) / (time.perf_counter() - begun)
                note = f"{share:.1f} % of a core"
                figures.append(
                    Figure("memory", f"{jobs:,} jobs, {state}", real.rss_mib(), "MiB", floor, aim, note=note)
                )
    return figures


def idle_worker(folder: Path, quick: bool) -> list[Figure]:
    """Resident memory and processor time of a worker that waits for a job."""
    nobody = manifest(1, hosts='allow_jobs = ["none"]')
    with receiver(folder / "receiver", nobody) as real, worker(folder / "worker", real, {}) as idle:
        time.sleep(3 if quick else 10)
        before, begun = idle.cpu_s(), time.perf_counter()
        time.sleep(1 if quick else 30)
        share = 100 * (idle.cpu_s() - before) / (time.perf_counter() - begun)
        rss = idle.rss_mib()
    return [
        Figure("idle worker", "resident memory", rss, "MiB", 30, 20),
        Figure("idle worker", "processor", share, "% of a core", 0.5, 0.1),
    ]
