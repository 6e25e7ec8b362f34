"""The folder that a worker works in: making it, and seeing that no other user has a hand in it.

Guarantees that a worker takes up, sends and deletes nothing that another user could have put where it works: a folder
made by somebody else first, a link in the place of one, or one that others may write. On Windows only links are looked
for; there the installer sets owner and rights.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from training.fleet import system
from training.fleet.model.errors import ConfigurationError

PARTS: Final = ("runs", "resume")
"""Folders in it whose content the worker takes for its own."""


def make_work_folder(path: Path) -> None:
    """Make the work folder where it is missing, for this user alone.

    Raises:
        ConfigurationError: Its path is too long, or another user has a hand in it.
        OSError: It cannot be made.
    """
    if system.LONGEST_ROOT is not None and len(str(path)) > system.LONGEST_ROOT:
        raise ConfigurationError(
            f"the path of the work folder {path} has {len(str(path))} characters",
            "give a shorter one with --work-dir",
            expected=f"at most {system.LONGEST_ROOT}, because trainers' files lie deep in it",
        )
    demand_own_way(path)
    if not path.is_symlink():
        make_private(path)
    demand_own(path)


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone.

    Raises:
        OSError: That cannot be done.
    """
    for place in (*reversed(folder.parents), folder):
        if not place.is_dir():
            place.mkdir(mode=0o700, exist_ok=True)


def demand_own(path: Path) -> None:
    """Refuse a work folder in which other users have a hand.

    Raises:
        ConfigurationError: That is so.
    """
    places = [place for place in (path, *(path / part for part in PARTS)) if os.path.lexists(place)]
    for place in places:
        if system.is_link(place):
            raise ConfigurationError(
                f"found a link at {place}",
                "delete the link, or give another folder with --work-dir",
                expected="a folder",
            )
        if other := system.other_owner(place):
            me = f"{system.user()}, who runs this worker"
            raise ConfigurationError(
                f"{place} belongs to the user {other}", _way_out(place, other), expected=f"a folder of {me}"
            )
    if loose := [str(place) for place in places if system.others_can_write(place)]:
        raise ConfigurationError(
            f"other users may write to {' and '.join(loose)}",
            f"delete what is not this worker's in them, then run: chmod go-w {shlex.join(loose)}",
            expected=f"folders that {system.user()} alone may write",
        )


def _way_out(place: Path, owner: str) -> str:
    if owner == "root":  # who ran the worker once with sudo finds it so
        return (
            f"if it was made for this worker, run: sudo chown -R {system.user()} {shlex.quote(str(place))}; "
            "else give another folder with --work-dir"
        )
    return f"move it away, run the worker as {owner}, or give another folder with --work-dir"


def demand_own_way(path: Path) -> None:
    """Refuse a path on which another user could put something else in its place.

    Owners that an administrator chose are trusted, such as that of a group's disk or of a home. In a folder that is
    open for everybody, such as /tmp, the first user who came chose them.

    Raises:
        ConfigurationError: That is so.
    """
    for above in _above(path):
        if system.everybody_can_rename_in(above):
            raise ConfigurationError(
                f"everybody may write to {above} and could put something else in the place of {path}",
                f"run: chmod o-w {shlex.quote(str(above))}, or name a path elsewhere",
                expected="a folder that others cannot write",
            )
        if system.everybody_can_write(above.parent) and (other := system.other_owner(above, or_root=True)):
            raise ConfigurationError(
                f"{above} belongs to the user {other}, who could put something else in the place of {path}",
                "name a path elsewhere",
                expected=f"a folder of {system.user()} or root",
            )


def _above(path: Path) -> Iterator[Path]:
    """Yield the folders above a path that are there, as they are named and as they are found behind links."""
    behind = Path(os.path.realpath(path.parent))  # which takes links in a ring for what they are; `resolve` fails
    for place in dict.fromkeys((*path.parents, behind, *behind.parents)):
        if os.path.lexists(place):
            yield place
