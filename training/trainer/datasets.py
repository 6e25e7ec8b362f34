"""The import program: `python -m training.trainer.datasets import {smd,nslkdd,csv} ...`.

Turns public layouts into a folder of the dataset contract and prints its digest and a short summary. The folder must
not exist or be empty, and appears whole.

Exit status 0: done. 75: something is missing on this host. 78: the data are wrong. 2: wrong usage.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training.needs import installing
from training.trainer.faults import HostError, TrainerError

if TYPE_CHECKING:
    from training.trainer.data.imports.folder import Source

EXIT_INTERRUPTED = 130
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MAX_WINDOW = 100_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        from training.trainer.data.imports.folder import is_free, write_folder

        if not is_free(options.out):
            parser.error(f"{options.out} is there already and not an empty folder; name a new one")
        for line in write_folder(_source(options, parser), options.out).lines():
            sys.stdout.write(line + "\n")
    except KeyboardInterrupt:
        return _refused("stopped before the end; nothing was written", EXIT_INTERRUPTED)
    except TrainerError as fault:
        return _refused(str(fault), fault.exit_status)
    except ImportError as fault:
        return _refused(f"{fault}; {installing('trainer')}", HostError.exit_status)
    except MemoryError:
        return _refused("memory ran out; import fewer hosts or columns", HostError.exit_status)
    except OSError as fault:
        return _refused(f"{fault}; check the paths and the free space", HostError.exit_status)
    return 0


def _refused(message: str, status: int) -> int:
    sys.stderr.write(f"datasets: {message}\n")
    return status


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

    name = options.name or re.sub(r"[^A-Za-z0-9_-]+", "-", options.source.stem).strip("-_")
    if not _NAME.fullmatch(name):
        parser.error(f"--name: found {name!r}, expected 1 to 64 letters, digits, dots, dashes and underscores")
    if options.group is not None and options.host is None:
        parser.error("--group needs --host: a group is a group of hosts")
    request = Request(
        name=name,
        label=options.label,
        host=options.host,
        time=options.time,
        group=options.group,
        split=options.split,
        realistic=options.realistic,
        oracle=options.oracle,
        never=options.never,
        categorical=options.categorical,
        positive=tuple(options.positive),
        window=options.window,
    )
    return csv_source(options.source, request)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="training.trainer.datasets", description="Import public data.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="import")
    layouts = commands.add_parser("import", help="write a dataset folder").add_subparsers(
        dest="layout", required=True, metavar="{smd,nslkdd,csv}"
    )
    smd = _layout(layouts, "smd", "the folder ServerMachineDataset")
    smd.add_argument("--machines", nargs="+", default=[], metavar="GLOB", help="machines wanted, such as 'machine-1-*'")
    smd.add_argument("--names", type=Path, metavar="FILE", help="names of the metrics, one a line; else m00, m01 ...")
    smd.add_argument("--realistic", type=_names, default=(), metavar="A,B", help="metrics that an outsider sees")
    _layout(layouts, "nslkdd", "the folder with KDDTrain+.txt and KDDTest+.txt")
    table = _layout(layouts, "csv", "a CSV file with a header")
    table.add_argument("--label", required=True, metavar="COL", help="1 for anomalous and 0 for normal, see --positive")
    table.add_argument("--host", metavar="COL", help="host of a row; without it all rows belong to one")
    table.add_argument("--time", metavar="COL", help="orders the rows of a host; without it file order is time order")
    table.add_argument("--group", metavar="COL", help="group of the host")
    table.add_argument("--split", metavar="COL", help="train or test, as the publishers say")
    table.add_argument("--realistic", type=_names, default=(), metavar="A,B", help="what an outsider sees")
    table.add_argument("--oracle", type=_names, default=(), metavar="A,B", help="what only the host itself knows")
    table.add_argument("--never", type=_names, default=(), metavar="A,B", help="kept, but no inputs")
    table.add_argument("--categorical", type=_names, default=(), metavar="A,B", help="inputs that hold text")
    table.add_argument("--window", type=_rows, metavar="N", help="rows per window; 30, or 1 without host and time")
    table.add_argument("--positive", nargs="+", default=[], metavar="VALUE", help="labels that mean anomalous")
    table.add_argument("--name", metavar="NAME", help="name of the dataset; else the file's")
    return parser


def _layout(
    layouts: argparse._SubParsersAction[argparse.ArgumentParser], name: str, source: str
) -> argparse.ArgumentParser:
    parser = layouts.add_parser(name, help=f"from {source}")
    parser.add_argument("source", type=Path, metavar="FILE" if name == "csv" else "SRC", help=source)
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
