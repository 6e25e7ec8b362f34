"""The claim: which job a worker gets.

Owns the one change that gives jobs away. Guarantees one live lease per job, the same lease again for the same
`claim_id`, and that a claim ends only leases of the process that asks, or of one that is known to be gone. The order of
claims is that of the statement `claim`: priority, then `placement.rank`, then the place in the manifest. Leaves which
requirements a host can meet to `hosts`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from training.fleet.database import Transaction
from training.fleet.database.queries import ATTEMPT_OF_CLAIM, CLAIM, LEASE, LEASES_OF, AnsweredRow, ClaimedRow
from training.fleet.model.errors import ConflictError, HostRefusedError
from training.fleet.model.jobs import Policy, contract_with
from training.fleet.queue import standing
from training.fleet.queue.endings import worker_actor
from training.fleet.queue.events import History
from training.fleet.queue.losses import Losses
from training.fleet.queue.memory import Memory
from training.fleet.queue.settling import Settling
from training.fleet.queue.stored import capability_json
from training.fleet.wire.worker import Claim, Lease

LEASE_BYTES = 18
"""Random bytes in a lease id: who guesses one could end another worker's job."""


MAX_UNNAMED_HOSTS = 1000
"""Hosts that are remembered although the manifest does not name them: without enrolment anybody can make up names."""


class Taken(NamedTuple):
    """What a worker gets with a job: its lease, and the UUID of its card or None."""

    lease_id: str
    card: str | None


class Claims:
    """Gives jobs away."""

    def __init__(self, memory: Memory, history: History, settling: Settling, losses: Losses) -> None:
        self._memory = memory
        self._history = history
        self._settling = settling
        self._losses = losses

    def claim(self, tx: Transaction, message: Claim, *, vouched: bool = False) -> Lease | None:
        """Give the best job the caller can run, see `Queue.claim`."""
        tx.may_run_twice()
        # Nothing but the rows changes before the commit, so no savepoint is needed: claims are the most frequent
        # change.
        policy = self._admitted(message.worker)
        # Also for a claim that is answered again: this is the newest word on the host.
        self._note_capability(tx, message)
        known = tx.one(ATTEMPT_OF_CLAIM, worker=message.worker, claim_id=message.claim_id)
        if known is not None:
            return self._given_again(tx, known, message)
        # Before its leases are looked at: a worker that is held back could otherwise end and take back one lease for
        # ever.
        waits = self._memory.waits
        if waits.held_s(message.worker) > 0:
            return None
        alone = message.process is None or (vouched and policy.sessions == 1)
        held, live = self._end_stale_leases(tx, message, policy, alone=alone)
        self._note_cards(tx, message.worker)
        # Nobody counts the processes under a name that shows no identity, so all of them together have a bound as well.
        full = len(held) >= policy.slots or live >= policy.slots * policy.sessions
        # A host that fails everything tries one job at a time.
        if full or (live and waits.suspects.is_suspect(message.worker)):
            # Remembered, so that the end of one of its leases wakes this worker's parked claim.
            waits.full.add(message.worker)
            return None
        row, taken = self._take_best(tx, message)
        return None if row is None else self._answer(tx, row, taken, message, held)

    def _admitted(self, worker: str) -> Policy:
        policy = self._memory.hosts.policy(worker)
        if policy is None:
            raise HostRefusedError(
                f"the manifest does not admit the host {worker!r}: it has neither [hosts.{worker}] nor [hosts.default]",
                "add one of them and reload",
            )
        return policy

    def _note_capability(self, tx: Transaction, message: Claim) -> None:
        hosts, capability = self._memory.hosts, message.capability
        # A host may work under another name than the one it detects; policies are looked up by the name it works under.
        if capability.hostname != message.worker:
            capability = replace(capability, hostname=message.worker)
        before = hosts.known(message.worker)
        # Not heard as well: the change that brought it may have been undone, and is run again.
        if before is None or before.seen_at is None:
            self._make_room(tx, message.worker)
        if hosts.note_capability(capability):
            tx.after_rollback(lambda: hosts.forget_visit(message.worker))
            tx.run(
                "meet_host",
                name=message.worker,
                capability=capability_json(capability),
                at=self._memory.clock.label(),
            )
            self._losses.note(tx, message.worker, capability)
        known = hosts.known(message.worker)
        assert known is not None
        known.slots = message.slots

    def _make_room(self, tx: Transaction, worker: str) -> None:
        """Forget the worker that was silent longest, where the manifest names neither it nor the one that comes."""
        hosts = self._memory.hosts
        if worker in hosts.in_force.hosts or hosts.count_unnamed(but=worker) < MAX_UNNAMED_HOSTS:
            return
        silent = next(
            (name for name in hosts.silent_unnamed() if name != worker and not self._memory.leases.held_by(name)), None
        )
        if silent is None:
            raise HostRefusedError(
                f"{MAX_UNNAMED_HOSTS} hosts that the manifest does not name are heard now",
                f"name the host {worker!r} in the manifest, or require enrolment: enrolled_only",
                expected="fewer hosts that only [hosts.default] admits",
            )
        tx.run("forget_host", name=silent)
        self._losses.forget(tx, silent)
        tx.after_commit(lambda: hosts.drop(silent))

    def _given_again(self, tx: Transaction, row: AnsweredRow, message: Claim) -> Lease:
        """Answer a claim that was answered before: its answer may have been lost on the way."""
        # A late copy of an old request must not start a second job for somebody who no longer waits for it.
        if row.lease_id != row.given:
            raise ConflictError(
                f"the claim {message.claim_id} was answered with a lease that is over ({row.outcome})",
                "ask with a new claim_id",
            )
        # The first answer may have been lost, and with it the time that its lease gave.
        self._memory.leases.extend(row.given)
        held = {lease.lease_id for lease in tx.all(LEASES_OF, worker=message.worker)}
        return self._answer(tx, row, Taken(row.given, row.card), message, held)

    def _end_stale_leases(
        self, tx: Transaction, message: Claim, policy: Policy, *, alone: bool
    ) -> tuple[set[str], int]:
        """End what the process no longer holds.

        Args:
            tx: The change.
            message: What it says.
            policy: What its host may do.
            alone: No other process works under the name.

        Returns:
            The leases it does hold, and how many live under its name.
        """
        held, live = set(), 0
        # A lease without a process is that of an older version. Of several processes one may still be of that version.
        own = {message.process} if policy.sessions > 1 else {message.process, None}
        for row in tx.all(LEASES_OF, worker=message.worker):
            if row.lease_id in message.held_leases:
                held.add(row.lease_id)
            elif alone or row.process in own:
                why = "the worker asked for another job and does not hold this one"
                self._settling.lapse(tx, row.lease_id, why, self._memory.granted_at(row.lease_id))
                continue
            live += 1
        return held, live

    def _note_cards(self, tx: Transaction, worker: str) -> None:
        """Note which cards have a lease; a rollback needs no word, because the next claim looks again."""
        hosts = self._memory.hosts
        known = hosts.known(worker)
        # Only hosts with cards pay for the statement.
        if known is not None and (known.capability.gpus or known.in_use):
            hosts.note_cards_in_use(worker, [row.card for row in tx.all(LEASES_OF, worker=worker) if row.card])

    def _take_best(self, tx: Transaction, message: Claim) -> tuple[ClaimedRow | None, Taken]:
        """Take the best job for the worker; return it, None without one, and what is taken with it."""
        memory = self._memory
        offer = memory.hosts.offer(message.worker)
        lease_id, at = secrets.token_urlsafe(LEASE_BYTES), memory.clock.label()
        row = tx.one(
            CLAIM,
            lease_id=lease_id,
            worker=message.worker,
            at=at,
            free=offer.free,
            waiting=offer.waiting,
            waited_since=int(memory.clock.tick() - memory.terms.prefer_wait_s),
            avoid=memory.waits.avoided_by(message.worker),
        )
        if row is None:
            # The end of a lease frees its card, and so may wake this worker's parked claim.
            known = memory.hosts.known(message.worker)
            if known is not None and known.in_use:
                memory.waits.full.add(message.worker)
            return None, Taken("", None)
        seq, job_id = row.seq, row.id
        card = memory.hosts.card_for(row.requirement, message.worker)
        tx.run(
            "begin_attempt",
            job=seq,
            fence=row.fence,
            lease_id=lease_id,
            worker=message.worker,
            claim_id=message.claim_id,
            process=message.process,
            card=None if card is None else card.uuid,
            at=at,
        )
        self._history.record(tx, seq, worker_actor(message.worker), "claim", "pending", "claimed")
        memory.tally.moved(tx, "pending", "claimed")
        # After the commit: a lease that the sweeper knows before its row is durable could be ended before it exists.
        tx.after_commit(lambda: memory.leases.put(seq, job_id, lease_id, message.worker, running=False))
        return row, Taken(lease_id, None if card is None else card.uuid)

    def _answer(
        self,
        tx: Transaction,
        row: ClaimedRow | AnsweredRow,
        taken: Taken,
        message: Claim,
        held: set[str],
    ) -> Lease:
        terms, hosts = self._memory.terms, self._memory.hosts
        trainer = hosts.in_force.trainer
        return Lease(
            job_id=row.id,
            lease_id=taken.lease_id,
            fence=row.fence,
            ack_within_s=terms.ack_s,
            lease_s=terms.lease_s,
            heartbeat_s=terms.heartbeat_s,
            spec=json.loads(row.spec),
            timeout_s=row.timeout_s,
            trainer_command=list(trainer.command),
            trainer_contract=contract_with(trainer.contract, trainer.env),
            stop=to_stop(tx, message.held_leases, held),
            cuda=taken.card is not None,
            trainer_env=dict(trainer.env),
            card=taken.card,
        )


def to_stop(tx: Transaction, believed: Iterable[str], held: set[str]) -> list[str]:
    """Return the leases a worker believes in that are over for good; those that can be adopted go on."""
    stop = []
    for lease_id in believed:
        # What is held lives, so there is nothing to look up.
        if lease_id not in held:
            row = tx.one(LEASE, lease_id=lease_id)
            if row is None or not (standing.live(row) or standing.adoptable(row)):
                stop.append(lease_id)
    return stop
