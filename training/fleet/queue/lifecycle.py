"""The life of a job: claim, heartbeat, complete, fail, cancel, requeue.

Owns every change of a job's state but those of a manifest and of time. Guarantees what docs/reference/states.md says:
one live lease per job, one result, stale leases refused, late results adopted while nobody else has begun, the same
request twice has one effect. Every change is one transaction that starts from the status it checks, and appends one
event. Leaves placement to `hosts` and durability to the database.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import replace

from training.fleet import placement, wire
from training.fleet.database import Row, Transaction
from training.fleet.errors import (
    ArtifactMissingError,
    ConflictError,
    HostRefusedError,
    OtherResultError,
    StaleLeaseError,
)
from training.fleet.jobs import FREE_KINDS, Policy, Requirement
from training.fleet.queue.endings import GIVEN_BACK_S, Ending, Witnesses, rejection, told
from training.fleet.queue.hosts import capability_json
from training.fleet.queue.memory import Memory, state_of, worker_actor

RECEIVER = "receiver"
_LIVE = ("claimed", "running")
_RAN_OUT = ("expired", "lost_claim")

_compact = json.JSONEncoder(separators=(",", ":")).encode


class Lifecycle(Memory):
    """The changes a worker or an operator can make to one job."""

    # ---- claim

    def claim(self, tx: Transaction, message: wire.Claim) -> wire.Lease | None:
        """Give the best job the caller can run.

        One statement decides, so two callers never get the same job. A repeated `claim_id` gets the same lease
        again. Leases the queue believes the worker holds and the worker does not list are ended, but not while the
        worker is held back: it could end and take back one lease without end otherwise.

        Returns:
            The lease, or None when nothing is there for this worker, all its slots are taken, or it is held back.

        Raises:
            HostRefusedError: The manifest does not admit the host.
            ConflictError: The `claim_id` was answered before and that lease is over.
        """
        policy = self._admit(message.worker)
        self._meet(tx, message)
        known = tx.one("attempt_of_claim", worker=message.worker, claim_id=message.claim_id)
        if known is not None:
            return self._give_again(tx, known, message)
        if self._held_back.left_s(message.worker) > 0:
            return None
        held = self._reconcile(tx, message)
        if len(held) >= policy.slots:
            self._full.add(message.worker)
            return None
        return self._grant(tx, message, held)

    def _admit(self, worker: str) -> Policy:
        policy = self.hosts.policy(worker)
        if policy is None:
            raise HostRefusedError(
                f"the manifest does not admit the host {worker!r}: it has neither [hosts.{worker}] nor [hosts.default]",
                "add one of them and reload",
            )
        return policy

    def _meet(self, tx: Transaction, message: wire.Claim) -> None:
        capability = message.capability
        if capability.hostname != message.worker:
            capability = replace(capability, hostname=message.worker)
        if self.hosts.meet(capability):
            tx.after_rollback(lambda: self.hosts.doubt(message.worker))
            tx.run("meet_host", name=message.worker, capability=capability_json(capability), at=self._now())

    def _give_again(self, tx: Transaction, row: Row, message: wire.Claim) -> wire.Lease:
        if row["lease_id"] != row["given"]:
            raise ConflictError(
                f"the claim {message.claim_id} was answered with a lease that is over ({row['outcome']})",
                "ask with a new claim_id",
            )
        self.leases.extend(row["given"])
        held = {live["lease_id"] for live in tx.all("leases_of", worker=message.worker)}
        return self._lease_answer(row, row["given"], message.worker, self._stop(tx, message.held_leases, held))

    def _reconcile(self, tx: Transaction, message: wire.Claim) -> set[str]:
        """End what the worker no longer holds; return the leases it does hold."""
        held = set()
        for row in tx.all("leases_of", worker=message.worker):
            if row["lease_id"] in message.held_leases:
                held.add(row["lease_id"])
            else:
                why = "the worker asked for another job and does not hold this one"
                self._lapse(tx, row["lease_id"], why, self._granted_at(row["lease_id"]))
        return held

    def _grant(self, tx: Transaction, message: wire.Claim, held: set[str]) -> wire.Lease | None:
        offer = self.hosts.offer(message.worker)
        lease_id, at = secrets.token_urlsafe(18), self._now()
        row = tx.one(
            "claim",
            lease_id=lease_id,
            worker=message.worker,
            at=at,
            eligible=offer.eligible,
            second=offer.second,
            third=offer.third,
            waiting=offer.waiting,
            waited_since=int(self.tick() - self.terms.prefer_wait_s),
            avoid=self._avoided_by(message.worker),
        )
        if row is None:
            return None
        seq, job_id, fence = row["seq"], row["id"], row["fence"]
        tx.run(
            "begin_attempt",
            job=seq,
            fence=fence,
            lease_id=lease_id,
            worker=message.worker,
            claim_id=message.claim_id,
            at=at,
        )
        self._record(tx, seq, worker_actor(message.worker), "claim", "pending", "claimed")
        self._moved(tx, "pending", "claimed")
        tx.after_commit(lambda: self.leases.put(seq, job_id, lease_id, message.worker, running=False))
        return self._lease_answer(row, lease_id, message.worker, self._stop(tx, message.held_leases, held))

    def _lease_answer(self, row: Row, lease_id: str, worker: str, stop: list[str]) -> wire.Lease:
        trainer = self.hosts.in_force.trainer
        return wire.Lease(
            job_id=row["id"],
            lease_id=lease_id,
            fence=row["fence"],
            ack_within_s=self.terms.ack_s,
            lease_s=self.terms.lease_s,
            heartbeat_s=self.terms.heartbeat_s,
            spec=json.loads(row["spec"]),
            timeout_s=row["timeout_s"],
            trainer_command=list(trainer.command),
            trainer_contract=trainer.contract,
            stop=stop,
            cuda=self.hosts.may_use_cuda(worker),
        )

    def _stop(self, tx: Transaction, believed: Iterable[str], held: set[str]) -> list[str]:
        """Return the leases a worker believes in that are over for good; those that can be adopted go on."""
        stop = []
        for lease_id in believed:
            if lease_id not in held:
                row = tx.one("lease", lease_id=lease_id)
                if row is None or not (_live(row) or _adoptable(row)):
                    stop.append(lease_id)
        return stop

    def _avoided_by(self, worker: str) -> str:
        """Return the jobs a host has just given back or failed on, as JSON."""
        if not len(self._apart):
            return "[]"
        return json.dumps([seq for host, seq in self._apart.waiting() if host == worker])

    # ---- heartbeat

    def beat(self, job_id: str, message: wire.Heartbeat) -> wire.Beat | None:
        """Renew a running lease without the database. Safe from any thread.

        Returns:
            The answer, or None when `heartbeat` has to decide.
        """
        live = self.leases.beat(job_id, message.lease_id, message.progress, message.held_leases)
        if live is None:
            return None
        self.hosts.seen(live.worker)
        if message.progress is not None:
            self._touch()
        return wire.Beat(self.terms.lease_s, live.cancel)

    def heartbeat(self, tx: Transaction, job_id: str, message: wire.Heartbeat) -> wire.Beat:
        """Renew a lease: acknowledge it on the first beat, adopt it when it ran out and nobody else has begun.

        Raises:
            NotFoundError: There is no such job.
            StaleLeaseError: The lease is over; its trainer must stop.
        """
        row = self._lease(tx, job_id, message.lease_id)
        worker = row["worker"]
        self.leases.extend(message.lease_id)
        if row["status"] == "claimed" and _live(row):
            self._start(tx, row)
        elif _adoptable(row):
            self._adopt(tx, row)
        elif not _live(row):
            raise _stale(row)
        cancel = bool(row["cancel_requested"])
        self.hosts.seen(worker)

        def follow() -> None:
            self.leases.put(row["seq"], job_id, message.lease_id, worker, running=True, cancel=cancel)
            self.leases.report(message.lease_id, message.progress)
            self._touch()

        tx.after_commit(follow)
        held = {live["lease_id"] for live in tx.all("leases_of", worker=worker)}
        return wire.Beat(self.terms.lease_s, cancel, stop=self._stop(tx, message.held_leases, held))

    def _start(self, tx: Transaction, row: Row) -> None:
        at = self._now()
        tx.run("start", seq=row["seq"], lease_id=row["own_lease"], at=at)
        tx.run("start_attempt", job=row["seq"], fence=row["fence"], at=at)
        self._record(tx, row["seq"], worker_actor(row["worker"]), "start", "claimed", "running")
        self._moved(tx, "claimed", "running")

    def _adopt(self, tx: Transaction, row: Row) -> None:
        at, refunded = self._now(), row["refunded"]
        changed = tx.run(
            "adopt", seq=row["seq"], lease_id=row["own_lease"], fence=row["fence"], refunded=refunded, at=at
        )
        assert changed == 1
        tx.run("adopt_attempt", job=row["seq"], fence=row["fence"], at=at)
        why = f"the lease had ended ({row['outcome']}), nobody else had begun"
        self._record(tx, row["seq"], worker_actor(row["worker"]), "adopt", row["status"], "running", why)
        self._moved(tx, row["status"], "running")

    # ---- complete and fail

    def complete(self, tx: Transaction, job_id: str, message: wire.Complete) -> wire.State:
        """Accept the result of a job, once; the same lease with the same artifact gets the same answer for ever.

        Raises:
            NotFoundError: There is no such job.
            StaleLeaseError: The lease is over.
            OtherResultError: This lease completed the job with another artifact.
            ArtifactMissingError: The artifact is not stored.
        """
        row = self._lease(tx, job_id, message.lease_id)
        if row["outcome"] == "completed":
            return _same_result(row, message)
        if not (_live(row) or _adoptable(row)):
            raise _stale(row)
        self._finish(tx, row, message)
        return wire.State(job_id, "completed")

    def _finish(self, tx: Transaction, row: Row, message: wire.Complete) -> None:
        # The statement compares the lease's own fence, so that it would refuse an older lease by itself.
        seq, fence, at = row["seq"], row["attempt_fence"], self._now()
        changed = tx.run(
            "complete",
            seq=seq,
            fence=fence,
            artifact=message.artifact,
            metrics=_compact(message.metrics),
            content_digest=message.content_digest,
            duration_s=message.duration_s,
            refunded=row["refunded"],
            at=at,
        )
        if not changed:
            raise ArtifactMissingError(
                f"the artifact {message.artifact} of {row['model']}/{row['mode']} is not stored",
                "upload it, then complete the job again",
            )
        self._end_attempt(tx, row, "completed")
        why = f"a late result after {row['outcome']}, nobody else had begun" if row["outcome"] else ""
        self._record(tx, seq, worker_actor(row["worker"]), "complete", row["status"], "completed", why)
        self._moved(tx, row["status"], "completed")
        self._forget_lease(tx, row)
        self.hosts.seen(row["worker"])
        worker = row["worker"]
        tx.after_commit(lambda: self._held_back.forget(lambda host: host == worker))

    def fail(self, tx: Transaction, job_id: str, message: wire.Fail) -> wire.State:
        """End an attempt without a result; the job goes back, fails for good, or is cancelled if that was asked.

        The same report twice has one effect and gets the job's present state.

        Raises:
            NotFoundError: There is no such job.
            StaleLeaseError: The lease is over.
        """
        row = self._lease(tx, job_id, message.lease_id)
        if row["outcome"] in ("failed", "released", "cancelled"):
            return state_of(row)
        if not _live(row):
            raise _stale(row)
        ending = self._judge_failure(tx, row, message)
        if ending.report is not None and message.log_tail:
            tx.run("keep_log", job=row["seq"], tail=message.log_tail)
        self._settle(tx, row, ending)
        self.hosts.seen(row["worker"])
        return state_of(self._job_state(tx, job_id))

    def _judge_failure(self, tx: Transaction, row: Row, message: wire.Fail) -> Ending:
        actor, why, now = worker_actor(row["worker"]), told(message), self._clock()
        if row["cancel_requested"]:
            return Ending("cancelled", "cancelled", "cancel", actor, f"confirmed by the worker ({why})", report=message)
        if message.kind == "preempted":
            away_s, since = min(self.terms.backoff_s, GIVEN_BACK_S), self._granted_at(row["own_lease"])
            free = Ending("pending", "released", "release", actor, why, given_back=True, report=message)
            return replace(free, away_s=away_s, away_from=since)
        away_s = self.terms.backoff_s
        if message.kind in FREE_KINDS:
            free = Ending("pending", "failed", "fail", actor, why, given_back=True, report=message)
            return replace(free, away_s=away_s, away_from=now)
        if message.kind == "spec_rejected":
            return rejection(actor, message, self._witnesses(tx, row), row["max_attempts"], away_s, now)
        learned = self._learned(row, message)
        if row["attempts_used"] >= row["max_attempts"]:
            return Ending("failed", "failed", "fail", actor, why, requirement=learned, report=message)
        delay_s = self._backoff_s(row["attempts_used"], self.terms.backoff_s)
        return Ending("pending", "failed", "fail", actor, why, delay_s=delay_s, requirement=learned, report=message)

    def _witnesses(self, tx: Transaction, row: Row) -> Witnesses:
        """Return what is known beside a host's word that a job's specification is wrong."""
        said = {found["worker"]: found["times"] for found in tx.all("rejections", job=row["seq"])}
        times = said.pop(row["worker"], 0) + 1
        known, number = self.hosts.known(row["worker"]), row["requirement"]
        drift = "" if known is None else placement.trainer_drift(self.hosts.requirement(number), known.capability)
        return Witnesses(drift, times, sorted(said), self.hosts.heard_and_able(number, but=row["worker"]))

    def _keep_apart(self, tx: Transaction, row: Row, ending: Ending) -> None:
        """Let a host wait for a job that it gave back, and for any job once it does so again and again."""
        if ending.away_s > 0:
            worker, since = row["worker"], ending.away_from
            tx.after_rollback(self._apart.add((worker, row["seq"]), ending.away_s, since))
            tx.after_rollback(self._held_back.add(worker, self.terms.backoff_s, since))

    def _learned(self, row: Row, message: wire.Fail) -> Requirement | None:
        """Return the requirement without hosts of the size that ran out of memory."""
        if message.kind not in ("oom_gpu", "oom_ram"):
            return None
        known, policy = self.hosts.known(row["worker"]), self.hosts.policy(row["worker"])
        if known is None or policy is None:
            return None
        host, old = placement.effective(known.capability, policy), self.hosts.requirement(row["requirement"])
        if message.kind == "oom_gpu":
            return replace(old, over_vram_gib=max(old.over_vram_gib, host.vram_gib))
        return replace(old, over_ram_gib=max(old.over_ram_gib, host.ram_gib))

    # ---- endings without a result

    def _lapse(self, tx: Transaction, lease_id: str, why: str, granted_at: float) -> None:
        """End a lease that nobody renewed; one that is over already stays as it is.

        Its host waits as if it had given the job back, whatever that cost the job: a lease that ran out can be taken
        back for nothing and be left to run out again.
        """
        row = tx.one("lease", lease_id=lease_id)
        if row is None or not _live(row):
            return
        lost = row["status"] == "claimed"
        refunded = lost and row["refunds"] < self.terms.refunds
        left = row["max_attempts"] - row["attempts_used"] + refunded
        to = "cancelled" if row["cancel_requested"] else "pending" if left > 0 else "failed"
        outcome, away_s = "lost_claim" if lost else "expired", min(self.terms.backoff_s, GIVEN_BACK_S)
        ending = Ending(to, outcome, "expire", RECEIVER, why, given_back=refunded, refunded=refunded)
        self._settle(tx, row, replace(ending, away_s=away_s, away_from=granted_at))

    def _take_back(self, tx: Transaction, lease_id: str, actor: str, why: str) -> None:
        """End a live lease of a worker that may work no more; the attempt costs the job nothing."""
        row = tx.one("lease", lease_id=lease_id)
        assert row is not None
        if row["cancel_requested"]:
            self._settle(tx, row, Ending("cancelled", "cancelled", "cancel", actor, why))
        else:
            self._settle(tx, row, Ending("pending", "released", "release", actor, why, given_back=True))

    def _settle(self, tx: Transaction, row: Row, ending: Ending) -> None:
        """Take the lease from a job and write down everything about it."""
        seq, before = row["seq"], row["status"]
        self._record(tx, seq, ending.actor, ending.action, before, ending.to, ending.why)
        event = tx.all("newest_event")[0]["id"]
        needs = ending.requirement or self.hosts.requirement(row["requirement"])
        number = self._requirement_id(tx, needs)
        delayed = ending.delay_s > 0
        changed = tx.run(
            "settle",
            seq=seq,
            lease_id=row["own_lease"],
            status=ending.to,
            ready=0 if delayed else 1,
            tick=self.tick(),
            given_back=int(ending.given_back),
            refunded=int(ending.refunded),
            failure=row["failure"] if ending.outcome in ("released", "cancelled") else event,
            requirement=number,
            over_vram_gib=needs.over_vram_gib,
            over_ram_gib=needs.over_ram_gib,
            at=self._now(),
        )
        assert changed == 1
        self._end_attempt(tx, row, ending.outcome, ending.report, refunded=ending.refunded)
        self._keep_apart(tx, row, ending)
        self._moved(tx, before, ending.to, number if ending.to == "pending" and not delayed else None)
        self._forget_lease(tx, row)
        if delayed:
            self._delay(tx, seq, ending.delay_s)

    def _end_attempt(
        self, tx: Transaction, row: Row, outcome: str, report: wire.Fail | None = None, *, refunded: bool = False
    ) -> None:
        tx.run(
            "end_attempt",
            job=row["seq"],
            fence=row["attempt_fence"],
            at=self._now(),
            outcome=outcome,
            refunded=int(refunded),
            kind=None if report is None else report.kind,
            exit_status=None if report is None else report.exit_status,
            error_id=_error_id(tx, "" if report is None else report.error),
        )

    def _forget_lease(self, tx: Transaction, row: Row) -> None:
        seq, lease_id = row["seq"], row["own_lease"]

        def follow() -> None:
            self.leases.drop(lease_id)
            self._delayed.pop(seq, None)

        tx.after_commit(follow)
        if row["worker"] in self._full:
            self._free_slot(tx, row["worker"])

    def _free_slot(self, tx: Transaction, worker: str) -> None:
        """Let a worker look again whose claim found all its slots taken."""
        self._full.discard(worker)
        tx.after_rollback(lambda: self._full.add(worker))
        number = self._first_for(tx, worker)
        if number is not None:
            tx.after_commit(lambda: self._on_ready({number: 1}))

    def _delay(self, tx: Transaction, seq: int, delay_s: float) -> None:
        ready_at = self._clock() + delay_s

        def follow() -> None:
            self._delayed[seq] = ready_at

        tx.after_commit(follow)

    # ---- the operator

    def cancel(self, tx: Transaction, job_id: str, actor: str) -> wire.State:
        """End a waiting job, or ask the worker that holds it to stop. Safe to repeat.

        Args:
            tx: The change.
            job_id: The job.
            actor: Who asks, "operator:NAME".

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The job is over already.
        """
        row = self._job_state(tx, job_id)
        status = row["status"]
        if status in ("completed", "failed"):
            raise ConflictError(f"the job {job_id} is {status} already", expected="a job that waits or runs")
        if status == "pending":
            tx.run("cancel", seq=row["seq"], at=self._now())
            self._record(tx, row["seq"], actor, "cancel", "pending", "cancelled")
            self._moved(tx, "pending", "cancelled")
        elif status in _LIVE and not row["cancel_requested"]:
            self._request_cancel(tx, row, actor)
        return state_of(self._job_state(tx, job_id))

    def _request_cancel(self, tx: Transaction, row: Row, actor: str) -> None:
        seq, status = row["seq"], row["status"]
        tx.run("request_cancel", seq=seq, at=self._now())
        self._record(tx, seq, actor, "cancel", status, status, "asked; the worker will stop the trainer and confirm")
        self._moved(tx, status, status)
        lease_id = row["lease_id"]
        tx.after_commit(lambda: self.leases.ask_to_stop(lease_id))

    def requeue(self, tx: Transaction, job_id: str, actor: str) -> wire.State:
        """Give a failed or cancelled job a new budget, on every host at once. On a job that waits it changes nothing.

        Args:
            tx: The change.
            job_id: The job.
            actor: Who asks, "operator:NAME".

        Raises:
            NotFoundError: There is no such job.
            ConflictError: A worker holds the job, or it is completed.
        """
        row = self._job_state(tx, job_id)
        status = row["status"]
        if status == "pending":
            return state_of(row)
        if status not in ("failed", "cancelled"):
            raise ConflictError(f"the job {job_id} is {status}", expected="a failed or cancelled job")
        needs = replace(self.hosts.requirement(row["requirement"]), over_vram_gib=0, over_ram_gib=0)
        number = self._requirement_id(tx, needs)
        tx.run("requeue", seq=row["seq"], requirement=number, tick=self.tick(), at=self._now())
        self._record(tx, row["seq"], actor, "requeue", status, "pending")
        seq = row["seq"]
        tx.after_commit(lambda: self._apart.forget(lambda key: key[1] == seq))
        self._moved(tx, status, "pending", number)
        return state_of(self._job_state(tx, job_id))

    # ---- artifacts

    def lease_for_upload(self, tx: Transaction, lease_id: str, sha256: str) -> tuple[str, str, str]:
        """Return job id, model and mode of the lease an artifact is uploaded under.

        A lease that has completed its job has a right to the artifact it completed it with, and to no other.

        Raises:
            StaleLeaseError: The lease is over, or there never was one.
            OtherResultError: It completed the job with another artifact.
        """
        row = tx.one("lease", lease_id=lease_id)
        if row is None:
            raise StaleLeaseError("no such lease", "stop the trainer and claim again")
        if row["outcome"] == "completed":
            _demand_result(row, sha256)
        elif not (_live(row) or _adoptable(row)):
            raise _stale(row)
        return row["id"], row["model"], row["mode"]

    def artifact_bytes(self, tx: Transaction, sha256: str, model: str, mode: str) -> int | None:
        """Return the length of an artifact as its row says, None without a row."""
        rows = tx.all("artifact_rows", sha256=sha256)
        return next((row["size_bytes"] for row in rows if (row["model"], row["mode"]) == (model, mode)), None)

    def add_artifact(self, tx: Transaction, sha256: str, size_bytes: int, model: str, mode: str) -> bool:
        """Note an artifact whose file is durable; True when it is new."""
        new = tx.run("add_artifact", sha256=sha256, size_bytes=size_bytes, model=model, mode=mode, at=self._now()) == 1
        if new:

            def follow() -> None:
                if self._totals is not None:
                    self._totals[0] += 1
                    self._totals[1] += size_bytes

            tx.after_commit(follow)
        return new

    # ---- shared

    def _lease(self, tx: Transaction, job_id: str, lease_id: str) -> Row:
        """Return a lease with its job.

        Raises:
            NotFoundError: There is no such job.
            StaleLeaseError: The lease is not one of this job.
        """
        row = tx.one("lease", lease_id=lease_id)
        if row is None or row["id"] != job_id:
            self._job_state(tx, job_id)
            raise StaleLeaseError(f"the job {job_id} has no such lease", "stop the trainer and claim again")
        return row


def _error_id(tx: Transaction, text: str) -> int | None:
    """Return the number of the row that keeps the words of a failure, None without words."""
    if not text:
        return None
    row = tx.one("keep_error", text=text)
    assert row is not None
    number: int = row["id"]
    return number


def _live(row: Row) -> bool:
    """Say whether a lease is the one its job has now."""
    return bool(row["lease_id"] == row["own_lease"])


def _adoptable(row: Row) -> bool:
    """Say whether a lease ran out and nobody else has begun since; that the budget was used up changes nothing."""
    if row["status"] not in ("pending", "failed"):
        return False
    return bool(row["attempt_fence"] == row["fence"] and row["outcome"] in _RAN_OUT)


def _stale(row: Row) -> StaleLeaseError:
    return StaleLeaseError(
        f"the lease of job {row['id']} is over ({row['outcome']} at {row['ended_at']}), the job is {row['status']}",
        "stop the trainer: nothing is accepted under this lease",
    )


def _demand_result(row: Row, sha256: str) -> None:
    if row["artifact"] != sha256:
        raise OtherResultError(
            f"the job {row['id']} is completed with the artifact {row['artifact']}; {sha256} is not accepted"
        )


def _same_result(row: Row, message: wire.Complete) -> wire.State:
    _demand_result(row, message.artifact)
    return state_of(row)
