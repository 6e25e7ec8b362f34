"""Two hundred workers at once for a minute: latency, answers and memory of the receiver."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.figures import Figure
from bench.stage import Load, fsync_p50_ms, manifest, receiver


def crowd(folder: Path, quick: bool) -> list[Figure]:
    """Claims of 200 workers that train 10,000 jobs in a minute, each with its uploads and heartbeats."""
    workers, jobs, seconds = (20, 200, 2.0) if quick else (200, 10_000, 60.0)
    sync_ms, load_1 = fsync_p50_ms(folder), os.getloadavg()[0]
    with receiver(folder / "receiver", manifest(jobs)) as real:
        driver = Load("crowd", real, workers=workers, jobs=jobs, seconds=seconds)
        driver.await_ready()
        before, begun = real.cpu_s(), time.perf_counter()
        memory = []
        for part in (1 / 6, 1 / 2, 1):
            time.sleep(max(0.0, begun + part * seconds - time.perf_counter()))
            memory.append((part * seconds, real.rss_mib()))
        found = driver.result()
        cores = (real.cpu_s() - before) / (time.perf_counter() - begun)
    statuses: dict[str, int] = found["statuses"]
    faults = sum(count for name, count in statuses.items() if not name.endswith((" 200", " 201", " 204")))
    claims = found["claims"]
    beside = f"p50 {claims['p50_ms']:.1f}, worst {claims['worst_ms']:.1f} ms of {claims['count']}; load {load_1:.1f}"
    growth = ", ".join(f"{rss:.1f} MiB at {at:.0f} s" for at, rss in memory)
    return [
        Figure("crowd", f"p99 of a claim, {workers} workers", claims["p99_ms"], "ms", 50, 20, note=beside),
        Figure("crowd", "p99 of the other requests", found["p99_ms"], "ms", note=f"fsync p50 {sync_ms:.2f} ms"),
        Figure("crowd", "requests", found["per_s"], "1/s", note=f"{cores:.2f} cores, {found['seconds']:.0f} s"),
        Figure("crowd", "answers that are no success", faults, "", 0, 0, note=f"{sum(statuses.values())} answers"),
        Figure("crowd", "memory at the end", memory[-1][1], "MiB", 256, 64, note=growth),
    ]
