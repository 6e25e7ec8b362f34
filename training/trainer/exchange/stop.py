"""Owns the request to stop on systems without SIGTERM: the worker makes the file that `CIS490_STOP_FILE` names."""

from __future__ import annotations

import os
import time

from training.trainer.faults import HostError

VARIABLE = "CIS490_STOP_FILE"
LOOK_S = 0.25
"""Seconds between two looks: each is a call of the system, and a step may take a millisecond."""

_looked_s = 0.0


def stop_asked() -> bool:
    """Return True if the run is asked to stop. May be called at every step: it looks for the file 4 times a second."""
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
    """Return the error that ends a run which was asked to stop."""
    return HostError("stopped because the worker asked for it; the next run goes on from the last checkpoint")
