"""The trainer's trees against LightGBM called directly; a process of its own: `python -m bench.boosting`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np

from bench.figures import Figure, emit
from bench.material import described, windows
from bench.sides import in_turns
from training.trainer.data.telemetry import Floats, Ints
from training.trainer.data.windows import Samples, WindowSet, feature_matrix, feature_names
from training.trainer.exchange.checkpoint import FitCheckpoint
from training.trainer.hyper import completed_hyper
from training.trainer.models import Setting, gbt

TRAIN_WINDOWS, VALIDATION_WINDOWS, ROUNDS = 50_000, 12_500, 100
Side = Callable[[], object]


def main(quick: bool) -> list[Figure]:
    """Measure a fit against two direct calls: one that looks at no validation window, one that does."""
    rounds, turns = (5, 1) if quick else (ROUNDS, 4)
    found = windows()
    train, validation = samples_of(found)
    setting = setting_of(found, rounds)
    bare, looking = direct(train, validation, gbt._parameters(setting), rounds)
    figures = []
    for name, reference, floor in (("alone", bare, 1.2), ("with its own early stopping", looking, None)):
        sides = in_turns(lambda: gbt.fit(train, validation, setting), reference, turns)
        note = f"{sides.beside()}; {rounds} rounds on {len(train):,} windows; {described(found)}"
        figures.append(Figure("gbt", f"fit against LightGBM {name}", sides.ratio, "x", floor, note=note))
    return figures


def samples_of(found: WindowSet) -> tuple[Samples[Floats], Samples[Floats]]:
    """Return windows to train on and others to look at, spread over all hosts."""
    matrix, number = feature_matrix(found, history=True), np.arange(len(found.ends))
    unseen, seen = number[::5], np.delete(number, np.s_[::5])

    def side(part: Ints, wanted: int) -> Samples[Floats]:
        part = part[:: max(1, len(part) // wanted)]
        return Samples(matrix[part], found.label[part], found.host[part])

    return side(seen, TRAIN_WINDOWS), side(unseen, VALIDATION_WINDOWS)


def setting_of(found: WindowSet, rounds: int) -> Setting:
    """Return the defaults for one thread and so much patience that no side stops early."""
    hyper, _ = completed_hyper("gbt", {"max_iter": rounds, "patience": rounds})
    names = tuple(feature_names(found.telemetry.columns, history=True))
    return Setting(hyper, names, 490, 1, "cpu", FitCheckpoint(None, 0), lambda _done, _numbers: None)


def direct(
    train: Samples[Floats], validation: Samples[Floats], parameters: dict[str, Any], rounds: int
) -> tuple[Side, Side]:
    """Return LightGBM's own training of the same trees, without and with validation windows."""
    measured = parameters | {"metric": "average_precision"}

    def bare() -> object:
        return lightgbm.train(parameters, lightgbm.Dataset(train.inputs, train.label), rounds)

    def looking() -> object:
        data = lightgbm.Dataset(train.inputs, train.label)
        unseen = data.create_valid(validation.inputs, validation.label)
        stop = lightgbm.early_stopping(rounds, verbose=False)
        return lightgbm.train(measured, data, rounds, valid_sets=[unseen], callbacks=[stop])

    return bare, looking


if __name__ == "__main__":
    emit(main("--quick" in sys.argv))
