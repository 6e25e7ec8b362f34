"""Owns the numeric class: what decides the last bits of a computation, as one JSON object.

Two machines with the same numeric class are expected to give the same numbers for the same job; with another one they
may differ in the last bits, and training carries that on. Nothing is imported to find out: torch is asked only when the
model has loaded it. Names of hosts, paths, times and serial numbers do not belong here.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

LIBRARIES = {
    "numpy": "numpy",
    "pyarrow": "pyarrow",
    "sklearn": "scikit-learn",
    "lightgbm": "lightgbm",
    "safetensors": "safetensors",
    "torch": "torch",
}
"""Import name to the name it is installed under, in the order of the record."""
CPU_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "sve", "sve2", "bf16", "i8mm",
)  # fmt: skip
"""Instruction sets by which the libraries choose their kernels, as Linux names them; x86-64, then arm64."""
_CPU_KEYS = {
    "vendor": ("vendor_id", "CPU implementer"),
    "family": ("cpu family", "CPU architecture"),
    "model": ("model", "CPU part"),
    "name": ("model name",),
}
_ASK_LIMIT_S = 10


def numeric_class(threads: int, device: str, flags: Mapping[str, Any], used: Collection[str]) -> dict[str, Any]:
    """Return what decides the last bits of a job's numbers on this machine.

    Args:
        threads: Threads of the job.
        device: "cpu" or "cuda".
        flags: Determinism flags that the model set, by name.
        used: Import names of the libraries that the model uses.

    Returns:
        "os", "cpu", "gpu" (None on the CPU), "python", "libraries" (None for one that the model does not use), "blas",
        "threads", "device" and "determinism".
    """
    torch = sys.modules.get("torch") if "torch" in used else None
    return {
        "os": _operating_system(),
        "cpu": _cpu(),
        "gpu": _gpu(torch) if device.startswith("cuda") else None,
        "python": platform.python_version(),
        "libraries": {label: installed(label) if name in used else None for name, label in LIBRARIES.items()},
        "blas": _blas(),
        "threads": threads,
        "device": device,
        "determinism": dict(flags) | (_torch_flags(torch) if torch is not None else {}),
    }


def installed(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_facts(text: str) -> dict[str, Any]:
    """Read the first processor of Linux's /proc/cpuinfo.

    Args:
        text: Content of the file.

    Returns:
        "vendor", "family", "model", "name" as text or None, and "instructions", those of `CPU_FLAGS` that it has.
    """
    first = re.split(r"\n\s*\n", text.strip(), maxsplit=1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    found = {key.strip(): value.strip() for key, _, value in pairs}
    facts: dict[str, Any] = {
        name: next((found[key] for key in keys if key in found), None) for name, keys in _CPU_KEYS.items()
    }
    flags = set(found.get("flags", found.get("Features", "")).split())
    return facts | {"instructions": [flag for flag in CPU_FLAGS if flag in flags]}


def _cpu() -> dict[str, Any]:
    try:
        facts = cpu_facts(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        facts = {"vendor": None, "family": None, "model": None, "name": platform.processor() or None}
        facts["instructions"] = None
    return {"machine": platform.machine()} | facts


def _operating_system() -> dict[str, Any]:
    """Return system, release family and C library: builds of the kernel don't change numbers, the C library can."""
    release: str | None = platform.release()
    if platform.system() == "Linux":
        try:
            facts = platform.freedesktop_os_release()
            release = f"{facts.get('ID', '')} {facts.get('VERSION_ID', '')}".strip()
        except OSError:
            release = None
    elif platform.system() == "Darwin":
        release = platform.mac_ver()[0] or None
    return {"system": platform.system(), "release": release, "libc": " ".join(platform.libc_ver()).strip() or None}


def _blas() -> list[list[str]]:
    """Return the linear algebra libraries in memory: kind, version, and the kernels chosen for this processor."""
    found = {
        (entry["internal_api"], entry.get("version"), entry.get("architecture"))
        for entry in threadpool_info()
        if entry["user_api"] == "blas"
    }
    return sorted([str(part) for part in entry] for entry in found)


def _gpu(torch: Any) -> dict[str, Any]:
    """Return name, driver, CUDA and cuDNN of the card that torch computes on; None for what can't be known."""
    if torch is None or not torch.cuda.is_available():
        return {"name": None, "driver": _driver(), "cuda": None, "cudnn": None}
    return {
        "name": torch.cuda.get_device_name(),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _driver() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(  # noqa: S603  (fixed arguments, no shell)
            command, capture_output=True, text=True, timeout=_ASK_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split() if done.returncode == 0 else []
    return lines[0] if lines else None


def _torch_flags(torch: Any) -> dict[str, Any]:
    """Return the switches by which torch trades sameness for speed."""
    return {
        "torch_deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch_float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }
