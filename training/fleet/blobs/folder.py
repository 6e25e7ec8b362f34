"""Blobs in a folder of this machine.

Owns the file operations of the store: temporary files, syncs, renames and free space. Guarantees that a blob appears
whole or not at all, that its name and all folders above it are on the disk before `place` returns, that a blob once
placed is never overwritten, and that a sweep removes temporary files of uploads alone. Leaves names, digests, limits of
size and the index to `store`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Final

from training.fleet.blobs.disk import System
from training.fleet.blobs.protocol import Blob, Data, Leftover
from training.fleet.locks import folders_held
from training.fleet.model.errors import ConfigurationError, FleetError, StorageFullError, UnavailableError, passing

_TEMPORARY: Final = re.compile(r"[0-9a-f]{32}\.part")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM})
_BUSY: Final = frozenset({errno.EMFILE, errno.ENFILE})
_NO_RESERVE: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
_RETRY_FULL_S: Final = 60.0
_RETRY_BUSY_S: Final = 5.0
STEP_BYTES: Final = 4 * 2**20
"""Room that an upload takes at a time. Many slow uploads together hold little of the room that others need, and a large
one asks the file system seldom."""


class Folder:
    """Blobs below one folder, with the temporary files in another one of the same file system.

    Every method may be called from any thread.

    Args:
        root: Where blobs lie.
        incoming: Where uploads are written until they are whole.
        floor_bytes: Free space that no upload may touch; the database lives on it.
        system: The operating system.
    """

    def __init__(self, root: Path, incoming: Path, floor_bytes: int = 0, system: System | None = None) -> None:
        self.root = root
        self.incoming = incoming
        self._floor_bytes = floor_bytes
        self._system = system or System()
        self._lock = threading.Lock()
        self._live: set[str] = set()
        self._known: set[Path] = set()
        self._broken = ""
        self.on_broken: Callable[[str], None] = _ignore
        """Called once, on the thread that saw it, with what the disk failed at."""

    def prepare(self) -> None:
        """Make the folders, check that they can be used, and remove what aborted uploads left.

        Raises:
            ConfigurationError: A folder cannot be made or written, or the two are not on one file system.
            FleetError: The disk refuses for now.
        """
        self.make()
        try:
            self._probe()
        except OSError as error:
            raise self._unusable(error) from error
        self.sweep()

    def make(self) -> None:
        """Make the folders, durably, and leave what is in them alone.

        Raises:
            ConfigurationError: A folder cannot be made.
            FleetError: The disk refuses for now.
        """
        try:
            self._make(self.root)
            self._make(self.incoming)
            self._sync_folder(self.root.parent)
        except OSError as error:
            raise self._unusable(error) from error

    def held(self) -> AbstractContextManager[None]:
        """Keep every other program out of both folders; one that is not there needs no holding.

        Raises:
            ConfigurationError: Another program holds one of them, a folder above it or a folder in it.
            UnavailableError: The disk refuses for now.
        """
        return folders_held(self.root, self.incoming)

    def _make(self, folder: Path) -> None:
        """Make a folder and those above it, each with its name on the disk."""
        if not folder.is_dir():
            self._make(folder.parent)
            folder.mkdir(mode=0o750)
            self._sync_folder(folder.parent)

    def _probe(self) -> None:
        """Do once what every upload does. Only a real rename shows mounts that share one device."""
        name = f"{secrets.token_hex(16)}.part"
        source, target = self.incoming / name, self.root / name
        os.close(self._system.create(source))
        try:
            self._system.rename(source, target)
        except OSError:
            source.unlink()
            raise
        target.unlink()

    def _unusable(self, error: OSError) -> FleetError:
        if error.errno == errno.EXDEV:
            return ConfigurationError(
                f"found {self.incoming} and {self.root} on two file systems",
                "set --incoming-root to a folder beside the store",
                expected="one, because a rename between two is not atomic",
            )
        trouble = f"cannot use the folders of the store {self.root} and {self.incoming}: {error.strerror}"
        return passing(error, trouble, "look at their disk") or ConfigurationError(
            f"cannot use the folders of the store: {error}",
            "create them or correct --store-root and --incoming-root",
            expected=f"{self.root} and {self.incoming} to be folders that this user may write",
        )

    @property
    def broken(self) -> str:
        """What the disk failed at, for people; empty while all is well. It takes a restart to clear it."""
        return self._broken

    def free_bytes(self) -> int:
        """Return the room left above the floor, 0 when the folder cannot be looked at."""
        try:
            return max(0, self._system.free_bytes(self.incoming) - self._floor_bytes)
        except OSError:
            return 0

    def begin(self, size_bytes: int) -> NewFile:
        """Return a new temporary file, with its first room taken.

        The room for all of it must be there now and is taken as the bytes come: a client that declares much and sends
        nothing holds no room from others.

        Raises:
            StorageFullError: The blob would leave less than the floor.
            UnavailableError: The disk has failed, is read-only, or too many files are open.
        """
        self._check()
        name = f"{secrets.token_hex(16)}.part"
        path = self.incoming / name
        with self._lock:
            self._check_room(size_bytes)
            self._live.add(name)
            try:
                return NewFile(self, path, self._first_room(path, size_bytes), size_bytes)
            except OSError as error:
                self._forget(path)
                raise self.fault("make room for an upload", error) from error

    def _check(self) -> None:
        if self._broken:
            raise UnavailableError(self._broken, "check the disk, then restart the receiver")

    def _check_room(self, size_bytes: int) -> None:
        free = self._system.free_bytes(self.incoming)
        if free - size_bytes < self._floor_bytes:
            raise StorageFullError(
                f"found {free} bytes free at {self.incoming}",
                "free disk space on the receiver, the upload is tried again",
                expected=f"{size_bytes} for the upload and {self._floor_bytes} to spare",
                retry_after_s=_RETRY_FULL_S,
            )

    def _first_room(self, path: Path, size_bytes: int) -> int:
        descriptor = self._system.create(path)
        try:
            self._reserve(descriptor, 0, size_bytes)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _reserve(self, descriptor: int, start: int, size_bytes: int) -> int:
        """Take the next step of room and return where it ends."""
        step = min(STEP_BYTES, size_bytes - start)
        if step > 0:
            try:
                self._system.reserve(descriptor, start, step)
            except OSError as error:
                if error.errno not in _NO_RESERVE:
                    raise
        return start + step

    def more_room(self, descriptor: int, start: int, size_bytes: int) -> int:
        """Take the next step of room, unless it would leave less than the floor; for `NewFile`.

        Returns:
            Up to where there is room now.

        Raises:
            StorageFullError: It would.
        """
        with self._lock:
            self._check_room(min(STEP_BYTES, size_bytes - start))
            return self._reserve(descriptor, start, size_bytes)

    def has(self, key: str) -> bool:
        """Say whether a blob is there, and make sure that it is on the disk if so.

        A receiver killed between rename and sync leaves a blob that a power cut could still take.
        """
        self._check()
        try:
            return self._confirm(self._path(key))
        except OSError as error:
            raise self._failed(f"sync {key}", error) from error

    def _confirm(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            self._system.sync(descriptor)
        finally:
            os.close(descriptor)
        self._sync_parents(path)
        return True

    def _path(self, key: str) -> Path:
        """Return where a blob lies or would lie. The key is made of checked names."""
        return self.root / key

    def address(self, key: str) -> str:
        """Return the path of a blob, whether it is there or not."""
        return str(self._path(key))

    def stat(self, key: str) -> Blob | None:
        """Return what is known of a blob, None where there is none."""
        try:
            found = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Blob(key, found.st_size, found.st_mtime)

    def open(self, key: str) -> BinaryIO:
        """Return a blob, open for reading. Raises FileNotFoundError when it is not there."""
        return self._path(key).open("rb", buffering=0)

    def list(self, prefix: str = "") -> Iterator[Blob]:
        """Yield the blobs below a folder, and whatever other files lie there, by name. No link is followed."""
        return self._listed(self.root / prefix)

    def _listed(self, folder: Path) -> Iterator[Blob]:
        for path in _looked_into(folder):
            if path.is_dir() and not path.is_symlink():
                yield from self._listed(path)
            else:
                with contextlib.suppress(FileNotFoundError):  # removed since its folder was read
                    found = path.lstat()
                    yield Blob(path.relative_to(self.root).as_posix(), found.st_size, found.st_mtime)

    def move(self, key: str, target: str) -> None:
        """Rename a blob, durably, and take its folder away if it was the last there."""
        old, new = self._path(key), self._path(target)
        with self._lock:
            new.parent.mkdir(parents=True, exist_ok=True)
            if new.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
            self._system.rename(old, new)
        for folder in (new.parent, old.parent, self.root):
            self._sync_folder(folder)
        self._tidy(old.parent)

    def delete(self, key: str) -> None:
        """Remove a blob, durably, and its folder if it was the last there. One that is gone already is fine."""
        path = self._path(key)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            self._sync_folder(path.parent)
            self._tidy(path.parent)

    def _tidy(self, folder: Path) -> None:
        """Remove a folder that is empty; not while an upload is about to be renamed into it."""
        with self._lock, contextlib.suppress(OSError):
            folder.rmdir()

    def share(self, key: str, target: Path) -> bool:
        """Give a blob's file a second name; False on another file system, or on one without such names."""
        try:
            os.link(self._path(key), target)
        except FileNotFoundError:
            raise
        except OSError:
            return False
        return True

    def leftovers(self) -> Iterator[Leftover]:
        """Yield what lies in the folder of uploads and belongs to no upload under way."""
        for path in _looked_into(self.incoming):
            if path.name not in self._live:
                yield Leftover(str(path), own=_TEMPORARY.fullmatch(path.name) is not None)

    def sweep(self) -> int:
        """Remove the temporary files of uploads that no longer live, and return how many there were.

        Raises:
            FleetError: The disk refuses.
        """
        with self._lock:
            live = set(self._live)
        try:
            return sum(self._swept(path) for path in self.incoming.iterdir() if path.name not in live)
        except OSError as error:
            raise self.fault("remove the leftovers of uploads", error) from error

    @staticmethod
    def _swept(path: Path) -> bool:
        """Remove a file if an upload has left it; say whether it has."""
        if not _TEMPORARY.fullmatch(path.name):
            return False
        path.unlink(missing_ok=True)
        return True

    def place(self, part: Path, descriptor: int, key: str) -> bool:
        """Give a whole temporary file its name; for `NewFile` alone."""
        target = self._path(key)
        try:
            self._system.sync(descriptor)
            with self._lock:
                target.parent.mkdir(parents=True, exist_ok=True)
                new = not target.exists()
                if new:
                    self._system.rename(part, target)
            if new:
                self._sync_parents(target)
            else:
                self._confirm(target)
        except OSError as error:
            raise self._failed(f"place {key}", error) from error
        return new

    def _sync_parents(self, path: Path) -> None:
        """Sync every folder between a blob and the root that may hold a new entry."""
        group = path.parent.parent
        self._sync_folder(path.parent)
        self._sync_folder(group)
        if group not in self._known:
            self._sync_folder(self.root)
            self._known.add(group)

    def _sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._system.sync(descriptor)
        finally:
            os.close(descriptor)

    def _failed(self, doing: str, error: OSError) -> FleetError:
        """Wrap a failed sync or rename. After it the kernel may have dropped the bytes, so nothing more is taken.

        A full disk, too many open files, a file that somebody removed and rights that somebody took say nothing about
        bytes.
        """
        if error.errno not in _FULL | _BUSY | _GONE | _DENIED and not self._broken:
            self._broken = f"the store could not {doing}: {error.strerror}"
            self.on_broken(self._broken)
        return self.fault(doing, error)

    def fault(self, doing: str, error: OSError) -> FleetError:
        """Return the error of the fleet for one of the operating system, with what to do about it."""
        found = f"the store could not {doing}: {error.strerror}"
        if error.errno in _FULL:
            return StorageFullError(found, "free disk space on the receiver", retry_after_s=_RETRY_FULL_S)
        if error.errno in _BUSY:
            return UnavailableError(
                f"{found}; too many uploads at once", "try again later", retry_after_s=_RETRY_BUSY_S
            )
        if error.errno == errno.EROFS:
            return UnavailableError(found, "remount the receiver's disk for writing", retry_after_s=_RETRY_FULL_S)
        if error.errno in _GONE:
            return UnavailableError(
                f"{found}; another program removed a file or folder of the store meanwhile",
                "send the upload again",
                retry_after_s=_RETRY_BUSY_S,
            )
        if error.errno in _DENIED:
            return UnavailableError(
                found,
                f"give everything in {self.root} and {self.incoming} back to the receiver's user (chown -R)",
                retry_after_s=_RETRY_FULL_S,
            )
        return FleetError(found, "check the receiver's disk")

    def _forget(self, path: Path) -> None:
        """Remove a temporary file. The caller holds the lock or knows that nobody else has the name."""
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        self._live.discard(path.name)


class NewFile:
    """A blob on its way in: one temporary file that nobody else knows.

    Calls may come from any thread, one after the other; `discard` may come while another call is under way.
    """

    def __init__(self, folder: Folder, path: Path, descriptor: int, size_bytes: int) -> None:
        self._folder = folder
        self._path = path
        self._descriptor = descriptor
        self._size_bytes = size_bytes
        self._written_bytes = 0
        self._room_bytes = min(STEP_BYTES, size_bytes)
        self._lock = threading.Lock()

    def write(self, data: Data) -> None:
        """Append bytes.

        Raises:
            StorageFullError: The disk is full after all.
            UnavailableError: The upload was discarded meanwhile.
            FleetError: The disk failed.
        """
        with self._lock:
            self._check()
            view = memoryview(data)
            end = self._written_bytes + len(view)
            try:
                while self._room_bytes < min(end, self._size_bytes):
                    self._room_bytes = self._folder.more_room(self._descriptor, self._room_bytes, self._size_bytes)
                while view:
                    view = view[self._folder._system.write(self._descriptor, view) :]
                self._written_bytes = end
            except OSError as error:
                raise self._folder.fault("write an upload", error) from error

    def place(self, key: str) -> bool:
        """Make the bytes a blob, durably. The temporary file is gone afterwards, whatever happens.

        Returns:
            True when it is new; False when the blob was there already, which is kept as it is.

        Raises:
            StorageFullError: The disk is full after all.
            FleetError: The disk failed. The folder takes no more blobs.
        """
        try:
            with self._lock:
                self._check()
                return self._folder.place(self._path, self._descriptor, key)
        finally:
            self.discard()

    def _check(self) -> None:
        if self._descriptor < 0:
            raise UnavailableError("the upload was given up before it was whole", "send it again")

    def discard(self) -> None:
        """Remove the temporary file and nothing else. Does nothing when it is gone."""
        with self._lock:
            if self._descriptor < 0:
                return
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1
            self._folder._forget(self._path)


def _looked_into(folder: Path) -> list[Path]:
    """Return what is in a folder by name, nothing for one that is not there.

    Raises:
        FleetError: It cannot be looked into.
    """
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FleetError(
            f"cannot look into {error.filename or folder} ({error.strerror})", "look at its disk and run this again"
        ) from error


def _ignore(_why: str) -> None:
    """Stand in for a listener until there is one."""
