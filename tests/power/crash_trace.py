"""What a program did to a disk and what it answered, from the log of strace.

The program runs unchanged. Every call that changes a file or a folder below one folder becomes a `Step`, in the order
the kernel took them; an answer over a socket becomes a step as well, with the request it belongs to. A write counts
from its return, a sync from its return for what had returned before it began, an answer from its beginning: each the
moment that asks the most of the program. A change of a name counts from its return too, but another thread can see the
name and go on while the one that made it still waits for strace: then it counts from the first return that shows it. A
call that a kill cut off has no return; whether it changed a name is looked up in the folder.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

CALLS = (
    "openat,write,writev,pwrite64,lseek,ftruncate,fallocate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,"
    "rmdir,mkdir,mkdirat,link,linkat,sendto,recvfrom,copy_file_range,sendfile"
)
_NAMES: Final = frozenset(
    ["openat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "link", "linkat"]
)
"""Calls that change a name, or may."""
_LINE = re.compile(r"(\d+) +(.*)")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?)(.*)")
_ARGUMENT = re.compile(
    r'"((?:\\x[0-9a-f]{2})*)"(?:\.\.\.)?'  # text, number or descriptor, flags
    r"|(-?\d+|AT_FDCWD)(?:<((?:\\x[0-9a-f]{2}|[A-Za-z0-9+:_.\[\]>-])*?)>(\(deleted\))?(?=[,)\s]|$))?"
    r"|([A-Z][A-Z0-9_|]*)"
)


@dataclass(frozen=True)
class Step:
    """One thing that happened.

    Attributes:
        kind: "make", "write", "cut", "begin-sync", "end-sync", "rename", "remove", "folder", "link" or "answer".
        path: What it happened to, below the watched folder.
        other: The second path of a rename or a link.
        start: First byte of a write, or the length after a cut.
        data: Bytes of a write; at an answer, nothing.
        sync: Number that ties the two steps of a sync together.
        exchange: At an answer: method, path, request body, status, answer body.
    """

    kind: str
    path: str = ""
    other: str = ""
    start: int = 0
    data: bytes = b""
    sync: int = 0
    exchange: tuple[str, str, Any, int, Any] | None = None


def run_traced(command: Sequence[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a program whose calls are written to a log."""
    strace = [
        "strace",
        "-f",
        "-y",
        "-xx",
        "-s",
        "99999999",
        "--seccomp-bpf",
        "-e",
        f"trace={CALLS}",
        "-e",
        "signal=none",
    ]
    return subprocess.Popen([*strace, "-o", str(log), *command], **options)


def steps(log: Path, folder: Path) -> list[Step]:
    """Return what happened below a folder, which lies there as the program left it."""
    return list(_Reader(folder).read(log))


@dataclass
class _Call:
    """One call of one thread. Its text is whole once it has returned."""

    task: str
    text: str

    @property
    def name(self) -> str:
        return self.text.partition("(")[0]

    @property
    def arguments(self) -> list[_Argument]:
        hit = _CALL.match(self.text)
        return _arguments(hit[2] if hit else self.text.partition("(")[2])

    @property
    def result(self) -> int | None:
        """What it returned, None when a kill cut it off."""
        hit = _CALL.match(self.text)
        return int(hit[3]) if hit and hit[3] != "?" else None


def _moments(log: Path) -> list[tuple[bool, _Call]]:
    """Return when calls began (True) and when they returned (False), in the order of the log."""
    found: list[tuple[bool, _Call]] = []
    unfinished: dict[str, _Call] = {}
    with log.open() as lines:
        for line in lines:
            task, text = _LINE.match(line).groups()  # type: ignore[union-attr]
            if text.endswith("<unfinished ...>"):
                unfinished[task] = _Call(task, text.removesuffix("<unfinished ...>").rstrip())
                found.append((True, unfinished[task]))
            elif resumed := _RESUMED.match(text):
                call = unfinished.pop(task)
                call.text = f"{call.text} {resumed[2].lstrip()}"
                found.append((False, call))
            elif _CALL.match(text):
                call = _Call(task, text)
                found += [(True, call), (False, call)]
    return found


@dataclass
class _Argument:
    """One argument of a call: bytes, a number, or a descriptor with the name of what it stands for."""

    data: bytes | None = None
    number: int | None = None
    name: str = ""
    flags: str = ""


def _arguments(text: str) -> list[_Argument]:
    found = []
    for quoted, number, name, deleted, flags in _ARGUMENT.findall(text):
        if flags:
            found.append(_Argument(flags=flags))
        elif number:
            value = -100 if number == "AT_FDCWD" else int(number)
            found.append(_Argument(number=value, name="" if deleted else _plain(name)))
        else:
            found.append(_Argument(data=bytes.fromhex(quoted.replace("\\x", ""))))
    return found


def _plain(name: str) -> str:
    return re.sub(r"\\x([0-9a-f]{2})", lambda hit: chr(int(hit[1], 16)), name)


class _Reader:
    def __init__(self, folder: Path) -> None:
        self._folder = f"{folder.resolve()}"
        self._offsets: dict[int, int] = {}
        self._appending: set[int] = set()
        self._syncs: dict[str, int] = {}
        self._count = 0
        self._talks: dict[str, _Talk] = {}
        self._under_way: dict[str, list[Step]] = {}
        """By thread, what its call changes in names and no return has shown yet."""

    def read(self, log: Path) -> Iterator[Step]:
        for begins, call in _moments(log):
            yield from self._begin(call) if begins else self._end(call)
        for task in list(self._under_way):
            yield from self._settled(task)

    def _below(self, name: str) -> str | None:
        if name == self._folder:
            return "."
        return name.removeprefix(f"{self._folder}/") if name.startswith(f"{self._folder}/") else None

    def _begin(self, call: _Call) -> Iterator[Step]:
        if call.name in ("fsync", "fdatasync"):
            if (path := self._below(call.arguments[0].name)) is not None:
                self._count += 1
                self._syncs[call.task] = self._count
                yield Step("begin-sync", path, sync=self._count)
        elif call.name == "sendto":
            socket, body, *_ = call.arguments
            yield from self._talk(socket.name).answers(body.data or b"")
        elif call.name in _NAMES:
            named = getattr(self, f"_{call.name}")(call.arguments)
            self._under_way[call.task] = [step for step in named if self._happened(step, call.result)]

    def _happened(self, step: Step, result: int | None) -> bool:
        """Say whether a call changed a name. The folder tells of one that a kill cut off."""
        if result is not None:
            return result >= 0
        there = (Path(self._folder) / (step.other or step.path)).exists()
        gone = not (Path(self._folder) / step.path).exists()
        return {"remove": gone, "rename": there and gone}.get(step.kind, there)

    def _talk(self, name: str) -> _Talk:
        return self._talks.setdefault(name, _Talk())

    def _end(self, call: _Call) -> Iterator[Step]:
        if call.name in _NAMES and call.result is not None:
            yield from self._shown(call)
        if call.result is None or call.result < 0:
            self._syncs.pop(call.task, None)
        elif call.name == "openat":
            yield from self._opened(call.arguments, call.result)
        elif call.name not in _NAMES:
            yield from getattr(self, f"_{call.name}", self._unknown)(call.task, call.arguments, call.result)

    def _shown(self, call: _Call) -> Iterator[Step]:
        """Yield what a return shows to have happened: its own change, and before it what that rests on."""
        if (call.name == "openat" and (call.result or 0) >= 0) or " EEXIST " in call.text:
            name = next(argument for argument in call.arguments if argument.data is not None)
            yield from self._made(self._below(self._joined(call.arguments[0], name)) or "")
        yield from self._settled(call.task)

    def _settled(self, task: str) -> Iterator[Step]:
        for step in self._under_way.pop(task, []):
            for path in (step.path, step.other):
                yield from self._made(path.rpartition("/")[0])
            if step.kind in ("rename", "link", "remove"):
                yield from self._made(step.path)
            yield step

    def _made(self, path: str) -> Iterator[Step]:
        """Yield the changes under way that make a name or a folder above it."""
        while path:
            for task, under_way in list(self._under_way.items()):
                if any(path == (step.other or step.path) and step.kind != "remove" for step in under_way):
                    yield from self._settled(task)
            path = path.rpartition("/")[0]

    def _unknown(self, _task: str, arguments: list[_Argument], _result: int) -> Iterator[Step]:
        assert not any(self._below(argument.name) for argument in arguments), arguments
        yield from ()

    def _openat(self, arguments: list[_Argument]) -> Iterator[Step]:
        path = self._below(self._joined(arguments[0], arguments[1]))
        if path is not None and "O_CREAT" in arguments[2].flags:
            yield Step("make", path)

    def _opened(self, arguments: list[_Argument], result: int) -> Iterator[Step]:
        path, flags = self._below(self._joined(arguments[0], arguments[1])), arguments[2].flags
        if path is None:
            return
        self._offsets[result] = 0
        (self._appending.add if "O_APPEND" in flags else self._appending.discard)(result)
        if "O_TRUNC" in flags:
            yield Step("cut", path, start=0)

    def _joined(self, folder: _Argument, name: _Argument) -> str:
        text = (name.data or b"").decode()
        return text if text.startswith("/") else f"{folder.name}/{text}"

    def _write(self, _task: str, arguments: list[_Argument], result: int) -> Iterator[Step]:
        file, data = arguments[0], arguments[1].data or b""
        path = self._below(file.name)
        if path is None or file.number is None:
            return
        start = -1 if file.number in self._appending else self._offsets.get(file.number, 0)
        self._offsets[file.number] = max(start, 0) + result
        yield Step("write", path, start=start, data=data[:result])

    def _lseek(self, _task: str, arguments: list[_Argument], result: int) -> Iterator[Step]:
        if self._below(arguments[0].name) is not None and arguments[0].number is not None:
            self._offsets[arguments[0].number] = result
        yield from ()

    def _pwrite64(self, _task: str, arguments: list[_Argument], result: int) -> Iterator[Step]:
        path = self._below(arguments[0].name)
        if path is not None:
            yield Step("write", path, start=arguments[3].number or 0, data=(arguments[1].data or b"")[:result])

    def _ftruncate(self, _task: str, arguments: list[_Argument], _result: int) -> Iterator[Step]:
        path = self._below(arguments[0].name)
        if path is not None:
            yield Step("cut", path, start=arguments[1].number or 0)

    def _fallocate(self, _task: str, arguments: list[_Argument], _result: int) -> Iterator[Step]:
        path = self._below(arguments[0].name)
        if path is not None:
            yield Step("grow", path, start=(arguments[2].number or 0) + (arguments[3].number or 0))

    def _fsync(self, task: str, arguments: list[_Argument], _result: int) -> Iterator[Step]:
        path = self._below(arguments[0].name)
        if path is not None:
            yield Step("end-sync", path, sync=self._syncs.pop(task))

    _fdatasync = _fsync

    def _rename(self, arguments: list[_Argument]) -> Iterator[Step]:
        names = [argument for argument in arguments if argument.data is not None]
        folders = [argument for argument in arguments if argument.number is not None] or [_Argument()] * 2
        yield from self._two("rename", self._joined(folders[0], names[0]), self._joined(folders[1], names[1]))

    _renameat = _renameat2 = _rename

    def _two(self, kind: str, old: str, new: str) -> Iterator[Step]:
        path, other = self._below(old), self._below(new)
        if path is not None and other is not None:
            yield Step(kind, path, other)

    def _link(self, arguments: list[_Argument]) -> Iterator[Step]:
        names = [argument for argument in arguments if argument.data is not None]
        folders = [argument for argument in arguments if argument.number is not None] or [_Argument()] * 2
        yield from self._two("link", self._joined(folders[0], names[0]), self._joined(folders[1], names[1]))

    _linkat = _link

    def _one(self, kind: str, arguments: list[_Argument]) -> Iterator[Step]:
        folder = arguments[0] if arguments[0].number is not None else _Argument()
        name = next(argument for argument in arguments if argument.data is not None)
        if (path := self._below(self._joined(folder, name))) is not None:
            yield Step(kind, path)

    def _unlink(self, arguments: list[_Argument]) -> Iterator[Step]:
        yield from self._one("remove", arguments)

    _unlinkat = _rmdir = _unlink

    def _mkdir(self, arguments: list[_Argument]) -> Iterator[Step]:
        yield from self._one("folder", arguments)

    _mkdirat = _mkdir

    def _recvfrom(self, _task: str, arguments: list[_Argument], result: int) -> Iterator[Step]:
        if result == 0:
            self._talks.pop(arguments[0].name, None)
        else:
            self._talk(arguments[0].name).received += (arguments[1].data or b"")[:result]
        yield from ()

    def _sendto(self, _task: str, _arguments: list[_Argument], _result: int) -> Iterator[Step]:
        yield from ()


class _Talk:
    """One connection: requests that came in, and the answers to them."""

    def __init__(self) -> None:
        self.received = b""
        self._sent = b""

    def answers(self, data: bytes) -> Iterator[Step]:
        """Take what is sent; yield a step for an answer that is whole and says that something was done."""
        self._sent += data
        if (answer := _message(self._sent)) is None:
            return
        first, body, self._sent = answer
        request = _message(self.received)
        if request is None:  # answered before the request was whole: nothing was promised
            self.received = b""
            return
        line, asked, self.received = request
        status = int(first.split()[1])
        if 200 <= status < 300:
            method, path, _ = line.decode().split()
            yield Step("answer", exchange=(method, path, _document(asked), status, _document(body)))


def _message(data: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Split off the first message: its first line, its body and the rest; None when it is not whole."""
    head, found, rest = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    size = int(length[1]) if length else 0
    if not found or len(rest) < size:
        return None
    return head.split(b"\r\n")[0], rest[:size], rest[size:]


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
