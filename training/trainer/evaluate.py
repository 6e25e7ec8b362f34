"""The program that judges a stored model on labelled data: `evaluate.py --bundle bundle.tar.zst --data DIR [--json]`.

Scores every window of a dataset folder and prints the numbers of the model card, as Markdown or as JSON.

A child process does the work, as in `predict`, and the exit statuses are the same.
"""

import sys
from pathlib import Path

if not __package__:
    # Started as a file: the project root replaces this folder, whose module names must not become top-level ones.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import training.trainer  # noqa: F401 - ends a Python that is too old, before it reads what is new to it

# isort: split
import argparse
import json
from collections.abc import Sequence
from typing import Any

from training.contracts.dataset import Dataset
from training.trainer.stored import child
from training.trainer.stored.options import add_bundle, add_threshold


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == [child.CHILD]:
        child.confine()
        return evaluated(_parser().parse_args(given[1:]))
    options = _parser().parse_args(given)
    return child.run(Path(__file__).resolve(), "evaluate", given, options.bundle.name)


def evaluated(options: argparse.Namespace) -> int:
    """Judge in this process and return the exit status."""

    def work() -> None:
        from training.trainer.stored.judging import judged

        document, dataset = judged(options.bundle, options.data, options.threshold)
        text = (
            json.dumps(document, indent=2, ensure_ascii=False) + "\n"
            if options.json
            else judged_text(document, dataset)
        )
        sys.stdout.write(text)
        sys.stdout.flush()

    return child.status_of("evaluate", work, extras="trainer", smaller="judge fewer hosts at a time")


def judged_text(document: dict[str, Any], dataset: Dataset) -> str:
    """Return the numbers as Markdown, in the tables of the card."""
    from training.trainer.artifact.card import cell, result_tables

    pooled = document["pooled"]
    lines = [f"# {cell(document['model'])}, {cell(document['mode'])} mode, on dataset {cell(dataset.name)}", ""]
    if document["trained_on_it"]:
        lines += ["> **Warning: the model was trained on this dataset**, so new data give lower numbers.", ""]
    lines += [
        f"{pooled['windows']:,} windows of {document['window_rows']} rows from {len(document['hosts'])} hosts, "
        f"{pooled['anomalous']:,} of them anomalous; {pooled['alarms']:,} alarms at the threshold "
        f"{document['threshold']:g}.",
        f"Data: `{document['dataset']['digest']}`",
        "",
    ]
    return "\n".join(lines) + "\n" + result_tables(document, dataset)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="training.trainer.evaluate", description="Judge a stored model on a labelled dataset folder."
    )
    add_bundle(parser)
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="dataset folder, which holds dataset.toml"
    )
    add_threshold(parser)
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
