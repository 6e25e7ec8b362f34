"""What hosts could train with before and cannot any more: models and CUDA.

Owns the rule and what is remembered of it. Guarantees that a loss is told until the host has it back or an operator
accepts that it is gone, over restarts of the receiver too: an upgrade that takes torch away changes nothing that
placement would call wrong, so nobody else says so.
"""

from __future__ import annotations

import json
import logging
from typing import Final

from training.fleet.database import Transaction
from training.fleet.database.queries import REMEMBERED
from training.fleet.model.capability import Capability
from training.fleet.model.errors import NotFoundError
from training.fleet.queue.memory import Memory

_log = logging.getLogger(__name__)

CUDA: Final = "CUDA"
"""How the use of a card is named among the models that a host has lost."""
_KEY: Final = "lost/"
_MOST: Final = 64
"""Most names that are remembered of one host: one that says other models at each call must not fill the database."""


class Losses:
    """The losses of all hosts.

    Args:
        memory: The clocks, and the hosts that called.
    """

    def __init__(self, memory: Memory) -> None:
        self._clock = memory.clock
        self._hosts = memory.hosts
        self._lost: dict[str, dict[str, str]] = {}
        # Of its own and not that of `Hosts`, which holds a capability before the change that stores it is committed.
        self._able: dict[str, tuple[str, ...]] = {}

    def start(self, tx: Transaction, worker: str, capability: Capability) -> None:
        """Take up what was remembered of a host that called before the receiver started."""
        self._able[worker] = _abilities(capability)
        row = tx.one(REMEMBERED, key=_KEY + worker)
        if row is not None and (found := json.loads(row.value)):
            self._lost[worker] = found

    def note(self, tx: Transaction, worker: str, capability: Capability) -> None:
        """Compare what a host could do at its last call with what it can do now.

        Args:
            tx: The change that stores the new capability.
            worker: The host.
            capability: What it says.
        """
        known, able = self._lost.get(worker, {}), _abilities(capability)
        gone = [name for name in self._able.get(worker, ()) if name not in able and name not in known]
        tx.after_commit(lambda: self._able.update({worker: able}))
        back = [name for name in known if name in able]
        if not (gone or back):
            return
        at = self._clock.label()
        left = {name: since for name, since in known.items() if name not in back} | dict.fromkeys(gone, at)
        self._put(tx, worker, dict(list(left.items())[:_MOST]))

    def forget(self, tx: Transaction, worker: str) -> None:
        """Forget a host."""
        tx.run("forget", key=_KEY + worker)

        def follow() -> None:
            self._able.pop(worker, None)
            self._lost = {name: value for name, value in self._lost.items() if name != worker}

        tx.after_commit(follow)

    def accept(self, tx: Transaction, worker: str, actor: str) -> list[str]:
        """Let what a host has lost be as it should; return it, empty when it has lost nothing.

        Raises:
            NotFoundError: No such host ever called.
        """
        if self._hosts.known(worker) is None:
            raise NotFoundError(f"no worker {worker} ever called", "`cis490-jobs hosts` shows those that did")
        names = list(self._lost.get(worker, {}))
        if names:
            self._put(tx, worker, {})
            data = {"worker": worker, "lost": names, "by": actor}
            tx.after_commit(lambda: _log.info("loss accepted", extra={"data": data}))
        return names

    def lines(self) -> list[str]:
        """Return a line for people about every host that has lost something. Safe from any thread."""
        return [
            f"{worker} lost {', '.join(lost)} since {min(lost.values())}; see `cis490-training-worker doctor` there, "
            f"or accept it with `cis490-jobs identity accept {worker}`"
            for worker, lost in sorted(self._lost.items())
        ]

    def _put(self, tx: Transaction, worker: str, lost: dict[str, str]) -> None:
        tx.run("remember", key=_KEY + worker, value=json.dumps(lost))

        def follow() -> None:
            # A copy each time, because readers on other threads may be looking at the old one.
            kept = {name: value for name, value in self._lost.items() if name != worker}
            self._lost = {**kept, worker: lost} if lost else kept

        tx.after_commit(follow)


def _abilities(capability: Capability) -> tuple[str, ...]:
    return (*(capability.models or ()), *((CUDA,) if capability.cuda_usable else ()))
