"""The command lines of the commands that take results home: `get`, `card`, `open`, `predict`, `evaluate`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

from training.fleet.cli import card, getting, scoring
from training.fleet.model.jobs import MODES
from training.fleet.model.parts import RESULT_KINDS

_ABOUT: Final = "its first digits, its name, the first digits of an artifact, or `best`"


def add_commands(
    command: Callable[[str, str, object], argparse.ArgumentParser],
    results: Callable[[argparse._ActionsContainer], None],
) -> None:
    """Add the commands.

    Args:
        command: Makes a parser of a name, a line about it, and what it runs.
        results: Adds the options that choose results and the figure they are compared by.
    """

    def made(name: str, about: str, run: object, *own: Callable[[argparse.ArgumentParser], None]) -> None:
        sub = command(name, about, run)
        sub.add_argument("job", type=_result, metavar="JOB", help=_ABOUT)
        for add in own:
            add(sub)
        group = sub.add_argument_group("how `best` chooses")
        results(group)
        group.add_argument("--mode", choices=MODES, help="only results of this mode")

    about = "fetch a result: model card, figures, metrics and the model itself"
    made("get", about, getting.get, _get)
    made("card", "show the model card of a result", card.card)
    made("open", "fetch card and figures of a result and open them", card.open_result, _open)
    made("predict", "score telemetry with a stored model", scoring.predict, _predict)
    made("evaluate", "judge a stored model on labelled data", scoring.evaluate, _evaluate)


def _get(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for the files [MODEL_MODE_JOB]")
    kinds = ", ".join(RESULT_KINDS)
    sub.add_argument("--only", type=_kinds, metavar="KIND[,KIND]", help=f"only these files: {kinds}")
    sub.add_argument("--force", action="store_true", help="replace other files of the same names")
    sub.add_argument("--unpack", action="store_true", help="also unpack the bundle of the model")


def _open(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for the files [your cache]")


def _predict(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--data", required=True, metavar="FILE", help=".parquet or .csv; - reads the standard input")
    sub.add_argument("--out", metavar="FILE", help="scores, .parquet or .csv [CSV on the standard output]")
    _threshold(sub)
    sub.add_argument("--explain", metavar="N", help="name the N columns behind each alarm")


def _evaluate(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--data", required=True, metavar="DIR", help="dataset folder, which holds dataset.toml")
    _threshold(sub)


def _threshold(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--threshold", metavar="X", help="score that raises an alarm [the model's own]")


def _result(text: str) -> str:
    if not 1 <= len(text) <= 200 or not text.isprintable():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {_ABOUT}")
    return text


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(text.split(",")))
    for kind in kinds:
        if kind not in RESULT_KINDS:
            raise argparse.ArgumentTypeError(f"found {kind!r}, expected some of {', '.join(RESULT_KINDS)}")
    return kinds
