"""Cards by NVML, the driver's library, through its Python binding."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from training.fleet.capability import child
from training.fleet.capability.device import PROHIBITED, Device
from training.fleet.model.capability import Gpu, Problem

_PROHIBITED = 2
"""Source: nvml.h, NVML_COMPUTEMODE_PROHIBITED."""
_MIG_PROFILE = re.compile(r"MIG\s+(\S+)")


def devices(nvml: Any, problems: list[str]) -> list[Device]:
    """Return the cards that answer; one that is lost costs no other.

    Args:
        nvml: The binding, a module.
        problems: Gets which card does not answer.
    """
    nvml.nvmlInit()
    try:
        driver = _decoded(nvml.nvmlSystemGetDriverVersion())
        found = []
        for number in range(nvml.nvmlDeviceGetCount()):
            try:
                found.append(_device(nvml, nvml.nvmlDeviceGetHandleByIndex(number), number, driver))
            except Exception as error:  # noqa: BLE001 - the binding raises its own classes
                problems.append(Problem(f"GPU card {number} is left out: {child.brief(error)}", "gpu"))
        return found
    finally:
        nvml.nvmlShutdown()


def _device(nvml: Any, handle: Any, number: int, driver: str) -> Device:
    compute = _asked(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    words = ".".join(map(str, compute)) if compute else ""
    mig = (_asked(nvml, "nvmlDeviceGetMigMode", handle) or (0,))[0] == 1
    prohibited = _asked(nvml, "nvmlDeviceGetComputeMode", handle) == _PROHIBITED
    card = _gpu(nvml, handle, number, driver, words)
    slices = tuple(_slices(nvml, handle, number, driver, words)) if mig else ()
    return Device(card, slices, mig, PROHIBITED if prohibited else "")


def _slices(nvml: Any, handle: Any, number: int, driver: str, compute: str) -> Iterator[Gpu]:
    for place in range(_asked(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        # Places of a card that hold no slice raise.
        part = _asked(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, place)
        if part is not None:
            yield _gpu(nvml, part, number, driver, compute, mig=True)


def _gpu(nvml: Any, handle: Any, number: int, driver: str, compute: str, *, mig: bool = False) -> Gpu:
    name, uuid = _decoded(nvml.nvmlDeviceGetName(handle)), _decoded(nvml.nvmlDeviceGetUUID(handle))
    # Cards that share the host's memory answer "not supported", which is no reason to leave them out.
    memory = _asked(nvml, "nvmlDeviceGetMemoryInfo", handle)
    total, free = (0, 0) if memory is None else (int(memory.total), int(memory.free))
    profile = _MIG_PROFILE.search(name) if mig else None
    return Gpu(
        name.partition(" MIG ")[0], uuid, total, free, driver, number, compute,
        "" if not mig else profile[1] if profile else "slice",
    )  # fmt: skip


def _asked(nvml: Any, call: str, *arguments: Any) -> Any:
    """Return what a call answers, None where the binding or the card does not know it."""
    try:
        return getattr(nvml, call)(*arguments)
    except Exception as error:
        # A card that fell off the bus answers nothing; only "not supported" may be passed over.
        if "lost" in str(error).lower():
            raise
        return None


def _decoded(text: Any) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
