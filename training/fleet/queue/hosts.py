"""The hosts the queue knows, and which requirements each of them can meet.

Owns the workers that called, the manifest's word on hosts, and the distinct requirements. Guarantees that every
judgement comes from `placement`; what is kept here only saves asking twice. Everything is called on the writer thread,
save `seen`, `eligible` and the reading properties, which are safe from any thread.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from training.fleet.database import Transaction
from training.fleet.database.queries import ADD_REQUIREMENT
from training.fleet.model import placement
from training.fleet.model.capability import GIB, Capability, Gpu, with_cards_in_use
from training.fleet.model.jobs import Policy, Requirement, Terms, requirement_digest
from training.fleet.queue.in_force import DEFAULT_HOST, InForce
from training.fleet.queue.stored import requirement_json


@dataclass(slots=True)
class Offer:
    """Which requirements a host can meet, in the form the claim statement takes: JSON objects of rank by number.

    Attributes:
        free: Those whose jobs are given at once.
        waiting: Those whose jobs first wait for a host with CUDA.
    """

    free: str
    waiting: str


@dataclass(slots=True)
class Known:
    """One worker that called.

    Attributes:
        capability: What it said last.
        kind: The part of it that placement looks at.
        seen_at: When it was last heard, monotonic seconds; None when not since the receiver started.
        ranks: Requirement id to rank, for those it can meet.
        judged: How many requirements `ranks` has taken in.
        offer: `ranks` for the claim statement, None when it must be made again.
        slots: How many jobs it runs at once by its own settings, None when it did not say.
        in_use: Cards that trainings of the fleet run on, as of its last claim.
    """

    capability: Capability
    kind: tuple[Any, ...]
    seen_at: float | None
    ranks: dict[int, int] = field(default_factory=dict)
    judged: int = 0
    offer: Offer | None = None
    slots: int | None = None
    in_use: frozenset[str] = frozenset()

    @property
    def offered(self) -> Capability:
        """What it said last, with the cards marked that are in use."""
        return with_cards_in_use(self.capability, self.in_use)


class Hosts:
    """Workers, policies and requirements.

    Args:
        clock: Monotonic seconds.
        terms: Time limits; a worker is away when it was not heard for a lease term.

    Attributes:
        in_force: The manifest in force.
        overdue: Requirements that prefer CUDA and whose best job waited for it long enough, each with that job.
        generation: Another number whenever placement may judge a host differently than before.
    """

    def __init__(self, clock: Callable[[], float], terms: Terms) -> None:
        self._clock = clock
        self._terms = terms
        self._known: dict[str, Known] = {}
        self._requirements: dict[int, Requirement] = {}
        self._ids: dict[Requirement, int] = {}
        self._live_cuda: dict[str, tuple[Capability, Policy]] = {}
        self._news = False
        self._lock = threading.RLock()
        self.in_force = InForce()
        self.generation = 0
        self.overdue: Mapping[int, int] = {}

    # ---- requirements

    def learn(self, requirement_id: int, requirement: Requirement) -> None:
        """Take in a requirement row; every host is judged against it when it next calls."""
        # Behind the others: `judged` counts how many a host was judged against, in this order.
        with self._lock:
            self._requirements[requirement_id] = requirement
            self._ids[requirement] = requirement_id

    def forget(self, requirement_ids: Iterable[int]) -> None:
        """Take requirement rows out again."""
        with self._lock:
            for number in requirement_ids:
                del self._ids[self._requirements.pop(number)]
            self._forget_judgements()

    def requirement_ids(self) -> list[int]:
        """Return the numbers of all requirement rows. Safe from any thread."""
        with self._lock:
            return list(self._requirements)

    def requirement(self, requirement_id: int) -> Requirement:
        """Return a requirement by the number of its row."""
        return self._requirements[requirement_id]

    def requirement_id(self, requirement: Requirement) -> int | None:
        """Return the number of a requirement's row, None when it has none yet."""
        return self._ids.get(requirement)

    def number_of(self, tx: Transaction, requirement: Requirement) -> int:
        """Return the number of a requirement's row, which is made when there is none."""
        known = self.requirement_id(requirement)
        if known is not None:
            return known
        row = tx.one(ADD_REQUIREMENT, digest=requirement_digest(requirement), body=requirement_json(requirement))
        assert row is not None
        number = row.id
        # At once, because another change of this batch may need the same requirement.
        self.learn(number, requirement)
        tx.after_rollback(lambda: self.forget([number]))
        return number

    # ---- the manifest in force

    def bring_in_force(self, in_force: InForce) -> None:
        """Let another manifest be in force."""
        with self._lock:
            self.in_force = in_force
            self._forget_judgements()

    def policy(self, host: str) -> Policy | None:
        """Return what a host may do, None when the manifest does not admit it."""
        return self.in_force.policy(host)

    # ---- workers

    def note_capability(self, capability: Capability) -> bool:
        """Take in what a worker can do; True when placement may judge it differently from now on."""
        known = self._known.get(capability.hostname)
        kind = _kind(capability, frozenset() if known is None else known.in_use)
        # The usual case. Judging a host again takes longer than the rest of the claim.
        if known is not None and known.kind == kind and known.seen_at is not None:
            known.capability, known.seen_at = capability, self._clock()
            return False
        with self._lock:
            self.generation += 1
            in_use = frozenset[str]() if known is None else known.in_use
            self._known[capability.hostname] = Known(capability, kind, self._clock(), in_use=in_use)
            self.find_live_cuda()
        return True

    def note_cards_in_use(self, worker: str, cards: Iterable[str]) -> None:
        """Note which cards of a worker that called have a lease; it is judged again when they are others."""
        known, in_use = self._known[worker], frozenset(cards)
        if known.in_use == in_use:
            return
        with self._lock:
            known.in_use, known.kind = in_use, _kind(known.capability, in_use)
            # What a worker can take depends on the cards that are free, so no judgement of it holds any more.
            known.ranks, known.judged, known.offer = {}, 0, None
            self.find_live_cuda()

    def release_card(self, worker: str, card: str) -> None:
        """Note that a card has a lease no more; should that be rolled back, the next claim finds it again."""
        if (known := self._known.get(worker)) is not None and card in known.in_use:
            self.note_cards_in_use(worker, known.in_use - {card})

    def card_for(self, requirement_id: int, worker: str) -> Gpu | None:
        """Return the card that a job with this requirement gets on a worker that called, None without one."""
        known, policy = self._known[worker], self.policy(worker)
        requirement = self._requirements[requirement_id]
        if policy is None:
            return None
        # With several slots, a job that does not ask for a card would keep it from those that do.
        if policy.slots > 1 and not placement.asks_for_card(requirement):
            return None
        return placement.choose_card(requirement, placement.effective(known.offered, policy))

    def forget_visit(self, worker: str) -> None:
        """Treat the worker's next claim as its first: the change that stored its capability was rolled back."""
        self._known[worker].seen_at = None

    def remember(self, capability: Capability) -> None:
        """Take in a worker that called before the receiver started."""
        self.generation += 1
        self._known[capability.hostname] = Known(capability, _kind(capability, frozenset()), None)

    def silent_unnamed(self) -> list[str]:
        """Return the workers that the manifest does not name and that are silent, those silent longest first."""
        unnamed = {name: known for name, known in self._known.items() if name not in self.in_force.hosts}
        away = [(known.seen_at or 0.0, name) for name, known in unnamed.items() if self.away(known)]
        return [name for _, name in sorted(away)]

    def count_unnamed(self, but: str) -> int:
        """Return how many workers called that the manifest does not name, one of them left out."""
        return sum(name != but and name not in self.in_force.hosts for name in self._known)

    def drop(self, worker: str) -> None:
        """Forget a worker."""
        with self._lock:
            self.generation += 1
            self._known.pop(worker, None)
            self.find_live_cuda()

    def seen(self, worker: str) -> None:
        """Note that a worker was heard."""
        if (known := self._known.get(worker)) is not None:
            known.seen_at = self._clock()

    def known(self, worker: str) -> Known | None:
        """Return a worker that called, None when it never did."""
        return self._known.get(worker)

    def away(self, known: Known) -> bool:
        """Say whether a worker was not heard for a lease term."""
        return known.seen_at is None or self._clock() - known.seen_at > self._terms.lease_s

    def names(self, in_force: InForce | None = None) -> list[str]:
        """Return every host that called or that the manifest names, sorted."""
        named = (in_force or self.in_force).hosts
        return sorted({*self._known, *(host for host in named if host != DEFAULT_HOST)})

    def all(self, in_force: InForce | None = None) -> Iterator[tuple[str, Capability, Policy | None, bool]]:
        """Yield every known host: name, capability, policy, and whether it ever called.

        Args:
            in_force: The manifest whose word counts, None for the one in force.
        """
        word = in_force or self.in_force
        for name in self.names(word):
            policy, known = word.policy(name), self._known.get(name)
            if known is not None:
                yield name, known.offered, policy, True
            else:
                yield name, placement.declared(name, policy or Policy(), word.datasets), policy, False

    def heard_and_able(self, requirement_id: int, but: str) -> list[str]:
        """Return the workers that are heard now and could run a job with this requirement, one of them left out."""
        wanted = self._requirements[requirement_id]
        return [
            name
            for name, known in sorted(self._known.items())
            if name != but
            and not self.away(known)
            and placement.judge(wanted, known.offered, self.policy(name)).eligible
        ]

    def find_live_cuda(self) -> None:
        """Find out which workers with CUDA are heard now; hosts without CUDA leave them what they prefer."""
        with self._lock:
            # A worker that is away fetches nothing, so nobody leaves jobs to it.
            live = {name: self._cuda_offer(known) for name, known in self._known.items() if not self.away(known)}
            live_cuda = {name: offer for name, offer in live.items() if offer is not None}
            # Offers are made again only when the answer is another one: each host would pay for it at its next claim.
            if live_cuda != self._live_cuda:
                self._live_cuda, self._news = live_cuda, True
                for known in self._known.values():
                    known.offer = None

    def take_cuda_news(self) -> bool:
        """Say once whether workers with CUDA have come, gone or changed."""
        news, self._news = self._news, False
        return news

    def preferring_cuda(self) -> list[int]:
        """Return the requirements that hosts without CUDA may have to leave to others now."""
        if not self._live_cuda:
            return []
        return [number for number, requirement in self._requirements.items() if requirement.prefer_cuda]

    def note_overdue(self, overdue: Mapping[int, int]) -> None:
        """Note which jobs waited long enough for a host with CUDA."""
        self.overdue = overdue

    # ---- judgement

    def offer(self, worker: str) -> Offer:
        """Return what a worker that called can be given."""
        with self._lock:
            known = self._known[worker]
            ranks = self._ranks(known)
            if known.offer is None:
                known.offer = self._make_offer(known, ranks)
            return known.offer

    def eligible(self, requirement_id: int, worker: str) -> bool:
        """Say whether a worker that called would be given a job with this requirement now; for waking parked claims."""
        with self._lock:
            known = self._known.get(worker)
            if known is None or self.policy(worker) is None:
                return False
            # The same judgement as at a claim, or a parked worker would be woken for nothing.
            if requirement_id not in self._ranks(known):
                return False
            return requirement_id in self.overdue or not self._leaves_to_cuda(known, requirement_id)

    def _ranks(self, known: Known) -> dict[int, int]:
        policy = self.policy(known.capability.hostname)
        if policy is not None and known.judged < len(self._requirements):
            offered = known.offered
            capability = placement.effective(offered, policy)
            # A copy, because readers on other threads may be looking at the old one.
            found = dict(known.ranks)
            fresh = list(self._requirements.items())[known.judged :]
            for number, requirement in fresh:
                if placement.judge(requirement, offered, policy).eligible:
                    found[number] = placement.rank(requirement, capability)
            known.judged, known.ranks, known.offer = known.judged + len(fresh), found, None
        return known.ranks

    def _make_offer(self, known: Known, ranks: dict[int, int]) -> Offer:
        # Two lists, because jobs of the second are given only once they have waited long enough.
        free: dict[int, int] = {}
        waiting: dict[int, int] = {}
        for number, place in ranks.items():
            (waiting if self._leaves_to_cuda(known, number) else free)[number] = place
        return Offer(json.dumps(free), json.dumps(waiting))

    def _leaves_to_cuda(self, known: Known, requirement_id: int) -> bool:
        requirement = self._requirements[requirement_id]
        policy = self.policy(known.capability.hostname)
        if policy is None or not requirement.prefer_cuda:
            return False
        offer = placement.effective(known.offered, policy)
        return placement.waits_for_cuda(requirement, offer, self._live_cuda.values())

    def _cuda_offer(self, known: Known) -> tuple[Capability, Policy] | None:
        """Return what placement needs of a host with usable CUDA, None for others."""
        policy = self.policy(known.capability.hostname)
        if not known.capability.cuda_usable or policy is None:
            return None
        if not placement.effective(known.capability, policy).cuda_usable:
            return None
        # Without what changes from beat to beat, or every claim would count as news.
        return replace(known.capability, free_disk_bytes=0, gpus=tuple(_steady(known.offered))), policy

    def _forget_judgements(self) -> None:
        self.generation += 1
        for known in self._known.values():
            known.ranks, known.judged, known.offer = {}, 0, None
        self.find_live_cuda()


def _kind(capability: Capability, in_use: frozenset[str]) -> tuple[Any, ...]:
    """Return what placement looks at, so that free disk and the like do not count as another host.

    Nor does the free memory of a card in use, which goes up and down with the training on it.
    """
    return (
        capability.cuda_usable,
        tuple(
            (gpu.uuid, gpu.vram_gib, gpu.usable, None if gpu.uuid in in_use else (gpu.free_gib, gpu.busy))
            for gpu in capability.gpus
        ),
        capability.ram_gib,
        capability.contract,
        capability.models,
        tuple(sorted(capability.datasets.items())),
    )


def _steady(capability: Capability) -> Iterator[Gpu]:
    """Yield the cards without what changes from claim to claim, but for whether they are busy."""
    for gpu in capability.gpus:
        yield replace(gpu, free_vram_bytes=gpu.vram_bytes if gpu.in_use else gpu.free_gib * GIB)
