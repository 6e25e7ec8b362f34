"""Multi-layer perceptron on window statistics, trained and scored by numpy alone.

Features are scaled by mean and standard deviation of the training windows and cut at plus and minus `clip`. Hidden
layers are ReLU with dropout; the loss is weighted cross entropy; the optimiser is Adam with decoupled weight decay.
Training stops when the mean over hosts of the validation AUPRC has not risen for `patience` epochs, and keeps the best
epoch.
The model file is safetensors, which loads without running code.

Source: Kingma and Ba, Adam, ICLR 2015; Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019;
He et al., Delving Deep into Rectifiers, ICCV 2015 (initial weights); Srivastava et al., Dropout, JMLR 15, 2014.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import save as save_tensors

from training.trainer.data.telemetry import Floats
from training.trainer.data.windows import Samples
from training.trainer.evaluation.measures import Labels, auprc_host_mean
from training.trainer.faults import SpecError
from training.trainer.hyper import MODELS
from training.trainer.models import InputShape, Setting
from training.trainer.models import stored_tensors as stored

MODEL_FILE = "model.safetensors"
SCORE_ROWS = 16384
_SMALL = 1e-6


@dataclass(frozen=True, slots=True)
class Perceptron:
    """A trained network with the scaler that belongs to it."""

    mean: Floats
    """(n_features,) mean of the training windows."""
    spread: Floats
    """(n_features,) standard deviation of the training windows; 1 for constant features."""
    clip: float
    """Scaled features are cut at plus and minus this."""
    layers: tuple[Floats, ...]
    """Weight (n_in, n_out) and bias (n_out,) of each layer, in turn."""
    fit_summary: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[Mapping[str, float], ...] = ()

    def score(self, features: Floats) -> Floats:
        """Score windows: (n, n_features) float32 to (n,) float32 from 0 to 1."""
        out = np.empty(len(features), np.float32)
        for first in range(0, len(features), SCORE_ROWS):
            part = scaled(features[first : first + SCORE_ROWS], self.mean, self.spread, self.clip)
            out[first : first + SCORE_ROWS] = _sigmoid(_forward(part, self.layers)[-1][:, 0])
        return out

    def save(self, folder: Path) -> list[str]:
        """Write scaler and weights as safetensors."""
        tensors = {"scaler.mean": self.mean, "scaler.spread": self.spread}
        tensors["scaler.clip"] = np.array([self.clip], np.float32)
        for index, tensor in enumerate(self.layers):
            tensors[f"layer{index // 2}.{'bias' if index % 2 else 'weight'}"] = tensor
        (folder / MODEL_FILE).write_bytes(save_tensors({key: tensors[key] for key in sorted(tensors)}))
        return [MODEL_FILE]


def fit(train: Samples[Floats], validation: Samples[Floats], setting: Setting) -> Perceptron:
    """Train a network and stop by the validation AUPRC."""
    mean, spread, clip = train.inputs.mean(axis=0), train.inputs.std(axis=0), setting.number("clip")
    spread = np.where(spread > _SMALL * np.maximum(1.0, np.abs(mean)), spread, 1.0).astype(np.float32)
    features, unseen = (scaled(part.inputs, mean, spread, clip) for part in (train, validation))
    random = np.random.default_rng(setting.seed)
    trainer = _Adam(_initial(features.shape[1], setting, random), setting, random)
    epochs, best, best_epoch, kept = setting.whole("max_epochs"), -1.0, 0, trainer.layers
    curve: list[Mapping[str, float]] = []
    for epoch in range(1, epochs + 1):
        loss = trainer.epoch(features, train.label)
        auprc = auprc_host_mean(validation.label, _forward(unseen, trainer.layers)[-1][:, 0], validation.host)
        if auprc > best:
            best, best_epoch, kept = auprc, epoch, [tensor.copy() for tensor in trainer.layers]
        curve.append({"step": epoch, "validation_auprc": auprc, "train_loss": loss})
        setting.report(epoch / epochs, {"validation_auprc": auprc})
        if epoch - best_epoch >= setting.whole("patience"):
            break
    return Perceptron(mean, spread, clip, tuple(kept), {"epochs": best_epoch, "validation_auprc": best}, tuple(curve))


def load(folder: Path, shape: InputShape) -> Perceptron:
    """Read a saved network.

    Raises:
        SpecError: The file is damaged, or not the network of a job.
    """
    _, tensors = stored.read(folder / MODEL_FILE)
    count = sum(name.endswith(".weight") for name in tensors)
    units = [len(tensors.get(f"layer{index}.bias", ())) for index in range(count)]
    stored.demand_shapes(tensors, _shapes(shape.width, units))
    clip = float(tensors["scaler.clip"][0])
    for name, value in (("layers", count - 1), ("hidden", units[0]), ("clip", clip)):
        fault = next(item for item in MODELS["mlp"].hypers if item.name == name).fault(value)
        if fault:
            raise SpecError(f"{name}: {fault}")
    if not (tensors["scaler.spread"] > 0).all():
        raise SpecError("scaler.spread holds a number that is not above 0")
    layers = [tensors[f"layer{index}.{part}"] for index in range(count) for part in ("weight", "bias")]
    return Perceptron(tensors["scaler.mean"], tensors["scaler.spread"], clip, tuple(layers))


def _shapes(width: int, units: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a network with this number of features and these layers."""
    shapes: dict[str, tuple[int, ...]] = {"scaler.mean": (width,), "scaler.spread": (width,), "scaler.clip": (1,)}
    for index, (size, further) in enumerate(itertools.pairwise([width, *units[:-1], 1])):
        shapes |= {f"layer{index}.weight": (size, further), f"layer{index}.bias": (further,)}
    return shapes


def scaled(features: Floats, mean: Floats, spread: Floats, clip: float) -> Floats:
    """Scale features: (n, n_features) float32 to standard deviations, cut at plus and minus `clip`."""
    out: Floats = (features - mean) / spread
    np.clip(out, -clip, clip, out=out)
    return out


class _Adam:
    """The optimiser with its moments, and one pass over the data at a time."""

    rate_first, rate_second, tiny = 0.9, 0.999, 1e-8

    def __init__(self, layers: list[Floats], setting: Setting, random: np.random.Generator) -> None:
        self.layers = layers
        self.random = random
        self.first = [np.zeros_like(tensor) for tensor in layers]
        self.second = [np.zeros_like(tensor) for tensor in layers]
        self.steps = 0
        self.rate, self.decay = setting.number("learning_rate"), setting.number("weight_decay")
        self.batch, self.dropout = setting.whole("batch_rows"), setting.number("dropout")
        self.positive_weight = np.float32(setting.number("positive_weight"))

    def epoch(self, features: Floats, label: Labels) -> float:
        """Take one step per batch of shuffled windows; return the mean loss of the batches in nats, with dropout."""
        order = self.random.permutation(len(features))
        losses = []
        for first in range(0, len(order), self.batch):
            rows = order[first : first + self.batch]
            losses.append(self._step(features[rows], label[rows]))
        return float(np.mean(losses))

    def _step(self, features: Floats, label: Labels) -> float:
        masks = self._masks(len(features))
        states = _forward(features, self.layers, masks)
        weight = np.where(label == 1, self.positive_weight, np.float32(1))
        raw = states[-1][:, 0]
        slope = ((_sigmoid(raw) - label) * weight / weight.sum())[:, None].astype(np.float32)
        slopes = _backward(slope, states, self.layers, masks)
        self.steps += 1
        for index, gradient in enumerate(slopes):
            self._move(index, gradient)
        return float(np.average(np.logaddexp(0, raw) - label * raw, weights=weight))

    def _move(self, index: int, gradient: Floats) -> None:
        tensor, first, second = self.layers[index], self.first[index], self.second[index]
        np.add(first, (1 - self.rate_first) * (gradient - first), out=first)
        np.add(second, (1 - self.rate_second) * (gradient**2 - second), out=second)
        step = (first / (1 - self.rate_first**self.steps)) / (
            np.sqrt(second / (1 - self.rate_second**self.steps)) + self.tiny
        )
        if tensor.ndim == 2:
            step = step + self.decay * tensor
        np.subtract(tensor, np.float32(self.rate) * step, out=tensor)

    def _masks(self, rows: int) -> list[Floats]:
        """Return one dropout mask (rows, n_units) per hidden layer, scaled so that the mean stays."""
        keep = np.float32(1 - self.dropout)
        sizes = [len(bias) for bias in self.layers[1:-2:2]]
        kept = [self.random.random((rows, size), np.float32) < keep for size in sizes]
        return [mask.astype(np.float32) / keep for mask in kept]


def _initial(inputs: int, setting: Setting, random: np.random.Generator) -> list[Floats]:
    hidden, count = setting.whole("hidden"), setting.whole("layers")
    sizes = [inputs, *(max(1, hidden >> index) for index in range(count)), 1]
    layers: list[Floats] = []
    for size, further in itertools.pairwise(sizes):
        layers.append(random.standard_normal((size, further), np.float32) * np.float32(np.sqrt(2 / size)))
        layers.append(np.zeros(further, np.float32))
    return layers


def _forward(
    features: Floats, layers: tuple[Floats, ...] | list[Floats], masks: list[Floats] | None = None
) -> list[Floats]:
    """Return the input and the output of every layer: (n, n_in), (n, n_hidden) ..., (n, 1) float32."""
    states = [features]
    for index in range(0, len(layers), 2):
        out = states[-1] @ layers[index] + layers[index + 1]
        if index < len(layers) - 2:
            np.maximum(out, 0, out=out)
            if masks is not None:
                out *= masks[index // 2]
        states.append(out)
    return states


def _backward(slope: Floats, states: list[Floats], layers: list[Floats], masks: list[Floats]) -> list[Floats]:
    """Return the gradient of every tensor, in the order of `layers`."""
    slopes: list[Floats] = []
    for index in range(len(layers) - 2, -1, -2):
        below = states[index // 2]
        slopes = [below.T @ slope, slope.sum(axis=0), *slopes]
        if index:
            slope = (slope @ layers[index].T) * (below > 0) * masks[index // 2 - 1]
    return slopes


def _sigmoid(raw: Floats) -> Floats:
    half: Floats = np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * raw))
    return half
