"""Owns who trains and who tests: a recipe of the dataset becomes folds of windows, and no fold leaks by accident.

Every fold has windows to train on, windows to choose the threshold and the stopping point on (validation), and windows
to test on. Guarantees, checked for every fold and every recipe:

- no window reaches over a border between hosts;
- no window is on two sides; for every recipe but `random` no *row* is on two sides either: a window that reaches
  over a border between sides is dropped;
- with `hosts` and `group` no host is on both the testing side and another one;
- `train_hosts` limits training and validation, never testing;
- validation windows come from the training side alone: whole hosts are held out for `hosts` and `group`, the last fifth
  of each host's training windows for `time` and `published`, a fifth of the training windows for `random`. Where one
  way leaves a side with one class, the other way is taken.

`random` leaks by its nature: neighbouring windows share rows and incidents. It says so in every result.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.contracts.dataset import Dataset, GroupSplit, HostsSplit, PublishedSplit, RandomSplit, TimeSplit
from training.trainer.data.telemetry import Ints
from training.trainer.data.windows import WindowSet, touched_rows
from training.trainer.faults import SpecError

LEAKING_RECIPES = frozenset({"random"})
VALIDATION_FRACTION = 0.2
_TRAIN, _TEST, _UNUSED = 0, 1, 2

Mask = npt.NDArray[np.bool_]
Sides = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Fold:
    """One round of training and testing; the arrays hold window numbers, rising."""

    name: str
    """Such as "fold 2/5" or "group 3"."""
    train: Ints
    validation: Ints
    test: Ints


def folds_of(windows: WindowSet, dataset: Dataset, recipe: str, train_hosts: Sequence[str], seed: int) -> list[Fold]:
    """Cut the windows into the folds of a recipe.

    Args:
        windows: All windows of the dataset.
        dataset: The declaration that holds the recipe.
        recipe: "random", "time", "hosts", "group" or "published".
        train_hosts: Globs of the hosts that may train.
        seed: Decides random rows and which hosts are held out for validation.

    Raises:
        SpecError: The dataset lacks the recipe, or a fold lacks anomalous or normal windows on a side that needs both.
    """
    split = dataset.splits.get(recipe)
    if split is None:
        raise SpecError(dataset.missing_split(recipe))
    allowed = allowed_hosts(windows.telemetry.hosts, train_hosts)[windows.host]
    if isinstance(split, RandomSplit):
        folds = [_random_fold(windows, split, allowed, seed)]
    elif isinstance(split, TimeSplit):
        folds = [_row_fold(windows, "time", _time_sides(windows, split), allowed, split.gap, seed)]
    elif isinstance(split, PublishedSplit):
        folds = [_row_fold(windows, "published", _published_sides(windows, split), allowed, 0, seed)]
    else:
        folds = _held_out_folds(windows, split, allowed, seed)
    for fold in folds:
        check_fold(windows, fold, recipe)
    return folds


def final_fold(windows: WindowSet, train_hosts: Sequence[str], seed: int) -> Fold:
    """Return the fold of the model that is kept when a recipe has several: all allowed windows, nothing to test on."""
    allowed = allowed_hosts(windows.telemetry.hosts, train_hosts)[windows.host]
    train, validation = _hosts_held_out(windows, np.flatnonzero(allowed), 0, seed)
    fold = Fold("final", train, validation, np.empty(0, np.int64))
    _check_classes(windows, fold)
    return fold


def allowed_hosts(hosts: Sequence[str], globs: Sequence[str]) -> Mask:
    """Return (n_hosts,) which hosts match any of the globs, whatever their case.

    Raises:
        SpecError: No host matches.
    """
    lowered = [glob.lower() for glob in globs]
    mask = np.array([any(fnmatch.fnmatchcase(host.lower(), glob) for glob in lowered) for host in hosts])
    if not mask.any():
        raise SpecError(f"train_hosts {list(globs)} matches no host; the data has {', '.join(hosts)}")
    return mask


def check_fold(windows: WindowSet, fold: Fold, recipe: str) -> None:
    """Refuse a fold that leaks or can't be trained or scored.

    Raises:
        SpecError: Naming the fold and what is wrong.
    """
    _check_windows(windows, fold)
    _check_classes(windows, fold)
    if not len(fold.test):
        raise SpecError(f"{fold.name}: no window to test on; the split leaves nothing, choose another one")
    sides = {"train": fold.train, "validation": fold.validation, "test": fold.test}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if np.intersect1d(sides[one], sides[other]).size:
            raise SpecError(f"{fold.name}: a window is on the {one} and the {other} side")
        if recipe not in LEAKING_RECIPES and (_rows(windows, sides[one]) & _rows(windows, sides[other])).any():
            raise SpecError(f"{fold.name}: windows of the {one} and the {other} side share rows")
    if recipe in ("hosts", "group"):
        seen = np.union1d(windows.host[fold.train], windows.host[fold.validation])
        shared = np.intersect1d(seen, windows.host[fold.test])
        if shared.size:
            raise SpecError(f"{fold.name}: host {windows.telemetry.hosts[shared[0]]!r} both trains and tests")


def fold_digest(windows: WindowSet, folds: Sequence[Fold]) -> str:
    """Return "sha256:" and 64 hex digits over the folds: which rows stand on which side."""
    digest = hashlib.sha256()
    for fold in folds:
        for part in (fold.train, fold.validation, fold.test):
            digest.update(f"{fold.name} {len(part)}\n".encode())
            digest.update(windows.ends[part].astype("<i8").tobytes())
    return "sha256:" + digest.hexdigest()


def _random_fold(windows: WindowSet, split: RandomSplit, allowed: Mask, seed: int) -> Fold:
    random = np.random.default_rng([seed, 1])
    draw = random.random(len(windows.ends))
    test = draw < split.test_fraction
    rest = split.test_fraction + (1 - split.test_fraction) * VALIDATION_FRACTION
    parts = (~test & (draw >= rest) & allowed, ~test & (draw < rest) & allowed, test)
    return Fold("random", *(np.flatnonzero(part) for part in parts))


def _row_fold(windows: WindowSet, name: str, sides: Sides, allowed: Mask, gap: int, seed: int) -> Fold:
    """Turn sides of rows into sides of windows; a window that touches two sides is on none."""
    changes = np.concatenate([[0], np.cumsum(np.diff(sides) != 0)])
    ends = windows.ends
    whole = changes[ends] == changes[ends - windows.length + 1]
    rows = np.flatnonzero(whole & (sides[ends] == _TRAIN) & allowed)
    test = np.flatnonzero(whole & (sides[ends] == _TEST))
    return Fold(name, *_tail_held_out(windows, rows, gap, seed), test)


def _time_sides(windows: WindowSet, split: TimeSplit) -> Sides:
    sides = np.full(len(windows.telemetry.host), _UNUSED, np.int8)
    for _, first, end in windows.telemetry.spans():
        count = round((end - first) * split.train_fraction)
        sides[first : first + count] = _TRAIN
        sides[min(end, first + count + split.gap) : end] = _TEST
    return sides


def _published_sides(windows: WindowSet, split: PublishedSplit) -> Sides:
    marker = windows.telemetry.texts[split.column]
    sides = np.full(len(marker), _UNUSED, np.int8)
    sides[marker == split.train] = _TRAIN
    sides[marker == split.test] = _TEST
    return sides


def _held_out_folds(windows: WindowSet, split: HostsSplit | GroupSplit, allowed: Mask, seed: int) -> list[Fold]:
    """Build one fold per set of windows that is tested; the rest of the hosts trains."""
    folds = []
    for index, (name, test) in enumerate(_tested(windows, split)):
        tested = np.isin(windows.host, np.unique(windows.host[test]))
        train, validation = _hosts_held_out(windows, np.flatnonzero(~tested & allowed), 0, seed + index)
        folds.append(Fold(name, train, validation, np.flatnonzero(test)))
    return folds


def _tested(windows: WindowSet, split: HostsSplit | GroupSplit) -> list[tuple[str, Mask]]:
    if isinstance(split, GroupSplit):
        group = windows.telemetry.texts[split.column][windows.ends]
        return [(f"group {value}", group == value) for value in np.unique(group)]
    hosts = np.array(windows.telemetry.hosts)
    listed = [host for fold in split.folds for host in fold]
    if sorted(listed) != sorted(hosts.tolist()):
        odd = sorted(set(listed) ^ set(hosts.tolist()))
        raise SpecError(f"splits.hosts.folds and the data disagree about the hosts {', '.join(odd)}")
    count = len(split.folds)
    return [
        (f"fold {index}/{count}", np.isin(hosts, fold)[windows.host]) for index, fold in enumerate(split.folds, start=1)
    ]


def _hosts_held_out(windows: WindowSet, rows: Ints, gap: int, seed: int) -> tuple[Ints, Ints]:
    """Hold whole hosts out of the training windows; with too few hosts for both classes, the tail of each host."""
    return _by_hosts(windows, rows, seed) or _by_tail(windows, rows, gap)


def _tail_held_out(windows: WindowSet, rows: Ints, gap: int, seed: int) -> tuple[Ints, Ints]:
    """Hold the tail of each host out of the training windows; where that leaves one class, whole hosts."""
    train, validation = _by_tail(windows, rows, gap)
    if _both(windows.label[train]) and _both(windows.label[validation]):
        return train, validation
    return _by_hosts(windows, rows, seed) or (train, validation)


def _by_hosts(windows: WindowSet, rows: Ints, seed: int) -> tuple[Ints, Ints] | None:
    """Hold out hosts, drawn by the seed, until a fifth of them and both classes are there; None when that fails."""
    host, label = windows.host[rows], windows.label[rows]
    order = np.random.default_rng([seed, 2]).permutation(np.unique(host))
    for count in range(max(1, math.ceil(VALIDATION_FRACTION * len(order))), len(order)):
        out = np.isin(host, order[:count])
        if _both(label[out]):
            return (rows[~out], rows[out]) if _both(label[~out]) else None
    return None


def _by_tail(windows: WindowSet, rows: Ints, gap: int) -> tuple[Ints, Ints]:
    """Hold out the last fifth of each host's windows and drop those before it that share rows or lie in the gap."""
    host = windows.host[rows]
    train, validation = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    for value in np.unique(host):
        own = np.flatnonzero(host == value)
        cut = round(len(own) * (1 - VALIDATION_FRACTION))
        train[own[: max(0, cut - max(gap, windows.length - 1))]] = True
        validation[own[cut:]] = True
    return rows[train], rows[validation]


def _both(label: npt.NDArray[np.int8]) -> bool:
    return bool(label.any()) and not bool(label.all())


def _check_classes(windows: WindowSet, fold: Fold) -> None:
    for side, part in (("training", fold.train), ("validation", fold.validation)):
        label = windows.label[part]
        if not len(part) or not _both(label):
            found = "no windows" if not len(part) else f"{int(label.sum())} anomalous of {len(part)} windows"
            hosts = ", ".join(windows.telemetry.hosts[i] for i in np.unique(windows.host[part])) or "no host"
            raise SpecError(
                f"{fold.name}: the {side} side has {found} ({hosts}), expected both classes; "
                "widen train_hosts or choose another split"
            )


def _check_windows(windows: WindowSet, fold: Fold) -> None:
    """Refuse windows that begin before the data or reach over a border between hosts."""
    host, names = windows.telemetry.host, windows.telemetry.hosts
    ends = windows.ends[np.concatenate([fold.train, fold.validation, fold.test])]
    begins = ends - windows.length + 1
    if (begins < 0).any():
        raise SpecError(f"{fold.name}: the window that ends at row {ends[begins < 0][0]} begins before the first row")
    crossing = np.flatnonzero(host[begins] != host[ends])
    if crossing.size:
        begin, end = int(begins[crossing[0]]), int(ends[crossing[0]])
        raise SpecError(
            f"{fold.name}: the window of rows {begin} to {end} crosses from host {names[host[begin]]!r} "
            f"to host {names[host[end]]!r}"
        )


def _rows(windows: WindowSet, part: Ints) -> Mask:
    """Return (n_rows,) which rows the windows of a part touch."""
    return touched_rows(len(windows.telemetry.host), windows.ends[part], windows.length)
