"""Whether this host can train: what `--self-test` looks at and says."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from training.fleet import checks
from training.fleet.capability.detect import detect
from training.fleet.checks import Check, Seen, fail, of_error, ok
from training.fleet.client import Client
from training.fleet.model.capability import GIB, Capability, Gpu
from training.fleet.model.errors import FleetError, TrainerError
from training.fleet.model.jobs import DEFAULT_DATASET
from training.fleet.worker.identity import show_secret
from training.fleet.worker.options import Options
from training.fleet.worker.start import OWN_COMMAND, argument_vector, declared


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What this host can do and whether it can train.

    Attributes:
        capability: What was detected.
        checks: What was tried.
        hints: What was not tried or set, and how to change that, for people.
    """

    capability: Capability
    checks: tuple[Check, ...]
    hints: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.state != "fail" for check in self.checks)

    def as_json(self) -> str:
        """Return it for machines: `{ok, checks, capability}`."""
        body = {
            "ok": self.ok,
            "checks": [dataclasses.asdict(check) for check in self.checks],
            "capability": dataclasses.asdict(self.capability),
        }
        return json.dumps(body, indent=2) + "\n"

    def show(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        """Write it for people: the facts, what is worth a note, and the checks as `doctor` prints them."""
        lines = [f"{name:<12} {value}" for name, value in _facts(self.capability)]
        lines += [f"{'note':<12} {problem}" for problem in (*self.capability.problems, *self.hints)]
        lines += checks.lines(self.checks, stream, environ)
        lines.append("This host can train." if self.ok else "This host cannot train: correct what FAIL says.")
        stream.write("\n".join(lines) + "\n")


def examine(chosen: Options, client: Client | None) -> SelfTest:
    """Detect the capability and try everything that a training needs.

    Args:
        chosen: The worker's settings.
        client: The receiver to try, None when none is set.
    """
    capability = detect(
        chosen.work_dir,
        name=chosen.name,
        datasets=chosen.datasets,
        probe_timeout_s=chosen.probe_timeout_s,
        trainer_dir=chosen.rules.trainer_dir,
    )
    found = [
        Check("trainer", *trainer(chosen)),
        Check("libraries", *libraries(capability)),
        Check("work folder", *work_folder(chosen)),
        Check("disk", *disk(chosen, capability)),
    ]
    names = (name for name in chosen.datasets.folders if name != DEFAULT_DATASET)
    found += [Check(f"dataset {name}", *dataset(name, capability)) for name in names]
    if client is not None:
        found.append(Check("receiver", *_receiver(client, capability.hostname)))
    return SelfTest(capability, tuple(found), tuple(_hints(chosen)))


def _hints(chosen: Options) -> list[str]:
    hints = []
    if not chosen.datasets.folders:
        hints.append("no dataset is given, which the project's own models need; give --dataset NAME=FOLDER")
    if not chosen.receiver_is_set:
        hints.append("no receiver is given, so none was tried; give --receiver ADDRESS")
    return hints


def _facts(found: Capability) -> list[tuple[str, Any]]:
    cuda = "usable" if found.cuda_usable else "present, not usable" if found.cuda_present else "none"
    changed = {True: " with changes", False: "", None: ""}[found.dirty]
    cards = [
        (
            "gpu",
            f"{gpu.title}, {_memory(gpu)}, driver {gpu.driver or 'unknown'}",
        )
        for gpu in found.gpus
    ]
    return [
        ("host", found.hostname),
        ("system", f"{found.os} {found.arch}, {found.os_version}"),
        ("cores", found.cpu_count),
        ("memory", f"{found.ram_bytes / GIB:.1f} GiB"),
        *cards,
        ("cuda", cuda),
        ("torch", found.torch_version or "not installed"),
        ("python", found.python),
        ("revision", f"{found.revision}{changed}" if found.revision else "not a checkout"),
        ("free disk", f"{found.free_disk_bytes / GIB:.1f} GiB"),
        ("models", ", ".join(found.models or ()) or "none"),
        ("datasets", ", ".join(sorted(found.datasets)) or "none"),
    ]


def _memory(gpu: Gpu) -> str:
    if not gpu.vram_bytes:
        return "memory unknown"
    size = f"{gpu.vram_bytes / GIB:.1f} GiB, {gpu.free_vram_bytes / GIB:.1f} free"
    return size if gpu.usable else f"{size}, torch cannot use it"


def trainer(chosen: Options) -> Seen:
    """Try whether this host's own trainer answers."""
    trainer_dir = chosen.rules.trainer_dir
    try:
        digest = declared(argument_vector(OWN_COMMAND, trainer_dir), chosen.work_dir, trainer_dir)
    except TrainerError as error:
        return of_error(error)
    return ok(f"answers --describe, contract {digest[:19]}…")


def libraries(found: Capability) -> Seen:
    """Look which models' libraries are here."""
    if found.models:
        return ok(f"there for {', '.join(found.models)}")
    return fail("those of no model are installed", "install the extra [trainer] of this package")


def work_folder(chosen: Options) -> Seen:
    """Try to write into the work folder."""
    probe = chosen.work_dir / f".probe-{os.getpid()}"
    try:
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        return fail(f"{chosen.work_dir} cannot be written ({error.strerror})", "check its owner")
    return ok(f"{chosen.work_dir} can be written")


def disk(chosen: Options, found: Capability) -> Seen:
    """Compare the free disk with what is wanted."""
    enough = found.free_disk_bytes >= chosen.rules.min_free_bytes
    wanted = f"at least {chosen.rules.min_free_bytes / GIB:g} are wanted (min_free_gib)"
    said = f"{found.free_disk_bytes / GIB:.1f} GiB free, {wanted}"
    return ok(said) if enough else fail(said, "make room on the disk of the work folder, or lower min_free_gib")


def dataset(name: str, found: Capability) -> Seen:
    """Look whether a dataset could be read."""
    digest = found.datasets.get(name)
    if digest is not None:
        return ok(f"{name} is valid, {digest[:19]}…")
    said = found.problems_of("dataset", name)
    remedy = f"correct --dataset {name}=FOLDER, or bring its files back"
    return fail(said[0] if said else f"{name} cannot be read", remedy)


def _receiver(client: Client, worker: str) -> Seen:
    """Ask whether it is there, and show it the token."""
    try:
        client.get("/healthz", deadline_s=3)
        show_secret(client, worker, deadline_s=3)
    except FleetError as error:
        return of_error(error, "look at the receiver: cis490-trainer-receiver doctor there")
    finally:
        client.close()
    return ok(f"answers at {client.address.url} and lets this worker in")
