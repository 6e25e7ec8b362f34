"""A step of the training loop against the same network in a bare loop: `python -m bench.stepping`, its own process.

The bare loop is given its batches ready: gathered, scaled, on the device. It clears the gradients, runs the network and
the loss forward and backward, and lets AdamW step. Ours is `networks._Loop.epoch` as a fit runs it: it also draws and
gathers the windows, weighs the loss, clips the gradients, sets the learning rate and asks whether a checkpoint is due.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from bench.figures import Figure, emit
from bench.material import described, windows
from bench.sides import in_turns
from training.trainer.data.windows import Samples, Sequences, sequences
from training.trainer.exchange.checkpoint import FitCheckpoint
from training.trainer.hyper import MODELS, completed_hyper
from training.trainer.models import Setting, model_module, networks

MODELS_WITH_STEPS = tuple(name for name, model in MODELS.items() if model.inputs == "sequences")
TURNS = 15
"""Fewer leave the median of a busy machine five hundredths apart from one run to the next."""


def main(quick: bool) -> list[Figure]:
    """Measure every sequence model with its defaults; a turn is one epoch."""
    found = windows()
    train = Samples(sequences(found, history=True), found.label, found.host)
    figures = []
    for model in MODELS_WITH_STEPS:
        loop = loop_of(model, train, 512 if quick else None)
        sides = in_turns(epoch_of(loop), bare_epoch_of(loop), 1 if quick else TURNS)
        note = f"{sides.beside(loop.steps_per_epoch, 'ms')} a step, {loop.steps_per_epoch} steps a turn"
        figures.append(Figure("step", f"{model} against a bare loop", sides.ratio, "x", 1.15, note=note))
    return [*figures, Figure("step", "windows drawn from", len(train), "", note=described(found))]


def loop_of(model: str, train: Samples[Sequences], epoch_windows: int | None) -> networks._Loop:
    """Return the loop of a fit on one thread that has just begun."""
    changes = {"max_epochs": 2 * TURNS} | ({} if epoch_windows is None else {"epoch_windows": epoch_windows})
    hyper, _ = completed_hyper(model, changes)
    checkpoint = FitCheckpoint(Path("never-written.safetensors"), 1e9)
    setting = Setting(hyper, (), 490, 1, "cpu", checkpoint, lambda _done, _numbers: None)
    device = networks.prepared_device("cpu", 1)
    torch.manual_seed(setting.seed)
    windows, build = train.inputs, model_module(model).build  # type: ignore[attr-defined]
    shape = {"channels": windows.rows.shape[1], "steps": windows.length, "hyper": hyper}
    mean, spread = (torch.from_numpy(part) for part in networks.scaler(windows))
    return networks._Loop(networks.scaled_network(build, shape, mean, spread), train, setting, device)


def epoch_of(loop: networks._Loop) -> Callable[[], None]:
    """Return the work of an epoch, without the look at the validation windows that ends it."""

    def epoch() -> None:
        loop.epoch()
        loop.epochs, loop.step = loop.epochs + 1, 0

    return epoch


def bare_epoch_of(loop: networks._Loop) -> Callable[[], None]:
    """Return as many steps in a bare loop, with a copy of the network and the batches of the first epoch."""
    network = copy.deepcopy(loop.module.network).train()
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=loop.setting.number("learning_rate"), weight_decay=loop.setting.number("weight_decay")
    )
    batches = [(loop.gather.scaled(batch.starts, loop.module), batch.label) for batch in loop._batches()]

    def epoch() -> None:
        for inputs, label in batches:
            optimiser.zero_grad(set_to_none=True)
            loss = nn.functional.binary_cross_entropy_with_logits(network(inputs), label)
            loss.backward()
            optimiser.step()

    return epoch


if __name__ == "__main__":
    emit(main("--quick" in sys.argv))
