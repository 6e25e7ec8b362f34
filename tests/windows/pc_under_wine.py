"""A receiver with TLS, an operator, and a PC with nothing on it, where the Python of Windows runs under Wine."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from powershell import Walk
from tls_doors import READ, TOKEN, Door
from windows_pc import Pc
from windows_trainer import DECLARATION
from wine import PREFIX, environment, processes_with, windows_path

ROOT = Path(__file__).resolve().parents[2]
INSTALLABLE = Path(os.environ.get("CIS490_WINE_INSTALLABLE", ""))
WHEELS = Path(os.environ.get("CIS490_WINE_WHEELS", ""))
SCRIPT = "install-training-worker-windows.ps1"
OPEN_ALONE = (
    "import ctypes, sys; k = ctypes.WinDLL('kernel32', use_last_error=True); k.CreateFileW.restype = ctypes.c_void_p; "
    "h = k.CreateFileW(sys.argv[1], 0xC0000000, 0, None, 3, 0, None); "
    "sys.exit(ctypes.get_last_error() if h == ctypes.c_void_p(-1).value else 0)"
)
"""Opens a file for oneself alone, as [IO.File]::Open does with the share None, and ends with the system's error."""
SHARING_VIOLATION = 32
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
hyper = { act = "heed", mark = "%s" }
"""


class Worker:
    """A worker that the scheduler started."""

    def __init__(self, words: list[str], folder: Path, environ: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            ["wine", *words], env=environment(environ), cwd=folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.output = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.output += line.decode("utf-8", "replace")

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)


class WinePrograms:
    """Starts programs under Wine, where pip finds packages in a folder and nowhere else."""

    def __init__(self) -> None:
        self.started: list[Worker] = []
        self.more = {
            "WINEPATH": windows_path(INSTALLABLE),  # the stand-in for the launcher finds its library there
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": windows_path(WHEELS),
            "PIP_NO_COMPILE": "1",
        }

    def run(self, words: list[str], folder: Path, environ: Mapping[str, str]) -> tuple[int, list[str]]:
        done = subprocess.run(
            ["wine", *words], env=environment({**self.more, **environ}), cwd=folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=400, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout.decode("utf-8", "replace").splitlines()

    def start(self, words: list[str], folder: Path) -> Worker:
        self.started.append(Worker(words, folder, self.more))
        return self.started[-1]

    def shut(self, path: str) -> bool:
        status, _ = self.run([windows_path(INSTALLABLE / "python.exe"), "-c", OPEN_ALONE, path], Path("/"), {})
        return status == SHARING_VIOLATION


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
        self.programs = WinePrograms()
        self.drive = Path(PREFIX, "drive_c")
        self.pc = Pc(self.drive, self.programs, windows_path(INSTALLABLE / "python.exe"))
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

    def install(self, **given: Any) -> list[str]:
        """Walk the installer and return what it showed."""
        return self.walk((self.checkout / "scripts" / SCRIPT).read_bytes(), given)

    def walk(self, source: bytes, given: Mapping[str, Any]) -> list[str]:
        before = len(self.pc.said)
        status = Walk(source, self.pc, windows_path(self.checkout / "scripts")).run(given)
        said = self.pc.said[before:]
        assert status == 0, (said, [worker.output for worker in self.programs.started])
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
            given = parameters(command)
            if "Code" in given:
                [printed] = self.printed
                assert list(parameters(printed)) == list(given)
                given = parameters(printed)
            return self.install(**given)
        return self.walk(command.encode(), {})

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
        for worker in self.programs.started:
            worker.kill()
        for pid in processes_with(self.mark):
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
