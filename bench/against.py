"""This receiver against that of another checkout: `python -m bench.against FOLDER [ROUNDS]`.

For changes that should cost nothing, or little. Both run at once and take their load in turns, so that a slow moment of
the machine hits both; processor time is compared, because a machine with other work flatters nobody by it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import stage
from bench.stage import manifest, receiver, store_artifact
from bench.throughput import turn

SECONDS = 1.0
PAIRS_PER_S = 3500
"""More than a receiver answers here; the manifest has a job for each."""


def main(other: Path, rounds: int) -> None:
    """Print processor time of a pair, memory and processor time of a start, of both."""
    roots = {"other": other.resolve(), "this": stage.ROOT}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in roots}
    text, starts = manifest(int(PAIRS_PER_S * SECONDS * rounds)), dict[str, tuple[float, float]]()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        programs = {}
        for name, root in roots.items():
            with receiver(Path(folder) / f"{name}-empty", manifest(1000), root=root) as idle:
                starts[name] = idle.rss_mib(), idle.cpu_s()
            programs[name] = stack.enter_context(receiver(Path(folder) / name, text, root=root))
            artifact = store_artifact(programs[name])
        for number in range(rounds):
            for name in sorted(programs, reverse=number % 2 == 0):
                found[name].append(turn(programs[name], SECONDS, artifact))
    for name, results in found.items():
        cpu_us, rate = (statistics.median(one[key] for one in results) for key in ("cpu_us", "pairs_per_s"))
        print(
            f"{name}: {cpu_us:.0f} µs of processor time a pair, {rate:,.0f} pairs/s; after the start "
            f"{starts[name][0]:.1f} MiB and {starts[name][1]:.2f} s of processor time"
        )
    turns = list(zip(found["this"], found["other"], strict=True))
    for key, what in (("cpu_us", "processor time of a pair"), ("pairs_per_s", "pairs a second")):
        print(f"this against other, {what}: {statistics.median(this[key] / other[key] for this, other in turns):.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.against", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the other checkout")
    parser.add_argument("rounds", type=int, nargs="?", default=16, help="turns of each (default: 16)")
    given = parser.parse_args()
    main(given.folder, given.rounds)
