"""The bundle: one artifact folder as one file, the same bytes for the same content.

Owns the form of the file: a canonical tar (USTAR, names sorted, times 0, owners 0, regular files only) inside one zstd
frame of level 1. Guarantees that equal folders give equal tars on every platform, that the target appears whole or not
at all, and that memory stays constant whatever the size. The digest of the tar is the `content_digest`; it is compared
between hosts, because compressors differ. The upload is the worker's part, and reading bundles that of the trainer.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import stat
import tarfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from training.contracts.bundle import MAX_DEPTH, MAX_FILES, MAX_TAR_BYTES, is_plain_name, paths_to
from training.fleet import system
from training.fleet.files import whole
from training.fleet.model.errors import TrainerError

_CHUNK_BYTES: Final = 2**20
_BEHIND: Final = 2
"""Chunks that may wait for a step: one in work and one ready keep it busy."""
_LEVEL: Final = 1
"""The fastest of zstd's ordinary levels."""


@dataclass(frozen=True, slots=True)
class Packed:
    """What was packed.

    Attributes:
        sha256: Hex digest of the bundle's bytes: the artifact id.
        content_digest: "sha256:<hex>" of the uncompressed tar.
        size_bytes: Length of the bundle.
    """

    sha256: str
    content_digest: str
    size_bytes: int


class _Compressor(Protocol):
    def compress(self, data: bytearray, /) -> bytes: ...

    def flush(self) -> bytes: ...


def pack(folder: Path, target: Path) -> Packed:
    """Pack a folder into a bundle, durably and in one pass.

    Args:
        folder: The artifact folder; it must not change meanwhile.
        target: The file to make; it is replaced when it is there. Its folder must exist.

    Returns:
        The digests and the length of the new file.

    Raises:
        TrainerError: The folder is missing, empty, a link, over a limit, or holds something other than plainly named
            regular files that may be read (kind `no_artifact`); the disk is full (`disk_full`); it cannot be read or
            written (`host_fault`).
    """
    folder = system.long_path(folder)
    try:
        members = _members(folder)
        with whole(target) as out:
            return _write(members, out)
    except OSError as error:
        raise _refused(folder, error) from error


def _refused(folder: Path, error: OSError) -> TrainerError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TrainerError(f"no room to pack {folder}: {error}", "free disk space on this host", kind="disk_full")
    if isinstance(error, FileNotFoundError):
        return TrainerError(
            f"found no artifact at {folder} ({error})", "the trainer must leave its files there", kind="no_artifact"
        )
    if isinstance(error, NotADirectoryError):
        return _odd(f"found a file at {folder}", expected="a folder with the trainer's files in its place")
    if isinstance(error, PermissionError) and _lies_in(error.filename, folder):
        return _odd(f"found {error.filename!r}, which may not be read", "the trainer must leave files that may")
    return TrainerError(f"cannot pack {folder}: {error}", "check this host's disk and rights", kind="host_fault")


def _lies_in(name: object, folder: Path) -> bool:
    return name is not None and Path(str(name)).is_relative_to(folder)


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    path: Path
    size_bytes: int

    @property
    def padding(self) -> int:
        return -self.size_bytes % tarfile.BLOCKSIZE


def _members(folder: Path) -> list[_Member]:
    """Return the files below a folder in the order of their names, or refuse the folder."""
    if folder.is_symlink():
        raise _odd(f"found a link at {folder}", expected="a folder with the trainer's files in its place")
    members = sorted(islice(_walk(folder, folder, 0), MAX_FILES + 1), key=lambda member: member.name)
    if not members:
        raise _odd(f"found an empty folder {folder}", expected="the trainer's files in it")
    if len(members) > MAX_FILES:
        raise _odd(f"found more than {MAX_FILES} files in {folder}", expected="at most that many in an artifact")
    seen: dict[str, str] = {}
    for path in (path for member in members for path in paths_to(member.name)):
        other = seen.setdefault(path.casefold(), path)
        if other != path:
            raise _odd(f"found {other!r} and {path!r}, which are one file on Windows", "rename one of them")
    size = _tar_bytes(members)
    if size > MAX_TAR_BYTES:
        raise _odd(f"found {size} bytes in {folder}", expected=f"at most {MAX_TAR_BYTES} in an artifact")
    return members


def _walk(folder: Path, top: Path, depth: int) -> Iterator[_Member]:
    if depth > MAX_DEPTH:
        raise _odd(f"found folders nested deeper than {MAX_DEPTH} in {top}", "flatten the artifact")
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            name = path.relative_to(top).as_posix()
            _check_name(entry.name, name)
            found = entry.stat(follow_symlinks=False)
            if getattr(found, "st_reparse_tag", 0):
                raise _odd(f"found the link {name!r}", expected="a regular file in its place")
            if stat.S_ISDIR(found.st_mode):
                yield from _walk(path, top, depth + 1)
            elif stat.S_ISREG(found.st_mode):
                # Windows' directory entries may show an outdated size; lstat asks the file.
                yield _Member(name, path, path.lstat().st_size)
            else:
                raise _odd(f"found {name!r}, a {_sort(found.st_mode)}", expected="a regular file in its place")


def _check_name(part: str, name: str) -> None:
    if not is_plain_name(part):
        raise _odd(
            f"found the name {name!r}",
            expected="letters, digits and any of _.+=@,~- in it, not ending in a dot and not a device name of Windows",
        )


def _sort(mode: int) -> str:
    sorts = ((stat.S_ISLNK, "link"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
    return next((word for test, word in sorts if test(mode)), "device")


def _odd(found: str, remedy: str = "", *, expected: str = "") -> TrainerError:
    return TrainerError(found, remedy, kind="no_artifact", expected=expected)


def _tar_bytes(members: list[_Member]) -> int:
    """Return the length of the tar, which is padded to whole records as every tar program does."""
    size = sum(tarfile.BLOCKSIZE + member.size_bytes + member.padding for member in members)
    size += 2 * tarfile.BLOCKSIZE
    return size + -size % tarfile.RECORDSIZE


def _write(members: list[_Member], out: BinaryIO) -> Packed:
    """Hash, compress, write and hash again, each on its own thread: all of it releases the interpreter lock."""
    total = _tar_bytes(members)
    content, bundle = hashlib.sha256(), hashlib.sha256()
    compressor = _compressor(total)
    size = 0

    def keep(data: bytes | bytearray) -> None:
        nonlocal size
        bundle.update(data)
        size += len(data)
        view = memoryview(data)
        while view:
            view = view[out.write(view) :]

    with _Stage(content.update) as hashing, _Stage(keep) as keeping:
        for chunk in _chunks(_tar(members, total)):
            hashing.put(chunk)
            keeping.put(compressor.compress(chunk))
        keeping.put(compressor.flush())
    return Packed(bundle.hexdigest(), f"sha256:{content.hexdigest()}", size)


def _tar(members: list[_Member], total: int) -> Iterator[bytes]:
    """Yield the canonical tar in pieces of any length."""
    done = 0
    for member in members:
        yield _header(member)
        yield from _content(member)
        yield bytes(member.padding)
        done += tarfile.BLOCKSIZE + member.size_bytes + member.padding
    yield bytes(total - done)


def _header(member: _Member) -> bytes:
    info = tarfile.TarInfo(member.name)
    info.size, info.mode = member.size_bytes, 0o644
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except ValueError as error:
        raise _odd(f"found the name {member.name!r} ({error})", expected="a shorter one") from error


def _content(member: _Member) -> Iterator[bytes]:
    left = member.size_bytes
    with _opened(member.path) as file:
        while left:
            data = file.read(min(left, _CHUNK_BYTES))
            if not data:
                break
            left -= len(data)
            yield data
        if left or file.read(1):
            raise _odd(
                f"{member.name!r} changed while it was packed", "the trainer must end before its artifact is taken"
            )


def _opened(path: Path) -> BinaryIO:
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    return os.fdopen(os.open(path, flags), "rb", buffering=0)


def _chunks(pieces: Iterator[bytes]) -> Iterator[bytearray]:
    """Yield the same bytes in chunks of about a MiB; equal content is cut at equal places."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= _CHUNK_BYTES:
            yield held
            held = bytearray()
    yield held


class _Stage:
    """One step of a pipeline on its own thread, at most two chunks behind, so that memory stays constant."""

    def __init__(self, step: Callable[[bytes | bytearray], None]) -> None:
        self._step = step
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def put(self, chunk: bytes | bytearray) -> None:
        """Hand over a chunk; raises what an earlier step raised."""
        while len(self._waiting) >= _BEHIND:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._step, chunk))

    def __enter__(self) -> _Stage:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._waiting:
                future.result()


def _compressor(total: int) -> _Compressor:
    """Return zstd where this Python has it, else a writer of frames that any zstd reads."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            zstd = importlib.import_module(name)
        except ImportError:
            continue
        options = {zstd.CompressionParameter.compression_level: _LEVEL, zstd.CompressionParameter.checksum_flag: 0}
        compressor = zstd.ZstdCompressor(options=options)
        compressor.set_pledged_input_size(total)
        made: _Compressor = compressor
        return made
    return _RawFrame(total)


class _RawFrame:
    """A zstd frame of stored blocks, for hosts without a compressor.

    Source: RFC 8878, sections 3.1.1 (frame) and 3.1.1.2 (blocks).
    """

    _MAGIC = bytes.fromhex("28b52ffd")
    _SIZE_IN_8_BYTES = 0xC0
    _WINDOW_128_KIB = 7 << 3
    _BLOCK_BYTES = 2**17

    def __init__(self, total: int) -> None:
        self._left = total
        head = self._MAGIC + bytes((self._SIZE_IN_8_BYTES, self._WINDOW_128_KIB))
        self._head = head + total.to_bytes(8, "little")

    def compress(self, data: bytearray) -> bytes:
        """Return the next blocks; the frame's head comes with the first ones."""
        pieces = [self._head]
        self._head = b""
        for start in range(0, len(data), self._BLOCK_BYTES):
            block = memoryview(data)[start : start + self._BLOCK_BYTES]
            self._left -= len(block)
            last = int(self._left == 0)
            pieces += ((last | len(block) << 3).to_bytes(3, "little"), bytes(block))
        return b"".join(pieces)

    def flush(self) -> bytes:
        """Return nothing: the last block was marked when it was written."""
        return b""
