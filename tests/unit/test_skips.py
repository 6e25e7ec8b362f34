"""What becomes of tests that cannot run here: told in the last line, and a failure where CI is set."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_TORCH = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
"""
TESTS = """
import pytest

@pytest.mark.needs_torch
@pytest.mark.parametrize("number", range(3))
def test_with_torch(number):
    pass

@pytest.mark.slow
@pytest.mark.needs_torch
def test_long():
    pass

def test_plain():
    pass
"""
LAST = "3 tests that need torch were skipped; ./scripts/test.sh --torch runs them"


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A project with this one's settings of pytest, and a plugin that hides torch."""
    shutil.copy(root / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(root / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "without_torch.py").write_text(WITHOUT_TORCH)
    (tmp_path / "tests" / "test_some.py").write_text(TESTS)
    return tmp_path


def run(project: Path, *arguments: str, **environ: str) -> tuple[int, list[str]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "PYTEST", "COV"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=project, env=clean | environ, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("flags", [(), ("-n", "2", "--dist", "loadgroup"), ("-q", "-s")], ids=["one", "many", "quiet"])
def test_the_last_line_says_how_many_tests_only_torch_kept_from_running(project: Path, flags: tuple[str, ...]) -> None:
    status, lines = run(project, "-p", "without_torch", *flags)
    assert (status, lines[-1]) == (0, LAST)
    assert "1 passed, 4 skipped" in lines[-2]


def test_one_test_is_told_as_one(project: Path) -> None:
    _, lines = run(project, "-p", "without_torch", "-k", "with_torch and 2")
    assert lines[-1] == "1 test that needs torch was skipped; ./scripts/test.sh --torch runs it"


def test_nothing_is_told_where_torch_is_installed(project: Path) -> None:
    (project / "torch.py").touch()
    status, lines = run(project)
    assert (status, "4 passed, 1 skipped" in lines[-1]) == (0, True)


def test_no_test_is_skipped_for_torch_where_ci_is_set(project: Path) -> None:
    status, lines = run(project, "-p", "without_torch", CI="true")
    assert (status, "1 passed, 1 skipped, 3 errors" in lines[-1]) == (1, True)
    wanted = (
        "tests/test_some.py::test_with_torch[0] may not be skipped where CI is set: Skipped: torch is not installed"
    )
    assert any(wanted in line for line in lines)


def test_a_module_that_skips_itself_fails_where_ci_is_set(project: Path) -> None:
    (project / "tests" / "test_other.py").write_text('import pytest\n\npytest.importorskip("no_such_module")\n')
    assert run(project)[0] == 0
    status, lines = run(project, CI="true")
    assert (status, any("tests/test_other.py may not be skipped where CI is set" in line for line in lines)) == (
        2,
        True,
    )
