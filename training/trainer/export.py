"""The export program: `export.py --bundle bundle.tar.zst --out model.onnx [--data FILE]`.

Writes a stored model as ONNX and reports how close its scores are to the original's. A file whose scores differ by more
than 1e-5 is not written.

A child process does the work, as in `predict`.

Exit status 0: done. 1: the scores differ. 70: the model crashed, or did not end in time. 75: something is missing on
this host, or somebody ended the child. 78: bundle or data are wrong. 2: wrong usage. 130: Ctrl-C.
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

from training.trainer.stored import child
from training.trainer.stored.options import add_bundle


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == [child.CHILD]:
        child.confine()
        return exported(_parser().parse_args(given[1:]))
    options = _parser().parse_args(given)
    return child.run(Path(__file__).resolve(), "export", given, options.bundle.name)


def exported(options: argparse.Namespace) -> int:
    """Export in this process and return the exit status."""

    def work() -> None:
        from training.trainer.stored.onnx_export import export

        largest, count = export(options.bundle, options.out, options.data)
        sys.stdout.write(f"{options.out}: differs by at most {largest:.1e} on {count} windows\n")

    return child.status_of("export", work, extras="trainer,onnx", smaller="compare on fewer hosts")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="training.trainer.export", description="Write a stored model as ONNX.")
    add_bundle(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write, .onnx")
    parser.add_argument("--data", type=Path, metavar="FILE", help="telemetry to compare on as well, .parquet or .csv")
    return parser


if __name__ == "__main__":
    sys.exit(main())
