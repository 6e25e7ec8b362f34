"""The protocol of one job, small enough to look at every state it can get into.

Written from the table of states, not from the code. Some workers may each ask a few times; every message may come at
any time, late or again, because what the receiver does depends only on what it finds; so messages under way need no
place in the state. `SWITCHES` take one guard away each, to show that the search sees what the guard is for.

A state is bytes: status, fence, attempts used, refunds, slot of the live lease, cancel asked, requeues so far, slot
and artifact of the first accepted result, number of accepted results; then for each slot, which is one claim of one
worker: fence (0 when it never was), outcome, refunded, and the requeues that had been when it began.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

STATUSES = ("pending", "claimed", "running", "completed", "failed", "cancelled")
PENDING, CLAIMED, RUNNING, COMPLETED, FAILED, CANCELLED = range(6)
OUTCOMES = (None, "completed", "failed", "expired", "lost_claim", "released", "cancelled")
LIVE, DONE, BROKE, EXPIRED, LOST, RELEASED, STOPPED = range(7)
STATUS, FENCE, USED, REFUNDS, LEASE, CANCEL, EPOCH, WINNER, ARTIFACT, ACCEPTED, SLOTS = range(11)
NONE = 255
SWITCHES = (
    "nofence", "nofencefail", "nofencebeat", "nobump", "noidemclaim", "byname", "norefundlimit", "offbyone",
    "adoptscancelled", "noprocess",
)  # fmt: skip

_METHODS = {name: f"_{name}" for name in ("claim", "beat", "complete", "fail", "expire", "cancel", "requeue")}

Event = tuple[str, int, int]
"""What comes, for which slot, and which artifact or kind it carries."""


class WrongError(Exception):
    """The protocol did what must never be."""


@dataclass(frozen=True)
class Protocol:
    """The rules, and how much is tried.

    Attributes:
        workers: How many take part.
        claims: How often each asks.
        requeues: How often the operator requeues.
        attempts: The budget of the job.
        refunds: How many lost claims cost nothing.
        without: The guard that is missing.
        alike: Whether states that differ only in which of two workers is which count as one.
        one_name: Whether the workers are processes under one name; to the rules that makes no difference.
    """

    workers: int = 2
    claims: int = 3
    requeues: int = 1
    attempts: int = 2
    refunds: int = 3
    without: str = ""
    alike: bool = False
    one_name: bool = False

    def start(self) -> bytes:
        head = [PENDING, 0, 0, 0, NONE, 0, 0, NONE, NONE, 0]
        return bytes(head + [0, LIVE, 0, 0] * (self.workers * self.claims))

    def events(self, state: bytes) -> tuple[Event, ...]:
        """Return whatever can come in a state."""
        begun = tuple(fence > 0 for fence in state[SLOTS::4])
        return _events(self.claims, begun, state[ACCEPTED] > 0, state[EPOCH] < self.requeues)

    def apply(self, state: bytes, event: Event) -> tuple[bytes, str]:
        """Return the state after an event, and what is answered."""
        new = bytearray(state)
        name, slot, detail = event
        try:
            answer: str = getattr(self, _METHODS[name])(new, slot, detail)
        except ValueError as error:  # a byte cannot be below 0
            raise WrongError("I4: a count fell below 0") from error
        return bytes(new), answer

    def canonical(self, state: bytes) -> bytes:
        """Return the one of a state and its mirror image that stands for both."""
        if not self.alike:
            return state
        middle = SLOTS + 4 * self.claims
        first, second = state[SLOTS:middle], state[middle:]
        if first >= second:
            return state
        head = bytearray(state[:SLOTS])
        for at in (LEASE, WINNER):
            if head[at] != NONE:
                head[at] = (head[at] + self.claims) % (2 * self.claims)
        return bytes(head) + second + first

    # ---- the table

    def _claim(self, s: bytearray, slot: int, holds: int) -> str:
        """With `holds` the worker lists the lease it has, else it has lost it."""
        at = SLOTS + 4 * slot
        if s[at] and self.without != "noidemclaim":
            return "lease" if s[LEASE] == slot else "conflict"
        if s[LEASE] != NONE and (s[LEASE] // self.claims == slot // self.claims or self.without == "noprocess"):
            if holds:
                return "none"
            self._lapse(s)
        if s[STATUS] != PENDING:
            return "none"
        s[STATUS], s[LEASE], s[FENCE], s[USED] = CLAIMED, slot, s[FENCE] + 1, s[USED] + 1
        s[at : at + 4] = bytes((s[FENCE], LIVE, 0, s[EPOCH]))
        return "lease"

    def _beat(self, s: bytearray, slot: int, _: int) -> str:
        if self._live(s, slot) or self.without == "nofencebeat":
            if s[STATUS] == CLAIMED:
                s[STATUS] = RUNNING
            return "go on" if s[LEASE] == slot or self.without != "nofencebeat" else "wrong"
        if not self._adoptable(s, slot):
            return "stale"
        self._take_back(s, slot)
        s[STATUS], s[LEASE] = RUNNING, slot
        return "go on"

    def _complete(self, s: bytearray, slot: int, artifact: int) -> str:
        at = SLOTS + 4 * slot
        if s[at + 1] == DONE:
            return "completed" if s[ARTIFACT] == artifact else "other"
        if not (self._live(s, slot) or self._adoptable(s, slot) or self.without == "nofence"):
            return "stale"
        self._take_back(s, slot)
        s[at + 1], s[STATUS], s[LEASE], s[CANCEL] = DONE, COMPLETED, NONE, 0
        s[WINNER], s[ARTIFACT], s[ACCEPTED] = slot, artifact, s[ACCEPTED] + 1
        return "completed"

    def _fail(self, s: bytearray, slot: int, released: int) -> str:
        if s[SLOTS + 4 * slot + 1] in (BROKE, RELEASED, STOPPED):
            return "noted"
        if not self._live(s, slot) and (self.without != "nofencefail" or s[LEASE] == NONE):
            return "stale"
        if s[CANCEL]:
            self._end(s, CANCELLED, STOPPED)
        elif released:
            s[USED] -= 1
            self._end(s, PENDING, RELEASED)
        else:
            self._end(s, PENDING if s[USED] < self.attempts else FAILED, BROKE)
        return "noted"

    def _expire(self, s: bytearray, _slot: int, _: int) -> str:
        if s[LEASE] != NONE:
            self._lapse(s)
        return ""

    def _cancel(self, s: bytearray, _slot: int, _: int) -> str:
        if s[STATUS] in (COMPLETED, FAILED):
            return "conflict"
        if s[STATUS] == PENDING:
            s[STATUS] = CANCELLED
        elif s[STATUS] in (CLAIMED, RUNNING):
            s[CANCEL] = 1
        return "state"

    def _requeue(self, s: bytearray, _slot: int, _: int) -> str:
        if s[STATUS] == PENDING:
            return "state"
        if s[STATUS] not in (FAILED, CANCELLED):
            return "conflict"
        s[STATUS], s[USED], s[REFUNDS] = PENDING, 0, 0
        s[FENCE] += self.without != "nobump"
        s[EPOCH] += 1
        return "state"

    # ---- its parts

    def _live(self, s: bytearray, slot: int) -> bool:
        if self.without == "byname":
            return s[LEASE] != NONE and s[LEASE] // self.claims == slot // self.claims
        return s[LEASE] == slot

    def _adoptable(self, s: bytearray, slot: int) -> bool:
        at = SLOTS + 4 * slot
        waits = s[STATUS] in (PENDING, FAILED) or (s[STATUS] == CANCELLED and self.without == "adoptscancelled")
        return waits and s[at] == s[FENCE] and s[at + 1] in (EXPIRED, LOST)

    def _take_back(self, s: bytearray, slot: int) -> None:
        at = SLOTS + 4 * slot
        s[USED] += s[at + 2]
        s[REFUNDS] -= s[at + 2]
        s[at + 1] = s[at + 2] = 0

    def _lapse(self, s: bytearray) -> None:
        at, lost = SLOTS + 4 * s[LEASE], s[STATUS] == CLAIMED
        if lost and (s[REFUNDS] < self.refunds or self.without == "norefundlimit"):
            s[USED], s[REFUNDS], s[at + 2] = s[USED] - 1, s[REFUNDS] + 1, 1
        left = s[USED] < self.attempts + (self.without == "offbyone")
        self._end(s, CANCELLED if s[CANCEL] else PENDING if left else FAILED, LOST if lost else EXPIRED)

    def _end(self, s: bytearray, status: int, outcome: int) -> None:
        s[SLOTS + 4 * s[LEASE] + 1] = outcome
        s[STATUS], s[LEASE], s[CANCEL] = status, NONE, 0


@functools.cache
def _events(claims: int, begun: tuple[bool, ...], accepted: bool, requeue: bool) -> tuple[Event, ...]:
    found: list[Event] = []
    for slot, was in enumerate(begun):
        if was:
            found += [
                ("beat", slot, 0),
                ("complete", slot, 0),
                ("fail", slot, 0),
                ("fail", slot, 1),
                ("claim", slot, 0),
            ]
            if accepted:  # before, one artifact is as good as the other
                found.append(("complete", slot, 1))
        elif slot % claims == 0 or begun[slot - 1]:
            found += [("claim", slot, 0), ("claim", slot, 1)]
    found += [("expire", 0, 0), ("cancel", 0, 0)]
    return (*found, ("requeue", 0, 0)) if requeue else tuple(found)


def check_state(state: bytes, rules: Protocol) -> None:
    """I1, I2, I4, I5 and G1, G3."""
    status, lease = state[STATUS], state[LEASE]
    _demand(state[ACCEPTED] <= 1, "I1, G1: two results were accepted")
    _demand((status == COMPLETED) == (state[ACCEPTED] == 1), "I2: completed without one result, or the reverse")
    _demand(state[USED] <= rules.attempts, "I4: more attempts than the budget")
    _demand(state[REFUNDS] <= rules.refunds, "I4: more refunds than there may be")
    _demand((status in (CLAIMED, RUNNING)) == (lease != NONE), "I5: held without a lease, or the reverse")
    live = [
        slot for slot in range(rules.workers * rules.claims) if _begun(state, slot) and _outcome(state, slot) == LIVE
    ]
    _demand(live == ([] if lease == NONE else [lease]), "G3: another lease lives than the one the job has")


def check_step(before: bytes, event: Event, after: bytes, answer: str, claims: int) -> None:
    """I1, I2, I3, I6 and I11, as far as they speak of a change."""
    name, slot, _ = event
    if name == "claim":
        others = before[LEASE] not in (NONE, after[LEASE]) and before[LEASE] // claims != slot // claims
        _demand(not others, "a claim ended the lease of another worker")
        again = _begun(before, slot) and _outcome(before, slot) == LIVE
        _demand(not again or (after, answer) == (before, "lease"), "I11: a claim asked again was given something else")
    if name == "beat" and answer != "stale":
        _demand(_may_speak(before, slot), "a beat of a lease that is over was answered")
    if after != before:
        _check_change(before, name, slot, after)


def _check_change(before: bytes, name: str, slot: int, after: bytes) -> None:
    _demand(after[FENCE] >= before[FENCE], "I4: the fence fell")
    _demand(before[STATUS] != COMPLETED, "I6: a completed job changed")
    if before[STATUS] in (FAILED, CANCELLED) and after[STATUS] != before[STATUS]:
        late = before[STATUS] == FAILED and name in ("beat", "complete")
        _demand(name == "requeue" or late, "I6: a job that was over changed without a requeue or a late lease")
    if name in ("beat", "complete", "fail"):
        _demand(_may_speak(before, slot), f"a {name} of a lease that is over changed the job")


def _may_speak(state: bytes, slot: int) -> bool:
    """Whether a lease is the job's, or ran out as the newest with nobody and no requeue since."""
    if state[LEASE] == slot:
        return True
    newest = max(state[SLOTS::4])
    at = SLOTS + 4 * slot
    late = state[at] == newest and state[at + 3] == state[EPOCH] and state[at + 1] in (EXPIRED, LOST)
    return late and state[STATUS] in (PENDING, FAILED)


def _begun(state: bytes, slot: int) -> bool:
    return state[SLOTS + 4 * slot] > 0


def _outcome(state: bytes, slot: int) -> int:
    return state[SLOTS + 4 * slot + 1]


def _demand(holds: bool, rule: str) -> None:
    if not holds:
        raise WrongError(rule)


@dataclass
class Search:
    """Every state that can be reached, each with the one it was first reached from."""

    rules: Protocol
    found: dict[bytes, bytes]
    changes: int = 0
    wrong: str = ""
    path: list[Event] | None = None

    @classmethod
    def run(cls, rules: Protocol) -> Search:
        """Look at every state, nearest first, until one is wrong."""
        start = rules.start()
        search = cls(rules, {start: start})
        layer = [start]
        while layer:
            following: list[bytes] = []
            for state in layer:
                if not search._expand(state, following):
                    return search
            layer = following
        return search

    def _expand(self, state: bytes, following: list[bytes]) -> bool:
        rules, found = self.rules, self.found
        for event in rules.events(state):
            try:
                after, answer = rules.apply(state, event)
                check_step(state, event, after, answer, rules.claims)
                if after == state:
                    continue
                self.changes += 1
                after = rules.canonical(after)
                if after not in found:
                    check_state(after, rules)
            except WrongError as error:
                self.wrong, self.path = str(error), [*self.way_to(state), event]
                return False
            if after not in found:
                found[after] = state
                following.append(after)
        return True

    def way_to(self, state: bytes) -> list[Event]:
        """Return events that lead to a state; with `alike`, each may be the other worker's."""
        way: list[Event] = []
        while (before := self.found[state]) != state:
            way.append(next(event for event in self.rules.events(before) if self._after(before, event) == state))
            state = before
        return way[::-1]

    def _after(self, state: bytes, event: Event) -> bytes:
        return self.rules.canonical(self.rules.apply(state, event)[0])
