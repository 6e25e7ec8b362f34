"""Removing backups that newer ones have taken the place of.

Guarantees that only folders go which this receiver made, under the same label, whole, and with nothing else in them;
and that as many whole ones as asked for are left, the newest among them. What cannot be proven stays, for a person to
look at: a backup that is damaged may be all there is of something.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Final

from training.fleet.files import sync_folder
from training.fleet.maintenance.backup import CONTENTS
from training.fleet.maintenance.report import OnProgress
from training.fleet.maintenance.restore import contents_of, demand_whole
from training.fleet.model.errors import FleetError

_STAMP: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")


def remove_older(newest: Path, keep: int, progress: OnProgress) -> list[str]:
    """Remove backups until no more than some are left.

    Args:
        newest: Folder of a backup that was just made; it always stays.
        keep: How many whole ones with its label are left, itself among them.
        progress: Told how many bytes of a backup are read.

    Returns:
        The names of those that were removed, oldest first.

    Raises:
        OSError: The disk refuses.
    """
    index, label = _index(newest), _label(newest.name)
    older = [path for path in newest.parent.iterdir() if _label(path.name) == label and path.name < newest.name]
    whole = [path for path in sorted(older) if _index(path) == index and _is_whole(path, progress)]
    goes = whole[: max(0, len(whole) - keep + 1)]
    for path in goes:
        # Under a name that the next backup takes for a leftover, so that no half of one looks like a backup.
        part = path.with_name(f".{path.name}.part")
        path.rename(part)
        sync_folder(path.parent)
        shutil.rmtree(part)
    return [path.name for path in goes]


def _label(name: str) -> str | None:
    """Return the label in the name of a backup, None for other names."""
    stamp, _, label = name.partition("-")
    return label if _STAMP.fullmatch(stamp) else None


def _index(backup: Path) -> str | None:
    """Return where the receiver that made a backup keeps its index, None where nothing says so."""
    try:
        found = json.loads((backup / CONTENTS).read_bytes()).get("index")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def _is_whole(backup: Path, progress: OnProgress) -> bool:
    """Return True if a folder holds every file that its list names, as it was written, and nothing else."""
    if backup.is_symlink():
        return False
    try:
        files = contents_of(backup)
        demand_whole(backup, files, progress)
    except FleetError:
        return False
    there = {path.relative_to(backup).as_posix() for path in backup.rglob("*") if path.is_symlink() or path.is_file()}
    return there == {CONTENTS, *files}
