"""Why pending jobs wait, in a few words for lists.

Owns the words and what they are worth: the judgement itself is that of `hosts` and `placement`, and `why` tells all of
it. Guarantees that one page judges each requirement once, whatever the number of its jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from training.fleet.database import Transaction
from training.fleet.database.queries import REQUIREMENTS_WITH_READY_JOBS, STRANDED, JobRow
from training.fleet.model import placement
from training.fleet.model.capability import with_free_cards
from training.fleet.queue.hosts import Hosts
from training.fleet.queue.memory import Memory

MAX_STRANDED: Final = 1000
"""Where counting of jobs that no host can run stops."""
MAX_REQUIREMENTS: Final = 256
"""Requirements that are looked at for that count: the writer's time is bounded by it."""
MAX_NAMED: Final = 2
"""Hosts, and constraints, that a reason names."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """What jobs with one requirement can hope for.

    Attributes:
        takers: Hosts that are heard and would be given such a job.
        away: Hosts that could run it and are not heard.
        refusal: Why no host can run it, in a few words; empty where one can.
    """

    takers: tuple[str, ...] = ()
    away: tuple[str, ...] = ()
    refusal: str = ""


class PageReasons:
    """The reasons of one page of a list.

    Args:
        memory: What the queue remembers.
        refused: What jobs that nobody who called could take can hope for, by requirement; filled in here.
    """

    def __init__(self, memory: Memory, refused: dict[int, Prospect]) -> None:
        self._memory = memory
        self._refused = refused
        self._found: dict[int, Prospect] = {}
        hosts, waits = memory.hosts, memory.waits
        # What is the same for all jobs is looked up once: a page may have 500 of them, and a fleet a thousand hosts.
        self._held_back, self._apart = set(waits.held_back.waiting()), set(waits.apart.waiting())
        known = {name: hosts.known(name) for name in hosts.names()}
        self._hosts = [(name, one, hosts.away(one)) for name, one in known.items() if one is not None]
        for number in hosts.requirement_ids()[-1:]:
            for name, _, _ in self._hosts:
                hosts.eligible(number, name)  # judges it by the requirements that came since it last called

    def of(self, row: JobRow) -> str:
        """Return why a job waits, such as "no host: require_cuda" or "slot on pi"; empty for one that does not."""
        if row.status != "pending":
            return ""
        if not row.ready:
            left_s = self._memory.waits.delay_left_s(row.seq)
            return f"back-off {brief(left_s)}" if left_s else "back-off"
        if row.requirement not in self._found:
            self._found[row.requirement] = self._prospect(row.requirement)
        found = self._found[row.requirement]
        if found.takers:
            return self._next_try(found.takers, row.seq)
        return f"host away: {_few(found.away)}" if found.away else found.refusal

    def _next_try(self, takers: tuple[str, ...], seq: int) -> str:
        waits = self._memory.waits
        free = takers
        if self._held_back or self._apart:
            free = tuple(one for one in takers if one not in self._held_back and (one, seq) not in self._apart)
        if free:
            return f"slot on {_few(free)}"
        host = min(takers, key=lambda name: waits.kept_away_s(name, seq))
        return f"gave back: {host} again in {brief(waits.kept_away_s(host, seq))}"

    def _prospect(self, requirement: int) -> Prospect:
        hosts = self._memory.hosts
        prefers_cuda = hosts.requirement(requirement).prefer_cuda
        able = [
            (name, away)
            for name, known, away in self._hosts
            if requirement in known.ranks
            # What a host leaves to others is asked for rarely, and takes a hundred times as long.
            if not prefers_cuda or hosts.eligible(requirement, name)
        ]
        if not able:
            if requirement not in self._refused:
                self._refused[requirement] = _judged(hosts, requirement)
            return self._refused[requirement]
        takers, away = ([name for name, gone in able if gone is wanted] for wanted in (False, True))
        return Prospect(tuple(takers), tuple(away))


def _judged(hosts: Hosts, requirement: int) -> Prospect:
    """Judge what called hosts leave over: hosts that never called, and what keeps the nearest one."""
    wanted = hosts.requirement(requirement)
    away: list[str] = []
    nearest: tuple[int, bool] | None = None
    host = constraints = ""
    for name, capability, policy, seen in hosts.all():
        reasons = placement.judge(wanted, capability, policy).reasons
        if not reasons:
            away += [] if seen else [name]
        elif nearest is None or (len(reasons), not seen) < nearest:
            nearest, host = (len(reasons), not seen), name
            constraints = ", ".join(list(dict.fromkeys(reason.constraint for reason in reasons))[:MAX_NAMED])
    if away:
        return Prospect(away=tuple(away))
    # A card that a game uses comes free by itself; nothing of the host or the manifest has to change.
    if constraints == "gpu_busy":
        return Prospect(refusal=f"card in use on {host}")
    return Prospect(refusal=f"no host: {constraints}" if host else "no host known")


class Waiting:
    """Why jobs wait."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._refused: dict[int, Prospect] = {}
        self._generation = memory.hosts.generation

    def reasons(self) -> PageReasons:
        """Return what finds the reasons of one page."""
        # Judging every host takes most of the time, and pages follow one another while no host changes.
        if self._generation != self._memory.hosts.generation:
            self._refused, self._generation = {}, self._memory.hosts.generation
        return PageReasons(self._memory, self._refused)

    def stranded(self, tx: Transaction) -> int:
        """Return how many pending jobs no known host can run; counting stops at `MAX_STRANDED`."""
        found = 0
        for row in tx.all(REQUIREMENTS_WITH_READY_JOBS)[:MAX_REQUIREMENTS]:
            if found < MAX_STRANDED and not self._any_able(row.id):
                count = tx.one(STRANDED, requirement=row.id)
                found += count.jobs if count else 0
        return min(found, MAX_STRANDED)

    def _any_able(self, requirement: int) -> bool:
        hosts = self._memory.hosts
        if any(hosts.eligible(requirement, name) for name in hosts.names()):
            return True
        wanted = hosts.requirement(requirement)
        judged = (placement.judge(wanted, with_free_cards(host), policy) for _, host, policy, _ in hosts.all())
        return any(verdict.eligible for verdict in judged)


def brief(seconds: float) -> str:
    """Return a wait as people say it: "40 s", "12 min", "2 h"."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{round(seconds / 3600)} h"


def _few(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" +{more}" if more > 0 else "")
