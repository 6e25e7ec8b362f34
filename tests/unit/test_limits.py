"""A test that has no end fails where it stands, and those after it run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.queue_world import Ending

ENDLESS = """
import threading
import time

import pytest


def test_a_loop():
    while True:
        pass


def test_a_loop_that_goes_on_after_its_first_end():
    try:
        time.sleep(60)
    except BaseException:
        threading.Event().wait()


def test_a_wait():
    threading.Event().wait()


@pytest.fixture
def stuck():
    yield
    threading.Event().wait()


def test_what_comes_after_it(stuck):
    pass


@pytest.mark.slow
def test_a_long_version():
    time.sleep(0.7)


def test_the_next_one():
    pass
"""


def test_a_test_without_an_end_fails_and_the_next_one_runs(root: Path, tmp_path: Path) -> None:
    (tmp_path / "test_endless.py").write_text(ENDLESS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow: the long versions\n")
    (tmp_path / "conftest.py").write_text("from tests import conftest\n\nconftest.AGAIN_S = 0.5\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-rA", "--tb=no"]
    done = subprocess.run(
        [*command, "--long", "--limit", "0.5", f"--rootdir={tmp_path}", str(tmp_path)],
        cwd=root,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    lines = [line.replace(" - Failed:", "").split(maxsplit=2) for line in done.stdout.splitlines() if "::" in line]
    found = {line[1].partition("::")[2]: (line[0], line[2] if len(line) > 2 else "") for line in lines}
    over = "no end after 0.5 s (--limit)"
    assert found == {
        "test_a_loop": ("FAILED", over),
        "test_a_loop_that_goes_on_after_its_first_end": ("FAILED", over),
        "test_a_wait": ("FAILED", over),
        "test_what_comes_after_it": ("ERROR", over),
        "test_a_long_version": ("PASSED", ""),
        "test_the_next_one": ("PASSED", ""),
    }


def test_a_loop_from_deadline_to_deadline_ends_when_no_time_passes() -> None:
    ending = Ending()
    for deadline in (5.0, 5.0, 6.0, *[7.0] * 100):
        ending.at(deadline)
    with pytest.raises(AssertionError, match=r"100 sweeps at 7.0 and it is still the next deadline"):
        ending.at(7.0)
