"""What scripts/environment.sh decides, with programs of the test in place of Python, pip and apt."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

PYTHON = """#!/bin/sh
echo "python $*" >> "$LOG"
case "$*" in
*version_info*) echo ${VERSION:-3.11.2}; exit ${OLD:-0} ;;
*ensurepip*) [ -e "$HAVE/python3-venv" ]; exit ;;
*libgomp*) [ -e "$HAVE/libgomp1" ]; exit ;;
"-m venv --clear .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
"-m pip install"*) exit ${PIP:-0} ;;
esac
"""
APT = """#!/bin/sh
echo "apt-get $*" >> "$LOG"
case "$1" in install) for name; do touch "$HAVE/$name" 2>/dev/null; done ;; esac
"""


class Machine:
    """A folder with the script, one requirements file and a few fake programs."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.have = folder / "have"
        self.programs = folder / "programs"
        for path in (self.have, self.programs, folder / "scripts", folder / "requirements"):
            path.mkdir()
        shutil.copy(root / "scripts" / "environment.sh", folder / "scripts")
        (folder / "requirements" / "trainer.txt").write_text("some==1\n")
        (folder / "requirements" / "dev.txt").write_text("more==1\n")
        for name in ("sh", "bash", "sha256sum", "cat", "basename", "id", "mkdir", "cp", "touch", "printf"):
            found = shutil.which(name)
            if found is not None:
                (self.programs / name).symlink_to(found)
        self.add("python3", PYTHON)

    def add(self, name: str, text: str) -> None:
        path = self.programs / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def make(self, first: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        path = {} if first else {"PATH": str(self.programs)}
        return subprocess.run(
            [str(self.programs / "bash"), "-euc", f"{first}\n. scripts/environment.sh; make_environment trainer"],
            cwd=self.folder,
            env={**path, "LOG": str(self.log), "HAVE": str(self.have), **environ},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def installs(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if " install " in line]


@pytest.fixture
def machine(root: Path, tmp_path: Path) -> Machine:
    return Machine(root, tmp_path)


def test_an_environment_is_made_once_from_pinned_hashes(machine: Machine) -> None:
    for package in ("python3-venv", "libgomp1"):
        (machine.have / package).touch()
    assert machine.make().returncode == 0
    assert machine.installs() == [
        "python -m pip install -qq --disable-pip-version-check --no-input --no-deps "
        "--only-binary :all: --require-hashes -r requirements/trainer.txt"
    ]
    again = machine.make()
    assert (again.returncode, machine.log.read_text()) == (0, "")


def test_python_gets_a_path_although_the_environment_has_none(machine: Machine) -> None:
    for package in ("python3-venv", "libgomp1"):
        (machine.have / package).touch()
    machine.add("python3", PYTHON.replace("\n", '\n/usr/bin/env | /bin/grep ^PATH= >> "$LOG" || exit 9\n', 1))
    assert machine.make(f"PATH={machine.programs}").returncode == 0
    assert f"PATH={machine.programs}" in machine.log.read_text().splitlines()


def test_a_changed_requirements_file_is_installed_over_the_old_environment(machine: Machine) -> None:
    for package in ("python3-venv", "libgomp1"):
        (machine.have / package).touch()
    machine.make()
    (machine.folder / "requirements" / "trainer.txt").write_text("some==2\n")
    assert machine.make().returncode == 0
    assert len(machine.installs()) == 1
    assert "venv --clear" not in machine.log.read_text()


def test_the_developers_environment_serves_the_demo_as_well(machine: Machine) -> None:
    python = machine.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    digest = hashlib.sha256(b"more==1\n").hexdigest()
    (machine.folder / ".venv" / "made-from-dev").write_text(f"{digest}  -\n")
    assert machine.make().returncode == 0
    assert machine.log.read_text() == ""


def test_a_failed_installation_is_not_taken_for_a_whole_one(machine: Machine) -> None:
    for package in ("python3-venv", "libgomp1"):
        (machine.have / package).touch()
    failed = machine.make(PIP="1")
    assert failed.returncode == 1
    assert "pip could not install requirements/trainer.txt; is the package index reachable?" in failed.stderr
    assert machine.make().returncode == 0
    assert len(machine.installs()) == 1


def test_a_python_that_is_too_old_is_named_in_one_line_with_status_78(machine: Machine) -> None:
    old = machine.make(OLD="1", VERSION="3.10.13")
    assert (old.returncode, old.stderr) == (
        78,
        "bash: found no Python 3.11 or newer (python3 is 3.10.13); install one (Debian 12: apt-get install python3), "
        "or name it in PYTHON\n",
    )


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"OLD": "1", "VERSION": "3.6.15"}, "python3.6 is 3.6.15"),
        ({"PYTHON": "/no/python"}, "/no/python does not start"),
    ],
    ids=["too old", "not there"],
)
def test_no_other_python_is_taken_where_one_is_named(machine: Machine, environ: dict[str, str], found: str) -> None:
    machine.add("python3.6", PYTHON)
    machine.add("python3", PYTHON.replace("${OLD:-0}", "0"))
    refused = machine.make(**{"PYTHON": "python3.6"} | environ)
    assert (refused.returncode, f"({found})" in refused.stderr) == (78, True)
    assert not (machine.folder / ".venv").exists()


def test_an_environment_of_an_older_python_is_made_again(machine: Machine) -> None:
    for package in ("python3-venv", "libgomp1"):
        (machine.have / package).touch()
    python = machine.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON.replace("${OLD:-0}", "1"))
    python.chmod(0o755)
    assert machine.make().returncode == 0
    assert "python -m venv --clear .venv" in machine.log.read_text().splitlines()
    assert len(machine.installs()) == 1


def test_missing_system_packages_without_apt_are_told_with_one_command(machine: Machine) -> None:
    missing = machine.make()
    assert missing.returncode == 1
    assert missing.stderr.endswith(
        "the system lacks python3-venv libgomp1; install that and run this again: "
        "sudo apt-get update && sudo apt-get install -y python3-venv libgomp1\n"
    )
    assert not (machine.folder / ".venv").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may install system packages")
def test_root_on_debian_gets_the_missing_system_packages(machine: Machine) -> None:
    (machine.have / "libgomp1").touch()
    machine.add("apt-get", APT)
    machine.add("env", '#!/bin/sh\nshift\nexec "$@"\n')
    assert machine.make().returncode == 0
    assert machine.installs()[0] == "apt-get install -qq -y --no-install-recommends python3-venv"
