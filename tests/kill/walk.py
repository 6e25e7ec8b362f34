"""Disturbs one flow at its system calls, one after the other, and prints what came of it as JSON.

    PYTHONPATH=. python tests/kill/walk.py FLOW kill|fail [--all] [OFFSET/N]

kill    SIGKILL before each call that changes a file
fail    each call fails, with ENOSPC, EIO, EROFS and EMFILE

Without `--all` a row of equal writes to one file counts with its first and its last one, and each place of each call
fails once, with errors in turn, so that each call fails with each error. OFFSET/N takes every Nth point from OFFSET on.
"""

from __future__ import annotations

import errno
import gc
import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from boundary import ERRORS, Boundary, Call
from flows import make
from trial import Trial

from tests.helpers.todays_part import WHOLE, in_part

MOST_TRIES = 12
AROUND = (0, 1, -1, 2, -2, 3, -3, 0)
"""Where a call is looked for: on a busy machine another thread's calls come before it, or after it."""


def kill_points(calls: list[Call], everything: bool) -> list[int]:
    """Return the numbers of the calls to be killed at."""
    rows = [list(row) for _, row in itertools.groupby(enumerate(calls, 1), key=lambda pair: pair[1])]
    wanted = rows if everything else [[row[0], row[-1]][: len(row)] for row in rows]
    return [number for row in wanted for number, call in row if call.changes]


def fail_points(calls: list[Call], everything: bool) -> list[tuple[int, str]]:
    """Return the numbers of the calls to fail and what with."""
    numbered = list(enumerate(calls, 1))
    if everything:
        return [(number, error) for number, _ in numbered for error in ERRORS]
    return sorted(set(_each_place_once(numbered)) | set(_each_error_once(numbered)))


def _each_place_once(numbered: list[tuple[int, Call]]) -> Iterator[tuple[int, str]]:
    seen: dict[Call, int] = {}
    for number, call in numbered:
        seen.setdefault(call, number)
    turns: Counter[str] = Counter()
    for call, number in seen.items():
        yield number, ERRORS[turns[call.name] % len(ERRORS)]
        turns[call.name] += 1


def _each_error_once(numbered: list[tuple[int, Call]]) -> Iterator[tuple[int, str]]:
    """Where a call has fewer places than there are errors, some place fails with the others."""
    places: dict[str, list[int]] = {}
    for number, call in numbered:
        places.setdefault(call.name, []).append(number)
    had = Counter(numbered[number - 1][1].name for number, _ in _each_place_once(numbered))
    for name, count in had.items():
        for turn in range(count, len(ERRORS)):
            yield places[name][turn % len(places[name])], ERRORS[turn]


def walk(flow: Any, how: str, everything: bool, part: str) -> dict[str, Any]:
    undisturbed = flow.trial()
    assert not undisturbed.wrong, undisturbed.wrong
    calls = undisturbed.ran.calls
    points: list[tuple[int, str]]
    if how == "kill":
        points = [(number, "") for number in kill_points(calls, everything)]
    else:
        points = fail_points(calls, everything)
    chosen = list(in_part(points, part))
    found: dict[str, Any] = {"calls": len(calls), "all": len(points), "points": len(chosen), "hit": 0}
    found |= {"wrong": [], "ends": Counter()}
    for number, error in chosen:
        trial = flow.trial(number, getattr(errno, error, 0))
        _note(found, trial, number, error)
    # A part sees but some of the errors; to look for the others would cost more than the part.
    if how == "fail" and part == WHOLE:
        _top_up(found, flow, calls)
    found["names"] = dict(Counter(call.name for call in calls))
    found["ends"] = {" ".join(map(str, end)): count for end, count in sorted(found["ends"].items())}
    return found


def _top_up(found: dict[str, Any], flow: Any, calls: list[Call]) -> None:
    """Where threads took turns another call failed than was meant: see to it that each fails with each error."""
    for name, error in itertools.product(sorted({call.name for call in calls}), ERRORS):
        places = [number for number, call in enumerate(calls, 1) if call.name == name]
        tries = [place + offset for offset in AROUND for place in places if 0 < place + offset <= len(calls)]
        for number in tries[:MOST_TRIES]:
            if any(end[:2] == (error, name) for end in found["ends"]):
                break
            _note(found, flow.trial(number, getattr(errno, error)), number, error)


def _note(found: dict[str, Any], trial: Trial, number: int, error: str) -> None:
    hit = len(trial.ran.calls) >= number
    found["hit"] += hit
    call = trial.ran.calls[number - 1] if hit else Call("none", "")
    if trial.wrong:
        found["wrong"].append([number, error, call.name, call.place, trial.ran.status, trial.wrong])
    heard = " ".join(sorted({f"{status}" for _, status, _ in trial.heard}))
    if error:
        found["ends"][error, call.name, call.place, trial.ran.status, f"[{heard}]"] += 1
    else:
        found["ends"][(str(trial.ran.status),)] += 1


def main() -> int:
    name, how, *rest = sys.argv[1:]
    part = next((word for word in rest if "/" in word), WHOLE)
    with tempfile.TemporaryDirectory(prefix="kill-") as folder:
        boundary = Boundary(Path(folder))
        gc.collect()
        gc.freeze()
        flow = make(name, boundary, Path(folder))
        sys.stdout.write(json.dumps(walk(flow, how, everything="--all" in rest, part=part), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
