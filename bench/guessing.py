"""Whether the time of a refusal tells anything about a secret.

Two kinds of wrong secrets are refused in turns that chance decides, and the times are compared with Welch's t-test, as
in dudect: a |t| above 4.5 says that the times differ. Each block of samples has fresh secrets and counts with its
median, because where an object lies in memory makes a difference of some nanoseconds as well.

Source: Reparaz, Balasch, Verbauwhede, Dude, is my code constant time?, DATE'17.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import random
import secrets
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.figures import Figure
from training.fleet.auth.credentials import Credentials
from training.fleet.auth.identities import Identity, Registry, digest_of, new_key, secret_of
from training.fleet.model.errors import AuthenticationError

BLOCKS: Final = 40
SAMPLES: Final = 500
"""Of each kind in a block."""
DIFFERS: Final = 4.5

Attempt = Callable[[], object]


def guessing(_folder: Path, quick: bool) -> list[Figure]:
    """Refusals of secrets that are wrong early or late, and of known and unknown workers."""
    blocks, samples = (4, 20) if quick else (BLOCKS, SAMPLES)
    early_or_late = ("first", "last")
    return [
        _figure("operator's token, two at random", _operator, ("", ""), blocks, samples),
        _figure("operator's token, wrong in its first or last character", _operator, early_or_late, blocks, samples),
        _figure("worker's key, wrong in its first or last character", _worker, early_or_late, blocks, samples),
        # An id is no secret: this one only informs.
        replace(_figure("worker's id, known or unknown", _worker, ("", "unknown"), blocks, samples), floor=None),
    ]


def _operator(kinds: tuple[str, str]) -> list[Attempt]:
    token = secrets.token_hex(16)
    credentials = Credentials.of({"operator": token})
    shown = [_spoiled(token, kind).encode() for kind in kinds]
    return [functools.partial(credentials.demand, "operator", None, one) for one in shown]


def _worker(kinds: tuple[str, str]) -> list[Attempt]:
    registry, key = Registry(), new_key()
    registry.put(Identity("k" * 16, "tower", digest_of(key)))
    ids = [("u" if kind == "unknown" else "k") * 16 for kind in kinds]
    shown = [secret_of(one, _spoiled(key, kind)).encode() for one, kind in zip(ids, kinds, strict=True)]
    return [functools.partial(registry.authenticate, one) for one in shown]


def _spoiled(token: str, kind: str) -> str:
    """Return a wrong token: one with another first or last character, or one of chance."""
    if kind == "first":
        return ("a" if token[0] != "a" else "b") + token[1:]
    if kind == "last":
        return token[:-1] + ("a" if token[-1] != "a" else "b")
    return secrets.token_hex(len(token))[: len(token)]


def _medians_ns(pair: list[Attempt], samples: int) -> list[float]:
    found: list[list[int]] = [[], []]
    order = [0, 1] * samples
    random.shuffle(order)
    for which in order:
        attempt = pair[which]
        begun = time.perf_counter_ns()
        with contextlib.suppress(AuthenticationError):
            attempt()
        found[which].append(time.perf_counter_ns() - begun)
    return [statistics.median(times) for times in found]


def _figure(
    what: str, make: Callable[[tuple[str, str]], list[Attempt]], kinds: tuple[str, str], blocks: int, samples: int
) -> Figure:
    gc.disable()
    try:
        one, other = zip(*(_medians_ns(make(kinds), samples) for _ in range(blocks)), strict=True)
    finally:
        gc.enable()
    apart = abs(statistics.fmean(one) - statistics.fmean(other))
    spread = ((statistics.variance(one) + statistics.variance(other)) / blocks) ** 0.5
    note = f"{statistics.fmean(one):,.0f} ns, {apart:.1f} ns apart"
    return Figure("guessing", what, apart / max(spread, 1e-9), "t", DIFFERS, note=note)
