"""A PC as the installer for Windows sees it: files on a drive, cmdlets, one scheduled task.

Files are real, and so are programs where `Programs` starts them. Cmdlets, the scheduler and rights of files are
stand-ins that do what Microsoft's pages on them say, in the little that the script asks for.
"""

from __future__ import annotations

import datetime
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any, Protocol

from powershell import Thrown, UnknownError, as_list, as_text, folded, legacy_line, split_line

Given = dict[str, Any]


class Running(Protocol):
    """A program that the scheduler started."""

    def alive(self) -> bool:
        """Say whether it runs."""

    def kill(self) -> None:
        """End it."""


class Programs(Protocol):
    """What starts the programs of this PC."""

    def run(self, words: list[str], folder: Path, environ: Mapping[str, str]) -> tuple[int, list[str]]:
        """Run one to its end and return status and lines."""

    def start(self, words: list[str], folder: Path) -> Running:
        """Start one and leave it running."""

    def shut(self, path: str) -> bool:
        """Say whether somebody has a file open, so that it cannot be opened for oneself alone."""


@dataclass
class Task:
    """A scheduled task and what was said of it."""

    action: Any
    triggers: list[Any]
    principal: Any
    settings: Any
    enabled: bool = True
    running: Running | None = None

    @property
    def state(self) -> str:
        if not self.enabled:
            return "Disabled"
        return "Running" if self.running is not None and self.running.alive() else "Ready"


@dataclass
class Pc:
    """The machine.

    Attributes:
        drive: Folder that is C:.
        programs: What starts programs.
        python: The python.exe in the path; empty when there is none.
        elevated: Whether the session has administrator rights.
        patience_s: How long a second of the script is.
        owners: Folder to its owner as SDDL names it; what is not there belongs to the administrators.
        held: How often a folder cannot be deleted, because a program still works in it.
    """

    drive: Path
    programs: Programs
    python: str = ""
    elevated: bool = True
    patience_s: float = 1.0
    held: int = 0
    environ: dict[str, str] = field(
        default_factory=lambda: {
            "ProgramFiles": "C:\\Program Files",
            "ProgramData": "C:\\ProgramData",
            "PUBLIC": "C:\\users\\Public",
        }
    )
    owners: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    ran: list[list[str]] = field(default_factory=list)
    rights: list[list[str]] = field(default_factory=list)
    folders: list[str] = field(default_factory=lambda: ["C:\\"])
    task: Task | None = None

    def host(self, path: str) -> Path:
        """Return where a file of this PC lies on the machine of the tests."""
        pure = PureWindowsPath(path)
        if pure.drive.upper() not in ("C:", "Z:") or not pure.root:
            raise UnknownError(f"a path that is not whole: {path}")
        return (self.drive if pure.drive.upper() == "C:" else Path("/")).joinpath(*pure.parts[1:])

    def show(self, line: str) -> None:
        self.said.append(line)

    def program(self, path: str, words: list[str]) -> tuple[int, list[str]]:
        given = split_line(legacy_line(words))
        self.ran.append([path, *given])
        if path == "icacls.exe":
            self.rights.append(given)
            return 0, []
        if path not in (self.python, "C:\\Program Files\\cis490\\venv\\Scripts\\python.exe"):
            raise UnknownError(f"a program that the tests do not know: {path}")
        own = {name: value for name, value in self.environ.items() if name.startswith("CIS490_")}
        return self.programs.run([path, *given], self.host(self.folders[-1]), own)

    def cmdlet(self, name: str, given: Given, plain: list[Any], piped: list[Any]) -> list[Any]:
        if name not in CMDLETS:
            raise UnknownError(f"a command that the tests do not know: {name} {given} {plain}")
        return as_list(CMDLETS[name](self, given, plain or piped))

    def static(self, kind: str, member: str) -> Any:
        found = self._statics().get(f"{kind}::{member}")
        if found is None:
            raise UnknownError(f"a member of .NET that the tests do not know: [{kind}]::{member}")
        return found

    def _statics(self) -> dict[str, Any]:
        sha256 = SimpleNamespace(ComputeHash=lambda data: hashlib.sha256(data).digest())
        return {
            "Console::Error": SimpleNamespace(WriteLine=self.show),
            "IO.Directory::Delete": self._delete,
            "IO.File::GetAttributes": self._attributes,
            "IO.File::Open": self._open,
            "Text.Encoding::UTF8": SimpleNamespace(GetBytes=lambda one: one.encode("utf-8")),
            "BitConverter::ToString": lambda data: "-".join(f"{one:02X}" for one in data),
            "Security.Cryptography.SHA256::Create": lambda: sha256,
            "Security.Principal.WindowsIdentity::GetCurrent": lambda: "me",
            "Security.Principal.WindowsBuiltInRole::Administrator": "Administrator",
            "TimeSpan::Zero": datetime.timedelta(0),
        }

    def _delete(self, path: str, whole: bool) -> None:
        assert whole
        if self.held > 0:
            self.held -= 1
            raise Thrown(f"'{path}' is being used by another process.", "IO.IOException")
        shutil.rmtree(self.host(path))

    def _attributes(self, path: str) -> str:
        return "Directory, ReparsePoint" if self.host(path).is_symlink() else "Directory"

    def _open(self, path: str, mode: str, access: str, share: str) -> Any:
        assert (mode, access, share) == ("Open", "ReadWrite", "None")
        if not self.host(path).parent.exists():
            raise Thrown(f"Could not find a part of the path '{path}'.", "IO.DirectoryNotFoundException")
        if not self.host(path).exists():
            raise Thrown(f"Could not find file '{path}'.", "IO.FileNotFoundException")
        if self.programs.shut(path):
            raise Thrown(f"'{path}' is being used by another process.", "IO.IOException")
        return SimpleNamespace(Dispose=lambda: None)

    def enter(self, path: str) -> None:
        self.folders[-1] = path

    # ---- the scheduler

    def own_task(self) -> Task:
        if self.task is None:
            raise Thrown("No MSFT_ScheduledTask objects found.", "CimException")
        return self.task

    def look(self) -> Any:
        """Return the task as it is at this moment; what it does later does not show in that."""
        if self.task is None:
            return None
        return SimpleNamespace(Actions=[self.task.action], State=self.task.state)

    def register(self, given: Given) -> Any:
        if self.task is not None and self.task.running is not None:
            assert not self.task.running.alive(), "the task was replaced while the worker ran"
        triggers = as_list(given["Trigger"])
        self.task = Task(given["Action"], triggers, given["Principal"], given["Settings"])
        return self.look()

    def start(self) -> None:
        task = self.own_task()
        if not task.enabled:
            raise Thrown("The task is disabled.", "CimException")
        if task.state == "Running":
            return
        line = f'"{task.action.Execute}" {task.action.Arguments}'
        task.running = self.programs.start(split_line(line), self.host(task.action.WorkingDirectory))

    def stop(self) -> None:
        running = self.own_task().running
        if running is not None:
            running.kill()

    def enable(self, *, enabled: bool) -> Any:
        self.own_task().enabled = enabled
        return self.look()

    def unregister(self) -> None:
        assert self.own_task().state != "Running"
        self.task = None


# ---- files


def _test_path(pc: Pc, given: Given, _: list[Any]) -> bool:
    return pc.host(given["LiteralPath"]).exists()


def _new_item(pc: Pc, given: Given, _: list[Any]) -> Any:
    path = pc.host(given["Path"])
    if given["ItemType"] == "Directory":
        path.mkdir(parents=True, exist_ok=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return SimpleNamespace(FullName=given["Path"])


def _rights(pc: Pc, given: Given, _: list[Any]) -> Any:
    return SimpleNamespace(Sddl=f"O:{pc.owners.get(given['LiteralPath'], 'BA')}G:SYD:P(A;;FA;;;SY)")


def _copy(pc: Pc, given: Given, _: list[Any]) -> None:
    source, target = pc.host(given["LiteralPath"]), pc.host(given["Destination"])
    shutil.copytree(source, target / source.name if target.is_dir() else target)


def _remove(pc: Pc, given: Given, _: list[Any]) -> None:
    path = given["LiteralPath"]
    if path.startswith("Env:"):
        pc.environ.pop(path[4:], None)
    else:
        pc.host(path).unlink()


def _children(pc: Pc, given: Given, _: list[Any]) -> list[Any]:
    top, root = given["LiteralPath"], pc.host(given["LiteralPath"])
    inside = [path for path in root.rglob("*") if path.is_file()]
    return [_file(f"{top}\\{PureWindowsPath(path.relative_to(root))}") for path in sorted(inside, reverse=True)]


def _file(path: str) -> Any:
    pure = PureWindowsPath(path)
    return SimpleNamespace(FullName=path, Name=pure.name, Extension=pure.suffix)


def _read(pc: Pc, given: Given, plain: list[Any]) -> Any:
    whole = pc.host(given.get("LiteralPath") or plain[0]).read_text(encoding="utf-8-sig")
    return whole if given.get("Raw") else whole.splitlines()[-int(given.get("Tail", 0)) :]


def _write(pc: Pc, given: Given, _: list[Any]) -> None:
    mark = {"ASCII": "ascii", "UTF8": "utf-8-sig"}[given["Encoding"]]
    lines = [as_text(one) for one in as_list(given["Value"])]
    pc.host(given["LiteralPath"]).write_text("".join(f"{line}\r\n" for line in lines), encoding=mark, newline="")


def _hash(pc: Pc, given: Given, _: list[Any]) -> Any:
    assert given["Algorithm"] == "SHA256"
    return SimpleNamespace(Hash=hashlib.sha256(pc.host(given["LiteralPath"]).read_bytes()).hexdigest().upper())


def _find_lines(pc: Pc, given: Given, _: list[Any]) -> list[Any]:
    wanted = given["Pattern"].casefold()
    lines = pc.host(given["LiteralPath"]).read_text(encoding="utf-8", errors="replace").splitlines()
    return [
        SimpleNamespace(LineNumber=number, Line=line)
        for number, line in enumerate(lines, 1)
        if wanted in line.casefold()
    ]


# ---- the session


def _find_program(pc: Pc, given: Given, _: list[Any]) -> Any:
    known = {"python": pc.python, pc.python: pc.python} if pc.python else {}
    found = known.get(given["Name"])
    return SimpleNamespace(Source=found) if found else None


def _object(pc: Pc, given: Given, _: list[Any]) -> Any:
    if given["TypeName"] != "Security.Principal.WindowsPrincipal":
        raise UnknownError(given["TypeName"])
    return SimpleNamespace(IsInRole=lambda role: pc.elevated and role == "Administrator")


def _sleep(pc: Pc, given: Given, _: list[Any]) -> None:
    time.sleep(given["Seconds"] * pc.patience_s)


def _leave(pc: Pc, _given: Given, _: list[Any]) -> None:
    pc.folders.pop()


def _words(_: Pc, given: Given, __: list[Any]) -> Any:
    return SimpleNamespace(**given)


def _action(_: Pc, given: Given, __: list[Any]) -> Any:
    return SimpleNamespace(
        Execute=given["Execute"], Arguments=given["Argument"], WorkingDirectory=given["WorkingDirectory"]
    )


CMDLETS: dict[str, Callable[[Pc, Given, list[Any]], Any]] = {
    "Copy-Item": _copy,
    "Get-Acl": _rights,
    "Get-ChildItem": _children,
    "Get-Command": _find_program,
    "Get-Content": _read,
    "Get-Date": lambda _pc, _given, _: datetime.datetime.now(datetime.UTC),
    "Get-FileHash": _hash,
    "Join-Path": lambda _pc, given, _: f"{given['Path']}\\{given['ChildPath']}",
    "New-Item": _new_item,
    "New-Object": _object,
    "New-TimeSpan": lambda _pc, given, _: datetime.timedelta(minutes=given["Minutes"]),
    "Pop-Location": _leave,
    "Push-Location": lambda pc, given, _: pc.folders.append(given["LiteralPath"]),
    "Remove-Item": _remove,
    "Select-Object": lambda _pc, given, piped: piped[: given["First"]],
    "Select-String": _find_lines,
    "Set-Content": _write,
    "Set-Location": lambda pc, _given, plain: pc.enter(*plain),
    "Set-StrictMode": lambda _pc, _given, _: None,
    "Sort-Object": lambda _pc, given, piped: sorted(piped, key=lambda one: folded(getattr(one, given["Property"]))),
    "Split-Path": lambda _pc, given, _: str(PureWindowsPath(given["Path"]).parent),
    "Start-Sleep": _sleep,
    "Test-Path": _test_path,
    "Write-Host": lambda pc, _given, plain: pc.show(" ".join(as_text(one) for one in plain)),
    # the scheduler
    "Disable-ScheduledTask": lambda pc, _given, _: pc.enable(enabled=False),
    "Enable-ScheduledTask": lambda pc, _given, _: pc.enable(enabled=True),
    "Get-ScheduledTask": lambda pc, _given, _: pc.look(),
    "New-ScheduledTaskAction": _action,
    "New-ScheduledTaskPrincipal": _words,
    "New-ScheduledTaskSettingsSet": _words,
    "New-ScheduledTaskTrigger": _words,
    "Register-ScheduledTask": lambda pc, given, _: pc.register(given),
    "Start-ScheduledTask": lambda pc, _given, _: pc.start(),
    "Stop-ScheduledTask": lambda pc, _given, _: pc.stop(),
    "Unregister-ScheduledTask": lambda pc, _given, _: pc.unregister(),
}
"""Cmdlet to what it does here: given the named parameters, and the others or what is piped."""
