"""Which host may run which job, and why not.

Owns every decision of placement as pure functions: the same requirement, capability and policy give the same verdict,
and each refusal names the constraint, what was wanted and what was found. Claim, `plan`, `why` and the pages all ask
here, so they cannot disagree. Guarantees that a verdict lists every reason, not the first one. Leaves to `remedy` what
would help, and to `queue` the order among jobs of one rank, leases and slots.

Sizes compare as people name them: a host has `round(bytes / 2**30)` GiB, so a "12 GB" card that reports 11.6 GiB
satisfies 12.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from training.fleet.model.capability import GIB, Capability, Gpu
from training.fleet.model.jobs import DEFAULT_DATASET, DatasetRef, Policy, Requirement

UNDECLARED_GIB = 10000
"""Memory that a host which never called is given where its declaration is silent: the largest a manifest may ask."""
_SHOWN_CARDS = 3


@dataclass(frozen=True, slots=True)
class Reason:
    """One constraint that keeps a job from a host.

    Attributes:
        constraint: Manifest key, or `policy`, `contract`, `model`, `over_vram_gib`, `over_ram_gib`.
        wanted: What the job or the policy asks for.
        found: What the host is or has.
    """

    constraint: str
    wanted: str
    found: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to whether a host could run a job.

    Attributes:
        reasons: Everything that stands against it; empty when nothing does.
    """

    reasons: tuple[Reason, ...] = ()

    @property
    def eligible(self) -> bool:
        """True when nothing stands against it."""
        return not self.reasons


def effective(capability: Capability, policy: Policy) -> Capability:
    """Return what a host offers: what was detected, lowered by what the manifest declares.

    Args:
        capability: As the worker detected it.
        policy: The host's table in the manifest.

    Returns:
        A capability whose CUDA, GPU memory and memory are never above either input, except that a declaration counts
        for a card whose memory is unknown. CUDA that may not be used takes the GPU memory with it.
    """
    cuda = capability.cuda_usable and policy.cuda is not False
    gpus = tuple(_lowered(gpu, policy.vram_gib) for gpu in capability.gpus) if cuda else ()
    ram_bytes = _least(capability.ram_bytes, policy.ram_gib)
    if (cuda, gpus, ram_bytes) == (capability.cuda_usable, capability.gpus, capability.ram_bytes):
        return capability
    return replace(capability, cuda_usable=cuda, gpus=gpus, ram_bytes=ram_bytes)


def judge(requirement: Requirement, capability: Capability, policy: Policy | None) -> Verdict:
    """Return whether a host could run a job, with every reason against it.

    Args:
        requirement: What the job needs.
        capability: What the host detected; its `hostname` is the host's name.
        policy: What the manifest lets the host do, None when it does not admit the host.

    Returns:
        The verdict. A host that is not admitted is judged further as if its policy were the default one.
    """
    rules = Policy() if policy is None else policy
    offer = effective(capability, rules)
    found = (
        _admitted(capability, policy),
        _allowed(requirement, rules),
        _named(requirement, capability),
        _cuda(requirement, capability, offer),
        _vram(requirement, capability, offer),
        _free_card(requirement, offer),
        _ram(requirement, capability, offer),
        _more_vram(requirement, offer),
        _more_ram(requirement, offer),
        _dataset(requirement, capability),
        _contract(requirement, capability),
        _model(requirement, capability),
    )
    return Verdict(tuple(reason for reason in found if reason is not None))


def rank(requirement: Requirement, capability: Capability) -> int:
    """Return the place of a job among eligible jobs of equal priority; smaller first.

    Args:
        requirement: What the job needs.
        capability: The claiming host as `effective` gives it.

    Returns:
        With usable CUDA: 0 for jobs that require it, 1 for those that prefer it, 2 for the rest. Without: 0 for the
        rest, 1 for those that prefer it.
    """
    if not capability.cuda_usable:
        return int(requirement.prefer_cuda)
    if requirement.require_cuda:
        return 0
    return 1 if requirement.prefer_cuda else 2


def waits_for_cuda(requirement: Requirement, capability: Capability, live: Iterable[tuple[Capability, Policy]]) -> bool:
    """Return True if a host without a free card should leave a job that prefers CUDA for a while to a card.

    The card may be one of its own that something uses now, or one of a live host.

    Args:
        requirement: What the job needs.
        capability: The claiming host as `effective` gives it.
        live: Detected capability and policy of the hosts that are heard now; the caller may be among them.
    """
    if not requirement.prefer_cuda or choose_card(requirement, capability) is not None:
        return False
    # Its own card may get free, just as one elsewhere.
    if any(_large_enough(requirement, gpu) for gpu in capability.gpus if capability.cuda_usable):
        return True
    return any(
        choose_card(requirement, effective(other, policy)) is not None and judge(requirement, other, policy).eligible
        for other, policy in live
    )


def asks_for_card(requirement: Requirement) -> bool:
    """Return True if a job is to have a card: it requires or prefers CUDA or names the memory of a card."""
    return requirement.prefer_cuda or _needs_card(requirement)


def choose_card(requirement: Requirement, offer: Capability) -> Gpu | None:
    """Return the card that a job gets on a host: the smallest free one that is large enough, None without one.

    Args:
        requirement: What the job needs.
        offer: The host as `effective` gives it, with the cards marked that other jobs have.
    """
    if not offer.cuda_usable:
        return None
    fitting = (gpu for gpu in offer.gpus if _fits(requirement, gpu))
    # A card of unknown size comes last: nobody can say that it is the smallest.
    return min(fitting, key=lambda gpu: (not gpu.vram_bytes, gpu.vram_bytes, gpu.free_gib, gpu.uuid), default=None)


def _needs_card(requirement: Requirement) -> bool:
    return requirement.require_cuda or requirement.min_vram_gib > 0


def _large_enough(requirement: Requirement, gpu: Gpu) -> bool:
    over_gib = requirement.over_vram_gib
    return gpu.usable and gpu.vram_gib >= requirement.min_vram_gib and (over_gib <= 0 or gpu.vram_gib > over_gib)


def _fits(requirement: Requirement, gpu: Gpu) -> bool:
    if gpu.in_use or not _large_enough(requirement, gpu):
        return False
    free_gib, over_gib = gpu.free_gib, requirement.over_vram_gib
    # A job that names no size gets a card that is mostly free; one that names a size gets any card with so much free.
    mostly_free = requirement.min_vram_gib > 0 or not gpu.busy
    return mostly_free and free_gib >= requirement.min_vram_gib and (over_gib <= 0 or free_gib > over_gib)


def drift(capability: Capability, policy: Policy, contract: str | None) -> list[str]:
    """List what the manifest says of a host and detection does not bear out, for people.

    Args:
        capability: As the worker detected it.
        policy: The host's table in the manifest.
        contract: Digest of the declaration the manifest was checked against, None when the trainer is not the
            project's own.
    """
    lines = []
    if policy.cuda and not capability.cuda_usable:
        lines.append("cuda: declared true, found no usable CUDA")
    vram_gib = capability.vram_gib if capability.cuda_usable else 0
    unknown = capability.cuda_usable and any(not gpu.vram_bytes for gpu in capability.gpus)
    if policy.vram_gib is not None and policy.vram_gib > vram_gib and not unknown:
        lines.append(f"vram_gib: declared {policy.vram_gib:g}, found {vram_gib}")
    if policy.ram_gib is not None and policy.ram_gib > capability.ram_gib:
        lines.append(f"ram_gib: declared {policy.ram_gib:g}, found {capability.ram_gib}")
    if contract and capability.contract and contract != capability.contract:
        lines.append(
            f"trainer: the manifest was checked against {_brief(contract)}, the host's own trainer declares "
            f"{_brief(capability.contract)}; bring both to the same version"
        )
    return lines


def declared(host: str, policy: Policy, datasets: Mapping[str, DatasetRef] | None = None) -> Capability:
    """Return what a host that never called offers if its declaration is true.

    CUDA counts only when it is declared. Where the declaration is silent about memory, there is enough; datasets
    are taken to be held, because only the host itself can say.

    Args:
        host: Host name.
        policy: Its table in the manifest.
        datasets: The manifest's datasets by name.
    """
    cuda = policy.cuda is True
    vram_bytes = declared_bytes(policy.vram_gib)
    held = {name: dataset.digest or "" for name, dataset in (datasets or {}).items()}
    return Capability(
        hostname=host,
        ram_bytes=declared_bytes(policy.ram_gib),
        gpus=(Gpu("as declared", "", vram_bytes, vram_bytes, ""),) if cuda else (),
        cuda_present=cuda,
        cuda_usable=cuda,
        datasets={DEFAULT_DATASET: "", **held},
    )


# ---- reasons --------------------------------------------------------------------------------------------------------


def _admitted(capability: Capability, policy: Policy | None) -> Reason | None:
    if policy is not None:
        return None
    wanted = f"a table [hosts.{capability.hostname}] or [hosts.default] in the manifest"
    return Reason("policy", wanted, "neither")


def _allowed(requirement: Requirement, policy: Policy) -> Reason | None:
    if _matches(requirement.model, policy.deny_jobs):
        return Reason("policy", f"{requirement.model} not denied", f"deny_jobs {_names(policy.deny_jobs)}")
    if not _matches(requirement.model, policy.allow_jobs):
        return Reason("policy", f"{requirement.model} allowed", f"allow_jobs {_names(policy.allow_jobs)}")
    return None


def _named(requirement: Requirement, capability: Capability) -> Reason | None:
    if not requirement.allowed_hosts or _matches(capability.hostname, requirement.allowed_hosts):
        return None
    return Reason("allowed_hosts", _names(requirement.allowed_hosts), capability.hostname)


def _cuda(requirement: Requirement, capability: Capability, offer: Capability) -> Reason | None:
    if not requirement.require_cuda or offer.cuda_usable:
        return None
    return Reason("require_cuda", "usable CUDA", _no_cuda(capability))


def _vram(requirement: Requirement, capability: Capability, offer: Capability) -> Reason | None:
    if requirement.min_vram_gib <= 0 or (offer.cuda_usable and offer.vram_gib >= requirement.min_vram_gib):
        return None
    found = _card_sizes(offer, capability) if offer.cuda_usable else _no_cuda(capability)
    return Reason("min_vram_gib", f"{requirement.min_vram_gib:g}", found)


def _free_card(requirement: Requirement, offer: Capability) -> Reason | None:
    """Judge whether a job that must have a card would find one free: not used by a game or another training."""
    if not (_needs_card(requirement) and offer.cuda_usable) or choose_card(requirement, offer) is not None:
        return None
    large = [gpu for gpu in offer.gpus if _large_enough(requirement, gpu)]
    if not large:
        return None
    need_gib = max(requirement.min_vram_gib, requirement.over_vram_gib)
    wanted = f"{need_gib:g} GiB free on one card" if need_gib else "a card that nothing else uses"
    return Reason("gpu_busy", wanted, "; ".join(card_state(gpu) for gpu in large[:_SHOWN_CARDS]))


def card_state(gpu: Gpu) -> str:
    """Return how free a card is, for people: "card 1 (RTX 3060) has 8 of 12 GiB free"."""
    if gpu.in_use:
        return f"{gpu.title} is used by another job"
    if not gpu.vram_bytes:
        return f"{gpu.title} has memory of unknown size"
    return f"{gpu.title} has {gpu.free_gib} of {gpu.vram_gib} GiB free"


def _ram(requirement: Requirement, capability: Capability, offer: Capability) -> Reason | None:
    if offer.ram_gib >= requirement.min_ram_gib:
        return None
    return Reason("min_ram_gib", f"{requirement.min_ram_gib:g}", _size(offer.ram_gib, capability.ram_gib))


def _more_vram(requirement: Requirement, offer: Capability) -> Reason | None:
    """Judge what an `oom_gpu` taught; a job that can do without a card runs on the CPU where no card is larger."""
    if requirement.over_vram_gib <= 0 or not _needs_card(requirement) or not offer.cuda_usable:
        return None
    if offer.vram_gib > requirement.over_vram_gib:
        return None
    wanted = f"more than {requirement.over_vram_gib:g}, where the job ran out of GPU memory"
    return Reason("over_vram_gib", wanted, str(offer.vram_gib))


def _more_ram(requirement: Requirement, offer: Capability) -> Reason | None:
    if requirement.over_ram_gib <= 0 or offer.ram_gib > requirement.over_ram_gib:
        return None
    wanted = f"more than {requirement.over_ram_gib:g}, where the job ran out of memory"
    return Reason("over_ram_gib", wanted, str(offer.ram_gib))


def _dataset(requirement: Requirement, capability: Capability) -> Reason | None:
    wanted = requirement.dataset
    if wanted is None:
        return None
    held = capability.datasets.get(wanted.name)
    if held is None:
        return Reason("dataset", wanted.name, "not held")
    if wanted.digest is None or held == wanted.digest:
        return None
    return Reason("dataset", f"{wanted.name} {_brief(wanted.digest)}", _brief(held) if held else "no digest reported")


def trainer_drift(requirement: Requirement, capability: Capability) -> str:
    """Return how a host's own trainer differs from the one a job was checked against, in words; empty if it does not.

    Args:
        requirement: What the job needs.
        capability: What the host detected.
    """
    reason = _contract(requirement, capability)
    return "" if reason is None else f"its own trainer declares {reason.found}, the manifest wants {reason.wanted}"


def _contract(requirement: Requirement, capability: Capability) -> Reason | None:
    if not requirement.contract or not capability.contract or requirement.contract == capability.contract:
        return None
    return Reason("contract", _brief(requirement.contract), _brief(capability.contract))


def _model(requirement: Requirement, capability: Capability) -> Reason | None:
    """Judge the model by the host's own list, which means something only for the trainer it was made by."""
    if capability.models is None or requirement.model in capability.models:
        return None
    if not requirement.contract or requirement.contract != capability.contract:
        return None
    return Reason("model", requirement.model, _names(capability.models))


def _matches(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _no_cuda(capability: Capability) -> str:
    if capability.cuda_usable:
        return "switched off by the manifest (cuda = false)"
    return "CUDA present but not usable" if capability.cuda_present else "no CUDA"


def _size(offered_gib: int, detected_gib: int) -> str:
    if offered_gib == detected_gib:
        return str(offered_gib)
    return f"{offered_gib} (declared; {detected_gib} detected)"


def _card_sizes(offer: Capability, capability: Capability) -> str:
    """Return the largest size of a host's cards, and which card's is unknown."""
    unknown = [gpu.title for gpu in offer.gpus if gpu.usable and not gpu.vram_bytes]
    if unknown:
        return f"{unknown[0]} has memory of unknown size; declare vram_gib of the host"
    return _size(offer.vram_gib, capability.vram_gib)


def _brief(digest: str) -> str:
    return digest[:19]


def _lowered(gpu: Gpu, limit_gib: float | None) -> Gpu:
    """Return a card with what the manifest says of its memory, which is all that counts where the driver is silent."""
    if not gpu.vram_bytes and limit_gib is not None:
        return replace(gpu, vram_bytes=round(limit_gib * GIB), free_vram_bytes=round(limit_gib * GIB))
    vram_bytes = _least(gpu.vram_bytes, limit_gib)
    return gpu if vram_bytes == gpu.vram_bytes else replace(gpu, vram_bytes=vram_bytes)


def _least(size_bytes: int, limit_gib: float | None) -> int:
    return size_bytes if limit_gib is None else min(size_bytes, round(limit_gib * GIB))


def declared_bytes(size_gib: float | None) -> int:
    """Return a declared size in bytes; a silent declaration means enough."""
    return round((UNDECLARED_GIB if size_gib is None else size_gib) * GIB)
