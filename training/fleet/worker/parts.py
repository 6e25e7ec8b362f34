"""The small files that people look at - card, figures, metrics - on their way to the receiver, beside the bundle.

Guarantees that none of them ever costs a job its result: what does not fit, cannot be read or is refused is left out
with a note, and a receiver that knows no such files gets none. Which files they are says `model.parts`.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from training.fleet.client import Client
from training.fleet.model.errors import (
    AuthenticationError,
    ConflictError,
    FleetError,
    MethodError,
    NotFoundError,
    UnreachableError,
)
from training.fleet.model.parts import MAX_PARTS_BYTES, chosen_parts
from training.fleet.worker.files import open_regular

PARTS_DEADLINE_S: Final = 20.0
"""Longest time spent on repeats of all parts together: a card must not hold a result up."""
_OVER: Final = (ConflictError, AuthenticationError)
"""Nothing more is taken under this lease; the completion that follows says it in full."""


def bring_parts(client: Client, lease_id: str, artifact: str, folder: Path, note: Callable[[str], object]) -> None:
    """Upload the parts of an artifact whose bundle is stored, one by one.

    Args:
        client: The receiver.
        lease_id: The lease the artifact was made under.
        artifact: Its id.
        folder: The trainer's artifact folder.
        note: Gets what was left out, for people.

    Raises:
        UnreachableError: The receiver does not answer; it has to answer the completion as well, so the caller repeats
            both.
    """
    names, left = chosen_parts(_sizes(folder))
    if left:
        note(f"left out beside the bundle, which has them: {', '.join(left)}; more than 32 files or 2 MiB")
    end = time.monotonic() + PARTS_DEADLINE_S
    for name in names:
        deadline_s = max(0.0, end - time.monotonic())
        try:
            client.upload_part(lease_id, artifact, name, _content(folder / name), deadline_s=deadline_s)
        except UnreachableError:
            raise
        except (NotFoundError, MethodError):
            note("the receiver is older than this worker and takes no card or figures beside the bundle")
            return
        except _OVER:
            return
        except (FleetError, OSError) as error:
            note(f"left out beside the bundle, which has it: {name} ({error})")


def _sizes(folder: Path) -> list[tuple[str, int]]:
    """Return name and length of each regular file in a folder."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                facts = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(facts.st_mode):
                    found.append((entry.name, facts.st_size))
    except OSError:  # somebody removed it; the bundle is what counts
        return []
    return found


def _content(path: Path) -> bytes:
    with open_regular(path) as stream:
        return stream.read(MAX_PARTS_BYTES)
