"""`cis490-training-worker doctor`: what is wrong with this host and what to do about it.

Owns the command and the checks of the host itself; the way to the receiver is that of `reach`. Guarantees that it may
be run while the worker runs, that it changes nothing on host or receiver, that no secret is printed, and that it ends.
Leaves what a training needs at least to `selftest`, which installers call and whose checks it uses.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import getpass
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from training.fleet import system
from training.fleet.capability.checkout import PACKED
from training.fleet.capability.detect import detect, host_name
from training.fleet.checks import (
    Check,
    Look,
    Seen,
    exit_status,
    fail,
    made,
    of_settings,
    ok,
    python,
    show,
    task,
    unit,
    warn,
)
from training.fleet.model.capability import GIB, Capability
from training.fleet.model.errors import ConfigurationError
from training.fleet.model.jobs import DEFAULT_DATASET
from training.fleet.model.placement import card_state
from training.fleet.settings import Settings, add_flags
from training.fleet.worker import reach, selftest
from training.fleet.worker.options import TABLE, Options, checked, effective, token_of
from training.fleet.worker.reach import REACH
from training.fleet.worker.work_folder import demand_own, demand_own_way

PROGRAM: Final = "cis490-training-worker doctor"
SERVICE: Final = "cis490-training-worker"
DATASET_S: Final = 300.0
"""Longest time to read the datasets, which may be large and not be known yet."""
_DEVICES: Final = Path("/dev")
_BUS: Final = Path("/sys/bus/pci/devices")
_NVIDIA: Final = "0x10de"
_DISPLAY: Final = "0x03"


def run_doctor(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Run the command.

    Args:
        words: Arguments after "doctor".
        environ: Environment variables.

    Returns:
        0 when nothing fails, 1 when something does, 69 when only the receiver cannot be reached, 78 when the settings
        cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Look at everything that a worker needs on this host and say how to correct what is wrong.",
        epilog="It changes nothing. Give it the settings, the user and the environment of the worker it is about.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    add_flags(parser, TABLE)
    flags = vars(parser.parse_args(words))
    as_json = flags.pop("json")
    checks = examined(flags, environ)
    status = exit_status(checks, reach=REACH)
    show(checks, status, sys.stdout, as_json=as_json, environ=environ)
    return status


def examined(flags: Mapping[str, object], environ: Mapping[str, str]) -> list[Check]:
    """Look at everything; without settings only at what needs none."""
    first = [Look("python", python)]
    try:
        found = effective(flags, environ)
        chosen = checked(found, environ, None)
        way = reach.way_of(chosen, host_name(chosen.name))
    except ConfigurationError as error:
        return [*made([*first, Look("service", service)]), Check("settings", *of_settings(error))]
    return made([*first, *_looks(found, way, environ)])


def _looks(found: Settings, way: reach.Way, environ: Mapping[str, str]) -> list[Look]:
    chosen = way.chosen
    capability = functools.cache(lambda: detected(chosen))

    def secret() -> Seen:
        way.chosen = dataclasses.replace(chosen, token=token_of(found, environ))
        return reach.secret(way.chosen)

    names = [name for name in chosen.datasets.folders if name != DEFAULT_DATASET]
    return [
        Look("settings", lambda: in_force(found)),
        Look("work folder", lambda: work_folder(chosen)),
        Look("host", lambda: host(capability()), limit_s=chosen.probe_timeout_s + DATASET_S),
        Look("disk", lambda: selftest.disk(chosen, capability()), ("host",)),
        Look("gpu", lambda: gpu(capability()), ("host",)),
        Look("cuda", lambda: cuda(capability()), ("host",)),
        Look("trainer", lambda: trainer(chosen)),
        Look("libraries", lambda: libraries(capability()), ("host",)),
        *(Look(f"dataset {name}", functools.partial(dataset, name, capability), ("host",)) for name in names),
        *([] if names else [Look("datasets", no_dataset)]),
        Look("service", service),
        Look("secret", secret),
        *reach.looks(way, capability),
    ]


# ---- settings and folder --------------------------------------------------------------------------------------------


def in_force(found: Settings) -> Seen:
    """Say which settings are not the defaults, and where they come from."""
    shown = re.sub(r"//[^/@\s]*@", "//", ", ".join(found.given()))
    return ok(shown or "all are the defaults")


def work_folder(chosen: Options) -> Seen:
    """Try to write into the work folder; one that is not there is left to the worker to make."""
    if os.path.lexists(chosen.work_dir) and (owner := system.other_owner(chosen.work_dir)):
        # Who runs doctor as another user than the worker's must not be told to move the worker's folder away.
        return fail(
            f"{chosen.work_dir} belongs to the user {owner}, and this is {system.user()}",
            f"run doctor as {owner} if the worker runs so; else give the worker a folder of its own with --work-dir",
        )
    demand_own_way(chosen.work_dir)
    demand_own(chosen.work_dir)
    if chosen.work_dir.is_dir():
        return selftest.work_folder(chosen)
    above = _existing(chosen.work_dir)
    if not os.access(above, os.W_OK):
        return fail(
            f"{chosen.work_dir} is not there, and {getpass.getuser()} cannot make it in {above}",
            "run doctor as the worker's user with its settings, or correct --work-dir",
        )
    return ok(f"{chosen.work_dir} is made when the worker starts")


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def detected(chosen: Options) -> Capability:
    """Return what this session finds on the host; nothing is left behind in a folder of another user."""
    folder = _existing(chosen.work_dir)
    own = folder == chosen.work_dir and (not hasattr(os, "geteuid") or folder.stat().st_uid == os.geteuid())
    datasets = chosen.datasets if own else dataclasses.replace(chosen.datasets, cache=None)
    return detect(
        folder,
        name=chosen.name,
        datasets=datasets,
        probe_timeout_s=chosen.probe_timeout_s,
        trainer_dir=chosen.rules.trainer_dir,
    )


def host(found: Capability) -> Seen:
    """Say what the host is."""
    memory = f"{found.ram_bytes / GIB:.1f} GiB"
    return ok(f"{found.hostname}, {found.os_version}, {found.cpu_count} cores, {memory} of memory")


# ---- the card -------------------------------------------------------------------------------------------------------


def gpu(found: Capability, devices: Path = _DEVICES, bus: Path = _BUS) -> Seen:
    """Check that the cards of this host can be seen in this session."""
    if found.gpus:
        return _seen(found)
    if chosen := found.problems_of("gpu_choice"):
        return warn(chosen[0], "nothing to do if it was meant so; jobs that require CUDA run elsewhere")
    broken = found.problems_of("gpu") or found.problems_of("gpu_library")
    closed = [path for path in sorted(devices.glob("nvidia[0-9]*")) if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        user = getpass.getuser()
        remedy = f"sudo usermod -aG video,render {user}, then log in again; a service: restart it"
        return fail(f"{user} may not use {closed[0]}", remedy)
    if broken:
        return fail(
            broken[0], "nvidia-smi must list the card for this user: repair the driver, or start the host again"
        )
    if _on_bus(bus):
        return warn(
            "an NVIDIA card is built in and no driver shows it here",
            "install the NVIDIA driver; in a container or unit, let it see /dev/nvidia*: nvidia-smi must list the card",
        )
    return ok("no NVIDIA card; jobs that require CUDA run elsewhere")


def _seen(found: Capability) -> Seen:
    shown = "; ".join(f"{card_state(one)}, driver {one.driver or 'unknown'}" for one in found.gpus)
    busy = [one for one in found.gpus if one.busy]
    if busy:
        return warn(f"{shown}; {busy[0].title} is in use", "nvidia-smi shows what holds it; end that")
    if broken := found.problems_of("gpu"):
        return warn(f"{shown}; {broken[0]}", "`cis490-training-worker --self-test` and nvidia-smi show each card")
    return ok(shown)


def _on_bus(bus: Path) -> bool:
    return any(
        _word(card / "vendor") == _NVIDIA and _word(card / "class").startswith(_DISPLAY) for card in bus.glob("*")
    )


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def cuda(found: Capability) -> Seen:
    """Check that torch can use the card."""
    if not found.gpus:
        return ok("no card to use")
    if found.cuda_usable:
        return ok(f"torch {found.torch_version} runs on it")
    if found.torch_version is None:
        return warn("torch is not installed, so the card is not used", "install the extra [torch] of this package")
    return fail(
        next(iter(found.problems_of("torch")), "torch cannot use the card"),
        "install a build of torch for the driver's CUDA version; nvidia-smi shows that version",
    )


# ---- trainer and data -----------------------------------------------------------------------------------------------


def trainer(chosen: Options) -> Seen:
    """Start the trainer as a job would, only to describe itself."""
    folder = _existing(chosen.work_dir)
    seen = selftest.trainer(dataclasses.replace(chosen, work_dir=folder))
    if seen.state == "fail" and PACKED:
        return fail(seen.found, "give the folder of the checkout that holds the trainer with --trainer-dir")
    return seen


def libraries(found: Capability) -> Seen:
    """Look which models' libraries are here; a trainer of another kind needs none of them."""
    return selftest.libraries(found)._replace(state="ok" if found.models else "warn")


def dataset(name: str, capability: Callable[[], Capability]) -> Seen:
    """Check that a dataset could be read and digested."""
    return selftest.dataset(name, capability())


def no_dataset() -> Seen:
    """Say that none is given."""
    return warn("no dataset is given, which the project's own models need", "give --dataset NAME=FOLDER")


def service() -> Seen:
    """Look whether the worker runs as a service."""
    return task(SERVICE) if system.LONGEST_ROOT is not None else unit(SERVICE)
