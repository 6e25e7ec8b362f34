"""A receiver with TLS, an operator, and a PC with nothing on it, where the Python of Windows runs under Wine."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from tls_doors import READ, TOKEN, Door
from windows_guide import handed_on
from windows_pc import split_line
from windows_trainer import DECLARATION
from wine import PREFIX, environment, processes_with, windows_path

ROOT = Path(__file__).resolve().parents[2]
INSTALLABLE = Path(os.environ.get("CIS490_WINE_INSTALLABLE", ""))
WHEELS = Path(os.environ.get("CIS490_WINE_WHEELS", ""))
SCRIPT = "install-training-worker-windows.ps1"
DRIVER = ROOT / "tests" / "windows" / "installer_driver.py"
PLACES = {"ProgramFiles": "C:\\Program Files", "ProgramData": "C:\\ProgramData"}
DONE = "== the installer is done"
"""The last line of the driver; a worker that it started keeps its output open under Wine."""
OWN_LOG = "cis490\\worker.log"
"""Stands in the command line of a worker that the task started."""
EXAMPLE = "https://receiver.example:8445"
"""The receiver in the guide."""
MANIFEST = """
[manifest]
schema = 1
[trainer]
command = ["{python}", "training/windows_trainer.py"]
schema = "trainer.schema.json"
[defaults]
split_recipe = "hosts"
max_attempts = 3
[hosts.default]
[[jobs]]
model = "tiny"
mode = "oracle"
seed = 1
priority = 9
hyper = { act = "good", mark = "" }
[[jobs]]
model = "tiny"
mode = "oracle"
seed = 2
hyper = { act = "listen", mark = "%s" }
"""


class Lab:
    """A receiver with TLS, an operator, and a PC with a checkout and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, f"mark-{os.urandom(8).hex()}"
        self.checkout = folder / "check out"
        for name in ("training", "requirements", "scripts"):
            leave_out = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, self.checkout / name, ignore=leave_out)
        shutil.copy(ROOT / "tests" / "windows" / "windows_trainer.py", self.checkout / "training")
        (folder / "trainer.schema.json").write_text(json.dumps(DECLARATION))
        self.drive = Path(PREFIX, "drive_c")
        self.task = folder / "task.json"
        self.working_folder = self.checkout
        self.printed: list[str] = []
        self.door: Door = None  # type: ignore[assignment]  # until it is open
        self.clean()

    def left(self) -> list[str]:
        """Return the folders of the fleet that are on the drive."""
        places = (self.drive / name / "cis490" for name in ("Program Files", "ProgramData"))
        return [str(path.relative_to(self.drive)) for path in places if path.exists()]

    def clean(self) -> None:
        for name in self.left():
            shutil.rmtree(self.drive / name)

    def install(self, statuses: tuple[int, ...] = (0,), **given: Any) -> list[str]:
        """Run the installer as its script does for these parameters, and return what it showed."""
        words = handed_on((self.checkout / "scripts" / SCRIPT).read_text(), given)
        code = {"CIS490_INVITE": given["Code"]} if "Code" in given else {}
        python = [windows_path(INSTALLABLE / "python.exe"), "-IB", windows_path(DRIVER)]
        return self.run([*python, windows_path(self.checkout), windows_path(self.task), *words], code, statuses)

    def run(self, words: list[str], more: Mapping[str, str], statuses: tuple[int, ...] = (0,)) -> list[str]:
        """Run a program of the PC, where pip finds packages in a folder and nowhere else, and return its lines."""
        own = {
            "WINEPATH": windows_path(INSTALLABLE),  # the stand-in for venv's launcher finds its library there
            "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": windows_path(WHEELS), "PIP_NO_COMPILE": "1",
        }  # fmt: skip
        process = subprocess.Popen(
            ["wine", *words], env=environment({**own, **more}), cwd=self.working_folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        with process.stdout as stream:
            lines = (line.decode("utf-8", "replace").rstrip("\r\n") for line in stream)
            said = list(itertools.takewhile(lambda line: line != DONE, lines))
        log = self.drive / "ProgramData" / "cis490" / "worker.log"
        assert process.wait(60) in statuses, (said, log.read_text(errors="replace") if log.exists() else "")
        return said

    def invited(self, host: str) -> dict[str, str]:
        """Return the parameters in the command for Windows that an invite prints."""
        [line] = [one for one in self.operator("invite", host).splitlines() if SCRIPT in one]
        return parameters(line)

    def type_in(self, command: str) -> list[str]:
        """Run a command of the guide as it stands there, but for the receiver's address and the invite's code."""
        if command.startswith("cis490-jobs "):
            words = shlex.split(command)[1:]
            shown = self.operator(*(self.door.url if word == EXAMPLE else word for word in words))
            self.printed = [line for line in shown.splitlines() if SCRIPT in line] or self.printed
            return shown.splitlines()
        if command.startswith("powershell "):
            assert (self.working_folder / "scripts" / SCRIPT).exists(), "the guide has left the checkout"
            given = parameters(command)
            if "Code" in given:
                [printed] = self.printed
                assert list(parameters(printed)) == list(given)
                given = parameters(printed)
            return self.install(**given)
        name, *words = split_line(re.sub(r"\$env:(\w+)", lambda found: PLACES[found[1]], command))
        if name == "Get-Content":
            path, flag, count = words
            assert flag == "-Tail"
            return self.on_drive(path).read_text(encoding="utf-8").splitlines()[-int(count) :]
        if name in ("Push-Location", "Pop-Location"):
            self.working_folder = self.on_drive(words[0]) if words else self.checkout
            return []
        assert name == "&"
        return self.run(words, {}, (0, 1))  # to `doctor` the scheduler of Wine says of every task that it does not run

    def on_drive(self, path: str) -> Path:
        """Return where a file of the PC lies on this machine."""
        return self.drive.joinpath(*PureWindowsPath(path).parts[1:])

    def running(self) -> list[int]:
        """Return the workers that the task started and that have not ended, of this PC alone."""
        own = f"WINEPREFIX={PREFIX}".encode()
        return [pid for pid in processes_with(OWN_LOG) if own in Path("/proc", str(pid), "environ").read_bytes()]

    def operator(self, *words: str) -> str:
        """Run the operator's command as a person does."""
        environ = {
            **os.environ, "CIS490_RECEIVER": self.door.url, "CIS490_CA_FILE": str(self.door.site.ca),
            "CIS490_READ_TOKEN": READ, "CIS490_OPERATOR_TOKEN": TOKEN, "NO_COLOR": "1",
        }  # fmt: skip
        command = [sys.executable, str(ROOT / "tools" / "cis490_jobs.py"), *words]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def job(self, seed: int) -> dict[str, Any]:
        """Return one of the manifest's jobs: 1 is done at once, 2 goes on until its trainer is stopped once."""
        [found] = [job for job in json.loads(self.operator("list", "--json"))["jobs"] if job["seed"] == seed]
        return dict(found)

    def workers(self) -> list[dict[str, Any]]:
        return list(json.loads(self.operator("workers", "--json"))["workers"])

    def end(self) -> None:
        for pid in (*self.running(), *processes_with(self.mark)):
            os.kill(pid, signal.SIGKILL)
        self.clean()


def parameters(line: str) -> dict[str, Any]:
    """Return the parameters in a command that starts the installer; one that no value follows is a switch."""
    found: dict[str, Any] = {}
    for word in line.split(f"{SCRIPT} ")[1].split():
        if re.fullmatch(r"-[A-Z]\w+", word):
            found[word[1:]] = True
        else:
            assert found[list(found)[-1]] is True
            found[list(found)[-1]] = word
    return found
