"""Long work on the receiver's own files: backups and checks.

Owns the one chore that may run at a time and its state. Guarantees that the receiver answers on while a
chore runs: it has a thread of its own that rests as long as it reads, and the writer thread is held up for a few
milliseconds at most. Leaves the work itself to `maintenance`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from training.fleet import __version__
from training.fleet.database import Database
from training.fleet.maintenance.artifacts import CheckOptions, Places
from training.fleet.maintenance.backup import BackupTask, back_up
from training.fleet.maintenance.fsck import fsck_running
from training.fleet.maintenance.old_backups import remove_older
from training.fleet.maintenance.prune import Pruner
from training.fleet.maintenance.report import Report
from training.fleet.model.errors import ConflictError, Fault, FleetError, UnavailableError
from training.fleet.queue.pruning import PruneRule
from training.fleet.wire.people import BackupOrder, Chore, Finding, FsckOrder

JOIN_S: Final = 5.0
"""How long the end of the receiver waits for a chore to stop."""
REST_S: Final = 1.0
"""Longest rest between two pieces of reading."""

_log = logging.getLogger(__name__)
_Work = Callable[["Keeper", Report], str]


@dataclass(slots=True)
class Keeper:
    """Runs one chore at a time.

    Attributes:
        database: The running database.
        places: The receiver's files.
        manifest: The manifest in force, as it was applied.
        backup_root: Folder of the backups.
        copy_path: Where a check puts its copy of the database.
        pruner: Removes old results.
    """

    database: Database
    places: Places
    manifest: Path
    backup_root: Path
    copy_path: Path
    pruner: Pruner
    _chore: Chore = field(default_factory=Chore)
    _check: Chore = field(default_factory=Chore)
    _thread: threading.Thread | None = None
    _ending: threading.Event = field(default_factory=threading.Event)
    _rested_at: float = 0.0

    def chore(self) -> Chore:
        """Return the newest chore and how far it is."""
        return self._chore

    def problems(self) -> list[str]:
        """Return what is wrong with the receiver's files as far as it is known, for people."""
        # The newest check counts until the next one, whatever else was done since.
        chore, found = self._chore if self._chore.kind == "fsck" else self._check, list[str]()
        if self.database.damaged:
            pages = ", ".join(map(str, self.database.damaged[:10]))
            found.append(f"pages of the database are not what they were ({pages}); stop the receiver and run fsck")
        if chore.kind == "fsck" and chore.findings:
            faults = "1 fault" if len(chore.findings) == 1 else f"{len(chore.findings)} faults"
            found.append(f"the check of {chore.begun_at} found {faults}; `cis490-jobs fsck` lists them")
        return found

    def begin_backup(self, order: BackupOrder) -> Chore:
        """Begin a backup.

        Raises:
            ConflictError: Another chore runs.
        """
        now = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        name = f"{stamp}-{order.label}" if order.label else stamp
        made_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        wanted = BackupTask(
            self.backup_root, name, self.places, self.manifest, order.artifacts, made_at, version=__version__
        )

        def work(keeper: Keeper, report: Report) -> str:
            made = back_up(keeper.database, wanted, report, keeper._progress)
            # Not when the new one lacks something: an older one may have it.
            if order.keep is not None and not report.findings:
                report.removed += remove_older(made, order.keep, keeper._progress)
            return str(made.absolute())

        return self._begin(Chore("backup", "running", name, made_at), work)

    def begin_fsck(self, order: FsckOrder) -> Chore:
        """Begin a check of everything.

        Raises:
            ConflictError: Another chore runs.
        """
        options = CheckOptions(hashes=order.hashes, progress=self._progress)
        made_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

        def work(keeper: Keeper, report: Report) -> str:
            if keeper.pruner.intake.stale:
                keeper.pruner.intake.relist()
            fsck_running(keeper.database, keeper.copy_path, keeper.places, options, report)
            return ""

        return self._begin(Chore("fsck", "running", made_at, made_at), work)

    def begin_prune(self, rule: PruneRule, digest: str | None, actor: str) -> Chore:
        """Begin to remove results.

        Args:
            rule: Which.
            digest: That of the choice that was shown; None removes what is chosen now.
            actor: Who asks.

        Raises:
            ConflictError: Another chore runs.
        """
        made_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

        def work(keeper: Keeper, report: Report) -> str:
            keeper.pruner.prune(rule, digest, actor, report, keeper._progress)
            return ""

        return self._begin(Chore("prune", "running", made_at, made_at), work)

    @property
    def running(self) -> bool:
        """Whether a chore runs."""
        return self._chore.state == "running"

    def _begin(self, chore: Chore, work: _Work) -> Chore:
        """Start a chore; callers are all on the event loop, so two never start at once."""
        if self._ending.is_set():
            raise UnavailableError("the receiver is stopping", "ask again in a moment", retry_after_s=5.0)
        if self._chore.state == "running":
            raise ConflictError(f"a {self._chore.kind} runs since {self._chore.begun_at}", "wait for its end")
        self._chore, self._rested_at = chore, time.monotonic()
        self._thread = threading.Thread(target=self._run, args=(work,), name=chore.kind, daemon=True)
        self._thread.start()
        return chore

    def _run(self, work: _Work) -> None:
        report = Report()
        changes: dict[str, object]
        try:
            path = work(self, report)
            changes = {"state": "done", "path": path, "checked": dict(report.checked), "removed": report.removed}
        except FleetError as error:
            changes = {"state": "failed", "error": error.message}
        except OSError as error:
            changes = {"state": "failed", "error": f"the system refuses a file ({error}); look at it and ask again"}
        except Exception as error:  # noqa: BLE001 - a chore must not end the receiver
            _log.exception("a chore failed")
            changes = {"state": "failed", "error": f"the receiver failed at this ({error}); its log says why"}
        found, notes = ([_finding(fault) for fault in faults] for faults in (report.findings, report.notes))
        self._chore = replace(self._chore, findings=found, notes=notes, **changes)  # type: ignore[arg-type]
        if self._chore.kind == "fsck":
            self._check = self._chore
        data = {"kind": self._chore.kind, "name": self._chore.name, "found": len(found), "error": self._chore.error}
        level = logging.ERROR if found or self._chore.error else logging.INFO
        _log.log(level, f"{self._chore.kind} ended", extra={"data": data})

    def _progress(self, done: int, todo: int) -> None:
        """Note how far the chore is, then rest as long as the last piece took."""
        self._chore = replace(self._chore, done_bytes=done, total_bytes=todo)
        took_s = min(REST_S, max(0.0, time.monotonic() - self._rested_at))
        if self._ending.wait(took_s):
            raise UnavailableError("the receiver is stopping", "ask again after its start")
        self._rested_at = time.monotonic()

    def close(self) -> None:
        """Cancel the chore that runs; its unfinished output is removed."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)


def _finding(fault: Fault) -> Finding:
    return Finding(fault.place, fault.found, fault.expected, fault.remedy)
