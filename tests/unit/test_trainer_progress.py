"""Claims about the progress file."""

from __future__ import annotations

import json
from pathlib import Path

from training.trainer.exchange.progress import Progress


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_first_line_is_there_at_once(tmp_path: Path) -> None:
    with Progress(tmp_path / "progress.jsonl"):
        assert lines(tmp_path / "progress.jsonl") == [{"step": 0, "steps": 1000, "phase": "start", "metrics": {}}]


def test_steps_count_the_whole_job_and_never_fall(tmp_path: Path) -> None:
    with Progress(tmp_path / "progress.jsonl") as progress:
        progress.phase("fold 1/2", 0.1, 0.5)
        progress.report(0.5, {"validation_auprc": 0.25})
        progress.report(0.25)
        progress.report(7.0)
        progress.phase("fold 2/2", 0.4, 1.0)
    found = lines(tmp_path / "progress.jsonl")
    assert [line["step"] for line in found] == [0, 100, 300, 300, 500, 500]
    assert [line["phase"] for line in found][1:] == ["fold 1/2"] * 4 + ["fold 2/2"]
    assert found[2]["metrics"] == {"validation_auprc": 0.25}
