"""Owns the trainer's declaration: models, modes, splits, and every hyper-parameter with type, range and default.

Each hyper-parameter is declared here once. `--describe`, the check of a job, the manifest check and the table in the
docs all come from this declaration. Needs the standard library alone. The declaration says what this code can train;
which libraries a host lacks for a model is `missing_libraries`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.contracts.dataset import MODES, SPLIT_RECIPES

CONTRACT_VERSION = 1
TRAINER_NAME = "cis490"

Value = int | float | bool
_JSON_TYPES: dict[type, str] = {int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True, slots=True)
class Hyper:
    """One hyper-parameter of one model."""

    name: str
    """Key in a job's `hyper` table."""
    default: Value
    """Value when the job does not name it; its Python type is the type of the parameter."""
    meaning: str
    """What it does, in one sentence."""
    unit: str
    """Unit of the value; "1" for a pure number, "" for yes/no."""
    minimum: float | None = None
    """Smallest value allowed; None for yes/no."""
    maximum: float | None = None
    """Largest value allowed; None for yes/no."""

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the value."""
        kind = type(self.default)
        out: dict[str, Any] = {"type": _JSON_TYPES[kind]}
        if self.minimum is not None and self.maximum is not None:
            out |= {"minimum": self.minimum, "maximum": self.maximum}
        return out | {"default": self.default, "description": self.meaning, "x-unit": self.unit}

    def fault(self, value: object) -> str | None:
        """Say what is wrong with a value, or None when it is allowed.

        10.0 is a whole number, as in JSON Schema; true is no number.
        """
        kind = type(self.default)
        if kind is bool:
            return None if isinstance(value, bool) else f"found {value!r}, expected true or false"
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and self._inside(value)
        if fits and (kind is float or float(value) == int(value)):  # type: ignore[arg-type, call-overload]
            return None
        return f"found {value!r}, expected {_JSON_TYPES[kind]} from {self.minimum} to {self.maximum}"

    def _inside(self, value: float) -> bool:
        return self.minimum is not None and self.maximum is not None and self.minimum <= value <= self.maximum


@dataclass(frozen=True, slots=True)
class ModelDeclaration:
    """One model that this trainer can train."""

    name: str
    """Name in a job's `model`; also the module under `training/trainer/models`."""
    title: str
    """What it is, in a few words."""
    inputs: str
    """What it sees of a window: "statistics" (numbers computed over it) or "sequences" (its rows)."""
    libraries: tuple[str, ...]
    """Import names that a host needs to train it."""
    hypers: tuple[Hyper, ...]
    """Its hyper-parameters, in the order of the docs."""


_HISTORY = Hyper(
    "history",
    True,
    "Adds every metric standardised by the host's own past up to that row, beside the plain metric.",
    "",
)
_FOLD = Hyper(
    "fold",
    0,
    "Trains and tests this fold of the split alone, counted from 1; 0 takes every fold, and where there are several "
    "keeps one more model, trained on all allowed hosts.",
    "1",
    0,
    1000,
)


def _positive_weight(default: float) -> Hyper:
    meaning = "Weight of an anomalous window in the loss; a normal one weighs 1."
    return Hyper("positive_weight", default, meaning, "1", 0.01, 1000.0)


_FLAT = (
    _HISTORY,
    Hyper(
        "train_stride", 0, "Trains on every n-th window; 0 picks n so that 100,000 windows remain.", "rows", 0, 10000
    ),
    _positive_weight(1.0),
    _FOLD,
)


def _sequence(name: str, title: str, own: tuple[Hyper, ...], *, dropout: float) -> ModelDeclaration:
    """Return the declaration of a torch model, its own parameters first and then what the training loop takes."""
    loop = (
        Hyper("patch", 3, "Rows merged into one step by a learned projection; 1 keeps every row.", "rows", 1, 1000),
        Hyper("patch_width", 32, "Channels after merging; without merging it has no effect.", "channels", 1, 4096),
        Hyper("dropout", dropout, "Part of the hidden units switched off in each step.", "1", 0.0, 0.95),
        Hyper("max_epochs", 8, "Epochs at most; early stopping may end sooner.", "epochs", 1, 10000),
        Hyper(
            "epoch_windows",
            16000,
            "Training windows drawn at random for an epoch, and validation windows looked at after it, at most.",
            "windows",
            16,
            100000000,
        ),
        Hyper("batch_rows", 64, "Windows per step.", "windows", 1, 65536),
        Hyper(
            "learning_rate",
            0.001,
            "Largest step size of AdamW; it rises over the first twentieth of the steps and falls to 0 as a cosine.",
            "1",
            0.000001,
            1.0,
        ),
        Hyper("weight_decay", 0.01, "Decoupled weight decay per step, times the learning rate.", "1", 0.0, 10.0),
        Hyper("gradient_clip", 1.0, "The gradient's norm is cut at this.", "1", 0.001, 1000.0),
        Hyper("clip", 5.0, "Scaled metrics are cut at plus and minus this.", "standard deviations", 0.5, 1000.0),
        Hyper("patience", 3, "Epochs without a better validation AUPRC before it stops.", "epochs", 1, 10000),
        Hyper(
            "mixed_precision", False, "Computes in 16 bits where that is safe; on CUDA alone, ignored on the CPU.", ""
        ),
        _HISTORY,
        _positive_weight(3.0),
        _FOLD,
    )
    libraries = ("numpy", "pyarrow", "sklearn", "safetensors", "torch")
    return ModelDeclaration(name, title, "sequences", libraries, own + loop)


_LAYERS = "Layers, one on the other."

MODELS: dict[str, ModelDeclaration] = {
    model.name: model
    for model in (
        ModelDeclaration(
            "gbt",
            "gradient-boosted trees (LightGBM) on window statistics",
            "statistics",
            ("numpy", "pyarrow", "sklearn", "lightgbm"),
            (
                Hyper("max_iter", 200, "Boosting rounds at most; early stopping may end sooner.", "rounds", 1, 10000),
                Hyper("learning_rate", 0.1, "Shrinkage of each tree.", "1", 0.0001, 1.0),
                Hyper("num_leaves", 15, "Leaves per tree at most.", "leaves", 2, 1024),
                Hyper("min_leaf_rows", 50, "Training windows per leaf at least.", "rows", 1, 100000),
                Hyper("l2", 10.0, "L2 penalty on leaf values.", "1", 0.0, 10000.0),
                Hyper("feature_fraction", 0.3, "Part of the features that each tree may use.", "1", 0.01, 1.0),
                Hyper("row_fraction", 0.5, "Part of the training windows that each tree sees.", "1", 0.01, 1.0),
                Hyper("patience", 100, "Rounds without a better validation AUPRC before it stops.", "rounds", 1, 10000),
                *_FLAT,
            ),
        ),
        ModelDeclaration(
            "mlp",
            "multi-layer perceptron (numpy, no torch) on window statistics",
            "statistics",
            ("numpy", "pyarrow", "sklearn", "safetensors"),
            (
                Hyper(
                    "hidden",
                    64,
                    "Units of the first hidden layer; each further layer has half of it.",
                    "units",
                    1,
                    4096,
                ),
                Hyper("layers", 2, "Hidden layers.", "layers", 1, 6),
                Hyper("max_epochs", 12, "Passes over the training windows at most.", "epochs", 1, 1000),
                Hyper("learning_rate", 0.001, "Step size of Adam.", "1", 0.000001, 1.0),
                Hyper("batch_rows", 256, "Windows per step.", "rows", 1, 65536),
                Hyper("dropout", 0.3, "Part of the hidden units switched off in each step.", "1", 0.0, 0.95),
                Hyper(
                    "weight_decay", 0.01, "Decoupled weight decay per step, times the learning rate.", "1", 0.0, 10.0
                ),
                Hyper(
                    "clip", 5.0, "Scaled features are cut at plus and minus this.", "standard deviations", 0.5, 1000.0
                ),
                Hyper("patience", 3, "Epochs without a better validation AUPRC before it stops.", "epochs", 1, 1000),
                *_FLAT,
            ),
        ),
        _sequence(
            "cnn",
            "1-D convolutional network (torch) on windows",
            (
                Hyper("hidden", 32, "Channels of each convolution.", "channels", 1, 4096),
                Hyper("layers", 2, "Convolutions, one on the other.", "layers", 1, 12),
                Hyper("kernel", 5, "Rows that a convolution sees at once.", "rows", 1, 255),
            ),
            dropout=0.3,
        ),
        _sequence(
            "gru",
            "gated recurrent units (torch) on windows",
            (
                Hyper("hidden", 32, "Units of each layer.", "units", 1, 4096),
                Hyper("layers", 1, _LAYERS, "layers", 1, 12),
            ),
            dropout=0.3,
        ),
        _sequence(
            "lstm",
            "long short-term memory (torch) on windows",
            (
                Hyper("hidden", 32, "Units of each layer.", "units", 1, 4096),
                Hyper("layers", 1, _LAYERS, "layers", 1, 12),
            ),
            dropout=0.3,
        ),
        _sequence(
            "tcn",
            "temporal convolutional network (torch) on windows",
            (
                Hyper("hidden", 32, "Channels of each block.", "channels", 1, 4096),
                Hyper("layers", 2, "Residual blocks; each doubles the dilation of the one before.", "blocks", 1, 12),
                Hyper("kernel", 3, "Rows that a convolution sees at once, before dilation.", "rows", 2, 255),
            ),
            dropout=0.2,
        ),
        _sequence(
            "transformer",
            "Transformer encoder (torch) on windows",
            (
                Hyper("heads", 4, "Attention heads.", "heads", 1, 64),
                Hyper("head_width", 8, "Width of each head; that of the encoder is their sum.", "units", 1, 512),
                Hyper("layers", 2, "Encoder layers.", "layers", 1, 24),
            ),
            dropout=0.2,
        ),
    )
}


def describe() -> dict[str, Any]:
    """Return the declaration as a JSON Schema document (draft 2020-12).

    The keys stand in a fixed order. `$defs` holds one object schema per model, for a job's `hyper` table.

    Source: JSON Schema, draft 2020-12, json-schema.org/draft/2020-12.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Parameters of the trainer {TRAINER_NAME}",
        "trainer": {"name": TRAINER_NAME, "contract": CONTRACT_VERSION},
        "headline_metric": {"name": "auprc_host_mean", "direction": "higher"},
        "type": "object",
        "properties": {
            "mode": {"enum": list(MODES)},
            "split_recipe": {"enum": list(SPLIT_RECIPES)},
            "model": {"enum": list(MODELS)},
        },
        "$defs": {name: _model_schema(model) for name, model in MODELS.items()},
    }


def contract_digest(description: Mapping[str, Any]) -> str:
    """Compute the digest of a declaration, whatever trainer wrote it.

    Args:
        description: What `--describe` printed, parsed.

    Returns:
        "sha256:" and 64 hex digits over the declaration as JSON with sorted keys and no spaces. `headline_metric` is
        left out: it says how results are shown and not what is trained.
    """
    trained = {key: value for key, value in description.items() if key != "headline_metric"}
    text = json.dumps(trained, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def completed_hyper(model: str, hyper: Mapping[str, object]) -> tuple[dict[str, Value], list[str]]:
    """Fill in the defaults of a job's hyper-parameters and list what is wrong with those it names.

    Args:
        model: A name in `MODELS`.
        hyper: The job's `hyper` table.

    Returns:
        Every parameter of the model with its value, in declared order, and one line per fault.
    """
    declared = {item.name: item for item in MODELS[model].hypers}
    faults = [_unknown(model, key, list(declared)) for key in hyper if key not in declared]
    values: dict[str, Value] = {}
    for name, item in declared.items():
        value = hyper.get(name, item.default)
        fault = item.fault(value)
        if fault:
            faults.append(f"hyper.{name}: {fault}")
        else:
            values[name] = type(item.default)(value)  # type: ignore[call-overload, arg-type]
    return values, faults


def missing_libraries(model: str) -> list[str]:
    """Return the import names that this Python lacks for a model, without importing any."""
    return [name for name in MODELS[model].libraries if importlib.util.find_spec(name) is None]


def hyper_table() -> str:
    """Return the hyper-parameters of all models as Markdown, for the reference page."""
    lines: list[str] = []
    for model in MODELS.values():
        lines += [f"### Parameters of {model.name}", "", f"{model.title[0].upper()}{model.title[1:]}.", ""]
        lines += ["| name | type | range | default | unit | meaning |", "|---|---|---|---|---|---|"]
        lines += [_table_row(item) for item in model.hypers] + [""]
    return "\n".join(lines)


def _table_row(item: Hyper) -> str:
    schema = item.schema()
    span = f"{schema['minimum']} to {schema['maximum']}" if "minimum" in schema else "true, false"
    cells = (f"`{item.name}`", schema["type"], span, json.dumps(item.default), item.unit or "-", item.meaning)
    return f"| {' | '.join(cells)} |"


def _model_schema(model: ModelDeclaration) -> dict[str, Any]:
    return {
        "type": "object",
        "description": model.title,
        "x-inputs": model.inputs,
        "x-libraries": list(model.libraries),
        "additionalProperties": False,
        "properties": {item.name: item.schema() for item in model.hypers},
    }


def _unknown(model: str, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
    return f"hyper.{key}: {model} has no such parameter, nearest is {near}; it has {', '.join(known)}"
