"""What the quick, the ordinary and the long run of the tests take, and what the script says to other words."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import NOT_QUICK
from tests.helpers import todays_part as todays_part_module
from tests.helpers.todays_part import WHOLE, in_part, todays_part

TESTS = """
def test_walk(daily):
    assert daily
"""
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A project with this one's settings of pytest, and one test in a file that the quick run leaves out."""
    shutil.copy(root / "pyproject.toml", tmp_path)
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    shutil.copy(root / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / sorted(NOT_QUICK)[-1]).write_text(TESTS)
    return tmp_path


def test_the_parts_of_a_walk_are_all_of_it_and_share_nothing() -> None:
    walk = list(range(100))
    parts = [list(in_part(walk, f"{offset}/7")) for offset in range(7)]
    assert sorted(point for part in parts for point in part) == walk
    assert parts[3][:3] == [3, 10, 17]
    assert list(in_part(walk, WHOLE)) == walk


def test_as_many_days_as_a_walk_has_parts_take_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for day in range(1, 7):
        clock = SimpleNamespace(now=lambda zone, day=day: datetime(2026, 2, day, tzinfo=zone))
        monkeypatch.setattr(todays_part_module, "datetime", clock)
        found.add(todays_part(6))
    assert found == {f"{offset}/6" for offset in range(6)}
    assert todays_part(6, daily=False) == WHOLE


def test_every_file_that_the_quick_run_leaves_out_exists(root: Path) -> None:
    assert [name for name in sorted(NOT_QUICK) if not (root / "tests" / name).is_file()] == []


@pytest.mark.parametrize(
    ("flags", "counts"),
    [((), "1 passed, 1 skipped"), (("--long", "-m", "slow"), "1 failed, 1 deselected"), (("--quick",), "no tests ran")],
    ids=["ordinary", "long", "quick"],
)
def test_a_daily_test_runs_as_a_part_or_whole_and_the_quick_run_leaves_files_out(
    project: Path, flags: tuple[str, ...], counts: str
) -> None:
    """The one test demands its part, so the long version of it, which gets all, fails."""
    done = subprocess.run([*PYTEST, *flags], cwd=project, capture_output=True, text=True, timeout=120, check=False)
    assert counts in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--quik"], "found --quik, expected --quick, --long, --torch or -- followed by arguments for pytest"),
        (["--quick", "--long"], "found --quick and --long, expected one of them"),
        (["--quick", "--", "tests"], "found --quick before --; to hand it to pytest, give it after --"),
        (["--long", "--"], "found --long before --; to hand it to pytest, give it after --"),
    ],
)
def test_the_script_refuses_what_it_does_not_know(root: Path, words: list[str], said: str) -> None:
    done = subprocess.run(
        [root / "scripts" / "test.sh", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"test.sh: {said}\n")
