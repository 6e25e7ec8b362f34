"""The plan of a recording: which host does which work when.

Pure and seeded: the same seed, number of hosts and length give the same plan. Hostile-like episodes of one host never
overlap each other; benign work goes on below them. Running the plan is the business of `host`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

HOSTILE: Final = ("mine", "encrypt", "exfiltrate", "sweep_loopback", "sweep_peers")
"""Kinds of hostile-like work."""

IDLE: Final = "idle"
"""The one kind of work that needs no process."""

GROUPS: Final = ("server", "desktop")
"""Groups of hosts; hosts take turns."""

_BENIGN_WEIGHTS: Final = {
    "server": {
        "idle": 4,
        "database": 5,
        "query": 2,
        "compress": 2,
        "backup": 3,
        "monitor": 3,
        "checksum": 2,
        "unpack": 1,
        "vault": 1,
    },
    "desktop": {
        "idle": 5,
        "compile": 4,
        "fetch": 6,
        "edit": 4,
        "compress": 1,
        "backup": 1,
        "checksum": 1,
        "unpack": 2,
        "vault": 1,
    },
}
_SECOND_WEIGHTS: Final = {
    "server": {
        "idle": 24,
        "session": 10,
        "database": 5,
        "query": 3,
        "backup": 2,
        "monitor": 2,
        "checksum": 1,
        "vault": 1,
    },
    "desktop": {
        "idle": 16,
        "session": 16,
        "compile": 3,
        "fetch": 6,
        "edit": 4,
        "compress": 1,
        "monitor": 1,
        "unpack": 1,
    },
}
_PHASE_S: Final = (15.0, 90.0)
_EPISODE_S: Final = (14.0, 45.0)
_HOSTILE_FRACTION: Final = (0.085, 0.12)
_SUBNET: Final = "198.18.0"  # RFC 2544: set aside for tests, never routed


@dataclass(frozen=True)
class Phase:
    """One stretch of one kind of work."""

    track: str
    """`main`, `second` or `third` (benign), or `hostile`."""
    work: str
    """Name of the activity."""
    start_s: float
    """Seconds since the start of the recording."""
    end_s: float
    """Seconds since the start of the recording, after `start_s`."""
    intensity: float
    """How hard it works, 0.1 to 1."""


@dataclass(frozen=True)
class HostPlan:
    """All that one host does."""

    name: str
    """For example `server-1`."""
    group: str
    """`server` or `desktop`."""
    address: str
    """IPv4 address inside the lab."""
    phases: tuple[Phase, ...]
    """Work in order of start."""


def plan(seed: int, hosts: int, seconds: float) -> tuple[HostPlan, ...]:
    """Draw the whole plan.

    Args:
        seed: Any integer.
        hosts: Number of hosts, 4 to 64.
        seconds: Length of the recording.

    Returns:
        One plan per host, servers and desktops in turn.
    """
    return tuple(_host_plan(seed, index, seconds) for index in range(hosts))


def _host_plan(seed: int, index: int, seconds: float) -> HostPlan:
    group = GROUPS[index % len(GROUPS)]
    name = f"{group}-{index // len(GROUPS) + 1}"
    rng = random.Random(f"{seed}:{name}")  # noqa: S311 - a seeded plan, not a secret
    speed = rng.uniform(0.6, 1.4)
    phases = [
        *_benign(rng, "main", _BENIGN_WEIGHTS[group], seconds, speed),
        *_benign(rng, "second", _SECOND_WEIGHTS[group], seconds, speed),
        *_benign(rng, "third", _SECOND_WEIGHTS[group], seconds, speed),
        *_hostile(rng, index, seconds, speed),
    ]
    return HostPlan(name, group, f"{_SUBNET}.{index + 1}", tuple(sorted(phases, key=lambda p: (p.start_s, p.track))))


def _intensity(rng: random.Random, speed: float) -> float:
    return round(min(1.0, max(0.1, rng.uniform(0.25, 1.0) * speed)), 3)


def _benign(rng: random.Random, track: str, weights: dict[str, int], seconds: float, speed: float) -> list[Phase]:
    at, phases = 0.0, []
    while at < seconds:
        end = min(seconds, at + rng.uniform(*_PHASE_S))
        work = rng.choices(list(weights), list(weights.values()))[0]
        phases.append(Phase(track, work, round(at, 3), round(end, 3), _intensity(rng, speed)))
        at = end
    return phases


def _hostile(rng: random.Random, index: int, seconds: float, speed: float) -> list[Phase]:
    total = seconds * rng.uniform(*_HOSTILE_FRACTION)
    mean = sum(_EPISODE_S) / 2
    count = max(1, round(total / mean))
    raw = [rng.uniform(*_EPISODE_S) for _ in range(count)]
    lengths = [value * total / sum(raw) for value in raw]
    free = seconds - total
    cuts = sorted(rng.uniform(0.05, 1.0) for _ in range(count))
    starts = [free * cut + sum(lengths[:n]) for n, cut in enumerate(cuts)]
    kinds = _kinds(rng, index, count)
    return [
        Phase("hostile", kind, round(start, 3), round(start + length, 3), _intensity(rng, speed))
        for kind, start, length in zip(kinds, starts, lengths, strict=True)
    ]


def _kinds(rng: random.Random, index: int, count: int) -> list[str]:
    """Deal the kinds in rounds, so that each host has every kind before any kind comes again."""
    first = [HOSTILE[(index + n) % len(HOSTILE)] for n in range(len(HOSTILE))]
    dealt = list(first[:count])
    while len(dealt) < count:
        dealt += rng.sample(HOSTILE, k=min(len(HOSTILE), count - len(dealt)))
    rng.shuffle(dealt)
    return dealt
