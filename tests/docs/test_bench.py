"""The benchmark works; its figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.figures import Figure, emit, table
from bench.load import spread
from bench.material import dataset_folder
from bench.sides import Sides, Took, in_turns
from bench.stage import manifest
from bench.training import figures_from
from training.fleet.manifest import parse
from training.trainer import hyper
from training.trainer.data.windows import feature_matrix

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    "row",
    [
        *("packing", "pairs", "crowd", "parked", "upload", "guessing", "describe"),
        *(pytest.param(row, marks=pytest.mark.slow) for row in ("windows", "gbt", "step")),
    ],
)
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


def test_a_ratio_is_the_middle_of_the_pairs_and_leaves_the_waiting_out() -> None:
    ours = [Took(wall_s=9.0, cpu_s=1.0), Took(wall_s=1.0, cpu_s=3.0), Took(wall_s=1.0, cpu_s=40.0)]
    sides = Sides(ours, [Took(wall_s=1.0, cpu_s=cpu_s) for cpu_s in (2.0, 2.0, 4.0)])
    assert sides.ratio == 1.5
    assert sides.beside() == "3 against 2 s of processor time, 1 against 1 s by the clock"
    assert sides.beside(10, "ms") == "300 against 200 ms of processor time, 100 against 100 ms by the clock"


def test_the_sides_take_turns_and_the_first_does_not_count() -> None:
    seen: list[str] = []
    sides = in_turns(lambda: seen.append("ours"), lambda: seen.append("reference"), 2)
    assert seen == ["ours", "reference"] * 3
    assert (len(sides.ours), len(sides.reference)) == (2, 2)


def test_figures_come_back_from_another_process_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    figures = [
        Figure("step", "gru", 1.1, "x", 1.15, note="beside"),
        Figure("windows", "loop", 7.0, "x", 5, larger=True),
    ]
    emit(figures)
    assert figures_from(b"a library's own line\n" + capsys.readouterr().out.encode()) == figures


@pytest.mark.needs_torch
def test_the_loop_of_the_bench_computes_what_the_trainer_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import material, preparing

    monkeypatch.setenv("CIS490_DATA", str(ROOT / "data" / "lab"))
    found = material.windows()
    sample = found.ends[::997]
    wanted = feature_matrix(found, history=True)[::997]
    assert preparing.looped_features(found, preparing.past_of(found), sample) == pytest.approx(
        wanted, rel=1e-5, abs=1e-5
    )


def test_a_dataset_that_is_not_there_is_replaced_by_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIS490_DATA", str(tmp_path))
    assert dataset_folder() == ROOT / "data" / "lab"
    (tmp_path / "dataset.toml").touch()
    assert dataset_folder() == tmp_path
