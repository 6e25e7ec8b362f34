"""The example manifest as it is shipped: seven models in two modes, each trained once by a real fleet."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
from processes import Fleet, wait_until

from tests.helpers.todays_part import in_part, todays_part

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "data" / "lab"
EXAMPLE = (ROOT / "etc" / "training_manifest.toml.example").read_text()
MODELS = ("gbt", "mlp", "cnn", "gru", "lstm", "tcn", "transformer")
PARTS = 4
"""How many days train all of its models in short; on one day that takes over a minute of processor time."""
SHORT = {
    "gbt": "{ max_iter = 5, train_stride = 40, fold = 1 }",
    "mlp": "{ max_epochs = 1, train_stride = 40, fold = 1 }",
}
SHORT_SEQUENCE = "{ max_epochs = 1, epoch_windows = 256, fold = 1 }"


def _shortened(text: str) -> str:
    """Return the manifest with each job's training cut to next to nothing, and nothing else changed."""
    head, *jobs = re.sub(r"^hyper = .*\n", "", text, flags=re.MULTILINE).split("\n[[jobs]]\n")
    return head + "".join(f"\n[[jobs]]\nhyper = {SHORT.get(_model(job), SHORT_SEQUENCE)}\n{job}" for job in jobs)


def _model(job: str) -> str:
    found = re.search(r'^model = "(\w+)"$', job, re.MULTILINE)
    assert found is not None
    return found[1]


def _only(text: str, models: list[str]) -> str:
    """Return the manifest with the jobs of some models alone."""
    head, *jobs = text.split("\n[[jobs]]\n")
    kept = [job for job in jobs if _model(job) in models]
    return "\n[[jobs]]\n".join([head.replace("jobs = 14", f"jobs = {len(kept)}"), *kept])


def _demand_each_job_trained_once(folder: Path, manifest: str, limit_s: float, models: Sequence[str] = MODELS) -> None:
    count = 2 * len(models)
    with Fleet(folder, manifest) as fleet:
        fleet.start_receiver()
        fleet.start_worker("lab-server", "--dataset", f"lab={LAB}", "--slots", "2")
        wait_until("no job is left", lambda: not {"pending", "claimed", "running"} & set(fleet.counts()), limit_s)
        jobs = fleet.listed()
        assert [(job["status"], job["failure"]) for job in jobs] == [("completed", None)] * count
        assert [(job["model"], job["mode"]) for job in jobs] == list(product(models, ("realistic", "oracle")))
        for job in jobs:
            assert [attempt["outcome"] for attempt in fleet.asked("show", job["id"])["attempts"]] == ["completed"]
        artifacts = sorted(job["artifact"] for job in jobs)
        assert len(set(artifacts)) == count
        assert sorted(path.parent.name for path in (folder / "store").rglob("bundle.tar.zst")) == artifacts
        lines = (folder / "index.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["sha256"] for line in lines) == artifacts
        assert list((folder / "lab-server" / "resume").iterdir()) == []
        compared = fleet.asked("compare")["groups"]
        assert sorted(group["model"] for group in compared) == sorted(models)
        assert all(group["difference"]["seeds"] == [490] for group in compared)


@pytest.mark.needs_torch
def test_every_job_of_the_example_in_short_is_trained_once(tmp_path: Path, daily: bool) -> None:
    models = list(in_part(MODELS, todays_part(PARTS, daily)))
    _demand_each_job_trained_once(tmp_path, _only(_shortened(EXAMPLE), models), 600, models)


@pytest.mark.slow
@pytest.mark.needs_torch
def test_every_job_of_the_example_is_trained_once(tmp_path: Path) -> None:
    _demand_each_job_trained_once(tmp_path, EXAMPLE, 6 * 3600)


def _python_without_torch(folder: Path) -> str:
    """Make an environment with every package of this one but torch, and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip())
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("torch", "__editable__", "__pycache__")) and not (site / path.name).exists():
            (site / path.name).symlink_to(path)
    return str(python)


def test_a_worker_without_torch_never_gets_a_job_that_needs_it_and_why_says_so(tmp_path: Path) -> None:
    head, *jobs = _shortened(EXAMPLE).split("\n[[jobs]]\n")
    gbt, cnn = (next(job for job in jobs if _model(job) == model) for model in ("gbt", "cnn"))
    manifest = "\n[[jobs]]\n".join([head.replace("jobs = 14", "jobs = 2"), cnn.replace("prefer_cuda", "# "), gbt])
    with Fleet(tmp_path, manifest) as fleet:
        fleet.start_receiver()
        fleet.start_worker("plain", "--dataset", f"lab={LAB}", python=_python_without_torch(tmp_path / "python"))
        wait_until("the job that it can train is done", lambda: fleet.counts() == {"pending": 1, "completed": 1}, 120)
        wait_until("it asks for the next one", lambda: fleet.asked("workers")["workers"][-1]["state"] == "idle")
        (waiting,) = (job for job in fleet.listed() if job["status"] == "pending")
        assert (waiting["model"], fleet.asked("show", waiting["id"])["attempts"]) == ("cnn", [])
        (plain,) = (host for host in fleet.asked("why", waiting["id"])["hosts"] if host["host"] == "plain")
        assert plain["reasons"] == [{"constraint": "model", "wanted": "cnn", "found": "gbt, mlp"}]
