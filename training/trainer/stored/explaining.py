"""Owns which columns stand behind an alarm.

Trees tell it themselves: what each feature adds to the score in log odds, added up per column. For other models a
column is hidden: all that the model sees of it is set to its median over the host's data, and the weight is how far the
score falls. Both weights are above 0 where the column pushes towards the alarm. Columns that say the same share a
weight in trees, and may hide each other's when they are hidden one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from training.contracts.dataset import expanded_columns
from training.trainer.data.telemetry import Floats, Ints
from training.trainer.data.windows import Sequences
from training.trainer.models import Fitted
from training.trainer.stored.model_files import Description

Scoring = Callable[[Fitted, Description, Floats | Sequences], Floats]


@runtime_checkable
class Contributing(Protocol):
    """A model that tells what each of its inputs adds to a score."""

    def contributions(self, features: Floats) -> Floats:
        """Return (n, n_features) float32, above 0 for what pushes towards an alarm."""


def column_weights(
    model: Fitted, description: Description, inputs: Floats | Sequences, score: Floats, alarms: Ints, scoring: Scoring
) -> Floats:
    """Weigh every column of the model in the windows that raised an alarm.

    Args:
        model: The stored model.
        description: What it says of itself.
        inputs: All windows of one host.
        score: (n,) their scores.
        alarms: (m,) the windows in question.
        scoring: Scores windows as `scoring.scores` does, within its limits.

    Returns:
        (m, n_columns) float32, columns in the order of the description.

    Raises:
        SpecError: The model can't be computed.
    """
    owner = _owners(description, _width(inputs))
    weights = np.zeros((len(alarms), len(description.columns)), np.float32)
    if not len(alarms):
        return weights
    if isinstance(model, Contributing):
        found = scoring(_Contributions(model), description, inputs[alarms])  # type: ignore[arg-type]
        np.add.at(weights.T, owner, found.T)
        return weights
    usual = np.median(inputs.rows if isinstance(inputs, Sequences) else inputs, axis=0)
    for column in range(weights.shape[1]):
        hidden = _hidden(inputs, alarms, owner == column, usual)
        weights[:, column] = score[alarms] - scoring(model, description, hidden)
    return weights


def explanations(description: Description, weights: Floats, alarm: npt.NDArray[np.bool_], count: int) -> pa.Array:
    """Return (n,) text: the columns that push most, such as `cpu +0.31; net +0.02`; null where there is no alarm."""
    texts: list[str | None] = [None] * len(alarm)
    for row, window in zip(weights, np.flatnonzero(alarm), strict=True):
        top = [index for index in np.argsort(-row, kind="stable")[:count] if row[index] > 0]
        texts[window] = "; ".join(f"{description.columns[index]} +{row[index]:.3g}" for index in top)
    return pa.array(texts, pa.string())


class _Contributions:
    """Gives the contributions where a model gives scores, so that they keep to the same limits."""

    def __init__(self, model: Contributing) -> None:
        self.score = model.contributions


def _width(inputs: Floats | Sequences) -> int:
    return int((inputs.rows if isinstance(inputs, Sequences) else inputs).shape[1])


def _owners(description: Description, width: int) -> Ints:
    """Return (width,) which column of the description each input is made of: their order repeats per statistic."""
    counts = [len(expanded_columns([name], description.categories)) for name in description.columns]
    one = np.repeat(np.arange(len(counts)), counts)
    return np.tile(one, width // len(one)).astype(np.int64)


def _hidden(inputs: Floats | Sequences, alarms: Ints, mask: npt.NDArray[np.bool_], usual: Floats) -> Floats | Sequences:
    """Return the windows with some inputs set to their usual values."""
    if isinstance(inputs, Sequences):
        rows = np.where(mask, usual, inputs.rows).astype(np.float32)
        return replace(inputs[alarms], rows=rows)
    part = inputs[alarms].copy()
    part[:, mask] = usual[mask]
    return part
