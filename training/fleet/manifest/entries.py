"""What comes out of a manifest without faults: its header and its jobs, in normal form.

Owns the types. Guarantees that every specification is normalised (NFC, lower-case sorted hosts), so that an entry
read from a file and one read back from a child process are equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from training.fleet.model.jobs import DatasetRef, Headline, Limits, Policy, Requirement, Spec, Trainer

DEFAULT_HOST = "default"
"""Name of the host table for hosts that have none of their own."""


@dataclass(frozen=True, slots=True)
class JobEntry:
    """One job of a manifest.

    Attributes:
        id: Its identity, 64 hex digits.
        model: Model that is trained.
        mode: Mode it is trained in.
        document: All that is trained, as canonical JSON of a specification; its SHA-256 is `id`.
        requirement: What it needs of a host; equal requirements are the same object.
        limits: What bounds it; equal limits are the same object.
        position: Number of its `[[jobs]]` table; the first is 1.
        line: Line of that header, None when unknown.
        name: A label, None without one.
        tags: Labels, sorted.
    """

    id: str
    model: str
    mode: str
    document: str
    requirement: Requirement
    limits: Limits
    position: int
    line: int | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def spec(self) -> Spec:
        """The specification that `document` holds, read again with each call."""
        document = json.loads(self.document)
        dataset = document.get("dataset")
        return Spec(
            document["model"],
            document["mode"],
            document["hyper"],
            document["split_recipe"],
            tuple(document["train_hosts"]),
            document["seed"],
            None if dataset is None else DatasetRef(dataset["name"], dataset.get("digest")),
            document.get("revision"),
        )


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
        notes: Which tables stand for several jobs, for people.
        headline: The figure by which the trainer wants results compared, None when it declares none.
    """

    digest: str
    hosts: Mapping[str, Policy]
    trainer: Trainer
    datasets: Mapping[str, DatasetRef]
    warnings: tuple[str, ...]
    contract: str | None
    count: int
    notes: tuple[str, ...] = ()
    headline: Headline | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole manifest in memory.

    Attributes:
        header: Everything besides the jobs.
        jobs: In the order of the file.
    """

    header: Header
    jobs: tuple[JobEntry, ...]
