"""The manifest in force, its jobs aside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from training.fleet.model.jobs import DatasetRef, Headline, Policy, Trainer

DEFAULT_HOST = "default"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the text of a manifest comes from.

    Attributes:
        how: `start`, `reload` or `signal` for the receiver's own file, `apply` or `rollback` for a text handed in.
        packed: The text, compressed with zlib, for the list of manifests; None keeps none.
        instead_of: Of a text handed in: digest of the receiver's own file at that moment, empty without a file.
    """

    how: str = "reload"
    packed: bytes | None = None
    instead_of: str | None = None


@dataclass(frozen=True, slots=True)
class InForce:
    """The manifest in force, its jobs aside.

    Attributes:
        digest: SHA-256 of its bytes, empty before the first one.
        hosts: Policies by lower-case host name; may hold "default".
        trainer: The program that trains.
        datasets: Datasets by name.
        contract: Digest of the declaration it was checked against, None without one.
        count: Number of jobs it names.
        applied_at: When it came into force, RFC 3339, UTC; empty before the first one.
        actor: Who brought it in force; empty where an older version did.
        how: In which way, as in `Origin`; empty where an older version did.
        instead_of: Digest of the receiver's own file when another text was handed in, empty when that file could not be
            read; None where the file itself is in force.
        headline: The figure by which the trainer wants results compared, None when it declares none.
    """

    digest: str = ""
    hosts: Mapping[str, Policy] = field(default_factory=dict)
    trainer: Trainer = field(default_factory=Trainer)
    datasets: Mapping[str, DatasetRef] = field(default_factory=dict)
    contract: str | None = None
    count: int = 0
    applied_at: str = ""
    actor: str = ""
    how: str = ""
    instead_of: str | None = None
    headline: Headline | None = None

    def policy(self, host: str) -> Policy | None:
        """Return what a host may do, None when it is not admitted."""
        return self.hosts.get(host, self.hosts.get(DEFAULT_HOST))

    @property
    def own_contract(self) -> str | None:
        """The contract where the trainer is the project's own, else None: only then hosts can be compared with it."""
        return self.contract if self.trainer.command == Trainer().command else None
