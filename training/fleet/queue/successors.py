"""Which new job most likely stands for which one that the manifest no longer names.

Owns the comparison of specifications, for people alone: nothing is decided by it. Pure: the same jobs give the same
pairs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

MAX_PAIRED: Final = 100
"""Jobs of each kind that are compared: each with each, so that a plan costs milliseconds however many there are."""
MAX_KEYS: Final = 3
"""Keys in which two jobs may differ and still count as the same one, edited."""


def successors(dropped: Mapping[str, str], added: Mapping[str, str]) -> dict[str, tuple[str, dict[str, list[Any]]]]:
    """Return for new jobs which dropped one each replaces, and the keys that changed with their old and new values.

    Args:
        dropped: Specification of each dropped job by its id, as canonical JSON.
        added: The same of the new jobs.
    """
    old = {job: _flat(spec) for job, spec in _first(dropped)}
    new = {job: _flat(spec) for job, spec in _first(added)}
    ranked = []
    for left, before in old.items():
        for right, after in new.items():
            keys = _differing(before, after)
            if keys is not None and len(keys) <= MAX_KEYS:
                ranked.append((len(keys), left, right, keys))
    found: dict[str, tuple[str, dict[str, list[Any]]]] = {}
    taken: set[str] = set()
    # The most alike first, so that an edited job is not paired with a stranger.
    for _, left, right, keys in sorted(ranked, key=lambda item: item[:3]):
        if left not in taken and right not in found:
            taken.add(left)
            found[right] = (left, {key: [old[left].get(key), new[right].get(key)] for key in keys})
    return found


def _first(specs: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    return list(specs.items())[:MAX_PAIRED]


def _flat(spec: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(spec)
    hyper = body.pop("hyper", {})
    dataset = body.pop("dataset", None) or {}
    body |= {"dataset": dataset.get("name"), "digest": dataset.get("digest")}
    return body | {f"hyper.{key}" if key in body else key: value for key, value in hyper.items()}


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str] | None:
    """Return the keys in which two jobs differ, None for jobs of different models or modes."""
    if (before["model"], before["mode"]) != (after["model"], after["mode"]):
        return None
    return [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
