"""Reloading a manifest of 100,000 jobs while workers go on claiming."""

from __future__ import annotations

import time
from pathlib import Path

from bench.figures import Figure
from bench.stage import Load, Program, call, fsync_p50_ms, manifest, receiver, store_artifact

CLAIMING = 4
"""Connections that claim and complete meanwhile."""
SECONDS = {"first": 6.0, "unchanged": 1.0, "one changed": 2.0}
"""How long they do so: about as long as the reload takes."""


def reload(folder: Path, quick: bool) -> list[Figure]:
    """First load, unchanged, one changed; each with and without claims going on."""
    jobs = 20_000 if quick else 100_000
    before = jobs // 4
    place = folder / "receiver"
    figures = []
    with receiver(place, manifest(before)) as real:
        artifact = store_artifact(real)
        steps = (
            ("first", manifest(jobs), 10.0, 6.0),
            ("unchanged", None, 0.05, 0.02),
            ("one changed", manifest(jobs).replace("seed = 3\n", "seed = 3\npriority = 5\n", 1), 4.0, 2.0),
        )
        for name, text, floor, aim in steps:
            if text is not None:
                (place / "manifest.toml").write_text(text)
            took, latency = _reload_under_load(real, artifact, name, 1.0 if quick else SECONDS[name])
            figures += [
                Figure("manifest", f"{name}, {jobs:,} jobs", took, "s", floor, aim, note="while jobs are claimed"),
                Figure("manifest", f"p99 of claims, {name}", latency["p99_ms"], "ms", 20, 20, note=_worst(latency)),
            ]
            (place / "manifest.toml").touch()
            if name == "unchanged":
                figures.append(Figure("manifest", "unchanged, nobody claims", _reload(real), "s", 0.05, 0.02))
        figures.append(Figure("manifest", "memory afterwards", real.rss_mib(), "MiB"))
    return [*figures, Figure("manifest", "fsync p50", fsync_p50_ms(folder), "ms")]


def _worst(latency: dict[str, float]) -> str:
    return f"p50 {latency['p50_ms']:.1f}, worst {latency['worst_ms']:.1f} ms of {latency['count']}"


def _reload(real: Program) -> float:
    begun = time.perf_counter()
    call(real, "POST", "/v1/manifest/reload", {})
    return time.perf_counter() - begun


def _reload_under_load(real: Program, artifact: str, name: str, seconds: float) -> tuple[float, dict[str, float]]:
    """Reload while a driver claims; its measured time covers the reload and little more."""
    driver = Load(
        "pairs", real, connections=CLAIMING, seconds=seconds, artifact=artifact, prefix=name.replace(" ", "-")
    )
    driver.await_ready()
    took = _reload(real)
    return took, driver.result()
