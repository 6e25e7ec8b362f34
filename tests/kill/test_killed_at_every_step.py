"""Every program is killed at each system call that changes a file, and each such call is made to fail.

Started again, everything that was answered is still true, a full check finds nothing wrong, and the work ends as it
does undisturbed. The walks run in processes of their own, without coverage, which would double their time. The
ordinary run takes every sixth moment of each, every day others.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.todays_part import WHOLE, todays_part

WALK = Path(__file__).with_name("walk.py")
RECEIVER = ["receiver:first start", "receiver:work", "receiver:reload", "receiver:backup and check", "receiver:prune"]
OFFLINE = ["offline:restore", "offline:repair"]
FLOWS = [*RECEIVER, "upgrade", *OFFLINE, "worker"]
FAILED_EACH_TIME = ["receiver:work", "upgrade", *OFFLINE, "worker"]
"""The errors of the others take minutes, and belong to the long version."""
PARTS = 6
"""How many days walk all of a flow. All of them on one day take seven minutes of processor time."""
ENOUGH = {
    "receiver:first start": 50,
    "receiver:work": 100,
    "receiver:reload": 35,
    "receiver:backup and check": 50,
    "receiver:prune": 15,
    "upgrade": 35,
    "offline:restore": 35,
    "offline:repair": 20,
    "worker": 80,
}
"""So many moments of each flow at least; fewer, and the walk no longer sees what it should."""

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or platform.machine() != "x86_64", reason="the watcher knows the calls of x86-64 Linux"
    ),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed; the watcher is compiled"),
]


def walk(flow: str, how: str, *flags: str) -> Any:
    """Run a walk and return what it found."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE_", "COV_"))}
    environ["PYTHONPATH"] = str(WALK.parents[2])
    command = [sys.executable, str(WALK), flow, how, *flags]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    found["again"] = f"PYTHONPATH=. .venv/bin/python tests/kill/walk.py '{flow}' {how} {' '.join(flags)}"
    # A thread may be a call ahead or behind, so that the last moments are not always reached.
    assert found["hit"] >= found["points"] - 3
    return found


def no_harm(found: Any) -> None:
    assert found["wrong"] == [], f"again: {found['again']}"


@pytest.mark.parametrize("flow", FLOWS)
def test_nothing_is_lost_by_a_kill(flow: str, daily: bool) -> None:
    found = walk(flow, "kill", todays_part(PARTS, daily))
    no_harm(found)
    assert found["all"] >= ENOUGH[flow]
    assert found["points"] >= found["all"] // (PARTS if daily else 1)
    assert found["ends"].get("-9", 0) >= found["points"] - 3
    assert set(found["names"]) >= {"openat", "fsync", "rename", "unlink"}


@pytest.mark.parametrize("flow", FAILED_EACH_TIME)
def test_nothing_is_lost_by_an_error_of_the_disk_at_some_calls(flow: str) -> None:
    found = walk(flow, "fail", todays_part(PARTS))
    no_harm(found)
    assert found["points"] >= found["all"] // PARTS


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS)
def test_nothing_is_lost_by_an_error_of_the_disk(flow: str) -> None:
    found = walk(flow, "fail", WHOLE)
    no_harm(found)
    pairs = {tuple(end.split(" ")[:2]) for end in found["ends"]}
    errors = ("EIO", "EMFILE", "ENOSPC", "EROFS")
    # Threads take turns, so that a call may come where another was counted.
    assert len({(error, name) for error in errors for name in found["names"]} - pairs) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "fail"])
@pytest.mark.parametrize("flow", FLOWS)
def test_nothing_is_lost_at_any_call_at_all(flow: str, how: str) -> None:
    no_harm(walk(flow, how, "--all"))


def test_the_walk_finds_fault_with_a_naive_store() -> None:
    found = walk("naive", "kill")
    places = {place for _, _, _, place, _, _ in found["wrong"]}
    assert "/store/gbt_oracle/HEX/bundle.tar.zst" in places
    assert "/queue.db-wal" in places
    assert len(found["wrong"]) >= 40
