"""What a host can do, as its worker found it.

Owns the facts (`Capability`) and how they are found (`detect`, `refresh`). Guarantees that a host without GPU, torch or
git gets a clean answer, that everything that can crash or hang (torch, the GPU tool, git) runs in a child with a time
limit, and that whatever could not be found out stands in `problems`. Leaves judging the facts to `placement`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

from training.fleet import __version__, system
from training.fleet.errors import ConfigurationError

GIB = 2**30
_HOME = Path(__file__).resolve().parents[2]
PACKED: Final = _HOME.is_file()
"""Whether the worker runs out of its single file, which holds no trainer."""
CHECKOUT: Final = _HOME.parent if PACKED else _HOME
"""Folder that holds the `training` package: the checkout, or where it is installed; or that of the single file."""
MAX_PROBLEMS: Final = 16
Part = Literal["gpu", "torch", "dataset"]
"""What of a host a program asks the problems of."""
BUSY_PART: Final = 0.5
"""Part of a card's memory that must be free, or it counts as in use by something else."""
CROWDED_PART: Final = 0.25
"""If other programs hold more than this share of a card's memory, an out-of-memory error says nothing about the job."""
_TOOL_TIMEOUT_S = 10.0
_HOST_NAME = re.compile(r"[0-9a-z][0-9a-z._-]{0,62}")
_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED_BYTES = 1 << 60
_GPU_FIELDS = "name,uuid,memory.total,memory.free,driver_version"
_MARK = "cis490-probe "
_TORCH_PROBE = f"""
import json, torch
usable, problem = False, ""
try:
    usable = torch.cuda.is_available() and float((torch.ones(2, device="cuda") * 2).sum()) == 4.0
except Exception as error:
    problem = f"{{type(error).__name__}}: {{error}}"
print("\\n{_MARK}" + json.dumps([torch.__version__, bool(usable), problem[:300]]), flush=True)
"""


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

    @property
    def busy(self) -> bool:
        """Whether other programs hold so much of its memory that a training should not begin on it."""
        return self.free_vram_bytes < self.vram_bytes * BUSY_PART


class Problem(str):
    """A problem that detection found: a text for people, which goes over the wire, and what it is about.

    Args:
        text: For people.
        about: Which part of the host, so that nobody has to look for words in the text; not sent over the wire.
        name: Of the dataset, where it is about one.
    """

    about: Part | None
    name: str

    def __new__(cls, text: str, about: Part | None = None, name: str = "") -> Self:
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

    def problems_of(self, about: Part, name: str = "") -> list[str]:
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
        return max((0, *(round(gpu.vram_bytes / GIB) for gpu in self.gpus)))


@dataclass(frozen=True, slots=True)
class Datasets:
    """The dataset folders a host offers.

    Attributes:
        folders: Name to folder; the name "default" is the one for jobs that name none.
        cache: File that remembers digests by size and time, None to read every byte each time.
    """

    folders: Mapping[str, Path] = field(default_factory=dict)
    cache: Path | None = None


def detect(
    work_dir: Path,
    *,
    name: str | None = None,
    datasets: Datasets | None = None,
    probe_timeout_s: float = 20.0,
    trainer_dir: Path | None = None,
) -> Capability:
    """Find out what this host can do.

    Takes as long as its slowest probe; call it once and use `refresh` afterwards.

    Args:
        work_dir: Where runs are made; must exist.
        name: Host name to report instead of the machine's own.
        datasets: Folders to digest and offer.
        probe_timeout_s: Longest time for the child that tries torch and CUDA.
        trainer_dir: Where the trainer of a worker in a single file lies; any other worker brings its own.

    Raises:
        ConfigurationError: `name` is no host name.
    """
    problems: list[str] = []
    gpus = _gpus(problems)
    torch_version, cuda_usable = _torch(problems, probe_timeout_s) if gpus else (_torch_version(), False)
    if gpus and torch_version is None:
        problems.append(Problem("a CUDA card is there but torch is not, so CUDA counts as not usable", "torch"))
    home = trainer_dir if PACKED and trainer_dir is not None else CHECKOUT
    revision, dirty = _revision(home, problems)
    contract, models = _asked_trainer(home, problems) if PACKED else _own_trainer(problems)
    held = _digests(datasets or Datasets(), problems)
    _note_busy(gpus, problems)
    return Capability(
        hostname=host_name(name),
        os=platform.system().lower(),
        os_version=_os_version(),
        arch=platform.machine().lower(),
        cpu_count=usable_cores(),
        ram_bytes=_ram_bytes(problems),
        gpus=gpus,
        cuda_present=bool(gpus),
        cuda_usable=cuda_usable and bool(gpus),
        torch_version=torch_version,
        python=platform.python_version(),
        revision=revision,
        dirty=dirty,
        free_disk_bytes=shutil.disk_usage(work_dir).free,
        version=__version__,
        contract=contract,
        models=models,
        datasets=held,
        problems=tuple(problems[:MAX_PROBLEMS]),
    )


def refresh(capability: Capability, work_dir: Path, datasets: Datasets) -> Capability:
    """Return the capability with what changes by the minute found again: free disk, free GPU memory, datasets.

    Problems of the first detection stay; those of datasets and found GPUs are as of now.
    """
    looked_at = ("dataset", "gpu") if capability.gpus else ("dataset",)
    lasting = [text for text in capability.problems if not (isinstance(text, Problem) and text.about in looked_at)]
    problems: list[str] = []
    gpus = _gpus(problems) if capability.gpus else ()
    held = _digests(datasets, problems)
    _note_busy(gpus, problems)
    return replace(
        capability,
        gpus=gpus or capability.gpus,
        free_disk_bytes=shutil.disk_usage(work_dir).free,
        datasets=held,
        problems=tuple((lasting + problems)[:MAX_PROBLEMS]),
    )


def with_free_cards(capability: Capability) -> Capability:
    """Return what a host has once nothing else uses its cards."""
    return replace(capability, gpus=tuple(replace(gpu, free_vram_bytes=gpu.vram_bytes) for gpu in capability.gpus))


def taken_by_others(uuid: str) -> str:
    """Return how much of a card is taken, for people; empty when less than a quarter of it is or nobody can tell.

    Asked after a training ended on the card, so that what is taken is no longer the training's.

    Args:
        uuid: The driver's name of the card.
    """
    for gpu in _gpus([]):
        taken_bytes = gpu.vram_bytes - gpu.free_vram_bytes
        if gpu.uuid == uuid and taken_bytes > gpu.vram_bytes * CROWDED_PART:
            return f"other programs hold {taken_bytes / GIB:.1f} of the card's {gpu.vram_bytes / GIB:.1f} GiB"
    return ""


def usable_cores() -> int:
    """Return how many cores this process may use: affinity and control group, not what the machine has."""
    cores = system.cores()
    quota = _cgroup_quota()
    return max(1, min(cores, quota)) if quota else cores


def _cgroup_quota() -> int:
    """Return the control group's limit in whole cores, rounded up; 0 without one.

    Source: Linux Documentation/admin-guide/cgroup-v2.rst (cpu.max) and scheduler/sched-bwc.rst (cfs_quota_us).
    """
    words = _text(_CGROUP / "cpu.max").split()
    if len(words) != 2:
        words = [_text(_CGROUP / "cpu" / f"cpu.cfs_{what}_us") for what in ("quota", "period")]
    if not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return 0
    return -(-int(words[0]) // int(words[1]))


def _ram_bytes(problems: list[str]) -> int:
    total = system.ram_bytes() or _psutil_ram_bytes()
    if total <= 0:
        problems.append("the amount of memory is unknown; install psutil on this host")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _text(_CGROUP / name)
        if limit.isdigit() and 0 < int(limit) < min(total, _UNLIMITED_BYTES):
            total = int(limit)
    return max(total, 0)


def _psutil_ram_bytes() -> int:
    if importlib.util.find_spec("psutil") is None:
        return 0
    return int(importlib.import_module("psutil").virtual_memory().total)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def host_name(name: str | None) -> str:
    """Return the name this host reports: the given one, or the machine's own.

    Raises:
        ConfigurationError: `name` is no host name.
    """
    return _own_name() if name is None else _checked_name(name)


def _own_name() -> str:
    plain = re.sub(r"[^0-9a-z._-]", "-", socket.gethostname().partition(".")[0].lower()).strip("._-")
    return plain[:63] or "unnamed"


def _checked_name(name: str) -> str:
    if not _HOST_NAME.fullmatch(name.lower()):
        raise ConfigurationError(
            f"found the host name {name!r}",
            expected="up to 63 letters, digits, dots, dashes and underscores that begin with a letter or digit",
        )
    return name.lower()


def _os_version() -> str:
    try:
        pretty = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        pretty = platform.version()
    return f"{pretty} ({platform.release()})"


# ---- graphics cards -------------------------------------------------------------------------------------------------


def _gpus(problems: list[str]) -> tuple[Gpu, ...]:
    """Return the NVIDIA cards: from NVML when its binding is installed and works, else from the driver's tool."""
    if importlib.util.find_spec("pynvml") is not None:
        try:
            return _nvml_gpus(importlib.import_module("pynvml"))
        except Exception as error:  # noqa: BLE001 - a binding without a driver raises its own classes
            problems.append(
                Problem(
                    f"GPU library: NVML does not work ({_brief(error)}); the nvidia-smi tool was asked instead", "gpu"
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


def _note_busy(gpus: Sequence[Gpu], problems: list[str]) -> None:
    """Say which cards are mostly taken: an orphan of an earlier training looks like this."""
    for gpu in gpus:
        if gpu.busy:
            free_gib, all_gib = gpu.free_vram_bytes / GIB, gpu.vram_bytes / GIB
            problems.append(
                Problem(f"GPU {gpu.name} is in use: {free_gib:.1f} of {all_gib:.1f} GiB free; see nvidia-smi", "gpu")
            )


def _decoded(text: Any) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _tool_gpus(problems: list[str]) -> tuple[Gpu, ...]:
    tool = system.gpu_tool()
    if tool is None:
        return ()
    command = [tool, f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"]
    status, out = _child(command, _TOOL_TIMEOUT_S)
    if status != 0:
        problems.append(Problem(f"GPU tool: nvidia-smi {_ending(status, _TOOL_TIMEOUT_S)}: {_last_line(out)}", "gpu"))
        return ()
    cards = [_tool_gpu(line, problems) for line in out.splitlines() if line.strip()]
    return tuple(card for card in cards if card is not None)


def _tool_gpu(line: str, problems: list[str]) -> Gpu | None:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != 5 or not cells[1].startswith("GPU-"):
        problems.append(Problem(f"GPU tool: nvidia-smi printed {line[:80]!r}; expected {_GPU_FIELDS}", "gpu"))
        return None
    sizes = [int(cell) * 2**20 if cell.isdigit() else 0 for cell in cells[2:4]]
    if not sizes[0]:
        problems.append(
            Problem(f"GPU memory of {cells[0]} is unknown ({cells[2][:40]!r}); declare vram_gib in the manifest", "gpu")
        )
    return Gpu(cells[0], cells[1], sizes[0], sizes[1], cells[4])


def _torch_version() -> str | None:
    """Return torch's version from its package metadata.

    Importing torch takes seconds, so that is done only where there is a card.
    """
    from importlib.metadata import PackageNotFoundError, version  # an idle worker does not carry it

    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def _torch(problems: list[str], timeout_s: float) -> tuple[str | None, bool]:
    """Return the version of torch and whether CUDA works with it, tried in a child."""
    if importlib.util.find_spec("torch") is None:
        return None, False
    status, out = _child([sys.executable, "-c", _TORCH_PROBE], timeout_s)
    found = [line.removeprefix(_MARK) for line in out.splitlines() if line.startswith(_MARK)]
    try:
        version, usable, problem = json.loads(found[-1]) if found else (None, False, "")
        version = None if version is None else str(version)
    except (ValueError, TypeError):
        version, usable, problem = None, False, "rubbish on its output"
    if status != 0 or version is None:
        problems.append(
            Problem(f"the probe of torch {_ending(status, timeout_s)}: {problem or _last_line(out)}", "torch")
        )
    elif problem:
        problems.append(Problem(f"torch is there but CUDA does not work: {problem}", "torch"))
    return version, usable is True and status == 0


# ---- trainer and data -----------------------------------------------------------------------------------------------


def _revision(checkout: Path, problems: list[str]) -> tuple[str | None, bool | None]:
    """Return commit and dirtiness of a checkout, None and None outside one."""
    git = shutil.which("git")
    if not (checkout / ".git").exists() or git is None:
        return None, None
    status, commit = _child([git, "-C", str(checkout), "rev-parse", "HEAD"], _TOOL_TIMEOUT_S)
    if status != 0:
        problems.append(f"git {_ending(status, _TOOL_TIMEOUT_S)}, so the revision is unknown: {_last_line(commit)}")
        return None, None
    status, changes = _child([git, "-C", str(checkout), "status", "--porcelain", "--", "training"], _TOOL_TIMEOUT_S)
    return commit.strip()[:64], bool(changes.strip()) if status == 0 else None


def _own_trainer(problems: list[str]) -> tuple[str | None, tuple[str, ...] | None]:
    """Return the digest of the project's own trainer's declaration and the models whose libraries are here."""
    try:
        from training.trainer import hyper  # a host may carry the fleet without the trainer
    except ImportError:
        problems.append("this host has no trainer of its own; only manifests with another trainer run here")
        return None, None
    models = tuple(model for model in hyper.MODELS if not hyper.missing_libraries(model))
    return hyper.contract_digest(hyper.describe()), models


def _asked_trainer(home: Path, problems: list[str]) -> tuple[str | None, tuple[str, ...] | None]:
    """Return the same for the trainer that lies in a folder or is installed beside Python; it is asked in a child."""
    from training.trainer.hyper import contract_digest

    command = [sys.executable, "-m", "training.trainer.run", "--describe"]
    status, out = _child(command, _TOOL_TIMEOUT_S, home)
    try:
        found = json.loads(out)
        libraries = {model: found["$defs"][model]["x-libraries"] for model in found["properties"]["model"]["enum"]}
        models = tuple(model for model in libraries if all(map(importlib.util.find_spec, libraries[model])))
        return contract_digest(found), models
    except (ValueError, KeyError, TypeError):
        why = _last_line(out)
        problems.append(
            f"no trainer was found in {home} (it {_ending(status, _TOOL_TIMEOUT_S)}: {why}); give the checkout's "
            "folder with --trainer-dir, or only manifests with another trainer run here"
        )
        return None, None


def _digests(datasets: Datasets, problems: list[str]) -> dict[str, str]:
    if not datasets.folders:
        return {}
    from training.dataset import DatasetError, dataset_digest  # not paid for by a worker without datasets

    found: dict[str, str] = {}
    for name, folder in datasets.folders.items():
        try:
            found[name] = dataset_digest(folder, datasets.cache)
        except DatasetError as error:
            problems.append(Problem(f"dataset {name} is left out: {_brief(error)}", "dataset", name))
    return found


# ---- children -------------------------------------------------------------------------------------------------------


def _child(command: Sequence[str], timeout_s: float, home: Path | None = None) -> tuple[int | None, str]:
    """Run a short-lived program; the status is None when it had to be killed, -1000 when it could not start."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("CIS490_", "GIT_"))}
    if home is not None:
        environ["PYTHONPATH"] = str(home)  # not what happens to lie where the worker was started
    try:
        done = subprocess.run(  # noqa: S603 - fixed programs with fixed arguments
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=timeout_s, env=environ, cwd=home, check=False, creationflags=system.HIDDEN,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, ""
    except OSError as error:
        return -1000, _brief(error)
    return done.returncode, done.stdout.decode("utf-8", "replace")


def _ending(status: int | None, timeout_s: float) -> str:
    if status is None:
        return f"did not end within {timeout_s:g} s and was killed"
    if status == -1000:
        return "could not be started"
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def _brief(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:300]
