"""The benchmark: `python -m bench [--quick] [--json FILE] [ROW ...]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import crowd, depth, growth, guessing, idling, loading, throughput, training, uploads, waking
from bench.figures import Figure, machine, save, table
from bench.stage import fsync_p50_ms
from training.needs import demand_packages

ROWS: dict[str, Callable[[Path, bool], list[Figure]]] = {
    "packing": uploads.packing,
    "pairs": throughput.pairs,
    "slow-disk": throughput.slow_disk,
    "depth": depth.depth,
    "growth": growth.growth,
    "parked": waking.parked,
    "first-line": waking.first_line,
    "upload": uploads.upload,
    "manifest": loading.reload,
    "crowd": crowd.crowd,
    "beats": idling.beats,
    "guessing": guessing.guessing,
    "memory": idling.memory,
    "idle-worker": idling.idle_worker,
    "windows": training.windows,
    "gbt": training.gbt,
    "step": training.step,
    "describe": training.describe,
}
_NEEDED = ("starlette", "numpy", "lightgbm", "pyarrow", "msgspec", "uvicorn")
_TORCH = {"windows", "step"}
"""Rows whose programs need torch."""


def main(argv: list[str]) -> int:
    """Measure the named rows, or all, and print their table."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"any of {', '.join(ROWS)}; none means all")
    parser.add_argument("--quick", action="store_true", help="try that everything works; the figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--folder", type=Path, help="where to measure; its disk counts (default: a temporary folder)")
    options = parser.parse_args(argv)
    unknown = [row for row in options.rows if row not in ROWS]
    if unknown:
        parser.error(f"no row is called {unknown[0]!r}; expected any of {', '.join(ROWS)}")
    demand_packages(*_NEEDED)
    rows = options.rows or list(ROWS)
    if _TORCH & set(rows):
        demand_packages("torch")
    figures = []
    for row in rows:
        figures += _measured(row, options.folder, options.quick)
    print(f"{machine()}\n\n{table(figures)}")
    if options.json:
        save(figures, options.json)
    return 0


def _measured(row: str, folder: Path | None, quick: bool) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as place:
        print(f"{row}: fsync p50 {fsync_p50_ms(Path(place)):.2f} ms", file=sys.stderr)
        begun = time.monotonic()
        figures = ROWS[row](Path(place), quick)
    print(f"{row}: {time.monotonic() - begun:.0f} s\n{table(figures)}", file=sys.stderr)
    return figures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
