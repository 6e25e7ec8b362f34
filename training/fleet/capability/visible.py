"""Which cards this process may see: CUDA_VISIBLE_DEVICES of its own environment.

A batch system, a container or the owner sets it, and a trainer gets none of the other cards.

Source: CUDA C++ Programming Guide, "CUDA Environment Variables".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from training.fleet.capability.device import Device
from training.fleet.model.capability import Problem

VARIABLE = "CUDA_VISIBLE_DEVICES"


def shown(devices: Sequence[Device], environ: Mapping[str, str], problems: list[str]) -> list[Device]:
    """Return the cards that the environment shows.

    Args:
        devices: All cards of the host.
        environ: The environment.
        problems: Gets what of it names no card.
    """
    value = environ.get(VARIABLE)
    if value is None or not devices:
        return list(devices)
    found: list[Device] = []
    for entry in (word.strip() for word in value.split(",")):
        device = _named(entry, devices)
        # CUDA itself ignores whatever stands behind the first entry that names no card.
        if device is None:
            if entry not in ("", "-1", "NoDevFiles"):
                problems.append(Problem(f"GPU {entry[:60]!r} of {VARIABLE} is no card of this host", "gpu"))
            break
        found.append(device)
    if not found:
        problems.append(Problem(f"GPU cards are hidden from this worker by {VARIABLE}={value[:60]!r}", "gpu_choice"))
    if _ambiguous(value, environ, devices):
        problems.append(
            Problem(
                f"GPU numbers of {VARIABLE}={value[:60]!r} are read as nvidia-smi counts; set CUDA_DEVICE_ORDER="
                "PCI_BUS_ID, or name the cards by UUID",
                "gpu",
            )
        )
    return _once(found)


def _named(entry: str, devices: Sequence[Device]) -> Device | None:
    """Return what one entry names: a card by number or by the beginning of its UUID, or one slice of it."""
    if entry.isascii() and entry.isdigit():
        return next((device for device in devices if device.gpu.number == int(entry)), None)
    if not entry.startswith(("GPU-", "MIG-")):
        return None
    for device in devices:
        part = next((part for part in device.slices if part.uuid.startswith(entry)), None)
        if part is not None:
            return replace(device, slices=(part,))
    matching = [device for device in devices if device.gpu.uuid.startswith(entry)]
    return matching[0] if len(matching) == 1 else None


def _ambiguous(value: str, environ: Mapping[str, str], devices: Sequence[Device]) -> bool:
    """Return True if numbers may mean other cards to CUDA, which counts unlike cards by speed unless told not to."""
    by_number = any(word.strip().isdigit() for word in value.split(","))
    return by_number and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID" and len({one.gpu.name for one in devices}) > 1


def _once(devices: list[Device]) -> list[Device]:
    """Return the cards without repeats, the slices of one card together."""
    found: dict[str, Device] = {}
    for device in devices:
        known = found.get(device.gpu.uuid)
        slices = device.slices if known is None else tuple(dict.fromkeys((*known.slices, *device.slices)))
        found[device.gpu.uuid] = replace(device, slices=slices)
    return list(found.values())
