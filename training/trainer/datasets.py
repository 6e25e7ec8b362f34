"""The program for datasets: `python -m training.trainer.datasets import {smd,nslkdd,csv} ...` and `... show DIR`.

`import` turns public layouts and CSV files into a folder of the dataset contract and prints its digest and a short
summary. The folder must not exist or be empty, and appears whole. `show` reads a dataset folder as the trainer would
and prints what it holds.

Exit status 0: done. 75: something is missing on this host. 78: the data are wrong. 2: wrong usage.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training.trainer.stored.child import EXIT_INTERRUPTED, status_of

if TYPE_CHECKING:
    from training.trainer.data.imports.folder import Source

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MAX_WINDOW = 100_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)

    def work() -> None:
        for line in _shown(options) if options.command == "show" else _imported(options, parser):
            sys.stdout.write(line + "\n")

    try:
        return status_of("datasets", work, extras="trainer", smaller="import fewer hosts or columns")
    except KeyboardInterrupt:
        sys.stderr.write("datasets: stopped before the end; nothing was written\n")
        return EXIT_INTERRUPTED


def _shown(options: argparse.Namespace) -> Iterator[str]:
    from training.trainer.data.summary import summary_lines

    return summary_lines(options.folder)


def _imported(options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    from training.trainer.data.imports.folder import is_free, write_folder

    if not is_free(options.out):
        parser.error(f"{options.out} exists and is not an empty folder; name a new one")
    return write_folder(_source(options, parser), options.out).lines()


def _source(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Source:
    if options.layout == "smd":
        from training.trainer.data.imports.smd import smd_source

        return smd_source(options.source, options.machines, options.names, options.realistic)
    if options.layout == "nslkdd":
        from training.trainer.data.imports.nslkdd import nslkdd_source

        return nslkdd_source(options.source)
    return _csv_source(options, parser)


def _csv_source(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Source:
    from training.trainer.data.imports.plain_csv import Request, csv_source

    paths = _found(options.source)
    several = len(paths) > 1
    stem = paths[0].resolve().parent.name if several else paths[0].stem
    name = options.name or re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")
    if not _NAME.fullmatch(name):
        parser.error(f"--name: found {name!r}, expected 1 to 64 letters, digits, dots, dashes and underscores")
    if several and options.host is None and options.host_from is None:
        parser.error("several files need --host COL, or --host-from '{host}.csv' when the file names tell the hosts")
    if options.host is not None and options.host_from is not None:
        parser.error("--host and --host-from both name the host; give one of them")
    if options.host_from is not None and options.host_from.count("{host}") != 1:
        parser.error(f"--host-from: found {options.host_from!r}, expected {{host}} in it once, such as '{{host}}.csv'")
    if options.group is not None and options.host is None and options.host_from is None:
        parser.error("--group needs --host: a group is a group of hosts")
    request = Request(
        name=name,
        label=options.label,
        host=options.host,
        host_from=options.host_from,
        time=options.time,
        group=options.group,
        split=options.split,
        realistic=options.realistic,
        oracle=options.oracle,
        never=options.never,
        categorical=options.categorical,
        positive=_names(",".join(options.positive)),
        window=options.window,
    )
    return csv_source(paths, request)


def _found(sources: Sequence[Path]) -> list[Path]:
    """Return the files, each once; a name with `*` that no file has is a glob, for shells that leave it to programs."""
    found: list[Path] = []
    for source in sources:
        is_glob = not source.exists() and "*" in source.name
        found += (sorted(source.parent.glob(source.name)) or [source]) if is_glob else [source]
    return list(dict.fromkeys(found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="training.trainer.datasets", description="Import public data, and show datasets."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{import,show}")
    show = commands.add_parser("show", help="print hosts, rows, columns, labels, splits and digest of a dataset folder")
    show.add_argument("folder", type=Path, metavar="DIR", help="dataset folder, which holds dataset.toml")
    layouts = commands.add_parser("import", help="write a dataset folder").add_subparsers(
        dest="layout", required=True, metavar="{smd,nslkdd,csv}"
    )
    smd = _layout(layouts, "smd", "the folder ServerMachineDataset")
    smd.add_argument("--machines", nargs="+", default=[], metavar="GLOB", help="machines wanted, such as 'machine-1-*'")
    smd.add_argument("--names", type=Path, metavar="FILE", help="metric names, one a line; without it m00, m01 ...")
    smd.add_argument("--realistic", type=_names, default=(), metavar="A,B", help="metrics that an outsider can measure")
    _layout(layouts, "nslkdd", "the folder with KDDTrain+.txt and KDDTest+.txt")
    table = _layout(layouts, "csv", "CSV files with a header and the same columns")
    table.add_argument("--label", required=True, metavar="COL", help="1 for anomalous and 0 for normal, see --positive")
    table.add_argument("--host", metavar="COL", help="host of a row; without it all rows are of one host")
    table.add_argument(
        "--host-from", metavar="PATTERN", help="file names with {host} in them, such as 'lab-{host}.csv'"
    )
    table.add_argument("--time", metavar="COL", help="orders the rows of a host; without it file order is time order")
    table.add_argument("--group", metavar="COL", help="column that names the group of the host")
    table.add_argument("--split", metavar="COL", help="train or test, as the publishers marked the row")
    table.add_argument("--realistic", type=_names, default=(), metavar="A,B", help="what an outsider can measure")
    table.add_argument("--oracle", type=_names, default=(), metavar="A,B", help="what only the host itself can read")
    table.add_argument("--never", type=_names, default=(), metavar="A,B", help="columns to keep that are never inputs")
    table.add_argument("--categorical", type=_names, default=(), metavar="A,B", help="input columns that hold text")
    table.add_argument("--window", type=_rows, metavar="N", help="rows per window; 30, or 1 without host and time")
    table.add_argument("--positive", nargs="+", default=[], metavar="A,B", help="labels that mean anomalous")
    table.add_argument("--name", metavar="NAME", help="name of the dataset; without it that of the file or folder")
    return parser


def _layout(
    layouts: argparse._SubParsersAction[argparse.ArgumentParser], name: str, source: str
) -> argparse.ArgumentParser:
    parser = layouts.add_parser(name, help=f"from {source}")
    if name == "csv":
        parser.add_argument("source", type=Path, nargs="+", metavar="FILE", help=source)
    else:
        parser.add_argument("source", type=Path, metavar="SRC", help=source)
    parser.add_argument("out", type=Path, metavar="OUT", help="dataset folder to write; new or empty")
    return parser


def _names(text: str) -> tuple[str, ...]:
    """Split names by comma, each once."""
    return tuple(dict.fromkeys(name for name in text.split(",") if name))


def _rows(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MAX_WINDOW:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of rows from 1 to {_MAX_WINDOW}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
