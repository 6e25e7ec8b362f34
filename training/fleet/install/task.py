"""A program that Windows starts at boot: a scheduled task of the account Local Service.

Owns what the task is told: it starts at boot, is looked after every five minutes, has no limit of time, and runs on
battery. Its state is read from XML and a number, because the words for it are in the language of the system.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from training.fleet.checks import TASK_RUNNING, is_disabled, last_results
from training.fleet.install.programs import Programs

_FORM: Final = """<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <Triggers>
    <BootTrigger>
      <Enabled>true</Enabled>
    </BootTrigger>
    <TimeTrigger>
      <Repetition>
        <Interval>PT5M</Interval>
        <StopAtDurationEnd>false</StopAtDurationEnd>
      </Repetition>
      <StartBoundary>2020-01-01T00:00:00</StartBoundary>
      <Enabled>true</Enabled>
    </TimeTrigger>
  </Triggers>
  <Principals>
    <Principal id="Author">
      <UserId>S-1-5-19</UserId>
      <RunLevel>LeastPrivilege</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <StartWhenAvailable>true</StartWhenAvailable>
    <Enabled>true</Enabled>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <Priority>6</Priority>
    <RestartOnFailure>
      <Interval>PT1M</Interval>
      <Count>999</Count>
    </RestartOnFailure>
  </Settings>
  <Actions Context="Author">
    <Exec>
      <Command>{program}</Command>
      <Arguments>{arguments}</Arguments>
      <WorkingDirectory>{folder}</WorkingDirectory>
    </Exec>
  </Actions>
</Task>
"""


def described(program: Path, arguments: Sequence[str], folder: Path) -> str:
    """Return what the scheduler is told of a task that starts a program.

    The account goes by number, because its name is translated. The first instant of the repetition lies in the past, so
    that the text is the same at each run.

    Source: Microsoft, Task Scheduler Schema.
    """
    return _FORM.format(
        program=escape(str(program)), arguments=escape(subprocess.list2cmdline(arguments)), folder=escape(str(folder))
    )


class Task:
    """A scheduled task.

    Args:
        name: Its name.
        programs: What starts programs.
        schtasks: Path of the program that speaks to the scheduler.
        kept: File in which what the scheduler was told is kept, for the next run to compare.
    """

    def __init__(self, name: str, programs: Programs, schtasks: Path, kept: Path) -> None:
        self.name = name
        self._programs = programs
        self._schtasks = str(schtasks)
        self._kept = kept

    def exists(self) -> bool:
        """Return True if the scheduler knows it."""
        return self._query("/xml")[0] == 0

    def is_enabled(self) -> bool:
        """Return True if the scheduler would start it."""
        status, xml = self._query("/xml")
        return status == 0 and not is_disabled(xml)

    def is_running(self) -> bool:
        """Return True if the scheduler has started it and it has not ended."""
        _, told = self._query("/v", "/fo", "csv", "/nh")
        return TASK_RUNNING in last_results(told)

    def is_as_told(self, description: str) -> bool:
        """Return True if it was registered with this description and may start."""
        return self._kept.is_file() and self._kept.read_text(encoding="utf-16") == description and self.is_enabled()

    def register(self, description: str) -> None:
        """Register it, in place of an older one.

        Raises:
            ProgramError: The scheduler refuses it.
        """
        self._kept.write_text(description, encoding="utf-16")  # with the mark that schtasks wants
        self._demand("/create", "/xml", str(self._kept), "/f")

    def start(self) -> None:
        """Start it now."""
        self._demand("/run")

    def end(self) -> None:
        """End it at once; one that does not run is left alone."""
        self._programs.ask([self._schtasks, "/end", "/tn", self.name])

    def enable(self) -> None:
        """Let the scheduler start it."""
        self._demand("/change", "/enable")

    def disable(self) -> None:
        """Keep the scheduler from starting it, over reboots as well."""
        self._demand("/change", "/disable")

    def remove(self) -> None:
        """Remove it."""
        self._demand("/delete", "/f")

    def _query(self, *flags: str) -> tuple[int, str]:
        return self._programs.ask([self._schtasks, "/query", "/tn", self.name, *flags])

    def _demand(self, verb: str, *flags: str) -> None:
        self._programs.demand([self._schtasks, verb, "/tn", self.name, *flags])
