"""What a trainer is started with: its command, its environment, its job description, and whether it is the right one.

Guarantees that a trainer sees no token and nothing else of the worker's environment beyond an allow-list, one card by
its stable name, and as many threads as its slot has.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.fleet import system
from training.fleet.capability.checkout import CHECKOUT, PACKED
from training.fleet.model.capability import Capability, Gpu
from training.fleet.model.errors import TrainerError
from training.fleet.model.jobs import DEFAULT_DATASET, Trainer
from training.fleet.model.variables import refused

PASSED_ON: Final = (
    "HOME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "TZ", "USER",
    "APPDATA", "COMSPEC", "LOCALAPPDATA", "NUMBER_OF_PROCESSORS", "PATHEXT", "PROCESSOR_ARCHITECTURE", "PROGRAMDATA",
    "SYSTEMDRIVE", "SYSTEMROOT", "USERPROFILE", "WINDIR",
)  # fmt: skip
"""Variables a trainer gets from the worker's environment; the second half is what programs on Windows need."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_DESCRIBE_TIMEOUT_S = 10.0
_MAX_DESCRIPTION_BYTES = 2**20
OWN_COMMAND: Final = Trainer().command


@dataclass(frozen=True, slots=True)
class Seat:
    """What one slot of a host offers a trainer.

    Attributes:
        threads: Threads it should use.
        gpu: The card it may use, None for none.
        missing: UUID of the card that the lease names and that is not here; empty when nothing is missing.
    """

    threads: int
    gpu: Gpu | None = None
    missing: str = ""

    def demand_card(self) -> None:
        """Check that the card of the lease is here.

        Raises:
            TrainerError: It is not; another host may have one.
        """
        if self.missing:
            raise TrainerError(
                f"the card {self.missing} that the lease names is not on this host now",
                "see nvidia-smi there; the job is given to another card",
                kind="host_fault",
            )

    @property
    def device(self) -> str:
        """The device in the job description: "cuda" or "cpu"."""
        return "cpu" if self.gpu is None else "cuda"


def seat(
    capability: Capability, slot: int, slots: int, threads: int = 0, *, cuda: bool, card: str | None = None
) -> Seat:
    """Return what a slot offers: an even part of the cores, and the card that the lease names.

    Args:
        capability: Of the host.
        slot: Which slot, from 0.
        slots: How many there are.
        threads: Threads per trainer, 0 for an even part of the cores.
        cuda: Whether the lease lets the trainer use a card.
        card: UUID that the lease names; None from a receiver of an older version, then the slots share the free cards
            in turn.

    Returns:
        The seat; one without the card that the lease names says so in `missing`.
    """
    share = threads or max(1, capability.cpu_count // slots)
    if cuda and card is not None:
        named = next((gpu for gpu in capability.gpus if gpu.uuid == card and gpu.usable), None)
        return Seat(share, named, "" if named else card)
    cards = [gpu for gpu in capability.gpus if gpu.usable and not gpu.busy]
    if not (cuda and capability.cuda_usable and cards):
        return Seat(share)
    cards.sort(key=lambda gpu: (-gpu.vram_bytes, gpu.uuid))
    return Seat(share, cards[slot % len(cards)])


def environment(
    offered: Seat,
    scratch: Path,
    environ: Mapping[str, str] = os.environ,
    trainer_dir: Path = CHECKOUT,
    pass_env: Collection[str] = (),
    given: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the whole environment of a trainer.

    Args:
        offered: What its slot has.
        scratch: Its folder for temporary files.
        environ: The worker's own environment.
        trainer_dir: Where the project's own trainer lies when the worker is a single file.
        pass_env: Names of further variables of the worker's environment that it gets.
        given: Variables that the manifest sets. Those that would change what the worker sets are left out.
    """
    passed = {name: value for name, value in environ.items() if name.upper() in PASSED_ON or name in pass_env}
    passed |= {name: value for name, value in (given or {}).items() if not refused(name, of_manifest=True)}
    threads = dict.fromkeys(_THREAD_VARIABLES, str(offered.threads))
    own = {
        "TMPDIR": str(scratch),
        "TEMP": str(scratch),
        "TMP": str(scratch),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "" if offered.gpu is None else offered.gpu.uuid,
    }
    home = _trainer_home(trainer_dir)
    if not {"site-packages", "dist-packages"} & set(home.parts):
        own["PYTHONPATH"] = str(home)
    return passed | threads | own


def _trainer_home(trainer_dir: Path) -> Path:
    """Return the folder that holds the project's own trainer."""
    return trainer_dir if PACKED else CHECKOUT


def argument_vector(command: Sequence[str], trainer_dir: Path) -> list[str]:
    """Return a manifest's command as this host runs it.

    `{python}` becomes the worker's interpreter; a relative path of a file below `trainer_dir` becomes absolute, because
    the trainer starts in a folder of its own.
    """
    return [_argument(item, trainer_dir) for item in command]


def _argument(item: str, trainer_dir: Path) -> str:
    if item == "{python}":
        return sys.executable
    plain = item and not item.startswith("-") and "\0" not in item and not Path(item).is_absolute()
    return str(trainer_dir / item) if plain and (trainer_dir / item).is_file() else item


def job_document(
    job_id: str,
    spec: Mapping[str, Any],
    folders: Mapping[str, Path],
    held: Mapping[str, str],
    offered: Seat,
    resume: Path | None,
) -> dict[str, Any]:
    """Return the job description for the trainer.

    Args:
        job_id: Identity of the job.
        spec: Identity document of the lease.
        folders: Dataset name to folder, as this host is set up.
        held: Dataset name to digest, as this host found them.
        offered: What its slot has.
        resume: Folder for checkpoints, None without one.

    Raises:
        TrainerError: The job names a dataset that this host does not hold, or holds with other content.
    """
    wanted = spec.get("dataset") or {}
    name = wanted.get("name", DEFAULT_DATASET)
    if wanted and name not in held:
        raise _wrong_data(f"the job wants the dataset {name!r}, which this host does not hold")
    if wanted.get("digest", held.get(name)) != held.get(name):
        raise _wrong_data(f"the dataset {name!r} here has {held.get(name)}, the job wants {wanted['digest']}")
    dataset = None
    if name in folders and name in held:
        dataset = {"name": _plain_name(name, folders), "path": str(folders[name]), "digest": held[name]}
    return {
        "v": 1,
        "job_id": job_id,
        "spec": {key: value for key, value in spec.items() if key != "v"},
        "dataset": dataset,
        "threads": offered.threads,
        "device": offered.device,
        "resume": None if resume is None else str(resume),
    }


def _wrong_data(found: str) -> TrainerError:
    return TrainerError(found, "check --dataset of this worker", kind="host_fault")


def _plain_name(name: str, folders: Mapping[str, Path]) -> str:
    """Return the proper name of the default dataset where it has one."""
    if name != DEFAULT_DATASET:
        return name
    return next((other for other, folder in folders.items() if other != name and folder == folders[name]), name)


class Contracts:
    """Digests of what trainers declare, asked once per command and state of its files.

    Args:
        own: Digest of the project's own trainer, as detection found it; None when it has none.
        trainer_dir: Where relative paths of a command lie.
    """

    def __init__(self, own: str | None, trainer_dir: Path) -> None:
        self._trainer_dir = trainer_dir
        self._known: dict[object, str] = {}
        if own is not None:
            self._known[self._key(OWN_COMMAND)] = own

    def digest(self, command: Sequence[str], scratch: Path) -> str:
        """Return the digest of what a command declares.

        Raises:
            TrainerError: It declares nothing that can be read.
        """
        key = self._key(command)
        if key not in self._known:
            self._known[key] = declared(argument_vector(command, self._trainer_dir), scratch, self._trainer_dir)
        return self._known[key]

    def _key(self, command: Sequence[str]) -> object:
        stamps = []
        for item in argument_vector(command, self._trainer_dir):
            path = Path(shutil.which(item) or item) if "\0" not in item else Path()
            stamps.append((item, path.stat().st_mtime_ns if path.is_absolute() and path.is_file() else 0))
        if tuple(command) == OWN_COMMAND:
            own = _trainer_home(self._trainer_dir) / "training" / "trainer" / "hyper.py"
            stamps.append((str(own), own.stat().st_mtime_ns if own.is_file() else 0))
        return tuple(stamps)


def declared(command: Sequence[str], scratch: Path, trainer_dir: Path = CHECKOUT) -> str:
    """Run a trainer with `--describe` and return the digest of what it declares.

    Raises:
        TrainerError: It cannot be started, takes too long, fails, or prints no JSON object.
    """
    from training.trainer.hyper import contract_digest  # only manifests that name a contract need it

    try:
        done = subprocess.run(  # noqa: S603 - the command is the operator's, no shell is involved
            [*command, "--describe"], stdin=subprocess.DEVNULL, capture_output=True, cwd=scratch,
            env=environment(Seat(1), scratch, trainer_dir=trainer_dir), timeout=_DESCRIBE_TIMEOUT_S, check=False,
            creationflags=system.HIDDEN,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise _undescribed(f"does not answer --describe within {_DESCRIBE_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise _undescribed(f"cannot be started ({error.strerror})") from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise _undescribed(f"answers --describe with status {done.returncode}: {lines[-1][:300] if lines else ''}")
    try:
        found = json.loads(done.stdout) if len(done.stdout) <= _MAX_DESCRIPTION_BYTES else None
        if isinstance(found, dict):
            return contract_digest(found)
    except (ValueError, RecursionError):
        pass
    raise _undescribed("prints no JSON object of at most 1 MiB on --describe")


def _undescribed(what: str) -> TrainerError:
    return TrainerError(f"the trainer on this host {what}", "correct it or the manifest's [trainer]", kind="host_fault")
