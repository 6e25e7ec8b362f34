"""The registry of models: each is one module here, named in `training.trainer.hyper`, and loaded only when it is used.

A model module offers two functions:

- `fit(train, validation, setting) -> Fitted` trains on samples and stops by the validation AUPRC;
- `load(folder, shape) -> Fitted` reads what `Fitted.save` wrote, in a format that runs no code, and takes nothing else.

The torch models hold a network each and share `networks` for both. A new model is a new module and one
entry in `hyper.MODELS`; nothing else changes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from training.trainer.data.windows import Samples
from training.trainer.exchange.checkpoint import FitCheckpoint
from training.trainer.hyper import Value

Report = Callable[[float, Mapping[str, float]], None]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a fit is told beside its samples."""

    hyper: Mapping[str, Value]
    """Every declared parameter of the model."""
    feature_names: tuple[str, ...]
    """Names of the feature columns, in order."""
    seed: int
    """Decides everything random in the fit."""
    threads: int
    """Threads to use."""
    device: str
    """"cpu" or "cuda"; models without torch use the CPU in any case."""
    checkpoint: FitCheckpoint
    """Where a long fit saves itself and finds what an earlier run saved."""
    report: Report
    """Called with the part done (0 to 1) and numbers worth showing."""

    def number(self, name: str) -> float:
        """Return a hyper-parameter as a float."""
        return float(self.hyper[name])

    def whole(self, name: str) -> int:
        """Return a hyper-parameter as an int."""
        return int(self.hyper[name])


@dataclass(frozen=True, slots=True)
class InputShape:
    """What a stored model is asked to score; its file is held to this."""

    model: str
    """Name in `hyper.MODELS`."""
    width: int
    """Features of a window, or channels of a row."""
    steps: int
    """Rows of a window."""


class Fitted(Protocol):
    """A trained model."""

    def score(self, inputs: Any) -> npt.NDArray[np.float32]:
        """Score windows, given as `windows.model_inputs` gives them: (n,) float32, 0 to 1, higher is more anomalous."""

    def save(self, folder: Path) -> list[str]:
        """Write the model files, the same bytes for the same model, and return their names."""

    @property
    def fit_summary(self) -> Mapping[str, float]:
        """What the fit ended with, such as rounds and best validation AUPRC; for the record."""

    @property
    def curve(self) -> Sequence[Mapping[str, float]]:
        """How the fit went, one entry per evaluation; empty for a model that was loaded.

        An entry has "step" (rounds or epochs), "validation_auprc" (0 to 1) and, where known, "train_loss" (nats).
        """


class ModelModule(Protocol):
    """What a module under `models` offers."""

    def fit(self, train: Samples[Any], validation: Samples[Any], setting: Setting) -> Fitted:
        """Train a model."""

    def load(self, folder: Path, shape: InputShape) -> Fitted:
        """Read a saved model; a file that is not as `save` writes it, for inputs of this shape, is refused."""


def model_module(name: str) -> ModelModule:
    """Import the module of a declared model; its libraries are needed from here on."""
    return cast(ModelModule, importlib.import_module(f"{__name__}.{name}"))
