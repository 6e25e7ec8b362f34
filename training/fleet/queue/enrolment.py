"""Who may work: invites, identities and their secrets, and the audit trail over all of it.

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
from typing import Any, Final

from training.fleet import wire
from training.fleet.auth.identities import Identity, digest_of
from training.fleet.database import Row, Transaction
from training.fleet.errors import ConflictError, ForbiddenError, InvalidMessageError, InviteRefusedError, NotFoundError
from training.fleet.queue.lifecycle import Lifecycle
from training.fleet.queue.memory import worker_actor

CODE_BYTES: Final = 24
"""Random bytes in a one-time code."""
ID_BYTES: Final = 9
KEPT_S: Final = 86400
"""How long a code that is over is still told apart from one that never was, seconds of the fleet clock."""
WINDOW: Final = 5000
"""Events looked at in one step when a filter may refuse most of them."""
SCAN_S: Final = 0.005
"""How long one page may look for events, seconds."""
NEWEST: Final = 2**62


class Enrolment(Lifecycle):
    """The changes of identities."""

    def start(self, tx: Transaction) -> None:
        """Take up the database after a start, with its identities."""
        super().start(tx)
        for row in tx.all("identities"):
            self.registry.put(_identity(row))

    # ---- invites

    def invite(self, tx: Transaction, order: wire.InviteOrder, actor: str) -> wire.Invite:
        """Make a one-time code for a host. Codes for it that nobody has used are void from now on."""
        code, at = secrets.token_urlsafe(CODE_BYTES), self._now()
        expires_at = _later(at, order.ttl_s)
        tx.run("forget_invites", tick=self.tick() - KEPT_S)
        tx.run("withdraw_invites", worker=order.worker)
        tx.run(
            "add_invite",
            digest=digest_of(code),
            worker=order.worker,
            at=at,
            expires_at=expires_at,
            expires_tick=self.tick() + order.ttl_s,
        )
        self._note(tx, actor, order.worker, "invite", f"good until {expires_at}")
        replaces = self.registry.living(order.worker) is not None
        return wire.Invite(order.worker, code, order.ttl_s, expires_at, replaces=replaces)

    def enrol(self, tx: Transaction, message: wire.Enrol) -> Identity:
        """Exchange a code for an identity, once; asked again with the same digest the answer is the same.

        Raises:
            InviteRefusedError: Nobody gave the code, it is used up, or its time is over.
            ForbiddenError: It is good for another host.
        """
        row = tx.one("invite", digest=digest_of(message.code))
        if row is None:
            raise InviteRefusedError(
                "the code is none that this receiver gave",
                "check that it is whole, or ask for a new one: cis490-jobs invite HOST",
            )
        self._demand_good(row, message.worker)
        if row["identity"] is not None:
            return self._same_again(row["identity"], message.secret_sha256)
        return self._new_identity(tx, message)

    def _demand_good(self, row: Row, worker: str) -> None:
        if row["worker"] != worker:
            raise ForbiddenError(
                f"the code is not good for the host {worker}",
                f"give the name it was made for, or ask for a new one: cis490-jobs invite {worker}",
            )
        if self.tick() >= row["expires_tick"] or self._now() >= row["expires_at"]:
            raise InviteRefusedError(
                f"the code was good until {row['expires_at']}", f"ask for a new one: cis490-jobs invite {worker}"
            )

    def _same_again(self, public_id: str, digest: str) -> Identity:
        identity = self.registry.get(public_id)
        if identity is None or identity.revoked_at is not None or identity.digest != digest:
            raise InviteRefusedError(
                "the code was used already, and by another",
                "if that was not you, revoke the worker: cis490-jobs worker revoke NAME; then ask for a new code",
            )
        return identity

    def _new_identity(self, tx: Transaction, message: wire.Enrol) -> Identity:
        worker, at = message.worker, self._now()
        actor = worker_actor(worker)
        old = self.registry.living(worker)
        if old is not None:
            self._change(tx, replace(old, revoked_at=at, next_digest=None, rotate=False), at_once=True)
            self._note(tx, actor, worker, "replace", f"identity {old.id} ends, the host has enrolled again")
            self._free_leases(tx, worker, actor, f"the worker {worker} has enrolled again")
        new = Identity(secrets.token_hex(ID_BYTES), worker, message.secret_sha256, created_at=at)
        tx.run("add_identity", id=new.id, worker=worker, digest=new.digest, at=at)
        used = tx.run("use_invite", digest=digest_of(message.code), identity=new.id)
        assert used == 1
        self._note(tx, actor, worker, "enrol", f"identity {new.id}")
        tx.after_commit(functools.partial(self.registry.put, new))
        return new

    def keep_certificate(self, tx: Transaction, public_id: str, fingerprint: str) -> None:
        """Note which certificate was issued to an identity; another one after the first is an event. Safe to repeat."""
        identity = self.registry.get(public_id)
        if identity is None or identity.fingerprint == fingerprint:
            return
        self._change(tx, replace(identity, fingerprint=fingerprint))
        if identity.fingerprint:
            actor = worker_actor(identity.worker)
            self._note(tx, actor, identity.worker, "renew", f"identity {identity.id}: another certificate was issued")

    def keep_place(self, tx: Transaction, public_id: str, place: str) -> None:
        """Note where an identity is used, so that a restart of the receiver gives it to nobody else."""
        if (identity := self.registry.get(public_id)) is not None and identity.place != place:
            self._change(tx, replace(identity, place=place))

    # ---- secrets

    def revoke(self, tx: Transaction, worker: str, actor: str) -> wire.IdentityView:
        """Take a worker's secret back. Its jobs return to the queue, its unused invites are void. Safe to repeat.

        Raises:
            NotFoundError: No such worker ever enrolled.
        """
        tx.run("withdraw_invites", worker=worker)
        identity = self.registry.living(worker)
        if identity is None:
            return view_of(self._newest(worker))
        gone = replace(identity, revoked_at=self._now(), next_digest=None, rotate=False)
        self._change(tx, gone, at_once=True)
        self._note(tx, actor, worker, "revoke", f"identity {identity.id}")
        self._free_leases(tx, worker, actor, f"the worker {worker} was revoked")
        return view_of(gone)

    def _free_leases(self, tx: Transaction, worker: str, actor: str, why: str) -> None:
        """End what a worker holds, because the identity it was given to may work no more."""
        for row in tx.all("leases_of", worker=worker):
            self._take_back(tx, row["lease_id"], actor, why)

    def ask_to_rotate(self, tx: Transaction, worker: str, actor: str) -> wire.IdentityView:
        """Ask a worker for a new key; it makes one at its next contact. Safe to repeat.

        Raises:
            NotFoundError: No such worker ever enrolled.
            ConflictError: It is revoked.
        """
        identity = self.registry.living(worker)
        if identity is None:
            old = self._newest(worker)
            raise ConflictError(
                f"the worker {worker} was revoked at {old.revoked_at}, so there is nothing to rotate",
                f"enrol it again: cis490-jobs invite {worker}",
            )
        if not identity.rotate:
            identity = replace(identity, rotate=True)
            self._change(tx, identity)
            self._note(tx, actor, worker, "rotate", f"identity {identity.id}: a new key was asked for")
        return view_of(identity)

    def take_secret(self, tx: Transaction, public_id: str, digest: str) -> wire.SecretTaken:
        """Keep the digest of a worker's next key; the present one is good until the next was used. Safe to repeat.

        Raises:
            RevokedError: The identity lives no more.
            ConflictError: Nobody asked for a new key. So who has the secret alone cannot make it useless to its worker.
        """
        identity = self._living(public_id)
        if digest not in (identity.digest, identity.next_digest):
            if not identity.rotate:
                raise ConflictError(
                    f"nobody asked the worker {identity.worker} for a new key",
                    expected=f"that first: cis490-jobs worker rotate {identity.worker}",
                )
            self._change(tx, replace(identity, next_digest=digest))
        return wire.SecretTaken(public_id)

    def renew(self, tx: Transaction, public_id: str) -> None:
        """Let the next key take over, because the worker has used it; the one before is worth nothing from now on."""
        identity = self._living(public_id)
        if identity.next_digest is None:
            return
        new = replace(identity, digest=identity.next_digest, next_digest=None, rotate=False)
        self._change(tx, new)
        actor = worker_actor(identity.worker)
        self._note(tx, actor, identity.worker, "renew", f"identity {identity.id}: the new key was used")

    def _living(self, public_id: str) -> Identity:
        self.registry.demand_living(public_id)
        identity = self.registry.get(public_id)
        assert identity is not None
        return identity

    def _newest(self, worker: str) -> Identity:
        found = self.registry.newest(worker)
        if found is None:
            raise NotFoundError(f"no worker {worker} ever enrolled", "`cis490-jobs worker list` shows those that did")
        return found

    def _change(self, tx: Transaction, new: Identity, *, at_once: bool = False) -> None:
        """Write what became of an identity.

        Args:
            tx: The change.
            new: The identity from now on.
            at_once: It holds for requests that are already under way, and is undone when the change is.
        """
        old = self.registry.get(new.id)
        assert old is not None
        values = {name: value for name, value in asdict(new).items() if name not in ("worker", "created_at")}
        tx.run("change_identity", **{**values, "rotate": int(new.rotate)})
        if at_once:
            self.registry.put(new)
            tx.after_rollback(functools.partial(self.registry.put, old))
        else:
            tx.after_commit(functools.partial(self.registry.put, new))

    # ---- the audit trail

    def note(self, tx: Transaction, actor: str, worker: str, action: str, why: str) -> None:
        """Append an event of a worker's identity."""
        self._note(tx, actor, worker, action, why)

    def _note(self, tx: Transaction, actor: str, worker: str, action: str, why: str) -> None:
        tx.run("record_of_worker", at=self._now(), actor=actor, worker=worker, action=action, why=why)
        tx.after_commit(self._touch)

    def holder(self, tx: Transaction, lease_id: str) -> str | None:
        """Return the worker a lease was given to, live or over; None when there never was one."""
        row = tx.one("lease", lease_id=lease_id)
        return None if row is None else str(row["worker"])

    def identities(self, cursor: str | None, limit: int) -> wire.IdentityPage:
        """Return one page of identities by worker, those that lived longest ago first. Safe from any thread."""
        found = [view_of(one) for one in self.registry if cursor is None or f"{one.worker} {one.created_at}" > cursor]
        last = found[limit - 1] if len(found) > limit else None
        return wire.IdentityPage(found[:limit], None if last is None else f"{last.worker} {last.created_at}")

    def events(
        self, tx: Transaction, job_id: str | None, worker: str | None, cursor: str | None, limit: int
    ) -> wire.EventPage:
        """Return one page of events, newest first.

        Args:
            tx: The change.
            job_id: Only of this job.
            worker: Only those about this worker or by it.
            cursor: `next` of the page before, None for the first.
            limit: At most so many.

        Raises:
            InvalidMessageError: The cursor is not one of this list.
            NotFoundError: There is no such job.
        """
        before = _before(cursor)
        if job_id is not None:
            seq = self._job_state(tx, job_id)["seq"]
            rows = tx.all("events_of_job", id=job_id, job=seq, worker=worker, before=before, limit=limit + 1)
            return _page(list(rows), limit, None)
        rows, after = self._scanned(tx, worker, before, limit + 1)
        return _page(rows, limit, after)

    def _scanned(self, tx: Transaction, worker: str | None, before: int, limit: int) -> tuple[list[Row], int | None]:
        """Return events, and where to go on looking when time ran out before the end."""
        newest = tx.one("newest_event")
        before = min(before, ((newest["id"] if newest else None) or 0) + 1)
        rows: list[Row] = []
        until = self._clock() + SCAN_S
        while before > 1 and len(rows) < limit:
            from_id = max(1, before - WINDOW)
            found = tx.all("events_between", worker=worker, before=before, from_id=from_id, limit=limit - len(rows))
            rows += found
            before = from_id
            if self._clock() > until:
                break
        return rows, before if before > 1 else None


def view_of(identity: Identity) -> wire.IdentityView:
    """Return an identity as people see it."""
    return wire.IdentityView(
        identity.worker,
        identity.id,
        identity.state,
        identity.created_at,
        identity.revoked_at,
        identity.fingerprint,
    )


def _page(rows: list[Row], limit: int, after: int | None) -> wire.EventPage:
    shown = [_event(row) for row in rows[:limit]]
    if len(rows) > limit:
        return wire.EventPage(shown, f"e{shown[-1].id}")
    return wire.EventPage(shown, None if after is None else f"e{after}")


def _event(row: Row) -> wire.FleetEvent:
    names = ("id", "at", "actor", "action", "job", "worker", "from_status", "to_status", "why")
    values: dict[str, Any] = {name: row[name] for name in names}
    return wire.FleetEvent(**values)


def _before(cursor: str | None) -> int:
    if cursor is None:
        return NEWEST
    place = cursor[1:19]
    if cursor[:1] != "e" or not (place.isascii() and place.isdecimal()):
        raise InvalidMessageError(f"{cursor[:80]!r} is no cursor of this list", "start again without one")
    return int(place)


def _identity(row: Row) -> Identity:
    names = ("id", "worker", "digest", "next_digest", "created_at", "revoked_at", "fingerprint", "place")
    return Identity(**{name: row[name] for name in names}, rotate=bool(row["rotate"]))


def _later(label: str, seconds: int) -> str:
    """Return a label of the wall time so many seconds later, in the same form."""
    at = datetime.fromisoformat(label) + timedelta(seconds=seconds)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"
