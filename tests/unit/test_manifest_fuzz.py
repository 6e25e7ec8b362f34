"""Damaged manifests (`helpers/hostile_manifests.py`): half-written, with flipped bits, with pieces in wrong places."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COUNT_LINE = b"jobs = 14"


def tried(root: Path, kind: str) -> Any:
    """Try one kind of damage in an untraced process; other tests trace the same lines."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, str(root / "tests" / "helpers" / "hostile_manifests.py"), kind],
        env={**environ, "PYTHONPATH": str(root)},
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_every_cut_of_the_example_is_refused_or_loses_no_job(root: Path) -> None:
    """A cut before the line with the count leaves no job at all, which a reload refuses as a loss of all."""
    report = tried(root, "prefixes")
    example = (root / "etc" / "training_manifest.toml.example").read_bytes()
    assert report["wrong"] == []
    assert report["some"] == 0
    assert report["short"] <= example.index(COUNT_LINE)
    assert report["tried"] == len(example) == report["refused"] + report["accepted"]
    assert report["refused"] > 4000


def test_a_flipped_bit_in_any_byte_of_the_example_is_refused_or_read_as_what_it_says(root: Path) -> None:
    report = tried(root, "flips")
    assert report["wrong"] == []
    assert report["some"] == report["short"] == 0
    assert report["tried"] == (root / "etc" / "training_manifest.toml.example").stat().st_size
    assert report["refused"] > 2000
    assert report["accepted"] > 2000


@pytest.mark.slow
def test_any_flipped_bit_of_the_example_is_refused_or_read_as_what_it_says(root: Path) -> None:
    report = tried(root, "all_flips")
    assert report["wrong"] == []
    assert report["tried"] == 8 * (root / "etc" / "training_manifest.toml.example").stat().st_size


@pytest.mark.slow
def test_an_example_with_pieces_in_the_wrong_place_is_refused_or_read_as_what_it_says(root: Path) -> None:
    report = tried(root, "edits")
    assert report["wrong"] == []
    assert report["tried"] == 20_000
