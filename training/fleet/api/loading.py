"""The manifest on its way into the queue.

Owns reading the file in a child process, applying it while claims go on, and what was wrong with the last try.
Guarantees that one load runs at a time, that nothing of a faulty file is applied, that a file that has not changed
costs next to nothing, and that the bytes last applied lie beside the database. A text that an operator hands in counts
until the receiver's own file changes; it cannot bring another trainer, because a trainer is code. Leaves the checks to
`manifest` and the changes to `queue`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from training.fleet import queue as fleet_queue
from training.fleet.database import Database
from training.fleet.files import write_whole
from training.fleet.manifest import Loaded, child_load
from training.fleet.model.errors import (
    ConfigurationError,
    Fault,
    FleetError,
    ManifestError,
    PreconditionError,
    UnavailableError,
    passing,
)
from training.fleet.model.jobs import MAX_MANIFEST_BYTES, Trainer
from training.fleet.queue import InForce, Origin, Queue
from training.fleet.queue.manifests import pack
from training.fleet.wire.people import Plan, Reload
from training.trainer import hyper

START_ACTOR: Final = "receiver"
REMEMBERED_PLANS: Final = 64
"""Plans of texts that were not the receiver's own file: a reload that names one of them is told so."""

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
        self._plans_of_texts: deque[str] = deque(maxlen=REMEMBERED_PLANS)

    async def start(self) -> None:
        """Bring the file in force, or keep what was in force when the file has faults.

        Raises:
            ConfigurationError: The file is not there or cannot be read, or it has faults and nothing was in force
                before.
            UnavailableError: It cannot be loaded because of a trouble that may end by itself, and nothing was in force.
        """
        await asyncio.to_thread(_demand_file, self._path)
        try:
            await self.reload(Reload(), START_ACTOR, "start")
        except FleetError as error:
            in_force = self._queue.in_force.digest
            if not in_force:
                raise _unusable(error) from error
            faults = [str(fault) for fault in error.faults]
            data = {"in_force": in_force, "reason": error.message, "faults": faults}
            _log.error("manifest refused, the one before stays in force", extra={"data": data})
        await asyncio.to_thread(self._complete_list)

    async def reload(self, message: Reload, actor: str, how: str = "reload") -> Plan:
        """Read the file and bring it in force.

        Args:
            message: What the operator allows and expects.
            actor: Who asks, for the history.
            how: `start`, `reload` or `signal`, for the list of manifests.

        Returns:
            What was done.

        Raises:
            ManifestError: The file has faults; nothing was applied.
            WouldShrinkError: It declares fewer jobs and may not.
            PreconditionError: The plan is not the one the operator saw.
        """
        async with self._turn:
            try:
                plan = await asyncio.to_thread(self._reload, message, actor, how)
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

    async def apply(
        self, text: bytes, message: Reload, actor: str, *, if_manifest: str | None = None, how: str = "apply"
    ) -> Plan:
        """Bring a manifest in force that is handed in; it counts until the receiver's own file changes.

        Args:
            text: The manifest.
            message: What the operator allows and expects.
            actor: Who asks, for the history.
            if_manifest: Digest of the manifest that the operator takes to be in force, None when it does not matter.
            how: `apply` or `rollback`, for the list of manifests.

        Returns:
            What was done.

        Raises:
            ManifestError: The text has faults, or names another trainer; nothing was applied.
            WouldShrinkError: It declares fewer jobs and may not.
            PreconditionError: Another manifest is in force, or the plan is not the one the operator saw.
        """
        async with self._turn:
            plan = await asyncio.to_thread(self._apply, text, message, actor, if_manifest, how)
            # Whatever was wrong with the receiver's own file, it does not count now.
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

    def _reload(self, message: Reload, actor: str, how: str) -> Plan:
        if self._handed_in_counts():
            return self._reload_handed_in(message, actor)
        unchanged = self._unchanged(_digest(self._path))
        if unchanged is not None:
            self._demand_plan(message, unchanged)
            return unchanged
        loaded = child_load(self._path, schema_required=self._schema_required)
        data = _read(self._path)
        # An editor may have written meanwhile: then the bytes are not those that were checked.
        packed = pack(data) if hashlib.sha256(data).hexdigest() == loaded.header.digest else None
        plan = self._applied(loaded, message, actor, Origin(how, packed))
        if packed is not None:
            _keep(self._applied_path, data)
        return plan

    def _reload_handed_in(self, message: Reload, actor: str) -> Plan:
        """Answer a reload while a manifest counts that was handed in: its trainer alone may have changed."""
        in_force = self._queue.in_force
        plan = self._unchanged(in_force.digest)
        if plan is None:
            text = self._database.submit(lambda tx: self._queue.manifests.text(tx, in_force.digest)).result()
            with self._child(text, in_force) as loaded:
                origin = Origin(in_force.how, pack(text), in_force.instead_of)
                plan = self._applied(loaded, message, in_force.actor or actor, origin)
        else:
            self._demand_plan(message, plan)
        return replace(plan, warnings=[*plan.warnings, _still_counts(in_force)])

    def _apply(self, text: bytes, message: Reload, actor: str, if_manifest: str | None, how: str) -> Plan:
        in_force = self._queue.in_force
        if if_manifest not in (None, in_force.digest):
            raise PreconditionError(
                f"the manifest in force is {in_force.digest[:12]}, not {if_manifest[:12] if if_manifest else ''}: "
                f"{in_force.actor or 'somebody'} brought it in force at {in_force.applied_at} "
                f"({in_force.how or 'reload'})",
                "look at it with `cis490-jobs manifest diff`, then plan again",
            )
        digest = hashlib.sha256(text).hexdigest()
        unchanged = self._unchanged(digest)
        if unchanged is not None:
            self._demand_plan(message, unchanged)
            return unchanged
        own = _digest(self._path)
        with self._child(text, in_force) as loaded:
            _demand_trainer(loaded.header.trainer, in_force)
            plan = self._applied(loaded, message, actor, Origin(how, pack(text), None if own == digest else own))
        _keep(self._applied_path, text)
        return plan

    def _applied(self, loaded: Loaded, message: Reload, actor: str, origin: Origin) -> Plan:
        try:
            return fleet_queue.reload(
                self._database,
                self._queue,
                loaded.header,
                loaded.entries,
                actor=actor,
                allow_shrink=message.allow_shrink,
                if_plan=message.if_plan,
                keep_dropped=message.keep_dropped,
                origin=origin,
            )
        except PreconditionError:
            if origin.instead_of is None:
                self._demand_own_plan(message)
            raise

    def _plan(self, text: bytes | None) -> Plan:
        in_force = self._queue.in_force
        if text is None:
            if self._handed_in_counts() and (plan := self._unchanged(in_force.digest)) is not None:
                return replace(plan, warnings=[*plan.warnings, _still_counts(in_force)])
            loaded = child_load(self._path, schema_required=self._schema_required)
            return fleet_queue.plan(self._database, self._queue, loaded.header, loaded.entries)
        with self._child(text, in_force) as loaded:
            plan = fleet_queue.plan(self._database, self._queue, loaded.header, loaded.entries)
            other = loaded.header.trainer.command != in_force.trainer.command
        self._plans_of_texts.append(plan.digest)
        return replace(plan, warnings=[*plan.warnings, _OTHER_TRAINER]) if other else plan

    @contextmanager
    def _child(self, text: bytes, in_force: InForce) -> Iterator[Loaded]:
        """Read a text that was handed in. Its trainer is asked only when it is the one in force."""
        with tempfile.TemporaryDirectory(prefix="cis490-plan-") as folder:
            path = Path(folder) / "manifest.toml"
            path.write_bytes(text)
            yield child_load(
                path,
                base=self._path.parent,
                ask_trainer=False,
                schema_required=self._schema_required,
                trusted=in_force.trainer.command,
            )

    def _handed_in_counts(self) -> bool:
        """Return True if the manifest in force was handed in and the receiver's own file is as it was then."""
        instead_of = self._queue.in_force.instead_of
        return instead_of is not None and _digest(self._path) == instead_of

    def _unchanged(self, digest: str) -> Plan | None:
        """Return the plan that does nothing when text and trainer are those in force, else None.

        Only the project's own trainer can be asked without starting a program; any other one is asked again.
        """
        in_force = self._queue.in_force
        if in_force.trainer.command != Trainer().command or digest != in_force.digest:
            return None
        if in_force.contract != hyper.contract_digest(hyper.describe()):
            return None
        return self._queue.plan_of_no_change()

    def _demand_plan(self, message: Reload, unchanged: Plan) -> None:
        if message.if_plan not in (None, unchanged.digest):
            self._demand_own_plan(message)
            raise PreconditionError("the plan would be another one now: nothing is left to do", "look at it again")

    def _demand_own_plan(self, message: Reload) -> None:
        if message.if_plan in self._plans_of_texts:
            raise PreconditionError(
                f"the plan {message.if_plan[:12] if message.if_plan else ''} was made for a file of yours, and the "
                f"receiver's own file {self._path} is something else",
                "use `cis490-jobs apply FILE --if-plan DIGEST`",
            )

    def _complete_list(self) -> None:
        """Take the manifest in force into the list of manifests, where an older version has not."""
        in_force = self._queue.in_force
        known = self._database.submit(lambda tx: self._queue.manifests.views(tx, in_force.digest)).result()
        if not in_force.digest or (known and known[0].in_force):
            return
        path = next((path for path in (self._path, self._applied_path) if _digest(path) == in_force.digest), None)
        if path is not None:
            origin, named = Origin("start", pack(_read(path))), replace(in_force, actor=in_force.actor or START_ACTOR)
            self._database.submit(lambda tx: self._queue.manifests.keep(tx, named, origin)).result()


_OTHER_TRAINER: Final = (
    "it names another trainer than the one in force, which was not asked; only the receiver's own file can bring it "
    "in force, because a trainer is code"
)


def _still_counts(in_force: InForce) -> str:
    return (
        f"in force is the manifest that {in_force.actor} handed in at {in_force.applied_at}; the receiver's own file "
        "has not changed since, so it was not read; edit it, or hand it in with `cis490-jobs apply FILE`"
    )


def _demand_trainer(trainer: Trainer, in_force: InForce) -> None:
    """Refuse a text that was handed in with another trainer: what runs on the hosts stays with the file's owner."""
    if replace(trainer, contract=None) != replace(in_force.trainer, contract=None):
        found, expected = " ".join(trainer.command), " ".join(in_force.trainer.command)
        remedy = "a trainer is code: write it into the receiver's own file, then reload"
        fault = Fault("trainer", found, f"the trainer in force, {expected}", remedy)
        raise ManifestError("the manifest was handed in with another trainer, nothing was applied", faults=(fault,))


def _demand_file(path: Path) -> None:
    """Refuse to start with a file that is not there: a wrong path must not go unnoticed while an old manifest counts.

    Raises:
        ConfigurationError: It is not there, is no file, or must not be read.
    """
    try:
        with path.open("rb"):
            return
    except PermissionError as error:
        found = f"the manifest {path} must not be read by this user ({error.strerror})"
    except OSError as error:
        if (
            passing_error := passing(error, f"the manifest {path} cannot be read ({error})", "look at its disk")
        ) is not None:
            raise passing_error from error
        found = f"the manifest {path} cannot be read ({(error.strerror or 'no access').lower()})"
    raise ConfigurationError(found, "give --manifest the path of a readable file", expected="a readable TOML file")


def _unusable(error: FleetError) -> FleetError:
    """Return the error that ends a first start.

    The service manager may repeat a start that the disk refused, but not one with a faulty manifest.
    """
    if isinstance(error, ConfigurationError):
        return error
    ends = UnavailableError if isinstance(error, UnavailableError) else ConfigurationError
    return ends(f"the manifest cannot be loaded and none was in force before: {error.message}")


def _digest(path: Path) -> str:
    """Return the digest of a file; empty where it cannot be read or is too large for a manifest."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


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
