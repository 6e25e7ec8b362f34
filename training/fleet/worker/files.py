"""Reading and deleting what a trainer wrote.

Guarantees that nothing a trainer leaves can hold the worker up: a pipe or device in place of a file is not opened to
wait on, a link is not followed, and a tree is deleted whatever its depth, its names and its rights.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import time
from pathlib import Path
from typing import BinaryIO, Final

from training.fleet import system
from training.fleet.worker.held import Held

_AT_ONCE: Final = 1000
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_NOCTTY"))


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without ever waiting.

    Raises:
        OSError: It is missing, unreadable, or anything other than a regular file.
    """
    stream = os.fdopen(os.open(path, _FLAGS), "rb")
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return stream
    stream.close()
    raise OSError(f"{path} is no regular file")


def has_files(folder: Path) -> bool:
    """Tell whether a folder is there and holds anything other than folders.

    What cannot be looked into counts as something, because packing says what is wrong with it.
    """
    waiting = [system.long_path(folder)]
    try:
        folder.lstat()
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if not system.is_plain_folder(entry):
                        return True
                    waiting.append(Path(entry.path))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def delete_tree(top: Path) -> None:
    """Delete a folder and all in it; what the system does not let go of stays.

    No link is followed: one at the top is deleted, and nothing is if one stands for the folder above. Deep folders are
    moved up instead of walked into, because a path may be too long and a recursion too deep.
    """
    top = system.long_path(top)
    for pause_s in (0.0, *system.PATIENCE_S):
        time.sleep(pause_s)
        with contextlib.suppress(OSError), Held(top.parent) as above:
            _delete(above, top.name)
        if not os.path.lexists(top):
            break


def _delete(above: Held, name: str) -> None:
    if above.unlink(name):
        return
    with contextlib.suppress(OSError), above.inner(name) as top:
        while _lightened(top):
            pass
    _gone(above, name)


def _lightened(top: Held) -> int:
    """Take what can be taken out of a folder; return how much was moved or deleted."""
    done = sum(top.unlink(name) for name in top.entries(folders=False))
    for name in list(itertools.islice(top.entries(folders=True), _AT_ONCE)):
        done += _emptied(top, name)
    return done


def _emptied(top: Held, name: str) -> int:
    """Take everything out of a folder in the top one, and the folder itself; return how much was moved or deleted."""
    done = 0
    with contextlib.suppress(OSError), top.inner(name) as folder:
        done += sum(folder.unlink(one) for one in folder.entries(folders=False))
        for one in folder.entries(folders=True):
            done += folder.rmdir(one) or folder.move(one, top)
    return done + _gone(top, name)


def _gone(above: Held, name: str) -> bool:
    """Delete a folder that was emptied, or the link that was put in its place meanwhile."""
    return above.rmdir(name) or above.unlink(name)
