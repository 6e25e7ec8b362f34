"""Owns how a torch network is trained, scored, stored and resumed; the networks themselves are under `models`.

A network maps (n_windows, n_steps, n_channels) float32 to one logit per window. Around every network stands the same
loop: AdamW, a learning rate that warms up and falls as a cosine, class weights, gradient clipping, early stopping on
the mean over hosts of the validation AUPRC, and 16-bit arithmetic on CUDA when asked.

Guarantees: the same job on the same kind of machine with the same threads gives the same weights, and so does a run
that was killed at any moment and started again with its checkpoint. Scaling is fitted on the rows of training windows
alone and travels with the weights. The model file is safetensors, which loads without running code.

Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019 (AdamW); Loshchilov and Hutter, SGDR,
ICLR 2017 (cosine); Pascanu et al., On the difficulty of training recurrent neural networks, ICML 2013 (clipping);
Micikevicius et al., Mixed Precision Training, ICLR 2018.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

# cuBLAS is deterministic only with a fixed workspace, and reads this once when CUDA starts.
# Source: NVIDIA, cuBLAS library, section "Results reproducibility".
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from training.trainer.data.telemetry import Floats
from training.trainer.data.windows import Samples, Sequences
from training.trainer.evaluation.measures import auprc_host_mean
from training.trainer.exchange.checkpoint import Tensors
from training.trainer.faults import HostError, SpecError, TrainerError
from training.trainer.hyper import MODELS, completed_hyper
from training.trainer.models import InputShape, Setting
from training.trainer.models import stored_tensors as stored
from training.trainer.strict_json import parsed

MODEL_FILE = "model.safetensors"
SCORE_ROWS = 4096
WARM_UP = 0.05
"""Part of all steps over which the learning rate rises."""
MAX_FAULT_LENGTH = 200
"""Characters shown of what a foreign file says."""
_SMALL = 1e-6

Build = Callable[[int, int, Mapping[str, Any]], nn.Module]
"""(n_channels, n_steps, hyper) to a network that maps (n_windows, n_steps, n_channels) to (n_windows,) logits."""


class Scaled(nn.Module):
    """A network behind its scaler: metrics in, standard deviations of the training rows to the network."""

    mean: Tensor
    spread: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, spread: Tensor, clip: float) -> None:
        super().__init__()
        self.network = network
        self.clip = clip
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def forward(self, windows: Tensor) -> Tensor:
        """Map (n_windows, n_steps, n_channels) float32, in the metrics' units, to (n_windows,) logits."""
        scaled = ((windows - self.mean) / self.spread).clamp(-self.clip, self.clip)
        return cast(Tensor, self.network(scaled))


class Patches(nn.Module):
    """Merges every few rows into one step by a learned projection and a ReLU, so that there are fewer steps to take.

    The last row stands in the last step; a window that is no multiple of a patch is lengthened by zeros at its front.

    Source: Nie et al., A Time Series is Worth 64 Words, ICLR 2023.
    """

    def __init__(self, channels: int, steps: int, rows: int, width: int, network: nn.Module) -> None:
        super().__init__()
        self.front = -steps % rows
        self.merge = nn.Conv1d(channels, width, rows, stride=rows)
        self.network = network

    def forward(self, windows: Tensor) -> Tensor:
        """Map (n, n_steps, n_channels) to (n,) logits."""
        state = nn.functional.pad(windows.transpose(1, 2), (self.front, 0))  # (n, n_channels, n_patches * rows)
        merged = torch.relu(self.merge(state)).transpose(1, 2)  # (n, n_patches, width)
        return cast(Tensor, self.network(merged))


def scaled_network(build: Build, shape: Mapping[str, Any], mean: Tensor, spread: Tensor) -> Scaled:
    """Make a network of a shape behind its scaler and, where rows are merged, behind its patches."""
    hyper, channels, steps = shape["hyper"], shape["channels"], shape["steps"]
    rows, width = min(hyper["patch"], steps), hyper["patch_width"]
    if rows == 1:
        network = build(channels, steps, hyper)
    else:
        network = Patches(channels, steps, rows, width, build(width, math.ceil(steps / rows), hyper))
    return Scaled(network, mean, spread, float(hyper["clip"]))


@dataclass(frozen=True, slots=True)
class Network:
    """A trained network with all that is needed to score and to build it again."""

    module: Scaled
    shape: Mapping[str, Any]
    """Model name, channels, steps and hyper-parameters: what `build` needs."""
    fit_summary: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[Mapping[str, float], ...] = ()
    """After each epoch: "step" (epochs done), "train_loss" and "validation_auprc"."""

    def score(self, windows: Sequences) -> Floats:
        """Score windows: (n,) float32 from 0 to 1, higher is more anomalous."""
        return scores(self.module, Gather(windows, _device_of(self.module)))

    def save(self, folder: Path) -> list[str]:
        """Write scaler and weights as safetensors, with the network's shape beside them."""
        tensors = {name: tensor.contiguous().cpu() for name, tensor in sorted(self.module.state_dict().items())}
        (folder / MODEL_FILE).write_bytes(save(tensors, {"shape": json.dumps(self.shape, sort_keys=True)}))
        return [MODEL_FILE]


class Gather:
    """Looks windows up in the rows of all hosts, a batch at a time; the rows are on the device once.

    Args:
        windows: The windows.
        device: Where batches are wanted.
        rows: The same rows on that device already, when another `Gather` put them there.
    """

    def __init__(self, windows: Sequences, device: torch.device, rows: Tensor | None = None) -> None:
        self.rows = torch.from_numpy(windows.rows).contiguous().to(device) if rows is None else rows
        self.length = windows.length
        self.starts = torch.from_numpy(windows.ends).to(device) + (1 - windows.length)
        """(n_windows,) row at which each window begins."""
        self._scaled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, part: Tensor | slice) -> Tensor:
        """Return (n, n_steps, n_channels) float32: the windows with these numbers."""
        return self._copied(self._overlapping(self.rows), self.starts[part])

    def scaled(self, starts: Tensor, module: Scaled) -> Tensor:
        """Return the windows that begin at these rows, as the network behind a scaler sees them.

        A row stands in many windows, so all rows are scaled once, by the first module that asks; this takes as much
        memory as the rows.
        """
        if self._scaled is None:
            scale = Scaled(nn.Identity(), module.mean, module.spread, module.clip)
            rows = torch.empty_like(self.rows)
            for first in range(0, len(rows), SCORE_ROWS):
                rows[first : first + SCORE_ROWS] = scale(self.rows[first : first + SCORE_ROWS])
            self._scaled = self._overlapping(rows)
        return self._copied(self._scaled, starts)

    def _overlapping(self, rows: Tensor) -> Tensor:
        """Return a view of every stretch of as many rows as a window has, one a line; nothing is copied."""
        length, channels = self.length, rows.shape[1]
        return rows.as_strided((len(rows) - length + 1, length * channels), (channels, 1))

    def _copied(self, stretches: Tensor, starts: Tensor) -> Tensor:
        # Rows of a window stand side by side, so each window is one piece to copy and not one per row.
        return stretches.index_select(0, starts).view(len(starts), self.length, -1)


def fit(build: Build, train: Samples[Sequences], validation: Samples[Sequences], setting: Setting) -> Network:
    """Train a network and keep the epoch with the best validation AUPRC.

    Args:
        build: Makes the network.
        train: Windows to draw from.
        validation: Windows that decide when to stop.
        setting: Hyper-parameters, seed, threads, device, and where checkpoints go.

    Raises:
        HostError: The device is not there, or its memory does not suffice.
    """
    device = prepared_device(setting.device, setting.threads)
    torch.manual_seed(setting.seed)
    windows = train.inputs
    shape = {"channels": windows.rows.shape[1], "steps": windows.length, "hyper": dict(setting.hyper)}
    mean, spread = scaler(windows)
    module = scaled_network(build, shape, torch.from_numpy(mean), torch.from_numpy(spread)).to(device)
    loop = _Loop(module, train, setting, device)
    unseen = Gather(validation.inputs, device, loop.gather.rows)
    loop.resume()
    while not loop.ended:
        loop.epoch()
        loop.judge(validation, scores(module, unseen))
    module.load_state_dict(loop.best_weights)
    summary = {"epochs": float(loop.best_epoch), "validation_auprc": loop.best}
    return Network(module, shape, summary, tuple(loop.curve))


def load(build: Build, folder: Path, wanted: InputShape) -> Network:
    """Read a saved network.

    Raises:
        SpecError: The file is damaged, or not the network of a job.
    """
    texts, arrays = stored.read(folder / MODEL_FILE)
    shape = _shape(texts.get("shape", ""), wanted)
    # No weight depends on the number of steps once there is one patch.
    short = shape | {"steps": min(shape["hyper"]["patch"], wanted.steps)}
    with torch.device("meta"):
        # Has shapes and no memory, so a network of any size may be planned before the file is held to it.
        planned = scaled_network(build, short, torch.empty(wanted.width), torch.empty(wanted.width))
    stored.demand_shapes(arrays, {name: tuple(tensor.shape) for name, tensor in planned.state_dict().items()})
    if not (arrays["spread"] > 0).all():
        raise SpecError("spread holds a number that is not above 0")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    module = scaled_network(build, shape, tensors["mean"], tensors["spread"])
    module.load_state_dict(tensors)
    return Network(module.eval(), shape)


def _shape(text: str, wanted: InputShape) -> dict[str, Any]:
    """Return what a network is built from, as `Network.shape`, from the text beside its tensors."""
    try:
        found = parsed(text.encode())
    except ValueError as fault:
        raise SpecError(f"its shape is not JSON: {fault}") from fault
    if not isinstance(found, dict) or not isinstance(found.get("hyper"), dict):
        raise SpecError("its shape names no hyper-parameters")
    strange = set(found["hyper"]) - {item.name for item in MODELS[wanted.model].hypers}
    if strange:
        raise SpecError(f"its shape names {ascii(min(strange))[:MAX_FAULT_LENGTH]}, which {wanted.model} does not have")
    for key, size in (("channels", wanted.width), ("steps", wanted.steps)):
        if type(found.get(key)) is not int or found[key] != size:
            raise SpecError(f"its shape has {key} {ascii(found.get(key))[:80]}, expected {size} as in model.json")
    hyper, faults = completed_hyper(wanted.model, found["hyper"])
    if faults:
        raise SpecError(faults[0][:MAX_FAULT_LENGTH])
    return {"channels": wanted.width, "steps": wanted.steps, "hyper": hyper}


def scaler(windows: Sequences) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of each channel over the rows that the windows touch, each row once.

    Returns:
        Two (n_channels,) float32; the deviation of a constant channel is 1.
    """
    rows = windows.rows[windows.used_rows()]
    mean = rows.mean(axis=0, dtype=np.float64)
    spread = rows.std(axis=0, dtype=np.float64)
    spread = np.where(spread > _SMALL * np.maximum(1.0, np.abs(mean)), spread, 1.0)
    return mean.astype(np.float32), spread.astype(np.float32)


def scores(module: nn.Module, gather: Gather) -> Floats:
    """Score all windows of a gather: (n,) float32 from 0 to 1."""
    module.eval()
    with torch.inference_mode():
        parts = [
            torch.sigmoid(module(gather.batch(slice(first, first + SCORE_ROWS)))).cpu().numpy()
            for first in range(0, len(gather), SCORE_ROWS)
        ]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def prepared_device(name: str, threads: int) -> torch.device:
    """Make torch deterministic with this many threads and return the device.

    Raises:
        HostError: "cuda" is wanted and torch finds no usable card.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if name == "cuda" and not torch.cuda.is_available():
        raise HostError(
            f"the job is to run on cuda, but torch {torch.__version__} finds no usable card here; "
            "install a CUDA build of torch, or set cuda = false for this host in the manifest"
        )
    return torch.device(name)


def _device_of(module: Scaled) -> torch.device:
    return module.mean.device


class _Batch(NamedTuple):
    """What one step learns from."""

    starts: Tensor
    """(n,) row at which each window begins."""
    label: Tensor
    """(n,) float32, 1 anomalous, 0 normal."""
    weight: Tensor
    """(n,) float32, weight of each window in the loss."""


class _Loop:
    """The training loop between two looks at the validation windows, and everything a checkpoint must hold of it."""

    def __init__(self, module: Scaled, train: Samples[Sequences], setting: Setting, device: torch.device) -> None:
        self.module, self.setting, self.device = module, setting, device
        self.gather = Gather(train.inputs, device)
        self.label = torch.from_numpy(train.label.astype(np.float32)).to(device)
        self.weight = torch.where(self.label == 1, setting.number("positive_weight"), 1.0)
        # Listed once: to walk the modules for them costs as much as a layer of a small network.
        self.parameters = list(module.parameters())
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=setting.number("learning_rate"), weight_decay=setting.number("weight_decay")
        )
        self.half = device.type == "cuda" and bool(setting.hyper["mixed_precision"])
        self.precision = torch.autocast(device.type, torch.float16) if self.half else contextlib.nullcontext()
        self.loss_scale = torch.amp.GradScaler(device.type, enabled=self.half)
        self.epochs, self.step = 0, 0
        self.best, self.best_epoch, self.best_weights = -1.0, 0, _copied(module.state_dict())
        self.curve: list[dict[str, float]] = []
        self.loss_sum = torch.zeros((), device=device)
        drawn = min(len(train), setting.whole("epoch_windows"))
        self.steps_per_epoch = math.ceil(drawn / setting.whole("batch_rows"))

    @property
    def ended(self) -> bool:
        """Whether enough epochs are done or none of the last ones was better."""
        vain = self.epochs - self.best_epoch if self.epochs else 0
        return self.epochs >= self.setting.whole("max_epochs") or vain >= self.setting.whole("patience")

    def epoch(self) -> None:
        """Take the steps of one epoch, or those that are left of it after a resume."""
        self.module.train()
        for batch in self._batches():
            self._move(batch)
            self.step += 1
            if self.setting.checkpoint.due():
                self.setting.checkpoint.save(*self._state())

    def judge(self, validation: Samples[Sequences], score: Floats) -> None:
        """End an epoch with what the validation windows say.

        Raises:
            TrainerError: The loss is no number any more.
        """
        self.epochs, self.step = self.epochs + 1, 0
        loss = float(self.loss_sum) / self.steps_per_epoch
        if not (math.isfinite(loss) and np.isfinite(score).all()):
            raise TrainerError(
                f"the fit left the numbers in epoch {self.epochs} (loss {loss}); use a smaller learning_rate"
            )
        self.loss_sum.zero_()
        auprc = auprc_host_mean(validation.label, score, validation.host)
        self.curve.append({"step": self.epochs, "train_loss": loss, "validation_auprc": auprc})
        if auprc > self.best:
            self.best, self.best_epoch = auprc, self.epochs
            self.best_weights = _copied(self.module.state_dict())
        part = self.epochs / self.setting.whole("max_epochs")
        self.setting.report(part, {"validation_auprc": auprc, "train_loss": loss})

    def resume(self) -> None:
        """Go on where a checkpoint stopped; without one this is the beginning."""
        found = self.setting.checkpoint.load()
        if found is not None:
            self._restore(*found)

    def _batches(self) -> Iterator[_Batch]:
        """Yield the windows of each step that is left of this epoch; epoch and seed alone decide them."""
        random = np.random.default_rng([self.setting.seed, 3, self.epochs])
        drawn = min(len(self.gather), self.setting.whole("epoch_windows"))
        order = torch.from_numpy(random.permutation(len(self.gather))[:drawn]).to(self.device)
        # Looked up for the whole epoch at once: each lookup of a step costs tens of microseconds, whatever its size.
        drawn_parts = (of_all[order] for of_all in (self.gather.starts, self.label, self.weight))
        steps = (torch.split(part, self.setting.whole("batch_rows"))[self.step :] for part in drawn_parts)
        return map(_Batch, *steps)

    def _move(self, batch: _Batch) -> None:
        self._set_rate()
        self.optimiser.zero_grad(set_to_none=True)
        with self.precision:
            logit = self.module.network(self.gather.scaled(batch.starts, self.module))
        loss = nn.functional.binary_cross_entropy_with_logits(logit.float(), batch.label, batch.weight)
        self.loss_scale.scale(loss).backward()
        self.loss_scale.unscale_(self.optimiser)
        cut_gradients(self.parameters, self.setting.number("gradient_clip"))
        self.loss_scale.step(self.optimiser)
        self.loss_scale.update()
        self.loss_sum += loss.detach()

    def _set_rate(self) -> None:
        steps = self.steps_per_epoch * self.setting.whole("max_epochs")
        part = learning_rate_part(self.epochs * self.steps_per_epoch + self.step, steps)
        for group in self.optimiser.param_groups:
            group["lr"] = part * self.setting.number("learning_rate")

    def _state(self) -> tuple[Tensors, dict[str, Any]]:
        """Return everything the next steps depend on."""
        tensors = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_weights.items()}
        tensors |= {"random.cpu": torch.get_rng_state(), "loss_sum": self.loss_sum}
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in state.items()}
        numbers = {
            "epochs": self.epochs,
            "step": self.step,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "curve": self.curve,
            "loss_scale": self.loss_scale.state_dict(),
        }
        return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}, numbers

    def _restore(self, arrays: Tensors, numbers: Mapping[str, Any]) -> None:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self.module.load_state_dict(_below("module.", tensors))
        self.best_weights = {name: tensor.to(self.device) for name, tensor in _below("best.", tensors).items()}
        self.loss_sum.copy_(tensors["loss_sum"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("optimiser.", tensors).items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.epochs, self.step = int(numbers["epochs"]), int(numbers["step"])
        self.best, self.best_epoch = float(numbers["best"]), int(numbers["best_epoch"])
        self.curve = list(numbers["curve"])
        self.loss_scale.load_state_dict(numbers["loss_scale"])
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)


def cut_gradients(parameters: Sequence[Tensor], limit: float) -> None:
    """Cut the norm of all gradients together at a limit.

    The same kernels in the same order as `torch.nn.utils.clip_grad_norm_`, so the same bits, without what that does to
    be ready for sparse, absent and scattered gradients: a third of a small network's forward pass.
    """
    gradients = [parameter.grad for parameter in parameters]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    # A hair above the norm, as torch has it, so that gradients of 0 divide by no 0.
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))


def learning_rate_part(step: int, steps: int) -> float:
    """Return which part of the largest learning rate a step takes: a linear rise, then a cosine to 0.

    Args:
        step: From 0.
        steps: Steps of the whole fit, were it not to stop early.
    """
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
