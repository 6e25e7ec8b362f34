"""What one host offers, as values.

Owns the facts alone: `training.fleet.capability` finds them, `placement` judges them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, Self

GIB: Final = 2**30
HostPart = Literal["gpu", "gpu_library", "gpu_choice", "torch", "dataset"]
"""What of a host a program asks the problems of; `gpu_choice` is a card that somebody chose not to offer."""
BUSY_PART: Final = 0.5
"""Part of a card's memory that must be free; with less the card counts as in use by other programs."""

IDLE_PART: Final = 0.9
"""Part of a card's memory that is free on an idle card: the driver and a desktop hold the rest."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card, or one MIG slice of it.

    Attributes:
        name: Product name.
        uuid: What CUDA_VISIBLE_DEVICES takes: "GPU-…" or "MIG-…", and the card's number where no driver tool is.
        vram_bytes: Total memory; 0 when unknown.
        free_vram_bytes: Memory free when it was looked at; all of it when unknown.
        driver: Driver version.
        number: As nvidia-smi counts cards, for people; None from a worker of an older version.
        compute: Compute capability, "8.6"; empty when unknown.
        mig: Profile of the MIG slice, "1g.10gb"; empty for a whole card.
        usable: False if torch cannot use this card.
        in_use: True if a training of the fleet runs on it; the receiver knows it from the leases.
    """

    name: str
    uuid: str
    vram_bytes: int
    free_vram_bytes: int
    driver: str
    number: int | None = None
    compute: str = ""
    mig: str = ""
    usable: bool = True
    in_use: bool = False

    @property
    def busy(self) -> bool:
        """True if other programs hold so much of its memory that a training should not begin on it."""
        return self.free_vram_bytes < self.vram_bytes * BUSY_PART

    @property
    def vram_gib(self) -> int:
        """Total memory as people name it, 0 when unknown."""
        return round(self.vram_bytes / GIB)

    @property
    def free_gib(self) -> int:
        """Free memory as people name it: a card with a screen on it counts as wholly free."""
        part = IDLE_PART * self.vram_bytes
        return self.vram_gib if self.free_vram_bytes >= part else int(self.free_vram_bytes / GIB)

    @property
    def title(self) -> str:
        """How messages name it: "card 1 (RTX 3060)"."""
        name = self.name.removeprefix("NVIDIA ").removeprefix("GeForce ") + (f" {self.mig}" if self.mig else "")
        return f"card {name}" if self.number is None else f"card {self.number} ({name})"


class Problem(str):
    """A problem that detection found: a text for people, which goes over the wire, and what it is about.

    Args:
        text: For people.
        about: Which part of the host, so that nobody has to look for words in the text; not sent over the wire.
        name: Of the dataset, where it is about one.
    """

    about: HostPart | None
    name: str

    def __new__(cls, text: str, about: HostPart | None = None, name: str = "") -> Self:
        """Make the text, and note beside it what it is about."""
        made = super().__new__(cls, text)
        made.about, made.name = about, name
        return made


@dataclass(frozen=True, slots=True)
class Capability:
    """What one host offers.

    Attributes:
        hostname: Lower-case host name.
        os: "linux", "windows" or another `platform.system()` in lower case.
        os_version: For people.
        arch: Machine type, "x86_64", "aarch64", "amd64".
        cpu_count: Usable cores.
        ram_bytes: Total memory.
        gpus: The cards, empty when there is none.
        cuda_present: A CUDA driver and card were found.
        cuda_usable: A child process could run a CUDA operation.
        torch_version: Version of torch, None when it is not installed.
        python: Python version.
        revision: Git commit of the trainer's checkout, None outside a checkout.
        dirty: True if that checkout has changes, None outside a checkout.
        free_disk_bytes: Free space where runs are made.
        version: Version of the worker.
        contract: Digest of the declaration of the host's own trainer, None when it has none.
        models: Models the host's own trainer can run here, None when unknown.
        datasets: Dataset name to digest; the name "default" is the host's default dataset.
        problems: What detection could not find out or found broken, for people.
    """

    hostname: str
    os: str = ""
    os_version: str = ""
    arch: str = ""
    cpu_count: int = 1
    ram_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()
    cuda_present: bool = False
    cuda_usable: bool = False
    torch_version: str | None = None
    python: str = ""
    revision: str | None = None
    dirty: bool | None = None
    free_disk_bytes: int = 0
    version: str = ""
    contract: str | None = None
    models: tuple[str, ...] | None = None
    datasets: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def problems_of(self, about: HostPart, name: str = "") -> list[str]:
        """Return the problems with one part of this host, as this process found them."""
        found = (text for text in self.problems if isinstance(text, Problem) and text.about == about)
        return [text for text in found if not name or text.name == name]

    @property
    def ram_gib(self) -> int:
        """Memory as people name it: the nearest whole GiB, so 15.5 is 16. Less than nothing counts as nothing."""
        return max(0, round(self.ram_bytes / GIB))

    @property
    def vram_gib(self) -> int:
        """Memory of the largest card as people name it, 0 without one."""
        return max((0, *(gpu.vram_gib for gpu in self.gpus if gpu.usable)))


@dataclass(frozen=True, slots=True)
class Datasets:
    """The dataset folders a host offers.

    Attributes:
        folders: Name to folder; the name "default" is the one for jobs that name none.
        cache: File that remembers digests by size and time, None to read every byte each time.
    """

    folders: Mapping[str, Path] = field(default_factory=dict)
    cache: Path | None = None


def with_free_cards(capability: Capability) -> Capability:
    """Return a host's capability as it would be if nothing used its cards."""
    gpus = tuple(replace(gpu, free_vram_bytes=gpu.vram_bytes, in_use=False) for gpu in capability.gpus)
    return replace(capability, gpus=gpus)


def with_cards_in_use(capability: Capability, uuids: Collection[str]) -> Capability:
    """Return a host's capability with the cards marked that trainings of the fleet run on."""
    if not uuids:
        return capability
    return replace(capability, gpus=tuple(replace(gpu, in_use=gpu.uuid in uuids) for gpu in capability.gpus))
