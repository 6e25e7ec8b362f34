"""Who may work: invites, identities and their secrets.

Owns the rows of invites and identities. Guarantees that a code is exchanged once, for the host it was made for and
while it lives; that the same exchange asked again is answered again; that no code and no key is ever stored; that a new
key takes over at its first use and not before; and that an identity which was revoked or replaced holds no lease. Every
change appends its event in the same transaction. Leaves the comparison of secrets to `auth`.
"""

from __future__ import annotations

import functools
import secrets
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Final

from training.fleet.auth.identities import Identity, Registry, digest_of, new_code
from training.fleet.database import Transaction
from training.fleet.database.queries import (
    IDENTITIES,
    IDENTITY,
    INVITE,
    LEASES_OF,
    LIVING_IDENTITY,
    IdentityRow,
    InviteRow,
)
from training.fleet.model.errors import ConflictError, ForbiddenError, InviteRefusedError, NotFoundError
from training.fleet.queue.clock import FleetClock
from training.fleet.queue.endings import worker_actor
from training.fleet.queue.events import History
from training.fleet.queue.settling import Settling
from training.fleet.wire.identities import Enrol, IdentityPage, IdentityView, Invite, InviteOrder, SecretTaken

ID_BYTES: Final = 9
KEPT_S: Final = 86400
"""How long a code that is over is still told apart from one that never was, seconds of the fleet clock."""


class Identities:
    """The changes of identities.

    Attributes:
        registry: Every identity, for the comparison of secrets; follows the commits.
    """

    def __init__(self, clock: FleetClock, history: History, settling: Settling) -> None:
        self.registry = Registry()
        self._clock = clock
        self._history = history
        self._settling = settling

    def start(self, tx: Transaction) -> None:
        """Take up the identities of the database."""
        for row in tx.all(IDENTITIES):
            self.registry.put(_identity(row))

    # ---- invites

    def invite(self, tx: Transaction, order: InviteOrder, actor: str) -> Invite:
        """Make a one-time code for a host. Codes for it that nobody has used are good no more."""
        code, at = new_code(), self._clock.label()
        expires_at = _later(at, order.ttl_s)
        # A used or old code is kept for a day, so that its owner is told what is wrong with it.
        tx.run("forget_invites", tick=self._clock.tick() - KEPT_S)
        # Two good codes for one host would let a second machine enrol as it.
        tx.run("withdraw_invites", worker=order.worker)
        tx.run(
            "add_invite",
            digest=digest_of(code),
            worker=order.worker,
            at=at,
            expires_at=expires_at,
            expires_tick=self._clock.tick() + order.ttl_s,
        )
        self._history.note(tx, actor, order.worker, "invite", f"good until {expires_at}")
        replaces = self.registry.living(order.worker) is not None
        return Invite(order.worker, code, order.ttl_s, expires_at, replaces=replaces)

    def enrol(self, tx: Transaction, message: Enrol) -> Identity:
        """Exchange a code for an identity, once; asked again with the same digest the answer is the same.

        Raises:
            InviteRefusedError: Nobody gave the code, it is used up, or its time is over.
            ForbiddenError: It is good for another host.
        """
        row = tx.one(INVITE, digest=digest_of(message.code))
        if row is None:
            raise InviteRefusedError(
                "this receiver did not give the code",
                "check that it is whole, or ask for a new one: cis490-jobs invite HOST",
            )
        self._demand_good(row, message.worker)
        if row.identity is not None:
            return self._same_again(tx, row.identity, message.secret_sha256)
        return self._new_identity(tx, message)

    def _demand_good(self, row: InviteRow, worker: str) -> None:
        if row.worker != worker:
            raise ForbiddenError(
                f"the code is not good for the host {worker}",
                f"give the name it was made for, or ask for a new one: cis490-jobs invite {worker}",
            )
        # Two clocks, because either can stand still: the fleet clock while no receiver runs, the wall clock when it is
        # set.
        if self._clock.tick() >= row.expires_tick or self._clock.label() >= row.expires_at:
            raise InviteRefusedError(
                f"the code was good until {row.expires_at}", f"ask for a new one: cis490-jobs invite {worker}"
            )

    def _same_again(self, tx: Transaction, public_id: str, digest: str) -> Identity:
        # The row and not the registry, which follows the commit: the first exchange may be in this very batch.
        identity = self._identity(tx, public_id)
        if identity is None or identity.revoked_at is not None or identity.digest != digest:
            raise InviteRefusedError(
                "the code was used already, and by another",
                "if that was not you, revoke the worker: cis490-jobs identity revoke NAME; then ask for a new code",
            )
        return identity

    def _new_identity(self, tx: Transaction, message: Enrol) -> Identity:
        worker, at = message.worker, self._clock.label()
        actor = worker_actor(worker)
        old = self._living_of(tx, worker)
        if old is not None:
            # At once: the old machine may be in the middle of a request.
            self._change(tx, replace(old, revoked_at=at, next_digest=None, rotate=False), at_once=True)
            self._history.note(tx, actor, worker, "replace", f"identity {old.id} ends, the host has enrolled again")
            self._free_leases(tx, worker, actor, f"the worker {worker} has enrolled again")
        new = Identity(secrets.token_hex(ID_BYTES), worker, message.secret_sha256, created_at=at)
        tx.run("add_identity", id=new.id, worker=worker, digest=new.digest, at=at)
        # The row of the identity comes first, because the invite refers to it.
        used = tx.run("use_invite", digest=digest_of(message.code), identity=new.id)
        assert used == 1
        self._history.note(tx, actor, worker, "enrol", f"identity {new.id}")
        tx.after_commit(functools.partial(self.registry.put, new))
        return new

    def keep_certificate(self, tx: Transaction, public_id: str, fingerprint: str) -> None:
        """Note which certificate was issued to an identity; another one after the first is an event. Safe to repeat."""
        identity = self._identity(tx, public_id)
        # A certificate is answered again while most of its life is left, and that is no event.
        if identity is None or identity.fingerprint == fingerprint:
            return
        self._change(tx, replace(identity, fingerprint=fingerprint))
        # The first certificate belongs to the enrolment, which has its own event.
        if identity.fingerprint:
            actor, why = worker_actor(identity.worker), f"identity {identity.id}: another certificate was issued"
            self._history.note(tx, actor, identity.worker, "renew", why)

    def keep_place(self, tx: Transaction, public_id: str, place: str) -> None:
        """Note where an identity is used, so that a restart of the receiver gives it to nobody else."""
        if (identity := self._identity(tx, public_id)) is not None and identity.place != place:
            self._change(tx, replace(identity, place=place))

    # ---- secrets

    def revoke(self, tx: Transaction, worker: str, actor: str) -> IdentityView:
        """Take a worker's secret back. Its jobs return to the queue, its invites are good no more. Safe to repeat.

        Raises:
            NotFoundError: No such worker ever enrolled.
        """
        tx.run("withdraw_invites", worker=worker)
        identity = self._living_of(tx, worker)
        if identity is None:
            return view_of(self._newest(worker))
        gone = replace(identity, revoked_at=self._clock.label(), next_digest=None, rotate=False)
        self._change(tx, gone, at_once=True)
        self._history.note(tx, actor, worker, "revoke", f"identity {identity.id}")
        self._free_leases(tx, worker, actor, f"the worker {worker} was revoked")
        return view_of(gone)

    def _free_leases(self, tx: Transaction, worker: str, actor: str, why: str) -> None:
        """End what a worker holds, because the identity it was given to may work no more."""
        for row in tx.all(LEASES_OF, worker=worker):
            self._settling.take_back(tx, row.lease_id, actor, why)

    def ask_to_rotate(self, tx: Transaction, worker: str, actor: str) -> IdentityView:
        """Ask a worker for a new key; it makes one at its next contact. Safe to repeat.

        Raises:
            NotFoundError: No such worker ever enrolled.
            ConflictError: It is revoked.
        """
        identity = self._living_of(tx, worker)
        if identity is None:
            old = self._newest(worker)
            raise ConflictError(
                f"the worker {worker} was revoked at {old.revoked_at}, so there is nothing to rotate",
                f"enrol it again: cis490-jobs invite {worker}",
            )
        if not identity.rotate:
            identity = replace(identity, rotate=True)
            self._change(tx, identity)
            self._history.note(tx, actor, worker, "rotate", f"identity {identity.id}: a new key was asked for")
        return view_of(identity)

    def take_secret(self, tx: Transaction, public_id: str, digest: str) -> SecretTaken:
        """Keep the digest of a worker's next key; the present one is good until the next was used. Safe to repeat.

        Raises:
            RevokedError: The identity lives no more.
            ConflictError: Nobody asked for a new key. So who has the secret alone cannot make it useless to its worker.
        """
        identity = self._living(tx, public_id)
        # A worker repeats the digest until it is answered.
        if digest not in (identity.digest, identity.next_digest):
            if not identity.rotate:
                raise ConflictError(
                    f"nobody asked the worker {identity.worker} for a new key",
                    expected=f"that first: cis490-jobs identity rotate {identity.worker}",
                )
            self._change(tx, replace(identity, next_digest=digest))
        return SecretTaken(public_id)

    def renew(self, tx: Transaction, public_id: str) -> None:
        """Let the next key take over, because the worker has used it; the one before is worth nothing from now on."""
        identity = self._living(tx, public_id)
        # Several requests with the new key may be under way; the first one has done it.
        if identity.next_digest is None:
            return
        new = replace(identity, digest=identity.next_digest, next_digest=None, rotate=False)
        self._change(tx, new)
        actor = worker_actor(identity.worker)
        self._history.note(tx, actor, identity.worker, "renew", f"identity {identity.id}: the new key was used")

    def _living(self, tx: Transaction, public_id: str) -> Identity:
        self.registry.demand_living(public_id)
        identity = self._identity(tx, public_id)
        assert identity is not None
        return identity

    def _identity(self, tx: Transaction, public_id: str) -> Identity | None:
        row = tx.one(IDENTITY, id=public_id)
        return None if row is None else _identity(row)

    def _living_of(self, tx: Transaction, worker: str) -> Identity | None:
        row = tx.one(LIVING_IDENTITY, worker=worker)
        return None if row is None else _identity(row)

    def _newest(self, worker: str) -> Identity:
        found = self.registry.newest(worker)
        if found is None:
            raise NotFoundError(f"no worker {worker} ever enrolled", "`cis490-jobs identity list` shows those that did")
        return found

    def _change(self, tx: Transaction, new: Identity, *, at_once: bool = False) -> None:
        """Write what became of an identity.

        Args:
            tx: The change.
            new: The identity from now on.
            at_once: It holds for requests that are already under way, and is undone when the change is.
        """
        values = {name: value for name, value in asdict(new).items() if name not in ("worker", "created_at")}
        tx.run("change_identity", **{**values, "rotate": int(new.rotate)})
        old = self.registry.get(new.id)
        if at_once and old is not None:  # one that is not known yet was made in this batch, so nobody can use it
            self.registry.put(new)
            tx.after_rollback(functools.partial(self.registry.put, old))
        tx.after_commit(functools.partial(self.registry.put, new))

    # ---- read

    def living(self, worker: str) -> Identity | None:
        """Return the identity a worker has now, None when it has none or it is revoked. Safe from any thread."""
        return self.registry.living(worker)

    def get(self, public_id: str) -> Identity | None:
        """Return an identity, None when there is none. Safe from any thread."""
        return self.registry.get(public_id)

    def demand_living(self, public_id: str) -> None:
        """Refuse an identity that was revoked since its secret was looked at. Safe from any thread.

        Raises:
            RevokedError: It was.
        """
        self.registry.demand_living(public_id)

    def page(self, cursor: str | None, limit: int) -> IdentityPage:
        """Return one page of identities by worker, those that lived longest ago first. Safe from any thread."""
        found = [view_of(one) for one in self.registry if cursor is None or f"{one.worker} {one.created_at}" > cursor]
        last = found[limit - 1] if len(found) > limit else None
        return IdentityPage(found[:limit], None if last is None else f"{last.worker} {last.created_at}")


def view_of(identity: Identity) -> IdentityView:
    """Return an identity as people see it."""
    return IdentityView(
        identity.worker,
        identity.id,
        identity.state,
        identity.created_at,
        identity.revoked_at,
        identity.fingerprint,
    )


def _identity(row: IdentityRow) -> Identity:
    return Identity(**{**row._asdict(), "rotate": bool(row.rotate)})


def _later(label: str, seconds: int) -> str:
    """Return a label of the wall time so many seconds later, in the same form."""
    at = datetime.fromisoformat(label) + timedelta(seconds=seconds)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"
