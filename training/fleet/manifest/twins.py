"""Two jobs of a manifest with one identity: harmless when they agree, a fault when they do not."""

from __future__ import annotations

from typing import Any

from training.fleet.manifest.entries import JobEntry
from training.fleet.manifest.findings import Findings


def twin(findings: Findings, first: JobEntry, second: JobEntry) -> None:
    """Take in that two tables, or two values of one table's lists, give the same job."""
    both = f"{_place(first)} and {_place(second)}"
    if first.position == second.position:
        findings.warn(f"{_place(second)} gives the same job twice; it counts once")
        return
    differing = [key for key in _constraints(first) if _constraints(first)[key] != _constraints(second)[key]]
    if not differing:
        findings.warn(f"{both} are the same job; it counts once")
        return
    found = f"the same job twice with another {', '.join(differing)}"
    findings.fault(both, found, "one table per job, or another seed or hyper-parameter", "remove one of them")


def _constraints(entry: JobEntry) -> dict[str, Any]:
    wanted, limits = entry.requirement, entry.limits
    return {
        "require_cuda": wanted.require_cuda,
        "prefer_cuda": wanted.prefer_cuda,
        "min_vram_gib": wanted.min_vram_gib,
        "min_ram_gib": wanted.min_ram_gib,
        "allowed_hosts": wanted.allowed_hosts,
        "priority": limits.priority,
        "timeout_s": limits.timeout_s,
        "max_attempts": limits.max_attempts,
        "name": entry.name,
        "tags": entry.tags,
    }


def _place(entry: JobEntry) -> str:
    return f"jobs[{entry.position}]" + ("" if entry.line is None else f" (line {entry.line})")
