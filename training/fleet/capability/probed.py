"""Cards together with what torch can do on each of them.

Guarantees that one card torch cannot use costs no other, and that torch, which takes seconds to load, is tried only
when the cards are others than before.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import replace

from training.fleet import system
from training.fleet.capability import cards, libraries, visible
from training.fleet.model.capability import Capability, Gpu, Problem

_Look = tuple[tuple[Gpu, ...], str | None, bool]


def look(problems: list[str], timeout_s: float) -> _Look:
    """Return the cards, torch's version, and whether torch can use any card.

    Args:
        problems: Gets what did not work.
        timeout_s: Longest time for the child that tries torch.
    """
    gpus = cards.find(problems)
    if gpus:
        return _tried(gpus, problems, timeout_s)
    version = libraries.torch_version()
    # Where the driver has a tool, torch knows no better.
    if system.gpu_tool() is not None or not libraries.torch_may_use_cuda():
        return (), version, False
    return _seen_by_torch(version, timeout_s)


def look_again(capability: Capability, problems: list[str], timeout_s: float) -> _Look:
    """Return the same as of now, without loading torch while the cards are those of the last look.

    Args:
        capability: As it was found last.
        problems: Gets what does not work.
        timeout_s: Longest time for the child that tries torch.
    """
    known = {gpu.uuid: gpu for gpu in capability.gpus}
    gpus = cards.find(problems)
    # No tool shows them, so none can tell whether they are still there.
    if not gpus and capability.gpus and not any(_by_driver(gpu) for gpu in capability.gpus):
        return capability.gpus, capability.torch_version, capability.cuda_usable
    if same_cards(capability.gpus, gpus):
        kept = tuple(replace(gpu, usable=known[gpu.uuid].usable) for gpu in gpus)
        return kept, capability.torch_version, capability.cuda_usable
    if all(gpu.uuid in known for gpu in gpus):
        kept = tuple(replace(gpu, usable=known[gpu.uuid].usable) for gpu in gpus)
        return kept, capability.torch_version, capability.cuda_usable and any(gpu.usable for gpu in kept)
    return _tried(gpus, problems, timeout_s)


def same_cards(some: Sequence[Gpu], others: Sequence[Gpu]) -> bool:
    """Return True if two looks found the same cards."""
    return {gpu.uuid for gpu in some} == {gpu.uuid for gpu in others}


def _by_driver(gpu: Gpu) -> bool:
    return gpu.uuid.startswith(("GPU-", "MIG-"))


def _tried(gpus: tuple[Gpu, ...], problems: list[str], timeout_s: float) -> _Look:
    """Try each card with torch; one process sees whole cards together, but of MIG slices only one."""
    whole = [gpu for gpu in gpus if not gpu.mig]
    shown = whole or list(gpus[:1])
    view = libraries.try_torch(problems, timeout_s, ",".join(gpu.uuid for gpu in shown))
    if view.version is None:
        if importlib.util.find_spec("torch") is None:
            problems.append(Problem("a CUDA card is there but torch is not, so CUDA counts as not usable", "torch"))
        return gpus, None, False
    # A torch that names fewer cards than it was shown said nothing of the others.
    wrong = dict(zip((gpu.uuid for gpu in shown), view.tried, strict=False))
    judged = []
    for gpu in gpus:
        why = wrong.get(gpu.uuid, "")
        if why:
            problems.append(Problem(f"torch is there but CUDA does not work on {gpu.title}: {why}", "torch"))
        judged.append(replace(gpu, usable=not why))
    return tuple(judged), view.version, bool(view.tried) and any(gpu.usable for gpu in judged)


def _seen_by_torch(version: str | None, timeout_s: float) -> _Look:
    """Return the cards that torch alone sees, as on a board without the driver's tool."""
    view = libraries.try_torch([], timeout_s)
    entries = [word.strip() for word in os.environ.get(visible.VARIABLE, "").split(",") if word.strip()]
    gpus = tuple(
        Gpu(name, entries[number] if number < len(entries) else str(number), total, free, "", number, compute)
        for number, (name, total, free, compute) in enumerate(view.cards)
        if not view.tried[number]
    )
    return gpus, view.version or version, bool(gpus)
