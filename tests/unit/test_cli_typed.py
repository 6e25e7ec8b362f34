from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from training.fleet.cli.plans import history
from training.fleet.cli.text import Terminal
from training.fleet.cli.typed import program
from training.fleet.wire.manifests import ManifestView


@pytest.mark.parametrize(
    ("started", "said"),
    [
        ("/usr/local/bin/cis490-jobs", "cis490-jobs"),
        ("/opt/x/training/fleet/cli/__main__.py", "cis490-jobs"),
        ("C:\\env\\Scripts\\cis490-jobs.exe", "cis490-jobs"),
        ("", "cis490-jobs"),
        ("tools/cis490_jobs.py", "python3 tools/cis490_jobs.py"),
        ("./cis490-jobs.pyz", "python3 ./cis490-jobs.pyz"),
        ("/home of mine/cis490-jobs.pyz", "python3 '/home of mine/cis490-jobs.pyz'"),
    ],
)
def test_a_command_is_said_as_this_one_was_typed(started: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert program(started) == said


def test_windows_names_python_as_its_installer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert program("C:\\lab\\cis490-jobs.pyz") == "python C:\\lab\\cis490-jobs.pyz"


def test_what_a_checkout_is_told_can_be_typed_there(root: Path) -> None:
    python, file = program("tools/cis490_jobs.py").split()
    helped = subprocess.run([python, file, "--version"], cwd=root, capture_output=True, text=True, check=False)
    assert (helped.returncode, helped.stdout.split()[0]) == (0, "cis490-jobs")


def test_the_list_of_manifests_names_the_zone_of_its_times() -> None:
    view = ManifestView(3, "d" * 64, "2026-12-01T05:29:49Z", "operator:alice", "apply", 4, True)
    assert history([view], Terminal(120, 30, utc=True))[0].split()[2:4] == ["TIME", "(UTC)"]
    assert history([view], Terminal(utc=True))[0].split("\t")[2] == "2026-12-01 05:29:49+00:00"
