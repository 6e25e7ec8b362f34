"""Owns the options that all programs with a stored model share."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add `--bundle`, which names the stored model."""
    parser.add_argument("--bundle", type=Path, required=True, help="bundle.tar.zst or an artifact folder")


def add_threshold(parser: argparse.ArgumentParser) -> None:
    """Add `--threshold`, which replaces the threshold of the stored model."""
    parser.add_argument("--threshold", type=_score, metavar="X", help="score that raises an alarm; else the model's")


def _score(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a score from 0 to 1")
    return value
