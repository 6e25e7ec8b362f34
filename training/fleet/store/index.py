"""The list of artifacts for people and scripts: `index.jsonl`, one JSON object a line.

Owns the form of a line and the file. Guarantees that the file is whole after every start, and that its lines have the
order of the database however uploads end. It is derived: the database is the truth, and a start makes the file say what
the database says.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from training.fleet.files import whole
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.errors import ConfigurationError, FleetError, passing

_CHUNK_BYTES: Final = 2**20

_log = logging.getLogger(__name__)


Listed = tuple[ArtifactKey, int] | tuple[ArtifactKey, int, str | None]
"""An artifact as the list has it: its key, its length, and when it was pruned."""


def index_line(key: ArtifactKey, size_bytes: int, pruned_at: str | None = None) -> bytes:
    """Return the line of an artifact."""
    row = {"sha256": key.sha256, "model": key.model, "mode": key.mode, "size_bytes": size_bytes, "path": key.path}
    if pruned_at is not None:
        row["pruned_at"] = pruned_at
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


def index_lines(rows: Iterable[Listed]) -> Iterator[bytes]:
    """Yield the lines of artifacts."""
    return (index_line(*row) for row in rows)


class Index:
    """The file. Every method may be called from any thread.

    Args:
        path: Where it lies.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = threading.Lock()
        self._memory = threading.Lock()
        self._owed = b""

    def open(self) -> None:
        """Make the folder, and an empty file where there is none.

        Raises:
            ConfigurationError: They cannot be made.
            UnavailableError: The disk refuses for now.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab"):
                pass
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> FleetError:
        words = f"cannot write the index {self._path}: {error.strerror}"
        if refusal := passing(error, words, "look at its disk"):
            return refusal
        return ConfigurationError(
            f"cannot write the index: {error}",
            "correct --index-path",
            expected=f"{self._path} to be a file this user may write",
        )

    def owe(self, line: bytes) -> None:
        """Note a line that is to be written; at once, and in the order of the calls."""
        with self._memory:
            self._owed += line

    def pay(self) -> None:
        """Write the lines that are owed, each of them whole.

        What cannot be written now is written with the next line or by the next start; the artifact is safe without it.
        """
        with self._file:
            with self._memory:
                lines = self._owed
            try:
                if lines:
                    self._write(lines)
            except OSError as error:
                _log.warning("index not written, it is made again at the next start: %s", error)
            else:
                with self._memory:
                    self._owed = self._owed[len(lines) :]

    def _write(self, lines: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            append(file, lines)

    def covered(self) -> None:
        """Forget the lines that are owed, because `rewrite` has them all. Called on the thread that owes lines."""
        with self._memory:
            self._owed = b""

    def rewrite(self, lines: Iterable[bytes]) -> bool:
        """Write the whole file again while the receiver runs, because an older line is another one now.

        Args:
            lines: Every line; reading the last one calls `covered`, so that what is owed later is not lost.

        Returns:
            False when it cannot be written now; the next start puts it right, and the artifacts are safe without it.
        """
        with self._file:
            try:
                with whole(self._path) as new:
                    new.writelines(lines)
            except OSError as error:
                _log.warning("index not written, it is made again at the next start: %s", error)
                return False
            return True

    def rebuild(self, lines: Iterable[bytes]) -> bool:
        """Compare the file with what it should be; from the first difference on, write it again.

        Args:
            lines: Every line in the order of the database; read once, so it may be a generator.

        Returns:
            True when the file was wrong and is written again.

        Raises:
            ConfigurationError: The file cannot be written.
            UnavailableError: Its disk refuses for now.
        """
        with self._file:
            try:
                changed = self._rebuild(lines)
            except OSError as error:
                raise self._unusable(error) from error
            with self._memory:
                self._owed = b""
            return changed

    def _rebuild(self, lines: Iterable[bytes]) -> bool:
        rest = iter(lines)
        with self._path.open("rb") as old:
            good = 0
            for line in rest:
                if old.readline(len(line) + 1) != line:
                    self._replace(old, good, line, rest)
                    return True
                good += len(line)
            if not old.read(1):
                return False
            self._replace(old, good, b"", rest)
            return True

    def _replace(self, old: BinaryIO, good: int, line: bytes, rest: Iterable[bytes]) -> None:
        with whole(self._path) as new:
            old.seek(0)
            while good:
                good -= new.write(old.read(min(good, _CHUNK_BYTES)))
            new.write(line)
            new.writelines(rest)


def append(file: BinaryIO, lines: bytes) -> None:
    """Write all of the lines at the end of an unbuffered file, or nothing of them."""
    before, left = file.seek(0, os.SEEK_END), memoryview(lines)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError:
        file.truncate(before)
        raise
