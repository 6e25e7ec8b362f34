"""The child that reads a manifest for a receiver: `python -m training.fleet.manifest --rows PATH`.

Writes JSON lines to standard output, see `child`. Ends with 0 also when the manifest has faults: they are the answer.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from pathlib import Path

from training.fleet.manifest.child import write_faults, write_rows
from training.fleet.manifest.source import load
from training.fleet.model.errors import ManifestError


def main(argv: list[str]) -> int:
    """Read a manifest and write its rows or its faults.

    Args:
        argv: Arguments after the program's name.
    """
    parser = argparse.ArgumentParser(prog="python -m training.fleet.manifest")
    parser.add_argument("--rows", required=True, type=Path, metavar="PATH", help="the manifest to read")
    parser.add_argument("--base", type=Path, help="folder for the trainer's command and schema file")
    parser.add_argument("--no-trainer", action="store_true", help="start and read nothing that the manifest names")
    parser.add_argument("--schema-required", action="store_true", help="start no trainer, but read its schema file")
    parser.add_argument(
        "--trusted", type=_words, metavar="JSON", help="command of a trainer that is asked all the same"
    )
    options = parser.parse_args(argv)
    # Nothing is freed before the process ends, and looking for garbage among millions of objects doubles the time.
    gc.disable()
    try:
        manifest = load(
            options.rows,
            base=options.base,
            ask_trainer=not options.no_trainer,
            schema_required=options.schema_required,
            trusted=options.trusted,
        )
        write_rows(manifest, sys.stdout)
    except ManifestError as error:
        write_faults(error, sys.stdout)
    sys.stdout.flush()
    return 0


def _words(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
