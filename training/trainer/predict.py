"""The scoring program: `predict.py --bundle bundle.tar.zst --data FILE|- [--out scores.parquet|scores.csv]`.

Reads a stored model and telemetry in parquet or CSV, and writes one row per full window: host, time, score, alarm, and
on request the columns behind an alarm. One line on the standard error output says how much was scored and how many
alarms that gave.

A child process does the work, because a model that came from somewhere else may crash the libraries that score it.

Exit status 0: done. 70: the model crashed, or did not end in time. 75: something is missing on this host, or somebody
ended the child. 78: bundle or data are wrong. 2: wrong usage. 130: Ctrl-C. 141: the reader of the standard output
stopped early.
"""

import sys
from pathlib import Path

if not __package__:
    # Started as a file: the project root replaces this folder, whose module names must not become top-level ones.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import training.trainer  # noqa: F401 - ends a Python that is too old, before it reads what is new to it

# isort: split
import argparse
from collections.abc import Sequence

from training.trainer.files import partial_of
from training.trainer.stored import child
from training.trainer.stored.options import add_bundle, add_threshold

MAX_EXPLAINED = 100
"""Columns named behind an alarm; a person reads a handful."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == [child.CHILD]:
        child.confine()
        return scored(_options(given[1:]))
    options = _options(given)
    whole = False
    try:
        status = child.run(Path(__file__).resolve(), "predict", given, options.bundle.name)
        whole = status not in (child.EXIT_CRASHED, child.EXIT_KILLED, child.EXIT_INTERRUPTED)
    finally:
        if options.out is not None and not whole:
            # A child that was killed could not delete it.
            partial_of(options.out).unlink(missing_ok=True)
    return status


def scored(options: argparse.Namespace) -> int:
    """Score in this process and return the exit status."""

    def work() -> None:
        from training.trainer.stored.scoring import Wish, predict

        data = None if str(options.data) == "-" else options.data
        tally = predict(options.bundle, data, options.out, Wish(options.threshold, options.explain))
        sys.stderr.write(f"predict: {tally.line()}\n")

    return child.status_of("predict", work, extras="trainer", smaller="score fewer hosts at a time")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="training.trainer.predict", description="Score telemetry with a stored model."
    )
    add_bundle(parser)
    parser.add_argument(
        "--data", type=Path, required=True, help="telemetry, .parquet or .csv; - reads the standard input"
    )
    parser.add_argument("--out", type=Path, help="scores, .parquet or .csv; without it CSV on the standard output")
    add_threshold(parser)
    parser.add_argument("--explain", type=_count, default=0, metavar="N", help="name the N columns behind each alarm")
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_EXPLAINED:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number of columns from 1 to {MAX_EXPLAINED}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
