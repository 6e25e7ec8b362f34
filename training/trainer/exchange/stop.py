"""Owns the wish to stop on systems without TERM: a file that appears where `CIS490_STOP_FILE` says."""

from __future__ import annotations

import os
import time

from training.trainer.faults import HostError

VARIABLE = "CIS490_STOP_FILE"
LOOK_S = 0.25
"""Least time between two looks, seconds."""

_looked_s = 0.0


def stop_asked() -> bool:
    """Say whether the run is to stop. Cheap enough for every step: it looks a few times a second at most."""
    global _looked_s
    path = os.environ.get(VARIABLE)
    now_s = time.monotonic()
    if not path or now_s - _looked_s < LOOK_S:
        return False
    if os.path.exists(path):  # noqa: PTH110 - called at every step
        return True
    _looked_s = now_s
    return False


def stopped() -> HostError:
    """Return the end of a run that was asked to stop."""
    return HostError("stopped because the worker asked for it; the next run goes on from the last checkpoint")
