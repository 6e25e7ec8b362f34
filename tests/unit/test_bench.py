"""The benchmark works; its figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.figures import Figure, table
from bench.load import spread
from bench.stage import manifest
from training.fleet.manifest import parse
from training.trainer import hyper

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("row", ["packing", "pairs", "parked", "upload"])
def test_a_row_runs_to_its_end(tmp_path: Path, row: str) -> None:
    command = [sys.executable, "-m", "bench", row, "--quick", "--json", str(tmp_path / "out.json")]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["figures"]
    assert all(figure["verdict"] in ("", "aim", "floor", "below") for figure in found["figures"])
    assert f"| {found['figures'][0]['what']} |" in done.stdout


def test_an_unknown_row_is_refused_with_the_names_of_the_others() -> None:
    command = [sys.executable, "-m", "bench", "nonsense"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "expected any of packing, pairs" in done.stderr


@pytest.mark.parametrize(
    ("value", "larger", "verdict"),
    [(1.0, True, "aim"), (0.7, True, "floor"), (0.5, True, "below"), (0.5, False, "aim"), (1.1, False, "below")],
)
def test_a_figure_is_judged_by_its_floor_and_its_aim(value: float, larger: bool, verdict: str) -> None:
    floor, aim = (0.6, 1.0) if larger else (1.0, 0.6)
    assert Figure("row", "what", value, "x", floor, aim, larger).verdict == verdict


def test_a_figure_without_a_floor_is_not_judged() -> None:
    assert Figure("row", "what", 3.0, "MiB").verdict == ""
    assert table([Figure("row", "what", 3.0, "MiB")]).splitlines()[-1] == "| row | what | 3 MiB |  |  |  |  |"


def test_a_spread_tells_middle_edge_and_worst() -> None:
    found = spread([0.001 * number for number in range(1, 201)])
    assert found["p50_ms"] == pytest.approx(100.5)
    assert found["p99_ms"] == pytest.approx(199)
    assert found["worst_ms"] == pytest.approx(200)
    assert spread([]) == {"count": 0, "p50_ms": 0.0, "p99_ms": 0.0, "worst_ms": 0.0}


def test_the_manifest_of_the_bench_is_sound_and_its_jobs_differ() -> None:
    found = parse(manifest(3, first=5).encode(), hyper.describe())
    assert len({job.id for job in found.jobs}) == 3
    assert [job.spec.seed for job in found.jobs] == [5, 6, 7]
