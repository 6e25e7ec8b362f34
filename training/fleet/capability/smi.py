"""Cards by nvidia-smi, the driver's tool."""

from __future__ import annotations

import re
from typing import Final

from training.fleet import system
from training.fleet.capability import child
from training.fleet.capability.device import Device
from training.fleet.model.capability import GIB, Gpu, Problem

_FIELDS: Final = "name,uuid,memory.total,memory.free,driver_version"
_MORE_FIELDS: Final = "index,compute_mode,compute_cap,mig.mode.current"
"""What older tools do not all know; one that knows not all of them refuses the whole question."""
_UNKNOWN_FIELD = "is not a valid field"
_CARD_LINE = re.compile(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)")
_SLICE_LINE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)")
_SLICE_GIB = re.compile(r"(\d+)gb")


def devices(problems: list[str]) -> list[Device]:
    """Return the cards that the tool lists, whatever its exit status: it warns by that as well.

    Args:
        problems: Gets what did not work.
    """
    tool = system.gpu_tool()
    if tool is None:
        return []
    status, out = _ask(tool, f"{_FIELDS},{_MORE_FIELDS}")
    if status != 0 and _UNKNOWN_FIELD in out:
        status, out = _ask(tool, _FIELDS)
    lines = [line for line in out.splitlines() if line.strip()]
    cards = [(line, device) for number, line in enumerate(lines) if (device := _device(line, number)) is not None]
    known = {line for line, _ in cards}
    found = [device for _, device in cards]
    rest = [line.strip() for line in lines if line not in known]
    if status != 0:
        said = f"GPU tool: nvidia-smi {child.ending(status, child.TOOL_TIMEOUT_S)}"
        problems += [Problem(f"{said}: {line[:300]}", "gpu") for line in (rest if found else rest[-1:])]
        if not rest:
            problems.append(Problem(f"{said}: {child.last_line(out) if not found else 'it said no more'}", "gpu"))
    else:
        problems += [Problem(f"GPU tool: nvidia-smi printed {line[:80]!r}; expected {_FIELDS}", "gpu") for line in rest]
    return _with_slices(tool, found)


def _ask(tool: str, fields: str) -> tuple[int | None, str]:
    return child.run([tool, f"--query-gpu={fields}", "--format=csv,noheader,nounits"], child.TOOL_TIMEOUT_S)


def _device(line: str, place: int) -> Device | None:
    """Return the card of a line, None for a line that is no card's."""
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) not in (5, 9) or not cells[1].startswith("GPU-"):
        return None
    total, free = (int(cell) * 2**20 if cell.isdigit() else None for cell in cells[2:4])
    index, mode, compute, mig = cells[5:] or ("", "", "", "")
    gpu = Gpu(
        cells[0], cells[1], total or 0, (total or 0) if free is None else min(free, total or 0), cells[4],
        int(index) if index.isdigit() else place, compute if re.fullmatch(r"\d+\.\d+", compute) else "",
    )  # fmt: skip
    # Without an answer the list of slices must tell; "[N/A]" is the answer of a card that cannot be cut.
    return Device(gpu, mig=mig == "Enabled" or not mig, compute_mode=mode.lower())


def _with_slices(tool: str, found: list[Device]) -> list[Device]:
    """Return the cards with their MIG slices, which only the tool's other list shows."""
    if not any(device.mig for device in found):
        return found
    _, out = child.run([tool, "-L"], child.TOOL_TIMEOUT_S)
    slices: dict[str, list[tuple[str, str]]] = {}
    parent = ""
    for line in out.splitlines():
        if card := _CARD_LINE.match(line):
            parent = card[2]
        elif part := _SLICE_LINE.match(line):
            slices.setdefault(parent, []).append((part[1], part[2]))
    return [_sliced(device, slices.get(device.gpu.uuid, [])) for device in found]


def _sliced(device: Device, slices: list[tuple[str, str]]) -> Device:
    gpu = device.gpu
    parts = tuple(
        Gpu(gpu.name, uuid, size, size, gpu.driver, gpu.number, gpu.compute, profile)
        for profile, uuid in slices
        for size in [_slice_bytes(profile)]
    )
    # A tool that cannot say whether MIG is on shows it by the slices.
    told = bool(device.compute_mode)
    return Device(gpu, parts, bool(parts) or (told and device.mig), device.compute_mode)


def _slice_bytes(profile: str) -> int:
    """Return the memory in a slice's name: the tool does not tell it otherwise."""
    size = _SLICE_GIB.search(profile)
    return int(size[1]) * GIB if size else 0
