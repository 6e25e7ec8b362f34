"""Hosts as text: all of them in a table, and everything known of one.

Owns the commands `hosts` and `host`. Guarantees that a figure which the manifest lowers is shown with what was
detected, and that a host which the manifest does not admit never looks idle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from training.fleet.cli.commands import Call
from training.fleet.cli.known import nearest
from training.fleet.cli.remote import read
from training.fleet.cli.text import Terminal, arranged, clean, duration, size, table, word
from training.fleet.cli.views import identity, meter
from training.fleet.model import placement
from training.fleet.model.capability import GIB, Capability, Gpu
from training.fleet.model.errors import NotFoundError
from training.fleet.model.jobs import Policy
from training.fleet.wire.people import JobPage, JobView, WorkerPage, WorkerView
from training.trainer import hyper

WORKER_COLUMNS: Final = (
    "HOST", "STATE", "SEEN", "JOBS", "CORES", "RAM", "GPU", "VRAM", "CUDA", "TORCH", "ALLOWED", "VERSION", "PROBLEMS",
    "SLOTS", "COMMIT",
)  # fmt: skip
"""In the order of a pipe, where columns are only ever added at the end."""
_ON_A_TERMINAL: Final = (
    "HOST", "STATE", "SLOTS", "JOBS", "SEEN", "CORES", "RAM", "VRAM", "CUDA", "ALLOWED", "GPU", "TORCH", "VERSION",
    "COMMIT",
)  # fmt: skip
_SPARE: Final = ("COMMIT", "VERSION", "TORCH", "ALLOWED", "CUDA", "GPU", "CORES")
_SHORT: Final = 12
NOBODY: Final = "no host has called yet; start one with `cis490-training-worker`"


def hosts(call: Call) -> int:
    """Show every known host."""
    answer = call.remote.collect("/v1/workers", "workers", {})
    if call.console.as_json:
        call.console.document(answer)
        return 0
    found = read(WorkerPage, answer).workers
    if found or call.console.terminal.width is None:
        call.console.lines(overview(found, call.console.terminal))
    else:
        call.console.lines([NOBODY])
    return 0


def host(call: Call) -> int:
    """Show everything about one host."""
    name = call.options.name
    answer = call.remote.collect("/v1/workers", "workers", {})
    found = next((one for one in answer["workers"] if one.get("name") == name), None)
    if found is None:
        names = [str(one.get("name")) for one in answer["workers"]]
        there = f"{nearest(name, names)}hosts are {', '.join(names[:20])}" if names else NOBODY
        raise NotFoundError(f"found no host {name}", there)
    running = call.remote.collect("/v1/jobs", "jobs", {"status": "claimed,running", "host": name})
    if call.console.as_json:
        call.console.document({"host": found, "jobs": running["jobs"]})
    else:
        call.console.lines(about(read(WorkerView, found), read(JobPage, running).jobs, call.console.terminal))
    return 0


# ---- all of them ----------------------------------------------------------------------------------------------------


def overview(found: Sequence[WorkerView], terminal: Terminal) -> list[str]:
    """Return hosts as a table; on a terminal with the problems of each host below it."""
    rows = [_row(one, terminal) for one in found]
    if terminal.width is None:
        return table(WORKER_COLUMNS, rows, terminal)
    header, rows = arranged(WORKER_COLUMNS, rows, _ON_A_TERMINAL)
    below = [f"{clean(one.name)}: {clean(text)}" for one in found for text in problems(one)]
    return [*table(header, rows, terminal, _SPARE), *below]


def problems(one: WorkerView) -> list[str]:
    """Return the problems of a host: alerts, a missing policy, drift, and what detection found broken."""
    found = () if one.capability is None else one.capability.problems
    refused = [] if one.policy is not None else ["the manifest does not admit this host: add [hosts.NAME] to it"]
    return [*one.alerts, *refused, *one.drift, *found]


def _row(one: WorkerView, terminal: Terminal) -> list[str]:
    seen = "-" if one.last_seen_s is None else f"{duration(one.last_seen_s)} ago"
    held = ",".join(identity(job, terminal) for job in one.jobs) or "-"
    if terminal.width is not None:
        held = held.replace(",", ", ")  # between two ids a line may be broken
    found = one.capability
    version = "-" if found is None else found.version or "-"
    offer, said = _offer(found, _policy(one)), "; ".join(problems(one))
    return [one.name, one.state, seen, held, *offer, _allowed(one), version, said, _slots(one), _commit(found)]


def _offer(found: Capability | None, policy: Policy) -> list[str]:
    if found is None:
        return ["-"] * 6
    offered = placement.effective(found, policy)
    names = ", ".join(gpu.name for gpu in found.gpus) or "-"
    ram = _lowered(offered.ram_gib, found.ram_gib)
    vram = _lowered(offered.vram_gib, found.vram_gib) if found.gpus else "-"
    return [str(found.cpu_count), ram, names, vram, _cuda(found, policy), found.torch_version or "-"]


def _cuda(found: Capability, policy: Policy) -> str:
    if found.cuda_usable:
        return "yes" if policy.cuda is not False else "off"
    return "broken" if found.cuda_present else "none"


def _lowered(offered: int, detected: int) -> str:
    """Return a size, and what was detected where the manifest lowers it."""
    return f"{offered} GiB" if offered == detected else f"{offered} of {detected} GiB"


def _policy(one: WorkerView) -> Policy:
    """Return the manifest's word on a host; keys of a newer receiver are left out."""
    known: dict[str, Any] = {key: value for key, value in (one.policy or {}).items() if key in Policy.__slots__}
    known |= {key: tuple(known[key]) for key in ("allow_jobs", "deny_jobs") if key in known}
    return Policy(**known)


def _allowed(one: WorkerView) -> str:
    if one.policy is None:
        return "refused"
    policy = _policy(one)
    return " ".join([*policy.allow_jobs, *(f"!{name}" for name in policy.deny_jobs)]) or "nothing"


def _slots(one: WorkerView) -> str:
    """Return used and usable slots, "1/2"."""
    return f"{len(one.jobs)}/{_usable(one)}"


def _usable(one: WorkerView) -> int:
    wanted = _policy(one).slots
    return wanted if one.slots is None else min(wanted, one.slots)


def _commit(found: Capability | None) -> str:
    if found is None or not found.revision:
        return "-"
    return found.revision[:_SHORT] + ("+changes" if found.dirty else "")


# ---- one of them ----------------------------------------------------------------------------------------------------


def about(one: WorkerView, jobs: Sequence[JobView], terminal: Terminal) -> list[str]:
    """Return everything known of one host."""
    seen = "not since the receiver started" if one.last_seen_s is None else f"{duration(one.last_seen_s)} ago"
    facts = [
        ("host", clean(one.name)),
        ("state", word(one.state, terminal)),
        ("last seen", seen),
        ("identity", clean(one.identity)),
        ("slots", clean(_said_slots(one))),
        ("allowed", clean(_said_policy(one))),
    ]
    if one.capability is not None:
        facts += [(name, clean(text)) for name, text in _found(one.capability, _policy(one))]
    lines = [f"{name:<10} {value}" for name, value in facts]
    for title, block in (
        ("cards", _cards(one.capability, _policy(one), terminal)),
        ("datasets", _datasets(one.capability, terminal)),
        ("runs", _runs(jobs)),
        ("notes", [f"  {clean(text)}" for text in problems(one)]),
    ):
        lines += ["", terminal.head(title), *block] if block else []
    return lines


def _said_slots(one: WorkerView) -> str:
    worker = "unknown" if one.slots is None else str(one.slots)
    used = f"{len(one.jobs)} used"
    if one.policy is None:
        return f"worker {worker}: {used}"
    return f"manifest {_policy(one).slots}, worker {worker}: {used}"


def _said_policy(one: WorkerView) -> str:
    if one.policy is None:
        return "nothing: the manifest does not admit this host"
    policy = _policy(one)
    denied = f", but not {', '.join(policy.deny_jobs)}" if policy.deny_jobs else ""
    return (", ".join(policy.allow_jobs) or "nothing") + denied


def _found(found: Capability, policy: Policy) -> Iterator[tuple[str, str]]:
    offered = placement.effective(found, policy)
    by = " by the manifest"
    yield "system", " ".join(filter(None, (found.os_version or found.os, found.arch))) or "-"
    yield "cores", str(found.cpu_count)
    lowered = by if offered.ram_gib != found.ram_gib else ""
    yield "memory", _lowered(offered.ram_gib, found.ram_gib) + lowered
    if found.gpus:
        lowered = by if offered.vram_gib != found.vram_gib else ""
        yield "card", _lowered(offered.vram_gib, found.vram_gib) + lowered
    yield "cuda", {"off": "switched off by the manifest"}.get(_cuda(found, policy), _cuda(found, policy))
    yield "torch", found.torch_version or "none"
    yield "free disk", size(found.free_disk_bytes)
    yield "models", _models(found)
    yield "worker", f"version {found.version or '-'}, commit {_commit(found)}, Python {found.python or '-'}"


def _models(found: Capability) -> str:
    """Return the models that the host's own trainer can run, and those that lack a library."""
    if found.models is None:
        return "unknown: its own trainer does not say"
    named = ", ".join(found.models) or "none"
    # Another trainer has other models, and what it lacks cannot be known from here.
    if found.contract != hyper.contract_digest(hyper.describe()):
        return named
    lacking = [f"{model} ({_libraries(model)})" for model in hyper.MODELS if model not in found.models]
    return named + (f"; without a library: {', '.join(lacking)}" if lacking else "")


def _libraries(model: str) -> str:
    return ", ".join(hyper.MODELS[model].libraries)


def _cards(found: Capability | None, policy: Policy, terminal: Terminal) -> list[str]:
    if found is None or not found.gpus:
        return []
    offered = {gpu.uuid: gpu for gpu in placement.effective(found, policy).gpus}
    rows = [_card(number, gpu, offered.get(gpu.uuid)) for number, gpu in enumerate(found.gpus)]
    return _indented(("CARD", "NAME", "MEMORY", "FREE", "IN USE", "DRIVER", "UUID"), rows, terminal)


def _card(number: int, gpu: Gpu, offered: Gpu | None) -> list[str]:
    memory = size(gpu.vram_bytes)
    if offered is not None and offered.vram_bytes != gpu.vram_bytes:
        memory = f"{offered.vram_bytes / GIB:.1f} of {memory}"
    busy = "by other programs" if gpu.busy else "no"
    return [str(number), gpu.name, memory, size(gpu.free_vram_bytes), busy, gpu.driver or "-", gpu.uuid or "-"]


def _datasets(found: Capability | None, terminal: Terminal) -> list[str]:
    held: Mapping[str, Any] = {} if found is None else found.datasets
    rows = [[name, str(digest) or "no digest reported"] for name, digest in sorted(held.items())]
    return _indented(("NAME", "DIGEST"), rows, terminal) if rows else []


def _runs(jobs: Sequence[JobView]) -> list[str]:
    return [
        clean(f"  {job.id[:_SHORT]}  {job.model} {job.mode} {job.split} seed {job.seed}  {meter(job.progress)}")
        for job in jobs
    ]


def _indented(header: Sequence[str], rows: Sequence[Sequence[str]], terminal: Terminal) -> list[str]:
    narrow = terminal if terminal.width is None else replace(terminal, width=terminal.width - 2)
    return [f"  {line}" for line in table(header, rows, narrow)]
