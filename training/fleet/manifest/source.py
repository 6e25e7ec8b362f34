"""Reading a manifest from its file.

Owns the file and the question to the trainer. Guarantees that the bytes are those of one whole file: it must
not change while it is read.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable
from pathlib import Path

from training.fleet.manifest.declaration import declaration_of
from training.fleet.manifest.entries import Manifest
from training.fleet.manifest.findings import invalid
from training.fleet.manifest.parse import checked, read_and_check, trainer_of
from training.fleet.manifest.text import Document, too_large
from training.fleet.model.errors import Fault, ManifestError, TrainerError
from training.fleet.model.jobs import MAX_MANIFEST_BYTES, Trainer

__all__ = ["load", "read_bytes"]

_TRIES = 5

Answer = tuple[dict[str, object] | None, str | None]
"""What a trainer declares, else why there is no declaration; both None where nobody asked."""


def load(
    path: Path,
    *,
    base: Path | None = None,
    ask_trainer: bool = True,
    schema_required: bool = False,
    trusted: tuple[str, ...] | None = None,
) -> Manifest:
    """Read and check a manifest file.

    Args:
        path: The file.
        base: Folder for the trainer's command and schema file; the file's own when None.
        ask_trainer: False reads the file without starting or reading anything it names; models and hyper-parameters
            of a trainer other than the project's own are then unchecked.
        schema_required: Never start a trainer: one that is not the project's own must come with a schema file.
        trusted: Command of a trainer that is asked whatever `ask_trainer` says.

    Raises:
        ManifestError: With every fault; also when the file cannot be read or changes while it is read.
    """
    data = read_bytes(path)
    place = path.parent if base is None else base
    return load_bytes(data, place, ask_trainer=ask_trainer, schema_required=schema_required, trusted=trusted)


def load_bytes(
    data: bytes,
    base: Path,
    *,
    ask_trainer: bool = True,
    schema_required: bool = False,
    trusted: tuple[str, ...] | None = None,
) -> Manifest:
    """Check a manifest that is in memory already; arguments and errors as in `load`."""

    # A manifest with a fault is checked twice, but its trainer is asked once: it may take seconds.
    @functools.cache
    def ask(command: tuple[str, ...], schema: str | None) -> Answer:
        try:
            return declaration_of(command, schema, base), None
        except TrainerError as error:
            return None, error.message

    def check(document: Document) -> Manifest:
        declaration, trouble = _declaration(document, ask, ask_trainer, schema_required, trusted)
        return checked(data, document, declaration, trouble)

    return read_and_check(data, check)


def _declaration(
    document: Document,
    ask: Callable[[tuple[str, ...], str | None], Answer],
    ask_trainer: bool,
    schema_required: bool,
    trusted: tuple[str, ...] | None,
) -> Answer:
    trainer = trainer_of(document)
    if trainer is None:
        return None, None
    command, schema = trainer
    # The project's own trainer is asked without starting or reading anything.
    foreign = command != Trainer().command or schema is not None
    if foreign and not ask_trainer and command != trusted:
        return None, None
    if schema_required and schema is None and command != Trainer().command:
        return None, "no trainer.schema, and the setting schema_required keeps this receiver from starting a trainer"
    return ask(command, schema)


def read_bytes(path: Path, *, read: Callable[[int, int], bytes] = os.read) -> bytes:
    """Read a whole file, again if it changes while it is read.

    Args:
        path: The file.
        read: Reads at most the given number of bytes from a descriptor.

    Raises:
        ManifestError: The file cannot be read, is too large, is no file, or changes each time it is read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise _unreadable(path, error.strerror or "no access") from error
    try:
        for _ in range(_TRIES):
            data = _attempt(path, descriptor, read)
            if data is not None:
                return data
            os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError as error:
        raise _unreadable(path, error.strerror or "no access") from error
    finally:
        os.close(descriptor)
    raise _unreadable(path, "a file that changes while it is read", "write it under another name, then rename it")


def _attempt(path: Path, descriptor: int, read: Callable[[int, int], bytes]) -> bytes | None:
    """Read the file once; None when it changed meanwhile."""
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        raise _unreadable(path, "a folder, a pipe or a device")
    if before.st_size > MAX_MANIFEST_BYTES:
        raise too_large(before.st_size)
    pieces = []
    left = MAX_MANIFEST_BYTES + 1
    while left > 0 and (piece := read(descriptor, min(left, 2**20))):
        pieces.append(piece)
        left -= len(piece)
    data = b"".join(pieces)
    after = os.fstat(descriptor)
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns) and len(data) == after.st_size
    return data if same else None


def _unreadable(path: Path, found: str, remedy: str = "check the path and its permissions") -> ManifestError:
    return invalid((Fault(str(path), found.lower(), "a readable TOML file", remedy),))
