"""The queue as its callers see it.

Owns nothing but the parts and their order at the start. Each method is one step down into the part that does the work;
what it promises stands here.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Set

from training.fleet.database import Transaction
from training.fleet.database.queries import HOSTS_MET, LEASE, LIVE_LEASES, REQUIREMENTS
from training.fleet.model.artifact import ArtifactKey
from training.fleet.model.jobs import Terms
from training.fleet.queue.artifacts import Artifacts
from training.fleet.queue.attempt import Attempts
from training.fleet.queue.claim import Claims
from training.fleet.queue.clock import wall_label
from training.fleet.queue.endings import Ended
from training.fleet.queue.events import History
from training.fleet.queue.identities import Identities
from training.fleet.queue.in_force import InForce
from training.fleet.queue.load import Load
from training.fleet.queue.losses import Losses
from training.fleet.queue.memory import Memory
from training.fleet.queue.operator import OperatorChanges
from training.fleet.queue.pruning import Pruning
from training.fleet.queue.settling import Settling
from training.fleet.queue.stored import capability_from, requirement_from
from training.fleet.queue.sweep import Sweeper
from training.fleet.queue.tally import Ready
from training.fleet.queue.views import Filters, JobViews
from training.fleet.queue.waiting import Waiting
from training.fleet.queue.why import Reasons
from training.fleet.queue.workers import WorkerViews
from training.fleet.wire.names import KnownNames
from training.fleet.wire.people import JobDetail, JobPage, Plan, RecentFailure, Why, WorkerPage
from training.fleet.wire.worker import Beat, Claim, Complete, Fail, Heartbeat, JobState, Lease, OwnView


class Queue:
    """The queue. Run `start` once before anything else.

    Methods that take a transaction run on the writer thread; the others are safe from any thread.

    Args:
        clock: Monotonic seconds.
        terms: The time limits of leases.
        now: A label of the wall time for people.
        jitter: A number from 0 to 1 for each back-off.

    Attributes:
        terms: The time limits of leases.
        history: The events, and pages of them.
        artifacts: The rows of stored artifacts.
        pruning: Which results may be pruned, and the change that prunes them.
        identities: Invites, and the identities of enrolled workers.
        load: The steps of a reload; `reload` runs them in their order.
        manifests: The manifests that came in force.
        losses: What hosts could train with before and cannot any more.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        terms: Terms | None = None,
        now: Callable[[], str] = wall_label,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.terms = terms or Terms()
        memory = self._memory = Memory.fresh(clock, self.terms, now, jitter)
        history = self.history = History(memory.clock, memory.tally)
        settling = self._settling = Settling(memory, history)
        self.artifacts = Artifacts(memory.clock)
        self.pruning = Pruning(self.artifacts, history)
        self.identities = Identities(memory.clock, history, settling)
        self.load = Load(memory, history)
        self.manifests = self.load.manifests
        self.losses = Losses(memory)
        self._claims = Claims(memory, history, settling, self.losses)
        self._attempts = Attempts(memory, history, settling)
        self._operator = OperatorChanges(memory, history, self.artifacts)
        self._sweeper = Sweeper(memory, settling)
        self._jobs = JobViews(memory)
        # The registry itself, because lists of hosts are read on the event loop, where no row can be read.
        self._workers = WorkerViews(memory, self.identities.registry)
        self._reasons = Reasons(memory)
        self._waiting = Waiting(memory)

    def start(self, tx: Transaction) -> None:
        """Take up the database after a start: every live lease gets a full fresh term, every back-off is over."""
        memory = self._memory
        memory.clock.start(tx)
        for row in tx.all(REQUIREMENTS):
            memory.hosts.learn(row.id, requirement_from(row.body))
        # Before the hosts: they are judged by the manifest in force.
        self.load.start(tx)
        for host in tx.all(HOSTS_MET):
            capability = capability_from(host.capability)
            memory.hosts.remember(capability)
            self.losses.start(tx, host.name, capability)
        # Back-offs live in memory and end with the receiver that kept them.
        tx.run("make_all_ready")
        for lease in tx.all(LIVE_LEASES):
            memory.leases.put(
                lease.seq,
                lease.id,
                lease.lease_id,
                lease.host,
                running=lease.status == "running",
                cancel=bool(lease.cancel_requested),
            )
        # Last, so that everything that the start itself changed is counted.
        memory.tally.start(tx)
        self.identities.start(tx)

    # ---- what is known at any time

    def on_ready(self, callback: Callable[[Ready], None]) -> None:
        """Call back on the writer thread, after each commit, with requirement id to number of newly claimable jobs."""
        self._memory.tally.on_ready(callback)

    def on_ended(self, callback: Callable[[Ended], None]) -> None:
        """Call back on the writer thread, after its commit, with each attempt that ended."""
        self._settling.on_ended(callback)

    def counts(self) -> dict[str, int]:
        """Return the number of jobs by status; all six are there."""
        return self._memory.tally.counts()

    @property
    def revision(self) -> int:
        """Another number after every change that a list can show, progress included; starts anywhere."""
        return self._memory.tally.revision

    def plan_of_no_change(self) -> Plan | None:
        """Return the plan of applying the manifest in force again, None when its jobs must be compared all the same."""
        return self.load.plan_of_no_change()

    @property
    def in_force(self) -> InForce:
        """The manifest in force, its jobs aside."""
        return self._memory.hosts.in_force

    def eligible(self, requirement_id: int, worker: str) -> bool:
        """Return True if a worker would be given a job with this requirement now; for waking parked claims."""
        return self._memory.hosts.eligible(requirement_id, worker)

    def live_holder(self, lease_id: str) -> str | None:
        """Return the worker that holds a live lease, None when it is not live or was granted in this moment."""
        lease = self._memory.leases.get(lease_id)
        return None if lease is None else lease.worker

    # ---- workers

    def claim(self, tx: Transaction, message: Claim, *, vouched: bool = False) -> Lease | None:
        """Give the best job the caller can run.

        One statement decides, so two callers never get the same job. A repeated `claim_id` gets the same lease
        again. Leases the queue believes the process holds and the process does not list are ended, but not while the
        worker is held back: it could end and take back one lease without end otherwise. Leases of other processes
        under the same name go on, unless nobody else can live there: the caller names no process, or it is vouched
        for and the manifest gives its name one session.

        Args:
            tx: The change.
            message: What the worker says.
            vouched: No more processes work under the name than the manifest's `sessions`; somebody made sure of it.

        Returns:
            The lease, or None when nothing is there for this worker, all its slots are taken, or it is held back.

        Raises:
            HostRefusedError: The manifest does not admit the host.
            ConflictError: The `claim_id` was answered before and that lease is over.
        """
        return self._claims.claim(tx, message, vouched=vouched)

    def suspects(self) -> dict[str, int]:
        """Return the hosts that fail everything they are given, and how many jobs. Safe from any thread."""
        suspects = self._memory.waits.suspects
        return {name: suspects.jobs_failed(name) for name in suspects.names()}

    def sessions_of(self, worker: str) -> int:
        """Return how many processes may work under a name at once, as the manifest in force says."""
        policy = self._memory.hosts.policy(worker)
        return 1 if policy is None else policy.sessions

    def claimable(self, tx: Transaction, requirement_id: int) -> int:
        """Return how many jobs with a requirement can be claimed now, at most 64; for waking parked claims."""
        return self._sweeper.claimable(tx, requirement_id)

    def beat(self, job_id: str, message: Heartbeat) -> Beat | None:
        """Renew a running lease without the database; None when `heartbeat` has to decide."""
        return self._attempts.beat(job_id, message)

    def heartbeat(self, tx: Transaction, job_id: str, message: Heartbeat) -> Beat:
        """Renew a lease: acknowledge it on the first beat, adopt it when it ran out and nobody else has begun.

        Raises:
            NotFoundError: There is no such job.
            StaleLeaseError: The lease is over; its trainer must stop.
        """
        return self._attempts.heartbeat(tx, job_id, message)

    def complete(self, tx: Transaction, job_id: str, message: Complete) -> JobState:
        """Accept the result of a job, once; the same lease with the same artifact gets the same answer for ever.

        Raises:
            NotFoundError: There is no such job.
            StaleLeaseError: The lease is over.
            OtherResultError: This lease completed the job with another artifact.
            ArtifactMissingError: The artifact is not stored.
        """
        return self._attempts.complete(tx, job_id, message)

    def fail(self, tx: Transaction, job_id: str, message: Fail) -> JobState:
        """End an attempt without a result; the job goes back, fails for good, or is cancelled if that was asked.

        The same report twice has one effect and gets the job's present state.

        Raises:
            NotFoundError: There is no such job.
            StaleLeaseError: The lease is over.
        """
        return self._attempts.fail(tx, job_id, message)

    def holder(self, tx: Transaction, lease_id: str) -> str | None:
        """Return the worker a lease was given to, live or over; None when there never was one."""
        row = tx.one(LEASE, lease_id=lease_id)
        return None if row is None else row.worker

    def job_of(self, tx: Transaction, lease_id: str) -> str | None:
        """Return the job of a lease, live or over; None when there never was one."""
        row = tx.one(LEASE, lease_id=lease_id)
        return None if row is None else row.id

    # ---- operators

    def cancel(self, tx: Transaction, job_id: str, actor: str, expected: Set[str] = frozenset()) -> JobState:
        """End a waiting job, or ask the worker that holds it to stop. Safe to repeat.

        Args:
            tx: The change.
            job_id: The job.
            actor: Who asks, "operator:NAME".
            expected: Statuses of which the job must have one; empty expects nothing.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The job is over already, or has another status than expected.
        """
        return self._operator.cancel(tx, job_id, actor, expected)

    def result_of(self, tx: Transaction, job_id: str) -> ArtifactKey | None:
        """Return the artifact of a completed job, None for one that is pruned and for other jobs.

        Raises:
            NotFoundError: There is no such job.
        """
        return self._operator.result_of(tx, job_id)

    def requeue(
        self, tx: Transaction, job_id: str, actor: str, expected: Set[str] = frozenset(), lost: str = ""
    ) -> JobState:
        """Give a failed or cancelled job a new budget, on every host at once; offer a withdrawn one again.

        On any other job that waits it changes nothing.

        Args:
            tx: The change.
            job_id: The job.
            actor: Who asks, "operator:NAME".
            expected: Statuses of which the job must have one; empty expects nothing.
            lost: What is wrong with the file of its artifact, for people; a completed job is trained again only then.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: A worker holds the job, its result is here or pruned, or it has another status than expected.
        """
        return self._operator.requeue(tx, job_id, actor, expected, lost)

    # ---- time

    def sweep(self, tx: Transaction) -> None:
        """End the leases, back-offs and waits that are over. Meant to run at `next_deadline` or sooner."""
        self._sweeper.sweep(tx)

    def next_deadline(self) -> float | None:
        """Return when `sweep` is needed next, monotonic seconds; None while nothing waits for time to pass."""
        return self._sweeper.next_deadline()

    @property
    def longest_sleep_s(self) -> float:
        """Longest sleep between two sweeps: the shortest deadline that can start while it sleeps."""
        return self._sweeper.longest_sleep_s

    # ---- what people see

    def jobs(
        self, tx: Transaction, filters: Filters | None = None, cursor: str | None = None, limit: int = 100
    ) -> JobPage:
        """Return one page of jobs, see `JobViews.jobs`."""
        return self._jobs.jobs(tx, filters, cursor, limit)

    def job(self, tx: Transaction, job_id: str) -> JobDetail:
        """Return everything about one job, of its history the newest part.

        Raises:
            NotFoundError: There is no such job.
        """
        return self._jobs.job(tx, job_id)

    def withdrawn(self, tx: Transaction) -> int:
        """Return how many pending jobs nobody is offered, because the manifest no longer names them."""
        return self._jobs.withdrawn(tx)

    def recent_failures(self, tx: Transaction, limit: int = 10) -> list[RecentFailure]:
        """Return the newest bad ends of jobs that are not completed since, newest first."""
        return self._jobs.recent_failures(tx, limit)

    def stranded(self, tx: Transaction) -> int:
        """Return how many pending jobs no known host can run; counting stops at 1,000."""
        return self._waiting.stranded(tx)

    def names(self, tx: Transaction) -> KnownNames:
        """Return what the filters of lists can name."""
        return self._workers.names(tx)

    def why(self, tx: Transaction, job_id: str) -> Why:
        """Say for every known host whether it could run a job, and what would let it.

        Raises:
            NotFoundError: There is no such job.
        """
        return self._reasons.why(tx, job_id)

    def workers(self, cursor: str | None = None, limit: int = 100) -> WorkerPage:
        """Return one page of hosts by name: those that called and those the manifest names."""
        return self._workers.page(cursor, limit)

    def worker_counts(self) -> dict[str, int]:
        """Return the number of hosts by state: working, idle, away."""
        return self._workers.counts()

    def last_seen(self, limit: int) -> dict[str, float]:
        """Return seconds since hosts were heard, by name, see `WorkerViews.last_seen`."""
        return self._workers.last_seen(limit)

    def own(self, tx: Transaction, name: str, version: str) -> OwnView:
        """Return what a worker may know of itself, see `WorkerViews.own`."""
        return self._workers.own(tx, name, version)
