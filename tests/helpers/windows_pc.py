"""A PC as the installer for Windows meets it: the scheduler and the rights of files are stand-ins, the rest is real.

The stand-in for `schtasks` does what Microsoft's page on it says, in the little that the installer asks for. It keeps
its one task in a file, so that it is the same one for the next process.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, Protocol
from xml.etree import ElementTree

from training.fleet.install.programs import Programs

SPACE = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"


class Started(Protocol):
    """What starts and ends the program of a task."""

    def start(self, command: str, line: str, folder: str) -> int:
        """Start a program with a command line and return its number."""

    def is_alive(self, number: int) -> bool:
        """Return True if it runs."""

    def kill(self, number: int) -> None:
        """End it."""


class Scheduler:
    """Stands in for `schtasks`."""

    def __init__(self, file: Path, started: Started) -> None:
        self._file, self._started = file, started

    @property
    def task(self) -> dict[str, Any] | None:
        """Return what is registered: the description, whether it is enabled, and the number of the running program."""
        return dict(json.loads(self._file.read_text())) if self._file.exists() else None

    @task.setter
    def task(self, task: dict[str, Any] | None) -> None:
        if task is None:
            self._file.unlink()
        else:
            self._file.write_text(json.dumps(task))

    @property
    def is_running(self) -> bool:
        task = self.task
        return task is not None and task["number"] is not None and self._started.is_alive(task["number"])

    def exec(self) -> dict[str, str]:
        """Return what the task starts: Command, Arguments, WorkingDirectory."""
        task = self.task
        assert task is not None
        found = ElementTree.fromstring(task["xml"]).find(f"{SPACE}Actions/{SPACE}Exec")
        assert found is not None
        return {one.tag.removeprefix(SPACE): one.text or "" for one in found}

    def answer(self, words: Sequence[str]) -> tuple[int, str]:
        """Return status and output of one command."""
        verb, flag, name, *flags = words
        assert (flag, name) == ("/tn", "cis490-training-worker")
        if verb == "/create":
            return self._create(flags)
        task = self.task
        if task is None:
            return 1, "ERROR: The system cannot find the file specified."
        return {"/query": self._query, "/change": self._change}.get(verb, self._act)(verb, task, flags)

    def _create(self, flags: list[str]) -> tuple[int, str]:
        xml, file, force = flags
        assert (xml, force) == ("/xml", "/f")
        assert not self.is_running, "the task was replaced while the worker ran"
        text = Path(file).read_bytes()
        assert text[:2] in (b"\xff\xfe", b"\xfe\xff"), "schtasks wants UTF-16 with its mark"
        self.task = {"xml": text.decode("utf-16"), "enabled": True, "number": None}
        self.exec()
        return 0, ""

    def _query(self, _verb: str, task: dict[str, Any], flags: list[str]) -> tuple[int, str]:
        if flags == ["/xml"]:
            said = "true" if task["enabled"] else "false"
            return 0, re.sub(r"(?s)(<Settings>.*<Enabled>)true", rf"\g<1>{said}", task["xml"])
        assert flags == ["/v", "/fo", "csv", "/nh"]
        return 0, f'"PC","\\x","N/A","Bereit","n","12.03.2026","{267009 if self.is_running else 0}","a"'

    def _change(self, _verb: str, task: dict[str, Any], flags: list[str]) -> tuple[int, str]:
        self.task = {**task, "enabled": {"/enable": True, "/disable": False}[flags[0]]}
        return 0, ""

    def _act(self, verb: str, task: dict[str, Any], flags: list[str]) -> tuple[int, str]:
        if verb == "/run" and not task["enabled"]:
            return 1, "ERROR: The task is disabled."
        if verb == "/run" and not self.is_running:
            told = self.exec()
            number = self._started.start(told["Command"], told["Arguments"], told["WorkingDirectory"])
            self.task = {**task, "number": number}
        if verb == "/end" and self.is_running:
            self._started.kill(task["number"])
        if verb == "/delete":
            assert flags == ["/f"]
            assert not self.is_running
            self.task = None
        return 0, ""


class PcPrograms(Programs):
    """Programs of a PC, of which `schtasks` and `icacls` are stand-ins and the others are started.

    Attributes:
        rights: What `icacls` was told.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.rights: list[list[str]] = []

    def run(
        self,
        words: Sequence[str],
        environ: Mapping[str, str] | None,
        folder: Path | None,
        given: str,
        out: int | None,
        errors: int | None,
    ) -> subprocess.CompletedProcess[bytes]:
        tool = PureWindowsPath(words[0].replace("/", "\\"))
        if tool.name == "icacls.exe":
            assert tool.parent.name == "System32"
            self.rights.append(list(words[1:]))
            return subprocess.CompletedProcess(words, 0, b"", b"")
        if tool.name == "schtasks.exe":
            assert tool.parent.name == "System32"
            status, said = self.scheduler.answer(words[1:])
            return subprocess.CompletedProcess(words, status, said.encode(), b"")
        return super().run(words, environ, folder, given, out, errors)


def split_line(line: str) -> list[str]:
    """Return the words that a program sees in its command line.

    Source: Microsoft, Parsing C command-line arguments.
    """
    found, word, quoted, begun = [], "", False, False
    for slashes, mark in re.findall(r'(\\*)("|[^\\]|$)', line):
        if mark == '"':
            word += "\\" * (len(slashes) // 2)
            begun = True
            if len(slashes) % 2:
                word += mark
            else:
                quoted = not quoted
        elif mark.isspace() and not quoted:
            word += slashes
            if begun or word:
                found.append(word)
            word, begun = "", False
        else:
            word += slashes + mark
    return [*found, word] if begun or word else found
