"""What a host could train with before an upgrade and cannot after it."""

from __future__ import annotations

import json
from typing import Any

from training.trainer.hyper import MODELS


def lost(before: dict[str, Any], now: dict[str, Any], kind: str, *, asked: bool) -> list[str]:
    """Return the names of models, and "CUDA", that a host has lost.

    Args:
        before: The capability that the older code says, as JSON.
        now: The one of the newer.
        kind: The build of torch that the newer has: "cpu", "cuda" or "none".
        asked: The person chose that build now, so what it cannot do is not lost.
    """
    models = [model for model in before.get("models") or () if model not in (now.get("models") or ())]
    if asked and kind == "none":
        models = [model for model in models if model in MODELS and "torch" not in MODELS[model].libraries]
    had_cuda = before.get("cuda_usable") is True and now.get("cuda_usable") is not True
    return [*models, *(["CUDA"] if had_cuda and not (asked and kind != "cuda") else [])]


def capability_said(text: str) -> dict[str, Any]:
    """Return the capability in what `--self-test --json` printed, empty if there is none."""
    try:
        found = json.loads(text)["capability"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
