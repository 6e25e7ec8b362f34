"""The folders in which trainers keep checkpoints: one per job, kept from one attempt to the next.

resume/<job id>/

Guarantees that two attempts never use one at the same time, and that none is deleted while an attempt uses it. What
stands in a folder is the trainer's own business. Leaves to the caller when a job is done with here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from training.fleet import system
from training.fleet.worker.ages import Ages
from training.fleet.worker.files import delete_tree
from training.fleet.worker.journal import Journal
from training.fleet.worker.work_folder import make_private

KEEP_S: Final = 7 * 86400.0
"""How long a folder that no attempt uses is kept, seconds."""
LEAVING_S: Final = 5.0
"""How long an attempt waits for the folder while another attempt at the same job still ends here."""


class ResumeFolders:
    """All resume folders of a worker. Any thread may call any method.

    Args:
        root: Where they lie; made when first needed.
        min_free_bytes: Free space below which unused folders are dropped.
        journal: Where to say what happens.
    """

    def __init__(self, root: Path, min_free_bytes: int, journal: Journal) -> None:
        self._root = root
        self._min_free_bytes = min_free_bytes
        self._journal = journal
        self._used: set[Path] = set()
        self._ages = Ages()
        self._change = threading.Condition()

    def take(self, job_id: str) -> Path | None:
        """Return the folder of a job, made if need be, for one attempt alone.

        Returns:
            The folder; None when another attempt at the job still uses it or it cannot be made. A training without
            one begins again, which costs time and nothing else.
        """
        path = self._root / job_id
        with self._change:
            if not self._change.wait_for(lambda: path not in self._used, LEAVING_S):
                self._journal.note("no resume folder: another attempt at the job still ends here", job=job_id[:12])
                return None
            try:
                _drop_link(path)
                make_private(path)
                os.utime(path)
            except OSError as error:
                self._journal.note("no resume folder: it could not be made", path=str(path), why=error.strerror)
                return None
            self._used.add(path)
        return path

    def give_back(self, path: Path | None, *, done_here: bool) -> None:
        """End the use of a folder by an attempt.

        Args:
            path: What `take` returned.
            done_here: The job never comes back to this host, so that nobody needs the folder.
        """
        if path is None:
            return
        with self._change:
            self._used.discard(path)
            _drop_link(path)
            if done_here:
                delete_tree(path)
            else:
                with contextlib.suppress(OSError):  # it is not empty, or the trainer deleted it
                    path.rmdir()
                with contextlib.suppress(OSError):
                    os.utime(path)
            self._change.notify_all()

    def make_room(self) -> None:
        """Drop unused folders: those whose time is up and, while too little disk is free, the oldest ones."""
        with self._change:
            for _, path in sorted(self._unused()):
                why = self._why_drop(path)
                if why:
                    self._journal.note("checkpoint dropped", job=path.name[:12], why=why)
                    delete_tree(path)

    def _unused(self) -> Iterator[tuple[float, Path]]:
        """Yield when each unused folder was last used, seconds since the epoch, and where it is."""
        with contextlib.suppress(OSError):
            for path in self._root.iterdir():
                if path not in self._used and path.is_dir() and not system.is_link(path):
                    yield path.stat().st_mtime, path

    def _why_drop(self, path: Path) -> str:
        if self._ages.of(path) > KEEP_S:
            return f"not used for {KEEP_S / 86400:g} days"
        if shutil.disk_usage(self._root).free < self._min_free_bytes:
            return "the disk is full"
        return ""


def _drop_link(path: Path) -> None:
    """Delete a link that a trainer put in place of its folder: what it leads to is not this worker's to use or date."""
    with contextlib.suppress(OSError):
        if system.is_link(path):
            system.unlink(path)
