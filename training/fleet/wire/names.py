"""The message that says which words people can use in filters."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class KnownNames:
    """`GET /v1/names`: what the filters of lists can name, each sorted.

    Attributes:
        hosts: Hosts that called, that the manifest names, or that ever enrolled.
        models: Models of the jobs there are.
        datasets: Datasets of the jobs there are, by name.
        tags: Tags of the jobs there are.
    """

    hosts: list[str]
    models: list[str]
    datasets: list[str]
    tags: list[str] = field(default_factory=list)
