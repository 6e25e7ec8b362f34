"""One card as the driver shows it, before it is known what of it this process may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from training.fleet.model.capability import Gpu

PROHIBITED: Final = "prohibited"
"""Compute mode in which the driver lets no program use CUDA on a card."""


@dataclass(frozen=True, slots=True)
class Device:
    """One card.

    Attributes:
        gpu: The whole card.
        slices: Its MIG slices, each a card of its own to a program.
        mig: True if it is cut into slices, so that no program can use it whole.
        compute_mode: In lower case, "default"; empty when unknown.
    """

    gpu: Gpu
    slices: tuple[Gpu, ...] = ()
    mig: bool = False
    compute_mode: str = ""
