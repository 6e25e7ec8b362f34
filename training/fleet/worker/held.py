"""A folder that stays the same one while what is in it is deleted, whatever happens to its name.

Guarantees that no step leads out of the folder by a link: on Linux because every step starts at an open folder and
refuses links; on Windows, which has no such calls, because each folder is looked at before it is entered. Leaves the
order of the steps to `files`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from training.fleet import system


class ByPath:
    """A folder found by its path at every step, for systems that open no folders.

    Args:
        path: The folder.

    Raises:
        OSError: It is a link, or not there.
    """

    def __init__(self, path: Path) -> None:
        if system.is_link(path):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let go of it."""

    def inner(self, name: str) -> ByPath:
        """Return a folder in this one, with all rights for its owner.

        Raises:
            OSError: It is no folder, or cannot be entered.
        """
        found = ByPath(self._path / name)
        found._path.chmod(0o700)
        return found

    def entries(self, *, folders: bool) -> Iterator[str]:
        """Yield the names of the folders in this one, or of all else."""
        with contextlib.suppress(OSError):
            if system.is_link(self._path):
                return
            with os.scandir(self._path) as found:
                yield from (one.name for one in found if system.is_plain_folder(one) is folders)

    def unlink(self, name: str) -> bool:
        """Delete a file or a link; return False when that cannot be done."""
        return _done(lambda: system.unlink(self._path / name))

    def rmdir(self, name: str) -> bool:
        """Delete an empty folder; return False when that cannot be done."""
        return _done((self._path / name).rmdir)

    def move(self, name: str, to: ByPath) -> bool:
        """Move a folder out of this one into another; return False when that cannot be done."""

        def moved() -> None:
            self.inner(name)._path.rename(to._path / _unused_name())

        return _done(moved)


if sys.platform != "win32":
    _FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

    class ByDescriptor:
        """A folder held open.

        Args:
            path: The folder.
            above: Descriptor of the folder that a relative path starts from.

        Raises:
            OSError: It is a link, no folder, or not there.
        """

        def __init__(self, path: Path | str, above: int | None = None) -> None:
            self._number = os.open(path, _FOLDER, dir_fd=above)

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
        ) -> None:
            """Close it."""
            os.close(self._number)

        def inner(self, name: str) -> ByDescriptor:
            """See `ByPath`."""
            try:
                found = ByDescriptor(name, self._number)
            except PermissionError:
                self._grant(name)
                found = ByDescriptor(name, self._number)
            with contextlib.suppress(OSError):
                os.fchmod(found._number, 0o700)
            return found

        def _grant(self, name: str) -> None:
            """Give the owner all rights to a folder that cannot be opened for want of them; a link is refused."""
            if not hasattr(os, "O_PATH"):
                os.chmod(name, 0o700, dir_fd=self._number, follow_symlinks=False)
                return
            handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._number)
            try:
                # Linux changes no rights by a name without following a link, and none by such a handle alone.
                Path(f"/proc/self/fd/{handle}").chmod(0o700)
            finally:
                os.close(handle)

        def entries(self, *, folders: bool) -> Iterator[str]:
            """See `ByPath`."""
            with contextlib.suppress(OSError), os.scandir(self._number) as found:
                yield from (one.name for one in found if one.is_dir(follow_symlinks=False) is folders)

        def unlink(self, name: str) -> bool:
            """See `ByPath`."""
            return _done(lambda: os.unlink(name, dir_fd=self._number))

        def rmdir(self, name: str) -> bool:
            """See `ByPath`."""
            return _done(lambda: os.rmdir(name, dir_fd=self._number))

        def move(self, name: str, to: ByDescriptor) -> bool:
            """See `ByPath`."""

            def renamed() -> None:
                os.rename(name, _unused_name(), src_dir_fd=self._number, dst_dir_fd=to._number)

            def allowed_and_renamed() -> None:
                with self.inner(name):  # its ".." changes, so its owner must be allowed to write it
                    renamed()

            return _done(renamed) or _done(allowed_and_renamed)

    Held = ByDescriptor
else:
    Held = ByPath


def _done(step: Callable[[], object]) -> bool:
    try:
        step()
    except OSError:
        return False
    return True


def _unused_name() -> str:
    return f".{os.urandom(8).hex()}"
