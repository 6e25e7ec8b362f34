"""The lines of the README, typed by a person who has nothing but a system's Python: no variable, an own home folder.

No package is fetched: the environment that the lines make finds those of the tests' own. What they install and from
where is what the lines say.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("training", "etc", "data/lab", "pyproject.toml", "README.md", "LICENSE")
BEGIN = "python3 -m venv env && . env/bin/activate\n"
PYTHON = """#!/bin/sh
"{python}" "$@" || exit
if [ "$1 $2 $3" = "-m venv env" ]; then
    for site in env/lib/python*/site-packages; do
        rm -rf "$site"/setuptools*
        echo "{packages}" > "$site/of-the-tests.pth"
    done
fi
"""
WAIT_S = 120.0


def blocks() -> list[str]:
    """Return the blocks of the README that belong to its section on use."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Use it\n")[2].partition("\n## ")[0]
    return re.findall(r"(?ms)^```sh\n(.*?)^```$", text)


class Person:
    """Somebody with a copy of the project, an empty home and a shell."""

    def __init__(self, folder: Path) -> None:
        self.clone, self.programs = folder / "clone", folder / "programs"
        for part in PARTS:
            source, target = ROOT / part, self.clone / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, target)
        self.programs.mkdir()
        python = self.programs / "python3"
        real = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
        python.write_text(PYTHON.format(python=real, packages=sysconfig.get_path("purelib")))
        python.chmod(0o755)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        self.environ = {
            "PATH": f"{self.programs}:/usr/bin:/bin", "HOME": str(folder), "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0", "PIP_CONFIG_FILE": os.devnull,
            # Others may use the port of the README meanwhile.
            "CIS490_LISTEN_ADDR": f"127.0.0.1:{port}", "CIS490_RECEIVER": f"http://127.0.0.1:{port}",
        }  # fmt: skip
        self.said = folder / "said"

    def type(self, lines: str) -> None:
        """Type lines into one shell that stays, with what they start."""
        with self.said.open("wb") as said:
            self._shell = subprocess.Popen(
                ["sh", "-ec", f"{lines}\nset > ../variables; wait"], cwd=self.clone, env=self.environ,
                stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def ask(self, line: str) -> tuple[int, str]:
        """Type one line into another shell, which has what the first one set."""
        done = subprocess.run(
            ["sh", "-ec", f". env/bin/activate\n{line}"], cwd=self.clone, env=self.environ | self._set(),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT_S, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def _set(self) -> dict[str, str]:
        text = (self.clone.parent / "variables").read_text()
        return dict(re.findall(r"(?m)^(CIS490_OPERATOR_TOKEN)='?([^'\n]*)'?$", text))

    def until(self, line: str, sign: str) -> str:
        """Type a line again and again until what it prints holds a sign."""
        end = time.monotonic() + WAIT_S
        while True:
            assert self._shell.poll() is None, self.said.read_text()
            assert time.monotonic() < end, self.said.read_text()
            if (self.clone.parent / "variables").exists():
                status, said = self.ask(line)
                if status == 0 and re.search(sign, said):
                    return said

    def leave(self) -> None:
        """End everything that the lines started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGTERM)
        self._shell.wait(WAIT_S)


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    made = Person(tmp_path)
    yield made
    made.leave()


@pytest.mark.skipif(sys.platform != "linux", reason="the lines are for Linux")
def test_the_lines_on_use_make_a_fleet_that_can_be_looked_at(person: Person) -> None:
    make, look = blocks()
    assert make.startswith(BEGIN)
    person.type(make)
    person.until("cis490-jobs status", r"hosts\s+working 1")
    for line in look.splitlines():
        assert person.ask(line)[0] == 0, line
    assert "lab-server" in person.ask("cis490-jobs workers")[1]


def test_every_block_that_installs_makes_an_environment_first_and_none_brings_torch() -> None:
    installing = [block for block in blocks() if "pip install" in block]
    assert installing
    for block in installing:
        assert block.index("-m venv") < block.index("pip install")
        assert "torch" not in block
