"""NVIDIA graphics cards: which of them this process may use and how much of their memory is free.

Asks NVML where its Python binding is installed, else the driver's tool nvidia-smi in a child. Each card is judged by
itself: what works is kept, what does not becomes a problem for people. A host without either has no card.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Final

from training.fleet.capability import child, nvml, smi, visible
from training.fleet.capability.device import PROHIBITED, Device
from training.fleet.model.capability import GIB, Gpu, Problem

CROWDED_PART: Final = 0.25
"""If other programs hold more than this part of a card's memory, running out of it says nothing about the training."""


def find(problems: list[str], environ: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """Return the cards that this process may use, from NVML if its binding works and else from the driver's tool.

    Args:
        problems: Gets what did not work, for people.
        environ: The worker's own environment, which may show it some of the cards only.
    """
    shown = visible.shown(_devices(problems), environ, problems)
    gpus = [gpu for device in shown for gpu in _offered(device, problems)]
    problems += [
        Problem(f"GPU memory of {gpu.title} is unknown; declare vram_gib of this host in the manifest", "gpu")
        for gpu in gpus
        if not gpu.vram_bytes
    ]
    return tuple(gpus)


def _devices(problems: list[str]) -> list[Device]:
    if importlib.util.find_spec("pynvml") is not None:
        try:
            return nvml.devices(importlib.import_module("pynvml"), problems)
        except Exception as error:  # noqa: BLE001 - a binding without a driver raises its own classes
            problems.append(
                Problem(
                    f"GPU library: NVML does not work ({child.brief(error)}); the nvidia-smi tool was asked instead",
                    "gpu_library",
                )
            )
    return smi.devices(problems)


def _offered(device: Device, problems: list[str]) -> Sequence[Gpu]:
    """Return a whole card, or the MIG slices that it is cut into; nothing of one whose owner forbids CUDA programs."""
    title = device.gpu.title
    if device.compute_mode == PROHIBITED:
        problems.append(
            Problem(
                f"GPU {title} is not offered: its compute mode is prohibited (nvidia-smi -c 0 changes it)", "gpu_choice"
            )
        )
        return ()
    if device.mig and not device.slices:
        problems.append(
            Problem(f"GPU {title} is not offered: MIG is on and it has no slices (nvidia-smi mig -lgip)", "gpu_choice")
        )
        return ()
    return device.slices or (device.gpu,)


def note_busy(gpus: Sequence[Gpu], problems: list[str]) -> None:
    """Add to the problems which cards are mostly taken: an orphan of an earlier training looks like this."""
    for gpu in gpus:
        if gpu.busy:
            free_gib, all_gib = gpu.free_vram_bytes / GIB, gpu.vram_bytes / GIB
            problems.append(
                Problem(f"GPU {gpu.title} is in use: {free_gib:.1f} of {all_gib:.1f} GiB free; see nvidia-smi", "gpu")
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
