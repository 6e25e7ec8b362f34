"""Files from the receiver: an artifact's bundle, its card, its figures.

Guarantees that a file appears under its name only once its bytes hash to what was expected, that a transfer which was
cut goes on where it stopped, also in another run of the program, and that memory stays flat. Another file that is there
already is written over only where the caller says so.

    fetch(client, bundle_at(sha256), sha256, Path("model.tar.zst"))
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPResponse
from pathlib import Path
from typing import BinaryIO, Final, Protocol
from urllib.parse import quote

from training.fleet import system
from training.fleet.client.answer import Answer
from training.fleet.client.transfer import OnBody
from training.fleet.files import sync_folder
from training.fleet.model.errors import (
    ConfigurationError,
    DigestMismatchError,
    FleetError,
    RangeError,
    UnreachableError,
    passing,
)

_CHUNK_BYTES: Final = 256 * 1024

OnBytes = Callable[[int, int], object]
"""Takes bytes that are here and bytes in all, 0 while these are not known."""


class FileSource(Protocol):
    """The part of `Client` that is used here."""

    def download(
        self,
        target: str,
        headers: Callable[[], Mapping[str, str]],
        take: OnBody,
        *,
        deadline_s: float | None = None,
    ) -> Answer:
        """Ask for a file and hand the answer on while its body comes."""


def bundle_at(sha256: str) -> str:
    """Return the address of an artifact's bundle."""
    return f"/v1/model/{quote(sha256, safe='')}"


def part_at(sha256: str, name: str) -> str:
    """Return the address of a small file beside an artifact: its card, a figure, its metrics."""
    return f"{bundle_at(sha256)}/file/{quote(name, safe='')}"


def fetch(
    client: FileSource,
    path: str,
    sha256: str,
    target: Path,
    *,
    progress: OnBytes | None = None,
    force: bool = False,
    deadline_s: float | None = None,
) -> bool:
    """Bring a file here, whole and verified.

    What has come of it lies beside the target until it is whole, in a hidden file that ends in `.part`; the next call
    for the same target and digest goes on from there.

    Args:
        client: The receiver.
        path: What to ask for; see `bundle_at` and `part_at`.
        sha256: What the bytes must hash to, hex.
        target: The file to make. Its folder must exist.
        progress: Told how far it is.
        force: Put it in the place of another file that is at the target.
        deadline_s: Longest time without an answer, None for the client's own.

    Returns:
        True when it was brought; False when the same file was there already.

    Raises:
        ConfigurationError: Another file is at the target and may not be replaced, or the folder cannot be written.
        DigestMismatchError: The bytes hash to something else; none of them is left.
        NotFoundError: The receiver has no such file, or has lost it.
        UnreachableError: It did not answer any more; what came is kept for the next call.
        FleetError: What else the receiver refused with, or the disk.
    """
    if target.exists() and _is_there(target, sha256, force=force):
        return False
    arriving = _Arriving(target, sha256, progress or _ignore)
    while not arriving.is_whole():
        before = arriving.size_bytes
        try:
            client.download(path, arriving.headers, arriving.take, deadline_s=deadline_s)
        except UnreachableError:
            if arriving.size_bytes == before:
                raise
        except RangeError:  # longer than the file, so it is of no use
            arriving.drop()
        else:
            break
    arriving.place()
    return True


def _is_there(target: Path, sha256: str, *, force: bool) -> bool:
    """Return True if a file is the one that is wanted, and False if it is another one that may be replaced."""
    with _told(target), target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256 and not force:
        raise ConfigurationError(
            f"{target} is there already and is another file",
            "move it away, give another place with -o, or replace it with --force",
        )
    return found == sha256


class _Arriving:
    """A file on its way: what has come of it, and its digest so far.

    Args:
        target: Where it will lie.
        sha256: What it must hash to.
        progress: Told how far it is.
    """

    def __init__(self, target: Path, sha256: str, progress: OnBytes) -> None:
        self.size_bytes = 0
        self._target = target
        self._sha256 = sha256
        self._progress = progress
        self._part = target.with_name(f".{target.name}.{sha256[:12]}.part")
        self._hash = hashlib.sha256()
        # In a folder that others write to, a link could lead to a file of this user that is none of ours.
        if self._part.is_symlink():
            self.drop()
        with _told(self._part), contextlib.suppress(FileNotFoundError), open(self._part, "rb", opener=_itself) as file:
            self._count(file)

    def _count(self, file: BinaryIO) -> None:
        while data := file.read(_CHUNK_BYTES):
            self._hash.update(data)
            self.size_bytes += len(data)

    def is_whole(self) -> bool:
        """Return True if all of it is here: a run that was killed before the rename leaves it so."""
        return self.size_bytes > 0 and self._hash.hexdigest() == self._sha256

    def headers(self) -> Mapping[str, str]:
        """Return the header fields that ask for the rest, and only of the same file."""
        if not self.size_bytes:
            return {}
        return {"Range": f"bytes={self.size_bytes}-", "If-Range": f'"{self._sha256}"'}

    def take(self, answer: HTTPResponse) -> None:
        """Write what comes behind what is here; from the beginning when the receiver sends the whole."""
        if answer.status != 206:
            self.drop()
        elif _first(answer) != self.size_bytes:
            raise FleetError(
                f"found the range {answer.getheader('content-range')!a}",
                "look at the proxy in between",
                expected=f"one from byte {self.size_bytes} on",
            )
        total = self.size_bytes + (answer.length or 0)
        with contextlib.ExitStack() as stack:
            with _told(self._part):
                file = stack.enter_context(open(self._part, "ab", buffering=0, opener=_itself))
            while data := answer.read(_CHUNK_BYTES):
                with _told(self._part):
                    file.write(data)
                self._hash.update(data)
                self.size_bytes += len(data)
                self._progress(self.size_bytes, total)

    def drop(self) -> None:
        """Forget what has come."""
        self.size_bytes, self._hash = 0, hashlib.sha256()
        with _told(self._part):
            self._part.unlink(missing_ok=True)

    def place(self) -> None:
        """Give the file its name, durably, if it is what was expected; else leave nothing of it.

        Raises:
            DigestMismatchError: It is something else.
        """
        found = self._hash.hexdigest()
        if found != self._sha256:
            self.drop()
            raise DigestMismatchError(
                f"found bytes that hash to {found}", "fetch it again; if it stays so, run fsck", expected=self._sha256
            )
        with _told(self._target):
            with self._part.open("ab") as file:
                os.fsync(file.fileno())
            system.replace(self._part, self._target)
            sync_folder(self._target.parent)


def _itself(path: str, flags: int) -> int:
    """Open a file and follow no link at its name, where the system can refuse that."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _first(answer: HTTPResponse) -> int:
    """Return where the range of an answer begins, -1 where it does not say."""
    found = re.match(r"bytes ([0-9]{1,18})-", answer.getheader("content-range") or "")
    return int(found[1]) if found else -1


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell the disk's errors apart from those of the network, which are worth another try."""
    try:
        yield
    except OSError as error:
        words = f"cannot write {path} ({error.strerror})"
        raise passing(error, words, "make room, or give another place") or ConfigurationError(
            words, "give a folder that you may write, with -o"
        ) from error


def _ignore(_done: int, _total: int) -> None:
    """Take no notice."""
