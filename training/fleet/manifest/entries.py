"""What comes out of a manifest without faults: its header and its jobs, in normal form.

Owns the types. Guarantees that every specification is normalised (NFC, lower-case sorted hosts), so that an entry
read from a file and one read back from a child process are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from training.fleet.model.jobs import DatasetRef, Limits, Policy, Requirement, Spec, Trainer

DEFAULT_HOST = "default"
"""Name of the host table for hosts that have none of their own."""


@dataclass(frozen=True, slots=True)
class JobEntry:
    """One job of a manifest.

    Attributes:
        id: Its identity, 64 hex digits.
        spec: What is trained, in normal form.
        document: Canonical JSON of `spec.document()`; its SHA-256 is `id`.
        requirement: What it needs of a host; equal requirements are the same object.
        limits: What bounds it; equal limits are the same object.
        position: Number of its `[[jobs]]` table; the first is 1.
        line: Line of that header, None when unknown.
    """

    id: str
    spec: Spec
    document: str
    requirement: Requirement
    limits: Limits
    position: int
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """Everything a manifest says besides its jobs.

    Attributes:
        digest: SHA-256 of the file's bytes, 64 hex digits.
        hosts: Policies by lower-case host name; may hold "default".
        trainer: The program that trains the jobs.
        datasets: Datasets by name.
        warnings: What is allowed and odd, for people.
        contract: "sha256:<hex>" of the trainer's declaration, None when there was none to check against.
        count: Number of jobs; twins count once.
    """

    digest: str
    hosts: Mapping[str, Policy]
    trainer: Trainer
    datasets: Mapping[str, DatasetRef]
    warnings: tuple[str, ...]
    contract: str | None
    count: int

    def policy(self, host: str) -> Policy | None:
        """Return what the manifest lets a host do: its own table, else `[hosts.default]`, else None (refused)."""
        return self.hosts.get(host.lower(), self.hosts.get(DEFAULT_HOST))


@dataclass(frozen=True, slots=True)
class Edit:
    """Where a manifest differs from the one in force; everything else in it stands as before.

    Attributes:
        stood: Ids of the jobs that stood there in the manifest in force.
        gone: Those of them that are named no more.
        after: Id of the unchanged job before them, None when they come first.
        before: Id of the unchanged job behind them, None when they come last.
    """

    stood: tuple[str, ...]
    gone: tuple[str, ...]
    after: str | None
    before: str | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole manifest in memory.

    Attributes:
        header: Everything besides the jobs.
        jobs: In the order of the file.
    """

    header: Header
    jobs: tuple[JobEntry, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the file's bytes, 64 hex digits."""
        return self.header.digest

    @property
    def hosts(self) -> Mapping[str, Policy]:
        """Policies by lower-case host name; may hold "default"."""
        return self.header.hosts

    @property
    def trainer(self) -> Trainer:
        """The program that trains the jobs."""
        return self.header.trainer

    @property
    def datasets(self) -> Mapping[str, DatasetRef]:
        """Datasets by name."""
        return self.header.datasets

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed and odd, for people."""
        return self.header.warnings

    @property
    def contract(self) -> str | None:
        """Digest "sha256:<hex>" of the trainer's declaration, None when there was none."""
        return self.header.contract

    def policy(self, host: str) -> Policy | None:
        """Return what the manifest lets a host do, None when it is refused."""
        return self.header.policy(host)
