"""The scoring program: `predict.py --bundle bundle.tar.zst --data FILE|- [--out scores.parquet|scores.csv]`.

Reads a stored model and telemetry in parquet or CSV, and writes one row per full window: host, time, score, alarm.

A child process does the work, because a model that came from somewhere else may crash the libraries that score it.

Exit status 0: done. 70: the model crashed, or did not end in time. 75: something is missing on this host, or somebody
ended the child. 78: bundle or data are wrong. 2: wrong usage. 130: Ctrl-C. 141: the reader of the standard output
stopped early.
"""

import sys
from pathlib import Path

if not __package__:
    # Started as a file: the project root stands in for this folder, whose module names must not become top-level ones.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import training.trainer  # noqa: F401 - ends a Python that is too old, before it reads what is new to it

# isort: split
import argparse
import os
from collections.abc import Sequence

from training.needs import installing
from training.trainer.faults import HostError, TrainerError
from training.trainer.files import partial_of
from training.trainer.stored import child

EXIT_CLOSED = 141
"""The standard output was closed before all scores were written, as by `head`."""


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
            # A child that was ended had no time for it.
            partial_of(options.out).unlink(missing_ok=True)
    return status


def scored(options: argparse.Namespace) -> int:
    """Score in this process and return the exit status."""
    try:
        from training.trainer.stored.scoring import predict

        predict(options.bundle, None if str(options.data) == "-" else options.data, options.out)
    except TrainerError as fault:
        return _refused(str(fault), fault.exit_status)
    except ImportError as fault:
        return _refused(f"{fault}; {installing('trainer')}", HostError.exit_status)
    except BrokenPipeError:
        # Who reads the scores has seen enough; without this Python complains when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_CLOSED
    except MemoryError:
        return _refused("memory ran out; score fewer hosts at a time", HostError.exit_status)
    except OSError as fault:
        return _refused(f"{fault}; check the paths and the free space", HostError.exit_status)
    return 0


def _refused(message: str, status: int) -> int:
    sys.stderr.write(f"predict: {message}\n")
    return status


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="training.trainer.predict", description="Score telemetry with a stored model."
    )
    parser.add_argument("--bundle", type=Path, required=True, help="bundle.tar.zst or an artifact folder")
    parser.add_argument(
        "--data", type=Path, required=True, help="telemetry, .parquet or .csv; - reads the standard input"
    )
    parser.add_argument("--out", type=Path, help="scores, .parquet or .csv; without it CSV on the standard output")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
