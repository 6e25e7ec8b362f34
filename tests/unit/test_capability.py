"""Detection with stand-in tools on the path and stand-in libraries in a folder; no GPU is needed."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from training.fleet.capability import checkout, child, limits
from training.fleet.capability import detect as detection
from training.fleet.capability.detect import detect, refresh
from training.fleet.model.capability import Capability, Datasets, Problem
from training.fleet.model.errors import ConfigurationError
from training.trainer import hyper

CARD = "NVIDIA RTX 3060, GPU-11111111-2222, 12288, 11000, 560.35"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in front of this process's and its children's modules."""
    folder = tmp_path / "lib"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    names = ("torch", "pynvml", "psutil")
    known = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield folder
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(known)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python in which torch is not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr("training.fleet.capability.libraries.torch_version", lambda: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))


def script(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def fake_torch(folder: Path, body: str) -> None:
    (folder / "torch.py").write_text(f'__version__ = "9.9.9"\n{body}\n')


WORKING = """
class cuda:
    is_available = staticmethod(lambda: True)
class Two:
    def __init__(self, n=2.0): self.n = n
    def __mul__(self, other): return Two(self.n * other)
    def sum(self): return self.n
def ones(n, device): return Two()
"""


@pytest.mark.usefixtures("no_torch")
def test_a_host_without_anything_gets_a_clean_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = detect(tmp_path)
    assert (found.gpus, found.cuda_present, found.cuda_usable, found.torch_version) == ((), False, False, None)
    assert (found.revision, found.dirty) == (None, None)
    assert found.problems == ()
    assert found.cpu_count >= 1
    assert found.ram_bytes > 2**28
    assert found.free_disk_bytes > 0
    assert found.os == "linux"
    assert found.version == "0.1.0"


def test_cards_are_read_from_the_drivers_tool(tmp_path: Path, tools: Path) -> None:
    script(tools, "nvidia-smi", f'echo "{CARD}"; echo "$@" >> {tmp_path}/asked')
    [gpu] = detect(tmp_path).gpus
    assert (gpu.name, gpu.uuid, gpu.driver) == ("NVIDIA RTX 3060", "GPU-11111111-2222", "560.35")
    assert (gpu.vram_bytes, gpu.free_vram_bytes) == (12288 * 2**20, 11000 * 2**20)
    assert "--format=csv,noheader,nounits" in (tmp_path / "asked").read_text()


@pytest.mark.usefixtures("no_torch")
def test_a_card_without_torch_is_present_but_not_usable(tmp_path: Path, tools: Path) -> None:
    script(tools, "nvidia-smi", f'echo "{CARD}"')
    found = detect(tmp_path)
    assert (found.cuda_present, found.cuda_usable) == (True, False)
    assert found.problems == ("a CUDA card is there but torch is not, so CUDA counts as not usable",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("echo broken driver; exit 9", "GPU tool: nvidia-smi ended with status 9: broken driver"),
        ("kill -9 $$", "GPU tool: nvidia-smi was killed by signal 9: it printed nothing"),
        ("echo rubbish", "GPU tool: nvidia-smi printed 'rubbish'; expected"),
    ],
)
def test_a_broken_tool_is_a_problem_and_no_card(tmp_path: Path, tools: Path, text: str, problem: str) -> None:
    script(tools, "nvidia-smi", text)
    found = detect(tmp_path)
    assert found.gpus == ()
    assert found.problems[0].startswith(problem)


def test_a_tool_that_hangs_is_given_up(tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "TOOL_TIMEOUT_S", 0.1)
    script(tools, "nvidia-smi", "exec sleep 60")
    assert detect(tmp_path).problems[0].startswith("GPU tool: nvidia-smi did not end within 0.1 s and was killed")


def test_a_tool_that_cannot_be_started_is_a_problem(tmp_path: Path, tools: Path) -> None:
    (tools / "nvidia-smi").write_bytes(b"\0\0")
    (tools / "nvidia-smi").chmod(0o755)
    assert detect(tmp_path).problems[0].startswith("GPU tool: nvidia-smi could not be started")


def test_a_card_that_does_not_tell_its_memory_is_a_problem(tmp_path: Path, tools: Path) -> None:
    script(tools, "nvidia-smi", 'echo "GB10, GPU-1, [N/A], [N/A], 580"')
    found = detect(tmp_path)
    assert found.gpus[0].vram_bytes == 0
    assert "GPU memory of card 0 (GB10) is unknown; declare vram_gib of this host in the manifest" in found.problems


NVML = """
class Memory: total, free = 8 * 2**30, 7 * 2**30
def nvmlInit(): {init}
def nvmlShutdown(): pass
def nvmlSystemGetDriverVersion(): return b"550.1"
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(i): return i
def nvmlDeviceGetMemoryInfo(h): return Memory
def nvmlDeviceGetName(h): return "RTX 2070"
def nvmlDeviceGetUUID(h): return b"GPU-9"
"""


def test_nvml_is_asked_first_when_its_binding_is_installed(tmp_path: Path, libraries: Path) -> None:
    (libraries / "pynvml.py").write_text(NVML.format(init="pass"))
    [gpu] = detect(tmp_path).gpus
    assert (gpu.name, gpu.uuid, gpu.driver, gpu.vram_bytes) == ("RTX 2070", "GPU-9", "550.1", 8 * 2**30)


def test_without_a_working_nvml_the_tool_is_asked(tmp_path: Path, libraries: Path, tools: Path) -> None:
    (libraries / "pynvml.py").write_text(NVML.format(init="raise RuntimeError('no driver')"))
    script(tools, "nvidia-smi", f'echo "{CARD}"')
    found = detect(tmp_path)
    assert found.gpus[0].name == "NVIDIA RTX 3060"
    assert "GPU library: NVML does not work (no driver)" in found.problems[0]


def test_cuda_counts_as_usable_when_torch_computes_on_it(tmp_path: Path, libraries: Path, tools: Path) -> None:
    fake_torch(libraries, WORKING)
    script(tools, "nvidia-smi", f'echo "{CARD}"')
    found = detect(tmp_path)
    assert (found.torch_version, found.cuda_usable, found.problems) == ("9.9.9", True, ())


@pytest.mark.parametrize(
    ("body", "version", "problem"),
    [
        ("import os; os._exit(3)", None, "the probe of torch ended with status 3: it printed nothing"),
        ("import os; os.kill(os.getpid(), 11)", None, "the probe of torch was killed by signal 11"),
        ("import time; time.sleep(60)", None, "the probe of torch did not end within 0.5 s and was killed"),
        ("raise ImportError('libcudart.so is missing')", None, "ImportError: libcudart.so is missing"),
        ("print('cis490-probe {rubbish')\nimport sys; sys.exit(0)", None, "rubbish on its output"),
        ("print(bytes(range(256)))", "9.9.9", "torch is there but CUDA does not work: AttributeError"),
    ],
)
def test_a_torch_that_crashes_hangs_or_prints_rubbish_is_a_problem(
    tmp_path: Path, libraries: Path, tools: Path, body: str, version: str | None, problem: str
) -> None:
    fake_torch(libraries, body)
    script(tools, "nvidia-smi", f'echo "{CARD}"')
    found = detect(tmp_path, probe_timeout_s=0.5 if "sleep" in body else 20)
    assert (found.torch_version, found.cuda_usable) == (version, False)
    assert any(problem in text for text in found.problems), found.problems


def test_without_a_card_torch_is_not_loaded_and_its_papers_tell_its_version(
    tmp_path: Path, libraries: Path, tools: Path
) -> None:
    fake_torch(libraries, f"open({str(tmp_path / 'loaded')!r}, 'w')")
    (libraries / "version.py").write_text("__version__ = '8.7.6'\ncuda: Optional[str] = None\n")
    papers = libraries / "torch-8.7.6.dist-info"
    papers.mkdir()
    (papers / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 8.7.6\n")
    found = detect(tmp_path)
    assert (found.torch_version, found.cuda_usable, found.problems) == ("8.7.6", False, ())
    assert not (tmp_path / "loaded").exists()


def test_the_revision_of_a_checkout_and_its_changes_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *settings, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(checkout, "CHECKOUT", tmp_path)
    git("init", "-q")
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "x.py").write_text("1")
    git("add", "-A")
    git("commit", "-q", "-m", "x")
    found = detect(tmp_path)
    assert (found.revision, found.dirty) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "training" / "x.py").write_text("2")
    assert detect(tmp_path).dirty is True


def test_a_broken_checkout_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkout, "CHECKOUT", tmp_path)
    (tmp_path / ".git").mkdir()
    found = detect(tmp_path)
    assert found.revision is None
    assert "so the revision is unknown" in found.problems[0]


def test_the_own_trainers_models_and_contract_are_reported(tmp_path: Path) -> None:
    from training.trainer.hyper import contract_digest, describe

    found = detect(tmp_path)
    assert found.contract == contract_digest(describe())
    assert found.models is not None
    assert "gbt" in found.models


def test_a_host_without_the_trainer_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "training.trainer.hyper", None)
    monkeypatch.setitem(sys.modules, "training.trainer", None)
    found = detect(tmp_path)
    assert (found.contract, found.models) == (None, None)
    assert found.problems == ("this host has no trainer of its own; only manifests with another trainer run here",)


def test_the_hosts_own_name_becomes_a_valid_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "GPU Tower!.lab.example")
    assert detect(tmp_path).hostname == "gpu-tower"
    monkeypatch.setattr(socket, "gethostname", lambda: "---")
    assert detect(tmp_path).hostname == "unnamed"


def test_a_given_name_is_lowered_and_checked(tmp_path: Path) -> None:
    assert detect(tmp_path, name="Box-1").hostname == "box-1"
    with pytest.raises(ConfigurationError, match="found the host name 'a b'"):
        detect(tmp_path, name="a b")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({"cpu.max": "1 0"}, 64),
        ({}, 64),
    ],
)
def test_the_control_group_limits_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert detection.usable_cores() == cores


def test_without_affinity_all_cores_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert detection.usable_cores() == 1


def test_the_control_group_limits_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1073741824\n")
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    assert detect(tmp_path).ram_gib == 1


def test_without_sysconf_psutil_is_asked(tmp_path: Path, libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    assert "the amount of memory is unknown; install psutil on this host" in detect(tmp_path).problems
    (libraries / "psutil.py").write_text("class M: total = 2**33\ndef virtual_memory(): return M\n")
    assert detect(tmp_path).ram_gib == 8


def test_a_system_without_os_release_still_has_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> dict[str, str]:
        raise OSError

    monkeypatch.setattr("platform.freedesktop_os_release", missing)
    assert detect(tmp_path).os_version


def make_dataset(folder: Path) -> None:
    folder.mkdir()
    (folder / "data.csv").write_text("host,cpu,label\na,1,0\n")
    (folder / "dataset.toml").write_text(
        'schema = 1\n[dataset]\nname = "lab"\nfile = "data.csv"\n[roles]\nhost = "host"\nlabel = "label"\n'
        '[features]\nrealistic = ["cpu"]\n[windows]\nlength = 2\n[splits.random]\nkind = "random_rows"\n'
        "test_fraction = 0.2\n"
    )


def test_datasets_are_digested_and_followed(tmp_path: Path) -> None:
    make_dataset(tmp_path / "lab")
    datasets = Datasets({"default": tmp_path / "lab", "lab": tmp_path / "lab"}, tmp_path / "cache.json")
    first = detect(tmp_path, datasets=datasets)
    assert first.datasets["lab"].startswith("sha256:")
    assert first.datasets["lab"] == first.datasets["default"]
    (tmp_path / "lab" / "data.csv").write_text("host,cpu,label\na,2,0\n")
    second = refresh(first, tmp_path, datasets)
    assert second.datasets["lab"] != first.datasets["lab"]
    assert second.problems == ()


def test_a_broken_dataset_is_left_out_and_comes_back_when_mended(tmp_path: Path) -> None:
    datasets = Datasets({"lab": tmp_path / "lab"})
    first = detect(tmp_path, datasets=datasets)
    assert first.datasets == {}
    assert first.problems[0].startswith("dataset lab is left out")
    make_dataset(tmp_path / "lab")
    assert refresh(first, tmp_path, datasets).problems == ()


def test_a_broken_dataset_that_is_also_the_default_one_is_named_once(tmp_path: Path) -> None:
    folder, other = tmp_path / "lab", tmp_path / "other"
    named = Datasets({"default": folder, "lab": folder, "big": other})
    assert [text.split(" is left")[0] for text in detect(tmp_path, datasets=named).problems] == [
        "dataset lab",
        "dataset big",
    ]
    alone = Datasets({"default": folder})
    assert [text.split(" is left")[0] for text in detect(tmp_path, datasets=alone).problems] == ["dataset default"]


def test_free_memory_of_cards_is_followed(tmp_path: Path, tools: Path) -> None:
    script(tools, "nvidia-smi", f'echo "{CARD}"')
    first = detect(tmp_path)
    script(tools, "nvidia-smi", f'echo "{CARD.replace("11000", "3000")}"')
    busy = refresh(first, tmp_path, Datasets())
    assert busy.gpus[0].free_vram_bytes == 3000 * 2**20
    assert busy.problems[-1] == "GPU card 0 (RTX 3060) is in use: 2.9 of 12.0 GiB free; see nvidia-smi"
    script(tools, "nvidia-smi", "exit 1")
    assert refresh(first, tmp_path, Datasets()).gpus == ()


def test_a_capability_fits_into_a_claim(tmp_path: Path) -> None:
    assert len(json.dumps(asdict(detect(tmp_path)))) < 8000


def test_a_single_file_asks_the_trainer_where_it_lies_and_not_where_the_worker_was_started(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "training/trainer"
    other.mkdir(parents=True)
    for path in (other.parent / "__init__.py", other / "__init__.py"):
        path.touch()
    (other / "run.py").write_text("print('another checkout')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkout, "PACKED", True)
    found = detect(tmp_path, trainer_dir=root)
    assert found.contract == hyper.contract_digest(hyper.describe())
    assert [problem for problem in found.problems if "trainer" in problem] == []


def test_a_problem_knows_what_it_is_about_and_is_plain_text_on_the_wire() -> None:
    problems = (Problem("no driver", "gpu"), Problem("lab is empty", "dataset", "lab"), "about nothing")
    found = Capability("box", problems=problems)
    assert found.problems_of("gpu") == ["no driver"]
    assert found.problems_of("dataset", "lab") == ["lab is empty"]
    assert found.problems_of("dataset", "other") == found.problems_of("torch") == []
    sent = json.loads(json.dumps(asdict(found)))["problems"]
    assert sent == ["no driver", "lab is empty", "about nothing"]
    assert Capability("box", problems=tuple(sent)).problems_of("gpu") == []
