"""The trainer in the guide is a whole one: its page's commands are typed, and its bytes repeat."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/guides/write-your-own-trainer.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the page's program and the data that its job names."""
    (tmp_path / "distance.py").write_text(re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE)[0])
    (tmp_path / "data").symlink_to(ROOT / "data")
    return tmp_path


def typed_lines(folder: Path) -> str:
    """Type the block of the page that needs no fleet, with the tests' Python, and return what it prints."""
    (block,) = [found for found in re.findall(r"(?ms)^```sh\n(.*?)^```$", PAGE) if "distance.py" in found]
    block = block.replace("python3", f"'{sys.executable}'")
    done = subprocess.run(["sh", "-ec", block], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_trainer_of_the_guide_trains_and_its_bytes_repeat(folder: Path) -> None:
    said = [json.loads(typed_lines(folder))]
    first = {path.name: path.read_bytes() for path in (folder / "run/artifact").iterdir()}
    (folder / "run").rename(folder / "first")
    said.append(json.loads(typed_lines(folder)))
    assert said[0] == said[1]
    assert said[0]["status"] == "done"
    assert 0.5 < said[0]["metrics"]["auroc"] < 1
    assert {path.name: path.read_bytes() for path in (folder / "run/artifact").iterdir()} == first
    assert set(first) == {"model.json", "metrics.json", "model_card.md"}
    steps = [json.loads(line)["step"] for line in (folder / "run/progress.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize("change", [{"hyper": {"powr": 1}}, {"split_recipe": "time"}])
def test_the_trainer_of_the_guide_refuses_a_job_that_is_wrong_everywhere(
    folder: Path, change: dict[str, object]
) -> None:
    spec = {
        "model": "distance",
        "mode": "oracle",
        "hyper": {},
        "split_recipe": "hosts",
        "train_hosts": ["*"],
        "seed": 1,
    }
    job = {"v": 1, "spec": {**spec, **change}, "dataset": {"path": "data/lab"}}
    (folder / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "distance.py", "--validate", "--job", "job.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (78, 1)


def test_the_guide_declares_what_a_manifest_is_checked_by(folder: Path) -> None:
    command = [sys.executable, "-S", "distance.py", "--describe"]
    told = json.loads(subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout)
    assert told["headline_metric"] == {"name": "auroc", "direction": "higher"}
    assert told["$defs"]["distance"]["additionalProperties"] is False
