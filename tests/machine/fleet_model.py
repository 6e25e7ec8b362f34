"""A small model of the queue, written from the table of states and not from the code.

It predicts what every request must answer and where every job must stand afterwards. It does not choose jobs: it
checks that the one the queue chose was allowed, and that nothing was kept from a worker that could have had it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from training.fleet.model import placement
from training.fleet.model.capability import Capability
from training.fleet.model.jobs import Limits, Policy, Requirement, Terms

SWEEP_S = 5.0
GIVEN_BACK_S = 2.0
FREE_ENDS = 8
MOST_ENDS = FREE_ENDS + 16
BLAMED = {"trainer_error", "no_artifact", "timeout", "stalled"}


@dataclass
class Attempt:
    job: str
    fence: int
    worker: str
    claim_id: str
    outcome: str | None = None
    refunded: bool = False
    kind: str | None = None


@dataclass
class Job:
    requirement: Requirement
    limits: Limits
    position: int
    status: str = "pending"
    named: bool = True
    withdrawn: bool = False
    fence: int = 0
    used: int = 0
    refunds: int = 0
    lease: str | None = None
    cancel: bool = False
    artifact: str | None = None
    ready_at: float = 0.0
    epoch: int = 0


@dataclass
class Ends:
    """Attempts of a host without a result, one less for each `backoff_cap_s`, and until when it gets no job."""

    level: float = 0.0
    at: float = 0.0
    until: float = 0.0


@dataclass
class Contact:
    """When a live lease was last answered, and for how long nobody watched since."""

    at: float
    term: float
    unwatched: float = 0.0

    def over(self, now: float) -> bool:
        return now >= self.at + self.term + self.unwatched


@dataclass
class Model:
    terms: Terms
    now: float = 1000.0
    swept_at: float = 1000.0
    readied_at: float = 1000.0
    jobs: dict[str, Job] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    contacts: dict[str, Contact] = field(default_factory=dict)
    avoided: dict[tuple[str, str], float] = field(default_factory=dict)
    ends: dict[str, Ends] = field(default_factory=dict)
    granted: dict[str, float] = field(default_factory=dict)
    policies: dict[str, Policy] = field(default_factory=dict)
    broke: dict[str, dict[str, int]] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    probed: dict[str, Ends] = field(default_factory=dict)

    # ---- looking

    def live(self, lease: str) -> bool:
        return self.jobs[self.attempts[lease].job].lease == lease

    def adoptable(self, lease: str) -> bool:
        attempt = self.attempts[lease]
        job = self.jobs[attempt.job]
        waits = job.status in ("pending", "failed")
        return waits and attempt.fence == job.fence and attempt.outcome in ("expired", "lost_claim")

    def held_by(self, worker: str) -> list[str]:
        return [lease for lease, attempt in self.attempts.items() if attempt.worker == worker and self.live(lease)]

    def held_back(self, worker: str) -> bool:
        return any(worker in ends and ends[worker].until > self.now for ends in (self.ends, self.probed))

    def could_have(self, worker: Capability) -> list[str]:
        """Jobs that must not be kept from a worker; those that wait for CUDA are left out."""
        policy = self.policies[worker.hostname]
        return [
            job_id
            for job_id, job in self.jobs.items()
            if self.may_have(worker, job_id)
            and job.ready_at <= self.readied_at
            and self.avoided.get((worker.hostname, job_id), 0.0) <= self.now
            and (not job.requirement.prefer_cuda or placement.effective(worker, policy).cuda_usable)
        ]

    def may_have(self, worker: Capability, job_id: str) -> bool:
        job = self.jobs[job_id]
        eligible = placement.judge(job.requirement, worker, self.policies[worker.hostname]).eligible
        return job.status == "pending" and not job.withdrawn and eligible and job.ready_at <= self.now

    def could_ever(self, worker: Capability, job_id: str) -> bool:
        """Whether a worker may have a job once back-offs and waits are over."""
        if self.jobs[job_id].withdrawn:
            return False
        return placement.judge(self.jobs[job_id].requirement, worker, self.policies[worker.hostname]).eligible

    def order(self, worker: Capability, job_id: str) -> tuple[int, int, int]:
        job = self.jobs[job_id]
        offer = placement.effective(worker, self.policies[worker.hostname])
        return (-job.limits.priority, placement.rank(job.requirement, offer), job.position)

    # ---- changes

    def grants(self, worker: str, claim_id: str, job_id: str, lease: str) -> None:
        job = self.jobs[job_id]
        job.status, job.lease, job.fence, job.used = "claimed", lease, job.fence + 1, job.used + 1
        self.attempts[lease] = Attempt(job_id, job.fence, worker, claim_id)
        self.contacts[lease] = Contact(self.now, self.terms.ack_s)
        self.granted[lease] = self.now

    def heard(self, lease: str) -> None:
        """A heartbeat of a live or adoptable lease."""
        attempt = self.attempts[lease]
        job = self.jobs[attempt.job]
        if job.lease != lease:
            self._take_back(lease)
            job.lease = lease
            self.granted[lease] = self.now
        job.status = "running"
        self.contacts[lease] = Contact(self.now, self.terms.lease_s)

    def _take_back(self, lease: str) -> None:
        attempt = self.attempts[lease]
        job = self.jobs[attempt.job]
        job.used = min(job.limits.max_attempts, job.used + attempt.refunded)
        job.refunds -= attempt.refunded
        attempt.refunded, attempt.outcome, job.ready_at = False, None, 0.0

    def completed(self, lease: str, artifact: str) -> None:
        self._take_back(lease)
        attempt = self.attempts[lease]
        job = self.jobs[attempt.job]
        attempt.outcome = "completed"
        job.status, job.artifact, job.cancel, job.lease = "completed", artifact, False, None
        self._works(attempt.worker)
        self.contacts.pop(lease, None)

    def failed(self, lease: str, kind: str, host: Capability, *, may_others: bool = True) -> None:
        """A report without a result; `may_others` is whether other hosts that are heard could run the job."""
        attempt = self.attempts[lease]
        job = self.jobs[attempt.job]
        if job.cancel:
            return self._end(lease, "cancelled", "cancelled")
        if kind == "preempted":
            job.used -= 1
            self._keep_apart(lease, self.granted[lease])
            return self._end(lease, "pending", "released")
        if kind in ("host_fault", "disk_full"):
            job.used -= 1
            self._keep_apart(lease, self.now)
            return self._end(lease, "pending", "failed")
        if kind == "spec_rejected":
            return self._rejected(lease, may_others=may_others)
        if kind in BLAMED and self._breaks(attempt.worker, attempt.job, may_others=may_others) and may_others:
            job.used -= 1
            self._keep_apart(lease, self.now)
            return self._end(lease, "pending", "failed")
        offer = placement.effective(host, self.policies[attempt.worker])
        needs = job.requirement
        if kind == "oom_gpu":
            job.requirement = replace(needs, over_vram_gib=max(needs.over_vram_gib, offer.vram_gib))
        if kind == "oom_ram":
            job.requirement = replace(needs, over_ram_gib=max(needs.over_ram_gib, offer.ram_gib))
        if job.used >= job.limits.max_attempts:
            return self._end(lease, "failed", "failed")
        if may_others:
            self.avoided[attempt.worker, attempt.job] = self.now + self.terms.backoff_cap_s
        self._end(lease, "pending", "failed")
        full = min(self.terms.backoff_cap_s, self.terms.backoff_s * 2 ** (job.used - 1))
        job.ready_at = self.now + full
        return None

    def _rejected(self, lease: str, *, may_others: bool) -> None:
        attempt = self.attempts[lease]
        job = self.jobs[attempt.job]
        said = [other.worker for other in self._since_requeue(attempt.job) if other.kind == "spec_rejected"]
        attempt.kind = "spec_rejected"
        alone = said.count(attempt.worker) + 1 >= job.limits.max_attempts
        if set(said) - {attempt.worker} or (alone and not may_others):
            return self._end(lease, "failed", "failed")
        job.used -= 1
        self._keep_apart(lease, self.now)
        return self._end(lease, "pending", "failed")

    def _breaks(self, worker: str, job_id: str, *, may_others: bool) -> bool:
        """A job broke on a host; return whether the host is a suspect by now."""
        mine = self.broke.setdefault(worker, {})
        mine[job_id] = mine.get(job_id, 0) + 1
        own = self._own_breaks(worker)
        breaks = len(own) >= 2 and sum(own.values()) >= 3 if may_others else len(own) >= 12
        if breaks:
            self.suspects.add(worker)
            self._lengthen(self.probed.setdefault(worker, Ends(until=self.now)), self.now, free=0)
        self._acquit()
        return breaks

    def _own_breaks(self, worker: str) -> dict[str, int]:
        others = {job for name, jobs in self.broke.items() if name != worker for job in jobs}
        return {job: times for job, times in self.broke.get(worker, {}).items() if job not in others}

    def _acquit(self) -> None:
        self.suspects = {worker for worker in self.suspects if len(self._own_breaks(worker)) >= 2}

    def _works(self, worker: str) -> None:
        gone = self.broke.pop(worker, {})
        for jobs in self.broke.values():
            for job in gone:
                jobs.pop(job, None)
        self.suspects.discard(worker)
        self.ends.pop(worker, None)
        self.probed.pop(worker, None)
        self._acquit()

    def _since_requeue(self, job_id: str) -> list[Attempt]:
        epoch = self.jobs[job_id].epoch
        return [other for other in self.attempts.values() if other.job == job_id and other.fence > epoch]

    def _keep_apart(self, lease: str, since: float) -> None:
        """The host waits for this job, and for any once it does so again and again."""
        attempt = self.attempts[lease]
        # The model only knows the longest delay for one job.
        self.avoided[attempt.worker, attempt.job] = self.now + self.terms.backoff_cap_s
        self._lengthen(self.ends.setdefault(attempt.worker, Ends(until=since)), since, free=FREE_ENDS)

    def _lengthen(self, ends: Ends, since: float, *, free: int) -> None:
        left = max(0.0, ends.level - (self.now - ends.at) / self.terms.backoff_cap_s)
        ends.level, ends.at = min(MOST_ENDS - FREE_ENDS + free, left + 1.0), self.now
        beyond = round(ends.level) - free
        if beyond > 0:
            pause = min(self.terms.backoff_cap_s, self.terms.backoff_s * 2 ** (beyond - 1))
            ends.until = max(ends.until, since + pause)

    def lapse(self, lease: str) -> None:
        """A lease ends because nobody renewed it, or because its worker denies it."""
        attempt = self.attempts[lease]
        job = self.jobs[attempt.job]
        if job.status == "claimed":
            attempt.refunded = job.refunds < self.terms.refunds
            job.used -= attempt.refunded
            job.refunds += attempt.refunded
            outcome = "lost_claim"
        else:
            outcome = "expired"
        self._keep_apart(lease, self.granted[lease])
        to = "cancelled" if job.cancel else "pending" if job.used < job.limits.max_attempts else "failed"
        self._end(lease, to, outcome)

    def _end(self, lease: str, to: str, outcome: str) -> None:
        attempt = self.attempts[lease]
        job = self.jobs[attempt.job]
        attempt.outcome, job.status, job.lease, job.cancel = outcome, to, None, False
        self.contacts.pop(lease, None)

    def requeued(self, job_id: str) -> None:
        job = self.jobs[job_id]
        job.status, job.fence, job.used, job.refunds, job.ready_at = "pending", job.fence + 1, 0, 0, 0.0
        job.requirement = replace(job.requirement, over_vram_gib=0, over_ram_gib=0)
        job.epoch, job.withdrawn = job.fence, False
        self.avoided = {key: until for key, until in self.avoided.items() if key[1] != job_id}

    def watch(self) -> list[str]:
        """The sweeper looks, however late it comes; return the leases that ran out."""
        watched_until = self.swept_at + SWEEP_S
        for contact in self.contacts.values():
            contact.unwatched += max(0.0, self.now - max(watched_until, contact.at))
        self.swept_at = self.now
        return [lease for lease, contact in self.contacts.items() if contact.over(self.now)]

    def swept(self) -> None:
        for lease in self.watch():
            self.lapse(lease)
        self.readied_at = self.now

    def fresh(self, lease: str) -> None:
        running = self.jobs[self.attempts[lease].job].status == "running"
        self.contacts[lease] = Contact(self.now, self.terms.lease_s if running else self.terms.ack_s)

    def restarted(self) -> None:
        self.swept_at = self.readied_at = self.now
        self.avoided.clear()
        for gone in (self.ends, self.probed, self.broke, self.suspects):
            gone.clear()  # type: ignore[attr-defined]
        self.granted = dict.fromkeys(self.contacts, self.now)
        for job in self.jobs.values():
            job.ready_at = 0.0
        for lease in list(self.contacts):
            self.fresh(lease)

    def reloaded(self, wanted: dict[str, tuple[Requirement, Limits]], *, keep: bool = False) -> None:
        for position, (job_id, (requirement, limits)) in enumerate(wanted.items()):
            job = self.jobs.get(job_id)
            if job is None:
                self.jobs[job_id] = Job(requirement, limits, position)
                continue
            old = job.requirement
            job.requirement = replace(requirement, over_vram_gib=old.over_vram_gib, over_ram_gib=old.over_ram_gib)
            job.limits, job.position, job.named = limits, position, True
            job.used = min(job.used, limits.max_attempts)
            if job.status == "pending" and job.used >= limits.max_attempts:
                job.status = "failed"
        for job_id, job in self.jobs.items():
            if job_id in wanted:
                job.named, job.withdrawn = True, False
            elif job.named:
                job.named, job.withdrawn = False, not keep
        self.avoided.clear()
        self.ends.clear()
        self.probed.clear()
