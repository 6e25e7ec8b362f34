"""A plan, and the list of manifests, as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from training.fleet.cli.text import Terminal, clean, moment, table, zone
from training.fleet.cli.typed import program
from training.fleet.cli.views import SHORT_ID, identity, plain
from training.fleet.wire.manifests import ManifestView, TableChange
from training.fleet.wire.people import Plan, PlannedJob

MANIFEST_COLUMNS: Final = ("NUMBER", "DIGEST", "TIME", "WHO", "HOW", "JOBS", "STATE")


def plan(found: Plan, terminal: Terminal, *, done: bool, keep: bool = False) -> list[str]:
    """Return a plan, or what a reload did, job by job and then in one sentence.

    Args:
        found: The receiver's answer.
        terminal: What the output can show.
        done: True when it is the answer to a reload.
        keep: True when dropped jobs stay claimable.
    """
    lonely = set(found.stranded)
    lines = [terminal.paint(_added(job, lonely, terminal), "32") for job in found.added]
    lines += [terminal.paint(_changed(job, terminal), "33") for job in found.changed]
    lines += [terminal.paint(_dropped(job, terminal, keep=keep), "31") for job in found.dropped]
    lines += [terminal.paint(_table(change), "33") for change in found.tables]
    lines += [clean(text) for text in found.notes]
    lines += [f"warning: {clean(text)}" for text in found.warnings]
    return [*lines, _outcome(found, done=done)]


def _named(sign: str, job: PlannedJob, terminal: Terminal) -> str:
    return f"{sign} {identity(job.id, terminal)}  {clean(job.model)} {clean(job.mode)}"


def _added(job: PlannedJob, lonely: set[str], terminal: Terminal) -> str:
    known = f"no known host{' can run it' if job.id in lonely else ''}" + (f" ({clean(job.near)})" if job.near else "")
    hosts = f"can run on {clean(', '.join(job.hosts))}" if job.hosts else known
    if not job.hosts and job.id not in lonely:
        hosts += "; an unknown host may"
    replaces = f"  {_fields(job)} replaces {identity(job.replaces, terminal)}" if job.replaces else ""
    return f"{_named('+', job, terminal)}{replaces}  {hosts}"


def _changed(job: PlannedJob, terminal: Terminal) -> str:
    return f"{_named('~', job, terminal)}  {_fields(job)}"


def _fields(change: PlannedJob | TableChange) -> str:
    return ", ".join(f"{clean(key)} {plain(old)} -> {plain(new)}" for key, (old, new) in change.change.items())


def _dropped(job: PlannedJob, terminal: Terminal, *, keep: bool) -> str:
    if not job.status:  # a receiver of an older version, which withdraws nothing
        return f"{_named('-', job, terminal)}  no longer named"
    if job.status in ("claimed", "running"):
        fate = f"goes on; stop it with: {program()} cancel {clean(job.id)[:SHORT_ID]}"
    elif job.status == "pending":
        fate = "stays claimable" if keep else "withdrawn, no host is offered it"
    else:
        fate = "stays as it is"
    return f"{_named('-', job, terminal)}  no longer named, {clean(job.status)}: {fate}"


def _table(change: TableChange) -> str:
    name = clean(f"{change.table} {change.name}".strip())
    if change.what == "changed":
        return f"{name}: {_fields(change)}"
    return f"{name}: {clean(change.what)}" + (f" ({_fields(change)})" if change.change else "")


def _outcome(found: Plan, *, done: bool) -> str:
    parts = [f"{found.counts.get(name, 0)} {name}" for name in ("added", "changed", "unchanged", "dropped")]
    stranded = found.counts.get("stranded", 0)
    if stranded:
        parts.append(f"{stranded} that no known host can run")
    if found.tables:
        parts.append(f"{len(found.tables)} of hosts, datasets and trainer changed")
    return f"{'done' if done else 'plan'} {clean(found.digest)[:SHORT_ID]}: {', '.join(parts)}"


def history(found: Sequence[ManifestView], terminal: Terminal) -> list[str]:
    """Return the manifests that came in force as a table, newest first."""
    rows = [
        [
            str(one.number),
            identity(one.digest, terminal),
            moment(one.at, terminal),
            one.actor,
            one.how,
            str(one.jobs),
            "in force" if one.in_force else "-",
        ]
        for one in found
    ]
    shown = {"TIME": f"TIME ({zone([one.at for one in found], terminal)})"}
    return table([shown.get(name, name) for name in MANIFEST_COLUMNS], rows, terminal, ("HOW", "STATE"))
