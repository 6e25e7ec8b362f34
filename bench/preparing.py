"""Windows made ready for a model, against plain loops over them; a process of its own: `python -m bench.preparing`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np
import torch

from bench.figures import Figure, emit
from bench.material import described, windows
from bench.sides import Sides, Took, in_turns
from training.trainer.data.telemetry import Floats, Ints
from training.trainer.data.windows import Doubles, Sequences, WindowSet, feature_matrix, sequences, standardised
from training.trainer.models.networks import Gather

SAMPLE = 4_000
"""Windows that the loop over statistics does; its time is scaled to all of them."""
EPOCH, BATCH = 20_000, 256
"""Windows drawn for an epoch and for a step: the defaults of the sequence models."""


def main(quick: bool) -> list[Figure]:
    """Measure both kinds of input."""
    torch.set_num_threads(1)
    found = windows()
    return [_statistics(found, 1 if quick else 5), _sequences(found, 1 if quick else 5)]


def _statistics(found: WindowSet, turns: int) -> Figure:
    past = past_of(found)
    sample = found.ends[:: max(1, len(found.ends) // SAMPLE)]
    sides = in_turns(lambda: feature_matrix(found, history=True), lambda: looped_features(found, past, sample), turns)
    all_windows = Sides(sides.ours, [_times(took, len(found.ends) / len(sample)) for took in sides.reference])
    note = f"{all_windows.beside()}; loop on {len(sample):,} windows, scaled; {described(found)}"
    return Figure("windows", "statistics against a loop", 1 / all_windows.ratio, "x", 5, larger=True, note=note)


def past_of(found: WindowSet) -> Doubles:
    """Return (n_rows, n_columns) float64: every row standardised by its host's past, given to the loop for nothing."""
    values = found.telemetry.values.astype(np.float64)
    return np.concatenate([standardised(values[first:end]) for _, first, end in found.telemetry.spans()])


def looped_features(found: WindowSet, past: Doubles, ends: Ints) -> Floats:
    """Compute what `feature_matrix` computes, one window after the other."""
    values, length = found.telemetry.values, found.length
    out = np.empty((len(ends), 8 * values.shape[1]), np.float32)
    for number, end in enumerate(ends):
        window = values[end - length + 1 : end + 1].astype(np.float64)
        own = past[end - length + 1 : end + 1]
        out[number] = np.concatenate([*_four(window), *_four(own)])
    return out


def _four(window: Doubles) -> Iterable[Doubles]:
    return window[-1], window.mean(axis=0), window.std(axis=0), window[-1] - window[0]


def _times(took: Took, factor: float) -> Took:
    return Took(took.wall_s * factor, took.cpu_s * factor)


def _sequences(found: WindowSet, turns: int) -> Figure:
    """Measure the batches of an epoch; the rows are ready on both sides."""
    ready = sequences(found, history=True)
    order = np.random.default_rng(490).permutation(len(ready))[:EPOCH]
    gather = Gather(ready, torch.device("cpu"))
    sides = in_turns(lambda: gathered(gather, order), lambda: looped_batches(ready, order), turns)
    note = f"{sides.beside(unit='ms')}; {len(order):,} windows in steps of {BATCH}"
    return Figure("windows", "batches of an epoch against a loop", 1 / sides.ratio, "x", larger=True, note=note)


def gathered(gather: Gather, order: Ints) -> list[float]:
    """Take the batches of an epoch as training takes them, and return a number of each."""
    return [float(gather.batch(part)[0, 0, 0]) for part in torch.split(torch.from_numpy(order), BATCH)]


def looped_batches(ready: Sequences, order: Ints) -> list[float]:
    """Copy the same batches window by window."""
    seen = []
    for first in range(0, len(order), BATCH):
        ends = ready.ends[order[first : first + BATCH]]
        batch = np.stack([ready.rows[end - ready.length + 1 : end + 1] for end in ends])
        seen.append(float(torch.from_numpy(batch)[0, 0, 0]))
    return seen


if __name__ == "__main__":
    emit(main("--quick" in sys.argv))
