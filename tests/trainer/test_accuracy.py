"""Claims about the accuracy table, and the floors on real data."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from training.trainer import accuracy


def test_the_table_has_a_row_per_combination_and_calls_a_leak_a_leak(
    synthetic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(synthetic), "--seeds", "0,1", "--models", "mlp", "--modes", "oracle", "--threads", "1"]
    assert accuracy.main([*arguments, "--splits", "hosts,random"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1:4] for line in lines[2:4]] == [
        [" hosts ", " mlp ", " oracle "],
        [" random (leaks) ", " mlp ", " oracle "],
    ]
    assert lines[2].count(" ± ") == 6
    assert "looks" in lines[5]
    assert "That difference is a leak, not skill." in lines[5]


def test_the_table_is_written_between_the_markers(synthetic: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{accuracy.BEGIN}\nold\n{accuracy.END}\nafter\n")
    command = ["--data", str(synthetic), "--seeds", "3", "--models", "mlp", "--modes", "oracle", "--write", str(page)]
    assert accuracy.main(command) == 0
    text = page.read_text()
    assert text.startswith(f"before\n{accuracy.BEGIN}\n\n| split |")
    assert text.endswith(f"{accuracy.END}\nafter\n")
    assert "old" not in text
    assert "±" not in text


def test_a_page_without_markers_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.md").write_text("nothing")
    assert accuracy.main(["--data", str(tmp_path), "--write", str(tmp_path / "page.md")]) == 78
    assert "lacks the lines" in capsys.readouterr().err


def test_missing_data_end_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert accuracy.main(["--data", str(tmp_path)]) == 75
    assert capsys.readouterr().err.startswith("accuracy: dataset folder")


def test_a_job_that_fails_ends_the_table_with_its_reason(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (synthetic / "dataset.toml").read_text().replace('file = "synthetic.parquet"', 'file = "empty.csv"')
    (tmp_path / "dataset.toml").write_text(text)
    (tmp_path / "empty.csv").write_text("host\n")
    assert accuracy.main(["--data", str(tmp_path), "--seeds", "0", "--models", "mlp"]) == 75
    error = capsys.readouterr().err
    assert "accuracy: mlp realistic hosts seed 0 ended with 78: trainer: empty.csv lacks the columns" in error


def test_an_unknown_name_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        accuracy.main(["--data", "x", "--models", "gbt,svm"])
    assert caught.value.code == 2
    assert "found svm, expected gbt, mlp, cnn" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "mode", "floor"),
    [
        ("gbt", "oracle", 0.35),
        ("gbt", "realistic", 0.23),
        ("mlp", "oracle", 0.37),
        *((model, "oracle", 0.34) for model in ("cnn", "gru", "lstm", "tcn", "transformer")),
    ],
)
def test_the_floors_hold_on_hosts_never_seen(smd19: Path, model: str, mode: str, floor: float) -> None:
    arguments = ["--data", str(smd19), "--models", model, "--modes", mode]
    (row,) = accuracy.measured_rows(accuracy._options(arguments))
    assert statistics.fmean(entry["auprc_host_mean"] for entry in row["numbers"]) >= floor
