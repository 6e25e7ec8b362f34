"""Sums of the pages of an SQLite file, so that a bit that flips on the disk is found.

SQLite checks the structure of a file and not its values: a flipped bit in a number or a text passes its checks. Owns a
sum of 8 bytes for each page, in `<database>-sums`. Guarantees that the sums describe the database file as the last
checkpoint left it, also after a crash: sums are synced before the log may start again, and until then the log holds
every page whose sum could be old. What the log holds is protected by the log's own sums. Leaves the file's locks and
the moment of checkpoints to `sqlite`.

Source: https://www.sqlite.org/walformat.html, https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from training.fleet.files import sync_folder, whole

# A chance of 1 in 2**64 that damage goes unseen; longer sums would only make the file beside the database larger.
SUM_BYTES: Final = 8
LOG_HEAD: Final = struct.Struct(">8I")
"""Magic, version, page size, sequence number, two salts, two sums."""
FRAME_HEAD: Final = struct.Struct(">6I")
"""Page number, pages of the database after a commit or 0, two salts, two sums."""
_FRAME_START: Final = struct.Struct(">2I")
LOG_MAGIC: Final = (0x377F0682, 0x377F0683)

_MAGIC: Final = b"CIS490 page sums 1"
_HEAD: Final = struct.Struct(">24sI4x")
# What a disk writes at once: writing one sum alone would read and write as much.
_BLOCK_BYTES: Final = 4096
# A mebibyte at a time keeps a check of a large file within the memory that a receiver may take.
_READ_PAGES: Final = 256


def sums_path(database: Path) -> Path:
    """Return where the sums of a database lie."""
    return database.with_name(f"{database.name}-sums")


def log_path(database: Path) -> Path:
    """Return where the write-ahead log of a database lies."""
    return database.with_name(f"{database.name}-wal")


class PageSums:
    """The sums of one database file.

    Args:
        database: The file.
        descriptor: The file, open for reading. It stays the caller's: closing any descriptor of a file drops all the
            locks that a process has on it, so the caller closes it after SQLite has let go.
    """

    def __init__(self, database: Path, descriptor: int) -> None:
        self._path = sums_path(database)
        self._log = log_path(database)
        self._descriptor = descriptor
        self._page_bytes = 0
        self._sums = bytearray()
        self._dirty: set[int] = set()
        self._kept = False

    @property
    def pages(self) -> int:
        """How many pages have a sum."""
        return len(self._sums) // SUM_BYTES

    @property
    def page_bytes(self) -> int:
        """Size of a page; 0 before `load` or `measure`."""
        return self._page_bytes

    def load(self) -> bool:
        """Take up the sums that were kept; False when there are none or they cannot be read."""
        try:
            data = self._path.read_bytes()
            found = _page_bytes(os.pread(self._descriptor, 100, 0))
        except OSError:
            return False
        # Cut off, or another file. New sums are made, and what differed before is then no longer found.
        if len(data) < _HEAD.size or len(data) % SUM_BYTES:
            return False
        magic, page_bytes = _HEAD.unpack_from(data)
        # After a VACUUM with another page size the old sums describe nothing.
        if magic.rstrip(b"\0") != _MAGIC or page_bytes != found:
            return False
        self._page_bytes = page_bytes
        self._sums = bytearray(memoryview(data)[_HEAD.size :])
        self._kept = True
        return True

    @property
    def span(self) -> int:
        """Number of the last page of the file or of the sums, whichever is larger."""
        size = os.fstat(self._descriptor).st_size
        return max(self.pages, size // self._page_bytes if self._page_bytes else 0)

    def measure(self) -> None:
        """Make the sums from the file as it is."""
        self._page_bytes = _page_bytes(os.pread(self._descriptor, 100, 0))
        self._sums = bytearray().join(found for _, found in self._found(1, 2**32))
        self._kept = False

    def absorb(self, frames: int) -> None:
        """Take over the newest version of each page from the log, which a checkpoint has just written to the file.

        Args:
            frames: How many frames of the log count.
        """
        if not frames:
            return
        with self._log.open("rb") as log, mmap.mmap(log.fileno(), 0, access=mmap.ACCESS_READ) as data:
            self._page_bytes = self._page_bytes or LOG_HEAD.unpack_from(data)[2]
            newest, size = self._newest(data, frames)
            self._resize(size)
            for page, start in newest.items():
                # The database may have shrunk after the page was written.
                if page <= size:
                    self._put(page, _sum(data[start : start + self._page_bytes]))

    def _newest(self, log: mmap.mmap, frames: int) -> tuple[dict[int, int], int]:
        """Return where the newest committed version of each page begins in the log, and how many pages there are."""
        newest: dict[int, int] = {}
        waiting: dict[int, int] = {}
        size, start = self.pages, LOG_HEAD.size
        for _ in range(frames):
            page, after = _FRAME_START.unpack_from(log, start)
            start += FRAME_HEAD.size
            waiting[page] = start
            start += self._page_bytes
            # Frames count only up to a commit: what follows the last one was rolled back or cut off.
            if after:
                newest |= waiting
                waiting.clear()
                size = after
        return newest, size

    def _resize(self, size: int) -> None:
        missing = size - self.pages
        if missing < 0:
            del self._sums[size * SUM_BYTES :]
        else:
            self._dirty.update(range(self._block(self.pages + 1), self._block(size) + 1))
            self._sums.extend(bytes(missing * SUM_BYTES))

    def _put(self, page: int, found: bytes) -> None:
        start = (page - 1) * SUM_BYTES
        self._sums[start : start + SUM_BYTES] = found
        self._dirty.add(self._block(page))

    @staticmethod
    def _block(page: int) -> int:
        return (page - 1) * SUM_BYTES // _BLOCK_BYTES

    def keep(self) -> None:
        """Write the sums down, durably. What is cut off half way is repaired from the log by the next start.

        Raises:
            OSError: The disk refuses. `forget` must follow before the log starts again.
        """
        # Without a file to change, the whole of it is written, under another name until it is complete.
        if not self._kept:
            self._keep_all()
        else:
            self._keep_dirty()
        self._dirty.clear()
        self._kept = True

    def _keep_all(self) -> None:
        """Write a new file, whole: no log could repair one that was cut off."""
        with whole(self._path, private=True) as file:
            file.write(_HEAD.pack(_MAGIC, self._page_bytes))
            file.write(self._sums)

    def _keep_dirty(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            for block in sorted(self._dirty):
                start = block * _BLOCK_BYTES
                os.pwrite(descriptor, memoryview(self._sums)[start : start + _BLOCK_BYTES], _HEAD.size + start)
            # The database may have shrunk; sums of pages that are gone would count as damage.
            os.ftruncate(descriptor, _HEAD.size + len(self._sums))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def forget(self) -> None:
        """Remove the sums durably, because they may no longer be true. The next start makes new ones."""
        self._kept = False
        self._path.unlink(missing_ok=True)
        sync_folder(self._path.parent)

    def differing(self, first: int = 1, count: int = 2**32) -> list[int]:
        """Return the pages of the file that are not what their sum says.

        Args:
            first: Number of the first page to look at; the file begins with page 1.
            count: How many pages to look at.
        """
        last = min(self.span, first + count - 1)
        found = dict(self._found(first, last))
        return [page for page in range(first, last + 1) if found.get(page) != self._sum_of(page)]

    def _sum_of(self, page: int) -> bytes:
        return bytes(self._sums[(page - 1) * SUM_BYTES : page * SUM_BYTES])

    def _found(self, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the sum of each page of the file, up to its end."""
        size, page = self._page_bytes, first
        while size and page <= last:
            data = memoryview(os.pread(self._descriptor, size * min(_READ_PAGES, last - page + 1), (page - 1) * size))
            whole = len(data) // size
            if not whole:
                return
            for start in range(0, whole * size, size):
                yield page, _sum(data[start : start + size])
                page += 1


def _sum(page: bytes | memoryview) -> bytes:
    return hashlib.blake2b(page, digest_size=SUM_BYTES).digest()


def _page_bytes(head: bytes) -> int:
    """Return the page size that the head of a database names, 0 for an empty file."""
    if len(head) < 100:
        return 0
    (size,) = struct.unpack_from(">H", head, 16)
    # The field has two bytes, so the largest size is written as 1.
    return 65536 if size == 1 else int(size)


@dataclass(frozen=True, slots=True)
class LogState:
    """A write-ahead log as a crash has left it.

    Attributes:
        pages: Pages whose newest version is in the log.
        frames: Frames up to the last commit that can be read.
        lost_commits: Commits behind the last one that can be read. One may be what a crash cut off; more are damage,
            because each is synced before the next begins.
        headless: Its head cannot be read, so SQLite takes nothing from it.
    """

    pages: frozenset[int] = frozenset()
    frames: int = 0
    lost_commits: int = 0
    headless: bool = False


def read_log(database: Path) -> LogState | None:
    """Look through the log of a database that nobody has open.

    Returns:
        What it holds; None when it is empty or not there.
    """
    try:
        with log_path(database).open("rb") as log:
            return _read_log(log)
    except FileNotFoundError:
        return None


def _read_log(log: BinaryIO) -> LogState | None:
    head = log.read(LOG_HEAD.size)
    # An empty log that was cut back is full of zeros.
    if len(head) < LOG_HEAD.size or not any(head):
        return None
    magic, _, size, _, *salts_and_sums = LOG_HEAD.unpack(head)
    order = ">" if magic & 1 else "<"
    sums = _log_sums(order, head[:24], (0, 0))
    if magic not in LOG_MAGIC or sums != tuple(salts_and_sums[2:]):
        return LogState(headless=True)
    pages, waiting, frames, count, lost, sound = set[int](), set[int](), 0, 0, 0, True
    while len(frame := log.read(FRAME_HEAD.size + size)) == FRAME_HEAD.size + size:
        page, after, *rest = FRAME_HEAD.unpack_from(frame)
        alike = sum(found == salt for found, salt in zip(rest[:2], salts_and_sums[:2], strict=True))
        if alike == 0:  # left from before the log last began again; of a damaged frame one salt is still right
            break
        sound = sound and alike == 2
        if sound:
            sums = _log_sums(order, frame[:8] + frame[FRAME_HEAD.size :], sums)
            sound = sums == tuple(rest[2:])
        # Counted and not skipped: only the newest commit can be cut off by a crash, more than one is damage.
        if not sound:
            lost += after > 0
            continue
        count += 1
        waiting.add(page)
        if after:
            pages |= waiting
            waiting, frames = set(), count
    if waiting or not sound:
        lost = max(lost, 1)
    return LogState(frozenset(pages), frames, lost)


def _log_sums(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    """Return the running sums of the log after more of it.

    Source: https://www.sqlite.org/fileformat2.html#checksum_algorithm.
    """
    first, second = sums
    for even, odd in struct.iter_unpack(f"{order}II", data):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
