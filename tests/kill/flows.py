"""The flows by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boundary import Boundary


def make(name: str, boundary: Boundary, folder: Path) -> Any:
    """Return a flow, with all that its program needs imported already."""
    kind, _, part = name.partition(":")
    if kind == "receiver":
        from receiver_flow import ReceiverFlow

        return ReceiverFlow(boundary, folder / "site", part)
    if kind == "upgrade":
        from upgrade_flow import UpgradeFlow

        return UpgradeFlow(boundary, folder / "site")
    if kind == "offline":
        from offline_flow import OfflineFlow

        return OfflineFlow(boundary, folder / "site", part)
    if kind == "worker":
        from worker_flow import WorkerFlow

        return WorkerFlow(boundary, folder / "site")
    if kind == "naive":
        from naive_flow import NaiveFlow

        return NaiveFlow(boundary, folder / "site")
    raise ValueError(name)
