"""Owns taking files out of a bundle that nobody trusts: the one reader of the archive in the project.

Reads only what the fleet writes: one zstd frame with a window of at most 8 MiB, in it a USTAR archive of regular files.
Names are those that Linux, macOS and Windows all take as they stand; nothing is made outside the folder, no link is
followed, no file is written over. Memory stays at a few MiB whatever the archive claims, and it ends at its limits.
Anything else is refused, whole: bytes before, between and behind the files, and every other type of member.

Source: POSIX.1-2017, pax, "ustar Interchange Format"; RFC 8878 (zstd).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from training.contracts.bundle import MAX_DEPTH, MAX_FILES, MAX_TAR_BYTES, is_plain_name, paths_to
from training.needs import installing
from training.trainer.faults import HostError, SpecError

BLOCK_BYTES: Final = 512
RECORD_BYTES: Final = 20 * BLOCK_BYTES
MAX_RATIO: Final = 200
"""How often a bundle may unfold to its own size, once it has unfolded to `RATIO_FROM_BYTES`."""
RATIO_FROM_BYTES: Final = 16 << 20
MAX_WINDOW_LOG: Final = 23
"""Largest window as a power of two; what a reader must support. Source: RFC 8878, section 3.1.1.1.2."""

_OCTAL: Final = re.compile(rb"([0-7]+)[ \0]*")
_CHUNK_BYTES: Final = 1 << 18
_UNUSED: Final = re.compile(rb"[0-7 \0]*")
"""What stands in the other numbers of a header: owner, group, time, device."""
_CAN_OPEN_BELOW: Final = {os.open, os.mkdir} <= os.supports_dir_fd
_MAGIC: Final = b"ustar\x0000"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may come out; the defaults are what the fleet packs."""

    members: int = MAX_FILES
    """Files."""
    file_bytes: int = MAX_TAR_BYTES
    """Size of one file."""
    total_bytes: int = MAX_TAR_BYTES
    """Size of the archive before compression."""
    depth: int = MAX_DEPTH
    """Folders above a file."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """What came out of a bundle."""

    files: int
    """Number of files, those that were not wanted included."""
    size_bytes: int
    """Their sizes added up."""
    sha256: str
    """Hex digest of the bundle: its artifact id."""
    content_digest: str
    """"sha256:<hex>" of the archive before compression."""


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    size_bytes: int


def extract(
    stream: IO[bytes],
    folder: Path,
    name: str,
    limits: Limits | None = None,
    wanted: Callable[[str], bool] = lambda _: True,
) -> Extracted:
    """Write the files of a bundle to a folder.

    What was written before a fault was found stays there; the caller throws the folder away.

    Args:
        stream: The bundle's bytes.
        folder: An empty folder.
        name: What to call the bundle in messages.
        limits: How much may come out.
        wanted: Says of each file whether it is written; the others are checked all the same.

    Raises:
        SpecError: The bundle is damaged, breaks a limit or holds something other than plainly named regular files.
        HostError: This Python has no zstd, or the folder cannot be written to.
    """
    limits = Limits() if limits is None else limits
    source = _Source(stream, name, limits)
    names = _Names(limits)
    count = size_bytes = 0
    with _Folder(folder) as target:
        while (block := source.take(BLOCK_BYTES)) != bytes(BLOCK_BYTES):
            member = _member(block, source)
            count += 1
            size_bytes += member.size_bytes
            _demand_small(member, count, limits)
            names.add(member.name)
            _copy(source, member, target if wanted(member.name) else None)
    source.finish()
    if not count:
        raise SpecError("the bundle holds no file")
    return Extracted(count, size_bytes, source.sha256(), source.content_digest())


def zstd_module() -> Any:
    """Return the zstd module: Python's own from 3.14 on, `backports.zstd` before.

    Raises:
        HostError: There is none.
    """
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as fault:
        raise HostError(f"reading a bundle needs backports.zstd; {installing('trainer')}") from fault
    return zstd


def _copy(source: _Source, member: _Member, target: _Folder | None) -> None:
    descriptor = None if target is None else target.create(member.name)
    try:
        left = member.size_bytes
        while left:
            data = source.take(min(left, _CHUNK_BYTES))
            left -= len(data)
            if descriptor is not None:
                _write(descriptor, data)
    finally:
        if descriptor is not None:
            os.close(descriptor)
    padding = source.take(-member.size_bytes % BLOCK_BYTES)
    if padding.strip(b"\0"):
        raise source.broken(f"bytes hide behind {_shown(member.name)}")


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _demand_small(member: _Member, count: int, limits: Limits) -> None:
    if member.size_bytes > limits.file_bytes:
        raise SpecError(f"the bundle's member {_shown(member.name)} is larger than {_mib(limits.file_bytes)}")
    if count > limits.members:
        raise SpecError(f"the bundle holds more than {limits.members} files")


def _member(block: bytes, source: _Source) -> _Member:
    """Read a header; only the canonical form of a regular file passes."""
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if _number(block[148:156]) != total:
        raise source.broken("a header's checksum is wrong")
    shown = _shown(block[:100].partition(b"\0")[0].decode("latin-1"))
    if block[156:157] != b"0" or block[157:257].strip(b"\0"):
        raise SpecError(f"the bundle's member {shown} is no regular file")
    if block[257:265] != _MAGIC:
        raise SpecError(f"the bundle's member {shown} has a header of another kind; expected USTAR")
    mode, size_bytes = _number(block[100:108]), _number(block[124:136])
    if mode is None or size_bytes is None or not _UNUSED.fullmatch(block[108:124] + block[136:148] + block[329:345]):
        raise SpecError(f"the bundle's member {shown} has an odd number in its header; expected octal digits")
    if mode > 0o777:
        raise SpecError(f"the bundle's member {shown} has the mode {mode:o}; expected no bit beyond 777")
    name, prefix = _text(block[:100], source), _text(block[345:500], source)
    return _Member(f"{prefix}/{name}" if prefix else name, size_bytes)


def _text(field: bytes, source: _Source) -> str:
    text, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise source.broken("bytes hide behind a name")
    return text.decode("latin-1")


def _number(field: bytes) -> int | None:
    match = _OCTAL.fullmatch(field)
    return int(match[1], 8) if match else None


def _shown(name: str) -> str:
    return ascii(name)[:200]


def _mib(size_bytes: int) -> str:
    return f"{-(-size_bytes >> 20)} MiB"


class _Names:
    """The names so far, each with its folders."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._seen: dict[str, tuple[str, bool]] = {}

    def add(self, name: str) -> None:
        """Take note of a file, or refuse its name."""
        parts = name.split("/")
        if not all(map(is_plain_name, parts)):
            raise SpecError(f"the bundle's member {_shown(name)} is no plain file name")
        if len(parts) > self._limits.depth + 1:
            raise SpecError(f"the bundle's member {_shown(name)} lies deeper than {self._limits.depth} folders")
        if self._seen.get(name.casefold()) == (name, True):
            raise SpecError(f"the bundle holds {name!r} twice")
        *folders, _ = paths_to(name)
        for folder in folders:
            self._claim(folder, is_file=False)
        self._claim(name, is_file=True)

    def _claim(self, path: str, *, is_file: bool) -> None:
        known = self._seen.setdefault(path.casefold(), (path, is_file))
        if known[0] != path:
            raise SpecError(f"the bundle holds {known[0]!r} and {path!r}, which are one name on Windows")
        if known[1] != is_file:
            raise SpecError(f"the bundle holds {path!r} as a file and as a folder")


class _Folder:
    """A folder in which files are made, never through a link and never over another file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW) if _CAN_OPEN_BELOW else -1

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._root >= 0:
            os.close(self._root)

    def create(self, name: str) -> int:
        """Make a file and the folders above it; return its descriptor."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        if self._root < 0:
            # Windows cannot open below a folder's handle. The folder is the caller's own and no link comes out of a
            # bundle, so its plain names lead nowhere else.
            path = self._path.joinpath(*name.split("/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, flags, 0o644)
        *folders, last = name.split("/")
        with contextlib.ExitStack() as opened:
            above = self._root
            for folder in folders:
                above = _below(above, folder)
                opened.callback(os.close, above)
            return os.open(last, flags | os.O_NOFOLLOW, 0o644, dir_fd=above)


def _below(above: int, folder: str) -> int:
    """Open a folder below another one, made when it is not there."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o755, dir_fd=above)
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)


class _Source:
    """The archive's bytes before compression: counted, hashed, and never more than a chunk of them at once."""

    def __init__(self, stream: IO[bytes], name: str, limits: Limits) -> None:
        zstd = zstd_module()
        self._stream, self._name, self._limits = stream, name, limits
        self._error: type[Exception] = zstd.ZstdError
        self._frame = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG})
        self._bundle, self._content = hashlib.sha256(), hashlib.sha256()
        self._read_bytes = self._unfolded_bytes = 0
        self._waiting = b""

    def take(self, size: int) -> bytes:
        """Return exactly so many bytes.

        Raises:
            SpecError: The bundle ends before, is damaged, or unfolds to more than it may.
        """
        pieces = []
        left = size
        while left:
            piece = self._waiting[:left] if self._waiting else self._unfold(left)
            self._waiting = self._waiting[len(piece) :] if self._waiting else b""
            if not piece:
                raise self.broken("it ends too early")
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def finish(self) -> None:
        """Read on to the end, where nothing but padding may stand.

        Raises:
            SpecError: Something else stands there.
        """
        if self.take(BLOCK_BYTES) != bytes(BLOCK_BYTES):
            raise self.broken("its end is marked in the middle")
        padding = 0
        while piece := self._unfold(RECORD_BYTES):
            padding += len(piece)
            if piece.strip(b"\0") or padding > RECORD_BYTES:
                raise self.broken("bytes stand behind its end")
        if not self._frame.eof:
            raise self.broken("it ends too early")
        if self._frame.unused_data or self._fill():
            raise self.broken("bytes stand behind its zstd frame")

    def sha256(self) -> str:
        """Return the hex digest of what was read."""
        return self._bundle.hexdigest()

    def content_digest(self) -> str:
        """Return the digest of what was unfolded."""
        return f"sha256:{self._content.hexdigest()}"

    def broken(self, why: str) -> SpecError:
        """Return the error of a damaged bundle."""
        return SpecError(f"{self._name} is not a whole bundle.tar.zst: {why}; fetch it again")

    def _unfold(self, size: int) -> bytes:
        """Return up to a number of bytes; none at the end."""
        while not self._frame.eof:
            data = self._fill() if self._frame.needs_input else b""
            if not data and self._frame.needs_input:
                return b""
            try:
                found: bytes = self._frame.decompress(data, size)
            except self._error as fault:
                raise self.broken(str(fault)) from fault
            if found:
                self._count(found)
                return found
        return b""

    def _fill(self) -> bytes:
        data = self._stream.read(_CHUNK_BYTES)
        self._bundle.update(data)
        self._read_bytes += len(data)
        return data

    def _count(self, found: bytes) -> None:
        self._content.update(found)
        self._unfolded_bytes += len(found)
        if self._unfolded_bytes > self._limits.total_bytes:
            raise SpecError(f"the bundle unfolds to more than {_mib(self._limits.total_bytes)}")
        if self._unfolded_bytes > max(RATIO_FROM_BYTES, MAX_RATIO * self._read_bytes):
            raise SpecError(
                f"the bundle unfolds to more than {MAX_RATIO} times its size; it is made to fill a disk, or no result"
            )
