"""What the database keeps as JSON: requirements, capabilities and the manifest in force."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from training.fleet.model.capability import Capability, Gpu
from training.fleet.model.jobs import DatasetRef, Headline, Policy, Requirement, Trainer
from training.fleet.queue.in_force import InForce


def requirement_json(requirement: Requirement) -> str:
    """Return a requirement as its row keeps it."""
    return json.dumps(asdict(requirement), separators=(",", ":"))


def requirement_from(text: str) -> Requirement:
    """Return the requirement a row keeps."""
    body = json.loads(text)
    dataset = body.pop("dataset")
    body["allowed_hosts"] = tuple(body["allowed_hosts"])
    return Requirement(**body, dataset=DatasetRef(**dataset) if dataset else None)


def capability_from(text: str) -> Capability:
    """Return the capability a worker's row keeps; what an older version did not know gets its default."""
    body = json.loads(text)
    body["gpus"] = tuple(Gpu(**gpu) for gpu in body.get("gpus", ()))
    body["models"] = None if body.get("models") is None else tuple(body["models"])
    body["problems"] = tuple(body.get("problems", ()))
    return Capability(**body)


def capability_json(capability: Capability) -> str:
    """Return a capability as a worker's row keeps it."""
    return json.dumps(asdict(capability), separators=(",", ":"))


def in_force_json(in_force: InForce) -> str:
    """Return the manifest in force, its jobs aside, as the database keeps it."""
    return json.dumps(
        {
            "digest": in_force.digest,
            "hosts": {host: asdict(policy) for host, policy in in_force.hosts.items()},
            "trainer": asdict(in_force.trainer),
            "datasets": {name: asdict(dataset) for name, dataset in in_force.datasets.items()},
            "contract": in_force.contract,
            "count": in_force.count,
            "applied_at": in_force.applied_at,
            "actor": in_force.actor,
            "how": in_force.how,
            "instead_of": in_force.instead_of,
            "headline": None if in_force.headline is None else asdict(in_force.headline),
        }
    )


def in_force_from(text: str) -> InForce:
    """Return the manifest in force that the database keeps."""
    body = json.loads(text)
    hosts = {host: _policy(policy) for host, policy in body.pop("hosts").items()}
    trainer = body.pop("trainer")
    datasets = {name: DatasetRef(**dataset) for name, dataset in body.pop("datasets").items()}
    headline = body.pop("headline", None)  # a version before this one kept none
    return InForce(
        headline=Headline(**headline) if headline else None,
        hosts=hosts,
        trainer=replace(Trainer(**trainer), command=tuple(trainer["command"])),
        datasets=datasets,
        **body,
    )


def _policy(body: dict[str, Any]) -> Policy:
    return Policy(**{**body, "allow_jobs": tuple(body["allow_jobs"]), "deny_jobs": tuple(body["deny_jobs"])})
