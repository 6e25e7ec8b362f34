"""What a host can do, as its worker found it."""

from __future__ import annotations

from dataclasses import dataclass, field

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card.

    Attributes:
        name: Product name.
        uuid: The driver's stable name of the card, "GPU-…".
        vram_bytes: Total memory.
        free_vram_bytes: Memory free when it was looked at.
        driver: Driver version.
    """

    name: str
    uuid: str
    vram_bytes: int
    free_vram_bytes: int
    driver: str


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
        dirty: Whether that checkout has changes, None outside a checkout.
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

    @property
    def ram_gib(self) -> int:
        """Memory as people name it: the nearest whole GiB, so 15.5 is 16."""
        return round(self.ram_bytes / GIB)

    @property
    def vram_gib(self) -> int:
        """Memory of the largest card as people name it, 0 without one."""
        return max((round(gpu.vram_bytes / GIB) for gpu in self.gpus), default=0)
