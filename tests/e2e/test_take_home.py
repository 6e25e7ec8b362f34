"""A model trained on one machine is fetched, judged and used on another, with Python and one file of the receiver."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from live_receiver import LiveReceiver

MANIFEST = """\
[manifest]
schema = 1
[hosts.default]
[datasets.lab]
[[jobs]]
model = "gbt"
mode = "oracle"
dataset = "lab"
split_recipe = "time"
hyper = { max_iter = 20, num_leaves = 7 }
"""


@dataclass(frozen=True)
class Laptop:
    """Another machine: its own home and working folder, with the command as one file and nothing else."""

    folder: Path
    receiver: str

    def run(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "CIS490_RECEIVER": self.receiver}
        done = subprocess.run(words, cwd=self.folder, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def jobs(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        # -I and -S: the standard library and this file, nothing else.
        return self.run(sys.executable, "-I", "-S", "cis490-jobs.pyz", *words, status=status)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Laptop]:
    """A laptop, after a real worker has trained the one job of a real receiver."""
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("laptop")
    with LiveReceiver(site, MANIFEST) as receiver:
        address = f"http://127.0.0.1:{receiver.port}"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CIS490_")}
        words = ["--receiver", address, "--name", "tower", "--work-dir", str(site / "work"), "--once"]
        worker = [sys.executable, "-m", "training.fleet.worker", *words, "--dataset", f"lab={root / 'data/lab'}"]
        done = subprocess.run(worker, cwd=root, env=environ, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "cis490-jobs.pyz").write_bytes(receiver.call("GET", "/v1/jobs.pyz").body)
        yield Laptop(folder, address)


def test_a_model_is_looked_at_fetched_unpacked_and_used_on_another_machine(laptop: Laptop, root: Path) -> None:
    job, _, _, artifact = laptop.jobs("best", "--split", "time").stdout.strip().split("\t")
    assert "# gbt, oracle mode, split time\n" in laptop.jobs("card", job).stdout
    laptop.jobs("get", job[:8], "-o", "mine")
    names = {path.name for path in (laptop.folder / "mine").iterdir()}
    assert {"model_card.md", "metrics.json", "bundle.tar.zst"} <= names
    found = json.loads((laptop.folder / "mine/metrics.json").read_text())
    assert (found["model"], found["split"]) == ("gbt", "time")
    # Without the trainer nothing is lost, and the line says where the bundle lies.
    said = laptop.jobs("get", job, "-o", "mine", "--unpack", status=1).stderr
    assert "found no trainer beside this command; the bundle is at mine/bundle.tar.zst" in said
    said = laptop.jobs("predict", job, "--data", "day.csv", status=1).stderr
    assert f"{artifact}/bundle.tar.zst" in said

    # With it, the same bundle scores a day and is unpacked: here the project is installed.
    predict = [sys.executable, str(root / "training/trainer/predict.py"), "--bundle", "mine/bundle.tar.zst"]
    done = laptop.run(*predict, "--data", str(root / "data/lab/lab.parquet"), "--out", "scores.csv")
    assert re.match(r"predict: [\d,]+ windows of 8 hosts, [\d,]+ alarms", done.stderr)
    whole = [sys.executable, str(root / "tools/cis490_jobs.py")]
    lab = str(root / "data/lab/lab.parquet")
    laptop.run(*whole, "predict", job, "--data", lab, "--out", "again.csv")
    assert (laptop.folder / "again.csv").read_bytes() == (laptop.folder / "scores.csv").read_bytes()
    laptop.run(*whole, "get", job, "-o", "mine", "--unpack")
    assert (laptop.folder / "mine/artifact/model.json").is_file()
    judged = json.loads(laptop.run(*whole, "evaluate", job, "--data", str(root / "data/lab"), "--json").stdout)
    assert judged["trained_on_it"] is True
