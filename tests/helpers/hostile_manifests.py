"""Damage to the example manifest, tried in a process of its own: `hostile_manifests.py KIND PART`, reports as JSON.

Each damaged text is either refused with faults that have a place, or it is a manifest: then it holds exactly the jobs,
limits and hosts that an independent reading finds in it, and their ids are those of an independent RFC 8785.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import tomllib
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rfc8785

from tests.helpers.todays_part import in_part
from training.fleet.manifest import Manifest, parse
from training.fleet.model.errors import ManifestError
from training.trainer import hyper

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = (ROOT / "etc" / "training_manifest.toml.example").read_bytes()
DECLARATION = hyper.describe()
JOBS = 14
SHOWN = 5
"""How many findings of a report are shown."""


def prefixes() -> Iterator[bytes]:
    """Yield every beginning of the example, as a file that is half written."""
    return (EXAMPLE[:size] for size in range(len(EXAMPLE)))


def flips() -> Iterator[bytes]:
    """Yield the example with one bit of one byte changed, for every byte."""
    return (_flipped(at, at * 5 % 8) for at in range(len(EXAMPLE)))


def all_flips() -> Iterator[bytes]:
    """Yield the example with one bit changed, for every bit."""
    return (_flipped(at, bit) for at in range(len(EXAMPLE)) for bit in range(8))


def edits() -> Iterator[bytes]:
    """Yield the example with pieces of itself, and other bytes, in places where they don't belong."""
    chance = random.Random(490)
    for _ in range(20_000):
        data = bytearray(EXAMPLE)
        for _ in range(chance.randint(1, 3)):
            at, size = chance.randrange(len(data)), chance.randint(0, 40)
            start = chance.randrange(len(EXAMPLE))
            data[at : at + size] = chance.choice(
                (EXAMPLE[start : start + size], chance.randbytes(2), b"", b'"""', b"[")
            )
        yield bytes(data)


def _flipped(at: int, bit: int) -> bytes:
    return EXAMPLE[:at] + bytes((EXAMPLE[at] ^ 1 << bit,)) + EXAMPLE[at + 1 :]


class Report:
    """What was tried, and what was wrong."""

    def __init__(self) -> None:
        # Sizes of accepted texts without all of the jobs, and how many of these have some of them.
        self.tried = self.refused = self.accepted = 0
        self.short: list[int] = []
        self.some = 0
        self.wrong: list[str] = []

    def attempt(self, data: bytes) -> None:
        """Read one text."""
        self.tried += 1
        try:
            manifest = parse(data, DECLARATION)
        except ManifestError as error:
            self.refused += 1
            if not error.faults or not all(_is_clear(fault) for fault in error.faults):
                self.wrong.append(f"{_named(data)}: unclear faults {error.faults[:3]}")
        except Exception as error:  # noqa: BLE001 - this is what must not happen
            self.wrong.append(f"{_named(data)}: {type(error).__name__}: {error}")
        else:
            self.accepted += 1
            self._compare(data, manifest)

    def _compare(self, data: bytes, manifest: Manifest) -> None:
        tables = tomllib.loads(data.decode())
        if len(manifest.jobs) != JOBS:
            self.short.append(len(data))
            self.some += bool(manifest.jobs)
        if "jobs" in tables["manifest"] and tables["manifest"]["jobs"] != len(tables.get("jobs", [])):
            self.wrong.append(f"{_named(data)}: accepted with another number of jobs than it says")
        if _found(manifest) != _expected(tables):
            self.wrong.append(f"{_named(data)}: read as something else")


def _is_clear(fault: Any) -> bool:
    return bool(fault.place and fault.found and fault.expected) and str(fault).isprintable()


def _named(data: bytes) -> str:
    first = next((at for at, (a, b) in enumerate(zip(data, EXAMPLE, strict=False)) if a != b), len(data))
    return f"at {first} {data[max(0, first - 20) : first + 20]!r}"


def _found(manifest: Manifest) -> tuple[Any, ...]:
    jobs = {
        entry.id: (
            entry.limits.priority,
            entry.limits.timeout_s,
            entry.limits.max_attempts,
            entry.requirement.require_cuda,
            entry.requirement.prefer_cuda,
            entry.requirement.min_vram_gib,
            entry.requirement.min_ram_gib,
            entry.requirement.allowed_hosts,
        )
        for entry in manifest.jobs
    }
    hosts = {
        name: (policy.cuda, policy.vram_gib, policy.ram_gib, policy.allow_jobs, policy.deny_jobs, policy.slots)
        for name, policy in manifest.header.hosts.items()
    }
    return jobs, hosts


def _expected(tables: dict[str, Any]) -> tuple[Any, ...]:
    jobs = {}
    for table in tables.get("jobs", []):
        job = tables.get("defaults", {}) | table
        jobs[_id(job, tables)] = (
            job.get("priority", 0),
            job.get("timeout_s", 86400),
            job.get("max_attempts", 3),
            job.get("require_cuda", False),
            job.get("prefer_cuda", False),
            job.get("min_vram_gib", 0),
            job.get("min_ram_gib", 0),
            tuple(sorted({name.lower() for name in job.get("allowed_hosts", [])})),
        )
    hosts = {
        name.lower(): (
            host.get("cuda"),
            host.get("vram_gib"),
            host.get("ram_gib"),
            tuple(host.get("allow_jobs", ["*"])),
            tuple(host.get("deny_jobs", [])),
            host.get("slots", 1),
        )
        for name, host in tables.get("hosts", {}).items()
    }
    return jobs, hosts


def _id(job: dict[str, Any], tables: dict[str, Any]) -> str:
    document = {
        "v": 1,
        "model": job["model"],
        "mode": job["mode"],
        "hyper": job.get("hyper", {}),
        "split_recipe": job.get("split_recipe", "hosts"),
        "train_hosts": sorted({unicodedata.normalize("NFC", name).lower() for name in job.get("train_hosts", ["*"])}),
        "seed": job.get("seed", 490),
    }
    if "dataset" in job:
        document["dataset"] = {"name": job["dataset"]} | tables["datasets"][job["dataset"]]
    if "revision" in tables.get("trainer", {}):
        document["revision"] = tables["trainer"]["revision"]
    return hashlib.sha256(rfc8785.dumps(document)).hexdigest()


def main() -> None:
    """Try one kind of damage, or one part of it."""
    report = Report()
    kinds = {"prefixes": prefixes, "flips": flips, "all_flips": all_flips, "edits": edits}
    for data in in_part(kinds[sys.argv[1]](), sys.argv[2]):
        report.attempt(data)
    counts = {"tried": report.tried, "refused": report.refused, "accepted": report.accepted}
    short = {"short": max(report.short, default=0), "some": report.some}
    print(json.dumps(counts | short | {"wrong": report.wrong[:SHOWN]}))  # noqa: T201


if __name__ == "__main__":
    main()
