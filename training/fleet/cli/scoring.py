"""The commands `predict` and `evaluate`: a stored model, fetched once and used by the trainer's programs."""

from __future__ import annotations

import os
from pathlib import Path

from training.fleet.cli import programs
from training.fleet.cli.commands import Call
from training.fleet.cli.getting import bring, chosen
from training.fleet.cli.model_cache import ModelCache
from training.fleet.cli.wanted import wanted


def predict(call: Call) -> int:
    """Score telemetry with a model of the receiver; return what the trainer's program returned."""
    given = call.options
    arguments = [f"--data={given.data}", *_option("--out", given.out), *_option("--threshold", given.threshold)]
    return _with_model(call, "predict", [*arguments, *_option("--explain", given.explain)])


def evaluate(call: Call) -> int:
    """Judge a model of the receiver on labelled data; return what the trainer's program returned."""
    given = call.options
    arguments = [f"--data={given.data}", *_option("--threshold", given.threshold)]
    return _with_model(call, "evaluate", [*arguments, *(["--json"] if call.console.as_json else [])])


def _option(flag: str, value: object) -> list[str]:
    # With "=" so that a value that begins with a dash is no option.
    return [] if value is None else [f"{flag}={value}"]


def _with_model(call: Call, name: str, arguments: list[str]) -> int:
    result = wanted(call)
    cache = ModelCache.of_user(os.environ)
    entry = cache.entry(result.artifact)
    # A wrong file in the cache is of nobody, so it is replaced.
    bundle: Path = bring(call, chosen(result, ("model",)), entry, force=True)[0].path
    cache.shrink(entry)
    call.remote.close()
    program = programs.demand(name, f"the bundle is at {bundle}")
    return programs.run(program, ["--bundle", str(bundle), *arguments])
