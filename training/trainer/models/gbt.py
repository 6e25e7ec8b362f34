"""Gradient-boosted trees on window statistics, by LightGBM.

Deterministic on one machine with one thread count: fixed seeds, `deterministic`, row-wise histograms. The model file is
LightGBM's text format, which loads without running code. Training stops when the mean over hosts of the validation
AUPRC has not risen for `patience` rounds, and keeps the best round.

Source: Ke et al., LightGBM: A Highly Efficient Gradient Boosting Decision Tree, NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import lightgbm
import numpy as np

from training.trainer.data.telemetry import Floats
from training.trainer.data.windows import Samples
from training.trainer.evaluation.measures import auprc_host_mean
from training.trainer.models import InputShape, Setting
from training.trainer.models.stored_trees import checked

MODEL_FILE = "model.txt"
EVALUATE_EVERY = 10
"""Boosting rounds between two looks at the validation windows, each of which scores all of them."""


@dataclass(frozen=True, slots=True)
class Trees:
    """A trained ensemble."""

    booster: lightgbm.Booster
    fit_summary: Mapping[str, float] = field(default_factory=dict)
    threads: int = 1
    curve: tuple[Mapping[str, float], ...] = ()
    determinism: ClassVar[Mapping[str, bool]] = {"deterministic": True, "force_row_wise": True}

    def score(self, features: Floats) -> Floats:
        """Score windows: (n, n_features) float32 to (n,) float32 from 0 to 1."""
        scores = self.booster.predict(features, num_threads=self.threads)
        return np.asarray(scores, np.float32)

    def contributions(self, features: Floats) -> Floats:
        """Tell what each feature adds to the scores before they are squeezed between 0 and 1.

        Args:
            features: (n, n_features) float32.

        Returns:
            (n, n_features) float32 in log odds; above 0 pushes towards an alarm.

        Source: Lundberg, Erion and Lee, Consistent Individualized Feature Attribution for Tree Ensembles, 2018.
        """
        found = self.booster.predict(features, num_threads=self.threads, pred_contrib=True)
        return np.asarray(found, np.float32)[:, :-1]  # the last column is what the ensemble gives on average

    def save(self, folder: Path) -> list[str]:
        """Write the trees as text, without the machine-dependent list of parameters."""
        text = _without_parameters(self.booster.model_to_string())
        (folder / MODEL_FILE).write_text(text, encoding="utf-8", newline="\n")
        return [MODEL_FILE]


def fit(train: Samples[Floats], validation: Samples[Floats], setting: Setting) -> Trees:
    """Train trees and stop by the validation AUPRC."""
    weight = np.where(train.label == 1, setting.number("positive_weight"), 1.0)
    data = lightgbm.Dataset(train.inputs, train.label, weight=weight, feature_name=_plain(setting.feature_names))
    booster = lightgbm.Booster(_parameters(setting), data)
    rounds, best, best_round = setting.whole("max_iter"), -1.0, 0
    raw = np.zeros(len(validation), np.float64)
    done = 0
    curve: list[Mapping[str, float]] = []
    while done < rounds and done - best_round < setting.whole("patience"):
        step = min(EVALUATE_EVERY, rounds - done)
        stopped = any(booster.update() for _ in range(step))
        raw += booster.predict(validation.inputs, raw_score=True, start_iteration=done, num_iteration=step)
        done += step
        auprc = auprc_host_mean(validation.label, raw.astype(np.float32), validation.host)
        if auprc > best:
            best, best_round = auprc, done
        curve.append({"step": done, "validation_auprc": auprc, "train_loss": float(booster.eval_train()[0][2])})
        setting.report(done / rounds, {"validation_auprc": auprc})
        if stopped:
            break
    # Read back from text: it lets go of the training windows, and what is scored is what is stored.
    kept = lightgbm.Booster(model_str=_without_parameters(booster.model_to_string(num_iteration=best_round)))
    return Trees(kept, {"rounds": best_round, "validation_auprc": best}, setting.threads, tuple(curve))


def load(folder: Path, shape: InputShape) -> Trees:
    """Read saved trees.

    Raises:
        SpecError: The file is not as `save` writes it; LightGBM does not see it then.
    """
    return Trees(lightgbm.Booster(model_str=checked((folder / MODEL_FILE).read_bytes(), shape.width)))


def _plain(names: Sequence[str]) -> list[str]:
    """Encode names as in a URL, because LightGBM refuses the signs of JSON and turns blanks into underscores.

    It refuses equal names as well, which the columns `x` and `x.history` can give; then all names get numbers.
    """
    plain = [quote(name, safe="=") for name in names]
    return plain if len(set(plain)) == len(plain) else [f"{index}.{name}" for index, name in enumerate(plain)]


def _without_parameters(text: str) -> str:
    """Cut the parameters off a model text: they name thread counts and build defaults, and scoring ignores them."""
    return text.split("\nparameters:", maxsplit=1)[0] + "\n"


def _parameters(setting: Setting) -> dict[str, Any]:
    return {
        "objective": "binary",
        "learning_rate": setting.number("learning_rate"),
        "num_leaves": setting.whole("num_leaves"),
        "min_data_in_leaf": setting.whole("min_leaf_rows"),
        "lambda_l2": setting.number("l2"),
        "feature_fraction": setting.number("feature_fraction"),
        "bagging_fraction": setting.number("row_fraction"),
        "bagging_freq": 1,
        "seed": setting.seed % (2**31 - 1),  # LightGBM keeps it in 32 bits
        "num_threads": setting.threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
