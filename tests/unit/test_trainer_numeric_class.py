"""Claims about the numeric class: what it reads of the machine, and that it imports nothing to find out."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from training.trainer.artifact import numeric_class as module
from training.trainer.artifact.numeric_class import cpu_facts, installed, numeric_class

AMD = """processor	: 0
vendor_id	: AuthenticAMD
cpu family	: 25
model		: 17
model name	: AMD EPYC
flags		: fpu sse2 avx512f fma sse4_2 avx avx2

processor	: 1
vendor_id	: Other
flags		: amx_bf16
"""
ARM = """processor	: 0
BogoMIPS	: 108.00
Features	: fp asimd evtstrm asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU part	: 0xd0b
"""


def test_the_processor_is_read_from_the_first_block_of_cpuinfo() -> None:
    assert cpu_facts(AMD) == {
        "vendor": "AuthenticAMD",
        "family": "25",
        "model": "17",
        "name": "AMD EPYC",
        "instructions": ["sse4_2", "avx", "avx2", "fma", "avx512f"],
    }
    assert cpu_facts(ARM) == {
        "vendor": "0x41",
        "family": "8",
        "model": "0xd0b",
        "name": None,
        "instructions": ["asimd", "asimddp"],
    }
    assert cpu_facts("")["instructions"] == []


def test_the_class_names_everything_that_decides_the_numbers() -> None:
    found = numeric_class(2, "cpu", {"fixed_order": True}, ("numpy", "lightgbm"))
    assert list(found) == [
        "os",
        "cpu",
        "gpu",
        "python",
        "libraries",
        "blas",
        "threads",
        "device",
        "determinism",
    ]
    assert set(found["os"]) == {"system", "release", "libc"}
    assert set(found["cpu"]) == {"machine", "vendor", "family", "model", "name", "instructions"}
    assert (found["os"]["system"], found["cpu"]["machine"]) == (platform.system(), platform.machine())
    assert found["python"] == platform.python_version()
    assert found["libraries"] == {
        "numpy": importlib.metadata.version("numpy"),
        "pyarrow": None,
        "scikit-learn": None,
        "lightgbm": importlib.metadata.version("lightgbm"),
        "safetensors": None,
        "torch": None,
    }
    assert (found["threads"], found["device"], found["gpu"]) == (2, "cpu", None)
    assert found["determinism"] == {"fixed_order": True}
    assert found == numeric_class(2, "cpu", {"fixed_order": True}, ("numpy", "lightgbm"))


def test_it_does_not_import_torch(root: Path) -> None:
    code = (
        "import sys; from training.trainer.artifact.numeric_class import numeric_class; "
        "found = numeric_class(1, 'cuda', {}, ('torch',)); "
        "print('torch' in sys.modules, found['gpu']['name'], found['determinism'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False None {}\n"


def test_a_loaded_torch_tells_card_versions_and_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for torch, because the machine that tests has no card."""
    torch = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: True, get_device_name=lambda: "NVIDIA H100"),
        version=SimpleNamespace(cuda="12.8"),
        backends=SimpleNamespace(
            cudnn=SimpleNamespace(version=lambda: 91002, deterministic=True, benchmark=False, allow_tf32=False)
        ),
        are_deterministic_algorithms_enabled=lambda: True,
        get_float32_matmul_precision=lambda: "highest",
    )
    monkeypatch.setitem(sys.modules, "torch", torch)  # type: ignore[arg-type]
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(module, "_driver", lambda: "570.86")
    found = numeric_class(1, "cuda", {}, ("numpy", "torch"))
    assert found["gpu"] == {"name": "NVIDIA H100", "driver": "570.86", "cuda": "12.8", "cudnn": 91002}
    assert found["determinism"] == {
        "torch_deterministic_algorithms": True,
        "torch_float32_matmul_precision": "highest",
        "cudnn_deterministic": True,
        "cudnn_benchmark": False,
        "cudnn_allow_tf32": False,
        "cublas_workspace": ":4096:8",
    }
    assert numeric_class(1, "cpu", {}, ("numpy",))["determinism"] == {}


@pytest.mark.parametrize(
    ("script", "version"), [("echo 570.86.10; echo 570.86.10", "570.86.10"), ("exit 9", None), ("true", None)]
)
def test_the_driver_is_what_its_own_program_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, version: str | None
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert module._driver() == version


def test_a_driver_that_cannot_be_asked_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert module._driver() is None
    monkeypatch.setattr("shutil.which", lambda name: "/nonexistent/nvidia-smi")
    assert module._driver() is None


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert installed("no-such-package-anywhere") is None


@pytest.mark.parametrize(("system", "release"), [("Windows", "11"), ("Darwin", "15.1")])
def test_other_systems_name_their_release_and_processor(
    monkeypatch: pytest.MonkeyPatch, system: str, release: str
) -> None:
    def missing(*arguments: Any, **options: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "release", lambda: "11")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), ""))
    monkeypatch.setattr(platform, "processor", lambda: "Some CPU Family 6")
    monkeypatch.setattr(Path, "read_text", missing)
    found = numeric_class(1, "cpu", {}, ())
    assert (found["os"]["system"], found["os"]["release"]) == (system, release)
    assert (found["cpu"]["name"], found["cpu"]["instructions"]) == ("Some CPU Family 6", None)


def test_a_linux_without_a_release_file_says_nothing_rather_than_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> dict[str, str]:
        raise OSError

    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "freedesktop_os_release", missing)
    assert numeric_class(1, "cpu", {}, ())["os"]["release"] is None
