"""How installers start programs, and what marks the code that they copy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from training.fleet.install.code import code_files, digest
from training.fleet.install.programs import NOT_THERE, Programs
from training.fleet.install.steps import ProgramError


def test_a_program_is_found_by_the_path_of_who_installs_and_gets_the_environment_it_is_given(tmp_path: Path) -> None:
    """Tools of root lie where the service's own path does not lead."""
    environ = {"PATH": str(tmp_path), "A": "1"}
    assert Programs().ask(["env"], environ=environ) == (0, f"PATH={tmp_path}\nA=1")
    assert Programs().ask(["no-such-program-here"]) == (NOT_THERE, "")


def test_what_a_program_reads_comes_by_a_pipe_that_ends(capfd: pytest.CaptureFixture[str]) -> None:
    asks = "import sys; print(sys.stdin.read()); print('why', file=sys.stderr); sys.exit(3)"
    assert Programs().ask([sys.executable, "-c", asks], given="code\n") == (3, "code")
    assert capfd.readouterr().err == ""
    assert Programs().ask([sys.executable, "-c", asks], quiet=False) == (3, "")
    assert capfd.readouterr().err == "why\n"


def test_a_program_that_must_work_and_does_not_is_named_with_its_status(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProgramError, match=r"sh -c pwd; exit 4 ended with status 4") as failed:
        Programs().demand(["sh", "-c", "pwd; exit 4"], folder=tmp_path)
    assert failed.value.status == 4
    assert capfd.readouterr().out == f"{tmp_path}\n"


def test_the_mark_of_the_code_changes_with_what_it_is_made_from_and_with_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "training" / "__pycache__").mkdir(parents=True)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "core.txt").write_text("a\n")
    (tmp_path / "training" / "one.py").write_text("1\n")
    seen = [digest(tmp_path, "core", "3.11")]
    (tmp_path / "training" / "__pycache__" / "one.pyc").touch()
    (tmp_path / "training" / "one.py").chmod(0o600)
    assert digest(tmp_path, "core", "3.11") == seen[0]
    seen += [digest(tmp_path, "", "3.11"), digest(tmp_path, "core", "3.12")]
    (tmp_path / "requirements" / "core.txt").write_text("b\n")
    seen.append(digest(tmp_path, "core", "3.11"))
    (tmp_path / "training" / "one.py").rename(tmp_path / "training" / "two.py")
    seen.append(digest(tmp_path, "core", "3.11"))
    (tmp_path / "training" / "two.py").write_text("2\n")
    seen.append(digest(tmp_path, "core", "3.11"))
    assert len(set(seen)) == 6
    assert [path.as_posix() for path in code_files(tmp_path)] == ["training/two.py"]
