"""What would let a job run on a host that refuses it now.

Owns the smallest change that helps: edits of the manifest first, what must be done at the host where no edit is enough.
Guarantees that the edits work, because `placement` judges the edited job again. Pure, like `placement`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from training.fleet.model.capability import GIB, Capability
from training.fleet.model.jobs import Policy, Requirement
from training.fleet.model.placement import Reason, declared_bytes, effective, judge


@dataclass(frozen=True, slots=True)
class Change:
    """One edit of the manifest that removes one reason.

    Attributes:
        table: `job` for the job's own table, else the host table, "hosts.gpu-tower".
        key: The key that changes, empty when the whole table is new.
        value: Its new value, of the type that `Requirement` or `Policy` holds.
        words: The edit for people: "min_vram_gib 16 becomes 12".
        step: How much is given up, 0 to 1; breaks ties between hosts.
    """

    table: str
    key: str
    value: object
    words: str
    step: float = 1.0


@dataclass(frozen=True, slots=True)
class Remedy:
    """What would let a job run on one host.

    Attributes:
        changes: Edits of the manifest, all of them needed.
        actions: What must be done at the host instead, because no edit helps; empty when the edits are enough.
    """

    changes: tuple[Change, ...]
    actions: tuple[str, ...]


def remedy(requirement: Requirement, capability: Capability, policy: Policy | None) -> Remedy:
    """Return the smallest set of manifest edits that lets a job run on a host.

    Where the manifest itself lowers what was detected, the host's table changes; otherwise the job does.

    Args:
        requirement: What the job needs.
        capability: What the host detected.
        policy: What the manifest lets the host do, None when it does not admit the host.

    Returns:
        No changes and no actions when the host is eligible already.
    """
    rules = Policy() if policy is None else policy
    offer = effective(capability, rules)
    changes = [] if policy is not None else [_admission(capability)]
    for reason in judge(requirement, capability, rules).reasons:
        edit = _EDITS.get(reason.constraint, _no_edit)
        changes += [change for change in edit(requirement, capability, offer, rules) if change not in changes]
    wanted, admitted = applied(requirement, policy, changes)
    left = judge(wanted, capability, admitted)
    actions = tuple(_action(reason, capability.hostname) for reason in left.reasons)
    return Remedy(tuple(changes), actions)


def applied(
    requirement: Requirement, policy: Policy | None, changes: Iterable[Change]
) -> tuple[Requirement, Policy | None]:
    """Return requirement and policy as they are once the manifest is edited.

    Args:
        requirement: What the job needs.
        policy: The host's table, None when there is none.
        changes: Edits, as `remedy` gives them.
    """
    for change in changes:
        if change.table == "job":
            requirement = replace(requirement, **{change.key: change.value})  # type: ignore[arg-type]
        elif policy is None:
            policy = Policy()
        else:
            policy = replace(policy, **{change.key: change.value})  # type: ignore[arg-type]
    return requirement, policy


def smallest_change(requirement: Requirement, capability: Capability, policy: Policy | None) -> str:
    """Return the smallest change that would let a job run on a host, in words.

    Args:
        requirement: What the job needs.
        capability: What the host detected.
        policy: What the manifest lets the host do, None when it does not admit the host.

    Returns:
        "runs on gpu-tower if min_vram_gib 16 becomes 12"; what to do at the host where no edit of the manifest
        helps; empty when the host is eligible already.
    """
    found = remedy(requirement, capability, policy)
    if found.actions:
        return f"no change of the manifest is enough for {capability.hostname}: {'; '.join(found.actions)}"
    if not found.changes:
        return ""
    return f"runs on {capability.hostname} if {' and '.join(change.words for change in found.changes)}"


def smallest_change_among(requirement: Requirement, hosts: Iterable[tuple[Capability, Policy | None]]) -> str:
    """Return the smallest change over several hosts, in the words of `smallest_change`.

    Fewer edits win, then the edits that give up less, then the host's name. Hosts that need more than an edit of the
    manifest come last, those with fewest actions first.

    Args:
        requirement: What the job needs.
        hosts: Every known host.

    Returns:
        Empty when some host is eligible or no host is known.
    """
    best = min(((_cost(requirement, *host), host) for host in hosts), key=lambda pair: pair[0], default=None)
    return "" if best is None else smallest_change(requirement, *best[1])


def _cost(requirement: Requirement, capability: Capability, policy: Policy | None) -> tuple[int, int, float, str]:
    found = remedy(requirement, capability, policy)
    return (len(found.actions), len(found.changes), sum(item.step for item in found.changes), capability.hostname)


# ---- edits ----------------------------------------------------------------------------------------------------------

_Edit = Callable[[Requirement, Capability, Capability, Policy], list[Change]]
_ACTIONS = {
    "dataset": "put the dataset {wanted} on {host} (found: {found})",
    "contract": "bring the trainer of {host} to the version the manifest was checked against",
    "model": "install on {host} what the model {wanted} needs",
    "gpu_busy": "wait for {wanted} on {host} ({found}); nvidia-smi there lists what uses it",
    "over_vram_gib": "the job needs a host with {wanted}; {host} has {found} GiB",
    "over_ram_gib": "the job needs a host with {wanted}; {host} has {found} GiB",
}


def _action(reason: Reason, host: str) -> str:
    return _ACTIONS[reason.constraint].format(wanted=reason.wanted, found=reason.found, host=host)


def _table(capability: Capability) -> str:
    return f"hosts.{capability.hostname}"


def _admission(capability: Capability) -> Change:
    return Change(_table(capability), "", None, f"the manifest gains a table [{_table(capability)}]")


def _edit_policy(requirement: Requirement, capability: Capability, _: Capability, policy: Policy) -> list[Change]:
    table, model = _table(capability), requirement.model
    changes = []
    denying = [glob for glob in policy.deny_jobs if fnmatchcase(model, glob)]
    if denying:
        left = tuple(glob for glob in policy.deny_jobs if glob not in denying)
        changes.append(Change(table, "deny_jobs", left, f"{table} deny_jobs loses {', '.join(denying)}"))
    if not any(fnmatchcase(model, glob) for glob in policy.allow_jobs):
        changes.append(Change(table, "allow_jobs", (*policy.allow_jobs, model), f"{table} allow_jobs gains {model}"))
    return changes


def _edit_hosts(requirement: Requirement, capability: Capability, _: Capability, __: Policy) -> list[Change]:
    host = capability.hostname
    return [Change("job", "allowed_hosts", (*requirement.allowed_hosts, host), f"allowed_hosts gains {host}")]


def _edit_cuda(_: Requirement, capability: Capability, __: Capability, ___: Policy) -> list[Change]:
    if capability.cuda_usable:
        table = _table(capability)
        return [Change(table, "cuda", True, f"{table} cuda false becomes true")]
    return [Change("job", "require_cuda", False, "require_cuda true becomes false")]


def _edit_vram(requirement: Requirement, capability: Capability, offer: Capability, policy: Policy) -> list[Change]:
    found_gib = capability.vram_gib if capability.cuda_usable else 0
    # Without a card of known size the job's wish goes, and with it the need for CUDA.
    switched_off = found_gib > 0 and offer.cuda_usable != capability.cuda_usable
    changes = _edit_cuda(requirement, capability, offer, policy) if switched_off else []
    return changes + _edit_size("vram_gib", requirement.min_vram_gib, found_gib, policy.vram_gib, _table(capability))


def _edit_ram(requirement: Requirement, capability: Capability, _: Capability, policy: Policy) -> list[Change]:
    return _edit_size("ram_gib", requirement.min_ram_gib, capability.ram_gib, policy.ram_gib, _table(capability))


def _edit_size(key: str, wanted_gib: float, found_gib: int, declared_gib: float | None, table: str) -> list[Change]:
    """Raise a declaration that is below what was detected and wanted, and lower a wish that is above what was."""
    possible_gib = min(wanted_gib, found_gib)
    changes = []
    if declared_gib is not None and round(declared_bytes(declared_gib) / GIB) < possible_gib:
        value = math.ceil(possible_gib)
        changes.append(Change(table, key, value, f"{table} {key} {declared_gib:g} becomes {value}"))
    if wanted_gib > found_gib:
        step = (wanted_gib - found_gib) / wanted_gib
        words = f"min_{key} {wanted_gib:g} becomes {found_gib}"
        changes.append(Change("job", f"min_{key}", found_gib, words, step))
    return changes


def _no_edit(_: Requirement, __: Capability, ___: Capability, ____: Policy) -> list[Change]:
    return []


_EDITS: dict[str, _Edit] = {
    "policy": _edit_policy,
    "allowed_hosts": _edit_hosts,
    "require_cuda": _edit_cuda,
    "min_vram_gib": _edit_vram,
    "min_ram_gib": _edit_ram,
}
