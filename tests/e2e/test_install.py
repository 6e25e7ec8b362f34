"""The package as pip installs it, away from the checkout."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("install")


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the built and installed package, without its dependencies."""
    folder = tmp_path_factory.mktemp("install")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True).stdout.decode()
    source = folder / "source"
    for name in filter(None, tracked.split("\0")):
        if name.split("/")[0] in ("training", "pyproject.toml", "README.md", "LICENSE") and (root / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((root / name).read_bytes())
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder / "site"), str(source)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("cis490-trainer-receiver", "training.fleet.receiver"),
        ("cis490-training-worker", "training.fleet.worker"),
        ("cis490-jobs", "training.fleet.cli"),
    ],
)
def test_every_program_starts_from_the_installed_package(
    root: Path, installed: Path, tmp_path: Path, program: str, module: str
) -> None:
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts[program] == f"{module}:main"
    assert (installed / "bin" / program).is_file()
    done = subprocess.run(
        [sys.executable, str(installed / "bin" / program), "--help"],
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert program in done.stdout


def test_the_statements_come_with_the_package(root: Path, installed: Path) -> None:
    shipped = {str(path.relative_to(root)) for path in (root / "training").rglob("*.sql")}
    assert shipped == {str(path.relative_to(installed)) for path in installed.rglob("*.sql")}
    assert shipped


@pytest.mark.parametrize(
    "module",
    [
        "worker", "cli", "client", "bundle", "wire", "settings", "capability",
        "install.worker_linux", "install.worker_windows", "install.receiver",
    ],
)  # fmt: skip
def test_what_runs_on_every_host_imports_the_standard_library_alone(root: Path, module: str) -> None:
    code = (
        "import sys, training.fleet." + module + "\n"
        "outside = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(*sorted(name for name in outside if not name.startswith(('_', 'training'))))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = [{str(root)!r}]\n{code}"],
                          check=True, capture_output=True, text=True)  # fmt: skip
    assert done.stdout.split() == []
