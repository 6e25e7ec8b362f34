"""Detection put together: `detect` at the start, `refresh` before each claim.

Guarantees that a host without GPU, torch or git gets a clean answer, that what can crash or hang runs in a child with a
time limit, and that whatever could not be found out stands in `problems`. Leaves judging the facts to `placement`.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Final

from training.fleet import __version__, system
from training.fleet.capability import cards, checkout, child, libraries, limits, probed
from training.fleet.model.capability import Capability, Datasets, Problem
from training.fleet.model.errors import ConfigurationError
from training.fleet.model.names import is_host_name

MAX_PROBLEMS: Final = 16


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
        ConfigurationError: `name` is not a host name.
    """
    problems: list[str] = []
    gpus, torch_version, cuda_usable = probed.look(problems, probe_timeout_s)
    home = trainer_dir if checkout.PACKED and trainer_dir is not None else checkout.CHECKOUT
    revision, dirty = libraries.revision(home, problems)
    contract, models = libraries.asked_trainer(home, problems) if checkout.PACKED else libraries.own_trainer(problems)
    held = _digests(datasets or Datasets(), problems)
    cards.note_busy(gpus, problems)
    return Capability(
        hostname=host_name(name),
        os=platform.system().lower(),
        os_version=_os_version(),
        arch=platform.machine().lower(),
        cpu_count=usable_cores(),
        ram_bytes=_ram_bytes(problems),
        gpus=gpus,
        cuda_present=bool(gpus),
        cuda_usable=cuda_usable,
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


def refresh(capability: Capability, work_dir: Path, datasets: Datasets, probe_timeout_s: float = 20.0) -> Capability:
    """Return the capability with what changes by the minute found again: free disk, cards, datasets.

    A card may come with a driver that is installed later, and go at run time. Torch is tried again only when the cards
    are others than before. Problems of the first detection stay; those of datasets and cards are as of now.

    Args:
        capability: As it was found last.
        work_dir: Where runs are made.
        datasets: Folders to digest and offer.
        probe_timeout_s: Longest time for the child that tries torch and CUDA.
    """
    problems: list[str] = []
    gpus, torch_version, cuda_usable = probed.look_again(capability, problems, probe_timeout_s)
    held = _digests(datasets, problems)
    cards.note_busy(gpus, problems)
    looked_at = {"dataset", "gpu", "gpu_library", "gpu_choice"}
    if not probed.same_cards(capability.gpus, gpus):
        looked_at.add("torch")
    lasting = [text for text in capability.problems if not (isinstance(text, Problem) and text.about in looked_at)]
    return replace(
        capability,
        gpus=gpus,
        cuda_present=bool(gpus),
        cuda_usable=cuda_usable,
        torch_version=torch_version,
        free_disk_bytes=shutil.disk_usage(work_dir).free,
        datasets=held,
        problems=tuple((lasting + problems)[:MAX_PROBLEMS]),
    )


def usable_cores() -> int:
    """Return how many cores this process may use: affinity and control group, not what the machine has."""
    return max(1, min(system.cores(), limits.cores() or system.cores()))


def _ram_bytes(problems: list[str]) -> int:
    total = system.ram_bytes() or _psutil_ram_bytes()
    if total <= 0:
        problems.append("the amount of memory is unknown; install psutil on this host")
    return max(0, min(total, limits.memory_bytes() or total))


def _psutil_ram_bytes() -> int:
    if importlib.util.find_spec("psutil") is None:
        return 0
    return int(importlib.import_module("psutil").virtual_memory().total)


def host_name(name: str | None) -> str:
    """Return the name this host reports: the given one, or the machine's own.

    Raises:
        ConfigurationError: `name` is not a host name.
    """
    return _own_name() if name is None else _checked_name(name)


def _own_name() -> str:
    plain = re.sub(r"[^0-9a-z._-]", "-", socket.gethostname().partition(".")[0].lower()).strip("._-")
    return plain[:63] or "unnamed"


def _checked_name(name: str) -> str:
    if not is_host_name(name.lower()):
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


def held_digests(datasets: Datasets) -> dict[str, str]:
    """Return the digest of each dataset that can be read, as of now."""
    return _digests(datasets, [])


def _digests(datasets: Datasets, problems: list[str]) -> dict[str, str]:
    if not datasets.folders:
        return {}
    from training.contracts.dataset import DatasetError  # not paid for by a worker without datasets
    from training.contracts.dataset_folder import dataset_digest

    found: dict[str, str] = {}
    # The first dataset is the default one too; what is wrong with its folder is said once, under the name it was given.
    named = [folder for name, folder in datasets.folders.items() if name != "default"]
    for name, folder in datasets.folders.items():
        try:
            found[name] = dataset_digest(folder, datasets.cache)
        except DatasetError as error:
            if name == "default" and folder in named:
                continue
            problems.append(Problem(f"dataset {name} is left out: {child.brief(error)}", "dataset", name))
    return found
