"""Damaged manifests (`helpers/hostile_manifests.py`): half-written, with flipped bits, with pieces in wrong places."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.todays_part import WHOLE, in_part, todays_part

COUNT_LINE = b"jobs = 14"
PARTS = 5
"""How many days try all cuts and one flip of each byte."""


def tried(root: Path, kind: str, part: str = WHOLE) -> Any:
    """Try one kind of damage in an untraced process; other tests trace the same lines."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, str(root / "tests" / "helpers" / "hostile_manifests.py"), kind, part],
        env={**environ, "PYTHONPATH": str(root)},
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_every_cut_of_the_example_is_refused_or_loses_no_job(root: Path, daily: bool) -> None:
    """A cut before the line with the count leaves no job at all, which a reload refuses as a loss of all."""
    part = todays_part(PARTS, daily)
    report = tried(root, "prefixes", part)
    example = (root / "etc" / "training_manifest.toml.example").read_bytes()
    assert report["wrong"] == []
    assert report["some"] == 0
    assert report["short"] <= example.index(COUNT_LINE)
    assert report["tried"] == len(list(in_part(example, part))) == report["refused"] + report["accepted"]
    assert report["refused"] > (700 if daily else 4000)


def test_a_flipped_bit_in_any_byte_of_the_example_is_refused_or_read_as_what_it_says(root: Path, daily: bool) -> None:
    part = todays_part(PARTS, daily)
    report = tried(root, "flips", part)
    assert report["wrong"] == []
    assert report["some"] == report["short"] == 0
    assert report["tried"] == len(list(in_part((root / "etc" / "training_manifest.toml.example").read_bytes(), part)))
    assert report["refused"] > (300 if daily else 2000)
    assert report["accepted"] > (300 if daily else 2000)


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
