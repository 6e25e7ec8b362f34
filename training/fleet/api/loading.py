"""The manifest on its way into the queue.

Owns reading the file in a child process, applying it while claims go on, and what was wrong with the last try.
Guarantees that one load runs at a time, that nothing of a faulty file is applied, that a file that has not changed
costs next to nothing, and that the bytes last applied lie beside the database. Leaves the checks to `manifest` and the
changes to `queue`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import tempfile
from pathlib import Path
from typing import Final

from training.fleet import queue as fleet_queue
from training.fleet.database import Database
from training.fleet.files import write_whole
from training.fleet.manifest import child_load
from training.fleet.model.errors import (
    ConfigurationError,
    Fault,
    FleetError,
    ManifestError,
    PreconditionError,
    UnavailableError,
)
from training.fleet.model.jobs import MAX_MANIFEST_BYTES, Trainer
from training.fleet.queue import Queue
from training.fleet.wire.people import Plan, Reload
from training.trainer import hyper

START_ACTOR: Final = "receiver"

_log = logging.getLogger(__name__)


class Loader:
    """Reads, compares and applies manifests.

    Args:
        database: Where the queue is.
        queue: The queue.
        path: The manifest file.
        applied_path: Where the bytes last applied are kept.
        schema_required: Whether trainers are never started, so that a foreign one must come with a schema file.

    Attributes:
        faults: What is wrong with a newer file that was refused, empty when there is none.
        problems: The same for people, and other trouble with the file.
    """

    def __init__(
        self, database: Database, queue: Queue, path: Path, applied_path: Path, *, schema_required: bool = False
    ) -> None:
        self.faults: tuple[Fault, ...] = ()
        self.problems: list[str] = []
        self._database = database
        self._queue = queue
        self._path = path
        self._applied_path = applied_path
        self._schema_required = schema_required
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Bring the file in force, or keep what was in force when the file cannot be.

        Raises:
            ConfigurationError: The file cannot be used and nothing was in force before.
            UnavailableError: The same, because of a trouble that may end by itself.
        """
        try:
            await self.reload(Reload(), START_ACTOR)
        except FleetError as error:
            in_force = self._queue.in_force.digest
            if not in_force:
                raise _unusable(error) from error
            faults = [str(fault) for fault in error.faults]
            data = {"in_force": in_force, "reason": error.message, "faults": faults}
            _log.error("manifest refused, the one before stays in force", extra={"data": data})

    async def reload(self, message: Reload, actor: str) -> Plan:
        """Read the file and bring it in force.

        Args:
            message: What the operator allows and expects.
            actor: Who asks, for the history.

        Returns:
            What was done.

        Raises:
            ManifestError: The file has faults; nothing was applied.
            WouldShrinkError: It would drop jobs and may not.
            PreconditionError: The plan is not the one the operator saw.
        """
        async with self._turn:
            try:
                plan = await asyncio.to_thread(self._reload, message, actor)
            except FleetError as error:
                # A wrong expectation of the operator says nothing about the file.
                if not isinstance(error, PreconditionError):
                    self.faults, self.problems = (
                        error.faults,
                        [f"the manifest {self._path} is refused: {error.message}"],
                    )
                raise
            self.faults, self.problems = (), []
            return plan

    async def plan(self, text: bytes | None) -> Plan:
        """Say what applying a manifest would do.

        Args:
            text: A manifest, or None for the receiver's own file. The trainer that a given text names is not started,
                so that nobody has the receiver run a program of theirs; hyper-parameters of a trainer other than the
                project's own are then unchecked.

        Raises:
            ManifestError: It has faults.
        """
        async with self._turn:
            return await asyncio.to_thread(self._plan, text)

    # ---- on a thread of their own

    def _reload(self, message: Reload, actor: str) -> Plan:
        unchanged = self._unchanged()
        if unchanged is not None:
            if message.if_plan not in (None, unchanged.digest):
                raise PreconditionError("the plan would be another one now: nothing is left to do", "look at it again")
            return unchanged
        loaded = child_load(self._path, schema_required=self._schema_required)
        data = _read(self._path)
        plan = fleet_queue.reload(
            self._database,
            self._queue,
            loaded.header,
            loaded.entries,
            actor=actor,
            allow_shrink=message.allow_shrink,
            if_plan=message.if_plan,
        )
        if hashlib.sha256(data).hexdigest() == plan.manifest:
            _keep(self._applied_path, data)
        return plan

    def _plan(self, text: bytes | None) -> Plan:
        if text is None:
            loaded = child_load(self._path, schema_required=self._schema_required)
            return fleet_queue.plan(self._database, self._queue, loaded.header, loaded.entries)
        with tempfile.TemporaryDirectory(prefix="cis490-plan-") as folder:
            path = Path(folder) / "manifest.toml"
            path.write_bytes(text)
            loaded = child_load(path, base=self._path.parent, ask_trainer=False)
            return fleet_queue.plan(self._database, self._queue, loaded.header, loaded.entries)

    def _unchanged(self) -> Plan | None:
        """Return the plan that does nothing when file and trainer are those in force, else None.

        Only the project's own trainer can be asked without starting a program; any other one is asked again.
        """
        in_force = self._queue.in_force
        if in_force.trainer.command != Trainer().command or not self._path.is_file():
            return None
        if self._path.stat().st_size > MAX_MANIFEST_BYTES or _digest(self._path) != in_force.digest:
            return None
        if in_force.contract != hyper.contract_digest(hyper.describe()):
            return None
        return self._queue.plan_of_no_change()


def _unusable(error: FleetError) -> FleetError:
    """Return the error that ends a first start.

    The service manager may repeat a start that the disk refused, but not one with a faulty manifest.
    """
    if isinstance(error, ConfigurationError):
        return error
    ends = UnavailableError if isinstance(error, UnavailableError) else ConfigurationError
    return ends(f"the manifest cannot be loaded and none was in force before: {error.message}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ManifestError(f"cannot read {path} ({error})", "check the path and its permissions") from error


def _keep(path: Path, data: bytes) -> None:
    """Write a file whole. A copy that cannot be written costs a comparison later, nothing else."""
    try:
        write_whole(path, data)
    except OSError as error:
        _log.warning("the applied manifest was not kept", extra={"data": {"reason": str(error)}})
