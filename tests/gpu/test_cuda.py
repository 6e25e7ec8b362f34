"""Claims that only a host with a CUDA card can prove: `scripts/test.sh -- tests/gpu` there.

The card's memory is taken by a child process where a test needs it taken, and looked at with nvidia-smi.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "data" / "lab"
SEQUENCE_MODELS = ("cnn", "gru", "lstm", "tcn", "transformer")
SMALL = {"max_epochs": 3, "epoch_windows": 2000, "patience": 3}
HOLD = """
import sys, torch
free, _ = torch.cuda.mem_get_info()
taken = torch.empty(free - int(sys.argv[1]), dtype=torch.uint8, device="cuda")
print("taken", flush=True)
sys.stdin.read()
"""


def _usable() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return shutil.which("nvidia-smi") is not None and torch.cuda.is_available()


pytestmark = pytest.mark.skipif(not _usable(), reason="no usable CUDA card on this host")


def card(*fields: str) -> list[str]:
    """What nvidia-smi says of the first card."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    return [part.strip() for part in out.splitlines()[0].split(",")]


def used_mib() -> int:
    return int(card("memory.used")[0])


def wait_until(what: str, holds: Callable[[], Any], limit_s: float = 120.0) -> Any:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {limit_s} s: {what}")


def job(folder: Path, model: str, hyper: dict[str, Any], **changes: Any) -> Path:
    """Write a job for the card and return its path."""
    spec = {"model": model, "mode": "oracle", "hyper": hyper, "split_recipe": "time", "train_hosts": ["*"], "seed": 490}
    dataset = {"name": "lab", "path": str(LAB), "digest": None}
    document = {"v": 1, "job_id": "ab" * 32, "spec": spec, "dataset": dataset, "threads": 1, "device": "cuda"}
    path = folder / f"{model}.json"
    path.write_text(json.dumps(document | {"resume": None} | changes))
    return path


def command(job_file: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "training.trainer.run", "--job", str(job_file), "--out", str(out)]


def train(job_file: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(job_file, out), check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "artifact").iterdir())}


@contextmanager
def taken_but(free_bytes: int) -> Iterator[None]:
    """All of the card's memory is another program's, but for this much."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(free_bytes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"taken\n"
    try:
        yield
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.parametrize("model", SEQUENCE_MODELS)
def test_the_same_job_gives_the_same_bytes_on_the_card(tmp_path: Path, model: str) -> None:
    for name in ("one", "two"):
        done = train(job(tmp_path, model, SMALL), tmp_path / name)
        assert done.returncode == 0, done.stderr
    assert content(tmp_path / "one") == content(tmp_path / "two")
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    assert result["device"] == "cuda"
    assert result["metrics"]["auroc"] > 0.5
    provenance = json.loads((tmp_path / "one" / "artifact" / "provenance.json").read_text())
    assert card("name")[0] in json.dumps(provenance), provenance


@pytest.mark.parametrize("model", ["cnn", "transformer"])
def test_a_run_killed_on_the_card_goes_on_to_the_same_bytes(tmp_path: Path, model: str) -> None:
    hyper = SMALL | {"max_epochs": 12, "patience": 12}
    assert train(job(tmp_path, model, hyper), tmp_path / "whole").returncode == 0
    resume = tmp_path / "resume"
    again = job(tmp_path, model, hyper, resume=str(resume), checkpoint_s=0)
    process = subprocess.Popen(command(again, tmp_path / "cut"), cwd=ROOT)
    wait_until("a checkpoint is there", lambda: list(resume.glob("*.safetensors")))
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert train(again, tmp_path / "cut").returncode == 0
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_sixteen_bits_train_as_well_and_are_another_model(tmp_path: Path) -> None:
    found = {}
    for name, half in (("full", False), ("half", True)):
        folder = tmp_path / name
        folder.mkdir()
        done = train(job(folder, "transformer", SMALL | {"mixed_precision": half}), folder / "out")
        assert done.returncode == 0, done.stderr
        found[name] = json.loads((folder / "out" / "result.json").read_text())["metrics"]["auroc"]
    assert found["half"] == pytest.approx(found["full"], abs=0.05)
    assert (
        content(tmp_path / "half" / "out")["model.safetensors"]
        != content(tmp_path / "full" / "out")["model.safetensors"]
    )


def test_a_card_without_room_is_told_as_oom_gpu(tmp_path: Path) -> None:
    with taken_but(600 * 2**20):
        done = train(job(tmp_path, "transformer", SMALL | {"batch_rows": 65536, "patch": 1}), tmp_path / "out")
    assert done.returncode == 75, done.stderr
    assert json.loads((tmp_path / "out" / "result.json").read_text())["kind"] == "oom_gpu"
    assert "min_vram_gib" in done.stderr
    assert "Traceback" not in done.stderr


class Site:
    """A receiver and a worker with a job that needs the card."""

    def __init__(self, folder: Path, hyper: dict[str, Any]) -> None:
        self.folder = folder
        words = ", ".join(f"{key} = {json.dumps(value)}" for key, value in hyper.items())
        (folder / "manifest.toml").write_text(
            "[manifest]\nschema = 1\njobs = 1\n[datasets.lab]\n[hosts.tower]\n[[jobs]]\n"
            f'model = "transformer"\nmode = "oracle"\ndataset = "lab"\nsplit_recipe = "time"\n'
            f"require_cuda = true\nmin_vram_gib = 4\nhyper = {{ {words} }}\n"
        )
        self.environ = {**os.environ, "CIS490_OPERATOR_TOKEN": "operator-of-the-test"}
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{arguments[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=ROOT, env=self.environ, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def start_receiver(self) -> None:
        places = ("db", "store-root", "incoming-root", "index-path")
        paths = [part for place in places for part in (f"--{place}", str(self.folder / place))]
        quick = ("--heartbeat-s", "0.3", "--lease-s", "20", "--ack-s", "20", "--backoff-s", "0.1")
        manifest = ("--manifest", str(self.folder / "manifest.toml"))
        self.start("training.fleet.receiver", "--listen-addr", "127.0.0.1:18490", *manifest, *paths, *quick)
        wait_until("the receiver answers", lambda: self.jobs("status").returncode == 0)

    def start_worker(self) -> subprocess.Popen[bytes]:
        where = ("--receiver", "http://127.0.0.1:18490", "--work-dir", str(self.folder / "work"))
        return self.start("training.fleet.worker", "--name", "tower", *where, "--dataset", f"lab={LAB}")

    def jobs(self, *words: str) -> subprocess.CompletedProcess[str]:
        environ = self.environ | {"CIS490_RECEIVER": "http://127.0.0.1:18490"}
        return subprocess.run(
            [sys.executable, "tools/cis490_jobs.py", *words],
            check=False,
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def job(self) -> dict[str, Any]:
        answer = json.loads(self.jobs("list", "--json").stdout)
        found: dict[str, Any] = (answer["jobs"] if isinstance(answer, dict) else answer)[0]
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, {"max_epochs": 60, "patience": 60, "epoch_windows": 4000})
    yield made
    for process in reversed(made.processes):
        process.kill()
        process.wait()


def test_a_killed_worker_leaves_no_memory_of_the_card_taken_and_its_job_completes(site: Site) -> None:
    before = used_mib()
    site.start_receiver()
    worker = site.start_worker()
    wait_until("the trainer is on the card", lambda: site.job()["status"] == "running" and used_mib() > before + 200)
    worker.kill()
    worker.wait()
    wait_until("the card is free again", lambda: used_mib() <= before + 16, 20)
    site.start_worker()
    wait_until("the job is completed", lambda: site.job()["status"] == "completed", 240)
    assert site.job()["host"] == "tower"
    (host,) = json.loads(site.jobs("workers", "--json").stdout)["workers"]
    assert card("name")[0] in json.dumps(host)
    assert card("uuid")[0] in json.dumps(host)


def test_a_job_waits_while_something_else_uses_the_card_and_why_says_so(site: Site) -> None:
    with taken_but(2 * 2**30):
        site.start_receiver()
        site.start_worker()
        asked = lambda: site.jobs("why", site.job()["id"][:12]).stdout  # noqa: E731
        wait_until("why names the card", lambda: "gpu_busy" in asked())
        assert site.job()["status"] == "pending"
    wait_until("the job is taken once the card is free", lambda: site.job()["status"] == "running")


def test_the_self_test_tells_the_card_and_how_much_of_it_is_taken() -> None:
    look = [sys.executable, "-m", "training.fleet.worker", "--self-test", "--json"]
    free = json.loads(subprocess.run(look, check=False, cwd=ROOT, capture_output=True, text=True).stdout)
    gpu = free["capability"]["gpus"][0]
    name, uuid, total, driver = card("name", "uuid", "memory.total", "driver_version")
    assert (gpu["name"], gpu["uuid"], gpu["driver"]) == (name, uuid, driver)
    assert abs(gpu["vram_bytes"] / 2**20 - int(total)) < 1024
    assert free["capability"]["cuda_usable"] is True
    with taken_but(2 * 2**30):
        taken = json.loads(subprocess.run(look, check=False, cwd=ROOT, capture_output=True, text=True).stdout)
    assert "is in use" in json.dumps(taken["capability"])
