"""NVIDIA graphics cards: which there are and how much of their memory is free.

Asks NVML where its Python binding is installed, else the driver's tool nvidia-smi in a child. A host without either has
no card; a tool that does not work becomes a problem for people.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any, Final

from training.fleet import system
from training.fleet.capability import child
from training.fleet.model.capability import GIB, Gpu, Problem

CROWDED_PART: Final = 0.25
"""If other programs hold more than this part of a card's memory, running out of it says nothing about the training."""
_FIELDS = "name,uuid,memory.total,memory.free,driver_version"


def find(problems: list[str]) -> tuple[Gpu, ...]:
    """Return the NVIDIA cards, from NVML if its binding works and else from the driver's tool.

    Args:
        problems: Gets what did not work, for people.
    """
    if importlib.util.find_spec("pynvml") is not None:
        try:
            return _nvml_gpus(importlib.import_module("pynvml"))
        except Exception as error:  # noqa: BLE001 - a binding without a driver raises its own classes
            problems.append(
                Problem(
                    f"GPU library: NVML does not work ({child.brief(error)}); the nvidia-smi tool was asked instead",
                    "gpu",
                )
            )
    return _tool_gpus(problems)


def _nvml_gpus(nvml: Any) -> tuple[Gpu, ...]:
    nvml.nvmlInit()
    try:
        driver = _decoded(nvml.nvmlSystemGetDriverVersion())
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return tuple(_nvml_gpu(nvml, handle, driver) for handle in handles)
    finally:
        nvml.nvmlShutdown()


def _nvml_gpu(nvml: Any, handle: Any, driver: str) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    name, uuid = _decoded(nvml.nvmlDeviceGetName(handle)), _decoded(nvml.nvmlDeviceGetUUID(handle))
    return Gpu(name, uuid, int(memory.total), int(memory.free), driver)


def _decoded(text: Any) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _tool_gpus(problems: list[str]) -> tuple[Gpu, ...]:
    tool = system.gpu_tool()
    if tool is None:
        return ()
    command = [tool, f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]
    status, out = child.run(command, child.TOOL_TIMEOUT_S)
    if status != 0:
        problems.append(
            Problem(f"GPU tool: nvidia-smi {child.ending(status, child.TOOL_TIMEOUT_S)}: {child.last_line(out)}", "gpu")
        )
        return ()
    cards = [_tool_gpu(line, problems) for line in out.splitlines() if line.strip()]
    return tuple(card for card in cards if card is not None)


def _tool_gpu(line: str, problems: list[str]) -> Gpu | None:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != 5 or not cells[1].startswith("GPU-"):
        problems.append(Problem(f"GPU tool: nvidia-smi printed {line[:80]!r}; expected {_FIELDS}", "gpu"))
        return None
    sizes = [int(cell) * 2**20 if cell.isdigit() else 0 for cell in cells[2:4]]
    if not sizes[0]:
        problems.append(
            Problem(f"GPU memory of {cells[0]} is unknown ({cells[2][:40]!r}); declare vram_gib in the manifest", "gpu")
        )
    return Gpu(cells[0], cells[1], sizes[0], sizes[1], cells[4])


def note_busy(gpus: Sequence[Gpu], problems: list[str]) -> None:
    """Add to the problems which cards are mostly taken: an orphan of an earlier training looks like this."""
    for gpu in gpus:
        if gpu.busy:
            free_gib, all_gib = gpu.free_vram_bytes / GIB, gpu.vram_bytes / GIB
            problems.append(
                Problem(f"GPU {gpu.name} is in use: {free_gib:.1f} of {all_gib:.1f} GiB free; see nvidia-smi", "gpu")
            )


def taken_by_others(uuid: str) -> str:
    """Return how much of a card's memory other programs hold, for people; empty when it is little or unknown.

    Call it after a training has ended on the card, because until then the training's own memory counts as well.

    Args:
        uuid: The driver's name of the card.
    """
    for gpu in find([]):
        taken_bytes = gpu.vram_bytes - gpu.free_vram_bytes
        if gpu.uuid == uuid and taken_bytes > gpu.vram_bytes * CROWDED_PART:
            return f"other programs hold {taken_bytes / GIB:.1f} of the card's {gpu.vram_bytes / GIB:.1f} GiB"
    return ""
