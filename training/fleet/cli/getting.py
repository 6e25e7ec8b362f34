"""The command `get`: the files of a result, brought to this machine whole and verified.

Owns which files a result has, where they go and what is said of them. Guarantees that no name from elsewhere leads out
of the folder or means something else on Windows, and that the bundle comes last, so that card and figures can be looked
at while it is on its way. Leaves the transfer to `client.fetch`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.fleet.cli import programs
from training.fleet.cli.commands import Call
from training.fleet.cli.text import clean, size, table
from training.fleet.cli.wanted import ReadyResult, wanted
from training.fleet.client.fetch import bundle_at, part_at
from training.fleet.model.artifact import BUNDLE
from training.fleet.model.errors import ConfigurationError, FleetError, NotFoundError, UnreachableError
from training.fleet.model.parts import RESULT_KINDS, is_part_name, kind_of

UNPACKED: Final = "artifact"
"""Name of the folder with the files of a bundle."""


@dataclass(frozen=True, slots=True)
class ResultFile:
    """One file of a result.

    Attributes:
        name: Its name, which every system takes as it stands.
        kind: One of `RESULT_KINDS`.
        at: Its address at the receiver.
        sha256: Digest of its bytes.
    """

    name: str
    kind: str
    at: str
    sha256: str


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of a result on this machine.

    Attributes:
        path: Where it lies.
        kind: One of `RESULT_KINDS`.
        sha256: Digest of its bytes.
        size_bytes: Its length.
        fetched: Whether it was brought now; False when it was there already.
    """

    path: Path
    kind: str
    sha256: str
    size_bytes: int
    fetched: bool


def get(call: Call) -> int:
    """Bring the files of a result here, and say what to do with them."""
    result = wanted(call)
    files = chosen(result, call.options.only or RESULT_KINDS)
    folder: Path = call.options.output or Path(result.folder)
    brought = bring(call, files, folder, force=call.options.force)
    unpacked = _unpack(call, brought, folder) if call.options.unpack else None
    _say(call, result, brought, folder, unpacked)
    return 0


# ---- which files ----------------------------------------------------------------------------------------------------


def files_of(result: ReadyResult) -> list[ResultFile]:
    """Return all files of a result, the bundle last.

    Raises:
        FleetError: A name cannot be a file's on every system, or two are one name on Windows.
    """
    files = [_part(result, part.name, part.sha256) for part in result.parts]
    names = [file.name.casefold() for file in files]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise FleetError(f"found two files {name!a}, which are one on Windows", "tell the receiver's operator")
    return [*files, ResultFile(BUNDLE, "model", bundle_at(result.artifact), result.artifact)]


def _part(result: ReadyResult, name: str, sha256: str) -> ResultFile:
    if not is_part_name(name):
        raise FleetError(
            f"the receiver names a file {ascii(name)[:80]}",
            "tell its operator; `--only model` does without the small files",
            expected="a plain name that ends in .md, .json, .svg or .png",
        )
    return ResultFile(name, kind_of(name), part_at(result.artifact, name), sha256)


def chosen(result: ReadyResult, kinds: Sequence[str]) -> list[ResultFile]:
    """Return the files of some kinds.

    Raises:
        NotFoundError: There is none of them.
    """
    if tuple(kinds) == ("model",):
        result = dataclasses.replace(result, parts=())
    found = [file for file in files_of(result) if file.kind in kinds]
    if not found:
        raise NotFoundError(
            f"found no {' and no '.join(kinds)} beside the bundle of {result.short_id}",
            "its trainer wrote none, or its worker was of an older version; `--only model --unpack` gives all it wrote",
        )
    return found


# ---- the transfer ---------------------------------------------------------------------------------------------------


def bring(call: Call, files: Sequence[ResultFile], folder: Path, *, force: bool) -> list[LocalFile]:
    """Bring files into a folder, which is made where it is not there.

    Raises:
        FleetError: What `client.fetch.fetch` raises; what has come stays for the next call.
    """
    with _folder(folder):
        return [_brought(call, file, folder / file.name, force=force) for file in files]


def _brought(call: Call, file: ResultFile, target: Path, *, force: bool) -> LocalFile:
    last = ""

    def progress(done: int, total: int) -> None:
        nonlocal last
        percent = f", {100 * done // total} %" if total else ""
        line = f"{file.name}  {size(done)}{f' of {size(total)}' if total else ''}{percent}"
        if line != last:
            call.console.pass_by(line)
            last = line

    try:
        fetched = call.remote.fetch(file.at, file.sha256, target, progress=progress, force=force)
    except UnreachableError as fault:
        kept = "what has come is kept, and the same command goes on from there"
        raise UnreachableError(fault.found, f"{fault.remedy}; {kept}", answered=fault.answered) from fault
    finally:
        if last:
            call.console.pass_by("")
    return LocalFile(target, file.kind, file.sha256, target.stat().st_size, fetched)


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Make a folder, and take it away again where nothing came into it."""
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ConfigurationError(
            f"cannot make the folder {folder} ({fault.strerror})", "give another with -o"
        ) from None
    try:
        yield
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _unpack(call: Call, brought: Sequence[LocalFile], folder: Path) -> Path:
    """Take the files out of the bundle, with the trainer's own program; return their folder."""
    bundle = next((file for file in brought if file.kind == "model"), None)
    if bundle is None:
        raise FleetError("found --unpack and a --only without the model", "add `model` to --only")
    target = folder / UNPACKED
    if target.exists():
        call.console.note([f"{target} is there already and was left as it is; delete it to unpack again"])
        return target
    program = programs.demand("unpack", f"the bundle is at {bundle.path}")
    status = programs.run(
        program, [str(bundle.path), str(target), "--sha256", bundle.sha256], output=subprocess.DEVNULL
    )
    if status:
        raise FleetError(f"{bundle.path} is there and was not unpacked, for the reason above", _other_python())
    return target


def _other_python() -> str:
    return "Python 3.14, or an installation with the extra `trainer`, reads it; `predict` takes it as it is"


# ---- what is said ---------------------------------------------------------------------------------------------------


def _say(call: Call, result: ReadyResult, brought: Sequence[LocalFile], folder: Path, unpacked: Path | None) -> None:
    if call.console.as_json:
        call.console.document(_document(result, brought, folder, unpacked))
        return
    terminal = call.console.terminal
    if terminal.width is None:
        rows = [
            [str(file.path), file.kind, str(file.size_bytes), file.sha256, "fetched" if file.fetched else "there"]
            for file in brought
        ]
        call.console.lines(table((), rows, terminal), whole=True)
        return
    job = result.job
    what = clean(f"{result.short_id}  {job.model} {job.mode} {job.split} seed {job.seed}")
    rows = [
        [file.path.name, size(file.size_bytes), "fetched" if file.fetched else "was here already"] for file in brought
    ]
    width = max(len(row[0]) for row in rows)
    lines = [f"{what}, verified, in {clean(str(folder))}:"]
    lines += [f"  {clean(name):<{width}}  {count:>10}  {state}" for name, count, state in rows]
    call.console.lines([*lines, *([] if unpacked is None else [f"  {UNPACKED}/  unpacked"])])
    call.console.lines(["", *_following(result, brought)], whole=True)


def _following(result: ReadyResult, brought: Sequence[LocalFile]) -> list[str]:
    """Return what to type next."""
    look = [f"look   cis490-jobs card {result.short_id}"]
    bundle = next((file.path for file in brought if file.kind == "model"), None)
    if bundle is None:
        return look
    words = ["python", "-m", "training.trainer.predict", "--bundle", str(bundle)]
    return [*look, f"score  {quoted(words)} --data FILE --out scores.csv"]


def quoted(words: Sequence[str]) -> str:
    """Return a command as it is typed here, with control characters visible."""
    shown = [clean(word) for word in words]
    return subprocess.list2cmdline(shown) if os.name == "nt" else shlex.join(shown)


def _document(result: ReadyResult, brought: Sequence[LocalFile], folder: Path, unpacked: Path | None) -> dict[str, Any]:
    return {
        "id": result.job.id,
        "artifact": result.artifact,
        "folder": str(folder),
        "unpacked": None if unpacked is None else str(unpacked),
        "files": [
            {
                "path": str(file.path),
                "kind": file.kind,
                "size_bytes": file.size_bytes,
                "sha256": file.sha256,
                "fetched": file.fetched,
            }
            for file in brought
        ],
    }
