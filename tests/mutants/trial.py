"""One mutant at work: a copy of the project, a change in it, and the tests that must notice."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.table import ROOT, Change, Mutant

LIMIT_S = 180.0
"""Longest time for the tests of one mutant, seconds; one that hangs them has been noticed."""
FAILED = 1
"""Exit status of pytest when tests have failed, and not when they could not be run."""

_FIRST = re.compile(r"^(?:FAILED|ERROR) (\S+?)(?:\[.*?\])?(?: - (.*))?$", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """What came of the tests.

    Attributes:
        found: Whether a test failed, or hung.
        by: The first that did, empty when none.
        why: What it said, shortened.
        took_s: How long it took, seconds.
        trouble: Why the tests could not be run, empty when they could.
    """

    found: bool
    by: str
    why: str
    took_s: float
    trouble: str = ""


def copy_project(target: Path) -> None:
    """Copy what git knows, and what is new and not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, os.fsdecode(listed).split("\0")):
        source = ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


@contextlib.contextmanager
def without_guard(copy: Path, mutant: Mutant) -> Iterator[None]:
    """Change a copy of the project, and change it back."""
    before = {change.file: (copy / change.file).read_bytes() for change in mutant.changes}
    times = {file: (copy / file).stat().st_mtime_ns for file in before}
    try:
        for change in mutant.changes:
            _replace(copy, change, times[change.file])
        yield
    finally:
        for file, data in before.items():
            (copy / file).write_bytes(data)
            os.utime(copy / file, ns=(times[file], times[file]))


def _replace(copy: Path, change: Change, time_ns: int) -> None:
    path = copy / change.file
    text = path.read_text(encoding="utf-8")
    ((start, end),) = change.spans(text)
    path.write_text(text[:start] + change.new + text[end:], encoding="utf-8")
    # Python takes compiled code for current while time and size are the same, so the time must differ.
    later = time_ns + 100 * 10**9
    os.utime(path, ns=(later, later))


def run_tests(copy: Path, tests: tuple[str, ...], *, keep_compiled: bool = False) -> Verdict:
    """Run tests in a copy of the project, up to the first that fails."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider"]
    scratch = copy.with_name(f"{copy.name}-temp")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTEST_"))}
    if not keep_compiled:
        environ["PYTHONDONTWRITEBYTECODE"] = "1"
    begun = time.monotonic()
    with subprocess.Popen(
        [*command, f"--basetemp={scratch}", *tests],
        cwd=copy,
        env=environ | {"COLUMNS": "400", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return Verdict(True, "the time limit", f"no end after {LIMIT_S:.0f} s", time.monotonic() - begun)
    return _judged(process.returncode, output, time.monotonic() - begun)


def _judged(status: int, output: str, took_s: float) -> Verdict:
    first = _FIRST.search(output)
    by, why = (first[1], (first[2] or "")[:100]) if first else ("", "")
    if status not in (0, FAILED):
        return Verdict(False, by, why, took_s, trouble=output.strip()[-2000:] or f"pytest ended with {status}")
    return Verdict(status == FAILED, by, why, took_s)
