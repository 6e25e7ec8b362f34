"""Owns the files a run leaves: the artifact folder and `result.json`, each appearing whole.

The artifact holds the model files, `model.json` (what `predict` needs), `metrics.json`, `model_card.md`,
`provenance.json`, `predictions.parquet` and, where matplotlib is installed, figures. It holds no time, duration, path
or process number: the same job on the same machine with the same threads gives the same bytes. The card, the figures
and the provenance are made by their own modules.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.contracts.dataset import Dataset
from training.needs import missing
from training.trainer.artifact.card import Facts, model_card
from training.trainer.artifact.provenance import provenance
from training.trainer.evaluation.measures import headline
from training.trainer.evaluation.scored_windows import Predictions, write_predictions
from training.trainer.exchange.job import Job
from training.trainer.experiment import Outcome
from training.trainer.files import sync, write_whole

FORMAT_VERSION = 1
LEAK_WARNING = (
    "The split `random` leaks: rows of one incident stand on both sides. "
    "These numbers are no measure of detection and look far better than any honest split."
)


def write_artifact(out: Path, job: Job, dataset: Dataset, digest: str, outcome: Outcome) -> None:
    """Write `out/artifact`, replacing an older one; it appears whole or not at all.

    Args:
        out: The run folder.
        job: The complete job.
        dataset: The declaration of its dataset.
        digest: Digest of the dataset's content.
        outcome: What the job produced.
    """
    partial = out / "artifact.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    document = metrics_document(job, digest, outcome)
    figures = _drawn(document, outcome.predictions)
    facts = Facts(job, dataset, document, outcome.threshold, list(figures))
    files = outcome.model.save(partial)
    write_json(partial / "model.json", model_description(job, dataset, digest, outcome, files))
    write_json(partial / "metrics.json", document)
    write_json(partial / "provenance.json", provenance(job, digest, outcome))
    write_whole(partial / "model_card.md", model_card(facts).encode())
    for name, content in figures.items():
        write_whole(partial / name, content)
    write_predictions(partial / "predictions.parquet", outcome.predictions, [fold["name"] for fold in outcome.folds])
    for path in sorted(partial.iterdir()):
        sync(path)
    sync(partial)
    shutil.rmtree(out / "artifact", ignore_errors=True)
    partial.rename(out / "artifact")
    sync(out)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file whole, keys in the given order, no NaN."""
    write_whole(path, (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def model_description(job: Job, dataset: Dataset, digest: str, outcome: Outcome, files: list[str]) -> dict[str, Any]:
    """Return what is needed to score new telemetry with the model, and to judge the alarms."""
    return {
        "v": FORMAT_VERSION,
        "model": job.model,
        "mode": job.mode,
        "files": files,
        "columns": list(dataset.features.columns(job.mode)),
        "categories": dataset.categories_of(job.mode),
        "host_column": dataset.roles.host,
        "time_column": dataset.roles.time,
        "window_rows": dataset.windows.length,
        "history": bool(job.hyper["history"]),
        "features": list(outcome.feature_names),
        "threshold": outcome.threshold,
        "validation_alarm_rate": outcome.validation_alarm_rate,
        "dataset_digest": digest,
    }


def metrics_document(job: Job, digest: str, outcome: Outcome) -> dict[str, Any]:
    """Return all numbers of a run, after what they depend on."""
    document: dict[str, Any] = {
        "v": FORMAT_VERSION,
        "dataset": {"name": job.dataset_name, "digest": digest},
        "split": job.split_recipe,
        "fold": int(job.hyper.get("fold", 0)),
        "seed": job.seed,
        "threads": job.threads,
        "device": outcome.device,
        "leaks": outcome.leaks,
    }
    if outcome.leaks:
        document["warning"] = LEAK_WARNING
    about = {"model": job.model, "mode": job.mode, "headline": headline(outcome.metrics)}
    return document | about | outcome.metrics | {"folds": outcome.folds}


def _drawn(document: Mapping[str, Any], predictions: Predictions) -> dict[str, bytes]:
    """Draw the figures; where matplotlib is not installed, say so and draw none, because no number depends on them."""
    # It warns that the home folder can't be written to, which is normal for a service and does no harm.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        from training.trainer.artifact.figures import Result, drawn
    except ImportError as error:
        sys.stderr.write(f"trainer: the bundle has no figures: {missing(error) or error}\n")
        return {}
    return drawn(Result(predictions, document))
